"""What other nodes say of themselves, and who waits until enough of them have a position. Pure, as the state is.

The rules.

1. **A peer decides nothing about this node**: nothing here goes into `state`.
2. **Only what a peer has said on the stream that is open counts.** While it was not heard it may have been reset. What it
   said before stays as last told, for people.
3. **A peer has a position** if it has said so, and whatever it said since came after that without a gap; or if its last
   word is a position of this node's own history, at or after that one. A TXID alone is nothing: another history has it, too.
   What a node says after a word about its primary proves nothing about what was before: it may have been reset by a
   snapshot, which can have any TXID, the next one too. This node's own history is known in the same way, by its own
   stream: the state's knows less where a look has run ahead of that.
4. **Each node counts once, and this one never**: LiteFS tells its node's id, and its cluster's, in the head of each stream.
   Who tells none does not count, nor one of another cluster; nobody does while this node's own is not known. A node that has
   not joined its cluster when its stream is opened has no cluster's id there, for as long as that stays open.
5. **It is bounded**: in databases (`DATABASES`) and in positions (`LIMIT`) of each peer. What is beyond is not known.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from litefs_watch.changes import NOBODY, Role, Standing
from litefs_watch.core.history import History, Lineage
from litefs_watch.core.readings import Reading, RoleEvent, StreamEnded, TxEvent
from litefs_watch.core.waiters import Waiter, close_all, wake_all
from litefs_watch.position import Position
from litefs_watch.printable import safe

if TYPE_CHECKING:
    from litefs_watch.core.state import NodeState

DATABASES = 1000
"""Databases of one peer that are kept in mind."""
LIMIT = 512
"""Positions of each that are: more than come together in one report (`sources.burst.RUN_LIMIT`)."""

_NAMED = 8  # peers that a message lists


class Identity(NamedTuple):
    """Who answers, by the head of LiteFS's response. Empty where it does not say."""

    node: str = ""
    cluster: str = ""


NOBODY_KNOWN = Identity()


@dataclass(frozen=True, slots=True)
class TxidsTold:
    """A peer's metrics say where its databases are. TXIDs alone: they count for nothing, and are for people."""

    began: float
    txids: Mapping[str, int]


class PeerState:
    """One peer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.identity: Identity = NOBODY_KNOWN
        self.connected: bool = False
        self.ended_at: float = float("-inf")
        """When its stream last ended, on the readings' clock."""
        self.standing: Standing = NOBODY
        self.heard_at: float | None = None
        """On the readings' clock."""
        self.positions: dict[str, Position] = {}
        """By database, as last told."""
        self.txids: Mapping[str, int] = {}
        """By database, as its metrics told when the stream was opened."""
        self._histories: dict[str, History] = {}  # what was told on the stream that is open (rule 2)

    def lineage(self, database: str) -> Lineage | None:
        """The positions that it is sure to have."""
        history = self._histories.get(database)
        return None if history is None else history.lineage

    def untold(self) -> dict[str, int]:
        """By database: the TXID of what the stream that is open has not told of."""
        return {name: txid for name, txid in self.txids.items() if name not in self._histories}

    def apply(self, reading: Reading | TxidsTold, identity: Identity) -> None:
        """What its stream has said."""
        self.heard_at = reading.began
        if isinstance(reading, TxidsTold):
            self.txids = reading.txids if self.connected else {}
        elif isinstance(reading, TxEvent):
            self._tx_event(reading)
        elif isinstance(reading, RoleEvent):
            if reading.first:
                self.identity, self.connected, self.txids = identity, True, {}
                self._histories.clear()
            for history in self._histories.values():
                history.doubt()
            if reading.is_primary:
                self.standing = Standing(Role.PRIMARY)
            else:
                self.standing = Standing(Role.REPLICA, reading.hostname) if reading.hostname else NOBODY
        elif isinstance(reading, StreamEnded):
            self.connected, self.standing, self.txids, self.ended_at = False, NOBODY, {}, reading.began
            self._histories.clear()

    def _tx_event(self, event: TxEvent) -> None:
        history = self._histories.get(event.database)
        if history is None:
            if event.database not in self.positions and len(self.positions) >= DATABASES:
                return
            history = self._histories[event.database] = History(event.passed[0] if event.passed else event.position)
        for each in (*event.passed, event.position):
            if each != history.lineage.last:
                history.move(each, LIMIT)
        self.positions[event.database] = event.position


