"""Connections to the primary, for one event loop: anyio's waiting, h11's protocol."""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from litefs_watch.sources.connection import connect
from litefs_watch.web.forwarding import Broken, Origin, unreachable
from litefs_watch.web.slots import Idle, Silent
from litefs_watch.web.wire import Wire


class Connection(Wire):
    """For tasks: one that writes, and one that reads."""

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises `Broken`."""
        left = memoryview(data)
        while left:
            while (sent := self.send_now(left)) is None:
                await self._wait(anyio.wait_writable)
            left = left[sent:]

    async def receive(self) -> bytes:
        """What comes next; b"" at the end. Raises `Broken`."""
        while (data := self.receive_now()) is None:
            await self._wait(anyio.wait_readable)
        return data

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await ready(self.sock)
        except (anyio.ClosedResourceError, OSError, ValueError) as error:
            raise Broken("it was closed here") from error

    async def shake_hands(self) -> None:
        """TLS's. Raises `OSError`."""
        sock, done = self.sock, False
        while isinstance(sock, ssl.SSLSocket) and not done:
            try:
                sock.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                await anyio.wait_readable(sock)
            except ssl.SSLWantWriteError:
                await anyio.wait_writable(sock)

    def close(self) -> None:
        """Whoever reads or writes it finds it `Broken`."""
        if self.sock.fileno() >= 0:
            anyio.notify_closing(self.sock)
            self.sock.close()


class Pool:
    """At most ``most`` requests to the primary at once, and the connections that wait for the next."""

    def __init__(self, most: int, connect_timeout: float, tls: ssl.SSLContext | None) -> None:
        self.silent: Silent = Silent()
        self.idle: Idle[Connection] = Idle(most)
        self._most = most
        self._timeout = connect_timeout
        self._tls = tls
        self._busy = 0
        self._waiting: deque[anyio.Event] = deque()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places. Raises `Failed` where none is free in time; silent uploads make room."""
        if self._busy < self._most:
            self._busy += 1
        elif not await self._hand_over():
            raise unreachable(f"no connection was free within {self._timeout:g} s: {self._most} are in use")
        try:
            yield
        finally:
            self._leave()

    async def _hand_over(self) -> bool:
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            with anyio.move_on_after(self._timeout):
                while not turn.is_set():
                    with anyio.move_on_after(self.silent.make_room(time.monotonic())):
                        await turn.wait()
        except BaseException:
            if turn.is_set():  # cancelled just then: it is the next one's
                self._leave()
            raise
        finally:
            if not turn.is_set():
                self._waiting.remove(turn)
        return turn.is_set()

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._busy -= 1

    async def connection(self, origin: Origin, *, used: bool) -> Connection:
        """A connection; with ``used``, one that has been used before will do. Raises `Failed`."""
        now = time.monotonic()
        found, closing = self.idle.take(origin, now) if used else (None, [])
        if found is None:
            closing += self.idle.given_up(now, room=self._busy)
        _close(closing)
        return found or await self._open(origin)

    @asynccontextmanager
    async def new(self, origin: Origin) -> AsyncIterator[Connection]:
        """A connection that nobody uses again. Raises `Failed`."""
        connection = await self._open(origin)
        try:
            yield connection
        finally:
            connection.close()

    async def _open(self, origin: Origin) -> Connection:
        try:
            with anyio.fail_after(self._timeout):
                sock = await connect(origin.host, origin.port)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)
                connection = Connection(origin, sock)
                try:
                    await connection.shake_hands()
                except BaseException:
                    connection.close()
                    raise
                return connection
        except OSError as error:
            raise unreachable(f"no connection: {error!r}") from error

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request, if it can serve one."""
        _close(self.idle.keep(connection, time.monotonic()) if connection.again() else [connection])

    def close(self) -> None:
        """Close the idle ones."""
        _close(self.idle.take_all())


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
