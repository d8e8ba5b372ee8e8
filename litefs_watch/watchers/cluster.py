"""The other nodes of one run: their streams, what is known of them, and the picture of it. Loaded where there are peers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import anyio

from litefs_watch.changes import Role
from litefs_watch.cluster import Cluster, Peer
from litefs_watch.core.board import Board, Moved
from litefs_watch.core.history import Lineage
from litefs_watch.core.peers import Identity, Peers, PeerState, ReplicaWaiter, TxidsTold
from litefs_watch.core.readings import Reading
from litefs_watch.core.subscriptions import ChangeQueue
from litefs_watch.position import Position
from litefs_watch.settings import Settings
from litefs_watch.sources.peers import PeerStreams
from litefs_watch.status import SourceStatus

MOMENT = 1.0
"""Seconds: who is not connected again by then is not waited for. A stream that broke is tried again after 0.03 to 0.05."""

logger: logging.Logger = logging.getLogger("litefs_watch")


class ClusterWatch:
    """What a run has of them. Raises `ConfigError` where an extra is missing."""

    def __init__(self, settings: Settings, board: Board) -> None:
        self._board = board
        self._peers = board.peers = Peers()
        self._streams = PeerStreams(settings, publish=self.hear, changed=self._changed)
        self._changed()

    async def run_beside(self, supervise: Callable[[], Awaitable[None]]) -> None:
        """Watch them while ``supervise()`` runs."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._streams.run)
            await supervise()
            tasks.cancel_scope.cancel()

    def close(self, reason: str) -> None:
        """Their streams are down. From any thread."""
        self._streams.close(reason)

    def hear(self, url: str | None, reading: Reading | TxidsTold, identity: tuple[str, str]) -> None:
        """A peer's stream, or this node's own (None), has said something."""
        self._board.change_peers(lambda peers: peers.apply(url, reading, Identity(*identity)))

    def overhear(self, reading: Reading, identity: tuple[str, str]) -> None:
        """This node's own stream has. A fault here is none of that stream's."""
        try:
            self.hear(None, reading, identity)
        except Exception:
            logger.exception("what this node says of itself was lost to who asks about other nodes")

    def _changed(self) -> None:
        """Who is a peer, or how one's stream is, may be another one."""
        urls = list(self._streams.by_url)

        def change(peers: Peers) -> int:
            peers.by_url = {url: peers.by_url.get(url) or PeerState(url) for url in urls}
            return 0

        self._board.change_peers(change)

    def waiter(self, database: str, position: Position, count: int, wake: Callable[[int | None], object]) -> ReplicaWaiter:
        """One that is to wait."""
        return ReplicaWaiter(self._peers, database, position, count, wake)

    def count(self, database: str, position: Position) -> int:
        """How many other nodes have it now."""
        with self._board.lock:
            return self._peers.count(database, position)

    def could_have(self, count: int) -> bool:
        """Whether so many are connected, or were a moment ago."""
        with self._board.lock:
            return self._peers.in_reach(time.monotonic() - MOMENT) >= count

    def describe(self, database: str, position: Position) -> str:
        """Who has it, and who has what instead, in words."""
        with self._board.lock:
            return "; ".join(self._peers.describe(database, position))

    # The picture.

    def picture(self) -> Cluster:
        """All of it, as of one moment."""
        with self._board.lock:
            return self._picture()

    def queue(self, accepts: tuple[type, ...], wake: Callable[[], object]) -> ChangeQueue[Cluster]:
        """A subscriber's."""
        return ClusterQueue(self._picture, wake)

    def _picture(self) -> Cluster:  # with the lock held
        streams = self._streams
        peers, counting = self._peers, self._peers.counting()
        made = []
        settled = streams.found
        for url, peer in peers.by_url.items():
            stream = streams.by_url.get(url)
            if stream is None:
                continue
            settled = settled and (stream.asked if stream.health.alive else stream.attempted)
            why_not = peers.why_not(peer)
            if why_not is None and counting[peer.identity.node] is not peer:
                why_not = f"it is {counting[peer.identity.node].url}"
            made.append(self._peer(peer, stream.health.status, why_not))
        return Cluster(tuple(made), streams.fault, settled)

    def _peer(self, peer: PeerState, health: SourceStatus, why_not: str | None) -> Peer:
        own = self._peers.own
        behind = {name: _behind(peer.lineage(name), own.lineage(name)) for name in peer.positions}
        detail = health.detail if why_not is None or not peer.connected else f"{health.detail}; it does not count: {why_not}"
        return Peer(
            url=peer.url,
            node_id=peer.identity.node or None,
            connected=peer.connected,
            since=health.since,
            heard=_moment(peer.heard_at),
            role=peer.standing.role,
            primary=peer.standing.primary if peer.standing.role is Role.REPLICA else None,
            positions=MappingProxyType(dict(peer.positions)),
            behind=MappingProxyType(behind),
            txids=MappingProxyType(peer.untold()),
            counts=why_not is None,
            detail=detail,
        )


class ClusterQueue(ChangeQueue[Cluster]):
    """Whether the picture is another one than the subscriber has taken: what it takes is the newest."""

    def __init__(self, picture: Callable[[], Cluster], wake: Callable[[], object]) -> None:
        super().__init__((Moved,), wake)
        self._picture = picture
        self._moved = False

    def __len__(self) -> int:
        return int(self._moved)

    def put(self, change: object) -> None:
        if not self.closed and isinstance(change, Moved):
            self._moved = True
            self._wake()

    def take(self) -> Cluster | None:
        moved, self._moved = self._moved, False
        return self._picture() if moved else None


def _behind(theirs: Lineage | None, own: Lineage | None) -> int | None:
    if theirs is None or own is None:
        return None
    last = theirs.last
    if own.has(last):
        return own.last.txid - last.txid
    return 0 if theirs.has(own.last) else None


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.now(UTC) - timedelta(seconds=time.monotonic() - at)
