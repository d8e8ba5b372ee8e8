"""What watchers cost while nobody waits, beside an event loop that sleeps: of a core, and in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.table import show
from litefs_watch import Settings, Watcher
from litefs_watch.testing import SimulatedNode, fuse_available

SECONDS = 10.0
MANY = 50

Cost = tuple[float, int]


async def busy(*all_settings: Settings) -> Cost:
    """The part of a core that this process uses over `SECONDS` with these watchers, and its threads at the end."""
    watchers = [Watcher(settings) for settings in all_settings]
    subscriptions = []
    for watcher in watchers:
        await watcher.start()
        subscriptions.append(watcher.primary_changes())  # as an application has it
    await asyncio.sleep(7 if len(watchers) > 1 else 2)  # past the start, and the threads that it needed
    began, used = time.monotonic(), time.process_time()
    await asyncio.sleep(SECONDS)
    share, threads = (time.process_time() - used) / (time.monotonic() - began), threading.active_count()
    for subscription in subscriptions:
        subscription.close()
    for watcher in watchers:
        await watcher.stop()
    return share, threads


def serve(connection: Connection, fuse: bool) -> None:
    """The node is in a process of its own, so that only the watcher is measured."""
    with SimulatedNode(fuse=fuse) as node:
        connection.send(node.settings())
        connection.recv()


def watched(fuse: bool, count: int = 1, **overrides: object) -> Cost:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, fuse))
    process.start()
    settings = Settings(**(here.recv().model_dump() | overrides))
    cost = asyncio.run(busy(*[settings] * count))
    here.send(None)
    process.join()
    return cost


def in_directories(count: int) -> Cost:
    """A watcher on each of so many."""
    with TemporaryDirectory() as parent:
        folders = [Path(parent) / str(number) for number in range(count)]
        for folder in folders:
            folder.mkdir()
            (folder / "app.db-pos").write_text(f"{1:016x}/{1 << 63:016x}\n")
        return asyncio.run(busy(*[Settings(folder, "app.db", api_url=None) for folder in folders]))


def main() -> None:
    rows: list[tuple[str, Cost]] = [("an event loop that sleeps", asyncio.run(busy()))]
    rows.append(("Watcher, ordinary directory with event stream", watched(False)))
    rows.append(("Watcher, ordinary directory without it", watched(False, api_url=None)))
    rows.append((f"{MANY} Watchers, ordinary directories without it", in_directories(MANY)))
    if reason := fuse_available():
        print(f"(no FUSE mount: {reason})")
    else:
        rows.append(("Watcher, FUSE mount with event stream", watched(True)))
        rows.append(("Watcher, FUSE mount without it, data directory", watched(True, api_url=None)))
        rows.append((f"{MANY} Watchers, FUSE mount with event stream", watched(True, MANY)))
        rows.append((f"{MANY} Watchers, FUSE mount without it, data directory", watched(True, MANY, api_url=None)))
    cells = [[name, f"{share:.2%}", str(threads)] for name, (share, threads) in rows]
    show(f"Idle, over {SECONDS:g} s", ["", "of a core", "threads"], cells)
