"""What a subscriber sees, on an event loop and in a thread. No source is watched: the changes are published by hand."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from litefs_watch import BlockingWatcher, Position, PrimaryChange, Role, Settings, TxChange, WaitTimeout, Watcher
from litefs_watch.core.readings import RoleEvent, TxEvent

SOON = 10.0
STANDALONE = Settings(standalone=True, database="app.db")


def tx(txid: int, previous: int | None = None) -> TxChange:
    return TxChange("app.db", Position(txid), None if previous is None else Position(previous))


def publish(watcher: Watcher | BlockingWatcher, txid: int) -> None:
    watcher._run.publish(TxEvent(time.monotonic(), "app.db", Position(txid)))


def lose_primary(watcher: Watcher | BlockingWatcher) -> None:
    watcher._run.publish(RoleEvent(time.monotonic(), is_primary=False, hostname=None))


@pytest.fixture
async def watcher() -> AsyncIterator[Watcher]:
    async with Watcher(STANDALONE) as watcher:
        yield watcher


@pytest.fixture
def blocking() -> Iterator[BlockingWatcher]:
    with BlockingWatcher(STANDALONE) as watcher:
        yield watcher


async def test_a_subscription_yields_what_came_before_and_after_the_first_look(watcher: Watcher) -> None:
    """Registered at the call: nothing between it and the first ``async for`` is missed."""
    subscription = watcher.changes()
    publish(watcher, 1)
    assert len(subscription) == 1
    got: list[object] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async for change in subscription:
                got.append(change)  # noqa: PERF401 - one by one is the point

        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        assert got == [tx(1)]
        publish(watcher, 2)
        await anyio.wait_all_tasks_blocked()
        assert got == [tx(1), tx(2, 1)]
        publish(watcher, 3)
        subscription.close()
    assert got[2:] == [tx(3, 2)]  # what was queued is still delivered


async def test_two_who_iterate_one_subscription_are_both_woken(watcher: Watcher) -> None:
    """Each change goes to one of them, and its end to both."""
    subscription = watcher.changes()
    got: list[object] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async for change in subscription:
                got.append(change)  # noqa: PERF401 - one by one is the point

        tasks.start_soon(follow)
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        publish(watcher, 1)
        await anyio.wait_all_tasks_blocked()
        subscription.close()
    assert got == [tx(1)]


async def test_leaving_the_context_ends_the_subscription(watcher: Watcher) -> None:
    """Both kinds of ``with``, and aclose()."""
    async with watcher.changes() as first:
        assert watcher.statistics().subscriptions == 1
    with watcher.changes() as second:
        assert watcher.statistics().subscriptions == 1
    third = watcher.changes()
    await third.aclose()
    assert first.closed
    assert second.closed
    assert third.closed
    assert watcher.statistics().subscriptions == 0
    publish(watcher, 1)
    assert len(first) == len(second) == len(third) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(first)


async def test_a_dropped_subscription_is_gone(watcher: Watcher) -> None:
    """A loop that was left with ``break`` does not collect changes for ever."""
    reference = weakref.ref(watcher.changes())
    gc.collect()
    assert reference() is None
    assert watcher.statistics().subscriptions == 0


async def test_take_tells_late_from_ended(watcher: Watcher) -> None:
    """WaitTimeout, and None; what is queued comes first; NaN is no time, and infinity is one."""
    subscription = watcher.changes()
    publish(watcher, 1)
    assert await subscription.take(0) == tx(1)
    for timeout in (0, -1, 0.01):
        with pytest.raises(WaitTimeout, match="no change within"):
            await subscription.take(timeout)
    with pytest.raises(ValueError, match="nan"):
        await subscription.take(float("nan"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscription.take, float("inf"))
        await anyio.wait_all_tasks_blocked()
        publish(watcher, 2)
    publish(watcher, 3)
    await watcher.stop()
    assert await subscription.take(SOON) == tx(3, 2)
    assert await subscription.take(SOON) is None


def test_take_in_a_thread_tells_late_from_ended(blocking: BlockingWatcher) -> None:
    """The same."""
    subscription = blocking.changes()
    publish(blocking, 1)
    assert subscription.take(0) == tx(1)
    for timeout in (0, -1, 0.01):
        with pytest.raises(WaitTimeout, match="no change within"):
            subscription.take(timeout)
    with pytest.raises(ValueError, match="nan"):
        subscription.take(float("nan"))
    publish(blocking, 2)
    assert subscription.take(float("inf")) == tx(2, 1)
    publish(blocking, 3)
    blocking.stop()
    assert subscription.take(SOON) == tx(3, 2)
    assert subscription.take(SOON) is None


async def test_callbacks_hear_of_the_primary(watcher: Watcher) -> None:
    """A plain function, until it is ended; a coroutine function would never be awaited."""
    seen: list[PrimaryChange] = []
    end = watcher.on_primary_change(seen.append)
    lose_primary(watcher)
    assert seen == [PrimaryChange(Role.UNKNOWN, None, Role.PRIMARY, None)]
    end()
    end()
    watcher._run.publish(RoleEvent(time.monotonic(), is_primary=True, hostname=None))
    assert watcher.is_primary
    assert len(seen) == 1

    async def coroutine(change: PrimaryChange) -> None: ...

    for each in (watcher, BlockingWatcher(STANDALONE)):
        with pytest.raises(TypeError, match="primary_changes"):
            each.on_primary_change(coroutine)
