"""What nodes on one machine lack: a network between them, on which everything takes a while, and is lost with its sender."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Network:
    """Relays TCP connections in a thread of its own. ``delay`` is in seconds, each way."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.loop = asyncio.new_event_loop()
        self._ends: dict[int, set[End]] = {}
        self._servers: list[asyncio.Server] = []

    @contextmanager
    def running(self) -> Iterator[Network]:
        thread = threading.Thread(target=self.loop.run_forever, name="network")
        thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self.loop).result(10)
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join()
            self.loop.close()

    def link_to(self, port: int) -> int:
        """The port at which the node that listens on ``port`` is reached from elsewhere."""
        return asyncio.run_coroutine_threadsafe(self._listen(port), self.loop).result(10)

    def cut(self, port: int) -> None:
        """The machine has died: what is on its way from and to it is lost. From any thread; doesn't wait."""
        self.loop.call_soon_threadsafe(self._cut, port)

    def _cut(self, port: int) -> None:
        for end in list(self._ends[port]):
            end.cut()

    async def _listen(self, port: int) -> int:
        ends = self._ends[port] = set()
        server = await self.loop.create_server(lambda: End(self, ends, port), "127.0.0.1", 0)
        self._servers.append(server)
        listening: int = server.sockets[0].getsockname()[1]
        return listening

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for port in self._ends:
            self._cut(port)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class End(asyncio.Protocol):
    """One end of a relayed connection: what comes here leaves at the other end, later. With a ``port``: the one that was
    connected to, and connects to that."""

    def __init__(self, network: Network, ends: set[End], port: int | None = None) -> None:
        self._network = network
        self._ends = ends
        self._port = port
        self._is_cut = False
        self._transport: Any = None
        self._other: End | None = None
        self._unsent: list[bytes] = []  # until it is connected itself
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ends.add(self)
        for data in self._unsent:
            self._transport.write(data)
        if self._over:
            self._transport.close()
        if self._port is not None:
            self._other = End(self._network, self._ends)
            self._other._other = self
            self._reaching = self._network.loop.create_task(self._reach(self._other, self._port))

    async def _reach(self, far: End, port: int) -> None:
        try:
            await self._network.loop.create_connection(lambda: far, "127.0.0.1", port)
        except OSError:
            self.cut()

    def data_received(self, data: bytes) -> None:
        self._network.loop.call_later(self._network.delay, self._arrive, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._ends.discard(self)
        if not self._network.loop.is_closed():
            self._network.loop.call_later(self._network.delay, self._arrive, None)

    def _arrive(self, data: bytes | None) -> None:
        """At the other end: data, or the end of it."""
        other = self._other
        if self._is_cut or other is None:
            return
        if other._transport is None:
            if data is None:
                other._over = True
            else:
                other._unsent.append(data)
        elif data is None:
            other._transport.close()
        elif not other._transport.is_closing():
            other._transport.write(data)

    def cut(self) -> None:
        """At once, with what is on its way."""
        self._is_cut = True
        if self._transport is not None:
            self._transport.abort()
