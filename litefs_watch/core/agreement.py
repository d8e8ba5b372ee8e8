"""How far LiteFS's event stream and its files agree on where each database is (the state's rule 2).

Both tell of the same moves, each in order, and neither says how late it is. They agree where one says what the other has
said. Where a look has run ahead, the events still under way are of before it, and so is what they say of the primary.
"""

from __future__ import annotations

from collections.abc import Iterable

from litefs_watch.core.readings import TxEvent
from litefs_watch.position import Position

Positions = tuple[Position, ...]


class Agreement:
    """What the stream has told, and for which databases more is known from looks."""

    def __init__(self) -> None:
        self.doubted: set[str] = set()
        """Databases whose events may be of a history that is gone."""
        self.ahead: set[str] = set()
        """Those of them that a look has seen move further than this stream has come."""
        self.last_event: dict[str, Position] = {}
        """What the stream has said last, by database."""

    def begin(self, databases: Iterable[str]) -> None:
        """A stream is opened, which tells nothing of where the ``databases`` are."""
        self.doubted.update(databases)
        self.last_event.clear()

    def look(self, database: str, position: Position, before: Position | None) -> None:
        """A look has seen it there, and so that it has moved from where it was ``before``; None where it was not known."""
        if position != before:
            self.doubted.add(database)
            if before is not None and position.txid > before.txid:
                self.ahead.add(database)
        if position == self.last_event.get(database):
            self._agree(database)

    def tell(self, event: TxEvent, known: Position | None) -> tuple[Positions, Positions]:
        """The stream has told of it. Returns which of its positions are not beyond what is known, and those that are."""
        database, ahead = event.database, (*event.passed, event.position)
        self.last_event[database] = event.position
        if known is None or ahead[0].txid > known.txid:
            return (), ahead
        behind = tuple(position for position in ahead if position.txid <= known.txid)
        if known == behind[-1]:
            self._agree(database)
        else:
            self.doubted.add(database)
        return behind, ahead[len(behind) :]

    def _agree(self, database: str) -> None:
        self.doubted.discard(database)
        self.ahead.discard(database)
