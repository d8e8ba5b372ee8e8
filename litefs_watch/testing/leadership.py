"""Who is the primary of a cluster: hand-overs, kills, fail-overs, and nodes that come back with a history that is gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping

from litefs_watch.errors import WaitTimeout
from litefs_watch.testing.faults import FaultyNodes
from litefs_watch.testing.replication import Member


class LedNodes(FaultyNodes):
    """Nodes that take the primary's role from each other.

    **What a fail-over loses.** When the primary is killed or loses its lease, what has not arrived at the next one is lost:
    hold it back with `pause_replication` or a lag. The old primary keeps its history, with other checksums than the new
    one's from there on, in ``-pos``, its data directory and its rows. It comes back with it, and is reset: with
    ``connect=False`` only when the test says so. Until `reconnect` it knows of no primary; then it names it, while ``.lag``
    is still 2147483647; `reset` makes it what the primary is. A replica that had more than the new primary is reset as well:
    it names that at once, with a ``.lag`` that grows, and `pause_replication` keeps it there.
    """

    def __init__(self, members: Mapping[str, Member], databases: list[str], lag: float) -> None:
        super().__init__(members, databases, lag)
        self._leadership = threading.Lock()  # one change of the primary at a time; taken before the cluster's lock

    def hand_over(self, to: str, *, seconds: float = 0.1) -> None:
        """Hand the primary's role over, as LiteFS does on ``POST /promote``. Nothing that was committed is lost.

        For ``seconds`` (LiteFS's own are about 1.1) no primary is known, neither here nor there. The old one's stream says
        false/none, false/its own name, false/none, false/``to``. Returns when all follow the new one.

        Raises `RuntimeError` when ``to`` can't take over, `WaitTimeout` when an open transaction prevents it for 5 seconds.
        """
        with self._leadership, self._call():
            old, new = self._leader(), self._members[to]
            if new is old:
                return
            if not new.connected or not new.node.candidate:
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

    def kill(self, hostname: str) -> None:
        """Kill a node (SIGKILL). On the primary, what has not been replicated is lost; none is known until `elect`.

        Each commit that has returned is in the dead primary's history, and no more come: whoever writes there then is told
        that the database is read-only (on LiteFS it is an I/O error). While a transaction is open on it, this waits for its
        end, and kills all the same after 5 seconds.
        """
        with self._leadership, self._call():
            member = self._members[hostname]
            leader = member is self._primary and member.node.running
            if leader:
                with contextlib.suppress(WaitTimeout):
                    self._seal(member)
            member.node.kill()
            if leader and member is self._primary:
                self._lose_leader()

    def kill_primary(self) -> None:
        """`kill` the primary."""
        self.kill(self.primary.hostname)

    def elect(self, to: str) -> None:
        """Make a node the primary after `kill`, which is started if it is down. The others follow it, and go back to its
        positions where they differ.

        Raises `RuntimeError` while there is a primary, `WaitTimeout` when an open transaction prevents it for 5 seconds.
        """
        with self._leadership, self._call():
            if self._primary is not None:
                raise RuntimeError(f"{self._primary.node.hostname!r} is the primary: hand over, fail over, or kill it first")
            self._elect(self._members[to])

    def fail_over(self, to: str, *, connect: bool = True) -> None:
        """The primary loses its lease, running or frozen, and ``to`` takes it. What ``to`` has not got is lost.

        The old primary then follows the new one, and is reset after the lag; with ``connect=False`` it knows of no primary,
        and keeps its history, until `reconnect` or `reset`. A frozen one shows nothing of all that before it is thawed.
        Where there is no primary it is `elect`.

        Raises `ValueError` where ``to`` is the primary, `RuntimeError` where it is frozen, `WaitTimeout` when an open
        transaction prevents it for 5 seconds; then nothing has changed.
        """
        with self._leadership, self._call():
            old, new = self._primary, self._members[to]
            if new is old:
                raise ValueError(f"{to!r} is the primary already")
            if new.node.frozen:
                raise RuntimeError(f"a frozen node can't take over: thaw {to!r}")
            if old is not None:
                self._depose(old)
                old.alone = not connect
            self._elect(new)

    def restart(self, hostname: str, *, connect: bool = True) -> None:
        """Bring a node back that was stopped or killed: as a replica, whose positions become those of the primary, or
        where there is no primary, as the primary.

        With ``connect=False`` it comes back with what it had, and knows of no primary until `reconnect` or `reset`, as
        LiteFS does before it has found it. Does nothing for the primary.
        """
        if connect and self._primary is None:
            self.elect(hostname)
            return
        with self._leadership, self._call():
            member = self._members[hostname]
            if member is self._primary:
                return
            if member.led and not connect:
                self._seal(member)
            member.alone = not connect
            if not connect:
                member.node.stop()
                member.node.lose_primary()
            member.node.restart(primary=self._leader().node.hostname if connect else False)
            member.node.catching_up = True
            if connect:
                member.follow(self._leader())

    def reset(self, hostname: str) -> None:
        """Make a replica what the primary is, now, whatever the lag, as LiteFS does with one that has another history.

        It ends `cut_off`, and what ``connect=False`` has begun. Raises `ValueError` for the primary, `NoPrimary` where there
        is none, `RuntimeError` for a node that is down or frozen, `WaitTimeout` when an open transaction prevents it for 5
        seconds.
        """
        with self._leadership, self._call():
            member = self._follower(hostname)
            self._leader()
            if not member.node.running or member.node.frozen:
                raise RuntimeError(f"{hostname!r} is down or frozen, and can't be reset")
            self._connect(member)
            self._persist(member.catch_up, f"reset {hostname!r}")
            member.greeted = True
            member.node.heartbeat()
            self._changed.notify_all()

    # Inside, with both locks held.

    def _exchange(self, old: Member, new: Member) -> None:
        """From a primary that can be written to, to another one that has all it has; or nothing has changed."""
        try:
            self._seal(old)
            self._persist(new.catch_up, f"apply what was committed on {new.node.hostname!r}")
            self._allow(new)
        except WaitTimeout:
            self._keep(old)
            raise
        self._unwatch()
        old.led = False

    def _depose(self, old: Member) -> None:
        """A primary loses its role, and keeps what it has; or nothing has changed."""
        try:
            self._seal(old)
        except WaitTimeout:
            self._keep(old)
            raise
        self._lose_leader()
        if old.node.running:
            old.node.lose_primary()

    def _keep(self, leader: Member) -> None:
        """Let a primary be written to again, after all. What has been committed is known, or recorded."""
        self._allow(leader)
        for database, watch in self._watches.items():
            self._note(leader, database, watch)

    def _elect(self, new: Member) -> None:
        new.queue.clear()
        new.alone = False
        if new.led:
            self._seal(new)
        self._allow(new)
        if new.node.running:
            new.node.become_primary()
        else:
            new.node.restart(primary=None)
        self._lead(new)
        self._follow()

    def _follow(self) -> None:
        """All others follow the new primary."""
        leader = self._leader()
        for member in self._followers():
            if member.connected:
                member.node.set_primary(leader.node.hostname)
            member.follow(leader)
        self._changed.notify_all()

    def _pass(self, seconds: float) -> None:
        """Let time pass, without the cluster's lock; no longer than the cluster runs."""
        self._changed.wait_for(lambda: not self._running, seconds)
