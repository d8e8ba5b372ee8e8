"""The demo's cluster, its writer, and what is measured on each node."""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from litefs_watch import Position, PrimaryChange, Role, WaitTimeout, Watcher
from litefs_watch.cli.output import change_record, now, role_text
from litefs_watch.testing import SimulatedCluster, SimulatedNode

PAUSE = 0.06
"""Seconds between two writes."""
POLL = 0.03
"""Seconds between two reads of the baseline: litefs-js's interval."""
LAGS = (0.06, 0.03, 0.12)
"""Seconds of replication lag of each node, while it is a replica."""
REGIONS = ("ams", "fra", "syd")
LOST = 2.0
"""Seconds after which a transaction that has not come is lost."""


@dataclass
class NodeFigures:
    """One node, its watcher, and its figures, in seconds."""

    node: SimulatedNode
    region: str
    watcher: Watcher
    applied: dict[int, float] = field(default_factory=dict)
    """By TXID: when ``-pos`` showed it."""
    lags: list[float] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    reads: int = 0
    seen: int = 0
    reads_without_waiting: int = 0
    seen_without_waiting: int = 0

    @property
    def hostname(self) -> str:
        return self.node.hostname

    @property
    def role(self) -> Role:
        return self.watcher.role

    @property
    def role_text(self) -> str:
        return role_text(self.watcher.role, self.watcher.primary)

    @property
    def txid(self) -> int:
        return self.watcher.tx_number()


