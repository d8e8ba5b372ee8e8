"""Events put in by hand, to measure this package and not the way to it: the one place that reaches inside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from litefs_watch import BlockingWatcher, Position, Settings, Watcher
from litefs_watch.core.readings import TxEvent
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers.run import Run

DATABASE = "app.db"


def settings(node: SimulatedNode) -> Settings:
    """Of a watcher that looks again by itself as seldom as can be."""
    return node.settings(idle_interval=3600)


def run_of(watcher: Watcher | BlockingWatcher) -> Run:
    return watcher._live() if isinstance(watcher, BlockingWatcher) else watcher._run


async def looked(watcher: Watcher, node: SimulatedNode) -> None:
    """Until an event alone is believed: after the start, the first ones are confirmed by a look."""
    async with asyncio.timeout(10):
        while True:
            txid = watcher.tx_number() + 1
            prepare(watcher, node, txid)()
            if watcher.tx_number() == txid:
                return
            await watcher.wait_for_tx(txid)


def prepare(watcher: Watcher | BlockingWatcher, node: SimulatedNode, txid: int) -> Callable[[], None]:
    """What publishes the event, to be called at once in the watcher's thread. The node's files say the same before."""
    position, run = Position(txid, txid), run_of(watcher)
    node.record(DATABASE, position, notify=False)
    return lambda: run.publish(TxEvent(time.monotonic(), DATABASE, position))
