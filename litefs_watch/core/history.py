"""Which positions belong together: each database's recent past, as far as it is known without a gap.

A TXID alone names no history: a primary that is killed with transactions nobody else has comes back with them, while the
others have gone on. The checksum tells the two apart. A `Lineage` is a run of positions each of which followed the one
before it, so that whoever is at its end has all of them. It answers of a position *here*, *ahead*, *elsewhere*, *untold*.

What is not proved does not count. A position continues the lineage only where its TXID is the next one, and nothing has
happened in between that may have replaced the database (`doubt`: a replica is reset by a snapshot of its new primary, which
can have any TXID, the next one too). All else begins a lineage anew. What looks have run ahead of, late events may fill in.
A gap alone replaces nothing: what was looked up in LiteFS's files before it still holds, as long as the `era` is the same.

A position costs 8 bytes: its TXID is its place. See `LIMIT` and `TOTAL`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from litefs_watch.changes import Standing
from litefs_watch.position import TXID_MAX, Position, Where

LIMIT = 65_536
"""Positions that are kept of one database: half a MiB. Five minutes, as long as a cookie lives, of 218 commits a second."""
TOTAL = 2_000_000
"""Positions that are kept of all databases together: 16 MB."""
_GAPS = 8
"""Gaps of one database that late events may fill: looks run ahead of a busy stream, one after the other."""


class Lineage(NamedTuple):
    """Consecutive positions of one history. Grows in place, and never shrinks: whoever has one may read it in any thread."""

    first: int
    """The oldest one's TXID."""
    checksums: array[int]

    @classmethod
    def of(cls, position: Position) -> Lineage:
        return cls(position.txid, array("Q", (position.checksum,)))

    @property
    def last(self) -> Position:
        return Position(self.first + len(self.checksums) - 1, self.checksums[-1])

    def ends_with(self, position: Position) -> bool:
        """Whether it is the `last`, which need not be made for that."""
        return position.checksum == self.checksums[-1] and position.txid == self.first + len(self.checksums) - 1

    def has(self, position: Position) -> bool:
        """Whether it is one of them."""
        first, checksums = self
        index = position.txid - first
        return 0 <= index < len(checksums) and checksums[index] == position.checksum

    def where(self, position: Position) -> Where:
        index = position.txid - self.first
        if index < 0:
            return Where.UNTOLD
        if index >= len(self.checksums):
            return Where.AHEAD
        return Where.HERE if self.checksums[index] == position.checksum else Where.ELSEWHERE


class View(NamedTuple):
    """What is known of one database and of this node, as of one moment."""

    standing: Standing
    vouched: bool
    """Whether what is here is the cluster's: on the primary, and on a replica that follows it."""
    position: Position | None
    """As last known."""
    lineage: Lineage | None
    """The positions that are here; None while nothing confirms what was known (the state's rule 9)."""
    replaced: bool = False
    """Whether those begin with something that may have replaced the database."""
    data_dir: Path | None = None
    """LiteFS's data directory: as set, or as LiteFS says; None where it is not known."""
    term: int = 0
    """Another number each time that it may have been replaced: somebody else was named as the primary."""
    since: float = float("-inf")
    """When this primary took the place of another, or of none, on the readings' clock; -inf for the run's first."""
    everything: bool = False
    """Standalone: whatever is asked for is here."""
    standing_since: float = float("-inf")
    """When the role and the primary became what they are, on the readings' clock; -inf for the run's first."""
    era: object = None
    """Another object each time that the database has gone back, or may have been replaced."""

    def where(self, wanted: int | Position) -> Where | None:
        """Where a position is; None while nothing confirms what was known. A TXID alone is here where it is reached."""
        if self.everything:
            return Where.HERE
        if self.lineage is None:
            return Where.AHEAD if self.position is None else None
        if isinstance(wanted, Position):
            where = self.lineage.where(wanted)
            return Where.DOUBTED if self.replaced and where is Where.UNTOLD else where
        return Where.HERE if wanted <= self.lineage.last.txid else Where.AHEAD