class Demo:
    """Ten seconds of a cluster's life. ``tell`` gets what happens, as a record and as a line."""

    def __init__(self, seconds: float, tell: Callable[[dict[str, object], str], None]) -> None:
        self.seconds = seconds
        self.nodes: list[NodeFigures] = []
        self.log: list[str] = []
        self.writes = 0
        self._tell = tell
        self._began = time.monotonic()
        self._ended: float | None = None
        self._event_at = self._began
        self._holding = False  # a fail-over: an application would hold its writes

    @property
    def elapsed(self) -> float:
        return (self._ended or time.monotonic()) - self._began

    @property
    def figures_are_good(self) -> bool:
        """Whether every read that waited saw its write."""
        return all(node.seen == node.reads for node in self.nodes) and any(node.reads for node in self.nodes)

    async def run(self) -> None:
        self._cluster = SimulatedCluster(size=len(LAGS), regions=REGIONS, lag=LAGS[1])
        try:
            await anyio.to_thread.run_sync(self._cluster.start)
            await self._on_cluster()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._cluster.stop)

    async def _on_cluster(self) -> None:
        cluster = self._cluster
        for node, lag in zip(cluster.nodes, LAGS, strict=True):
            cluster.set_lag(node.hostname, lag)
        await self._execute("CREATE TABLE writes (id INTEGER PRIMARY KEY, at REAL)")
        await anyio.to_thread.run_sync(cluster.wait_until_replicated)
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            for node, region in zip(cluster.nodes, REGIONS, strict=True):
                watcher = await stack.enter_async_context(Watcher(node.settings(idle_interval=0.2)))
                figures = NodeFigures(node, region, watcher)
                node.on_position = partial(self._applied, figures)
                self.nodes.append(figures)
                tasks.start_soon(self._follow_primary, figures)
                tasks.start_soon(self._poll, figures)
            self._began = time.monotonic()
            self._say("start", f"{self.nodes[0].hostname} is the primary; the others follow with a lag")
            tasks.start_soon(self._fail_over)
            async with anyio.create_task_group() as measuring:
                while self.elapsed < self.seconds:
                    await self._write(measuring)
                    await anyio.sleep(PAUSE)
            self._ended = time.monotonic()
            tasks.cancel_scope.cancel()

    async def _execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> Position:
        return await anyio.to_thread.run_sync(partial(self._cluster.execute, statement, parameters))

    async def _write(self, measuring: anyio.abc.TaskGroup) -> None:
        primary = next((node for node in self.nodes if node.watcher.is_primary and node.node.running), None)
        if primary is None or self._holding:
            return
        self.writes += 1
        row = self.writes
        position = await self._execute("INSERT INTO writes VALUES (?, ?)", (row, time.time()))
        committed = time.monotonic()
        for node in self.nodes:
            if node is not primary and node.watcher.role is Role.REPLICA:
                measuring.start_soon(self._measure, node, position.txid, row, committed)

    async def _measure(self, node: NodeFigures, txid: int, row: int, committed: float) -> None:
        """A user who has just written reads from a replica: once at once, and once after waiting."""
        node.reads_without_waiting += 1
        node.seen_without_waiting += await self._reads(node, row)
        try:
            await node.watcher.wait_for_tx(txid, timeout=LOST)
        except WaitTimeout:
            return
        woken = time.monotonic()
        if txid in node.applied and node.applied[txid] > committed:
            node.lags.append(woken - committed)
            node.wakes.append(woken - node.applied[txid])
        node.reads += 1
        node.seen += await self._reads(node, row)

    async def _reads(self, node: NodeFigures, row: int) -> bool:
        query = partial(self._cluster.query, node.hostname, "SELECT count(*) FROM writes WHERE id = ?", (row,))
        try:
            return bool((await anyio.to_thread.run_sync(query))[0][0])
        except sqlite3.OperationalError:  # the node has just been stopped
            return False

    async def _fail_over(self) -> None:
        """Halfway: the primary dies, a replica is elected, and later the old primary comes back."""
        cluster = self._cluster
        await anyio.sleep(self.seconds * 0.5)
        self._holding = True
        await anyio.to_thread.run_sync(cluster.wait_until_replicated)
        dead, heir = self.nodes[0].node, self.nodes[1].node
        self._say("kill", f"the primary, {dead.hostname}, is killed")
        await anyio.to_thread.run_sync(cluster.kill_primary)
        await anyio.to_thread.run_sync(dead.stop)  # an ordinary directory outlives its LiteFS; a mount would not
        await anyio.sleep(min(1.0, self.seconds * 0.1))
        self._say("elect", f"{heir.hostname} gets the lease")
        await anyio.to_thread.run_sync(cluster.elect, heir.hostname)
        self._holding = False
        await anyio.sleep(min(1.0, self.seconds * 0.1))
        self._say("restart", f"{dead.hostname} comes back")
        await anyio.to_thread.run_sync(cluster.restart, dead.hostname)

    def _applied(self, node: NodeFigures, database: str, position: Position) -> None:
        node.applied[position.txid] = time.monotonic()

    async def _follow_primary(self, node: NodeFigures) -> None:
        async for change in node.watcher.primary_changes():
            self._say_change(node, change, time.monotonic() - self._event_at)

    async def _poll(self, node: NodeFigures) -> None:
        """The baseline: read the file every 30 ms, as litefs-js does."""
        last = node.txid
        while True:
            await anyio.sleep(POLL)
            position = await node.watcher.read_position() if node.node.running else None
            seen = time.monotonic()
            if position is None or position.txid <= last:
                continue
            node.polls += [seen - node.applied[txid] for txid in range(last + 1, position.txid + 1) if txid in node.applied]
            last = position.txid

    def _say(self, kind: str, text: str) -> None:
        self._event_at = time.monotonic()
        self._record({"type": kind, "text": text}, text)

    def _say_change(self, node: NodeFigures, change: PrimaryChange, after: float) -> None:
        text = f"{node.hostname} knows after {after * 1e3:.0f} ms: {role_text(change.role, change.primary)}"
        self._record({**change_record(change), "node": node.hostname, "after": round(after, 6)}, text)

    def _record(self, record: dict[str, object], text: str) -> None:
        line = f"{self.elapsed:5.2f} s  {text}"
        self.log.append(line)
        self._tell({**record, "elapsed": round(self.elapsed, 3), "time": now()}, line)

    def summary(self) -> dict[str, object]:
        """All figures; seconds."""

        def median(values: list[float]) -> float | None:
            return round(statistics.median(values), 6) if values else None

        return {
            "seconds": round(self.elapsed, 3),
            "writes": self.writes,
            "nodes": [
                {
                    "hostname": node.hostname,
                    "region": node.region,
                    "role": node.role,
                    "txid": node.txid,
                    "lag_median": median(node.lags),
                    "wake_median": median(node.wakes),
                    "poll_median": median(node.polls),
                    "reads": node.reads,
                    "reads_seen": node.seen,
                    "reads_without_waiting": node.reads_without_waiting,
                    "reads_without_waiting_seen": node.seen_without_waiting,
                }
                for node in self.nodes
            ],
        }
