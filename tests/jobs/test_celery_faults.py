"""Celery's bad days, in this process: what its tracer makes of a task whose wait does not end as it should."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import SoftTimeLimitExceeded
from celery.local import Proxy

from litefs_watch import BlockingWatcher
from litefs_watch.consistency import PIN
from litefs_watch.jobs import current_token
from litefs_watch.jobs.celery import watch_celery
from litefs_watch.jobs.guard import CARRIER, REQUEUED, Guard
from litefs_watch.testing import SimulatedCluster
from tests.jobs.signals import unwatch

BEHIND = "00000000000000ff/00000000000000ff"


class Queue:
    """An application whose worker is this thread."""

    def __init__(self, watcher: BlockingWatcher, proxied: bool = False) -> None:
        self.app = Celery("faults", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.ran: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.again = 0
        watch_celery(Proxy(lambda: self.app) if proxied else self.app, watcher, timeout=0.0)

        @self.app.task(shared=False, name="look")
        def look() -> None:
            self.ran.append(current_token())

        @self.app.task(shared=False, name="bill", litefs_writes=True)
        def bill() -> None:
            self.ran.append("billed")
            if len(self.ran) <= self.again:
                bill()

        signals.before_task_publish.connect(self._note, weak=False, dispatch_uid="noted")
        signals.worker_init.send(sender=self)

    def close(self) -> None:
        unwatch(self.app)
        signals.before_task_publish.disconnect(dispatch_uid="noted")

    def _note(self, headers: dict[str, Any], **_: Any) -> None:
        self.sent.append(headers)

    def run(self, name: str, **headers: object) -> str:
        """How a message with those headers ends."""
        task = self.app.tasks[name]
        request = {"id": "1", "retries": 0, "delivery_info": {}} | headers
        _, info, *_ = build_tracer(name, task, app=self.app)("1", (), {}, request)
        if info is None:
            return "SUCCESS"
        return f"{info.state} {type(getattr(info.retval, 'exc', info.retval)).__name__}"


@pytest.fixture
def queue(cluster: SimulatedCluster) -> Iterator[Queue]:
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        queue = Queue(watcher)
        yield queue
        queue.close()


def test_a_task_runs_within_what_its_message_carries(cluster: SimulatedCluster, queue: Queue) -> None:
    """And is no job any more when it is over."""
    position = str(cluster["node-b"].position())
    assert queue.run("look", **{CARRIER: f"{position}@app.db"}) == "SUCCESS"
    assert queue.ran == [position]
    assert queue.run("look") == "SUCCESS"


@pytest.mark.parametrize("fault", [SoftTimeLimitExceeded(), RuntimeError("no thread")])
@pytest.mark.parametrize("where", ["wait_for", "say"])
def test_a_wait_that_is_interrupted_runs_nothing(
    queue: Queue, fault: Exception, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Celery swallows what is raised in ``task_prerun``, its own time limit too: the task would run without its row."""

    def fails(*_: object) -> None:
        raise fault

    monkeypatch.setattr(f"litefs_watch.jobs.{'guard' if where == 'wait_for' else 'celery'}.{where}", fails)
    assert queue.run("look", **{CARRIER: f"{BEHIND}@app.db"}).startswith("FAILURE")
    assert queue.ran == []


def test_a_retry_counts_and_hands_on_its_token(queue: Queue) -> None:
    """Until the task's own ``max_retries``."""
    assert queue.run("look", **{CARRIER: f"{BEHIND}@app.db"}) == "RETRY WaitTimeout"
    assert (queue.sent[0][CARRIER], queue.sent[0]["retries"]) == (f"{BEHIND}@app.db", 1)
    assert queue.run("look", retries=3, **{CARRIER: f"{BEHIND}@app.db"}) == "FAILURE WaitTimeout"
    assert (queue.ran, len(queue.sent)) == ([], 1)


def test_what_is_sent_back_does_not_count(queue: Queue) -> None:
    """As a retry: nothing was tried. How often it was is on the message."""
    assert queue.run("bill", retries=3, **{REQUEUED: 4}) == "RETRY NotPrimary"
    assert (queue.sent[0][REQUEUED], queue.sent[0]["retries"], queue.ran) == (5, 3, [])