class Census:
    """Who of some nodes has what of one database, as of one moment. ``own`` is this node's history.

    Made once for all who wait: where a node lags, many do, and each thing that another one says would ask for all of them.
    """

    def __init__(self, peers: Iterable[PeerState], database: str, own: Lineage | None) -> None:
        self._own = own
        self._theirs: list[tuple[Lineage, int, bool]] = []  # with the last TXID, and whether that position is ours, too
        for peer in peers:
            if (lineage := peer.lineage(database)) is not None:
                last = lineage.last
                self._theirs.append((lineage, last.txid, own is not None and own.has(last)))
        self._lasts = sorted((last for _, last, _ in self._theirs), reverse=True)

    def count(self, position: Position) -> int:
        """How many have it, by rule 3."""
        own = self._own is not None and self._own.has(position)
        return sum(lineage.has(position) or (own and ours and position.txid <= last) for lineage, last, ours in self._theirs)

    def reach(self, count: int) -> int:
        """The TXID that so many have come to; -1 where there are not so many. They have nothing later."""
        return self._lasts[count - 1] if count <= len(self._lasts) else -1


class ReplicaWaiter(Waiter[int]):
    """One who waits until ``count`` other nodes have ``position``. The result is how many have it."""

    __slots__ = ("_peers", "count", "database", "position", "serial")

    def __init__(
        self, peers: Peers, database: str, position: Position, count: int, wake: Callable[[int | None], object]
    ) -> None:
        super().__init__(wake)
        self._peers = peers
        self.database: str = database
        self.position: Position = position
        self.count: int = count
        self.serial: int = 0

    def look(self, state: NodeState) -> int | None:
        having = self._peers.count(self.database, self.position)
        return having if having >= self.count else None

    def late(self, state: NodeState) -> str:
        having = self._peers.count(self.database, self.position)
        others = "; ".join(self._peers.describe(self.database, self.position))
        seen = others.replace("{", "{{").replace("}", "}}") or "there are no others"
        return f"{having} of {self.count} other nodes had {self.what} within {{}}: {seen}"

    @property
    def what(self) -> str:
        return f"position {self.position} of {safe(self.database)}".replace("{", "{{").replace("}", "}}")

    def _order(self) -> tuple[int, int]:
        return self.position.txid, self.serial


