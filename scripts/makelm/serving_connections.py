"""Connections: those that say nothing, or too much at once, end; and how a server comes to its own end."""

import asyncio
import math
import signal
import socket
from collections.abc import Callable

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from makelm.errors import UserError
from makelm.serving_answers import encoded
from makelm.serving_errors import ApiError

IDLE = 30  # seconds until a connection ends on which no request comes, or one's head comes too slowly
GRACE = 5  # seconds that texts may still take when the server is told to end


class Connection(H11Protocol):
    """One connection; requests find it in their state."""

    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        self.app_state = self.app_state | {"connection": self}
        self.timeout_keep_alive = IDLE
        self.unread = math.inf  # bytes of an answer, when that was last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(IDLE, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        timer, self.unread = self.timeout_keep_alive_task, math.inf
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and timer and not self.timeout_keep_alive_task and not self.transport.is_closing():
            # part of a head is no request yet
            self.timeout_keep_alive_task = self.loop.call_at(timer.when(), self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Ends the connection; at once where nobody reads the answer that it still holds."""
        before, self.unread = self.unread, self.transport.get_write_buffer_size()
        if 0 < self.unread < before:
            self.timeout_keep_alive_task = self.loop.call_later(IDLE, self.timeout_keep_alive_handler)
        elif self.unread:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        body = encoded(ApiError(400, "this is no HTTP request").form)
        head = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        response = h11.Response(status_code=400, headers=head, reason=b"Bad Request")
        for part in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part))
        self.transport.close()


class Server(uvicorn.Server):
    """A server that tells its clients when it goes down."""

    def __init__(self, app: ASGIApp, stop: Callable[[], None]):
        """`stop` ends what is being answered."""
        how = {"http": Connection, "ws": "none", "loop": "asyncio", "log_config": None, "access_log": False}
        how |= {"proxy_headers": False, "server_header": False, "timeout_graceful_shutdown": GRACE + 2}
        super().__init__(uvicorn.Config(app, **how))
        self.stop = stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE, self.stop)
        await super().shutdown(sockets)

    def serve_on(self, place: socket.socket) -> None:
        """Serves until SIGTERM or SIGINT."""
        # it sends itself the signal again when it has ended
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.run([place])


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens. Raises UserError where there can be none."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port: {port} is not from 0 to {(1 << 16) - 1}")  # the system would take another one
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        place = socket.socket(family)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
        place.listen(1024)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}, port {port}: {why}") from None
    return place
