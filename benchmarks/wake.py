"""How soon a waiter resumes, beside what one would write without this library.

A simulated node in a process of its own commits; this process follows it in several ways at once. Times are of the system's
monotonic clock, which both processes share, from just before the commit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import watchfiles

from benchmarks.table import milliseconds, show
from litefs_watch import Position, Settings, Watcher
from litefs_watch.testing import SimulatedNode, fuse_available
from tests.contract.real import RealPair

COMMITS = 200
ROUNDS = 5
PAUSE = 0.02
"""Seconds between two commits."""

Times = dict[int, float]
"""By TXID: when it was known."""
Way = Callable[[Settings, Times], Coroutine[Any, Any, None]]
Commits = Callable[[bool], asyncio.Future[Times]]
"""Make the commits; True: with LTX files and events, False: only the -pos file changes."""


def serve(connection: Connection, fuse: bool) -> None:
    """Commit when told, at an even pace, and tell when each began."""
    with SimulatedNode(fuse=fuse) as node:
        connection.send(node.settings())
        while (notify := connection.recv()) is not None:
            times: Times = {}
            for number in range(COMMITS):
                time.sleep(PAUSE * (0.5 + number % 7 / 7))  # out of step with whatever polls
                began = time.monotonic()
                times[node.commit(notify=notify).txid] = began
            connection.send(times)


def serve_real(connection: Connection, fuse: bool) -> None:
    """The same with two real LiteFS nodes: commit on the primary, for who follows on the replica."""
    with ExitStack() as stack:
        pair = stack.enter_context(RealPair(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        opened = sqlite3.connect(pair.primary.litefs_dir / "app.db", isolation_level=None)
        with closing(opened) as database:
            connection.send(pair.replica.settings())
            while connection.recv() is not None:
                times: Times = {}
                txid = pair.primary.position().txid
                for number in range(COMMITS):
                    time.sleep(PAUSE * (0.5 + number % 7 / 7))
                    txid += 1
                    times[txid] = time.monotonic()
                    database.execute("INSERT INTO t VALUES (1)")
                connection.send(times)


@asynccontextmanager
async def node(fuse: bool = False, *, real: bool = False) -> AsyncIterator[tuple[Settings, Commits]]:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve_real if real else serve, args=(there, fuse))
    process.start()
    loop = asyncio.get_running_loop()

    def commits(notify: bool) -> asyncio.Future[Times]:
        here.send(notify)
        return loop.run_in_executor(None, here.recv)

    try:
        yield await loop.run_in_executor(None, here.recv), commits
    finally:
        here.send(None)
        process.join()


async def bare_reader(settings: Settings, seen: Times) -> None:
    """An asyncio socket, split at newlines, and json: the least that can be done with LiteFS's stream."""
    host, _, port = str(settings.api_url).removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /events HTTP/1.1\r\nHost: litefs\r\n\r\n")
    try:
        while line := await reader.readline():
            if line.startswith(b'{"type":"tx"'):
                txid = int(json.loads(line)["data"]["txID"], 16)
                seen[txid] = time.monotonic()
    finally:
        writer.close()


async def poller(settings: Settings, seen: Times) -> None:
    """litefs-js's way: read the file every 30 ms."""
    path = Path(f"{settings.litefs_dir}/{settings.database}-pos")
    last = 0
    while True:
        txid = Position.parse(path.read_bytes()).txid  # noqa: ASYNC240 - as litefs-js does it
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
    settings: Settings, commits: Commits, ways: Mapping[str, Way], *, notify: bool = True
) -> dict[str, list[float]]:
    seen: dict[str, Times] = {name: {} for name in ways}
    tasks = [asyncio.ensure_future(way(settings, seen[name])) for name, way in ways.items()]
    await asyncio.sleep(0.5)
    committed = await commits(notify)
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if ended := [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)]:
        raise RuntimeError(f"a reader ended: {ended[0]!r}")
    return {
        name: [times[txid] - began for txid, began in committed.items() if txid in times] for name, times in seen.items()
    }


def rows(measured: dict[str, list[float]], commits: int = COMMITS) -> list[list[str]]:
    return [[name, *milliseconds(latencies), f"{len(latencies)}/{commits}"] for name, latencies in measured.items()]


POLLER = "reading every 30 ms (litefs-js)"
HEAD = ["commit to knowledge", "median", "90th", "max", "seen"]


async def run() -> None:
    async with node() as (settings, commits):
        # In turn, not at once: on one loop, each would wait for the other.
        away = Settings(**(settings.model_dump() | {"litefs_dir": Path("/nowhere")}))  # the stream alone
        ways = {"bare asyncio socket reader": bare_reader, "Watcher, event stream": waiter}
        measured: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                measured[name] += (await measure(away, commits, {name: way}))[name]
        show(f"Event stream ({ROUNDS} rounds)", HEAD, rows(measured, COMMITS * ROUNDS))
        bare, ours = (statistics.median(latencies) for latencies in measured.values())
        print(f"\n  the waiter resumes {(ours - bare) * 1e3:.2f} ms (medians) after the bare reader")

        settings = Settings(**(settings.model_dump() | {"api_url": None}))
        measured = await measure(settings, commits, {POLLER: poller, "Watcher, inotify": waiter}, notify=False)
        show("Ordinary directory, no event stream", HEAD, rows(measured))

    if reason := fuse_available():
        print(f"\n(no FUSE mount: {reason})")
    else:
        await on_a_mount()
        if os.environ.get("LITEFS_BIN"):
            await on_real_litefs()


async def on_a_mount() -> None:
    async with node(fuse=True) as (settings, commits):
        blind = Settings(**(settings.model_dump() | {"api_url": None, "data_dir": Path("/nowhere")}))
        ways = {POLLER: poller, "Watcher, shared re-read": waiter}
        show("FUSE mount, no event stream, no data directory", HEAD, rows(await measure(blind, commits, ways, notify=False)))
        sighted = Settings(**(settings.model_dump() | {"api_url": None}))
        ways = {POLLER: poller, "Watcher, inotify on the data directory": waiter}
        show("FUSE mount, no event stream", HEAD, rows(await measure(sighted, commits, ways)))


async def awatch_reader(settings: Settings, seen: Times) -> None:
    """watchfiles as one finds it in its documentation, on the data directory."""
    async for changes in watchfiles.awatch(f"{settings.data_dir}/dbs/{settings.database}/ltx", recursive=False):
        now = time.monotonic()
        for _, path in changes:
            if path.endswith(".ltx"):
                seen.setdefault(int(Path(path).stem[17:], 16), now)


async def on_real_litefs() -> None:
    """Each way by itself: the primary's commit, replication, and the replica's knowledge of it."""
    ways: dict[str, tuple[Way, dict[str, Any]]] = {
        "bare asyncio socket reader": (bare_reader, {}),
        "Watcher, event stream": (waiter, {}),
        "Watcher, inotify on the data directory": (waiter, {"api_url": None}),
        "Watcher, shared re-read": (waiter, {"api_url": None, "data_dir": Path("/nowhere")}),
        POLLER: (poller, {}),
        "watchfiles.awatch on the data directory": (awatch_reader, {}),
    }
    measured: dict[str, list[float]] = {}
    async with node(real=True) as (settings, commits):
        for name, (way, overrides) in ways.items():
            changed = Settings(**(settings.model_dump() | overrides))
            measured |= await measure(changed, commits, {name: way})
    show("Two real LiteFS nodes: commit on the primary to knowledge on the replica", HEAD, rows(measured))


def main() -> None:
    asyncio.run(run())
