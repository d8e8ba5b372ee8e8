"""A run and its end: stopping, cancelling, closing loops and forking at the wrong moment, and what is told then."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.lowlevel import current_token

from litefs_watch import (
    BlockingWatcher,
    NoPrimary,
    Position,
    PrimaryChange,
    Role,
    Watcher,
    WatcherClosed,
)
from litefs_watch.core.readings import PositionsRead
from litefs_watch.sources import connection as connection_module
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers import run as run_module
from litefs_watch.watchers.run import Run

SOON = 10.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


def knows_nothing(watcher: Watcher) -> bool:
    with pytest.raises(NoPrimary):
        watcher.ensure_primary()
    status = watcher.status
    assert not any(source.alive for source in status.sources.values())
    assert (status.role, status.positions) == (Role.UNKNOWN, {})
    return (watcher.role, watcher.primary, watcher.is_primary, watcher.running, watcher.tx_number()) == (
        Role.UNKNOWN,
        None,
        False,
        False,
        0,
    )


async def test_a_stopped_watcher_knows_nothing(node: SimulatedNode) -> None:
    """UNKNOWN, its sources down: it went on saying PRIMARY, to whoever asked."""
    watcher = Watcher(node.settings())
    await watcher.start()
    assert watcher.is_primary
    await watcher.stop()
    assert knows_nothing(watcher)


def test_a_cancelled_watcher_knows_nothing(node: SimulatedNode) -> None:
    """Its event loop has ended, which cancels the tasks that are left."""
    watcher = Watcher(node.settings())
    asyncio.run(watcher.start())
    assert knows_nothing(watcher)


def test_a_loop_that_was_closed_with_its_tasks_left_in_it(node: SimulatedNode) -> None:
    """The watcher knows nothing, and can be started in another loop."""
    watcher = Watcher(node.settings())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(watcher.start())
    assert watcher.running
    loop.close()
    assert knows_nothing(watcher)

    async def again() -> Position:
        with pytest.raises(WatcherClosed):
            await watcher.wait_for_tx(1)
        async with watcher:
            return await watcher.wait_for_tx(1, timeout=SOON)

    assert anyio.run(again) == node.position()


async def test_stop_while_start_waits(node: SimulatedNode) -> None:
    """start() raises WatcherClosed at once, though LiteFS has not answered."""
    node.freeze()
    watcher = Watcher(node.settings(start_timeout=5))
    outcomes: list[BaseException] = []

    async def start() -> None:
        with pytest.raises(WatcherClosed, match="while it started") as caught:
            await watcher.start()
        outcomes.append(caught.value)

    with anyio.fail_after(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await anyio.wait_all_tasks_blocked()
            await watcher.stop()
    assert len(outcomes) == 1
    assert not watcher.running


async def test_start_while_stop_waits(node: SimulatedNode) -> None:
    """The new run lives: the old one's stop ends the old one only."""
    watcher = Watcher(node.settings())
    await watcher.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.stop)
        await anyio.lowlevel.checkpoint()
        while watcher.running:
            await anyio.lowlevel.checkpoint()
        await watcher.start()
    assert watcher.running
    assert await watcher.wait_for_tx(1, timeout=SOON) == node.position()
    await watcher.stop()


async def test_another_event_loop_is_refused(node: SimulatedNode) -> None:
    """At once, and not at its timeout; where a wait is met, any loop will do."""
    async with Watcher(node.settings()) as watcher:
        subscription = watcher.changes()

        async def foreign() -> None:
            assert await watcher.wait_for_tx(1) == node.position()
            for call in (
                watcher.wait_for_tx(9),
                watcher.wait_for_role("replica"),
                watcher.read_position(),
                subscription.take(),
            ):
                with pytest.raises(RuntimeError, match="BlockingWatcher"):
                    await call
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread\.run"):
                watcher.changes()

        for backend in ("asyncio", "trio"):
            await anyio.to_thread.run_sync(partial(anyio.run, foreign, backend=backend))
        with pytest.raises(RuntimeError, match="without the watcher's event loop"):
            await anyio.to_thread.run_sync(watcher.primary_changes)


