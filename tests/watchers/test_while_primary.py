"""What runs for as long as this node is the primary."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litefs_watch import BlockingWatcher, PrimaryChange, Role, Settings, WaitTimeout, Watcher, WatcherClosed
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers import while_primary as module
from litefs_watch.watchers.subscription import BlockingSubscription

SOON = 20.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(primary="node-b") as node:
        yield node


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLED", "FIRST_PAUSE", "LAST_PAUSE"):
        monkeypatch.setattr(module, name, 0.001)


class Job:
    """Runs until it is ended, and counts."""

    def __init__(self) -> None:
        self.begun = self.running = self.most = 0
        self._news = anyio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self._tell()
        try:
            await self.work()
        finally:
            self.running -= 1
            self._tell()

    async def work(self) -> None:
        await anyio.sleep_forever()

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def until(self, *, running: int, begun: int | None = None) -> None:
        with anyio.fail_after(SOON):
            while self.running != running or (begun is not None and self.begun < begun):
                await self._news.wait()


async def test_it_runs_while_this_node_is_the_primary(node: SimulatedNode) -> None:
    """Not on a replica; from when it becomes the primary; until it is a replica, or nobody knows. And again."""
    job = Job()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        for number, primary in enumerate((None, "node-c"), 1):
            await anyio.lowlevel.checkpoint()
            assert job.running == 0
            node.become_primary()
            await job.until(running=1, begun=number)
            if primary is None:
                node.lose_primary()
            else:
                node.set_primary(primary)
            await job.until(running=0)
        node.become_primary()
        await job.until(running=1)
        tasks.cancel_scope.cancel()
    assert (job.begun, job.running, job.most) == (3, 0, 1)


async def test_on_who_is_the_primary_already(node: SimulatedNode) -> None:
    """It begins; the end of the watcher ends it, and the call returns."""
    node.become_primary()
    job = Job()
    watcher = Watcher(node.settings())
    await watcher.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        await job.until(running=1)
        await watcher.stop()
        await job.until(running=0)
    with pytest.raises(WatcherClosed):
        await watcher.while_primary(job)


async def test_one_that_returns_waits_for_the_next_time(node: SimulatedNode) -> None:
    """It is run once for each."""

    class Done(Job):
        async def work(self) -> None:
            pass

    job = Done()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        for number in (1, 2):
            node.become_primary()
            await job.until(running=0, begun=number)
            position = node.commit()
            await watcher.wait_for_tx(position.txid)  # whatever else happens
            assert job.begun == number
            node.lose_primary()
            await watcher.wait_for_role("unknown")
        tasks.cancel_scope.cancel()


async def test_one_that_fails_is_run_again(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """After a pause, and the log says why and when; not once this node is the primary no more."""

    class Failing(Job):
        async def work(self) -> None:
            if self.begun < 4:
                raise KeyError("of the job")
            await anyio.sleep_forever()

    job = Failing()
    node.become_primary()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        await job.until(running=1, begun=4)
        tasks.cancel_scope.cancel()
    failures = [record for record in caplog.records if "failed; it is run again in" in record.message]
    assert len(failures) == 3
    assert all(record.exc_info is not None and record.exc_info[0] is KeyError for record in failures)


def test_the_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last one; a job that ran for long begins with the first again."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(module, "LAST_PAUSE", 3.0)
    pauses = module.Pauses()
    assert [pauses.after(0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [pauses.after(3.5), pauses.after(0.0)] == [0.5, 1.0]


async def test_one_that_will_not_end(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so; however often this node is the primary meanwhile, there is no second one beside it."""
    monkeypatch.setattr(module, "STUBBORN", 0.001)
    caplog.set_level(logging.WARNING, "litefs_watch")
    may_end = anyio.Event()

    class Stubborn(Job):
        async def work(self) -> None:
            with anyio.CancelScope(shield=self.begun == 1):
                await (may_end.wait() if self.begun == 1 else anyio.sleep_forever())

    job = Stubborn()
    node.become_primary()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        await job.until(running=1)
        node.lose_primary()
        with anyio.fail_after(SOON):
            while "goes on" not in caplog.text:  # noqa: ASYNC110 - a log wakes nobody
                await anyio.sleep(0.001)
        node.become_primary()
        await watcher.wait_for_role("primary")
        assert (job.begun, job.running) == (1, 1)
        may_end.set()
        await job.until(running=1, begun=2)
        assert job.most == 1
        tasks.cancel_scope.cancel()


