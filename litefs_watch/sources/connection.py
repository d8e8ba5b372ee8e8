"""A socket to LiteFS's API, and how what arrives on it reaches its reader in as few steps as the event loop has.

On asyncio the loop itself calls the reader, with no task in between; elsewhere a task does that only waits for the socket.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from litefs_watch.sources.wire import Disconnected

if TYPE_CHECKING:
    import asyncio

PIECE = 64 * 1024
"""Bytes that are received at once: some 350 of LiteFS's events."""

# A connection whose other end has vanished without a word shows after about 10 + 3 x 5 s. There is no heartbeat in LiteFS's
# stream, so nothing else would tell.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))

Take = Callable[[bytes | None], bool]
"""Takes in what has come: b"" at the end, None for what was left over. Returns whether something is left over again."""


async def connect(host: str, port: int) -> socket.socket:
    """A connected socket that doesn't block. Raises the first address's `OSError` where none answers."""
    refusal: OSError | None = None
    for family, address in await _addresses(host, port):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # no IPv6 here
            refusal = refusal or error
            continue
        try:
            await _reach(sock, address)
            keep_alive(sock)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            refusal = refusal or error
        else:
            return sock
    raise refusal or OSError(f"{host!r} has no address")


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    try:
        version = ip_address(host)
    except ValueError:
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"{host!r} is no name of a host: {error}") from None
        return [(family, address) for family, _, _, _, address in found]
    return [(socket.AF_INET6 if isinstance(version, IPv6Address) else socket.AF_INET, (host, port))]


async def _reach(sock: socket.socket, address: tuple[str, int]) -> None:
    sock.setblocking(False)
    status = sock.connect_ex(address)
    if status == errno.EINPROGRESS:
        await anyio.wait_writable(sock)
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status:
        raise OSError(status, os.strerror(status))


def keep_alive(sock: socket.socket) -> None:
    """Turn TCP keep-alive on, with intervals where the system has them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def send(sock: socket.socket, data: bytes) -> None:
    """Send all of it. Raises `Disconnected`."""
    while data:
        await anyio.wait_writable(sock)
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise Disconnected(str(error)) from error


async def receive(sock: socket.socket) -> bytes:
    """What comes next; b"" at the end. Raises `Disconnected`."""
    while True:
        await anyio.wait_readable(sock)
        if (data := _receive_now(sock)) is not None:
            return data


def _receive_now(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(PIECE)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Disconnected(str(error)) from error


async def pump(sock: socket.socket, take: Take, until: Callable[[], object]) -> None:
    """Hand what arrives to ``take`` the moment it is there, until ``until()``, which b"" must bring about at the latest.

    What ``take`` leaves over it is asked for again when the loop's other tasks have had their turn, before anything else is
    received. Raises what ``take`` raises, and `Disconnected`. Cancelled, it stops between two calls of ``take``.
    """
    if (loop := _asyncio_loop()) is not None:
        await _LoopPump(loop, sock, take, until).run()
        return
    more = take(None)
    while not until():
        if more:
            await anyio.lowlevel.checkpoint()
            more = take(None)
        else:
            await anyio.wait_readable(sock)
            more = take(_receive_now(sock))


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """asyncio's loop, where this task is one of its own: trio may be its guest."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.get_running_loop() if asyncio and asyncio.current_task() else None
    except (RuntimeError, AttributeError):  # it is another kind of loop; another thread may be importing asyncio
        return None


class _LoopPump:
    """`pump`, called by asyncio's loop. An exception in a callback would only be logged there: the task raises it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, take: Take, until: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._take = take
        self._until = until
        self._reading = False
        self._over: asyncio.Future[Exception | None] = loop.create_future()

    async def run(self) -> None:
        try:
            self._step(None)
            if (error := await self._over) is not None:
                raise error
        finally:
            self._over.cancel()  # for a step that is still to come
            self._read(False)

    def _readable(self) -> None:
        if not self._over.done():
            try:
                data = _receive_now(self._sock)
            except Disconnected as error:
                self._over.set_result(error)
            else:
                self._step(data)

    def _step(self, data: bytes | None) -> None:
        if self._over.done():
            return
        try:
            more = self._take(data)
            over = self._until()
        except Exception as error:  # noqa: BLE001 - raised in `run`
            self._over.set_result(error)
            return
        if over:
            self._over.set_result(None)
        elif more:
            self._read(False)
            self._loop.call_soon(self._step, None)
        elif not self._reading:
            self._read(True)

    def _read(self, wanted: bool) -> None:
        if wanted:
            self._loop.add_reader(self._sock, self._readable)
        elif self._reading:
            self._loop.remove_reader(self._sock)
        self._reading = wanted
