"""Huey's bad days, in this process: what becomes of a task that does not just run, and what its messages carry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from huey import MemoryHuey
from huey.exceptions import HueyException

from litefs_watch import BlockingWatcher
from litefs_watch.consistency import PIN
from litefs_watch.jobs.huey import KEYWORD, watch_huey
from litefs_watch.testing import SimulatedCluster

LONG_AGO = datetime(2000, 1, 1)  # noqa: DTZ001 - as Huey's are
BEHIND = "00000000000000ff/00000000000000ff@app.db"


class Queue:
    """A Huey whose consumer is this thread."""

    def __init__(self, watcher: BlockingWatcher) -> None:
        self.huey, self.watcher = MemoryHuey("faults"), watcher
        watch_huey(self.huey, watcher, timeout=0.0)
        self.ran: list[object] = []

    def task(self, **options: Any) -> Any:
        return self.huey.task(name=f"task{len(self.huey._registry._registry)}", **options)(self.ran.append)

    def run(self) -> None:
        """What is in the queue, and then what was scheduled, be it due or not."""
        for _ in self.huey.pending():
            self.huey.execute(self.huey.dequeue())
        for task in self.huey.scheduled():
            task.eta = LONG_AGO
            self.huey.enqueue(task)
        self.huey.storage._schedule.clear()

    @property
    def carried(self) -> list[object]:
        return [task.kwargs.get(KEYWORD) for task in [*self.huey.pending(), *self.huey.scheduled()]]


@pytest.fixture
def queue(cluster: SimulatedCluster) -> Iterator[Queue]:
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        yield Queue(watcher)


@pytest.mark.parametrize("options", [{"retries": 9}, {"retries": 1, "retry_delay": 9}, {"litefs_writes": True}])
def test_what_has_not_run_is_sent_again_as_it_came(
    queue: Queue, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its consumer is, or that this can't be told, is nothing that it has seen; nor is where the scheduler is."""
    task = queue.task(**options)
    task.schedule(args=(1,), kwargs={KEYWORD: BEHIND}, delay=60)
    monkeypatch.setattr("litefs_watch.jobs.guard.token_of", lambda *_: PIN)
    queue.run()
    assert queue.carried == [BEHIND]
    queue.run()
    assert queue.carried == [BEHIND]
    assert queue.ran == []


def test_what_has_run_hands_on_what_it_has_seen(queue: Queue, cluster: SimulatedCluster) -> None:
    """When it is tried again after a while, too."""

    @queue.huey.task(retries=1, retry_delay=9)
    def fails() -> None:
        cluster.execute("INSERT INTO t VALUES (NULL)")
        cluster.wait_until_replicated()
        raise OSError

    fails()
    queue.run()
    assert queue.carried == [f"{cluster.primary.position()}@app.db"]


def test_a_task_that_is_sent_twice(queue: Queue, cluster: SimulatedCluster) -> None:
    """The second time after another write. The dictionary of its arguments stays its sender's."""
    task, keywords = queue.task(), {"object": 1}
    made = task.s(1)
    task.schedule(kwargs=keywords, delay=60)
    queue.huey.enqueue(made)
    copied = type(made)(made.args, made.kwargs)  # as Result.reschedule() does
    expected = 2 * [f"{cluster.primary.position()}@app.db"]
    for task in (made, copied):
        cluster.execute("INSERT INTO t VALUES (NULL)")
        cluster.wait_until_replicated()
        queue.huey.enqueue(task)
        expected.append(f"{cluster.primary.position()}@app.db")
    assert sorted(map(str, queue.carried)) == expected
    assert keywords == {"object": 1}


def test_what_comes_after_a_task_is_not_behind_it(queue: Queue) -> None:
    """Though it ran all the same, or did not."""
    hasty, strict = queue.task(litefs_on_timeout="run"), queue.task()
    queue.huey.enqueue(hasty.s(1, **{KEYWORD: BEHIND}).then(hasty, 2))
    queue.huey.enqueue(strict.s(1, **{KEYWORD: BEHIND}).error(hasty))
    for _ in range(2):
        queue.huey.execute(queue.huey.dequeue())
    assert queue.carried == [BEHIND, BEHIND]


def test_what_comes_after_a_task_that_was_sent_back_has_its_writes(queue: Queue, cluster: SimulatedCluster) -> None:
    """What comes next was sent back with it, and is sent by itself only now."""

    @queue.huey.task(litefs_writes=True, litefs_timeout=10)
    def bill() -> None:
        cluster.execute("INSERT INTO t VALUES (NULL)")
        queue.ran.append(str(cluster["node-b"].position()))

    queue.huey.enqueue(bill.s().then(queue.task(), 1).error(queue.task(), 1))
    queue.run()
    cluster.hand_over("node-b", seconds=0.0)
    queue.watcher.wait_for_role("primary", timeout=10)
    queue.run()
    assert queue.carried == [f"{position}@app.db" for position in queue.ran] != []


@pytest.mark.parametrize("where", ["guard.wait_for", "huey.say"])
def test_the_task_s_own_timeout_ends_the_wait(queue: Queue, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment; and the task is tried again, as Huey does, with what it came with."""

    def times_out(*_: object) -> None:
        raise HueyException("timeout")  # as its TaskTimeout

    monkeypatch.setattr(f"litefs_watch.jobs.{where}", times_out)
    queue.task(retries=1)(1, **{KEYWORD: BEHIND})
    queue.huey.execute(queue.huey.dequeue())
    assert queue.carried == [BEHIND]
    assert queue.ran == []


def test_immediate_mode_waits_for_nothing(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """It runs within the request that has written; one that is sent back would wait in memory for ever."""
    queue.huey.immediate = True
    with caplog.at_level(logging.WARNING):
        queue.task(litefs_writes=True)(7)
    assert (queue.ran, queue.carried, caplog.text) == ([7], [], "")
