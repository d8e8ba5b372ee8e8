"""The shared look: who gets which, how often, and what is not read."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import Position, WatcherClosed
from litefs_watch.core.readings import DirectoryRead, PositionsRead
from litefs_watch.sources.directory import Directory
from tests.sources.rereads import HERE, SOON, Harness


async def test_the_first_look_is_at_everything_and_off_the_loop() -> None:
    """A frozen LiteFS would block the thread."""
    async with Harness().running() as harness:
        assert harness.directory.asked == [None]
        assert harness.reread.looked
        assert threading.get_ident() not in harness.directory.threads


async def test_who_asks_at_the_time_of_a_look_at_everything_gets_a_read_of_his_own() -> None:
    """That look begins with ``.primary``; a position that is handed out is read before it."""
    async with Harness().running() as harness:
        harness.reread.look()
        assert await harness.reread.read_position("app.db") == HERE
        assert harness.directory.asked == [None, None, frozenset({"app.db"})]
        assert [type(report) for report in harness.reports[-2:]] == [DirectoryRead, PositionsRead]


async def test_all_who_ask_before_a_look_begins_share_it() -> None:
    """And who asks while it is under way gets the next: what it saw may be older than the question."""
    async with Harness().running() as harness:
        harness.directory.gate.clear()
        results: list[Position | None] = []

        async def ask() -> None:
            results.append(await harness.reread.read_position("app.db"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await harness.until(lambda: len(harness.directory.asked) == 2)
            for _ in range(50):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert results == []
            harness.directory.gate.set()
        assert results == [HERE] * 51
        assert harness.directory.asked == [None, frozenset({"app.db"}), frozenset({"app.db"})]


async def test_who_asks_and_leaves_leaves_nothing() -> None:
    """A request that timed out while LiteFS was frozen."""
    async with Harness().running() as harness:
        harness.directory.gate.clear()
        for _ in range(3):
            with anyio.move_on_after(0.01) as scope:
                await harness.reread.read_position("app.db")
            assert scope.cancelled_caught
        assert harness.reread._next.databases <= {"app.db"}
        harness.directory.gate.set()
        with anyio.fail_after(SOON):
            assert await harness.reread.read_position("app.db") == HERE


async def test_stopping_fails_those_who_ask() -> None:
    """Those of the look under way, which may never end, and those of the next."""
    outcomes: list[str] = []
    harness = Harness()

    async def ask() -> None:
        try:
            await harness.reread.read_position("app.db")
        except WatcherClosed as error:
            outcomes.append(str(error))

    async with anyio.create_task_group() as asking, anyio.create_task_group() as reading:
        reading.start_soon(harness.reread.run)
        await harness.until(lambda: bool(harness.reports))
        harness.directory.gate.clear()
        asking.start_soon(ask)
        await harness.until(lambda: len(harness.directory.asked) == 2)
        asking.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        reading.cancel_scope.cancel()
    harness.directory.gate.set()
    assert outcomes == ["the watcher was stopped during a read"] * 2


async def test_blind_it_looks_often_and_only_at_what_is_awaited() -> None:
    """A mount without its stream: one look for all waiters."""
    async with Harness(blind=0.001).running() as harness:
        harness.awaited = frozenset({"app.db", "b.db"})
        harness.reread.stir()
        await harness.until(lambda: len(harness.directory.asked) > 5)
        assert set(harness.directory.asked[1:]) == {frozenset({"app.db", "b.db"})}
        harness.awaited = frozenset()


@pytest.mark.parametrize(
    ("awaited", "sighted", "expecting", "interval"),
    [
        (frozenset(), False, False, 1.0),
        (frozenset(), True, False, 1.0),
        (frozenset({"a"}), True, False, 0.1),
        (frozenset({"a"}), False, False, 0.005),
        (frozenset(), True, True, 0.001),
    ],
)
def test_how_often(awaited: frozenset[str], sighted: bool, expecting: bool, interval: float) -> None:
    """Once a second when idle; every few milliseconds while somebody waits and no source sees replication."""
    harness = Harness(idle=1.0, blind=0.005)
    harness.awaited, harness.sighted = awaited, sighted
    if expecting:
        harness.reread._expected["a"] = (9, 0.0)
    assert harness.reread._interval() == interval


async def test_an_expected_transaction_is_looked_for_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteFS renames the file a moment before it applies it."""
    monkeypatch.setattr("litefs_watch.sources.reread.EXPECTED_FOR", SOON)
    async with Harness().running() as harness:
        harness.reread.expect("app.db", 6)
        await harness.until(lambda: len(harness.directory.asked) > 3)
        harness.directory.position = Position(6, 1)
        await harness.until(lambda: not harness.reread._expected)
        assert isinstance(harness.reports[-1], PositionsRead)


async def test_a_transaction_that_never_comes_is_not_expected_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may hold replication back."""
    monkeypatch.setattr("litefs_watch.sources.reread.EXPECTED_FOR", 0.01)
    async with Harness().running() as harness:
        harness.reread.expect("app.db", 6)
        await harness.until(lambda: not harness.reread._expected)


async def test_look_at_looks_at_everything_when_it_is_time() -> None:
    """The state's second look."""
    async with Harness().running() as harness:
        harness.reread.look_at(0.0)
        await harness.until(lambda: harness.directory.asked == [None, None])


