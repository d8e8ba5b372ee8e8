"""The status and the changes in words: as JSON records, and as lines for people. For the commands, and for Django's.

Names from outside can't reach a terminal's control codes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from litefs_watch.changes import PrimaryChange, Role, TxChange
from litefs_watch.cluster import Cluster, Peer
from litefs_watch.position import Position
from litefs_watch.printable import safe
from litefs_watch.status import RESTING, SourceStatus, Statistics, Status


def role_text(role: str, primary: str | None) -> str:
    """The role in a few words."""
    if role == "replica":
        return f"replica of {safe(primary)}" if primary is not None else "replica of a primary without a name"
    return "unknown: no primary is known" if role == "unknown" else role


def lag_text(status: Status) -> str:
    if status.replicated is None:
        return "LiteFS does not say"
    return "not replicated yet" if status.lag is None else f"{status.lag:.3f} s"


Segment = tuple[str, str]
"""A piece of text, and its style in `rich`'s words; empty for none."""

_COLOURS = {Role.PRIMARY: "bold green", Role.REPLICA: "bold cyan", Role.UNKNOWN: "bold red"}


def status_lines(status: Status, database: str | None) -> Iterator[list[Segment]]:
    """The status for people, line by line. ``database`` is listed even where it has not been seen."""
    positions = {name: f"{position.txid}  ({position})" for name, position in sorted(status.positions.items())}
    if database is not None and status.sources:
        positions.setdefault(database, "not seen")
    rows = [
        ("node", safe(status.hostname), ""),
        ("role", role_text(status.role, status.primary), _COLOURS[status.role]),
        ("lag", lag_text(status), ""),
        *((safe(name), text, "" if name in status.positions else "yellow") for name, text in positions.items()),
    ]
    width = max(len(name) for name, _, _ in rows)
    for name, text, style in rows:
        yield [(f"{name:{width}}  ", ""), (text, style)]
    yield []
    if not status.sources:
        yield [("standalone: nothing is watched, this node counts as the primary, and every wait is met", "yellow")]
    for name, source in status.sources.items():
        yield source_line(name, source)
    known = {source.detail for source in status.sources.values()}
    faults = [source.fault for name, source in status.sources.items() if source.fault and name != "reread"]
    for fault in dict.fromkeys([*faults, *(status.faults[name] for name in sorted(status.faults))]):
        if fault not in known:
            yield [(f"unreadable: {safe(fault)}", "red")]


def source_line(name: str, source: SourceStatus) -> list[Segment]:
    if source.alive:
        mark = ("alive", "green")
    elif source.detail.startswith(RESTING):
        mark = ("idle ", "dim")
    else:
        mark = ("away ", "bold yellow")
    age = (datetime.now(UTC) - source.since).total_seconds()
    since = f"since {source.since:%H:%M:%S}Z ({age:.0f} s)"
    return [(f"{name:6}  ", ""), mark, (f"  {since}  {safe(source.detail)}", "")]


def cluster_lines(cluster: Cluster) -> Iterator[list[Segment]]:
    """The other nodes for people: two lines each, and one for each database that it has told of."""
    yield []
    if cluster.fault is not None:
        yield [(safe(cluster.fault), "yellow")]
    if not cluster.peers:
        yield [("no other nodes are known: set LITEFS_PEERS", "yellow")]
    for peer in cluster.peers:
        style = _COLOURS[peer.role] if peer.connected else "bold yellow"
        yield [(f"{safe(peer.url)}  ", ""), (role_text(peer.role, peer.primary) if peer.connected else "away", style)]
        yield [(f"  since {peer.since:%H:%M:%S}Z  {safe(peer.detail)}", "")]
        for name, txid in sorted(peer.txids.items()):
            yield [(f"  {safe(name)}  {txid}  when it was connected to", "")]
        for name, position in sorted(peer.positions.items()):
            yield [(f"  {safe(name)}  {position.txid}  ({position})  {_behind_text(peer.behind.get(name))}", "")]


def _behind_text(behind: int | None) -> str:
    if behind is None:
        return "nothing tells how far behind"
    return f"{behind} behind" if behind else "in step"


# JSON. Names of several words are written as LiteFS writes its own: `primaryChange`, `isPrimary`.


def position_record(position: Position | None) -> dict[str, Any] | None:
    """The TXID as a number, and LiteFS's text for who can't hold numbers of 64 bits (JavaScript, jq)."""
    return None if position is None else {"txid": position.txid, "position": str(position)}


def change_record(change: TxChange | PrimaryChange) -> dict[str, Any]:
    if isinstance(change, TxChange):
        return {
            "type": "tx",
            "database": change.database,
            **(position_record(change.position) or {}),
            "previous": position_record(change.previous),
        }
    return {
        "type": "primaryChange",
        "role": change.role,
        "primary": change.primary,
        "previousRole": change.previous_role,
        "previousPrimary": change.previous_primary,
    }


def status_record(status: Status) -> dict[str, Any]:
    """``lag`` is in seconds."""
    return {
        "hostname": status.hostname,
        "role": status.role,
        "primary": status.primary,
        "lag": status.lag,
        "replicated": status.replicated,
        "positions": {database: position_record(position) for database, position in sorted(status.positions.items())},
        "sources": {name: source_record(source) for name, source in status.sources.items()},
        "faults": dict(status.faults),
    }


def waits_record(statistics: Statistics) -> dict[str, Any]:
    """Who waits in this process, of which a server may have several. ``oldestWait`` is in seconds."""
    return {"process": os.getpid(), "waiters": statistics.waiters, "oldestWait": statistics.oldest_wait}


def cluster_record(cluster: Cluster) -> dict[str, Any]:
    return {"peers": [peer_record(peer) for peer in cluster.peers], "fault": cluster.fault}


def peer_record(peer: Peer) -> dict[str, Any]:
    return {
        "url": peer.url,
        "nodeID": peer.node_id,
        "connected": peer.connected,
        "since": timestamp(peer.since),
        "heard": None if peer.heard is None else timestamp(peer.heard),
        "role": peer.role,
        "primary": peer.primary,
        "positions": {database: position_record(position) for database, position in sorted(peer.positions.items())},
        "behind": dict(peer.behind),
        "txids": dict(peer.txids),
        "counts": peer.counts,
        "detail": peer.detail,
    }


def source_record(source: SourceStatus) -> dict[str, Any]:
    return asdict(source) | {"since": timestamp(source.since)}


def timestamp(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"
