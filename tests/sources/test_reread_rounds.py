"""The net's looks, in the rounds of all watchers: without a task, never two at a time, and never late for another's sake."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import pytest

from litefs_watch.sources.directory import Directory
from tests.sources.rereads import HERE, SOON, Harness


async def test_what_nobody_has_asked_for_is_looked_at_in_the_rounds() -> None:
    """Without waking the task, in no thread of our own; and another watcher's as well, with ours."""
    async with Harness(idle=0.02).running() as harness, Harness(idle=0.02).running() as other:
        await harness.reported(lambda: len(harness.reports) > 1)
        woken = harness.reread._delay
        calls: list[int] = []

        def delay() -> float:
            calls.append(1)
            return woken()

        harness.reread._delay = delay  # type: ignore[method-assign]
        looks, own = harness.reread.looks, set(harness.directory.threads)
        await harness.reported(lambda: harness.reread.looks > looks + 5)
        assert len(calls) <= harness.reread.looks - looks  # by whom the look was taken in, and by nobody else
        await other.reported(lambda: len(other.reports) > 3)
        assert other.directory.threads & harness.directory.threads
        assert len(harness.directory.threads | own) <= 2


async def test_a_look_that_is_late_in_the_rounds_is_made_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another watcher's LiteFS is frozen; then, another thread makes the rounds."""
    monkeypatch.setattr("litefs_watch.sources.reread.LATE", 0.01)
    async with Harness(idle=0.02).running() as frozen, Harness(idle=0.02).running() as harness:
        await harness.reported(lambda: len(harness.reports) > 3)
        frozen.directory.gate.clear()
        reports = len(frozen.reports)
        await harness.reported(lambda: len(harness.reports) > 30)
        assert len(frozen.reports) <= reports + 1
        frozen.directory.gate.set()
        await frozen.reported(lambda: len(frozen.reports) > reports + 3)


async def test_who_asks_amid_a_look_in_the_rounds_gets_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one look at a time, whoever makes it."""
    monkeypatch.setattr("litefs_watch.sources.reread.LATE", SOON)
    async with Harness(idle=0.01).running() as harness:
        await harness.reported(lambda: len(harness.reports) > 1)
        harness.directory.gate.clear()
        looks = len(harness.directory.asked)
        await harness.until(lambda: len(harness.directory.asked) > looks and not harness.reread._visit.waiting)
        assert not harness.reread._visit.withdraw()
        looks = len(harness.directory.asked)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.reread.read_position, "app.db")
            await anyio.wait_all_tasks_blocked()
            assert len(harness.directory.asked) == looks
            harness.directory.gate.set()
        assert frozenset({"app.db"}) in harness.directory.asked[looks:]


@pytest.mark.parametrize("where", ["_note", "_report"])
async def test_what_goes_wrong_with_a_look_of_the_rounds_goes_wrong_in_run(where: str) -> None:
    """In the look itself, or in who hears of it: the source fails, and is run again by whoever runs it."""
    harness = Harness(idle=0.01)
    with anyio.fail_after(SOON), pytest.RaisesGroup(ZeroDivisionError):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.reread.run)
            await harness.reported(lambda: len(harness.reports) > 2)
            setattr(harness.directory if where == "_note" else harness.reread, where, lambda *_: 1 / 0)


@pytest.mark.parametrize("streaming", [True, False])
async def test_where_another_source_sees_the_directory_is_seldom_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """What is new there is told of; but a look that was asked for lists it, and so does one now and then."""
    (tmp_path / ".lag").write_text("+000000000\n")
    (tmp_path / "b.db-pos").write_text(f"{HERE}\n")
    listdir, listings = os.listdir, []

    def counted(path: Path) -> list[str]:
        listings.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counted)
    harness = Harness(idle=0.005)
    harness.streaming, harness.sighted = streaming, True
    harness.reread._directory = Directory(tmp_path)
    async with harness.running():
        await harness.reported(lambda: len(harness.reports) > 20)
        assert len(listings) <= 2
        assert sum("b.db" in report.positions for report in harness.reports) > 5  # type: ignore[union-attr]
        (tmp_path / "a.db-pos").write_text(f"{HERE}\n")
        harness.reread.look()
        await harness.reported(lambda: any("a.db" in each.positions for each in harness.reports))  # type: ignore[union-attr]
        monkeypatch.setattr("litefs_watch.sources.reread.LISTING_INTERVAL", 0.0)
        (tmp_path / "c.db-pos").write_text(f"{HERE}\n")
        await harness.reported(lambda: any("c.db" in each.positions for each in harness.reports))  # type: ignore[union-attr]


async def test_with_the_stream_the_net_is_wider() -> None:
    """From the next look on, and only for as long as it is open."""
    harness = Harness(idle=0.01, streaming=60.0)
    async with harness.running():
        await harness.reported(lambda: len(harness.reports) > 3)
        harness.streaming = True
        harness.reread.look()
        await harness.until(lambda: harness.reread._everything_at > time.monotonic() + 50)
        harness.streaming = False
        harness.reread.look()
        reports = len(harness.reports)
        await harness.reported(lambda: len(harness.reports) > reports + 3)
