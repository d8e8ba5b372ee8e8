"""What a publication costs while 10,000 wait and none of them is due, beside two ways to do it without an order."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import anyio

from benchmarks.table import show
from litefs_watch import Position, Settings, Watcher
from litefs_watch.core.readings import TxEvent

WAITERS = 10_000
ROUNDS = 301
FAR = 10**12


def microseconds(publish: Callable[[int], object]) -> list[str]:
    times = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        publish(number)
        times.append((time.perf_counter() - began) * 1e6)
    ordered = sorted(times)
    return [f"{value:,.1f} us" for value in (statistics.median(ordered), ordered[int(ROUNDS * 0.9)])]


async def ours() -> tuple[list[str], str]:
    """The whole way from an event of the stream to 'nobody is due', and what one who is due among them costs."""
    async with Watcher(Settings("/nowhere", "app.db", api_url=None)) as watcher:
        async with anyio.create_task_group() as tasks:
            for number in range(WAITERS):
                tasks.start_soon(watcher.wait_for_tx, FAR + number)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.1)
            if watcher.statistics().waiters != WAITERS:
                raise RuntimeError(f"{watcher.statistics().waiters:,} wait, not {WAITERS:,}")
            nobody = microseconds(lambda n: watcher._publish(TxEvent(time.monotonic(), "app.db", Position(n + 1))))
            woken_before = watcher.statistics().wakes
            watcher._publish(TxEvent(time.monotonic(), "app.db", Position(FAR)))
            woken = watcher.statistics().wakes - woken_before
            tasks.cancel_scope.cancel()
        return nobody, f"{woken} of {WAITERS:,}"


async def scan() -> tuple[list[str], str]:
    """Look at every waiter on every change."""
    waiters = [(FAR + number, asyncio.Event()) for number in range(WAITERS)]

    def publish(txid: int) -> None:
        for wanted, event in waiters:
            if wanted <= txid:
                event.set()

    return microseconds(publish), f"1 of {WAITERS:,}"


async def herd() -> tuple[list[str], str]:
    """Wake everybody on every change, and let each look for itself (a condition variable)."""
    condition = asyncio.Condition()
    looked = 0

    async def wait(wanted: int) -> None:
        nonlocal looked
        async with condition:
            while reached < wanted:
                await condition.wait()
                looked += 1

    reached = 0
    tasks = [asyncio.create_task(wait(FAR + number)) for number in range(WAITERS)]
    await asyncio.sleep(0.5)
    times = []
    for number in range(5):
        looked = 0
        began = time.perf_counter()
        reached = number
        async with condition:
            condition.notify_all()
        while looked < WAITERS:  # noqa: ASYNC110 - an event would be one more wake
            await asyncio.sleep(0)
        times.append((time.perf_counter() - began) * 1e6)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [f"{value:,.1f} us" for value in (statistics.median(times), max(times))], f"{WAITERS:,} of {WAITERS:,}"


def main() -> None:
    rows = []
    for name, measure in (("Watcher (sorted by TXID)", ours), ("look at every waiter", scan), ("wake the herd", herd)):
        figures, woken = asyncio.run(measure())
        rows.append([name, *figures, woken])
    show(f"One publication, {WAITERS:,} waiters, none due", ["", "median", "90th", "woken when one is due"], rows)
