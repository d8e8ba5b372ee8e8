"""The process of the watchers, the middlewares and the application, as it is seen from outside.

It is one of its own, so that what is measured of it is theirs, and not of the clients or of the simulated cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from litefs_watch import Position, Role, Settings

PATIENCE = 20.0
"""Seconds without an answer after which the machines hang."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Order:
    """What is to be served."""

    settings: Mapping[str, Settings]
    """Of each node, by hostname."""
    options: Mapping[str, Any]
    """The middlewares'."""
    leaks: Collection[str] = ()
    """Some of `benchmarks.soak.leaks.LEAKS`."""


@dataclass(frozen=True)
class Usage:
    """Of the process, at one moment; the last four are sums over its watchers, three of them counts since the start."""

    memory: int
    """Bytes that are resident."""
    descriptors: int
    threads: int
    tasks: int
    """Of its event loop."""
    waiters: int
    """Calls that wait for a transaction or a role now."""
    timeouts: int
    reconnects: int
    restarts: int


@dataclass(frozen=True)
class Known:
    """What one watcher says."""

    watcher: str
    """Its class and its node."""
    hostname: str
    role: Role
    position: Position | None


class Machines:
    """That process. From any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = threading.Lock()
        self.asgi: Mapping[str, Address]
        """By hostname: where its ASGI application is served."""
        self.wsgi: Mapping[str, Address]
        self.asgi, self.wsgi = self._receive()

    def usage(self) -> Usage:
        found: Usage = self._ask("usage")
        return found

    def known(self) -> list[Known]:
        """By all watchers."""
        found: list[Known] = self._ask("known")
        return found

    def role(self, hostname: str) -> Role:
        """What a watcher of this node says."""
        return next(each.role for each in self.known() if each.hostname == hostname)

    def _ask(self, question: str) -> Any:
        with self._turn:
            self._connection.send(question)
            return self._receive()

    def _receive(self) -> Any:
        """Raises `RuntimeError` where the process has died or hangs."""
        if not self._connection.poll(PATIENCE):
            raise RuntimeError(f"the machines have not answered for {PATIENCE:g} s")
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("the machines' process has ended") from None


@contextmanager
def machines(order: Order) -> Iterator[Machines]:
    """Start them. Raises `RuntimeError`."""
    from benchmarks.soak.serving import serve

    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, order), daemon=True)
    process.start()
    there.close()
    try:
        yield Machines(here)
    finally:
        here.close()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