def test_an_eager_task_and_a_call_wait_for_nothing(queue: Queue) -> None:
    """They run within the request that has written."""
    queue.app.tasks["bill"].apply().get(disable_sync_subtasks=False)
    queue.app.tasks["bill"]()
    assert queue.ran == ["billed", "billed"]


def test_a_task_that_is_registered_too_late(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    """Runs, and the log says what is wrong."""

    @queue.app.task(shared=False, name="late", litefs_writes=True)
    def late() -> None:
        queue.ran.append("late")

    with caplog.at_level(logging.ERROR):
        assert queue.run("late") == "SUCCESS"
    assert "registered after its worker had started" in caplog.text


def test_a_fault_of_ours_fails_the_task_and_does_not_send_it_bare(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Celery swallows what is raised in ``before_task_publish`` as well."""

    def fails(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Guard, "carry", fails)
    queue.app.send_task("look")
    assert queue.sent[0][CARRIER] == "untold"
    assert queue.run("look", **{CARRIER: "untold"}) == "FAILURE TokenError"


@pytest.mark.parametrize("name", ["look", "bill"])
@pytest.mark.parametrize("protocol", [1, 2])
def test_what_has_not_run_is_sent_again_as_it_came(
    queue: Queue, name: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its worker is, or that this can't be told, is nothing that it has seen. In Celery's older protocol the headers
    are not the request's own: its token was not seen at all."""
    monkeypatch.setattr("litefs_watch.jobs.guard.token_of", lambda *_: PIN)
    headers = {CARRIER: f"{BEHIND}@app.db", REQUEUED: 4}
    assert queue.run(name, **(headers if protocol == 2 else {"headers": headers})).startswith("RETRY")
    assert (queue.sent[0][CARRIER], queue.sent[0][REQUEUED]) == (f"{BEHIND}@app.db", 4 if name == "look" else 5)
    assert queue.ran == []


def test_what_came_with_nothing_goes_back_with_nothing(queue: Queue) -> None:
    """Its sender has no `watch_celery`."""
    assert queue.run("bill") == "RETRY NotPrimary"
    assert CARRIER not in queue.sent[0]


def test_what_is_sent_back_is_no_message_that_rabbitmq_drops(queue: Queue) -> None:
    """A message that was delayed there comes with headers for which it is taken to go round in circles."""
    assert queue.run("bill", **{"x-death": [{"reason": "expired"}]}) == "RETRY NotPrimary"
    assert "x-death" not in queue.sent[0]


def test_the_current_application(cluster: SimulatedCluster) -> None:
    """``celery.current_app`` stands for it, and is another object: nothing was waited for."""
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        queue = Queue(watcher, proxied=True)
        assert queue.run("look", **{CARRIER: f"{BEHIND}@app.db"}) == "RETRY WaitTimeout"
        assert queue.ran == []
        queue.close()


def test_a_halt_lock_that_is_not_to_be_had(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """As during a fail-over: the task is tried again, as after any other wait. It failed for good."""
    task = queue.app.tasks["bill"]
    monkeypatch.setattr(type(task), "litefs_on_replica", "halt", raising=False)
    assert queue.run("bill") == "RETRY HaltError"
    assert (queue.sent[0]["retries"], queue.ran) == (1, [])
    monkeypatch.setattr(type(task), "litefs_on_timeout", "fail", raising=False)
    assert queue.run("bill") == "FAILURE HaltError"


def test_a_task_that_calls_itself_holds_the_halt_lock_once(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would wait for the first."""
    locks: list[str] = []

    @contextmanager
    def halted(database: str, **_: object) -> Iterator[None]:
        locks.append(database)
        yield

    monkeypatch.setattr("litefs_watch.jobs.guard.halted", halted)
    monkeypatch.setattr(type(queue.app.tasks["bill"]), "litefs_on_replica", "halt", raising=False)
    monkeypatch.setattr(queue, "again", 2)
    assert queue.run("bill") == "SUCCESS"
    assert (queue.ran, locks) == (["billed"] * 3, ["app.db"])
