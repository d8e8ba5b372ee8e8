"""20,000 events a second: whether they are taken in, what that costs, and how long other tasks of that loop wait meanwhile.

A simulated node in a process of its own sends them, and cuts off whom it is 1,024 events ahead of, as LiteFS does. A task in
the reader's loop ticks every millisecond.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from benchmarks.table import show
from litefs_watch import Settings, Watcher
from litefs_watch.testing import SimulatedNode

RATE = 20_000
"""Events a second."""
SECONDS = 3.0
ROUNDS = 3
TICK = 0.001

_EVENT = (
    b'{"type":"tx","db":"app.db","data":{"txID":"%016x","postApplyChecksum":"%016x","pageSize":4096,"commit":2,'
    b'"timestamp":"2026-11-23T02:15:23.826Z"}}\n'
)

Taken = Callable[[], int]
"""How many transactions have been taken in."""
Reader = Callable[..., Coroutine[Any, Any, None]]


def serve(connection: Connection) -> None:
    """Send events when told, at an even pace, each by itself."""
    txid = 0
    with SimulatedNode() as node:
        connection.send(node.settings())
        while connection.recv():
            first, began = txid, time.monotonic()
            while (passed := time.monotonic() - began) < SECONDS:
                while txid - first < passed * RATE:
                    txid += 1
                    node.raw_event(_EVENT % (txid, txid))
                time.sleep(0.0005)
            connection.send(txid - first)


async def nobody(settings: Settings, *, task_status: TaskStatus[Taken]) -> None:
    task_status.started(lambda: 0)


async def bare_reader(settings: Settings, *, task_status: TaskStatus[Taken]) -> None:
    """An asyncio socket, split at newlines, and json: the least that can be done with LiteFS's stream."""
    host, _, port = str(settings.api_url).removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /events HTTP/1.1\r\nHost: litefs\r\n\r\n")
    taken = 0
    task_status.started(lambda: taken)
    try:
        while line := await reader.readline():
            if line.startswith(b'{"type":"tx"'):
                int(json.loads(line)["data"]["txID"], 16)
                taken += 1
    finally:
        writer.close()


async def waiter(settings: Settings, *, task_status: TaskStatus[Taken]) -> None:
    """Ours, with a task that waits for the next transaction, again and again."""
    async with Watcher(settings) as watcher:
        began = watcher.statistics().events
        task_status.started(lambda: watcher.statistics().events - began)
        while True:
            await watcher.wait_for_tx(watcher.tx_number() + 1)


async def measure(node: Connection, settings: Settings, read: Reader) -> tuple[int, int, float, float]:
    """Events sent, events taken in, the part of a core, and the longest time between two ticks (seconds)."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        before = time.monotonic()
        while True:
            await anyio.sleep(TICK)
            now = time.monotonic()
            longest = max(longest, now - before)
            before = now

    async with anyio.create_task_group() as tasks:
        taken: Taken = await tasks.start(read, settings)
        await anyio.sleep(0.5)
        tasks.start_soon(tick)
        began, used = time.monotonic(), time.process_time()
        node.send(True)
        sent: int = await anyio.to_thread.run_sync(node.recv)
        share = (time.process_time() - used) / (time.monotonic() - began)
        await anyio.sleep(0.5)
        figures = sent, taken(), share, longest
        tasks.cancel_scope.cancel()
    return figures


def main() -> None:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there,))
    process.start()
    alone = Settings(**(here.recv().model_dump() | {"litefs_dir": Path("/nowhere")}))  # the stream alone
    ways: dict[str, tuple[Reader, str]] = {
        "nobody reads": (nobody, "asyncio"),
        "bare asyncio socket reader": (bare_reader, "asyncio"),
        "Watcher's waiter (asyncio)": (waiter, "asyncio"),
        "Watcher's waiter (trio)": (waiter, "trio"),
    }
    figures: dict[str, list[tuple[int, int, float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (read, backend) in ways.items():
            figures[name].append(anyio.run(measure, here, alone, read, backend=backend))
    here.send(None)
    process.join()
    rows = []
    for name, rounds in figures.items():
        sent, taken, shares, pauses = zip(*rounds, strict=True)
        rows.append(
            [
                name,
                f"{sum(sent) / SECONDS / ROUNDS:,.0f}/s",
                f"{sum(taken) / sum(sent):.1%}",
                f"{min(shares):.0%} to {max(shares):.0%}",
                ", ".join(f"{pause * 1e3:.1f}" for pause in sorted(pauses)) + " ms",
            ]
        )
    show(
        f"Events at {RATE:,} a second, for {SECONDS:g} s ({ROUNDS} rounds, in turn)",
        ["", "sent", "taken in", "of a core", "longest time between two 1 ms ticks, each round"],
        rows,
    )
