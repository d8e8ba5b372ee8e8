"""What the watcher tells about itself: `Status`, `Statistics`. Plain frozen values, as of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from litefs_watch.changes import Role
from litefs_watch.position import Position
from litefs_watch.printable import did_you_mean, safe

RESTING = ("turned off", "resting")
"""How the detail of a source begins that is not alive, and does not have to be."""

_NAMED = 10  # databases that a message lists
_COMPARED = 100  # names that a misspelt one is compared with: it costs 20 us each


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source is."""

    alive: bool
    since: datetime
    """Since when it has been alive, or not (UTC)."""
    detail: str
    """What it does now; where it is not alive, why not."""
    fault: str | None = None
    """The last unreadable thing that it saw, until a good one followed."""


@dataclass(frozen=True, slots=True)
class Status:
    """All that is known about this node."""

    hostname: str
    """This node's own name."""
    role: Role
    primary: str | None
    """The primary's hostname; None where it is this node, is not known, or has no name."""
    positions: Mapping[str, Position]
    """By database. Kept as last known while LiteFS is away."""
    lag: float | None
    """Seconds since this replica last heard of its primary, as LiteFS counts them: 0 on the primary, negative where the
    clocks differ; None where LiteFS is away or does not say (before 0.5), or this replica has never been in step."""
    replicated: bool | None
    """Whether the first replication is done; None where LiteFS does not say."""
    sources: Mapping[str, SourceStatus]
    """``stream``, ``files`` and ``reread``: which are alive, since when, and why not."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """By file name: what is unreadable in the directory."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the start; ``waiters`` and ``subscriptions`` are those of this moment."""

    waiters: int
    """Calls of `wait_for_tx`, `wait_for_role`, `wait_for_primary` and `wait_for_replicas` that wait."""
    subscriptions: int
    events: int
    """Events received on LiteFS's stream."""
    reconnects: int
    """How often the stream was opened again."""
    rereads: int
    """Looks at the files."""
    wakes: int
    """Waiters that were woken because what they waited for was there."""
    timeouts: int = 0
    """Waits that ended late."""
    lost: int = 0
    """Requests to this primary whose client had written what a fail-over has lost."""
    restarts: int = 0
    """How often a source failed through a fault of litefs_watch and was started anew."""
    oldest_wait: float | None = None
    """Seconds that the one of ``waiters`` has waited that has waited longest; None where there is none."""


def reasons(sources: Mapping[str, SourceStatus]) -> list[str]:
    """Why nothing is known: what the sources miss that should be alive. inotify never tells a role."""
    down = (source for name, source in sources.items() if name != "files" and not source.alive)
    return [source.detail for source in down if not source.detail.startswith(RESTING)]


def unseen(database: str, known: Iterable[str]) -> str:
    """What is said of a database that has not been seen: which there are, and which may be meant."""
    names = sorted(known)
    if not names:
        return "it has not been seen"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    meant = did_you_mean(database, names) if len(names) <= _COMPARED else ""
    return f"it has not been seen (there are {safe(', '.join(names[:_NAMED]))}{more}{meant})"


def missing_database(status: Status, database: str | None) -> str | None:
    """Why nothing is known of the database: others are here, and it is not. None where it is, where nobody could tell (no
    primary is known, or the first replication is not done), and where there is none at all: the first one is still to come.
    """
    if database is None or database in status.positions or not status.positions:
        return None
    if status.role is Role.UNKNOWN or status.replicated is False:
        return None
    return f"there is no database {safe(database)!r}: {unseen(database, status.positions)}"
