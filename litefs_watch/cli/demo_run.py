"""The demo's cluster, its writer, and what is measured on each node."""

from __future__ import annotations

import random
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
from anyio.abc import TaskGroup

from litefs_watch import Position, PrimaryChange, Role, WaitTimeout, Watcher
from litefs_watch.cli.output import now
from litefs_watch.operate.words import change_record, role_text
from litefs_watch.testing import SimulatedCluster, SimulatedNode

PAUSE = 0.06
"""Seconds between two writes."""
POLL = 0.03
"""Seconds between two reads of the baseline: litefs-js's interval."""
REGIONS = ("ams", "fra", "syd")
LAGS = (0.06, 0.03, 0.12)
"""Seconds of replication lag of each node while it is a replica, give or take `JITTER`."""
JITTER = 0.3
LOST = 2.0
"""Seconds after which a transaction that has not come is lost."""


@dataclass
class NodeFigures:
    """One node, its watcher, and its figures, in seconds."""

    node: SimulatedNode
    region: str
    watcher: Watcher
    applied: dict[int, float] = field(default_factory=dict)
    """By TXID: when ``-pos`` showed it, or a later one."""
    shown: int = 0
    """The TXID that ``-pos`` showed last."""
    lags: list[float] = field(default_factory=list)
    """From the commit on the primary to the wake of `wait_for_tx`."""
    wakes: list[float] = field(default_factory=list)
    """From ``-pos`` showing it to the wake."""
    polls: list[float] = field(default_factory=list)
    """From ``-pos`` showing it to its being seen by the baseline."""
    reads: int = 0
    seen: int = 0
    lost: int = 0
    unwaited_reads: int = 0
    unwaited_seen: int = 0
    final: tuple[Role, int] | None = None
    """Role and TXID at the demo's end: a watcher that has been stopped knows neither."""

    @property
    def hostname(self) -> str:
        return self.node.hostname

    @property
    def role(self) -> Role:
        return self.final[0] if self.final else self.watcher.role

    @property
    def txid(self) -> int:
        return self.final[1] if self.final else self.watcher.tx_number()

    def record(self) -> dict[str, object]:
        return {
            "hostname": self.hostname,
            "region": self.region,
            "role": self.role,
            "txid": self.txid,
            "lag": spread(self.lags),
            "wake": spread(self.wakes),
            "poll": spread(self.polls),
            "reads": self.reads,
            "readsSeen": self.seen,
            "readsLost": self.lost,
            "unwaitedReads": self.unwaited_reads,
            "unwaitedReadsSeen": self.unwaited_seen,
        }