async def test_every_wait_is_a_cancellation_point(node: SimulatedNode) -> None:
    """Also where it is met, and where there is no time."""
    async with Watcher(node.settings()) as watcher:
        for call in (
            lambda: watcher.wait_for_tx(1),
            lambda: watcher.wait_for_tx(9, timeout=0),
            lambda: watcher.wait_for_role("primary"),
            lambda: watcher.wait_for_role("replica", timeout=0),
            lambda: watcher.wait_for_primary(),
        ):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
                pytest.fail("not cancelled")
            assert scope.cancelled_caught


def test_a_task_s_own_cancellation_is_seen(node: SimulatedNode) -> None:
    """asyncio's, which knows no scopes: also where the wait is met."""

    async def main() -> None:
        async with Watcher(node.settings()) as watcher:
            for call in (lambda: watcher.wait_for_tx(1), lambda: watcher.wait_for_role("primary")):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call()
                task.uncancel()
            assert await watcher.wait_for_tx(1) == node.position()

    asyncio.run(main())


def test_a_thread_that_has_ended_is_started_anew(node: SimulatedNode) -> None:
    """By the next call, whatever ended it."""
    watcher = BlockingWatcher(node.settings())
    assert watcher.is_primary
    run = watcher._run
    run.end("a fault")
    assert watcher.wait_for_tx(1, timeout=SOON) == node.position()
    assert watcher._run is not run
    watcher.stop()
    run.stop()
    assert run.ended.wait(SOON)


