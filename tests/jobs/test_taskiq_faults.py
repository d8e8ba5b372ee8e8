"""Taskiq's bad days, in this process: what its receiver makes of a task that must not run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from taskiq import InMemoryBroker, SimpleRetryMiddleware, TaskiqDepends, TaskiqMiddleware, TaskiqResult
from taskiq.api import run_receiver_task

from litefs_watch import BlockingWatcher, Position, Role
from litefs_watch.consistency import PIN
from litefs_watch.jobs.around import current_job
from litefs_watch.jobs.guard import CARRIER, REQUEUED
from litefs_watch.jobs.taskiq import LiteFSMiddleware
from litefs_watch.testing import SimulatedCluster

BEHIND = "00000000000000ff/00000000000000ff@app.db"

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # Taskiq knows no other


class Sent(TaskiqMiddleware):
    """Notes what is sent, before it is."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[dict[str, Any]] = []
        self.again = anyio.Event()

    def pre_send(self, message: Any) -> Any:
        self.labels.append(dict(message.labels))
        if len(self.labels) == 2:
            self.again.set()
        return message


class Broker(InMemoryBroker):
    """Whose messages are kept until a receiver listens."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def kick(self, message: Any) -> None:
        self.queue.put_nowait(message.message)

    async def listen(self) -> AsyncIterator[bytes]:  # type: ignore[override]
        while True:
            yield await self.queue.get()


@pytest.fixture
def watcher(cluster: SimulatedCluster) -> Iterator[BlockingWatcher]:
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        yield watcher


async def ended(broker: InMemoryBroker, task: Any, **labels: object) -> TaskiqResult[Any]:
    sent = await task.kicker().with_labels(**labels).kiq()
    return await broker.result_backend.get_result(sent.task_id)


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_in_the_process_of_the_application(watcher: BlockingWatcher, kind: str) -> None:
    """As with ``InMemoryBroker``, or a task that is declared once the broker runs: what must not run does not."""
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(LiteFSMiddleware(watcher, timeout=0.0, on_timeout="fail"))
    await broker.startup()
    ran = []

    def look() -> None:
        ran.append("look")

    async def look_async() -> None:
        look()

    task = broker.task("look")(look if kind == "function" else look_async)
    assert (await ended(broker, task)).error is None
    assert ran == ["look"]
    result = await ended(broker, task, **{CARRIER: BEHIND})
    assert type(result.error).__name__ == "WaitTimeout"
    assert ran == ["look"]
    await broker.shutdown()


async def test_none_is_a_word_in_a_message(watcher: BlockingWatcher) -> None:
    """And ``litefs_timeout=None`` failed each task that said so."""
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(LiteFSMiddleware(watcher))
    await broker.startup()

    @broker.task("look", litefs_timeout=None)
    async def look() -> str:
        return "looked"

    assert (await ended(broker, look)).return_value == "looked"
    await broker.shutdown()


async def test_a_label_that_stays_on_the_task(watcher: BlockingWatcher, cluster: SimulatedCluster) -> None:
    """As older Taskiqs leave it there: what is sent later has what was written since."""
    broker, sent = InMemoryBroker(await_inplace=True), Sent()
    broker.add_middlewares(LiteFSMiddleware(watcher), sent)
    await broker.startup()

    @broker.task("look", **{CARRIER: "0000000000000001@app.db"})
    async def look() -> None: ...

    await look.kiq()
    assert [labels[CARRIER] for labels in sent.labels] == [f"{cluster['node-b'].position()}@app.db"]
    await broker.shutdown()


async def test_a_receiver_within_the_application(watcher: BlockingWatcher, cluster: SimulatedCluster) -> None:
    """`run_receiver_task` says that this is a worker when the broker has started: a task that writes ran on a replica, and
    once more for each time that it was sent back."""
    broker, sent, done, ran = Broker(), Sent(), anyio.Event(), []
    broker.add_middlewares(LiteFSMiddleware(watcher), sent)
    await broker.startup()

    @broker.task("bill", litefs_writes=True)
    async def bill() -> None:
        ran.append(watcher.role)
        done.set()

    await bill.kiq()
    receiving = asyncio.create_task(run_receiver_task(broker))
    with anyio.fail_after(10):
        await sent.again.wait()
        await anyio.to_thread.run_sync(lambda: cluster.hand_over("node-b", seconds=0.0))
        await done.wait()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert ran == [Role.PRIMARY]
    assert [labels.get(REQUEUED) for labels in sent.labels] == [None, *map(str, range(1, len(sent.labels)))]
    await broker.shutdown()


async def test_what_a_dependency_raises_of_one_that_is_sent_back(watcher: BlockingWatcher) -> None:
    """Such as a session, on a replica: the retry middleware sent the task once more, and each of the two the same again."""
    broker, sent = InMemoryBroker(), Sent()
    retries = SimpleRetryMiddleware(default_retry_label=True)
    broker.add_middlewares(retries, LiteFSMiddleware(watcher), sent)
    await broker.startup()

    def session() -> None:
        raise OSError("attempt to write a readonly database")

    @broker.task("bill", litefs_writes=True)
    async def bill(session: None = TaskiqDepends(session)) -> None:
        pytest.fail("it ran on a replica")

    first = await bill.kiq()
    with anyio.fail_after(10):
        await sent.again.wait()
        broker.find_task("bill").labels["litefs_on_replica"] = "fail"  # type: ignore[union-attr]
        while not (await first.is_ready() and broker._running_tasks == set()):
            await anyio.lowlevel.checkpoint()
    assert [labels.get(REQUEUED) for labels in sent.labels] == [None, "1"]
    assert type((await first.get_result()).error).__name__ == "OSError"
    await broker.shutdown()


@pytest.mark.parametrize("on_replica", ["requeue", "fail"])
async def test_what_has_not_run_is_sent_again_as_it_came(
    watcher: BlockingWatcher, on_replica: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its worker is, or that this can't be told, is nothing that it has seen."""
    broker, sent = InMemoryBroker(), Sent()
    broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=2), LiteFSMiddleware(watcher, timeout=0.0), sent)
    await broker.startup()

    @broker.task("look", retry_on_error=True, litefs_writes=on_replica == "requeue")
    async def look() -> None:
        pytest.fail("it must not run")

    told = iter([Position(255, 255)])

    async def unreadable(*_: object) -> object:  # but for the first
        return next(told, PIN)

    monkeypatch.setattr("litefs_watch.jobs.guard.token_of_async", unreadable)
    await look.kiq()
    with anyio.fail_after(10):
        await sent.again.wait()
    assert [labels[CARRIER] for labels in sent.labels[:2]] == [BEHIND, BEHIND]
    broker.find_task("look").labels["litefs_on_replica"] = "fail"  # type: ignore[union-attr]
    await broker.wait_all()
    await broker.shutdown()


