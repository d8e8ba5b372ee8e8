"""Dramatiq's bad days, with a worker in this process: what its messages carry that are sent again, or for others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from litefs_watch import BlockingWatcher
from litefs_watch.consistency import PIN
from litefs_watch.jobs.dramatiq import LiteFSMiddleware
from litefs_watch.jobs.guard import CARRIER
from litefs_watch.testing import SimulatedCluster
from tests.jobs.brokers import wait_until

BEHIND = "00000000000000ff/00000000000000ff@app.db"


class Queue:
    """A broker, its worker, and what was sent there."""

    def __init__(self, watcher: BlockingWatcher) -> None:
        self.broker = StubBroker()
        self.broker.add_middleware(LiteFSMiddleware(watcher, timeout=0.0))
        self.broker.add_middleware(Sent(self))
        self.carried: list[str | None] = []
        self.worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=1)

    def actor(self, function: Any, **options: Any) -> Any:
        return dramatiq.actor(broker=self.broker, min_backoff=1, max_backoff=2, **options)(function)


class Sent(dramatiq.Middleware):
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self._queue.carried.append(message.options.get(CARRIER))


@pytest.fixture
def queue(cluster: SimulatedCluster) -> Iterator[Queue]:
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        queue = Queue(watcher)
        yield queue
        queue.worker.stop()
        queue.broker.close()


@pytest.mark.parametrize("options", [{"max_retries": 2}, {"litefs_writes": True}, {"litefs_on_timeout": "fail"}])
def test_what_has_not_run_is_sent_again_as_it_came(
    queue: Queue, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its worker is, or that this can't be told, is nothing that it has seen; nor is where those are that have it
    until it is due."""

    def look() -> None:
        pytest.fail("it must not run")

    actor = queue.actor(look, **options)
    delayed = actor.message().copy(options={CARRIER: BEHIND})
    queue.broker.enqueue(delayed, delay=1)
    monkeypatch.setattr("litefs_watch.jobs.guard.token_of", lambda *_: PIN)
    queue.worker.start()
    enough = 2 if "litefs_on_timeout" in options else 4
    wait_until(lambda: len(queue.carried) >= enough)
    assert set(queue.carried) == {BEHIND}


def test_what_has_run_hands_on_what_it_has_seen(queue: Queue, cluster: SimulatedCluster) -> None:
    """When it is tried again, too."""

    def once() -> None:
        if not ran:
            ran.append("once")
            cluster.execute("INSERT INTO t VALUES (NULL)")
            cluster.wait_until_replicated()
            raise OSError

    ran: list[str] = []
    actor = queue.actor(once)
    before = str(cluster.primary.position())
    actor.send()
    queue.worker.start()
    wait_until(lambda: len(queue.carried) >= 3)
    assert queue.carried == [f"{before}@app.db", *2 * [f"{cluster.primary.position()}@app.db"]]


def test_the_next_of_a_pipeline_is_not_behind_the_one_before(queue: Queue) -> None:
    """Which ran all the same."""
    ran: list[str] = []
    first = queue.actor(lambda: ran.append("first"), actor_name="first", litefs_on_timeout="run")
    second = queue.actor(lambda _: ran.append("second"), actor_name="second", litefs_on_timeout="run")
    messages = [first.message().copy(options={CARRIER: BEHIND}), second.message()]
    dramatiq.pipeline(messages, broker=queue.broker).run()  # type: ignore[no-untyped-call]
    queue.worker.start()
    wait_until(lambda: ran == ["first", "second"])
    assert queue.carried == [BEHIND, BEHIND]
    queue.actor(lambda: ran.append("third"), actor_name="third").send()
    wait_until(lambda: "third" in ran)