class Demo:
    """Some seconds of a cluster's life. ``tell`` gets what happens, as a record and as a line."""

    def __init__(self, seconds: float, tell: Callable[[dict[str, object], str], None]) -> None:
        self.seconds = seconds
        self.nodes: list[NodeFigures] = []
        self.log: list[str] = []
        self.writes: int = 0
        self._tell = tell
        self._began = time.monotonic()
        self._ended: float | None = None
        self._event_at = self._began
        self._cluster = SimulatedCluster(size=len(LAGS), regions=REGIONS, lag=LAGS[1], fuse=False)
        self._may_write = anyio.Lock()  # held during the fail-over, as an application would hold its writes
        self._written_at = self._began
        self._writer: NodeFigures | None = None
        self._failed_over = False

    @property
    def elapsed(self) -> float:
        return (self._ended or time.monotonic()) - self._began

    @property
    def good(self) -> bool:
        """Whether every read that waited saw its write, and none waited in vain."""
        return all(node.seen == node.reads and not node.lost for node in self.nodes) and any(n.reads for n in self.nodes)

    async def run(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._cluster.start)
            await self._execute("CREATE TABLE writes (id INTEGER PRIMARY KEY, at REAL)")
            await anyio.to_thread.run_sync(self._cluster.wait_until_replicated)
            async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
                for node, region in zip(self._cluster.nodes, REGIONS, strict=True):
                    watcher = await stack.enter_async_context(Watcher(node.settings()))
                    figures = NodeFigures(node, region, watcher, shown=watcher.tx_number())
                    node.on_position = partial(self._applied, figures)
                    self.nodes.append(figures)
                await self._live(tasks)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._cluster.stop)

    async def _live(self, tasks: TaskGroup) -> None:
        self._began = self._written_at = time.monotonic()
        self._say("start", f"{self.nodes[0].hostname} is the primary; the others follow with a lag")
        self._writer = self.nodes[0]
        for node in self.nodes:
            tasks.start_soon(self._follow_primary, node)
            tasks.start_soon(self._poll, node)
        tasks.start_soon(self._vary_lags)
        tasks.start_soon(self._fail_over)
        async with anyio.create_task_group() as measuring:
            while self.elapsed < self.seconds or not self._failed_over:  # which takes its time on a slow machine
                await self._write(measuring)
                await anyio.sleep(PAUSE)
        self._ended = time.monotonic()
        for node in self.nodes:
            node.final = node.role, node.txid
        tasks.cancel_scope.cancel()

    async def _execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> Position:
        return await anyio.to_thread.run_sync(partial(self._cluster.execute, statement, parameters))

    async def _write(self, measuring: TaskGroup) -> None:
        async with self._may_write:
            primary = next((node for node in self.nodes if node.watcher.is_primary), None)
            if primary is None:
                return
            self.writes += 1
            row = self.writes
            position = await self._execute("INSERT INTO writes VALUES (?, ?)", (row, time.time()))
        committed = time.monotonic()
        if primary is not self._writer:
            gap = committed - self._written_at
            self._record({"type": "resume", "node": primary.hostname, "after": round(gap, 6)},
                         f"writes go on at {primary.hostname}, {gap * 1e3:.0f} ms after the last one")  # fmt: skip
        self._writer, self._written_at = primary, committed
        for node in self.nodes:
            if node is not primary and node.role is Role.REPLICA:
                measuring.start_soon(self._read_own_write, node, position.txid, row, committed)

    async def _read_own_write(self, node: NodeFigures, txid: int, row: int, committed: float) -> None:
        """A user who has just written reads from a replica: once at once, and once after waiting."""
        seen = await self._sees(node, row)
        node.unwaited_reads += 1
        node.unwaited_seen += seen
        began = time.monotonic()
        try:
            await node.watcher.wait_for_tx(txid, timeout=LOST)
        except WaitTimeout:
            node.lost += 1
            return
        woken = time.monotonic()
        applied = node.applied.get(txid, 0.0)
        if began < applied <= woken:  # else it was there already: no wait, and no wake
            node.lags.append(woken - committed)
            node.wakes.append(woken - applied)
        seen = await self._sees(node, row)
        node.reads += 1
        node.seen += seen

    async def _sees(self, node: NodeFigures, row: int) -> bool:
        query = partial(self._cluster.query, node.hostname, "SELECT count(*) FROM writes WHERE id = ?", (row,))
        try:
            return bool((await anyio.to_thread.run_sync(query))[0][0])
        except sqlite3.OperationalError:  # the node has just been stopped
            return False

    async def _fail_over(self) -> None:
        """Halfway: the primary dies, a replica is elected, and later the old primary comes back."""
        cluster, pause = self._cluster, min(1.0, self.seconds * 0.1)
        dead, heir = self.nodes[0].node, self.nodes[1].node
        await anyio.sleep(self.seconds * 0.5)
        async with self._may_write:
            await anyio.to_thread.run_sync(cluster.wait_until_replicated)
            self._say("kill", f"the primary, {dead.hostname}, is killed")
            await anyio.to_thread.run_sync(cluster.kill_primary)
            await anyio.to_thread.run_sync(dead.stop)  # an ordinary directory outlives its LiteFS; a mount would not
            await anyio.sleep(pause)
            self._say("elect", f"{heir.hostname} gets the lease")
            await anyio.to_thread.run_sync(cluster.elect, heir.hostname)
        await anyio.sleep(pause)
        self._say("restart", f"{dead.hostname} comes back")
        await anyio.to_thread.run_sync(cluster.restart, dead.hostname)
        await self.nodes[1].watcher.wait_for_role(Role.PRIMARY)
        self._failed_over = True

    async def _vary_lags(self) -> None:
        while True:
            for node, lag in zip(self.nodes, LAGS, strict=True):
                varied = lag * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - weather, no secret
                await anyio.to_thread.run_sync(self._cluster.set_lag, node.hostname, varied)
            await anyio.sleep(0.2)

    def _applied(self, node: NodeFigures, database: str, position: Position) -> None:
        when = time.monotonic()
        for txid in range(min(node.shown + 1, position.txid), position.txid + 1):
            node.applied[txid] = when
        node.shown = position.txid

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
        self._record({"type": kind}, text)

    def _say_change(self, node: NodeFigures, change: PrimaryChange, after: float) -> None:
        text = f"{node.hostname} knows after {after * 1e3:.0f} ms: {role_text(change.role, change.primary)}"
        self._record({**change_record(change), "node": node.hostname, "after": round(after, 6)}, text)

    def _record(self, record: dict[str, object], text: str) -> None:
        line = f"{self.elapsed:5.2f} s  {text}"
        self.log.append(line)
        self._tell({**record, "text": text, "elapsed": round(self.elapsed, 3), "time": now()}, line)

    def summary(self) -> dict[str, object]:
        """All figures; times in seconds."""
        return {
            "type": "summary",
            "good": self.good,
            "seconds": round(self.elapsed, 3),
            "writes": self.writes,
            "nodes": [node.record() for node in self.nodes],
        }


def spread(values: list[float]) -> dict[str, float | int | None]:
    """Count, median and 90th percentile."""
    return {
        "count": len(values),
        "median": round(statistics.median(values), 6) if values else None,
        "p90": round(percentile(values), 6) if values else None,
    }


def percentile(values: list[float]) -> float:
    """The 90th."""
    return sorted(values)[int(len(values) * 0.9)]
