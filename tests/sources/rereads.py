"""A Reread over a directory that is made up, for its tests."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel

from litefs_watch import Position
from litefs_watch.core.readings import DirectoryRead, Mount, PositionsRead, Reading
from litefs_watch.sources.directory import Directory
from litefs_watch.sources.reread import Reread

SOON = 10.0
HERE = Position(5, 1)


class FakeDirectory(Directory):
    """Answers at once, or when it is let go; remembers what was asked, and from which thread."""

    def __init__(self) -> None:
        super().__init__(Path("/litefs"))
        self.asked: list[frozenset[str] | None] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.position = HERE
        self.listed: list[str] = []
        self.slice = 0
        """Databases in one go; 0: all."""

    def begin_look(
        self,
        first: Iterable[str],
        known: Iterable[str] = (),
        *,
        left: list[str] | None = None,
        start: str = "",
        within: float = 0,
        listing_age: float = 0,
    ) -> tuple[DirectoryRead, list[str]]:
        self._note(None)
        if left is None:
            names = sorted({*known, *self.listed})
            at = bisect_left(names, start)
            left = names[at:] + names[:at]
        taken, left = self.split(left)
        return DirectoryRead(0.0, Mount.LITEFS, positions=dict.fromkeys([*first, *taken], self.position)), left

    def go_on(
        self, first: Iterable[str], left: list[str], *, within: float, named: bool = False
    ) -> tuple[PositionsRead, dict[str, str], list[str]]:
        self._note(frozenset(first))
        taken, left = self.split(left)
        return PositionsRead(0.0, dict.fromkeys([*first, *taken], self.position)), {}, left

    def split(self, names: list[str]) -> tuple[list[str], list[str]]:
        return (names[: self.slice], names[self.slice :]) if self.slice else (names, [])

    def _note(self, asked: frozenset[str] | None) -> None:
        position = self.position
        self.threads.add(threading.get_ident())
        self.asked.append(asked)
        self.gate.wait(SOON)
        self.position = position


class Harness:
    def __init__(self, idle: float = 60.0, blind: float = 0.001, streaming: float | None = None) -> None:
        self.directory = FakeDirectory()
        self.reports: list[Reading] = []
        self._news = anyio.Event()
        self.awaited: frozenset[str] = frozenset()
        self.sighted = False
        self.streaming = False
        self.reread = Reread(
            self.directory,
            idle_interval=idle,
            streaming_interval=idle if streaming is None else streaming,
            blind_interval=blind,
            report=self._reported,
            known=lambda: {"app.db"},
            awaited=lambda: self.awaited,
            sighted=lambda: self.sighted,
            streaming=lambda: self.streaming,
        )

    def _reported(self, reading: Reading) -> None:
        self.reports.append(reading)
        news, self._news = self._news, anyio.Event()
        news.set()

    async def reported(self, condition: Callable[[], bool]) -> None:
        """Until it is so after one of the next reports."""
        with anyio.fail_after(SOON):
            while not condition():
                await self._news.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(SOON):
            while not condition():
                await anyio.lowlevel.checkpoint()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Harness]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.reread.run)
            await self.until(lambda: bool(self.reports))
            yield self
            self.directory.gate.set()
            tasks.cancel_scope.cancel()
