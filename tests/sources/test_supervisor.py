"""The supervisor: a source that fails runs again, whole; closing; and what silence is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import WatcherClosed
from litefs_watch.core.readings import Silence, StreamEnded
from litefs_watch.sources import rounds as rounds_module
from litefs_watch.sources import shared_watch as shared_module
from litefs_watch.sources import supervisor as supervisor_module
from litefs_watch.sources import thread as thread_module
from litefs_watch.sources.directory import Directory
from tests.sources.supervisors import SOON, Harness, write


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE", 0.01)


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


class Failing:
    """A call that raises as often as it is told to."""

    def __init__(self, real: Callable[..., Any], error: Exception) -> None:
        self.real, self.error = real, error
        self.times = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.times > 0:
            self.times -= 1
            raise self.error
        return self.real(*arguments, **options)


async def works(harness: Harness) -> None:
    """Positions move, and a read answers."""
    before = harness.position
    write(harness.folder, (before.txid if before else 5) + 1)
    with anyio.fail_after(SOON):
        position = await harness.supervisor.read_position("app.db")
    assert position is not None
    harness.awaited = frozenset({"app.db"})
    harness.supervisor.hurry("app.db")
    await harness.until(lambda: harness.position == position)
    await harness.until(lambda: all(each.alive for name, each in harness.supervisor.status.items() if name != "stream"))


@pytest.mark.parametrize("where", ["begin_look", "go_on"])
async def test_a_look_that_raises(harness: Harness, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Whatever a look raises: who asked gets an error, and the re-read runs again with a thread."""
    failing = Failing(getattr(Directory, where), ZeroDivisionError("a fault of ours"))
    monkeypatch.setattr(Directory, where, lambda *arguments, **options: failing(*arguments, **options))
    async with harness.running() as supervisor:
        await harness.quiet()
        failing.times = 1
        if where == "begin_look":
            supervisor.look_at(0.0)
        with anyio.fail_after(SOON), pytest.raises(OSError, match="a fault of ours"):
            await supervisor.read_position("app.db")
        await works(harness)
        assert supervisor.counts.restarts == 1


async def test_a_read_amid_the_pause_waits(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered by the re-read that runs again; where none will, because of a stop, it raises WatcherClosed."""
    failing = Failing(Directory.go_on, ZeroDivisionError("a fault of ours"))
    monkeypatch.setattr(Directory, "go_on", lambda *arguments, **options: failing(*arguments, **options))
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE", 0.3)
    outcomes: list[object] = []

    async def read() -> None:
        try:
            outcomes.append(await harness.supervisor.read_position("app.db"))
        except WatcherClosed as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as readers, harness.running() as supervisor:
        await harness.quiet()
        for expected in ([harness.position], [harness.position, WatcherClosed]):
            await harness.quiet()
            failing.times = 1
            with anyio.fail_after(SOON), pytest.raises(OSError, match="a fault of ours"):
                await supervisor.read_position("app.db")
            readers.start_soon(read)
            if len(expected) == 1:
                await harness.until(lambda: bool(outcomes))
    with anyio.fail_after(SOON), pytest.raises(WatcherClosed):
        await harness.supervisor.read_position("app.db")
    assert outcomes == expected


async def test_no_thread_to_be_had(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process has no more threads for a moment, each source comes later."""
    monkeypatch.setattr(thread_module, "_cache", thread_module._Cache())  # others may have left threads to be lent
    monkeypatch.setattr(rounds_module, "_rounds", rounds_module._Rounds())
    monkeypatch.setattr(shared_module, "_shared", shared_module.SharedWatch())
    failing = Failing(threading.Thread.start, RuntimeError("can't start new thread"))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: failing(thread))
    failing.times = 5
    async with harness.running() as supervisor:
        await harness.until(lambda: failing.times == 0)
        await works(harness)
        assert supervisor.counts.restarts >= 2


async def test_a_reader_of_readings_that_raises(harness: Harness) -> None:
    """Once, for each source that reports: nothing is dead afterwards."""
    failing = Failing(harness.publish, ZeroDivisionError("a fault of ours"))
    harness.supervisor._publish = failing
    failing.times = 2
    async with harness.running() as supervisor:
        await harness.until(lambda: harness.position is not None)
        await works(harness)
        assert supervisor.counts.restarts == 2


async def test_an_inotify_callback_that_raises(harness: Harness) -> None:
    """It is called in the loop itself, where trio ends the application for it: the source runs again instead."""
    failing = Failing(harness.supervisor._files._look, ZeroDivisionError("a fault of ours"))
    harness.supervisor._files._look = failing
    async with harness.running() as supervisor:
        await harness.until(lambda: supervisor._files.covers)
        failing.times = 1
        numbers = iter(range(6, 10_000))
        await harness.until(lambda: failing.times == 0, lambda: write(harness.folder, next(numbers)))
        await harness.until(lambda: supervisor.counts.restarts == 1)
        await works(harness)


async def test_a_stream_that_raises_has_ended(harness: Harness) -> None:
    """No more events come: the state must know, and the re-read looks."""
    failing = Failing(harness.supervisor._stream.run, ZeroDivisionError("a fault of ours"))
    harness.supervisor._stream.run = failing  # type: ignore[method-assign]
    failing.times = 1
    async with harness.running() as supervisor:
        await harness.until(lambda: supervisor.counts.restarts == 1)
        assert any(isinstance(each, StreamEnded) for each in harness.readings)
        await works(harness)


async def test_the_silence_listener_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence whose report fails is reported again."""
    gate = threading.Event()
    monkeypatch.setattr(Directory, "begin_look", lambda *_, **__: gate.wait(SOON))
    harness = Harness(tmp_path, silence=0.02)
    failing = Failing(harness.publish, ZeroDivisionError("a fault of ours"))
    harness.supervisor._publish = failing
    failing.times = 1
    async with harness.running() as supervisor:
        await harness.until(lambda: any(isinstance(each, Silence) for each in harness.readings))
        assert supervisor.counts.restarts == 1
    gate.set()


async def test_pauses_grow(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for long is not run in a spin."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE", 0.1)
    failing = Failing(anyio.lowlevel.checkpoint, ZeroDivisionError("a fault of ours"))
    failing.times = 8
    monkeypatch.setattr(supervisor_module, "sleep", sleep)
    with anyio.fail_after(SOON):
        await harness.supervisor._keep_running(failing)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_two_threads_may_close_it_at_once(harness: Harness) -> None:
    """Who stops the watcher, and its event loop, in the midst of a change: neither takes the watch from under the other."""
    files = harness.supervisor._files
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_slow", "_quick"):
            watches = [Stopped()]

            def look(_: object, watches: list[Stopped] = watches) -> Stopped | None:
                return watches.pop() if watches else None  # the other one has taken it out right after that

            patch.setattr(type(files), name, property(look, lambda *_: None), raising=False)
        harness.supervisor.close("the watcher was stopped")


class Stopped:
    """A watch that was stopped."""

    in_place = False

    def stop(self) -> None:
        """Again."""