def test_ctrl_c_in_start_leaves_no_thread(node: SimulatedNode) -> None:
    """It is raised, and the run has ended."""
    node.freeze()
    watcher = BlockingWatcher(node.settings(start_timeout=5))
    wait = threading.Event.wait

    def interrupt(self: threading.Event, timeout: float | None = None) -> bool:
        if timeout == 5 and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return wait(self, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Event, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            watcher.start()
    assert watcher._run.ended.wait(SOON)
    assert not watcher.running


@pytest.mark.parametrize("when", ["before its run is there", "before its thread is begun", "in its thread's start"])
def test_a_stop_amid_a_start_is_a_stop(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Another thread's first call starts it, at that very moment: it went on watching, though it was stopped."""
    watcher = BlockingWatcher(node.settings())
    new_run, start = watcher._new_run, threading.Thread.start
    runs: list[Run] = []

    def make_run(ready: Any) -> Run:
        if when == "before its run is there":
            watcher.stop()
        runs.append(new_run(ready))
        return runs[-1]

    def start_thread(thread: threading.Thread) -> None:
        if thread.name == "litefs_watch watcher" and when == "before its thread is begun":
            watcher.stop()
        start(thread)
        if thread.name == "litefs_watch watcher" and when == "in its thread's start":
            watcher.stop()

    monkeypatch.setattr(watcher, "_new_run", make_run)
    monkeypatch.setattr(threading.Thread, "start", start_thread)
    with pytest.raises(WatcherClosed):
        watcher.wait_for_tx(1)
    assert watcher.stopped
    assert not watcher.running
    assert all(run.ended.wait(SOON) for run in runs)


def test_who_waits_to_start_it_hears_of_the_stop(node: SimulatedNode) -> None:
    """A first call that waits for another one's start does not start it again."""
    watcher = BlockingWatcher(node.settings())
    outcomes: list[BaseException] = []

    def ask() -> None:
        try:
            watcher.wait_for_tx(1)
        except WatcherClosed as error:
            outcomes.append(error)

    with watcher._starting:
        asking = threading.Thread(target=ask)
        asking.start()
        until = time.monotonic() + SOON
        while not is_in(asking, "start") and not is_in(asking, "_start") and time.monotonic() < until:
            threading.Event().wait(0.001)
        watcher.stop()
    asking.join(SOON)
    assert len(outcomes) == 1
    assert watcher.stopped
    watcher.start()
    assert watcher.wait_for_tx(1, timeout=SOON) == node.position()
    watcher.stop()


def is_in(thread: threading.Thread, function: str) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None


def test_a_thread_may_import_trio_meanwhile(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is there before what is in it."""
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))

    async def main() -> Position:
        async with Watcher(node.settings()) as watcher:
            return await watcher.wait_for_tx(1, timeout=SOON)

    assert asyncio.run(main()) == node.position()


def test_a_thread_may_import_asyncio_meanwhile(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for the stream of a watcher on trio."""
    monkeypatch.setitem(sys.modules, "asyncio", types.ModuleType("asyncio"))
    assert connection_module._asyncio_loop() is None


def test_stop_from_within_a_callback(node: SimulatedNode) -> None:
    """It does not wait for the thread that it is called in."""
    watcher = BlockingWatcher(node.settings())
    stopped = threading.Event()

    def stop(change: PrimaryChange) -> None:
        watcher.stop()
        stopped.set()

    watcher.start()
    end = watcher.on_primary_change(stop)
    node.set_primary("node-b")
    assert stopped.wait(SOON)
    assert watcher._run.ended.wait(SOON)
    end()
    with pytest.raises(WatcherClosed):
        watcher.wait_for_tx(9)


PROGRAMS = {
    "a thread that is no daemon": "threading.Thread(target=wait).start()",
    "a pool's thread": "ThreadPoolExecutor(1).submit(wait)",
    "a callback that hangs": """
hung = threading.Event()
watcher.on_primary_change(lambda change: (hung.set(), time.sleep(60)))
call_soon(watcher._run.token, lambda: watcher._run._announce([PrimaryChange(Role.UNKNOWN, None, Role.PRIMARY, None)]))
hung.wait(10)
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_the_interpreter_s_end_never_hangs(node: SimulatedNode, program: str) -> None:
    """Whoever still waits is woken with WatcherClosed."""
    code = f"""
import threading, time
from concurrent.futures import ThreadPoolExecutor
from litefs_watch import BlockingWatcher, PrimaryChange, Role, Settings, WatcherClosed
from litefs_watch.sources.thread import call_soon
watcher = BlockingWatcher(Settings({str(node.litefs_dir)!r}, "app.db", api_url={node.api_url!r}))
watcher.start()
waits = threading.Event()
def wait():
    waits.set()
    try:
        watcher.wait_for_tx(99)
    except WatcherClosed:
        print("closed")
{program}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ("" if "hung" in program else "closed")


def test_the_interpreter_ends_when_no_thread_is_in_watchfiles(tmp_path: Path) -> None:
    """One that comes back from its Rust later aborts the process: 'FATAL: exception not rethrown'."""
    (tmp_path / "app.db-pos").write_text("0000000000000001/0000000000000001\n")
    code = f"""
import atexit, threading, time
def threads():
    return [thread.name for thread in threading.enumerate() if "inotify" in thread.name]
atexit.register(lambda: print(threads()))
from litefs_watch import BlockingWatcher, Settings
watcher = BlockingWatcher(Settings({str(tmp_path)!r}, "app.db", api_url=None))
watcher.start()
assert threads()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def after_fork(watcher: Watcher, connection: Any) -> None:
    connection.send((watcher.running, watcher.role, watcher.tx_number()))


async def test_another_thread_may_stop_it(node: SimulatedNode) -> None:
    """Whoever waits is awake, at once: trio, and asyncio where it checks that, refuse to be woken from elsewhere."""
    if (loop := getattr(current_token().native_token, "set_debug", None)) is not None:
        loop(True)
    watcher = Watcher(node.settings())
    await watcher.start()
    ended: list[str] = []

    async def wait() -> None:
        with pytest.raises(WatcherClosed):
            await watcher.wait_for_tx(99)
        ended.append("wait")

    async def follow() -> None:
        async for _ in watcher.changes():
            pass
        ended.append("subscription")

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(anyio.run, watcher.stop)
    assert sorted(ended) == ["subscription", "wait"]
    await watcher._run.wait_for_end()


async def test_another_thread_may_stop_it_while_it_starts(node: SimulatedNode) -> None:
    """start() says so, and stop() is no error."""
    node.freeze()
    watcher = Watcher(node.settings(start_timeout=5))

    async def stop() -> None:
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(anyio.run, watcher.stop)

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            with pytest.raises(WatcherClosed, match="while it started"):
                await watcher.start()
    node.thaw()


async def test_another_thread_may_bring_what_is_waited_for(node: SimulatedNode) -> None:
    """It reads a position itself, while no events come."""
    node.set_primary("node-b")
    async with Watcher(node.settings()) as watcher:
        position = Position(99, 99)
        changes = watcher.changes()
        got: list[Any] = []

        async def wait() -> None:
            got.append(await watcher.wait_for_tx(position))

        async def follow() -> None:
            got.append(await changes.take())

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(follow)
                await anyio.wait_all_tasks_blocked()
                read = PositionsRead(time.monotonic(), {"app.db": position})
                await anyio.to_thread.run_sync(watcher._run.publish_here, read)
        assert position in got
        assert len(got) == 2


def test_a_stop_in_the_moment_in_which_it_begins(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, which finds no event loop to cancel it in."""
    watcher = BlockingWatcher(node.settings())
    run = watcher._new_run(bool)

    def stop_first() -> Any:
        run.stop()
        return current_token()

    async def serve() -> None:
        with anyio.fail_after(SOON):
            await run.serve()

    monkeypatch.setattr(run_module, "current_token", stop_first)
    anyio.run(serve)
    assert run.ended.is_set()
    assert not run.running


async def test_whatever_goes_wrong_in_the_end_it_ends(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter of the application's log that raises, for one: who stopped it waited for ever."""
    watcher = Watcher(node.settings())
    await watcher.start()
    run = watcher._run

    def fail(reason: str) -> None:
        raise ZeroDivisionError(reason)

    monkeypatch.setattr(run.supervisor, "close", fail)
    with anyio.fail_after(SOON):
        with pytest.raises(ZeroDivisionError):
            await watcher.stop()
        await run.wait_for_end()
    assert run.ended.is_set()


async def test_a_forked_child_knows_nothing(node: SimulatedNode) -> None:
    """Its event loop is not there; the parent's goes on."""
    async with Watcher(node.settings()) as watcher:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=after_fork, args=(watcher, there))
        process.start()
        assert await anyio.to_thread.run_sync(here.poll, SOON)
        assert here.recv() == (False, Role.UNKNOWN, 0)
        await anyio.to_thread.run_sync(process.join, SOON)
        assert watcher.is_primary


async def test_old_news_meets_nobody(node: SimulatedNode) -> None:
    """LiteFS is killed, restarted and reset from 8 to 3: no wait for 8 returns, and one for 3 does."""
    node.commit(txid=8)
    async with Watcher(node.settings()) as watcher:
        assert (await watcher.wait_for_tx(8, timeout=SOON)).txid == 8
        await anyio.to_thread.run_sync(node.stop)
        await watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
        with pytest.raises(TimeoutError, match="nothing confirms"):
            await watcher.wait_for_tx(8, timeout=0)
        got: list[Position] = []

        async def wait(txid: int) -> None:
            got.append(await watcher.wait_for_tx(txid))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, 8)
            tasks.start_soon(wait, 3)
            await anyio.wait_all_tasks_blocked()
            position = node.commit(txid=3, notify=False)
            await anyio.to_thread.run_sync(node.restart)
            with anyio.fail_after(SOON):
                while not got:
                    await anyio.lowlevel.checkpoint()
            assert got == [position]
            tasks.cancel_scope.cancel()


async def test_late_waits_are_counted(node: SimulatedNode) -> None:
    """For operators: statistics().timeouts."""
    async with Watcher(node.settings()) as watcher:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await watcher.wait_for_tx(9, timeout=0)
        assert watcher.statistics().timeouts == 3
        assert watcher.statistics().restarts == 0
