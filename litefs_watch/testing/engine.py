"""What makes several simulated nodes a cluster: commits on the primary become transactions, which reach the replicas later.

One thread does it all, each millisecond. Every method takes the cluster's lock; a node's own is only ever taken after it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from litefs_watch.errors import LiteFSWatchError, NoPrimary, WaitTimeout
from litefs_watch.position import Position
from litefs_watch.testing.commits import CommitWatch
from litefs_watch.testing.files import DROPPED_CHECKSUM, empty_database
from litefs_watch.testing.node import SimulatedNode, random_checksum
from litefs_watch.testing.replication import FLAP_INTERVAL, Member, Transaction
from litefs_watch.testing.sqlite_file import page_count

POLL = 0.001
"""Seconds between two looks for commits of connections that are not the cluster's own."""
PATIENCE = 5.0
"""Seconds to wait for somebody's open transaction before giving up. Python's sqlite3 waits as long."""


class ReplicatedNodes:
    """Nodes, the first of which is the primary at the start, and the replication between them."""

    def __init__(self, members: Mapping[str, Member], databases: list[str], lag: float) -> None:
        self.lag = lag
        """Seconds from a commit on the primary to its being applied on a replica; may be changed at any time."""
        self._members = dict(members)
        self._databases = databases
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._primary: Member | None = next(iter(self._members.values()))
        self._watches: dict[str, CommitWatch] = {}
        self._running = False
        self._threads: list[threading.Thread] = []

    # Starting and stopping.

    def _start(self) -> None:
        with self._lock:
            self._running = True
            for member in self._members.values():
                member.led = member is self._primary
                for database in self._databases:
                    member.images[database] = empty_database()
                    member.create(database).replace(member.images[database], read_only=not member.led)
                member.node.start()
            self._lead(self._leader())
            self._spawn(self._run)

    def _stop(self) -> None:
        with self._lock:
            self._running = False
            self._changed.notify_all()
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()
        with self._lock:
            self._unwatch()
            for member in self._members.values():
                member.close()

    def _spawn(self, target: Callable[[], object]) -> None:
        def run() -> None:
            with contextlib.suppress(LiteFSWatchError):  # nobody is there to be told
                target()

        if not self._running:
            return
        thread = threading.Thread(target=run, name="litefs_watch simulated cluster", daemon=True)
        self._threads.append(thread)
        thread.start()

    # The nodes.

    @property
    def nodes(self) -> list[SimulatedNode]:
        """All nodes."""
        return [member.node for member in self._members.values()]

    @property
    def primary(self) -> SimulatedNode:
        """The primary. Raises `NoPrimary` where there is none: it was killed, or a hand-over is under way."""
        return self._leader().node

    @property
    def replicas(self) -> list[SimulatedNode]:
        """All nodes but the primary, those that are down included."""
        return [member.node for member in self._members.values() if member is not self._primary]

    def __getitem__(self, hostname: str) -> SimulatedNode:
        """The node of this name. Raises `KeyError`."""
        return self._members[hostname].node

    def __iter__(self) -> Iterator[SimulatedNode]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self._members)

    def _leader(self) -> Member:
        if self._primary is None:
            raise NoPrimary("the simulated cluster has no primary at this moment: elect one, or wait for the hand-over")
        return self._primary

    def _followers(self) -> list[Member]:
        return [member for member in self._members.values() if member is not self._primary]

    # Replication.

    def sync(self) -> None:
        """Make whatever has been committed on the primary a transaction of LiteFS's now; returns when ``-pos`` shows it.

        Does nothing without a primary. Raises `WaitTimeout` when a connection keeps its database locked for 5 seconds.
        """
        with self._lock:
            self._persist(lambda: self._publish(CommitWatch.image), "read the primary's database")

    def set_lag(self, hostname: str, lag: float | None) -> None:
        """Give one replica a lag of its own, in seconds; None: the cluster's."""
        with self._lock:
            self._members[hostname].lag = lag
            self._changed.notify_all()

    def pause_replication(self, hostname: str | None = None) -> None:
        """Hold back what is on its way to a node, or to all nodes, until `resume_replication`."""
        self._pause(hostname, paused=True)

    def resume_replication(self, hostname: str | None = None) -> None:
        """Go on after `pause_replication`; what is due arrives at once."""
        self._pause(hostname, paused=False)

    def _pause(self, hostname: str | None, *, paused: bool) -> None:
        with self._lock:
            for member in self._members.values() if hostname is None else [self._members[hostname]]:
                member.paused = paused
            self._changed.notify_all()

    def wait_until_replicated(self, timeout: float = 5.0) -> None:
        """Wait until what is committed now has reached every replica that runs. Raises `WaitTimeout` after ``timeout`` s."""
        self.sync()
        with self._lock:
            now = time.monotonic()

            def behind() -> list[str]:
                followers = [member for member in self._followers() if member.node.running]
                return [m.node.hostname for m in followers if any(t.committed_at <= now for t in m.queue)]

            if not self._changed.wait_for(lambda: not behind(), timeout):
                raise WaitTimeout(f"not replicated after {timeout:g} s to {', '.join(behind())}")

    # Inside, with the lock held.

    def _run(self) -> None:
        with self._lock:
            while self._running:
                if self._primary is not None and not self._primary.node.running:
                    self._lose_leader()
                self._publish(CommitWatch.image_if_touched)
                now = time.monotonic()
                applied = [member.apply_due(now, self.lag) for member in self._followers()]
                if any(applied):
                    self._changed.notify_all()
                self._feel(now)
                due = min((member.next_due(self.lag) for member in self._followers()), default=now)
                self._changed.wait(min(POLL, max(due - time.monotonic(), POLL / 10)))

    def _feel(self, now: float) -> None:
        """Let the replicas feel what has become of the primary, or of the way to it."""
        if self._primary is None:
            return
        for member in self._followers():
            member.node.heartbeats = not (self._primary.node.frozen or member.paused)
            if member.cut_off and member.node.running and now >= member.flap_at:
                member.flap_at = now + FLAP_INTERVAL
                member.node.flap(self._primary.node.hostname, times=1)

    def _publish(self, look: Callable[[CommitWatch], bytes | None]) -> bool:
        """Record what was committed. False where a database could not be read, since somebody is writing it."""
        if self._primary is None or self._primary.node.frozen:
            return True
        complete = True
        for database, watch in self._watches.items():
            try:
                image = look(watch)
            except sqlite3.OperationalError:
                complete = False
                continue
            if image is not None:
                self._record(database, image)
        return complete

    def _record(self, database: str, image: bytes) -> Position:
        """A transaction on the primary, after which the database is ``image``; empty: it was dropped."""
        leader = self._leader()
        known = leader.node.position(database).txid if database in leader.node.databases else 0
        position = Position(known + 1, random_checksum() if image else DROPPED_CHECKSUM)
        if image:
            leader.images[database] = image
        leader.node.record(database, position, pages=page_count(image) if image else 0)
        transaction = Transaction(database, position, image, time.monotonic())
        for member in self._followers():
            member.queue.append(transaction)
        self._changed.notify_all()
        return position

    def _lead(self, leader: Member) -> None:
        """From now on this member is the primary: what is committed in its files counts."""
        self._primary = leader
        leader.led = True
        for database in leader.images:
            self._watch(database)

    def _lose_leader(self) -> None:
        """The primary is gone, and with it all that has not arrived."""
        self._unwatch()
        followers = self._followers()
        self._primary = None
        for member in followers:
            member.queue.clear()
            if member.node.running:
                member.node.lose_primary()

    def _watch(self, database: str) -> None:
        watch = self._watches[database] = CommitWatch(self._leader().node.database_file(database))
        self._persist(lambda: self._looked(watch), "read the primary's database")

    def _looked(self, watch: CommitWatch) -> bool:
        """Take what is there as known. False where it could not be read."""
        try:
            watch.image()
        except sqlite3.OperationalError:
            return False
        return True

    def _unwatch(self) -> None:
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    def _persist(self, attempt: Callable[[], bool], what: str) -> None:
        """Try until it works, or `PATIENCE` is over: then `WaitTimeout`."""
        deadline = time.monotonic() + PATIENCE
        while not attempt():
            if time.monotonic() > deadline:
                raise WaitTimeout(f"can't {what} for {PATIENCE:g} s: a transaction on it is open all the time")
            self._changed.wait(POLL)
