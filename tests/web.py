"""A server on this machine that behaves as badly as its tests want."""

import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

Server = TypeVar("Server", bound=http.server.HTTPServer)
RANGE = re.compile(r"bytes=(\d+)-")


class Web(http.server.ThreadingHTTPServer):
    """Answers one request after the other as `answers` say, the last of them for good; `asked` are the headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: list[Callable[[Answer], None]] = []
        self.asked: list[dict[str, str]] = []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Answer(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        self.server.asked.append({"path": self.path, **self.headers})
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def asked_from(self) -> int:
        """Returns the byte from which on the content is wanted."""
        found = RANGE.fullmatch(self.headers.get("Range", ""))
        return int(found[1]) if found else 0

    def log_message(self, *_: object) -> None:
        """Keeps the tests quiet."""


def status(code: int, **headers: object) -> Callable[[Answer], None]:
    """Answers with a status and no content."""
    return lambda answer: answer.head(code, Content_Length=0, **headers)


def content(
    body: bytes, stop: int | None = None, length: int | None = None, pause: float = 0.0, **headers: object
) -> Callable[[Answer], None]:
    """Answers with all of the content, whatever part is asked for.

    Says that it has `length` bytes, ends before byte `stop` and pauses before each 1,000 bytes.
    """

    def answer(to: Answer) -> None:
        to.head(200, Content_Length=len(body) if length is None else length, **headers)
        send(to, body[:stop], pause)

    return answer


def part(body: bytes, stop: int | None = None, back: int = 0, **headers: object) -> Callable[[Answer], None]:
    """Answers with the part that is asked for, from `back` bytes before it on, and ends before byte `stop`.

    What If-Range says is heeded where there is an ETag.
    """

    def answer(to: Answer) -> None:
        version, known = headers.get("ETag"), to.headers.get("If-Range")
        start = to.asked_from() if known in (None, version) else 0
        if start >= len(body) > 0:
            to.head(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
        elif start:
            start -= back
            place = f"bytes {start}-{len(body) - 1}/{len(body)}"
            to.head(206, Content_Range=place, Content_Length=len(body) - start, **headers)
            send(to, body[start:stop])
        else:
            content(body, stop, **headers)(to)

    return answer


def send(to: Answer, body: bytes, pause: float = 0.0) -> None:
    """Writes content, piece by piece where there are pauses."""
    size = 1000 if pause else max(len(body), 1)
    for start in range(0, len(body), size):
        if pause:
            time.sleep(pause)
        to.wfile.write(body[start : start + size])
        to.wfile.flush()


def serve() -> AbstractContextManager[Web]:
    """Runs a server in a thread of its own."""
    return running(Web())


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Runs a server in a thread of its own."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
