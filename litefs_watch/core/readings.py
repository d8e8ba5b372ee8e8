"""What a source saw, and when that look *began*. Facts only: what follows from them, `state` decides.

Times are seconds of one monotonic clock; the state compares them and never asks for the time itself. For a look at the
files it is the moment before the first byte was read, for an event the moment at which it was received.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from litefs_watch.position import Position

NEVER_REPLICATED_MS = 2**31 - 1
"""What ``.lag`` says before the first replication and right after a demotion (fuse/lag_node.go: math.MaxInt32)."""


class Mount(enum.Enum):
    """What stands at ``litefs_dir``."""

    LITEFS = "litefs"
    """LiteFS's own mount: type ``fuse`` from source ``litefs``. inotify is silent here."""
    ORDINARY = "ordinary"
    """An ordinary directory: development, tests, a copy kept by another tool; or the place where nothing is mounted."""
    AWAY = "away"
    """Nothing usable: no such directory, or a mount whose LiteFS has died ('Transport endpoint is not connected')."""


@dataclass(frozen=True, slots=True)
class Named:
    """The file ``.primary`` is there: this node is a replica of ``hostname``, None for a primary without a name."""

    hostname: str | None


@dataclass(frozen=True, slots=True)
class DirectoryRead:
    """One look at the whole of ``litefs_dir``. What could not be read is in ``faults`` and in none of the other fields."""

    began: float
    mount: Mount
    primary: Named | None = None
    """What ``.primary`` says; None where the file is absent, or where it could not be read (then it is in ``faults``)."""
    lag_ms: int | None = None
    """What ``.lag`` says, in milliseconds; None as for ``primary``."""
    positions: Mapping[str, Position] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    """By file name: what was wrong with it. The directory's own is named ``.``."""
    resumed: bool = False
    """Whether the machine was suspended since the look before: its wall clock has gone on, and the monotonic one has not."""

    @property
    def is_bare(self) -> bool:
        """Whether it was an ordinary directory without any of LiteFS's files, nor any that could not be read."""
        seen = self.positions or self.faults or self.primary is not None or self.lag_ms is not None
        return self.mount is Mount.ORDINARY and not seen


@dataclass(frozen=True, slots=True)
class PositionsRead:
    """A look at some databases' ``-pos`` files."""

    began: float
    positions: Mapping[str, Position]
    primary: Named | None = None
    """What ``.primary`` said after them; None where it was absent, or not looked at."""


@dataclass(frozen=True, slots=True)
class RoleEvent:
    """LiteFS's event stream says who is primary; ``first`` marks ``init``, which opens a stream."""

    began: float
    is_primary: bool
    hostname: str | None
    first: bool = False


@dataclass(frozen=True, slots=True)
class TxEvent:
    """LiteFS's event stream says that ``database`` reached ``position``."""

    began: float
    database: str
    position: Position
    passed: tuple[Position, ...] = ()
    """Older positions of the same database that came together with this one, oldest first: their TXIDs rise to
    ``position``'s, and the first is above that of the event reported before. Fewer than `sources.burst.RUN_LIMIT`."""


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The event stream is gone."""

    began: float


@dataclass(frozen=True, slots=True)
class Silence:
    """No source has had an answer for so long that nothing is known any more (a frozen LiteFS)."""

    began: float


Reading = DirectoryRead | PositionsRead | RoleEvent | TxEvent | StreamEnded | Silence
