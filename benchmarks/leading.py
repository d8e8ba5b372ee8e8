"""How soon a job of `while_primary` ends when this node is the primary no more, beside a subscription that hears of it."""

from __future__ import annotations

import threading
import time

import anyio

from benchmarks.table import milliseconds, show
from litefs_watch import BlockingWatcher, Role, Watcher
from litefs_watch.testing import SimulatedNode

LOSSES = 40


class Times:
    """When the role was lost, and who knew when."""

    def __init__(self) -> None:
        self.heard: list[float] = []
        self.ended: list[float] = []
        self._lost = 0.0

    def lose(self, node: SimulatedNode) -> None:
        self._lost = time.monotonic()
        node.lose_primary()

    def note(self, times: list[float]) -> None:
        times.append(time.monotonic() - self._lost)


async def in_a_loop(node: SimulatedNode, times: Times) -> None:
    async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
        begun, ended = anyio.Event(), anyio.Event()

        async def job() -> None:
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                times.note(times.ended)
                ended.set()

        async def hear() -> None:
            async for change in watcher.primary_changes():
                if change.previous_role is Role.PRIMARY:
                    times.note(times.heard)

        tasks.start_soon(hear)
        tasks.start_soon(watcher.while_primary, job)
        for _ in range(LOSSES):
            node.become_primary()
            await begun.wait()
            await anyio.to_thread.run_sync(times.lose, node)
            await ended.wait()
            begun, ended = anyio.Event(), anyio.Event()
        tasks.cancel_scope.cancel()


def in_threads(node: SimulatedNode, times: Times) -> None:
    begun, ended = threading.Semaphore(0), threading.Semaphore(0)

    def job(over: threading.Event) -> None:
        begun.release()
        over.wait()
        times.note(times.ended)
        ended.release()

    with BlockingWatcher(node.settings()) as watcher:
        watcher.on_primary_change(lambda c: times.note(times.heard) if c.previous_role is Role.PRIMARY else None)
        threading.Thread(target=watcher.while_primary, args=(job,), daemon=True).start()
        for _ in range(LOSSES):
            node.become_primary()
            begun.acquire()
            times.lose(node)
            ended.acquire()
        node.become_primary()  # or the end of the watcher would be one more loss


def main() -> None:
    measured: dict[str, list[float]] = {}
    for backend in ("asyncio", "trio", "threads"):
        times = Times()
        with SimulatedNode(primary="node-b") as node:
            if backend == "threads":
                in_threads(node, times)
            else:
                anyio.run(in_a_loop, node, times, backend=backend)
        measured[f"a subscription hears of it ({backend})"] = times.heard[:LOSSES]
        measured[f"while_primary's job has ended ({backend})"] = times.ended[:LOSSES]
    rows = [[name, *milliseconds(seconds)] for name, seconds in measured.items()]
    head = ["this node is the primary no more", "median", "90th", "max"]
    show(f"From the loss of the role, on an ordinary directory with the event stream ({LOSSES} times)", head, rows, measured)