async def test_a_look_at_everything_is_made_in_slices() -> None:
    """Each database once, in as many goes as it takes; the look is whole when the last one is read."""
    harness = Harness()
    harness.directory.listed = [f"{number}.db" for number in range(10)]
    harness.directory.slice = 3
    async with harness.running():
        await harness.until(lambda: harness.reread.looked)
        seen = [name for report in harness.reports for name in report.positions]  # type: ignore[union-attr]
        assert sorted(seen) == ["0.db", *(f"{number}.db" for number in range(1, 10)), "app.db"]
        assert [isinstance(report, DirectoryRead) for report in harness.reports] == [True, False, False, False]


async def test_a_read_does_not_queue_behind_a_look_at_everything() -> None:
    """It is answered with the next slice, however many are left."""
    harness = Harness()
    harness.directory.listed = [f"{number:04}.db" for number in range(5000)]
    harness.directory.slice = 1
    async with harness.running():
        with anyio.fail_after(SOON):
            assert await harness.reread.read_position("zzz.db") == HERE
        assert not harness.reread.looked
        assert len(harness.directory.asked) < 10


async def test_with_the_stream_the_net_is_a_slice_in_turn() -> None:
    """Not all of it each time; and all of it in the end, again and again, with looks at the others alone in between. What
    asks for everything gets everything."""
    harness = Harness(idle=0.001)
    harness.streaming = harness.sighted = True
    harness.directory.listed = [f"{number}.db" for number in range(10)]
    harness.directory.slice = 3
    async with harness.running():
        await harness.until(lambda: harness.reread.looked)  # the first look is whole
        del harness.reports[:]
        await harness.until(lambda: len(harness.reports) >= 24)
        assert all(isinstance(report, DirectoryRead) for report in harness.reports)
        sizes = [len(report.positions) for report in harness.reports]  # type: ignore[union-attr]
        begun = sizes.index(2) + 1
        rounds = harness.reports[begun : begun + 18]
        assert [len(report.positions) for report in rounds] == [0, 0, 3, 3, 3, 2] * 3  # type: ignore[union-attr]
        seen = [name for report in rounds for name in report.positions]  # type: ignore[union-attr]
        assert {seen.count(name) for name in ("app.db", *harness.directory.listed)} == {3}
        del harness.reports[:]
        harness.reread.look()
        await harness.until(lambda: sum(isinstance(report, PositionsRead) for report in harness.reports) >= 3)


async def test_slices_that_are_cut_off_by_new_looks_still_come_around() -> None:
    """Whoever asks for everything all the time does not get the same first slice each time."""
    harness = Harness()
    harness.directory.listed = [f"{number}.db" for number in range(9)]
    harness.directory.slice = 2
    async with harness.running():
        seen: set[str] = set()
        with anyio.fail_after(SOON):
            while len(seen) < 10:
                harness.reread.look()
                await anyio.lowlevel.checkpoint()
                seen.update(name for report in harness.reports for name in report.positions)  # type: ignore[union-attr]


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_fault_stays_until_its_file_is_read_again(tmp_path: Path, streaming: bool) -> None:
    """Not only for as long as its slice is the last one; and one whose file is gone goes, too."""
    for number in range(10):
        (tmp_path / f"{number:02}.db-pos").write_text(f"{HERE}\n")
    for number in (1, 5, 9):
        (tmp_path / f"{number:02}.db-pos").write_text("garbage")
    (tmp_path / ".lag").write_text("+000000000\n")
    harness = Harness(idle=0.001)
    harness.streaming = streaming
    reread = harness.reread
    reread._directory = Slowly(tmp_path)
    async with harness.running():
        await harness.reported(lambda: len(reread.faults) == 3)
        for looks in range(reread.looks, reread.looks + 25):
            await harness.reported(lambda: reread.looks > looks)  # noqa: B023
            assert set(reread.faults) == {"01.db-pos", "05.db-pos", "09.db-pos"}
        (tmp_path / "01.db-pos").unlink()
        (tmp_path / "05.db-pos").write_text(f"{HERE}\n")
        await harness.reported(lambda: set(reread.faults) == {"09.db-pos"})


class Slowly(Directory):
    """One file in each go, whatever time there is."""

    def begin_look(self, *arguments: Any, **options: Any) -> tuple[DirectoryRead, list[str]]:
        return super().begin_look(*arguments, **options | {"within": 0})

    def go_on(self, *arguments: Any, **options: Any) -> tuple[PositionsRead, dict[str, str], list[str]]:
        return super().go_on(*arguments, **options | {"within": 0})


async def test_a_machine_that_was_suspended_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wall clock has gone on, and the other one has not. Once; and an hour less is no sign of it."""
    clock, now = [0.0], time.time
    monkeypatch.setattr("litefs_watch.sources.reread.time.time", lambda: now() + clock[0])
    seen = []
    async with Harness().running() as harness:
        for ahead in (0.0, 5.0, 5.0, -3600.0):
            clock[0] = ahead
            count = len(harness.reports)
            harness.reread.look()
            await harness.reported(lambda count=count: len(harness.reports) > count)  # type: ignore[misc]
            seen += [each.resumed for each in harness.reports[count:] if isinstance(each, DirectoryRead)]
    assert seen == [False, True, False, False]
