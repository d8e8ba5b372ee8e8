"""A supervisor of an ordinary directory, for its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel

from litefs_watch import Position, Settings
from litefs_watch.core.readings import DirectoryRead, PositionsRead, Reading
from litefs_watch.sources.supervisor import Supervisor

SOON = 10.0


def write(folder: Path, txid: int) -> None:
    (folder / "new").write_text(f"{txid:016x}/{1 << 63:016x}\n")
    (folder / "new").rename(folder / "app.db-pos")


class Harness:
    """A supervisor of an ordinary directory, and what it published."""

    def __init__(self, folder: Path, silence: float = 60.0) -> None:
        self.folder = folder
        self.readings: list[Reading] = []
        self.awaited: frozenset[str] = frozenset()
        self.supervisor = Supervisor(
            Settings(folder, api_url=None, silence=silence, idle_interval=min(1.0, silence / 2)),
            folder,
            publish=self.publish,
            known=lambda: {"app.db"},
            awaited=lambda: self.awaited,
        )

    def publish(self, reading: Reading) -> None:
        self.readings.append(reading)

    @property
    def position(self) -> Position | None:
        """The last that was published."""
        reads = [each for each in self.readings if isinstance(each, DirectoryRead | PositionsRead)]
        found = [each.positions["app.db"] for each in reads if "app.db" in each.positions]
        return found[-1] if found else None

    async def until(self, condition: Callable[[], bool], poke: Callable[[], object] = lambda: None) -> None:
        with anyio.fail_after(SOON):
            while not condition():
                poke()
                await anyio.sleep(0.001)

    async def quiet(self) -> None:
        """Until all have begun, and no look is under way or due but one that is asked for."""
        reread = self.supervisor._reread
        reread._idle_interval = 60.0
        await self.until(lambda: self.position is not None and self.supervisor._files.covers)
        await self.until(lambda: reread._current.done.is_set() and reread._look_at is None and reread._delay() > 1.0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.supervisor.run)
            try:
                yield self.supervisor
            finally:
                tasks.cancel_scope.cancel()
