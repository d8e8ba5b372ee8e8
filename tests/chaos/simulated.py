"""A simulated cluster under chaos."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.chaos.app import Connect, Maintenance, Store, create, newest
from tests.chaos.driver import Driver
from tests.chaos.faults import Faults, deafness
from tests.chaos.runs import Machine, Run, Scene

LOCKED = 0.2
"""Seconds that the application waits for SQLite's lock."""
FROZEN = 1.0
"""Seconds that it waits for a frozen LiteFS, before it gives up."""


class Simulated(Scene):
    """Three nodes."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._maintenance = Maintenance()

    def prepare(self) -> None:
        self._deaf = self.stack.enter_context(deafness())
        self._cluster = self.stack.enter_context(SimulatedCluster(size=3, lag=0.001, fuse=self.run.fuse))
        with closing(self._cluster.connect(isolation_level=None)) as connection:
            connection.execute(f"PRAGMA journal_mode={self.run.journal}")
            create(connection, [])
        self._cluster.wait_until_replicated()
        with self.run.record.leads(self._cluster.primary.hostname):
            pass
        for node in self._cluster:
            self._watch_leading(node)
            # On LiteFS nobody sees a transaction before its TXID: who has seen one here waits until the cluster shows that.
            shown = partial(self._show, node)
            store = Store(node.hostname, connector(self._cluster, node), self._maintenance, shown)
            self.machines[node.hostname] = Machine(node.settings(idle_interval=0.2, silence=0.6), store)

    def make_faults(self) -> Driver:
        chance = random.Random(f"{self.run.seed}/faults")
        faults = Faults(
            self._cluster,
            chance,
            self._maintenance,
            deaf=self._deaf,
            role_of=lambda hostname: self.machines[hostname].role(),
            fuse=self.run.fuse,
        )
        return Driver(faults, chance, self.run.record, left_out=self.run.left_out)

    def _show(self, node: SimulatedNode) -> None:
        deadline = time.monotonic() + FROZEN
        shown = False
        while not shown and time.monotonic() < deadline:  # a frozen LiteFS would not have let it commit, nor read
            thawed = wait_until_thawed(node, deadline)
            self._cluster.sync()
            shown = thawed and not node.frozen
        if not shown or not node.running:
            raise sqlite3.OperationalError("disk I/O error")

    def _watch_leading(self, node: SimulatedNode) -> None:
        """Have it recorded when a node becomes the primary: somebody who looks now and then would miss some."""
        become_primary, restart, kill = node.become_primary, node.restart, node.kill

        def recorded(*args: Any, **options: Any) -> None:
            with self.run.record.leads(node.hostname):
                become_primary(*args, **options)

        def restarted(**options: Any) -> None:
            with self.run.record.leads(node.hostname) if options.get("primary", "") is None else nullcontext():
                restart(**options)
            self.run.record.lives(node.hostname)

        def killed() -> None:
            self.run.record.dies(node.hostname)
            kill()

        node.become_primary, node.restart, node.kill = recorded, restarted, killed  # type: ignore[method-assign]

    def log(self) -> list[str]:
        with closing(self._cluster.connect()) as connection:
            return newest(connection, -1)[::-1]


def wait_until_thawed(node: SimulatedNode, deadline: float) -> bool:
    while node.frozen and time.monotonic() < deadline:
        time.sleep(0.002)
    return not node.frozen


def connector(cluster: SimulatedCluster, node: SimulatedNode) -> Connect:
    """Opens a node's database as it is on LiteFS: not at all where the process has died, and later where it is frozen."""

    def connect(*, writing: bool) -> sqlite3.Connection:
        if not wait_until_thawed(node, time.monotonic() + FROZEN) or not node.running:
            raise sqlite3.OperationalError("disk I/O error")
        if writing and not node.is_primary:  # a hand-over has it that the next primary's file can be written a bit too soon
            raise sqlite3.OperationalError("attempt to write a readonly database")
        options: dict[str, Any] = {"factory": cluster.connection_class, "timeout": LOCKED, "isolation_level": None}
        connection: sqlite3.Connection = sqlite3.connect(f"file:{node.path()}?mode=rw", uri=True, **options)
        return connection

    return connect
