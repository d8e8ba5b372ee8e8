"""The page's cluster: three nodes in three regions, a watcher for each, and what one can do to them."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
from starlette.types import ASGIApp

from litefs_watch import LiteFSWatchError, Role, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.cli.demo_web.edge import Edge
from litefs_watch.cli.demo_web.feed import Feed, event
from litefs_watch.cli.demo_web.guestbook import INSERT, TABLE, guestbook
from litefs_watch.testing import SimulatedCluster, SimulatedNode

COOKIE = "litefs_demo"
"""Not the usual name: a browser sends a cookie of 127.0.0.1 to every port there."""
LONGEST_LAG = 5.0
LEASE = 2.0
"""Seconds after which a primary that is dead or frozen has lost its lease. (LiteFS's own are 10, unless told otherwise.)"""
GLANCE = 0.1
VISITORS = 0.5
"""Seconds between two writes of the simulated visitors."""


@dataclass(frozen=True)
class Place:
    hostname: str
    city: str
    lag: float
    """Seconds that it is behind, at first, while it is a replica."""


PLACES = (Place("ams", "Amsterdam", 0.1), Place("iad", "Washington", 0.25), Place("syd", "Sydney", 1.5))


FAILURES = (LiteFSWatchError, RuntimeError, ValueError, OSError, sqlite3.Error)
"""What an action can end with: it is refused, its disk is full, somebody has just killed or frozen the node."""


class RefusedError(Exception):
    """What was asked for can't be done now; the text says why."""


class Nodes:
    """The cluster from `run`'s start to its end. All calls on the event loop's thread."""

    def __init__(self) -> None:
        self.feed: Feed = Feed(self._opening)
        self.visitors: bool = False
        """Whether simulated visitors write, twice a second."""
        self._lags = {place.hostname: place.lag for place in PLACES}
        self._cluster = SimulatedCluster(hostnames=list(self._lags), regions=list(self._lags), lag=PLACES[0].lag, fuse=False)
        self._watchers: dict[str, Watcher] = {}
        self._acting = anyio.Lock()
        self._bare: dict[str, ASGIApp] = {}
        self._wrapped: dict[str, ASGIApp] = {}
        self.edges: dict[str, Edge] = {"without": Edge(self._bare, self._lives), "with": Edge(self._wrapped, self._lives)}
        """By lane: the same application without litefs_watch, and with it."""

    def __contains__(self, hostname: str) -> bool:
        return hostname in self._lags

    def _lives(self, hostname: str) -> bool:
        return self._cluster[hostname].running

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled."""
        try:
            await anyio.to_thread.run_sync(self._start)
            async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
                for node in self._cluster:
                    await self._serve(node, stack)
                    tasks.start_soon(self._tell, node.hostname)
                tasks.start_soon(self._keep_lease)
                tasks.start_soon(self._visit)
                task_status.started()
        finally:
            self.feed.close()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._cluster.stop)

    def _start(self) -> None:
        self._cluster.start()
        self._cluster.execute(TABLE)
        self._cluster.wait_until_replicated()
        for hostname, lag in self._lags.items():
            self._cluster.set_lag(hostname, lag)

    async def _serve(self, node: SimulatedNode, stack: AsyncExitStack) -> None:
        settings = node.settings(idle_interval=0.2, silence=0.6)  # soon, for whoever looks on
        watcher = self._watchers[node.hostname] = await stack.enter_async_context(Watcher(settings))
        bare = guestbook(node.hostname, partial(self._cluster.connect, node.hostname, timeout=0.5))
        self._bare[node.hostname] = bare
        self._wrapped[node.hostname] = LiteFSMiddleware(bare, watcher, cookie=COOKIE, cookie_format="position", secure=False)

    # What it tells.

    def _opening(self) -> str:
        return event("state", **self.state())

    def state(self) -> dict[str, object]:
        return {"nodes": [self._node(place) for place in PLACES], "visitors": self.visitors, "longestLag": LONGEST_LAG}

    def _node(self, place: Place) -> dict[str, object]:
        node, watcher = self._cluster[place.hostname], self._watchers[place.hostname]
        return {
            "hostname": place.hostname,
            "city": place.city,
            "role": watcher.role,
            "primary": watcher.primary,
            "txid": watcher.tx_number(),
            "lag": self._lags[place.hostname],
            "running": node.running,
            "frozen": node.frozen,
        }

    def _changed(self) -> None:
        self.feed.publish(self._opening())

    def _say(self, text: str) -> None:
        self.feed.publish(event("log", text=text))

    async def _tell(self, hostname: str) -> None:
        """Pass a watcher's changes on. A transaction at the primary sets off to the others."""
        watcher = self._watchers[hostname]
        async for change in watcher.changes():
            position = getattr(change, "position", None)
            if position is None:
                self._say(f"{hostname} now knows: {described(watcher)}")
            else:
                self.feed.publish(event("tx", node=hostname, txid=position.txid, commit=watcher.is_primary))
            self._changed()

    # What one can do.

    async def set_lag(self, hostname: str, seconds: float) -> None:
        self._lags[hostname] = seconds
        newest = lambda: self._cluster.set_lag(hostname, self._lags[hostname])  # noqa: E731 - these threads may overtake
        await anyio.to_thread.run_sync(newest)  # waits while a node is on its way out
        self._changed()

    async def act(self, action: str, hostname: str) -> None:
        """One of `ACTIONS`. Raises `RefusedError` where it can't be done."""
        async with self._acting:
            try:
                text = await anyio.to_thread.run_sync(ACTIONS[action], self._cluster, hostname)
            except FAILURES as error:
                raise RefusedError(str(error)) from error
        self._say(text)
        self._changed()

    def set_visitors(self, on: bool) -> None:
        self.visitors = on
        self._say("visitors write twice a second" if on else "the visitors have left")
        self._changed()

    def _leader(self) -> str | None:
        """Who can take writes at this moment."""
        leads = (node.hostname for node in self._cluster if node.is_primary and node.running and not node.frozen)
        return next(leads, None)

    async def _keep_lease(self) -> None:
        """Let another node take the lease of a primary that is dead or frozen: the first that lives, however far it is."""
        since: float | None = None
        while True:
            await anyio.sleep(GLANCE)
            if self._leader() is not None:
                since = None
                continue
            since = since or time.monotonic()
            heir = next((node.hostname for node in self._cluster if node.running and not node.frozen), None)
            if heir is None or time.monotonic() - since < LEASE:
                continue
            try:
                await self.act("elect", heir)
            except RefusedError as error:
                self._say(f"{heir} could not take the lease: {error}")
            since = None

    async def _visit(self) -> None:
        while True:
            await anyio.sleep(VISITORS * random.uniform(0.5, 1.5))  # noqa: S311 - weather, no secret
            leader = self._leader()
            if self.visitors and leader is not None:
                try:
                    await anyio.to_thread.run_sync(self._cluster.execute, INSERT, ("a visitor's note", leader))
                except FAILURES as error:
                    self._say(f"a visitor could not write: {error}")


def described(watcher: Watcher) -> str:
    if watcher.role is Role.PRIMARY:
        return "it is the primary"
    if watcher.role is Role.REPLICA:
        return f"it is a replica of {watcher.primary}"
    return "no primary can be reached"


def kill(cluster: SimulatedCluster, hostname: str) -> str:
    leads = cluster[hostname].is_primary
    cluster.kill(hostname)
    cluster[hostname].stop()  # an ordinary directory outlives its LiteFS; a mount would not
    return f"{hostname} is killed" + ("; what it has not sent is lost, unless it is elected again" if leads else "")


def restart(cluster: SimulatedCluster, hostname: str) -> str:
    if cluster[hostname].running:
        raise RefusedError(f"{hostname} runs")
    cluster.restart(hostname)
    return f"{hostname} is back"


def freeze(cluster: SimulatedCluster, hostname: str) -> str:
    cluster.freeze(hostname)
    return f"{hostname} is frozen, as by SIGSTOP"


def thaw(cluster: SimulatedCluster, hostname: str) -> str:
    cluster.thaw(hostname)
    return f"{hostname} is thawed"


def promote(cluster: SimulatedCluster, hostname: str) -> str:
    cluster.hand_over(hostname)
    return f"the primary's role is handed over to {hostname}; nothing is lost"


def elect(cluster: SimulatedCluster, hostname: str) -> str:
    cluster.fail_over(hostname)
    return f"{hostname} gets the lease"


ACTIONS: dict[str, Callable[[SimulatedCluster, str], str]] = {
    "kill": kill,
    "restart": restart,
    "freeze": freeze,
    "thaw": thaw,
    "promote": promote,
    "elect": elect,
}
