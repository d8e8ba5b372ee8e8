"""What the other nodes say of themselves, as one picture: `Peer`, `Cluster`. Plain frozen values, as of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from litefs_watch.changes import Role
from litefs_watch.position import Position


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, by its own word. It decides nothing about this one."""

    url: str
    """Its LiteFS's HTTP API."""
    node_id: str | None
    """LiteFS's own id of it; None where it has not been reached, or tells none."""
    connected: bool
    """Whether its event stream is open."""
    since: datetime
    """Since when that is so (UTC)."""
    heard: datetime | None
    """When it last said anything (UTC). It says nothing while nothing happens there. None: never."""
    role: Role
    """UNKNOWN while it is not connected, or knows no primary itself."""
    primary: str | None
    """The hostname of the primary that it follows, as it says."""
    positions: Mapping[str, Position]
    """By database, as last told: LiteFS tells of a database with its next transaction. Kept while it is not connected."""
    behind: Mapping[str, int | None]
    """By database: how many transactions it is behind this node; 0 where it is as far or farther. None where nothing tells
    that the two are of one history, or it is not connected."""
    counts: bool
    """Whether `wait_for_replicas` counts it: connected, of this node's cluster, not this very node, nor one that is there
    under another address."""
    detail: str
    """What its stream does; where it is not connected, why not; where it does not count, why not."""
    txids: Mapping[str, int] = field(default_factory=dict)
    """By database: where it was when the stream was opened, by LiteFS's metrics, until the stream tells of it. A TXID alone
    names no history: these are for people."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The other nodes, as far as they are known."""

    peers: tuple[Peer, ...] = ()
    fault: str | None = None
    """Why they can't all be found: the DNS does not answer, or there are more than are watched."""
    settled: bool = True
    """Whether each was reached, or could not be, once."""
