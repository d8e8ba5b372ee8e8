"""A simulated cluster: several nodes, between which real SQLite databases are replicated with a lag that one sets."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from litefs_watch.errors import WaitTimeout
from litefs_watch.position import Position
from litefs_watch.testing.commits import CommitWatch, publishing_connection
from litefs_watch.testing.engine import ReplicatedNodes
from litefs_watch.testing.files import empty_database
from litefs_watch.testing.node import SimulatedNode, random_checksum
from litefs_watch.testing.replication import Member
from litefs_watch.testing.sqlite_file import DatabaseFile, same_content


class SimulatedCluster(ReplicatedNodes):
    """LiteFS nodes on loopback; the first starts as the primary. A context manager; or `start`, and `stop` at the end.

    An application opens ``cluster.path(hostname)`` as it would on LiteFS. What it commits on the primary gets the next TXID
    there, and ``lag`` seconds later it is in the replicas' files, then in their ``-pos``, then in their event streams. On a
    replica a write fails with 'attempt to write a readonly database', and an open transaction stops replication.

    **When a TXID shows.** For connections from `connect`, or made with ``factory=cluster.connection_class``, it is in the
    primary's ``-pos`` before the COMMIT returns, as on LiteFS. What others commit, in this process or another one, is seen
    within some 2 ms, and `sync` makes it so at once; such commits may share a TXID when they are that close.

    ``hostnames`` wins over ``size``; ``regions`` are the nodes' Fly.io regions, in the same order. ``fuse=True`` gives the
    nodes FUSE mounts, in which each database is a symbolic link. Needs Linux.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        hostnames: Sequence[str] | None = None,
        lag: float = 0.05,
        databases: Iterable[str] = ("app.db",),
        regions: Sequence[str] = (),
        directory: str | Path | None = None,
        fuse: bool = False,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise RuntimeError(f"a simulated cluster needs Linux (open-file-description locks), and this is {sys.platform}")
        names = list(hostnames or (f"node-{chr(ord('a') + number)}" for number in range(size)))
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a cluster needs one node at least, and each hostname once, not {names!r}")
        base = Path(directory or tempfile.mkdtemp(prefix="litefs-watch-"))
        self._remove = weakref.finalize(self, shutil.rmtree, base, ignore_errors=True) if directory is None else None
        positions = {n: Position(1, random_checksum()) for n in ([databases] if isinstance(databases, str) else databases)}
        members = {}
        for index, name in enumerate(names):
            node = SimulatedNode(
                base / name,
                hostname=name,
                primary=names[0] if index else None,
                databases=positions,
                fuse=fuse,
                region=regions[index] if index < len(regions) else None,
            )
            node.on_promote = partial(self._spawn, partial(self.hand_over, name))
            members[name] = Member(node)
        super().__init__(members, list(positions), lag)
        self._leadership = threading.Lock()  # one change of the primary at a time; taken before the cluster's lock
        self.connection_class = publishing_connection(self.sync)
        """For ``sqlite3.connect(path, factory=...)``, Django's ``OPTIONS["factory"]``, SQLAlchemy's ``connect_args``."""

    def start(self) -> SimulatedCluster:
        """Start all nodes. Raises what `SimulatedNode.start` raises."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all nodes, and remove the directory where it is a temporary one. Close your connections before."""
        self._stop()
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> SimulatedCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # The databases.

    def path(self, hostname: str, database: str | None = None) -> Path:
        """A database's file in a node's mount; the first database's without ``database``."""
        return self[hostname].path(database)

    def connect(self, hostname: str | None = None, database: str | None = None, **options: Any) -> sqlite3.Connection:
        """Connect to a node's database (the primary's; the first one). Commits are published before they return.

        ``options`` are `sqlite3.connect`'s. A connection that was opened while its node was a replica stays read-only when
        the node becomes the primary, which it does not on LiteFS: open another one.
        """
        node = self.primary if hostname is None else self[hostname]
        connection: sqlite3.Connection = sqlite3.connect(
            node.path(database), **({"factory": self.connection_class} | options)
        )
        return connection

    def execute(self, statement: str, parameters: Sequence[Any] = (), *, database: str | None = None) -> Position:
        """Execute one statement on the primary, commit, and return the position that the database then has."""
        with self._lock:
            node = self.primary
        connection = self.connect(node.hostname, database)
        try:
            with connection:
                connection.execute(statement, parameters)
            return node.position(database)
        finally:
            connection.close()

    def query(
        self, hostname: str, statement: str, parameters: Sequence[Any] = (), *, database: str | None = None
    ) -> list[Any]:
        """The rows that a node answers a query with."""
        connection = sqlite3.connect(self.path(hostname, database))
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    def create_database(self, database: str) -> Position:
        """Create an empty database on the primary, which is then replicated. One that is there stays as it is."""
        with self._lock:
            leader = self._leader()
            if database not in leader.images:
                leader.create(database).replace(empty_database(), read_only=False)
                self._record(database, empty_database())
                self._watch(database)
            return leader.node.position(database)

    def drop_database(self, database: str) -> Position:
        """Drop a database on the primary, and later on the replicas. Raises `KeyError` where there is none."""
        with self._lock:
            leader = self._leader()
            if database not in leader.images:
                raise KeyError(database)
            self._watches.pop(database).close()
            leader.forget(database)
            return self._record(database, b"")

    # The primary.

    def hand_over(self, to: str, *, seconds: float = 0.1) -> None:
        """Hand the primary's role over, as LiteFS does on ``POST /promote``. Nothing that was committed is lost.

        For ``seconds`` (LiteFS's own are about 1.1) no primary is known, neither here nor there. The old one's stream says
        false/none, false/its own name, false/none, false/``to``. Returns when all follow the new one.

        Raises `RuntimeError` when ``to`` can't take over, `WaitTimeout` when an open transaction prevents it for 5 seconds.
        """
        with self._leadership, self._lock:
            old, new = self._leader(), self._members[to]
            if new is old:
                return
            if not new.node.running or new.cut_off or not new.node.candidate:
                raise RuntimeError(f"{to!r} can't become the primary: it is down, cut off, or no candidate")
            if old.node.frozen or new.node.frozen:
                raise RuntimeError(f"a frozen node can't hand over, nor take over: thaw {old.node.hostname!r} and {to!r}")
            self._exchange(old, new)
            self._primary = None
            for member in self._members.values():
                if member.node.running:
                    member.node.lose_primary()
            self._pass(seconds / 2)
            old.node.set_primary(old.node.hostname)
            self._pass(0.001)
            old.node.lose_primary()
            if not self._running:
                return
            new.node.become_primary()
            self._lead(new)
            self._pass(seconds / 2)
            self._follow()

    def kill_primary(self) -> None:
        """Kill the primary (SIGKILL). What has not been replicated is lost; no primary is known until `elect`."""
        with self._leadership, self._lock:
            self._leader().node.kill()
            self._lose_leader()

    def elect(self, to: str) -> None:
        """Make a node the primary after `kill_primary`, which is started if it is down. The others follow it, and go back
        to its positions where they differ.

        Raises `RuntimeError` while there is a primary, `WaitTimeout` when an open transaction prevents it for 5 seconds.
        """
        with self._leadership, self._lock:
            if self._primary is not None:
                raise RuntimeError(f"{self._primary.node.hostname!r} is the primary: hand over, or kill it first")
            new = self._members[to]
            new.queue.clear()
            self._allow(new)
            if new.node.running:
                new.node.become_primary()
            else:
                new.node.restart(primary=None)
            self._lead(new)
            self._follow()

    def restart(self, hostname: str) -> None:
        """Bring a node back that was stopped or killed: as a replica, whose positions become those of the primary, or
        where there is no primary, as the primary."""
        if self._primary is None:
            self.elect(hostname)
            return
        with self._leadership, self._lock:
            leader, member = self._leader(), self._members[hostname]
            if member is not leader:
                member.node.restart(primary=leader.node.hostname)
                member.follow(leader)

    def cut_off(self, hostname: str) -> None:
        """A replica can't reach the primary, which it names for 1 ms once a second, until `reconnect`."""
        with self._lock:
            member = self._members[hostname]
            if member is self._primary:
                raise ValueError(f"{hostname!r} is the primary: cut off the replicas, or kill it")
            member.cut_off = True
            member.flap_at = 0.0
            member.node.lose_primary()

    def reconnect(self, hostname: str) -> None:
        """End `cut_off`. What was committed meanwhile arrives at once."""
        with self._lock:
            member = self._members[hostname]
            if member.cut_off:
                member.cut_off = False
                if self._primary is not None:
                    member.node.set_primary(self._primary.node.hostname)
                self._changed.notify_all()

    # Inside, with both locks held.

    def _exchange(self, old: Member, new: Member) -> None:
        """From a primary that can be written to, to another one that has all it has; or nothing has changed."""
        try:
            for database, watch in self._watches.items():
                self._persist(partial(self._forbid, old.files[database], watch), f"stop writing on {old.node.hostname!r}")
                image = watch.image()
                if image is not None and not same_content(image, old.images[database]):
                    self._record(database, image)  # somebody was quicker than the ban
            self._persist(new.catch_up, f"apply what was committed on {new.node.hostname!r}")
            self._allow(new)
        except WaitTimeout:
            self._allow(old)
            raise
        self._unwatch()
        old.led = False

    @staticmethod
    def _forbid(file: DatabaseFile, watch: CommitWatch) -> bool:
        return watch.checkpoint() and file.mark(read_only=True)

    def _allow(self, member: Member) -> None:
        for database in member.images:
            file = member.create(database)
            self._persist(partial(file.mark, read_only=False), f"allow writing on {member.node.hostname!r}")

    def _follow(self) -> None:
        """All others follow the new primary."""
        leader = self._leader()
        for member in self._followers():
            if member.node.running and not member.cut_off:
                member.node.set_primary(leader.node.hostname)
            member.follow(leader)
        self._changed.notify_all()

    def _pass(self, seconds: float) -> None:
        """Let time pass, without the cluster's lock; no longer than the cluster runs."""
        self._changed.wait_for(lambda: not self._running, seconds)
