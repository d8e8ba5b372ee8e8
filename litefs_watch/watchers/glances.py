"""What the middlewares ask for each request, as cheaply as can be: they pay for it also where nothing is to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litefs_watch.changes import Role
from litefs_watch.position import Position

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Run


class Glances:
    """Of `Watcher` and `BlockingWatcher`. Takes no lock and starts nothing: a run that has ended knows nothing."""

    _run: Run

    def glance(self, database: str) -> tuple[Role, Position | None]:
        """Role and position, as last heard: each at its own moment."""
        state = self._run.board.state
        return state.standing.role, state.positions.get(database)

    def has_position(self, database: str, position: Position) -> bool:
        """Whether that very position is here."""
        run = self._run
        lineage = run.board.state.here.get(database)
        return lineage.has(position) if lineage is not None else run.supervisor is None and run.running
