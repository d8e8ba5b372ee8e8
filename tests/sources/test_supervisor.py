"""The supervisor: a source that fails runs again, whole; closing; and what silence is."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import Position, Settings
from litefs_watch.core.readings import DirectoryRead, PositionsRead, Reading
from litefs_watch.sources import supervisor as supervisor_module
from litefs_watch.sources.supervisor import Supervisor

SOON = 10.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE", 0.01)


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
            Settings(folder, api_url=None, silence=silence),
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

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.supervisor.run)
            try:
                yield self.supervisor
            finally:
                tasks.cancel_scope.cancel()


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    write(tmp_path, 5)
    return Harness(tmp_path)


async def test_closing_marks_every_source_down(harness: Harness) -> None:
    """With the reason; from another thread, without a loop, and again."""
    async with harness.running() as supervisor:
        await harness.until(lambda: supervisor.answered and supervisor.status["files"].alive)
    for _ in range(2):
        closer = threading.Thread(target=supervisor.close, args=("the watcher was stopped",))
        closer.start()
        closer.join()
    assert {(each.alive, each.detail) for each in supervisor.status.values()} == {(False, "the watcher was stopped")}


async def test_counts_have_names(harness: Harness) -> None:
    """Events, reconnects, re-reads, restarts."""
    async with harness.running() as supervisor:
        await harness.until(lambda: supervisor.counts.rereads > 0)
        assert supervisor.counts == (0, 0, supervisor.counts.rereads, 0)
