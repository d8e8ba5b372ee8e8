"""What a publication costs on a replica while thousands wait: none of them due, beside two ways to do it without an order;
and all of them, beside as many bare futures. For transactions by number, and for whole positions, as the middlewares wait.

Of those who are due in processor time: all of it is the event loop's thread, and what else the machine does is left out.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial

from benchmarks.publishing import looked, prepare, settings
from benchmarks.table import show
from litefs_watch import Position, Watcher
from litefs_watch.testing import SimulatedNode

WAITERS = 10_000
MANY = 100_000
ROUNDS = 301
DUE_ROUNDS = 11
FAR = 10**12
TIMEOUT = 600.0  # seconds; nobody's ends

Publish = Callable[[], object]
Wanted = Callable[[int], int | Position]


def microseconds(publication: Callable[[int], Publish]) -> list[str]:
    times = []
    for publish in [publication(number) for number in range(ROUNDS)]:  # all prepared first: that leaves cold caches
        began = time.perf_counter()
        publish()
        times.append((time.perf_counter() - began) * 1e6)
    ordered = sorted(times)
    return [f"{value:,.1f} us" for value in (statistics.median(ordered), ordered[int(ROUNDS * 0.9)])]


async def until_waiting(watcher: Watcher, count: int) -> None:
    """Until that many wait. Raises `TimeoutError` after a minute."""
    async with asyncio.timeout(60):
        while watcher.statistics().waiters < count:  # noqa: ASYNC110 - they have nothing else to do
            await asyncio.sleep(0)


def number_of(txid: int) -> int:
    return txid


def position_of(txid: int) -> Position:
    """As `prepare` has it."""
    return Position(txid, txid)


async def ours(waiters: int = WAITERS, wanted: Wanted = number_of) -> tuple[list[str], str]:
    """The whole way from an event of the stream to 'nobody is due', and what one who is due among them costs."""
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(settings(node)) as watcher:
            await looked(watcher, node)
            tasks = [asyncio.create_task(watcher.wait_for_tx(wanted(FAR + number))) for number in range(waiters)]
            await until_waiting(watcher, waiters)
            first = watcher.tx_number() + 1
            nobody = microseconds(lambda number: prepare(watcher, node, first + number))
            woken_before = watcher.statistics().wakes
            prepare(watcher, node, FAR)()
            woken = watcher.statistics().wakes - woken_before
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return nobody, f"{woken} of {waiters:,}"


async def scan() -> tuple[list[str], str]:
    """Look at every waiter on every change."""
    waiters = [(FAR + number, asyncio.Event()) for number in range(WAITERS)]

    def publish(txid: int) -> None:
        for wanted, event in waiters:
            if wanted <= txid:
                event.set()

    return microseconds(lambda number: lambda: publish(number)), f"1 of {WAITERS:,}"


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


async def resumed(
    waits: Sequence[Awaitable[object]], settled: Callable[[], Awaitable[None]], publication: Callable[[], Publish]
) -> float:
    """Microseconds for each, from the publication until the last one goes on."""
    left, done = len(waits), asyncio.Event()

    async def wait(awaitable: Awaitable[object]) -> None:
        nonlocal left
        await awaitable
        left -= 1
        if not left:
            done.set()

    tasks = [asyncio.create_task(wait(awaitable)) for awaitable in waits]
    await settled()
    publish = publication()
    gc.collect()
    began = time.thread_time()
    publish()
    async with asyncio.timeout(60):
        await done.wait()
    took = time.thread_time() - began
    await asyncio.gather(*tasks)
    return took / len(waits) * 1e6


async def bare(*, in_function: bool = False) -> float:
    """What asyncio itself takes: futures without a timeout, the baseline of waits with one as well. ``in_function``: each
    awaited by a coroutine function, as a `wait_for_tx` can't be less."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(WAITERS)]

    def publish() -> None:
        for future in futures:
            future.set_result(None)

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    waits = [wait(future) for future in futures] if in_function else futures
    return await resumed(waits, lambda: asyncio.sleep(0), lambda: publish)


async def waited(watcher: Watcher, node: SimulatedNode, wanted: Wanted, timeout: float | None) -> float:
    txid = watcher.tx_number() + 1
    what = wanted(txid)
    waits = [watcher.wait_for_tx(what, timeout=timeout) for _ in range(WAITERS)]
    return await resumed(waits, partial(until_waiting, watcher, WAITERS), partial(prepare, watcher, node, txid))


async def everybody() -> None:
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(settings(node)) as watcher:
            await looked(watcher, node)
            ways: dict[str, Callable[[], Awaitable[float]]] = {
                "bare futures": bare,
                "the same, each in a coroutine function": partial(bare, in_function=True),
                "wait_for_tx": partial(waited, watcher, node, number_of, None),
                "wait_for_tx, with a timeout each": partial(waited, watcher, node, number_of, TIMEOUT),
                "the same, for a whole position": partial(waited, watcher, node, position_of, None),
                "the same, with a timeout each": partial(waited, watcher, node, position_of, TIMEOUT),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(DUE_ROUNDS):  # in turn: a noisy neighbour disturbs all of them
                for name, measure in ways.items():
                    times[name].append(await measure())
    rows = []
    for name, figures in times.items():
        ratio = statistics.median(a / b for a, b in zip(figures, times["bare futures"], strict=True))
        rows.append([name, f"{statistics.median(figures):.2f} us", f"{ratio:.2f}"])
    title = f"One publication, {WAITERS:,} waiters, all due (median of {DUE_ROUNDS} rounds, in turn)"
    seconds = {name: [value / 1e6 for value in figures] for name, figures in times.items()}
    show(title, ["", "for each", "of bare futures"], rows, seconds)


def main() -> None:
    ways: dict[str, Callable[[], Coroutine[object, object, tuple[list[str], str]]]] = {
        "Watcher (sorted by TXID)": ours,
        f"Watcher, {MANY:,} waiters": lambda: ours(MANY),
        "Watcher, for whole positions": lambda: ours(wanted=position_of),
        "look at every waiter": scan,
        "wake the herd": herd,
    }
    rows = []
    for name, measure in ways.items():
        figures, woken = asyncio.run(measure())
        rows.append([name, *figures, woken])
    show(f"One publication, {WAITERS:,} waiters, none due", ["", "median", "90th", "woken when one is due"], rows)
    asyncio.run(everybody())
