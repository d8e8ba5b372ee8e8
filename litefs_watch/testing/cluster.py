"""A simulated cluster: several nodes, between which real SQLite databases are replicated with a lag that one sets."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from litefs_watch.position import Position
from litefs_watch.testing.commits import publishing_connection
from litefs_watch.testing.files import empty_database
from litefs_watch.testing.fuse import fuse_available
from litefs_watch.testing.leadership import LedNodes
from litefs_watch.testing.node import SimulatedNode, random_checksum
from litefs_watch.testing.replication import Member


class SimulatedCluster(LedNodes):
    """LiteFS nodes on loopback; the first starts as the primary. A context manager; or `start`, and `stop` at the end.

    An application opens ``cluster.path(hostname)`` as it would on LiteFS. What it commits on the primary gets the next TXID
    there, and ``lag`` seconds later it is in the replicas' files, then in their ``-pos``, then in their event streams. On a
    replica a write fails with 'attempt to write a readonly database', and an open transaction stops replication.

    **When a TXID shows.** On FUSE mounts, as on LiteFS: each commit that has returned, of whatever connection in whatever
    process, is in the ``-pos`` that is read after it. So an application needs no change to read its own writes.

    In ordinary directories nothing tells that a ``-pos`` is about to be read. There it holds for connections from `connect`,
    or made with ``factory=cluster.connection_class``, and for what asks the node's HTTP API first; what others commit shows
    some 2 ms after it, more on a busy machine, and whoever reads ``-pos`` before, reads an older position: **a read of one's
    own write may then be stale, as it never is on LiteFS.** `sync` makes it so at once. Such commits may share a TXID when
    they are that close.

    ``fuse`` says which: True gives the nodes FUSE mounts (root, ``/dev/fuse``), in which each database is a symbolic link;
    False ordinary directories, which start sooner; None FUSE where it can be had (`fuse_available`). ``hostnames`` wins over
    ``size``; ``regions`` are the nodes' Fly.io regions, in the same order. Needs Linux.

    Where replication fails through a fault of the cluster's own, it goes no further: every call, and `stop`, raises
    `RuntimeError` from what was the matter.
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
        fuse: bool | None = None,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise RuntimeError(f"a simulated cluster needs Linux (open-file-description locks), and this is {sys.platform}")
        names = list(hostnames or (f"node-{chr(ord('a') + number)}" for number in range(size)))
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a cluster needs one node at least, and each hostname once, not {names!r}")
        self.fuse: bool = fuse_available() is None if fuse is None else fuse
        """Whether the nodes have FUSE mounts."""
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
                fuse=self.fuse,
                region=regions[index] if index < len(regions) else None,
            )
            node.on_promote = partial(self._spawn, partial(self.hand_over, name))
            members[name] = Member(node)
        super().__init__(members, list(positions), lag)
        self.connection_class: type[sqlite3.Connection] = publishing_connection(self.sync)
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
        """Stop all nodes, and remove the directory where it is a temporary one. Close your connections before.

        Raises `RuntimeError`, once all is stopped, where the cluster has failed through a fault of its own meanwhile.
        """
        self._stop()
        if self._remove is not None:
            self._remove()
        self._check(last=True)

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
        with self._call():
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
        with self._call():
            leader = self._leader()
            if database not in leader.images:
                leader.create(database).replace(empty_database(), read_only=False)
                self._record(leader, database, empty_database())
                self._watch(database)
            return leader.node.position(database)

    def drop_database(self, database: str) -> Position:
        """Drop a database on the primary, and later on the replicas. Raises `KeyError` where there is none."""
        with self._call():
            leader = self._leader()
            if database not in leader.images:
                raise KeyError(f"the simulated cluster has no database {database!r}: there are {', '.join(leader.images)}")
            self._watches.pop(database).close()
            leader.forget(database)
            return self._record(leader, database, b"")
