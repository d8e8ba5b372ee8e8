"""What can go wrong in a simulated cluster while clients use it.

Each fault is a generator: it does something, yields for how many requests that is to last, and goes on; at its end all is as
it was. `tests.chaos.driver` says which ones happen, and when.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litefs_watch import Role
from litefs_watch.sources.files import FolderWatch
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.chaos.app import Maintenance, create

Fault = Generator[int, None, None]
DATABASE = "app.db"
SHORT, LONG = 6, 40
"""Requests that a state lasts, on average."""
LEADING = {"hand_over": 16, "kill_primary": 4, "freeze_primary": 2, "lose_lease": 4, "drop_database": 1}
"""How often each one happens, of those that change the primary, or must not happen at once with such a change."""
OTHERS = {
    "change_lag": 3,
    "lag_more": 3,
    "pause": 2,
    "flap": 2,
    "cut_off": 2,
    "freeze_replica": 2,
    "kill_replica": 2,
    "stop_replica": 1,
    "block": 2,
    "drop_stream": 2,
    "half_open_streams": 1,
    "refuse_streams": 1,
    "lose_notifications": 2,
}
LOSING = LEADING.keys() - {"hand_over"} | {"kill_replica", "stop_replica", "cut_off", "freeze_replica"}
"""Those that lose transactions, or take a node away. Without them most requests are answered."""


class Faults:
    """The faults, by name, of one cluster."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        chance: random.Random,
        maintenance: Maintenance,
        *,
        deaf: set[Path],
        role_of: Callable[[str], Role],
        fuse: bool,
    ) -> None:
        self._cluster = cluster
        self._chance = chance
        self._maintenance = maintenance
        self._deaf = deaf
        self._role_of = role_of
        self._fuse = fuse
        self._dropped: list[str] = []
        """The rows of the database when it was last dropped."""

    def start(self, name: str) -> Fault:
        """Begin the fault of that name with the first `next`."""
        if name in LEADING:  # it would wait 5 seconds for an open transaction
            for node in self._cluster:
                self._cluster.unblock(node.hostname)
        fault: Fault = getattr(self, name)()
        return fault

    def heal(self) -> None:
        """Let all that is not as it should be, be so, and everything arrive everywhere."""
        cluster = self._cluster
        for node in cluster:
            cluster.unblock(node.hostname)
            cluster.resume_replication(node.hostname)
            cluster.set_lag(node.hostname, None)
            cluster.thaw(node.hostname)
            node.stream_available = True
        self._deaf.clear()
        cluster.lag = 0.0
        with contextlib.suppress(RuntimeError):
            cluster.elect(next((n for n in cluster if n.running), cluster.nodes[0]).hostname)
        self._repair()
        for node in cluster:
            if not node.running:
                cluster.restart(node.hostname)
            cluster.reconnect(node.hostname)
        cluster.wait_until_replicated(20.0)

    def _repair(self) -> None:
        """Where a fail-over has lost that the database was made again after it was dropped, do it once more."""
        self._cluster.create_database(DATABASE)
        with closing(self._cluster.connect(isolation_level=None)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'writes'").fetchone():
                create(connection, self._dropped)

    def some(self, average: int) -> int:
        """A number of requests."""
        return self._chance.randint(1, 2 * average - 1)

    def _replica(self) -> str:
        return self._chance.choice([node.hostname for node in self._cluster.replicas])

    def _successor(self) -> str:
        """Who can be the primary next."""
        able = [n for n in self._cluster.replicas if n.running and not n.frozen]
        return self._chance.choice(able or self._cluster.replicas).hostname

    # Changes of the primary.

    def hand_over(self) -> Fault:
        """To a node that nobody has seen the newest transactions on: whoever relies on them puts it to the test."""
        cluster, new = self._cluster, self._successor()
        cluster.pause_replication(new)
        try:
            yield self.some(LONG)
            cluster.hand_over(new, seconds=self._chance.choice((0.02, 0.04)))
        finally:
            cluster.resume_replication(new)
        yield 1

    def kill_primary(self) -> Fault:
        """It dies with transactions that nobody else has, and comes back with them."""
        cluster, old = self._cluster, self._cluster.primary.hostname
        try:
            cluster.pause_replication()
            yield self.some(SHORT)
            self._kill(old)
        finally:
            cluster.resume_replication()
        yield self.some(SHORT)
        cluster.elect(self._chance.choice([n.hostname for n in cluster if n.running and not n.frozen] or [old]))
        self._repair()
        yield self.some(SHORT)
        cluster.restart(old, connect=False)
        yield from self._come_back(old)

    def freeze_primary(self) -> Fault:
        """Its lease ends while it is frozen, and it wakes up in a history that has gone on without it.

        A lease lasts longer than `Settings.silence`, so by then its watcher knows that it knows nothing. In an ordinary
        directory, where the files of a frozen node can be read, it never does: there it keeps its lease.
        """
        cluster, old = self._cluster, self._cluster.primary.hostname
        failed_over = False
        try:
            cluster.pause_replication()
            yield self.some(SHORT)
            cluster.freeze(old)
            cluster.resume_replication()
            for _ in range(LONG if self._fuse else 1):
                if failed_over := self._fuse and self._role_of(old) is Role.UNKNOWN:
                    cluster.fail_over(self._successor(), connect=False)
                    self._repair()
                    break
                yield 2
            yield self.some(SHORT)
        finally:
            cluster.resume_replication()
            cluster.thaw(old)
        if failed_over:
            yield from self._come_back(old)

    def lose_lease(self) -> Fault:
        """It runs all the time, and is the primary no more."""
        cluster, old = self._cluster, self._cluster.primary.hostname
        try:
            cluster.pause_replication()
            yield self.some(SHORT)
            cluster.fail_over(self._successor(), connect=self._chance.random() < 0.5)
            self._repair()
        finally:
            cluster.resume_replication()
        yield from self._come_back(old)

    def _come_back(self, hostname: str) -> Fault:
        yield self.some(SHORT)
        if self._chance.random() < 0.5:
            self._cluster.pause_replication(hostname)  # it knows its primary, and is not reset yet
            try:
                self._cluster.reconnect(hostname)
                yield self.some(SHORT)
            finally:
                self._cluster.resume_replication(hostname)
        else:
            self._cluster.reset(hostname)

    def drop_database(self) -> Fault:
        """It is dropped, made again, and gets its rows back; writes are kept away by the application."""
        cluster = self._cluster
        with self._maintenance.without_writes():
            path = cluster.path(cluster.primary.hostname)
            with closing(sqlite3.connect(path)) as connection:
                ids = [identity for (identity,) in connection.execute("SELECT id FROM writes ORDER BY number")]
            self._dropped = ids
            cluster.drop_database(DATABASE)
            try:
                yield self.some(SHORT)
            finally:
                cluster.create_database(DATABASE)
                with closing(cluster.connect(isolation_level=None)) as connection:
                    create(connection, ids)

    # Everything else.

    def change_lag(self) -> Fault:
        self._cluster.lag = self._chance.choice((0.0, 0.001, 0.005, 0.02))
        yield self.some(SHORT)

    def lag_more(self) -> Fault:
        hostname = self._replica()
        self._cluster.set_lag(hostname, self._chance.choice((0.05, 0.2)))
        try:
            yield self.some(LONG)
        finally:
            self._cluster.set_lag(hostname, None)

    def pause(self) -> Fault:
        hostname = self._replica()
        self._cluster.pause_replication(hostname)
        try:
            yield self.some(LONG)
        finally:
            self._cluster.resume_replication(hostname)

    def flap(self) -> Fault:
        self._cluster.flap(self._replica(), times=self._chance.randint(1, 3))
        yield 1

    def cut_off(self) -> Fault:
        hostname = self._replica()
        self._cluster.cut_off(hostname)
        try:
            yield self.some(LONG)
        finally:
            self._cluster.reconnect(hostname)

    def freeze_replica(self) -> Fault:
        hostname = self._replica()
        self._cluster.freeze(hostname)
        try:
            yield self.some(LONG)
        finally:
            self._cluster.thaw(hostname)

    def kill_replica(self) -> Fault:
        hostname = self._replica()
        self._kill(hostname)
        yield from self._start_again(hostname)

    def _kill(self, hostname: str) -> None:
        self._cluster.kill(hostname)
        if self._chance.random() < 0.5:
            self._stop(hostname)  # the dead mount is unmounted, and an empty directory

    def _stop(self, hostname: str) -> None:
        with self._cluster._lock:  # else its staging directory may go while the cluster puts a transaction there
            self._cluster[hostname].stop()

    def stop_replica(self) -> Fault:
        hostname = self._replica()
        self._stop(hostname)
        yield from self._start_again(hostname)

    def _start_again(self, hostname: str) -> Fault:
        yield self.some(LONG)
        if self._cluster[hostname].running:
            return
        if self._chance.random() < 0.5:
            self._cluster.restart(hostname, connect=False)
            yield self.some(SHORT)
            self._cluster.reconnect(hostname)
        else:
            self._cluster.restart(hostname)

    def block(self) -> Fault:
        hostname = self._replica()
        self._cluster.block(hostname)
        try:
            yield self.some(LONG)
        finally:
            self._cluster.unblock(hostname)

    def drop_stream(self) -> Fault:
        self._any().drop_stream()
        yield 1

    def half_open_streams(self) -> Fault:
        node = self._any()
        node.half_open_streams()
        yield self.some(LONG)
        node.drop_stream()

    def refuse_streams(self) -> Fault:
        node = self._any()
        node.stream_available = False
        try:
            yield self.some(LONG)
        finally:
            node.stream_available = True

    def lose_notifications(self) -> Fault:
        """A node's inotify says nothing, without a word of it."""
        directory = self._any().litefs_dir
        self._deaf.add(directory)
        try:
            yield self.some(LONG)
        finally:
            self._deaf.discard(directory)

    def _any(self) -> SimulatedNode:
        return self._chance.choice(self._cluster.nodes)


@contextlib.contextmanager
def deafness() -> Iterator[set[Path]]:
    """The mounts of which inotify's news are lost."""
    deaf: set[Path] = set()
    heard = FolderWatch._changed

    def changed(self: FolderWatch, paths: list[str], gone: bool) -> None:
        if self._litefs_dir not in deaf:
            heard(self, paths, gone)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderWatch, "_changed", changed)
        yield deaf
