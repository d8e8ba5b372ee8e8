"""The supervisor: a source that fails runs again, whole; closing; and what silence is."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import Position, Settings, WatcherClosed
from litefs_watch.core.readings import DirectoryRead, PositionsRead, Reading, Silence, StreamEnded
from litefs_watch.sources import directory as directory_module
from litefs_watch.sources import supervisor as supervisor_module
from litefs_watch.sources.directory import Directory
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


async def test_a_long_look_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that answers is an answer, long before the look at all of them is done and reported."""
    for number in range(10):
        (tmp_path / f"{number}.db-pos").write_text(f"{5:016x}/{1 << 63:016x}\n")
    clock, listened = [0.0], threading.Event()
    for module in (supervisor_module, directory_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    harness = Harness(tmp_path, silence=60.0)

    async def sleep(_: float) -> None:
        listened.set()
        await anyio.sleep(0.001)

    opened = os.open

    def slowly(*arguments: Any) -> int:
        if str(arguments[0]).startswith(str(tmp_path)) and str(arguments[0]).endswith("-pos"):
            clock[0] += 40.0
            listened.clear()
            listened.wait(SOON)  # it sleeps again, or has heard a silence
        return opened(*arguments)

    def publish(reading: Reading) -> None:
        harness.publish(reading)
        if isinstance(reading, Silence):
            listened.set()

    harness.supervisor._publish = publish
    monkeypatch.setattr(supervisor_module, "sleep", sleep)
    monkeypatch.setattr(os, "open", slowly)
    async with harness.running():
        await harness.until(lambda: any(isinstance(each, DirectoryRead) for each in harness.readings))
    assert clock[0] > 5 * 60.0
    assert not any(isinstance(each, Silence) for each in harness.readings)


class OverError(Exception):
    """The test knows enough."""


async def silent_at(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, answers: list[float], blocked: tuple[float, float] = (99.0, 99.0)
) -> float | None:
    """When the listener says that LiteFS is silent, on a clock of the test's own that ends at 40 s; None: never.

    What is to be done while the event loop is ``blocked``, is done at the end of that.
    """
    now, supervisor = 0.0, harness.supervisor
    supervisor._answered_at = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        await anyio.lowlevel.checkpoint()
        now += seconds
        if blocked[0] < now < blocked[1]:
            now = blocked[1]
        supervisor._answered_at = max(at for at in [0.0, *answers] if at <= now)
        if now > 40.0:
            raise OverError

    def publish(reading: Reading) -> None:
        assert isinstance(reading, Silence)
        raise OverError(now)

    monkeypatch.setattr(supervisor, "_publish", publish)
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(supervisor_module, "sleep", sleep)
    with pytest.raises(OverError) as over, anyio.fail_after(SOON):
        await supervisor._listen_for_silence()
    return next(iter(over.value.args), None)


EACH_SECOND = [float(second) for second in range(1, 11)]


@pytest.mark.parametrize("begins", [0.001, 0.3, 0.999])
@pytest.mark.parametrize("lasts", [2.01, 2.5, 3.1, 6.0, 20.0])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_blocked_event_loop_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: float, lasts: float, in_thread: bool
) -> None:
    """Nobody was asked meanwhile, or nobody heard the answer; LiteFS is asked soon afterwards, and answers."""
    start, end = 10.0 + begins, 10.0 + begins + lasts
    meanwhile = [start + lasts / 2] if in_thread else []
    afterwards = [end + 0.3 + second for second in range(40)]
    answers = EACH_SECOND + meanwhile + afterwards
    assert await silent_at(Harness(tmp_path, silence=3.0), monkeypatch, answers, (start, end)) is None


async def test_a_silence_is_heard_to_the_millisecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long after the last answer as the setting says; later by a block of the loop, which counts a quarter at most."""
    harness = Harness(tmp_path, silence=3.0)
    assert await silent_at(harness, monkeypatch, EACH_SECOND) == pytest.approx(13.0, abs=0.002)
    for begins in (10.2, 11.0, 12.9):
        at = await silent_at(harness, monkeypatch, EACH_SECOND, (begins, begins + 5.0))
        assert at is not None
        assert 13.0 + 5.0 - 0.75 <= at <= 13.0 + 5.0 + 0.002


@pytest.mark.parametrize(("silence", "idle_interval", "latest"), [(1.0, 1.0, 0.5), (60.0, 60.0, 30.0), (3.0, 1.0, 1.0)])
def test_a_quiet_node_is_asked_twice_before_it_is_silent(
    tmp_path: Path, silence: float, idle_interval: float, latest: float
) -> None:
    """Also where `silence` is no longer than `idle_interval`: a look that begins as the silence ends would be late."""
    supervisor = Supervisor(
        Settings(tmp_path, api_url=None, silence=silence, idle_interval=idle_interval),
        tmp_path,
        publish=lambda _: None,
        known=set,
        awaited=frozenset,
    )
    assert supervisor._reread._interval() == latest
