"""The rounds: one thread for all who have a call, one wake for each event loop, and none who waits for another's LiteFS."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from litefs_watch.sources import rounds as rounds_module
from litefs_watch.sources import thread as thread_module
from litefs_watch.sources.rounds import Outcome, Visit, _Rounds

SOON = 10.0
LATER = 3600.0


@pytest.fixture(autouse=True)
def rounds(monkeypatch: pytest.MonkeyPatch) -> _Rounds:
    """Nobody else's."""
    rounds = _Rounds()
    monkeypatch.setattr(rounds_module, "_rounds", rounds)
    monkeypatch.setattr(thread_module, "_cache", thread_module._Cache())
    return rounds


async def until(condition: Callable[[], object]) -> None:
    """What another thread does."""
    with anyio.fail_after(SOON):
        while not condition():  # noqa: ASYNC110 - no event of ours tells
            await anyio.sleep(0.001)


class Visited:
    """A visit, what came of it, and in which threads."""

    def __init__(self, call: Callable[[], object] = lambda: 7) -> None:
        self.results: list[object] = []
        self.made: list[float] = []
        self.threads: set[threading.Thread] = set()
        self.loop_threads: set[threading.Thread] = set()
        self.visit = Visit(self.visited)
        self._call = call

    def at(self, delay: float, *, slack: float = 0.0) -> Visited:
        self.visit.at(time.monotonic() + delay, self.make, slack=slack)
        return self

    def make(self) -> object:
        self.made.append(time.monotonic())
        self.threads.add(threading.current_thread())
        return self._call()

    def visited(self, outcome: Outcome) -> None:
        self.loop_threads.add(threading.current_thread())
        try:
            self.results.append(outcome())
        except BaseException as error:  # noqa: BLE001 - to be looked at
            self.results.append(error)


class Gate:
    """A frozen LiteFS."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def wait(self) -> bool:
        self.begun.set()
        return self.open.wait(SOON)


async def test_who_is_due_soon_comes_with_who_is_due(monkeypatch: pytest.MonkeyPatch, rounds: _Rounds) -> None:
    """All in one thread, their event loop is woken once, and nobody is visited earlier than he allows."""
    woken: list[object] = []

    def tell(*arguments: Any) -> bool:
        woken.append(1)
        return thread_module.call_soon(*arguments)

    monkeypatch.setattr(rounds_module, "call_soon", tell)
    monkeypatch.setattr(rounds_module, "TELL_AFTER", SOON)
    with rounds._changed:  # so that it can't begin before all are there
        many = [Visited().at(0.05 + number / 1000, slack=SOON) for number in range(50)]
    early = Visited().at(LATER, slack=60.0)
    await until(lambda: all(each.results for each in many))
    assert len({thread for each in many for thread in each.threads}) == len(woken) == 1
    assert {thread for each in many for thread in each.loop_threads} == {threading.current_thread()}
    assert all(made >= each.visit.earliest for each in many for made in each.made)
    assert min(made - each.visit.when for each in many for made in each.made) < 0.0  # they came along
    assert not early.made
    early.visit.cancel()


async def test_it_is_made_anew_each_time(rounds: _Rounds) -> None:
    """From its outcome, too; and an earlier one wakes the thread that waits for a later one."""
    later = Visited().at(LATER)
    await until(lambda: rounds._wakes_at < float("inf"))
    one = Visited()
    for _ in range(5):
        one.at(0.001)
        await until(lambda: len(one.results) == len(one.made) and not one.visit.waiting)
    assert one.results == [7] * 5
    assert later.visit.withdraw()


@pytest.mark.parametrize("error", [ZeroDivisionError("raised"), SystemExit(3)])
async def test_what_is_raised_is_handed_over(error: BaseException) -> None:
    """And the next one is visited by the same thread."""

    def fail() -> None:
        raise error

    one, two = Visited(fail).at(0.0), Visited()
    await until(lambda: one.results)
    two.at(0.0)
    await until(lambda: two.results)
    assert (one.results, two.results) == ([error], [7])
    assert one.threads == two.threads


async def test_what_is_withdrawn_is_not_made() -> None:
    """Unless it has begun: then its outcome comes; cancelled, that doesn't either."""
    gate = Gate()
    one, two = Visited(gate.wait), Visited(gate.wait)
    three = Visited().at(LATER)
    assert three.visit.withdraw()
    assert not three.visit.waiting
    for each in (one, two):
        gate.begun.clear()
        gate.open.clear()
        each.at(0.0)
        await until(gate.begun.is_set)
        assert not each.visit.withdraw()
        if each is two:
            each.visit.cancel()
        gate.open.set()
        await until(lambda: one.results)
    after = Visited().at(0.0)
    await until(lambda: after.results)
    assert (one.results, two.results, three.made) == ([True], [], [])


