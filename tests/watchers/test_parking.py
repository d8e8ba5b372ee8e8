"""A task's place to wait: nothing of it stays, however the wait ends."""

from __future__ import annotations

import asyncio
import time

import anyio
import pytest

from litefs_watch import Position, Settings, WaitTimeout, Watcher
from litefs_watch.core.readings import RoleEvent
from litefs_watch.watchers import parking

SOON = 10.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def deadlines() -> int:
    return sum(map(len, (of_loop for loop, of_loop in parking._deadlines.items() if loop is asyncio.get_running_loop())))


async def replica() -> Watcher:
    """Nothing is watched; it waits for a role that a test gives it."""
    watcher = Watcher(Settings(standalone=True, database="app.db"))
    await watcher.start()
    return watcher


@pytest.mark.parametrize("end", ["wake", "cancel", "late"])
async def test_no_deadline_stays(end: str) -> None:
    """Woken, cancelled, or late: its timer is gone, and so is what counted the time for it."""
    watcher = await replica()
    ended: list[str] = []

    async def wait(timeout: float) -> None:
        try:
            await watcher.wait_for_role("replica", timeout=timeout)
        except WaitTimeout:
            ended.append("late")
        else:
            ended.append("wake")

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(wait, 0.01 + number / 5000 if end == "late" else 60 + number / 100)
        await anyio.wait_all_tasks_blocked()
        assert 0 < deadlines() <= 100
        if end == "wake":
            watcher._run.publish(RoleEvent(time.monotonic(), is_primary=False, hostname="node-b"))
        elif end == "cancel":
            tasks.cancel_scope.cancel()
    assert ended == ([] if end == "cancel" else [end] * 100)
    assert deadlines() == 0
    assert watcher.statistics().waiters == 0
    await watcher.stop()


async def test_who_waits_until_the_same_moment_shares_a_timer() -> None:
    """And one that leaves early takes nobody else's along."""
    watcher = await replica()
    clock = asyncio.get_running_loop().time
    now = clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        waits = [asyncio.ensure_future(watcher.wait_for_role("replica", timeout=0.05)) for _ in range(10)]
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert deadlines() == 1
    waits[0].cancel()
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] + [WaitTimeout] * 9
    assert clock() >= now + 0.05
    await watcher.stop()


@pytest.mark.parametrize("timeout", [1e300, float("inf"), 1e9])
async def test_no_timeout_is_too_long(timeout: float) -> None:
    """Such a wait has no timer at all."""
    watcher = await replica()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: watcher.wait_for_role("replica", timeout=timeout))
        await anyio.wait_all_tasks_blocked()
        assert deadlines() == 0
        watcher._run.publish(RoleEvent(time.monotonic(), is_primary=False, hostname="node-b"))
    assert await watcher.wait_for_tx(3) == Position(3)
    await watcher.stop()
