"""What a watcher tells: this node's role, and each change of a position or of the primary. Plain frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from litefs_watch.position import Position


class Role(enum.StrEnum):
    """What this node is in its cluster."""

    PRIMARY = "primary"
    """This node takes the writes."""
    REPLICA = "replica"
    """This node follows a primary, which may have no name (a static lease without a hostname)."""
    UNKNOWN = "unknown"
    """No primary is known (a fail-over), LiteFS is down, or nothing has been read yet."""


class Standing(NamedTuple):
    """Who this node is: its role and its primary as one value, so that nobody reads halves of two."""

    role: Role
    primary: str | None = None
    """The primary's hostname; None except on a replica of a named one."""

    def __str__(self) -> str:
        return f"{self.role} of {self.primary}" if self.primary else str(self.role)


def clause(standing: Standing) -> str:
    """Who this node is, as it stands in a sentence."""
    role, primary = standing
    if role is Role.UNKNOWN:
        return "this node's role is unknown"
    if role is Role.PRIMARY:
        return "this node is the primary"
    return f"this node is a replica of {primary}" if primary else "this node is a replica"


NOBODY = Standing(Role.UNKNOWN)


@dataclass(frozen=True, slots=True)
class TxChange:
    """``database`` is at ``position`` now; ``previous`` is None where it was not known before.

    A position that is lower than the previous one is real: the database was reset or restored. So is one with the same TXID
    and another checksum: it belongs to another history.
    """

    database: str
    position: Position
    previous: Position | None
    rewound: int = field(default=0, compare=False)
    """How many transactions this node has dropped for that, at least: those that were lost in a fail-over, for example. 0
    where the position has not gone back. A replica that is reset to a higher TXID of another history can't be told."""


@dataclass(frozen=True, slots=True)
class PrimaryChange:
    """The role, or the primary's hostname, is another one now. ``primary`` is None except on a replica of a named one."""

    role: Role
    primary: str | None
    previous_role: Role
    previous_primary: str | None


Change = TxChange | PrimaryChange