@pytest.mark.parametrize("found_by", ["put", "withdraw"])
async def test_nobody_waits_for_one_that_blocks(monkeypatch: pytest.MonkeyPatch, rounds: _Rounds, found_by: str) -> None:
    """Who finds that his own is late has another thread go on; and what was made before the one that blocks is told."""
    monkeypatch.setattr(rounds_module, "STUCK", 0.0)
    gate = Gate()
    with rounds._changed:
        before = Visited().at(0.0, slack=SOON)
        frozen = Visited(gate.wait).at(0.0, slack=SOON)
        behind, found = Visited().at(0.0, slack=SOON), Visited()
    await until(gate.begun.is_set)
    assert before.made
    assert not behind.made
    if found_by == "put":
        found.at(0.0)
        await until(lambda: found.results)
    else:
        assert behind.visit.withdraw()
        behind.at(0.0)
    await until(lambda: behind.results and before.results)
    assert not frozen.results
    gate.open.set()
    await until(lambda: frozen.results)
    assert behind.threads.isdisjoint(frozen.threads)


def test_one_whose_outcome_is_taken_badly_harms_nobody() -> None:
    """Who is told together with it is told still."""
    told: list[object] = []

    async def main() -> None:
        bad, good = Visit(lambda _: 1 / 0), Visit(told.append)
        with rounds_module._rounds._changed:
            bad.at(0.0, int, slack=0.0)
            good.at(0.0, int, slack=0.0)
        await until(lambda: told)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())
    loop.close()


async def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch, rounds: _Rounds) -> None:
    """It is raised to who is put there, the call is not made later, and the next one tries again."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one, two = Visited(), Visited()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            one.at(0.0)
    assert not rounds._waiting
    two.at(0.0)
    await until(lambda: two.results)
    assert not one.made


async def test_a_fault_of_ours_costs_a_thread_and_no_more(monkeypatch: pytest.MonkeyPatch, rounds: _Rounds) -> None:
    """Who waits then is visited once somebody is put there."""
    one, two = Visited(), Visited()
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_begin", lambda *_: 1 / 0)
        one.at(0.0)
        await until(lambda: rounds._serving is None)
    two.at(0.0)
    await until(lambda: one.results and two.results)


@pytest.mark.parametrize("where", ["done", "told"])
async def test_an_outcome_that_is_lost_is_given_up(monkeypatch: pytest.MonkeyPatch, rounds: _Rounds, where: str) -> None:
    """Through a fault of ours: whose it is looks again. He waited for it, and never looked any more."""
    monkeypatch.setattr(rounds_module, "LOST", 0.01)
    one = Visited()
    with monkeypatch.context() as patch:
        if where == "done":
            patch.setattr(rounds, "_done", lambda *_: 1 / 0)
        else:
            patch.setattr(rounds_module, "call_soon", lambda *_: 1 / 0)
        one.at(0.0)
        await until(lambda: one.made)
        await until(lambda: rounds._serving is None)
        await until(one.visit.withdraw)
    one.at(0.0)
    await until(lambda: one.results)
    assert one.results == [7]


async def test_one_that_blocks_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long: a frozen LiteFS is asked once."""
    monkeypatch.setattr(rounds_module, "LOST", 0.0)
    gate = Gate()
    one = Visited(gate.wait).at(0.0)
    await until(gate.begun.is_set)
    assert not one.visit.withdraw()
    gate.open.set()
    await until(lambda: one.results)


async def test_what_nobody_needs_ends(monkeypatch: pytest.MonkeyPatch, rounds: _Rounds) -> None:
    """The thread, after a while; and until then it keeps nobody alive."""
    one = Visited().at(0.0)
    await until(partial(getattr, one, "results"))
    gone = weakref.ref(one)
    del one
    await until(lambda: gc.collect() is None or gone() is None)
    monkeypatch.setattr(rounds_module, "IDLE_LIMIT", 0.0)
    two = Visited().at(0.0)  # wakes it
    await until(lambda: rounds._serving is None)
    assert two.made


def test_each_event_loop_hears_of_its_own() -> None:
    """Of several, in several threads, asyncio's and trio's; one that is gone harms nobody."""
    results: dict[threading.Thread, Visited] = {}

    async def gone() -> None:
        Visited(lambda: time.sleep(0.02)).at(0.0)

    async def hear() -> None:
        results[threading.current_thread()] = one = Visited().at(0.01)
        await until(lambda: one.results)

    anyio.run(gone)
    threads = [
        threading.Thread(target=anyio.run, args=(hear,), kwargs={"backend": kind}) for kind in ["asyncio", "trio"] * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
        assert results[thread].loop_threads == {thread}


def test_a_forked_child_makes_rounds_of_its_own(rounds: _Rounds) -> None:
    """The parent's thread is not there; not even where it held the lock."""

    async def visit() -> object:
        one = Visited(os.getpid).at(0.0)
        await until(lambda: one.results)
        return one.results[0]

    assert anyio.run(visit) == os.getpid()
    with rounds._changed:
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if anyio.run(visit) == os.getpid() else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_the_interpreter_ends_amid_a_round() -> None:
    """With one that blocks, and one that waits."""
    program = """if True:
        import anyio, threading
        from litefs_watch.sources.rounds import Visit
        async def main():
            begun = threading.Event()
            visits = [Visit(print), Visit(print)]
            visits[0].at(0.0, lambda: (begun.set(), threading.Event().wait()), slack=0.0)
            visits[1].at(1e9, print, slack=0.0)
            await anyio.to_thread.run_sync(begun.wait)
        anyio.run(main)
        print("over")
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON, check=True)
    assert (ended.stdout, ended.stderr) == ("over\n", "")
