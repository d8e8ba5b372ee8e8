"""A simulated replica's side of replication: what is on its way to it, and what it does when that has arrived."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from litefs_watch.position import Position
from litefs_watch.testing.node import SimulatedNode
from litefs_watch.testing.sqlite_file import DatabaseFile, page_count

FLAP_INTERVAL = 1.0
"""Seconds between two attempts of a replica to reach its primary (LiteFS's ``ReconnectDelay``)."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction on its way: the whole database after it, empty where it was dropped."""

    database: str
    position: Position
    image: bytes
    committed_at: float
    """Seconds, monotonic clock."""


@dataclass
class Member:
    """A node of a cluster, with what only the cluster knows about it. Its methods need the cluster's lock."""

    node: SimulatedNode
    lag: float | None = None
    """Seconds; None: the cluster's."""
    led: bool = False
    """It is the primary, or was when it was last up: its files can be written to, and may hold what no other node has."""
    paused: bool = False
    cut_off: bool = False
    flap_at: float = 0.0
    """When a node that is cut off will next try to reach its primary."""
    queue: list[Transaction] = field(default_factory=list)
    """In the order of the commits."""
    images: dict[str, bytes] = field(default_factory=dict)
    """What each database contains here."""
    files: dict[str, DatabaseFile] = field(default_factory=dict)

    def create(self, database: str) -> DatabaseFile:
        """The database's file, made where there is none, whether or not the node runs."""
        if database not in self.files:
            self.files[database] = DatabaseFile(self.node.database_file(database))
        return self.files[database]

    def apply_due(self, now: float, lag: float) -> bool:
        """Apply what has arrived, each transaction's rows before its TXID shows. Returns whether there was any.

        An open transaction on a database stops what is on its way to it.
        """
        if self.paused or self.cut_off or not self.node.running or self.node.frozen:
            return False
        return self._apply_until(now - (lag if self.lag is None else self.lag))

    def catch_up(self) -> bool:
        """Apply all that is on its way, whatever the lag. Returns whether nothing is left."""
        self._apply_until(float("inf"))
        return not self.queue

    def next_due(self, lag: float) -> float:
        """When the next transaction arrives, in seconds of the monotonic clock."""
        return min((t.committed_at for t in self.queue), default=float("inf")) + (lag if self.lag is None else self.lag)

    def follow(self, source: Member) -> None:
        """Follow this primary, and be where it is: what is on its way either leads there, or is replaced by a snapshot."""
        for database in source.node.databases:
            position = source.node.position(database)
            coming = [t.position for t in self.queue if t.database == database]
            if self.led or (coming[-1] if coming else self._position(database)) != position:
                image = source.images.get(database, b"")
                self.queue = [t for t in self.queue if t.database != database]
                self.queue.append(Transaction(database, position, image, time.monotonic()))
        self.led = False

    def _apply_until(self, committed_at: float) -> bool:
        stopped: set[str] = set()
        waiting: list[Transaction] = []
        for transaction in self.queue:
            arrived = transaction.committed_at <= committed_at and transaction.database not in stopped
            if not arrived or not self._apply(transaction):
                stopped.add(transaction.database)
                waiting.append(transaction)
        applied = len(waiting) < len(self.queue)
        self.queue = waiting
        return applied

    def _apply(self, transaction: Transaction) -> bool:
        database, image = transaction.database, transaction.image
        if not image:
            self.forget(database)
        else:
            if not self.create(database).replace(image, read_only=True):
                return False
            self.images[database] = image
        if self._position(database) != transaction.position:
            self.node.record(database, transaction.position, pages=page_count(image) if image else 0)
        return True

    def forget(self, database: str) -> None:
        """The database was dropped."""
        self.images.pop(database, None)
        file = self.files.pop(database, None)
        if file is not None:
            file.close()

    def _position(self, database: str) -> Position | None:
        return self.node.position(database) if database in self.node.databases else None

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        self.files.clear()
        self.node.close()
