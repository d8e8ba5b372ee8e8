"""What goes wrong in a cluster without a change of the primary: lag, broken ways, frozen nodes, open transactions.

A node's own faults, such as `SimulatedNode.drop_stream`, are called on ``cluster[hostname]``.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping

from litefs_watch.testing.engine import ReplicatedNodes
from litefs_watch.testing.replication import Member


class FaultyNodes(ReplicatedNodes):
    """Nodes between which replication can be slow, held up and cut off."""

    def __init__(self, members: Mapping[str, Member], databases: list[str], lag: float) -> None:
        super().__init__(members, databases, lag)
        self._blockers: dict[str, list[sqlite3.Connection]] = {}

    def set_lag(self, hostname: str, lag: float | None) -> None:
        """Give one replica a lag of its own, in seconds; None: the cluster's."""
        with self._call():
            self._members[hostname].lag = lag
            self._changed.notify_all()

    def pause_replication(self, hostname: str | None = None) -> None:
        """Hold back what is on its way to a node, or to all nodes, until `resume_replication`."""
        self._pause(hostname, paused=True)

    def resume_replication(self, hostname: str | None = None) -> None:
        """Go on after `pause_replication`; what is due arrives at once."""
        self._pause(hostname, paused=False)

    def _pause(self, hostname: str | None, *, paused: bool) -> None:
        with self._call():
            for member in self._members.values() if hostname is None else [self._members[hostname]]:
                member.paused = paused
            self._changed.notify_all()

    def cut_off(self, hostname: str) -> None:
        """A replica can't reach the primary, which it names for 1 ms once a second, until `reconnect`."""
        with self._call():
            member = self._follower(hostname)
            member.cut_off = True
            member.flap_at = 0.0
            member.node.lose_primary()

    def reconnect(self, hostname: str) -> None:
        """A replica that could not reach the primary, or has not found it yet, can again, and names it.

        What was committed meanwhile arrives, and where it has another history, the snapshot that resets it, after the lag;
        until then it has what it had. Does nothing for the primary, and for a replica that is connected.
        """
        with self._call():
            member = self._members[hostname]
            if member is not self._primary and (member.cut_off or member.alone):
                self._connect(member)

    def _connect(self, member: Member) -> None:
        connected, member.cut_off, member.alone = member.connected, False, False
        if self._primary is not None:
            if member.node.running and not connected:
                member.node.set_primary(self._primary.node.hostname)
            member.follow(self._primary)
        self._changed.notify_all()

    def flap(self, hostname: str, times: int = 1) -> None:
        """A replica loses its primary, names it for 1 ms and loses it again, ``times`` times, and then has it again."""
        with self._call():
            member = self._follower(hostname)
            if not member.connected or self._primary is None:
                raise RuntimeError(f"{hostname!r} has no primary to lose")
            member.alone = True
            member.node.lose_primary()
            member.node.flap(self._primary.node.hostname, times=times)
            self._connect(member)

    def freeze(self, hostname: str) -> None:
        """What SIGSTOP does to a node (see `SimulatedNode.freeze`). On the primary whoever writes waits until `thaw`.

        (On LiteFS readers of what the kernel does not know wait, too.) Raises `WaitTimeout` while a write goes on for 5 s.
        """
        with self._call():
            member = self._members[hostname]
            if member is self._primary and not member.node.frozen:
                self._persist(member.hold_writers, f"freeze {hostname!r}")
                self.sync()
            member.node.freeze()

    def thaw(self, hostname: str) -> None:
        """Go on after `freeze`."""
        with self._call():
            member = self._members[hostname]
            member.node.thaw()
            member.release_writers()

    def block(self, hostname: str, database: str | None = None) -> None:
        """Open a read transaction on a node's database, until `unblock`: it stops all replication to that node."""
        with self._call():
            path = self._members[hostname].node.database_file(database)
            blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._blockers.setdefault(hostname, []).append(blocker)
            blocker.execute("BEGIN")
            blocker.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def unblock(self, hostname: str) -> None:
        """End the transactions of `block`."""
        with self._call():
            for blocker in self._blockers.pop(hostname, []):
                blocker.close()
            self._changed.notify_all()

    def _follower(self, hostname: str) -> Member:
        member = self._members[hostname]
        if member is self._primary:
            raise ValueError(f"{hostname!r} is the primary: this is for replicas")
        return member

    def _stop(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            for hostname in list(self._blockers):
                self.unblock(hostname)
        super()._stop()