async def test_a_task_sends_another_to_a_broker_that_runs_it_at_once(watcher: BlockingWatcher) -> None:
    """Afterwards it is in its own job again."""
    broker, sent = InMemoryBroker(await_inplace=True), Sent()
    broker.add_middlewares(LiteFSMiddleware(watcher, timeout=0.0, on_timeout="run"), sent)
    await broker.startup()

    @broker.task("inner")
    async def inner() -> None: ...

    @broker.task("outer")
    async def outer() -> None:
        await inner.kiq()
        await inner.kiq()

    await outer.kicker().with_labels(**{CARRIER: BEHIND}).kiq()
    assert [labels[CARRIER] for labels in sent.labels] == [BEHIND, BEHIND, BEHIND]
    assert current_job.get() is None
    await broker.shutdown()


async def test_a_task_that_calls_another_holds_the_halt_lock_once(
    watcher: BlockingWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would wait for the first."""
    locks: list[str] = []

    @asynccontextmanager
    async def halt(database: str, **_: object) -> AsyncIterator[None]:
        locks.append(database)
        yield

    monkeypatch.setattr("litefs_watch.jobs.guard.halt", halt)
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(LiteFSMiddleware(watcher, on_replica="halt"))
    await broker.startup()

    @broker.task("inner", litefs_writes=True)
    async def inner() -> str:
        return "done"

    @broker.task("outer", litefs_writes=True)
    async def outer() -> str:
        return await inner()

    assert (await ended(broker, inner)).return_value == "done"
    assert (await ended(broker, outer)).return_value == "done"
    assert locks == ["app.db", "app.db"]
    await broker.shutdown()