class History:
    """The lineage of one database up to where it is, and what came before a gap, or a few."""

    __slots__ = ("_doubted", "_older", "era", "lineage", "replaced")

    def __init__(self, position: Position) -> None:
        self.lineage: Lineage = Lineage.of(position)
        """Ends with the database's position."""
        self.replaced: bool = False
        """Whether the lineage begins where the database may have been replaced."""
        self.era: object = object()
        """As `View.era`."""
        self._older: list[Lineage] = []  # before gaps that may be filled, in order; at most `_GAPS`
        self._doubted = False

    def doubt(self) -> None:
        """The database may be replaced from now on: its next position proves nothing about those before."""
        self._doubted = True
        if self._older:  # what came between is not told any more: that gap, too, may be one to another history
            self._older, self.replaced, self.era = [], True, object()

    def trust(self) -> None:
        """It was not: after all that may have replaced it, the database is at the same position as before."""
        self._doubted = False

    def move(self, position: Position, limit: int) -> int:
        """The database is at ``position`` now. Returns how many transactions it has dropped for that, at least."""
        last = self.lineage.first + len(self.lineage.checksums) - 1
        if position.txid > last:
            if self._doubted or not _continue(self.lineage, position):
                if self._doubted:
                    self.replaced, self.era = True, object()
                else:
                    self._older = [*self._older[1 - _GAPS :], self.lineage]
                self.lineage = Lineage.of(position)
            if self._older or len(self.lineage.checksums) > limit:
                self.trim(limit)
            self._doubted = False
            return 0
        index = position.txid - self.lineage.first
        back = self.lineage.has(position)
        self.replaced, self.era = self.replaced or not back, object()
        self.lineage = Lineage(self.lineage.first, self.lineage.checksums[: index + 1]) if back else Lineage.of(position)
        self._older = []
        self._doubted = False
        return last - position.txid + (0 if back or index < 0 else 1)

    def fill(self, position: Position, limit: int) -> None:
        """``position``, of a transaction that the database already had, was told of late: it may close a gap. Or it tells
        that it was in another history meanwhile: of what it contradicts, and all before that, nothing is left but where it
        is."""
        known = [*self._older, self.lineage]
        for index, lineage in enumerate(known):
            if lineage.where(position) is Where.ELSEWHERE:
                if lineage is self.lineage:
                    self.part()
                del self._older[: index + 1]
                self.replaced, self.era = True, object()
                return
        for index, (older, newer) in enumerate(pairwise(known)):
            if position.txid > newer.first:
                continue
            if _continue(older, position):
                if position.txid == newer.first:
                    joined = Lineage(older.first, older.checksums + newer.checksums[1:])
                    known[index : index + 2] = [joined]
                    self._older, self.lineage = known[:-1], known[-1]
                self.trim(limit)
            return

    def part(self) -> None:
        """What was taken for one history may be none: where the database is, is all that is known, and that may not stay."""
        self.lineage = Lineage.of(self.lineage.last)
        self.replaced, self.era = True, object()
        self.doubt()

    def trim(self, limit: int) -> None:
        """Keep no more than ``limit`` positions; less than that, so that not every transaction has to. As many before gaps,
        and a quarter more."""
        size = len(self.lineage.checksums)
        if size > limit:
            drop = size - max(1, limit - limit // 4)
            self.lineage = Lineage(self.lineage.first + drop, self.lineage.checksums[drop:])
        while sum(len(older.checksums) for older in self._older) > limit + limit // 4:
            del self._older[0]


def _continue(lineage: Lineage, position: Position) -> bool:
    """Append the position, if it is the next one."""
    if position.txid != lineage.first + len(lineage.checksums) or position.checksum > TXID_MAX:
        return False
    lineage.checksums.append(position.checksum)
    return True


class Histories:
    """Every database's. In all no more than about `TOTAL` positions (plus 300 bytes for each database)."""

    def __init__(self) -> None:
        self.by_database: dict[str, History] = {}
        self._limit = LIMIT

    def move(self, database: str, passed: tuple[Position, ...], position: Position) -> int:
        """The database is at ``position``, and has been at ``passed``. How many transactions it has dropped, at least."""
        history = self.by_database.get(database)
        if history is None:
            history = self.by_database[database] = History(passed[0] if passed else position)
            self._share()
        dropped = 0
        for each in (*passed, position):
            if not history.lineage.ends_with(each):
                dropped += history.move(each, self._limit)
        return dropped

    def fill(self, database: str, positions: Iterable[Position]) -> None:
        """The database has been there, told of late."""
        if (history := self.by_database.get(database)) is not None:
            for position in positions:
                history.fill(position, self._limit)

    def doubt(self) -> None:
        """Every database may be replaced from now on."""
        for history in self.by_database.values():
            history.doubt()

    def _share(self) -> None:
        count = len(self.by_database)
        limit = max(1, min(LIMIT, TOTAL // count))
        if limit <= self._limit // 2 or count * self._limit > 2 * TOTAL:
            self._limit = limit
            for history in self.by_database.values():
                history.trim(limit)
