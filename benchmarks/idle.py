"""What a watcher costs while nobody waits, beside an event loop that sleeps."""

from __future__ import annotations

import asyncio
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.table import show
from litefs_watch import Settings, Watcher
from litefs_watch.testing import SimulatedNode, fuse_available

SECONDS = 10.0


async def busy(settings: Settings | None) -> float:
    """The part of a core that this process uses over `SECONDS`, with a watcher, or (None) with nothing but a sleep."""
    watcher = Watcher(settings) if settings else None
    if watcher:
        await watcher.start()
        subscription = watcher.primary_changes()  # as an application has it
        await asyncio.sleep(2)  # past the start
    began, used = time.monotonic(), time.process_time()
    await asyncio.sleep(SECONDS)
    share = (time.process_time() - used) / (time.monotonic() - began)
    if watcher:
        subscription.close()
        await watcher.stop()
    return share


def serve(connection: Connection, fuse: bool) -> None:
    """The node is in a process of its own, so that only the watcher is measured."""
    with SimulatedNode(fuse=fuse) as node:
        connection.send(node.settings())
        connection.recv()


def watched(fuse: bool, **overrides: object) -> float:
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, fuse))
    process.start()
    settings = here.recv()
    share = asyncio.run(busy(Settings(**(settings.model_dump() | overrides))))
    here.send(None)
    process.join()
    return share


def main() -> None:
    rows: list[tuple[str, float]] = [("an event loop that sleeps", asyncio.run(busy(None)))]
    rows.append(("Watcher, ordinary directory with event stream", watched(False)))
    rows.append(("Watcher, ordinary directory without it", watched(False, api_url=None)))
    if reason := fuse_available():
        print(f"(no FUSE mount: {reason})")
    else:
        rows.append(("Watcher, FUSE mount with event stream", watched(True)))
        rows.append(("Watcher, FUSE mount without it, data directory", watched(True, api_url=None)))
    show(f"Idle, over {SECONDS:g} s", ["", "of a core"], [[name, f"{share:.2%}"] for name, share in rows])
