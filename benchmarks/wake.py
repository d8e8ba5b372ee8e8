"""How soon a waiter resumes, beside what one would write without this library.

A simulated node in a process of its own commits; this process follows it in several ways at once. Times are of the system's
monotonic clock, which both processes share, from just before the commit.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.table import milliseconds, show
from litefs_watch import Position, Settings, Watcher
from litefs_watch.testing.fuse import fuse_available
from litefs_watch.testing.node import SimulatedNode
from litefs_watch.wire import Tx, parse_event

COMMITS = 300
PAUSE = 0.02
"""Seconds between two commits."""

Times = dict[int, float]
"""By TXID: when it was known."""


def serve(connection: Connection, fuse: bool) -> None:
    """Commit when told, at an even pace, and tell when each began."""
    with SimulatedNode(fuse=fuse) as node:
        connection.send(node.settings())
        while connection.recv():
            times: Times = {}
            for number in range(COMMITS):
                time.sleep(PAUSE * (0.5 + number % 7 / 7))  # out of step with whatever polls
                began = time.monotonic()
                times[node.commit().txid] = began
            connection.send(times)


@asynccontextmanager
async def node(fuse: bool = False) -> AsyncIterator[tuple[Settings, Callable[[], asyncio.Future[Times]]]]:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, fuse))
    process.start()
    loop = asyncio.get_running_loop()

    def commits() -> asyncio.Future[Times]:
        here.send(True)
        return loop.run_in_executor(None, here.recv)

    try:
        yield await loop.run_in_executor(None, here.recv), commits
    finally:
        here.send(False)
        process.join()


async def bare_reader(settings: Settings, seen: Times) -> None:
    """An asyncio socket, split at newlines: the least that can be done with LiteFS's stream."""
    assert settings.api_url
    host, _, port = settings.api_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /events HTTP/1.1\r\nHost: litefs\r\n\r\n")
    try:
        while line := await reader.readline():
            if line.startswith(b'{"type":"tx"'):
                now = time.monotonic()
                event = parse_event(line)
                if isinstance(event, Tx):
                    seen[event.data.txid] = now
    finally:
        writer.close()


async def poller(settings: Settings, seen: Times) -> None:
    """litefs-js's way: read the file every 30 ms."""
    path = Path(f"{settings.litefs_dir}/{settings.database}-pos")
    last = 0
    while True:
        txid = Position.parse(path.read_bytes()).txid
        now = time.monotonic()
        for number in range(last + 1, txid + 1):
            seen[number] = now
        last = txid
        await asyncio.sleep(0.03)


async def waiter(settings: Settings, seen: Times) -> None:
    """Ours: wait for each transaction, one after the other."""
    async with Watcher(settings) as watcher:
        while True:
            position = await watcher.wait_for_tx(watcher.tx_number() + 1)
            seen[position.txid] = time.monotonic()


async def measure(
    settings: Settings, commits: Callable[[], asyncio.Future[Times]], ways: dict[str, Callable[[Settings, Times], object]]
) -> dict[str, tuple[list[float], Times]]:
    seen: dict[str, Times] = {name: {} for name in ways}
    tasks = [asyncio.ensure_future(way(settings, seen[name])) for name, way in ways.items()]  # type: ignore[arg-type]
    await asyncio.sleep(0.5)
    committed = await commits()
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError):
            raise RuntimeError(f"a reader ended: {outcome!r}")
    return {
        name: ([times[txid] - began for txid, began in committed.items() if txid in times], times)
        for name, times in seen.items()
    }


def rows(measured: dict[str, tuple[list[float], Times]]) -> list[list[str]]:
    return [[name, *milliseconds(latencies), f"{len(latencies)}/{COMMITS}"] for name, (latencies, _) in measured.items()]


HEAD = ["commit to knowledge", "median", "90th", "max", "seen"]


async def run() -> None:
    async with node() as (settings, commits):
        bare, ours = "bare asyncio socket reader", "Watcher, event stream"
        away = Settings(**(settings.model_dump() | {"litefs_dir": Path("/nowhere")}))  # the stream alone
        measured = await measure(away, commits, {bare: bare_reader, ours: waiter})
        show("Event stream", HEAD, rows(measured))
        first, second = measured[bare][1], measured[ours][1]
        later = [second[txid] - first[txid] for txid in first.keys() & second.keys()]
        print(f"\n  the waiter resumed {statistics.median(later) * 1e3:.3f} ms (median) after the bare reader")

        settings = Settings(**(settings.model_dump() | {"api_url": None}))
        measured = await measure(settings, commits, {"reading every 30 ms (litefs-js)": poller, "Watcher, inotify": waiter})
        show("Ordinary directory, no event stream", HEAD, rows(measured))

    if reason := fuse_available():
        print(f"\n(no FUSE mount: {reason})")
        return
    async with node(fuse=True) as (settings, commits):
        blind = Settings(**(settings.model_dump() | {"api_url": None, "data_dir": Path("/nowhere")}))
        ways = {"reading every 30 ms (litefs-js)": poller, "Watcher, shared re-read": waiter}
        show("FUSE mount, no event stream, no data directory", HEAD, rows(await measure(blind, commits, ways)))
        sighted = Settings(**(settings.model_dump() | {"api_url": None}))
        ways = {"reading every 30 ms (litefs-js)": poller, "Watcher, inotify on the data directory": waiter}
        show("FUSE mount, no event stream", HEAD, rows(await measure(sighted, commits, ways)))


def main() -> None:
    asyncio.run(run())
