"""What makes several simulated nodes a cluster: commits on the primary become transactions, which reach the replicas later.

One thread does it all, each millisecond. Every method takes the cluster's lock; a node's own is only ever taken after it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from litefs_watch.errors import LiteFSWatchError, NoPrimary, WaitTimeout
from litefs_watch.position import Position
from litefs_watch.testing.commits import CommitWatch
from litefs_watch.testing.files import DROPPED_CHECKSUM, empty_database
from litefs_watch.testing.node import SimulatedNode, random_checksum
from litefs_watch.testing.replication import FLAP_INTERVAL, Member, Transaction
from litefs_watch.testing.sqlite_file import page_count, same_content

logger: logging.Logger = logging.getLogger("litefs_watch")

POLL = 0.001
"""Seconds between two looks for commits of connections that are not the cluster's own."""
PATIENCE = 5.0
"""Seconds to wait for somebody's open transaction before giving up. Python's sqlite3 waits as long."""
LOOK_PATIENCE = 0.25
"""Seconds that whoever asks a node where it is may have to wait for what is being committed."""


class Members(dict[str, Member]):
    """By hostname."""

    def __missing__(self, hostname: str) -> Member:
        raise KeyError(f"the simulated cluster has no node {hostname!r}: there are {', '.join(self)}")


