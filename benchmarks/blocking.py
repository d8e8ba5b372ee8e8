"""What a thread pays for `BlockingWatcher.wait_for_tx`: where it is met, and from the event until it goes on."""

from __future__ import annotations

import statistics
import threading
import time
import timeit
from collections.abc import Callable
from functools import partial

from anyio import from_thread

from benchmarks.publishing import DATABASE, prepare, run_of, settings
from benchmarks.table import show
from litefs_watch import BlockingWatcher, Position
from litefs_watch.sources.thread import call_soon
from litefs_watch.testing import SimulatedNode

CALLS = 100_000
ROUNDS = 31
WAKES = 1_000
PAUSE = 0.001  # seconds between two events, in which the waiter goes to sleep


def met(watcher: BlockingWatcher) -> None:
    positions = {DATABASE: Position(10**9)}

    def compare() -> None:
        known = positions.get(DATABASE)
        if known is None or known.txid < 1:
            raise AssertionError

    token = run_of(watcher).token

    def portal() -> None:
        from_thread.run_sync(lambda: watcher.tx_number() >= 1, token=token)

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "a function with one comparison": (compare, CALLS),
        "wait_for_tx(1), which is met": (lambda: watcher.wait_for_tx(1), CALLS),
        "a call into the event loop (what it is not)": (portal, CALLS // 100),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turn: a noisy neighbour disturbs all of them
        for name, (function, calls) in ways.items():
            times[name].append(timeit.timeit(function, number=calls // ROUNDS) / (calls // ROUNDS) * 1e6)
    rows = [[name, f"{statistics.median(figures):.2f} us"] for name, figures in times.items()]
    show(f"A transaction that is here (median of {ROUNDS} rounds, in turn)", ["", "per call"], rows)


def woken(watcher: BlockingWatcher, node: SimulatedNode) -> None:
    """From the moment at which the watcher's thread has the event to the moment at which the waiting thread goes on."""
    token = run_of(watcher).token
    if token is None:
        raise RuntimeError("the watcher is not running")
    event = threading.Event()
    began = ended = 0.0

    def wait(txid: int) -> None:
        watcher.wait_for_tx(txid)

    def wait_for_event(_: int) -> None:
        event.wait()
        event.clear()

    ways: dict[str, tuple[Callable[[int], object], Callable[[Callable[[], object]], object]]] = {
        "threading.Event, set by that thread": (wait_for_event, lambda _: event.set()),
        "wait_for_tx, from the event": (wait, lambda publish: publish()),
    }
    order = list(ways) * WAKES  # in turn: a noisy neighbour disturbs both
    first = watcher.tx_number() + 1
    ready, done = threading.Semaphore(0), threading.Semaphore(0)

    def waiter() -> None:
        nonlocal ended
        for number, name in enumerate(order):
            ready.release()
            ways[name][0](first + number)
            ended = time.perf_counter()
            done.release()

    def wake(number: int, name: str) -> None:
        nonlocal began
        publish = prepare(watcher, node, first + number)  # for both, so that both have the same neighbours
        began = time.perf_counter()
        ways[name][1](publish)

    times: dict[str, list[float]] = {name: [] for name in ways}
    threading.Thread(target=waiter, daemon=True).start()
    for number, name in enumerate(order):
        ready.acquire()
        time.sleep(PAUSE)
        call_soon(token, partial(wake, number, name))
        done.acquire()
        times[name].append((ended - began) * 1e6)
    rows = [
        [name, *(f"{value:.0f} us" for value in (statistics.median(figures), sorted(figures)[int(WAKES * 0.9)]))]
        for name, figures in times.items()
    ]
    seconds = {name: [value / 1e6 for value in figures] for name, figures in times.items()}
    show("A thread that waits goes on", ["", "median", "90th"], rows, seconds)


def main() -> None:
    with SimulatedNode() as node, BlockingWatcher(settings(node)) as watcher:
        met(watcher)
        woken(watcher, node)
