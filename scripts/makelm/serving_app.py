"""The HTTP side of a served model: its paths, and who may ask."""

import asyncio
import base64
import hashlib
import hmac
import re
import time
import uuid
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import SplitResult, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from makelm import serving_requests
from makelm.serving_errors import ApiError
from makelm.serving_replies import LEFT, PLAIN, Reply, failed, reply
from makelm.serving_service import Service

BODY_SECONDS = 20  # until a request's body is here
CONNECTIONS = 900  # open files are few (ulimit -n is often 1,024)
OPEN = ("/", "/health")  # without a token
POLLED = ("/health", "/metrics")  # so often that the log would be full of them
CLOSE = {"Connection": "close"}


def make_app(service: Service) -> ASGIApp:
    """Returns the application."""

    @asynccontextmanager
    async def life(_):
        service.writer.begin()
        yield
        service.writer.stop()

    paths = {
        "/": (page, "GET"),
        "/health": (health, "GET"),
        "/metrics": (metrics, "GET"),
        "/v1/models": (models, "GET"),
        "/v1/models/{name:path}": (model, "GET"),
        "/v1/completions": (completions, "POST"),
    }
    routes = [Route(path, partial(answer, service), methods=[method]) for path, (answer, method) in paths.items()]
    app = Starlette(
        routes=routes,
        lifespan=life,
        middleware=[
            *([Middleware(CORSMiddleware, **cross_origin(service))] if service.origins else []),
            Middleware(Guard, service=service),
        ],
        exception_handlers={ApiError: told, HTTPException: told_plainly, Exception: told_nothing},
    )
    app.router.redirect_slashes = False
    return app


def cross_origin(service: Service) -> dict:
    """Returns what other pages may do."""
    # clients say in headers of their own what they are, and read when to ask again
    headers = {"allow_headers": ["*"], "expose_headers": ["Retry-After", "X-Request-Id", "X-Should-Retry"]}
    return {"allow_origins": service.origins, "allow_methods": ["GET", "POST"]} | headers


# ---- errors


async def told(_: Request, error: ApiError) -> Response:
    return failed(error)


async def told_plainly(request: Request, error: HTTPException) -> Response:
    """Returns the answer to a path or a method that is not there."""
    messages = {404: f"{request.url.path} is not here; a model is asked at /v1/completions"}
    message = messages.get(error.status_code, f"{request.method} {request.url.path}: {error.detail.lower()}")
    return failed(ApiError(error.status_code, message, headers=error.headers))


async def told_nothing(*_) -> Response:
    """Returns the answer to a request that a bug ended; the traceback is in the log."""
    return failed(ApiError(500, "the server made a mistake; its log says which"))


# ---- who may ask


class Guard:
    """Lets in whom it should, puts a name on each request, and writes a line about it: never what was asked."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["state"] |= {"id": uuid.uuid4().hex, "status": LEFT}
        started = time.monotonic()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", scope["state"]["id"].encode())]
            await send(message)

        try:
            check(self.service, Request(scope))
            await self.app(scope, receive, noted)
        except ApiError as error:
            await failed(error)(scope, receive, noted)
        except Exception:
            scope["state"]["status"] = 500
            raise
        finally:
            self.note(scope, time.monotonic() - started)

    def note(self, scope: Scope, seconds: float) -> None:
        """Counts a request and logs it."""
        state, path = scope["state"], scope["path"]
        known = path in (f"/v1/models/{self.service.id}", *(route.path for route in scope["app"].routes))
        self.service.metrics.requests.labels(path if known else "other", str(state["status"])).inc()
        if path not in POLLED:
            who, tokens = scope["client"][0] if scope["client"] else "-", state.get("tokens", "")
            self.service.log(f"{who} {scope['method']} {printable(path)} {state['status']} {seconds:.2f} s{tokens}")


def printable(path: str) -> str:
    """Returns a path that is short and one line."""
    return path[:100].encode("unicode_escape").decode()


def check(service: Service, request: Request) -> None:
    """Raises ApiError where a request may not be answered."""
    connection = request.state.connection
    if len(connection.connections) > CONNECTIONS:
        raise ApiError(503, "too many connections", code="busy", headers={"Retry-After": "1", **CLOSE})
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    # a name that someone made point here would let their page ask
    if service.hosts is not None and parts(f"//{host}").hostname not in service.hosts:
        raise ApiError(403, f"this server is not called {host!r}; --allow-origin names a host", code="unknown_host")
    # browsers send some requests of other pages without asking first
    if origin and origin not in service.origins and parts(origin).netloc != host:
        raise ApiError(403, f"pages of {origin} may not ask; --allow-origin lets them", code="unknown_origin")
    if service.token is not None and request.url.path not in OPEN:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), service.token.encode()):
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "a token is needed: Authorization: Bearer ...", None, "invalid_api_key", challenge)


def parts(address: str) -> SplitResult:
    """Returns the parts of an address, none where it is no address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


# ---- paths


async def page(service: Service, request: Request) -> Response:
    return Response(
        service.page, headers=PLAIN | {"Content-Security-Policy": policy(service.page)}, media_type="text/html"
    )


def policy(page: str) -> str:
    """Returns what a page may do: run its own script and style, and ask this server."""

    def sums(element: str) -> str:
        found = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    own = f"script-src {sums('script')}; style-src {sums('style')}; connect-src 'self'; img-src 'self' data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def health(service: Service, request: Request) -> Response:
    ready = service.writer.state == "ready" and service.writer.is_alive()
    return reply({"status": service.writer.state}, 200 if ready else 503)


async def metrics(service: Service, request: Request) -> Response:
    return Response(service.metrics.text(), headers=PLAIN, media_type="text/plain; version=0.0.4; charset=utf-8")


async def models(service: Service, request: Request) -> Response:
    return reply({"object": "list", "data": [service.model]})


async def model(service: Service, request: Request) -> Response:
    if request.path_params["name"] != service.id:
        raise unknown(service, request.path_params["name"])
    return reply(service.model)


def unknown(service: Service, name: str) -> ApiError:
    return ApiError(404, f"the model {name!r} is not here; {service.id!r} is", "model", "model_not_found")


async def completions(service: Service, request: Request) -> ASGIApp:
    try:
        body = serving_requests.parse(await body_of(request, service.limits.body))
    except ClientDisconnect:
        return Response(status_code=LEFT)
    if body.model not in (None, service.id):
        raise unknown(service, body.model)
    # a long text takes a while: others go on meanwhile
    skeleton = service.writer.engine.skeleton
    asked = await asyncio.to_thread(serving_requests.asked, body, service.encoding, skeleton, service.limits)
    return Reply(service, asked, request)


async def body_of(request: Request, limit: int) -> bytes:
    """Returns a request's body. Raises ApiError where it is too long or too slow."""
    declared = request.headers.get("content-length", "0")
    too_long = ApiError(413, f"the body may have {limit:,} bytes", code="body_too_large")
    if int(declared) > limit:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > limit:
                    raise too_long
    except TimeoutError:
        late = f"the body was not here after {BODY_SECONDS} s"
        raise ApiError(408, late, code="body_too_slow", headers=CLOSE) from None
    return bytes(content)
