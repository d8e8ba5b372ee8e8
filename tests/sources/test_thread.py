"""The threads for blocking calls: shared, lent, ended; and never waited for by anybody but who made the call."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import Empty

import anyio
import pytest

from litefs_watch.sources import thread as thread_module
from litefs_watch.sources.thread import IDLE_NAME, CallThread

SOON = 10.0


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> thread_module._Cache:
    """Nobody else's threads."""
    cache = thread_module._Cache()
    monkeypatch.setattr(thread_module, "_cache", cache)
    return cache


async def until(condition: Callable[[], object]) -> None:
    """What another thread does."""
    with anyio.fail_after(SOON):
        while not condition():  # noqa: ASYNC110 - no event of ours tells
            await anyio.sleep(0.001)


async def test_many_share_a_few_threads(cache: thread_module._Cache) -> None:
    """One call after the other needs one thread, whoever makes them; and it bears the caller's name meanwhile."""
    seen: set[threading.Thread] = set()
    names: list[str] = []

    def call() -> None:
        seen.add(threading.current_thread())
        names.append(threading.current_thread().name)

    for number in range(50):
        await CallThread(f"caller {number}").run(call)
        await until(lambda: cache._idle)  # it is given back after the answer
    assert [thread.name for thread in seen] == [IDLE_NAME]
    assert names == [f"caller {number}" for number in range(50)]


async def test_calls_of_one_run_one_after_the_other() -> None:
    """In their order; and what one of them raises is raised to who made it."""
    one = CallThread("one")
    running: list[int] = []
    order: list[int] = []
    asked: list[int] = []

    def call(number: int) -> int:
        running.append(number)
        assert len(running) == 1
        order.append(number)
        running.pop()
        if number % 5 == 0:
            raise KeyError(number)
        return number

    async def ask(number: int) -> None:
        asked.append(number)
        if number % 5 == 0:
            with pytest.raises(KeyError):
                await one.run(partial(call, number))
        else:
            assert await one.run(partial(call, number)) == number

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, number)
    assert len(order) == 20
    assert order == asked


async def test_whatever_is_raised_is_handed_over(cache: thread_module._Cache) -> None:
    """Also what is no `Exception`: nobody waits for ever, and the thread goes on."""
    with anyio.fail_after(SOON), pytest.raises(SystemExit):
        await CallThread("one").run(sys.exit)
    await until(lambda: cache._idle)


async def test_one_that_blocks_keeps_its_thread_alone() -> None:
    """Everybody else gets another."""
    gate = threading.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(CallThread("blocked").run, partial(gate.wait, SOON))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(SOON):
            assert await CallThread("other").run(lambda: 7) == 7
        gate.set()


async def test_who_is_cancelled_leaves_and_the_call_is_made(cache: thread_module._Cache) -> None:
    """As well as those behind it: a lock is released though nobody waits for that any more."""
    gate, made = threading.Event(), threading.Event()
    one = CallThread("one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, partial(gate.wait, SOON))
        await anyio.wait_all_tasks_blocked()  # trio begins them in any order
        tasks.start_soon(one.run, made.set)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert not made.is_set()
    gate.set()
    await until(made.is_set)
    await until(lambda: cache._idle)


async def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised to who asked, the call is not made later, and the next one tries again."""
    one = CallThread("one")
    made: list[int] = []

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            await one.run(partial(made.append, 1))
    with anyio.fail_after(SOON):
        await one.run(partial(made.append, 2))
    assert made == [2]


async def test_a_start_that_is_interrupted_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, while the thread is there already: it waited for what it was lent for, again and again."""
    monkeypatch.setattr(thread_module, "IDLE_LIMIT", 0.001)
    monkeypatch.setattr(thread_module, "_cache", thread_module._Cache())
    start, threads = threading.Thread.start, []

    def interrupt(thread: threading.Thread) -> None:
        start(thread)
        threads.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            thread_module.lend("one", lambda: None)
    await anyio.to_thread.run_sync(threads[0].join, SOON)
    assert not threads[0].is_alive()


async def test_what_nobody_needs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while; and one that is lent at that very moment does not."""
    monkeypatch.setattr(thread_module, "IDLE_LIMIT", 0.001)
    threads: list[threading.Thread] = []
    for _ in range(200):
        with anyio.fail_after(SOON):
            await CallThread("one").run(lambda: threads.append(threading.current_thread()))
        await anyio.sleep(0.001)
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, SOON)
        assert not thread.is_alive()


def test_one_that_is_lent_as_it_ends_stays(cache: thread_module._Cache) -> None:
    """Its time is over at the moment in which it is lent: it takes the call."""

    class Late:
        """A queue whose wait ends although something was put into it."""

        def __init__(self) -> None:
            self.calls = 0

        def get(self, timeout: float) -> tuple[str, Callable[[], None]]:
            self.calls += 1
            if self.calls == 1:
                raise Empty
            if self.calls == 2:
                return "one", lambda: done.append(1)
            cache._idle.append(worker)
            raise Empty

    done: list[int] = []
    worker = thread_module._Worker(cache)
    worker.tasks = Late()  # type: ignore[assignment]
    thread = threading.Thread(target=worker.work)
    thread.start()
    thread.join(SOON)
    assert done == [1]


async def test_an_idle_thread_keeps_nothing_alive(cache: thread_module._Cache) -> None:
    """Who has made the last call can be collected, and his descriptors with him."""

    class Owner:
        def call(self) -> None:
            pass

    owner = Owner()
    gone = weakref.ref(owner)
    await CallThread("one").run(owner.call)
    await until(lambda: cache._idle)
    del owner
    await until(lambda: gc.collect() is None or gone() is None)


def test_a_forked_child_has_threads_of_its_own(cache: thread_module._Cache) -> None:
    """The parent's are not there; not even where one is being lent at that moment."""

    async def call() -> int:
        with anyio.fail_after(SOON):
            return await CallThread("one").run(os.getpid)

    assert anyio.run(call) == os.getpid()
    with cache._lock:
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if anyio.run(call) == os.getpid() else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_the_interpreter_ends_though_calls_do_not() -> None:
    """One that blocks, and one that is idle."""
    program = """if True:
        import anyio, threading
        from litefs_watch.sources.thread import CallThread
        async def main():
            await CallThread("idle").run(int)
            with anyio.move_on_after(0.01):
                await CallThread("blocked").run(threading.Event().wait)
        anyio.run(main)
        print("over")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON, check=True)
    assert (ended.stdout, ended.stderr) == ("over\n", "")