class Peers:
    """All of them, and who waits for them. `core.board` holds it under its lock."""

    def __init__(self) -> None:
        self.by_url: dict[str, PeerState] = {}
        self.own: PeerState = PeerState("")
        """This node, by its own stream."""
        self._queues: dict[str, list[ReplicaWaiter]] = {}  # each by its position's TXID, the lowest first
        self._serial = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[ReplicaWaiter]:
        """Who waits."""
        return chain.from_iterable(self._queues.values())

    # Peers.

    def apply(self, url: str | None, reading: Reading | TxidsTold, identity: Identity) -> int:
        """What a peer's stream has said, or this node's own (None); nothing where it is no peer any more. Returns how many
        were woken."""
        peer = self.own if url is None else self.by_url.get(url)
        if peer is None:
            return 0
        before = peer.identity
        peer.apply(reading, identity)
        if isinstance(reading, TxEvent):
            return self._publish(reading.database, reading.position)
        if peer is self.own and peer.identity != before:
            return sum(self._publish(database) for database in list(self._queues))
        return 0

    def counting(self) -> dict[str, PeerState]:
        """Rule 4, by the nodes' ids."""
        if not self.own.identity.node:
            return {}
        found: dict[str, PeerState] = {}
        for peer in self.by_url.values():
            if self.why_not(peer) is None:
                found.setdefault(peer.identity.node, peer)
        return found

    def why_not(self, peer: PeerState) -> str | None:
        """Why a peer does not count, itself; None where it does."""
        (node, cluster), own = peer.identity, self.own.identity
        if not peer.connected:
            return "it is not connected"
        if not own.node:
            return "this node's own id is not known yet"
        if not node:
            return "it tells no Litefs-Id"
        if node == own.node:
            return "it is this node itself"
        return "it is of another cluster" if "" not in (cluster, own.cluster) and cluster != own.cluster else None

    def count(self, database: str, position: Position) -> int:
        """How many have it."""
        return self._census(database).count(position)

    def _census(self, database: str) -> Census:
        return Census(self.counting().values(), database, self.own.lineage(database))

    def in_reach(self, since: float) -> int:
        """How many other nodes count, or did at some time ``since`` then: they may be back in a moment."""
        near = (peer for peer in self.by_url.values() if peer.connected or peer.ended_at >= since)
        return len({peer.identity.node for peer in near} - {"", self.own.identity.node})

    def describe(self, database: str, position: Position) -> Iterator[str]:
        """Who has it, and who has what instead, in words."""
        own = self.own.lineage(database)
        counting = self.counting()
        for peer in list(self.by_url.values())[:_NAMED]:
            at = peer.lineage(database)
            if (why := self.why_not(peer)) is not None:
                seen = f"does not count: {why}"
            elif counting[peer.identity.node] is not peer:
                seen = f"does not count: it is {counting[peer.identity.node].url}"
            elif Census([peer], database, own).count(position):
                seen = "has it"
            elif at is None:
                seen = "has not said where it is since it is connected"
            else:
                seen = f"is at {at.last}"
            yield f"{safe(peer.url)} {seen}"
        if len(self.by_url) > _NAMED:
            yield f"and {len(self.by_url) - _NAMED} more"

    # Who waits.

    def add(self, waiter: ReplicaWaiter) -> None:
        self._serial += 1
        waiter.serial = self._serial
        insort(self._queues.setdefault(waiter.database, []), waiter, key=ReplicaWaiter._order)

    def discard(self, waiter: ReplicaWaiter) -> None:
        """Take a waiter out, if it is still here."""
        queue = self._queues.get(waiter.database, [])
        index = bisect_right(queue, waiter._order(), key=ReplicaWaiter._order) - 1
        if index >= 0 and queue[index] is waiter:
            del queue[index]
            if not queue:
                del self._queues[waiter.database]

    def _publish(self, database: str, reached: Position | None = None) -> int:
        """Wake those who have what they wait for, of those up to what was ``reached`` (None: of all). Returns how many."""
        queue = self._queues.get(database)
        if not queue:
            return 0
        end = len(queue) if reached is None else bisect_right(queue, reached.txid, key=_txid)
        due: list[ReplicaWaiter] = []
        staying: list[ReplicaWaiter] = []
        census = self._census(database)
        for waiter in queue[:end]:
            position, count = waiter.position, waiter.count
            having = census.count(position) if position.txid <= census.reach(count) else 0
            waiter.result = having if having >= count else None
            (staying if waiter.result is None else due).append(waiter)
        if due:
            queue[:end] = staying
            if not queue:
                del self._queues[database]
            wake_all(due)
        return len(due)

    def close(self) -> None:
        """Wake everybody empty-handed, and know nothing any more."""
        queues, self._queues = self._queues, {}
        self.by_url.clear()
        for queue in queues.values():
            close_all(queue)


def _txid(waiter: ReplicaWaiter) -> int:
    return waiter.position.txid
