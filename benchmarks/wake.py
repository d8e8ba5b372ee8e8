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
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import watchfiles

from benchmarks.table import milliseconds, show
from litefs_watch import Position, Settings, Watcher
from litefs_watch.core.readings import Reading, TxEvent
from litefs_watch.sources.stream import EventStream
from litefs_watch.testing import SimulatedNode, fuse_available
from tests.contract.real import RealPair

COMMITS = 200
ROUNDS = 5
PAUSE = 0.02
"""Seconds between two commits."""

Times = dict[int, float]
"""By TXID: when it was known."""
Way = Callable[[Settings, Times], Coroutine[Any, Any, None]]


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


class Node:
    """The process that commits."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self.settings = settings
        self._connection = connection

    def commit(self, notify: bool) -> Times:
        """Make the commits. ``notify``: with LTX files and events; else only the -pos file changes."""
        self._connection.send(notify)
        times: Times = self._connection.recv()
        return times


@contextmanager
def node(fuse: bool = False, *, real: bool = False) -> Iterator[Node]:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve_real if real else serve, args=(there, fuse))
    process.start()
    try:
        yield Node(here.recv(), here)
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
        raise RuntimeError("the stream ended")
    finally:
        writer.close()


async def bare_waiter(settings: Settings, seen: Times) -> None:
    """The same, and another task that it wakes by a future: the least that waiting for it can cost."""
    loop = asyncio.get_running_loop()
    waiting = loop.create_future()

    async def wait() -> None:
        nonlocal waiting
        while True:
            txid = await waiting
            seen[txid] = time.monotonic()
            waiting = loop.create_future()

    class Told(Times):
        def __setitem__(self, txid: int, _: float) -> None:
            waiting.set_result(txid)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait())
        await bare_reader(settings, Told())


async def reports(settings: Settings, seen: Times) -> None:
    """The first half of ours: until the event is handed to the state."""

    def report(reading: Reading) -> None:
        if isinstance(reading, TxEvent):
            seen[reading.position.txid] = time.monotonic()

    await EventStream(settings.api_url, report=report, look=lambda: None, on_data_dir=lambda _: None).run()


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


def measure(
    node: Node, settings: Settings, ways: Mapping[str, Way], *, notify: bool = True, backend: str = "asyncio"
) -> dict[str, list[float]]:
    """Seconds from each commit to its being known, by all ways at once."""
    seen: dict[str, Times] = {name: {} for name in ways}

    async def follow() -> Times:
        async with anyio.create_task_group() as tasks:
            for name, way in ways.items():
                tasks.start_soon(way, settings, seen[name])
            await anyio.sleep(0.5)
            committed = await anyio.to_thread.run_sync(node.commit, notify)
            await anyio.sleep(0.5)
            tasks.cancel_scope.cancel()
        return committed

    committed = anyio.run(follow, backend=backend)
    return {
        name: [times[txid] - began for txid, began in committed.items() if txid in times] for name, times in seen.items()
    }


def rows(measured: Mapping[str, list[float]], commits: int = COMMITS) -> list[list[str]]:
    return [[name, *milliseconds(latencies), f"{len(latencies)}/{commits}"] for name, latencies in measured.items()]


BARE = "bare asyncio socket reader"
POLLER = "reading every 30 ms (litefs-js)"
HEAD = ["commit to knowledge", "median", "90th", "max", "seen"]


def main() -> None:
    with node() as simulated:
        event_stream(simulated)
        blind = Settings(**(simulated.settings.model_dump() | {"api_url": None}))
        measured = measure(simulated, blind, {POLLER: poller, "Watcher, inotify": waiter}, notify=False)
        show("Ordinary directory, no event stream", HEAD, rows(measured), measured)
    if reason := fuse_available():
        print(f"\n(no FUSE mount: {reason})")
    else:
        on_a_mount()
        if os.environ.get("LITEFS_BIN"):
            on_real_litefs()


def event_stream(node: Node) -> None:
    """In turn, not at once: on one loop, each would wait for the other."""
    alone = Settings(**(node.settings.model_dump() | {"litefs_dir": Path("/nowhere")}))
    ways: dict[str, tuple[Way, str]] = {
        BARE: (bare_reader, "asyncio"),
        "the same, and a task that it wakes": (bare_waiter, "asyncio"),
        "the event's report (asyncio)": (reports, "asyncio"),
        "Watcher's waiter (asyncio)": (waiter, "asyncio"),
        "the event's report (trio)": (reports, "trio"),
        "Watcher's waiter (trio)": (waiter, "trio"),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (way, backend) in ways.items():
            measured[name] += measure(node, alone, {name: way}, backend=backend)[name]
    bare = statistics.median(measured[BARE])
    table = [
        [*row, f"{(statistics.median(latencies) - bare) * 1e3:+.2f} ms"]
        for row, latencies in zip(rows(measured, COMMITS * ROUNDS), measured.values(), strict=True)
    ]
    show(f"Event stream ({ROUNDS} rounds, in turn)", [*HEAD, "median after the bare reader's"], table, measured)


def on_a_mount() -> None:
    with node(fuse=True) as mounted:
        given = mounted.settings.model_dump()
        blind = Settings(**(given | {"api_url": None, "data_dir": Path("/nowhere")}))
        measured = measure(mounted, blind, {POLLER: poller, "Watcher, shared re-read": waiter}, notify=False)
        show("FUSE mount, no event stream, no data directory", HEAD, rows(measured), measured)
        sighted = Settings(**(given | {"api_url": None}))
        measured = measure(mounted, sighted, {POLLER: poller, "Watcher, inotify on the data directory": waiter})
        show("FUSE mount, no event stream", HEAD, rows(measured), measured)


async def awatch_reader(settings: Settings, seen: Times) -> None:
    """watchfiles as one finds it in its documentation, on the data directory."""
    async for changes in watchfiles.awatch(f"{settings.data_dir}/dbs/{settings.database}/ltx", recursive=False):
        now = time.monotonic()
        for _, path in changes:
            if path.endswith(".ltx"):
                seen.setdefault(int(Path(path).stem[17:], 16), now)


def on_real_litefs() -> None:
    """Each way by itself: the primary's commit, replication, and the replica's knowledge of it."""
    ways: dict[str, tuple[Way, dict[str, Any]]] = {
        BARE: (bare_reader, {}),
        "Watcher, event stream": (waiter, {}),
        "Watcher, inotify on the data directory": (waiter, {"api_url": None}),
        "Watcher, shared re-read": (waiter, {"api_url": None, "data_dir": Path("/nowhere")}),
        POLLER: (poller, {}),
        "watchfiles.awatch on the data directory": (awatch_reader, {}),
    }
    measured: dict[str, list[float]] = {}
    with node(real=True) as pair:
        for name, (way, overrides) in ways.items():
            measured |= measure(pair, Settings(**(pair.settings.model_dump() | overrides)), {name: way})
    show("Two real LiteFS nodes: commit on the primary to knowledge on the replica", HEAD, rows(measured), measured)
