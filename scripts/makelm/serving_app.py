"""The HTTP side of a served model: its paths, who may ask, and answers that end when their client does."""

import asyncio
import base64
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
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
from makelm.serving_answers import END, Choice, Completion, Names, encoded, event
from makelm.serving_engine import Answer, Writer
from makelm.serving_errors import ApiError
from makelm.serving_metrics import Metrics
from makelm.serving_requests import Asked, Limits
from makelm.tokenizer import Tokenizer

BODY_SECONDS = 20  # until a request's body is here
LEFT = 499  # the status, in the log, of a request whose client went away
CONNECTIONS = 900  # open files are few (ulimit -n is often 1,024)
OPEN = ("/", "/health")  # without a token
POLLED = ("/health", "/metrics")  # so often that the log would be full of them
CLOSE = {"Connection": "close"}
PLAIN = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
STREAM = PLAIN | {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Service:
    """A model and how it is served."""

    model: dict  # what /v1/models says of it
    encoding: Tokenizer
    writer: Writer
    metrics: Metrics
    limits: Limits
    page: str
    token: str | None  # which clients must show; None: no client must
    hosts: frozenset[str] | None  # names that this server may be called by; None: any
    origins: tuple[str, ...]  # whose pages may ask
    log: Callable[[str], None]

    @property
    def id(self) -> str:
        return self.model["id"]


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


def failed(error: ApiError) -> Response:
    """Returns an error as an answer."""
    return Response(encoded(error.form), error.status, {**PLAIN, **error.headers}, "application/json")


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


def reply(content: dict, status: int = 200) -> Response:
    return Response(encoded(content), status, PLAIN, "application/json")


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


class Reply:
    """The answer to a completions request. It ends with its texts, with its client or when its time is up."""

    def __init__(self, service: Service, asked: Asked, request: Request):
        self.service, self.asked, self.request = service, asked, request
        names, name = Names(service.encoding), f"cmpl-{request.state.id}"
        per_prompt = len(asked.options)
        choices = [
            Choice(index, names, asked.logprobs is not None, asked.echoes[index // per_prompt])
            for index in range(len(asked.prompts) * per_prompt)
        ]
        self.completion = Completion(name, service.id, choices, sum(map(len, asked.prompts)), asked.usage)
        self.started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = [(prompt, options) for prompt in self.asked.prompts for options in self.asked.options]
        answer, texts = self.service.writer.ask(wanted)
        write = self.stream if self.asked.stream else self.whole
        try:
            async with asyncio.timeout(self.service.limits.seconds):
                if not await stays(write(answer, send), receive):
                    scope["state"]["status"] = LEFT
        except TimeoutError:
            scope["state"]["status"] = 504
            await self.end(send, too_late(self.service.limits.seconds))
        except ApiError as error:
            scope["state"]["status"] = error.status
            await self.end(send, error)
        finally:
            self.service.writer.drop(answer, texts)
            usage = self.completion.usage
            scope["state"]["tokens"] = f", {usage['prompt_tokens']} + {usage['completion_tokens']} tokens"

    async def whole(self, answer: Answer, send: Send) -> None:
        """Sends all texts once they have ended."""
        arrived = []
        async for batch in answer.batches():
            arrived += batch
        content = self.completion.whole(arrived)
        self.started = True
        await Response(content, headers=PLAIN, media_type="application/json")(self.request.scope, None, send)

    async def stream(self, answer: Answer, send: Send) -> None:
        """Sends texts as they come. Before there is something to send, an error still has a status of its own."""
        async for batch in answer.batches():
            if not self.started:
                headers = [(name.lower().encode(), value.encode()) for name, value in STREAM.items()]
                self.started = True
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            if parts := self.completion.parts(batch):
                await say(send, self.completion.chunk(parts))
        await say(send, (self.completion.last() if self.asked.usage else b"") + END, more=False)

    async def end(self, send: Send, error: ApiError) -> None:
        """Says why no more comes."""
        if not self.started:
            await failed(error)(self.request.scope, None, send)
        elif not self.asked.stream or self.request.state.connection.flow.write_paused:
            self.request.state.connection.transport.abort()  # nobody reads
        else:
            await say(send, event(error.form), more=False)


async def say(send: Send, content: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


def too_late(seconds: float) -> ApiError:
    # without it, clients ask for the same again
    once = {"x-should-retry": "false"}
    return ApiError(
        504, f"not done after {seconds:g} s; lower max_tokens or come again later", code="timeout", headers=once
    )


async def stays(work: Awaitable[None], receive: Receive) -> bool:
    """Does work as long as the client stays. Returns whether it was done."""
    both = [asyncio.ensure_future(work), asyncio.ensure_future(until_gone(receive))]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if both[0].done():
            both[0].result()
        return both[0].done()
    finally:
        for task in both:
            task.cancel()
        for task in both:
            with suppress(asyncio.CancelledError, ApiError):
                await task


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
