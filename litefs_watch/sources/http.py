"""One HTTP/1.1 request on one connection: anyio and h11, for LiteFS's API on this machine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute

from litefs_watch.errors import WireError
from litefs_watch.sources.wire import show

# A connection whose other end has vanished without a word shows after about 10 + 3 x 5 s. There is no heartbeat in LiteFS's
# stream, so nothing else would tell.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_RECEIVE = 64 * 1024

#: What talking to something that is no LiteFS, or is just dying, may raise.
HTTP_ERRORS = (OSError, WireError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Response:
    """The head of a response, and its body as it comes."""

    def __init__(self, stream: ByteStream, connection: h11.Connection, url: str) -> None:
        self._stream = stream
        self._connection = connection
        self._url = url
        self.status = 0
        self.headers: dict[str, str] = {}

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        data = None
        try:
            while (event := self._connection.next_event()) is h11.NEED_DATA:
                try:
                    data = await self._stream.receive(_RECEIVE)
                except anyio.EndOfStream:
                    data = b""
                self._connection.receive_data(data)
        except h11.RemoteProtocolError as error:
            if data == b"":
                part = "in the middle of its response" if self.status else "without a response"
                raise WireError(f"{self._url} closed the connection {part}") from error
            raise WireError(f"{self._url} does not speak HTTP/1.1: {error}") from error
        return event  # type: ignore[return-value]

    async def read_head(self) -> None:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in event.headers}
                return

    async def chunk(self) -> bytes | None:
        """The next bytes of the body, as they arrive; None at its end."""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `WireError` when it is longer than ``limit`` bytes."""
        body = b""
        while (chunk := await self.chunk()) is not None:
            body += chunk
            if len(body) > limit:
                raise WireError(f"{self._url} answered with more than {limit:,} bytes: {show(body)}")
        return body


@asynccontextmanager
async def request(method: str, url: str, *, timeout: float) -> AsyncIterator[Response]:
    """Send a request without a body. ``timeout`` (seconds) bounds the time to the response's head, not the body's.

    Raises one of `HTTP_ERRORS`; a timeout is a `TimeoutError`.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    try:
        with anyio.fail_after(timeout):
            stream = await anyio.connect_tcp(host, port)
    except TimeoutError:
        raise TimeoutError(f"no connection to {url} within {timeout:g} s") from None
    except OSError as error:
        raise ConnectionError(f"no connection to {url}: {_first_cause(error)}") from error
    async with stream:
        keep_alive(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - not Django's
        connection = h11.Connection(h11.CLIENT)
        response = Response(stream, connection, url)
        try:
            with anyio.fail_after(timeout):
                head = h11.Request(
                    method=method,
                    target=parts.path or "/",
                    headers=[
                        ("host", parts.netloc.rpartition("@")[2]),
                        ("user-agent", "litefs-watch"),
                        ("content-length", "0"),
                    ],
                )
                await stream.send((connection.send(head) or b"") + (connection.send(h11.EndOfMessage()) or b""))
                await response.read_head()
        except TimeoutError:
            raise TimeoutError(f"no answer from {url} within {timeout:g} s") from None
        yield response


def _first_cause(error: BaseException) -> str:
    """anyio tries each address of a name and raises one error for all; the first address's own says more."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return getattr(cause or error, "strerror", None) or str(cause or error)


def keep_alive(sock: socket.socket) -> None:
    """Turn TCP keep-alive on, with intervals where the system has them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