async def test_what_it_awaited_was_cancelled(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """A failure like any other, where asyncio has one error for both; not the end of all that runs beside it."""

    class Awaiting(Job):
        async def work(self) -> None:
            if self.begun == 1 and anyio.get_cancelled_exc_class() is asyncio.CancelledError:
                raise asyncio.CancelledError
            await anyio.sleep_forever()

    job = Awaiting()
    node.become_primary()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        await job.until(running=1, begun=1 + (anyio.get_cancelled_exc_class() is asyncio.CancelledError))
        tasks.cancel_scope.cancel()
    assert caplog.text.count("RuntimeError: what the job awaited") == job.begun - 1


async def test_who_hears_of_the_stop_first_has_not_failed(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """Its own wait ends with `WatcherClosed`."""
    node.become_primary()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, lambda: watcher.wait_for_tx(99))
        with anyio.fail_after(SOON):
            while not watcher.statistics().waiters:  # noqa: ASYNC110 - nothing tells that it waits
                await anyio.sleep(0.001)
        await watcher.stop()
    assert "failed" not in caplog.text


async def test_a_lease_that_may_be_gone_begins_nothing(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """This node remembers that it is the primary; nothing begins before LiteFS has confirmed it."""
    job, asked = Job(), anyio.Event()
    node.become_primary()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:

        async def confirm(**options: Any) -> bool:
            asked.set()
            await watcher.wait_for_role("unknown")
            return False

        monkeypatch.setattr(watcher, "confirm_primary", confirm)
        tasks.start_soon(watcher.while_primary, job)
        with anyio.fail_after(SOON):
            await asked.wait()
        await anyio.wait_all_tasks_blocked()
        node.lose_primary()
        await watcher.wait_for_role("unknown", timeout=SOON)
        await anyio.wait_all_tasks_blocked()
        assert job.begun == 0
        tasks.cancel_scope.cancel()


async def test_a_role_that_does_not_stay(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes and goes begins nothing."""
    monkeypatch.setattr(module, "SETTLED", SOON)
    job = Job()
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.while_primary, job)
        for _ in range(5):
            node.become_primary()
            await watcher.wait_for_role("primary")
            node.lose_primary()
            await watcher.wait_for_role("unknown")
        tasks.cancel_scope.cancel()
    assert job.begun == 0


async def test_a_change_between_subscribing_and_reading_the_role(node: SimulatedNode) -> None:
    """The role is read as PRIMARY, while its loss is in the queue already: nothing is left running."""
    job = Job()

    class Late(Watcher):
        @property
        def role(self) -> Role:
            return Role.PRIMARY

    node.become_primary()
    async with Late(node.settings()) as watcher, anyio.create_task_group() as tasks:
        subscribe = watcher.primary_changes

        def losing() -> Any:
            changes = subscribe()
            changes._queue.put(PrimaryChange(Role.UNKNOWN, None, Role.PRIMARY, None))
            return changes

        watcher.primary_changes = losing  # type: ignore[method-assign]
        tasks.start_soon(watcher.while_primary, job)
        await anyio.wait_all_tasks_blocked()
        assert job.begun == 0
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("job", [None, "module:function"])
async def test_what_is_no_job(node: SimulatedNode, job: Any) -> None:
    """A TypeError at once; and a coroutine function for threads."""
    async with Watcher(node.settings()) as watcher:
        with pytest.raises(TypeError, match="while_primary takes a coroutine function"):
            await watcher.while_primary(job)


@pytest.mark.parametrize("job", [None, "module:function", Job.__call__])
def test_what_is_no_job_for_threads(job: Any) -> None:
    """Nor is a coroutine function, which nobody would await."""
    with (
        BlockingWatcher(Settings("/nowhere", standalone=True)) as watcher,
        pytest.raises(TypeError, match="a plain function"),
    ):
        watcher.while_primary(job)


def in_a_thread(watcher: BlockingWatcher, job: Any) -> threading.Thread:
    thread = threading.Thread(target=watcher.while_primary, args=(job,), daemon=True)
    thread.start()
    return thread


def test_in_threads(node: SimulatedNode) -> None:
    """The job is told, and has to return; then it begins again the next time. A stop ends it all."""
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    def job(over: threading.Event) -> None:
        begun.release()
        assert over.wait(SOON)
        ended.release()

    with BlockingWatcher(node.settings()) as watcher:
        thread = in_a_thread(watcher, job)
        for _ in range(2):
            node.become_primary()
            assert begun.acquire(timeout=SOON)
            node.lose_primary()
            assert ended.acquire(timeout=SOON)
        node.become_primary()
        assert begun.acquire(timeout=SOON)
    assert ended.acquire(timeout=SOON)
    thread.join(SOON)
    assert not thread.is_alive()


def test_in_threads_one_that_fails_and_one_that_returns(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """Run again; and then no more, until the next time."""
    node.become_primary()
    begun: list[int] = []
    done = threading.Semaphore(0)

    def job(over: threading.Event) -> None:
        begun.append(1)
        if len(begun) < 3:
            raise KeyError("of the job")
        done.release()

    with BlockingWatcher(node.settings()) as watcher:
        thread = in_a_thread(watcher, job)
        assert done.acquire(timeout=SOON)
        node.lose_primary()
        watcher.wait_for_role("unknown", timeout=SOON)
        node.become_primary()
        assert done.acquire(timeout=SOON)
        assert len(begun) == 4
    thread.join(SOON)
    assert caplog.text.count("failed; it is run again in") == 2


def test_in_threads_one_that_will_not_end(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is waited for, and the log says so."""
    monkeypatch.setattr(module, "STUBBORN", 0.001)
    node.become_primary()
    begun, may_end, said = threading.Semaphore(0), threading.Event(), threading.Event()
    monkeypatch.setattr(module.logger, "warning", lambda *arguments: said.set())

    def job(over: threading.Event) -> None:
        begun.release()
        may_end.wait(SOON)

    with BlockingWatcher(node.settings()) as watcher:
        thread = in_a_thread(watcher, job)
        assert begun.acquire(timeout=SOON)
        node.lose_primary()
        assert said.wait(SOON)
        node.become_primary()
        watcher.wait_for_role("primary", timeout=SOON)
        assert not begun.acquire(blocking=False)
        may_end.set()
        assert begun.acquire(timeout=SOON)
    thread.join(SOON)
    assert not thread.is_alive()


def test_in_threads_who_hears_of_the_stop_first(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """Has not failed either."""
    node.become_primary()
    with BlockingWatcher(node.settings()) as watcher:
        thread = in_a_thread(watcher, lambda over: watcher.wait_for_tx(99))
        for _ in range(int(SOON * 1000)):
            if watcher.statistics().waiters:
                break
            thread.join(0.001)
    thread.join(SOON)
    assert not thread.is_alive()
    assert "failed" not in caplog.text


def test_in_threads_ctrl_c_waits_for_the_job(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls again then has not two."""
    node.become_primary()
    begun, running = threading.Event(), [0]

    def job(over: threading.Event) -> None:
        running[0] += 1
        begun.set()
        assert over.wait(SOON)
        threading.Event().wait(0.02)
        running[0] -= 1

    def interrupted(changes: Any, timeout: float | None = None) -> None:
        if timeout is not None:
            raise WaitTimeout
        assert begun.wait(SOON)
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingSubscription, "take", interrupted)
    with BlockingWatcher(node.settings()) as watcher, pytest.raises(KeyboardInterrupt):
        watcher.while_primary(job)
    assert running == [0]


STEPS = st.lists(st.sampled_from(["primary", "replica", "nobody", "pause", "commit"]), max_size=20)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_whatever_the_role_does_there_is_one_at_most(backend: str, steps: list[str]) -> None:
    """And in the end it runs where this node is the primary, and nowhere else."""

    async def live() -> None:
        job = Job()
        with SimulatedNode(primary="node-b") as node:
            async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
                tasks.start_soon(watcher.while_primary, job)
                for step in steps:
                    match step:
                        case "primary":
                            node.become_primary()
                        case "replica":
                            node.set_primary("node-c")
                        case "nobody":
                            node.lose_primary()
                        case "commit":
                            node.commit()
                        case _:
                            await anyio.sleep(0.003)
                for last, running in ((node.become_primary, 1), (node.lose_primary, 0)):
                    last()
                    await watcher.wait_for_role("primary" if running else "unknown", timeout=SOON)
                    await job.until(running=running)
                assert job.most == 1
                tasks.cancel_scope.cancel()
        assert job.running == 0

    anyio.run(live, backend=backend)
