"""A simulated node's side of replication: what is on its way to it, and what it does when that has arrived."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from litefs_watch.position import Position
from litefs_watch.testing.node import SimulatedNode
from litefs_watch.testing.sqlite_file import DatabaseFile, page_count

FLAP_INTERVAL = 1.0
"""Seconds between two attempts of a replica to reach its primary (LiteFS's ``ReconnectDelay``)."""
_REMEMBERED = 64
_REMEMBERED_BYTES = 32 << 20
"""Transactions of each database that a node can send on to one that is behind, and what they may take. LiteFS can do that
for ten minutes. Who is further behind is sent a snapshot."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction on its way: the whole database after it, empty where it was dropped."""

    database: str
    position: Position
    previous: Position | None
    """Where it can be applied; None for a snapshot, or a database's first: anywhere."""
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
    """It is the primary, or was when it was last up: its files may hold what was never a transaction."""
    paused: bool = False
    cut_off: bool = False
    flap_at: float = 0.0
    """When a node that is cut off will next try to reach its primary."""
    alone: bool = False
    """It has not yet found the primary that there is, and keeps what it has."""
    greeted: bool = False
    """It has heard its primary since it was connected to it."""
    held: bool = False
    """Nobody can write to its databases, since it is frozen."""
    queue: list[Transaction] = field(default_factory=list)
    """One stream for all databases, as on LiteFS."""
    images: dict[str, bytes] = field(default_factory=dict)
    """What each database contains here."""
    files: dict[str, DatabaseFile] = field(default_factory=dict)
    past: dict[str, deque[Transaction]] = field(default_factory=dict)
    """How each database came to where it is."""

    @property
    def connected(self) -> bool:
        """Whether it runs and has a way to the primary, where there is one."""
        return self.node.running and not self.cut_off and not self.alone

    @property
    def hears(self) -> bool:
        """Whether a heartbeat gets through: it comes in the stream, behind all that waits there."""
        return self.connected and not self.paused and not self.queue

    def create(self, database: str) -> DatabaseFile:
        """The database's file, made where there is none, whether or not the node runs."""
        if database not in self.files:
            self.files[database] = DatabaseFile(self.node.database_file(database))
        return self.files[database]

    def position(self, database: str) -> Position | None:
        """Where a database is here; None where there never was one."""
        return self.node.position(database) if database in self.node.databases else None

    def hold_writers(self) -> bool:
        """Keep everybody from writing to this node's databases. False, and no change, while somebody writes."""
        self.held = all(self.create(database).hold_writers() for database in self.images)
        if not self.held:
            self.release_writers()
        return self.held

    def release_writers(self) -> None:
        """End `hold_writers`."""
        self.held = False
        for file in self.files.values():
            file.release_writers()

    def remember(self, transaction: Transaction) -> None:
        """Take a transaction as what led here."""
        past = self.past.setdefault(transaction.database, deque(maxlen=_REMEMBERED))
        if transaction.previous is None:
            past.clear()
        past.append(transaction)
        while len(past) > 1 and sum(len(t.image) for t in past) > _REMEMBERED_BYTES:
            past.popleft()

    # Arriving.

    def apply_due(self, now: float, lag: float) -> bool:
        """Apply what has arrived, each transaction's rows before its TXID shows. Returns whether there was any.

        An open transaction on a database stops what is on its way to that, and all that is behind it, of whichever database.
        """
        if self.paused or not self.connected or self.node.frozen:
            return False
        return self._apply_until(now - (lag if self.lag is None else self.lag))

    def catch_up(self) -> bool:
        """Apply all that is on its way, whatever the lag. Returns whether nothing is left."""
        self._apply_until(float("inf"))
        return not self.queue

    def next_due(self, lag: float) -> float:
        """When the next transaction arrives, in seconds of the monotonic clock."""
        return (self.queue[0].committed_at if self.queue else float("inf")) + (lag if self.lag is None else self.lag)

    def _apply_until(self, committed_at: float) -> bool:
        applied = 0
        for transaction in self.queue:
            if transaction.committed_at > committed_at or not self._apply(transaction):
                break
            applied += 1
        del self.queue[:applied]
        return applied > 0

    def _apply(self, transaction: Transaction) -> bool:
        database, image, position = transaction.database, transaction.image, transaction.position
        if not image:
            self.forget(database)
        else:
            if not self.create(database).replace(image, read_only=True):
                return False
            self.images[database] = image
        if self.position(database) != position:
            snapshot = transaction.previous is None or transaction.previous != self.position(database)
            self.remember(transaction)
            self.node.record(database, position, pages=page_count(image) if image else 0, snapshot=snapshot)
        return True

    def forget(self, database: str) -> None:
        """The database was dropped."""
        self.images.pop(database, None)
        file = self.files.pop(database, None)
        if file is not None:
            file.close()

    # Following.

    def follow(self, source: Member) -> None:
        """Follow this primary: what is on its way is what is missing here, or a snapshot where this is another history."""
        coming: list[Transaction] = []
        for database in source.node.databases:
            known = [t for t in self.queue if t.database == database]
            if self.led or self._leads_to(database, known) != source.node.position(database):
                known = source.since(database, None if self.led else self.position(database))
            coming += known
        self.queue = coming
        self.led = self.led and not self.connected
        self.greeted = False

    def _leads_to(self, database: str, coming: Sequence[Transaction]) -> Position | None:
        """Where a database will be after these; None where they can't all be applied."""
        position = self.position(database)
        for transaction in coming:
            if transaction.previous != position:
                return None
            position = transaction.position
        return position

    def since(self, database: str, position: Position | None) -> list[Transaction]:
        """What leads from a position to where this node is: its transactions, or a snapshot."""
        here = self.node.position(database)
        if position == here:
            return []
        past = list(self.past.get(database, ()))
        for index, transaction in enumerate(past):
            if position is not None and transaction.previous == position:
                return past[index:]
        return [Transaction(database, here, None, self.images.get(database, b""), time.monotonic())]

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        self.files.clear()
        self.node.close()
