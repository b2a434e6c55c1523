"""What goes back over HTTP: JSON, errors, and texts, which end with their client or when their time is up."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from makelm.serving_answers import END, Choice, Completion, Names, encoded, event
from makelm.serving_engine import Answer
from makelm.serving_errors import ApiError
from makelm.serving_requests import Asked
from makelm.serving_service import Service

LEFT = 499  # the status, in the log, of a request whose client went away
PLAIN = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
STREAM = PLAIN | {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


def reply(content: dict, status: int = 200) -> Response:
    return Response(encoded(content), status, PLAIN, "application/json")


def failed(error: ApiError) -> Response:
    """Returns an error as an answer."""
    return Response(encoded(error.form), error.status, {**PLAIN, **error.headers}, "application/json")


class Reply:
    """The answer to a completions request. It ends with its texts, with its client or when its time is up."""

    def __init__(self, service: Service, asked: Asked, request: Request):
        self.service, self.asked, self.request = service, asked, request
        names, name = Names(service.encoding), f"cmpl-{request.state.id}"
        choices = [
            Choice(len(asked.options) * number + own, names, asked.logprobs is not None, echo, shown)
            for number, (echo, shown) in enumerate(zip(asked.echoes, asked.shown, strict=True))
            for own in range(len(asked.options))
        ]
        self.completion = Completion(name, service.id, choices, sum(map(len, asked.prompts)), asked.usage)
        self.started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = [(prompt, options) for prompt in self.asked.prompts for options in self.asked.options]
        if self.asked.scored:
            await self.service.writer.prepare(self.asked.prompts)
        answer, texts = self.service.writer.ask(wanted, self.asked.scored)
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
