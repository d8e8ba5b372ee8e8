"""One HTTP/1.1 request on one connection: h11, for LiteFS's API on this machine."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import anyio
import h11

from litefs_watch.errors import WireError
from litefs_watch.sources.connection import connect, receive, send
from litefs_watch.sources.wire import Disconnected, show

#: What talking to something that is no LiteFS, or is just dying, may raise.
HTTP_ERRORS = (WireError,)


class Response:
    """The head of a response, and its body as it comes."""

    def __init__(self, sock: socket.socket, connection: h11.Connection, url: str) -> None:
        self._sock = sock
        self._connection = connection
        self._url = url
        self.status: int = 0

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        try:
            while (event := self._connection.next_event()) is h11.NEED_DATA:
                self._connection.receive_data(await receive(self._sock))
        except h11.RemoteProtocolError as error:
            raise broken_http(self._url, self._connection, error, answered=self.status != 0) from error
        return event  # type: ignore[return-value]

    async def read_head(self) -> None:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                return

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, as it comes."""
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `WireError` when it is longer than ``limit`` bytes."""
        body = b""
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > limit:
                raise WireError(f"{self._url} answered with more than {limit:,} bytes: {show(body)}")
        return body


def broken_http(url: str, connection: h11.Connection, error: h11.RemoteProtocolError, *, answered: bool) -> Disconnected:
    """What has happened, in words. ``answered``: there was a head."""
    _, closed = connection.trailing_data
    if not closed:
        return Disconnected(f"{url} does not speak HTTP/1.1: {error}")
    return Disconnected(f"{url} closed the connection {'in the middle of its' if answered else 'without a'} response")


def encode_request(connection: h11.Connection, method: str, url: str) -> bytes:
    """A request without a body."""
    parts = urlsplit(url)
    head = h11.Request(
        method=method,
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers=[
            ("host", parts.netloc.rpartition("@")[2]),
            ("user-agent", "litefs-watch"),
            ("content-length", "0"),
        ],
    )
    return (connection.send(head) or b"") + (connection.send(h11.EndOfMessage()) or b"")


@asynccontextmanager
async def connection_to(url: str, *, timeout: float) -> AsyncIterator[socket.socket]:
    """A connected socket. Raises `Disconnected` where there is none within ``timeout`` seconds."""
    parts = urlsplit(url)
    try:
        with time_for(f"no connection to {url}", timeout):
            sock = await connect(parts.hostname or "", parts.port or 80)
    except OSError as error:
        raise Disconnected(f"no connection to {url}: {error.strerror or error}") from error
    with sock:
        yield sock


@contextmanager
def time_for(failure: str, timeout: float) -> Iterator[None]:
    """Raises `Disconnected` in place of what is not done within ``timeout`` seconds."""
    with anyio.move_on_after(timeout) as scope:
        yield
    if scope.cancelled_caught:
        raise Disconnected(f"{failure} within {timeout:g} s")


@asynccontextmanager
async def request(method: str, url: str, *, timeout: float) -> AsyncIterator[Response]:
    """Send a request without a body. ``timeout`` (seconds) bounds the time to the response's head, not the body's.

    Raises one of `HTTP_ERRORS`, also when it is late.
    """
    async with connection_to(url, timeout=timeout) as sock:
        connection = h11.Connection(h11.CLIENT)
        response = Response(sock, connection, url)
        with time_for(f"no answer from {url}", timeout):
            await send(sock, encode_request(connection, method, url))
            await response.read_head()
        yield response