class ReplicatedNodes:
    """Nodes, the first of which is the primary at the start, and the replication between them."""

    def __init__(self, members: Mapping[str, Member], databases: list[str], lag: float) -> None:
        self.lag = lag
        """Seconds from a commit on the primary to its being applied on a replica; may be changed at any time."""
        self._members = Members(members)
        self._databases = databases
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._primary: Member | None = next(iter(self._members.values()))
        self._watches: dict[str, CommitWatch] = {}
        self._running = False
        self._failure: Exception | None = None  # what ended one of our threads
        self._threads: list[threading.Thread] = []
        for member in self._members.values():
            member.node.on_look = partial(self._note_failure, partial(self._look, member))

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

    # Failing through a fault of our own, in a thread where nobody hears of it.

    def _note_failure(self, function: Callable[[], None]) -> None:
        """Without the lock: see `_look`."""
        try:
            function()
        except Exception as error:
            logger.exception("the simulated cluster has failed, and replicates no more")
            self._failure = self._failure or error

    def _check(self, *, last: bool = False) -> None:
        """Raise `RuntimeError` where a thread has failed. The last one forgets it."""
        if (failure := self._failure) is not None:
            if last:
                self._failure = None
            raise RuntimeError(f"the simulated cluster has failed, and replicates no more: {failure!r}") from failure

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """A call from outside: with the lock held, and not where a thread has failed."""
        with self._lock:
            self._check()
            yield

    # The nodes.

    @property
    def nodes(self) -> list[SimulatedNode]:
        """All nodes."""
        return [member.node for member in self._members.values()]

    @property
    def primary(self) -> SimulatedNode:
        """The primary. Raises `NoPrimary` where there is none: it was killed, or a hand-over is under way."""
        self._check()
        return self._leader().node

    @property
    def replicas(self) -> list[SimulatedNode]:
        """All nodes but the primary, those that are down included."""
        return [member.node for member in self._members.values() if member is not self._primary]

    def __getitem__(self, hostname: str) -> SimulatedNode:
        """The node of this name. Raises `KeyError`."""
        self._check()
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
        with self._call():
            self._persist(lambda: self._publish(CommitWatch.image), "read the primary's database")

    def wait_until_replicated(self, timeout: float = 5.0) -> None:
        """Wait until what is committed now has reached every replica that runs. Raises `WaitTimeout` after ``timeout`` s."""
        self.sync()
        with self._call():
            now = time.monotonic()

            def behind() -> list[str]:
                followers = [member for member in self._followers() if member.node.running]
                return [m.node.hostname for m in followers if any(t.committed_at <= now for t in m.queue)]

            arrived = self._changed.wait_for(lambda: self._failure is not None or not behind(), timeout)
            self._check()
            if not arrived:
                raise WaitTimeout(f"not replicated after {timeout:g} s to {', '.join(behind())}")

    # Inside, with the lock held.

    def _run(self) -> None:
        with self._lock:
            self._note_failure(self._replicate)
            self._changed.notify_all()

    def _replicate(self) -> None:
        while self._running and self._failure is None:
            if self._primary is not None and not self._primary.node.running:
                with contextlib.suppress(WaitTimeout):
                    self._seal(self._primary, patience=0)
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
        for member in self._members.values():
            if member.held and not member.node.frozen:
                member.release_writers()
        if self._primary is None:
            return
        for member in self._followers():
            member.node.heartbeats = member.hears and not self._primary.node.frozen
            if member.node.heartbeats and not member.greeted:  # LiteFS sends one as soon as all that was missing is there
                member.greeted = True
                member.node.heartbeat()
            if member.cut_off and member.node.running and now >= member.flap_at:
                member.flap_at = now + FLAP_INTERVAL
                member.node.flap(self._primary.node.hostname, times=1)

    def _look(self, member: Member) -> None:
        """Somebody is about to ask a node where it is: let it know of each commit that has returned.

        Without the lock held. Whoever is asked while everything stands still, as in a hand-over, answers with what it knows.
        """
        deadline = time.monotonic() + LOOK_PATIENCE
        # Not `_changed.wait`: it takes the lock again however long that takes, and who kills the node waits with the lock.
        while member is self._primary and (left := deadline - time.monotonic()) > 0 and self._lock.acquire(timeout=left):
            try:
                over = not self._running or self._failure is not None or member is not self._primary
                if over or self._publish(CommitWatch.image):
                    return
            finally:
                self._lock.release()
            time.sleep(POLL)

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
                self._record(self._primary, database, image)
        return complete

    def _record(self, member: Member, database: str, image: bytes) -> Position:
        """A transaction of a node's own, after which the database is ``image``; empty: it was dropped."""
        previous = member.position(database)
        checksum = random_checksum() if image else DROPPED_CHECKSUM
        position = Position(previous.txid + 1 if previous else 1, checksum)
        if image:
            member.images[database] = image
        transaction = Transaction(database, position, previous, image, time.monotonic())
        member.remember(transaction)
        member.node.record(database, position, pages=page_count(image) if image else 0)
        if member is self._primary:
            for follower in self._followers():
                follower.queue.append(transaction)
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

    def _seal(self, member: Member, patience: float | None = None) -> None:
        """Forbid writing on a node, and record what was committed until then. Raises `WaitTimeout`."""
        member.release_writers()
        for database in list(member.images):
            with self._watching(member, database) as watch:
                forbid = partial(self._forbid, member, database, watch)
                self._persist(forbid, f"stop writing on {member.node.hostname!r}", patience)

    def _forbid(self, member: Member, database: str, watch: CommitWatch) -> bool:
        forbidden = watch.checkpoint() and member.create(database).mark(read_only=True)
        # What a checkpoint or a mark leaves behind, though it fails, looks like a commit to the watch.
        with contextlib.suppress(sqlite3.OperationalError):
            self._note(member, database, watch)
        return forbidden

    def _note(self, member: Member, database: str, watch: CommitWatch) -> None:
        """Record what was committed since the last look, and not what only looks like it."""
        image = watch.image()
        if image is not None and not same_content(image, member.images[database]):
            self._record(member, database, image)

    def _allow(self, member: Member) -> None:
        for database in member.images:
            file = member.create(database)
            self._persist(partial(file.mark, read_only=False), f"allow writing on {member.node.hostname!r}")

    @contextlib.contextmanager
    def _watching(self, member: Member, database: str) -> Iterator[CommitWatch]:
        if member is self._primary:
            yield self._watches[database]
        else:
            with contextlib.closing(CommitWatch(member.node.database_file(database))) as watch:
                yield watch

    def _watch(self, database: str) -> None:
        leader = self._leader()
        watch = self._watches[database] = CommitWatch(leader.node.database_file(database))
        # Whoever saw the node become the primary may have committed before this first look.
        self._persist(partial(self._noted, leader, database, watch), "read the primary's database")

    def _noted(self, member: Member, database: str, watch: CommitWatch) -> bool:
        """As `_note`. False where it could not be read."""
        try:
            self._note(member, database, watch)
        except sqlite3.OperationalError:
            return False
        return True

    def _unwatch(self) -> None:
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    def _persist(self, attempt: Callable[[], bool], what: str, patience: float | None = None) -> None:
        """Try until it works, or ``patience`` (`PATIENCE`) is over: then `WaitTimeout`. The lock is free in between."""
        patience = PATIENCE if patience is None else patience
        deadline = time.monotonic() + patience
        while not attempt():
            if time.monotonic() > deadline:
                raise WaitTimeout(f"can't {what} for {patience:g} s: a transaction on it is open all the time")
            self._changed.wait(POLL)
