"""Why a run knows nothing, for those who are told so: it does not run, a source is down, or the database is not there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from litefs_watch.changes import Role
from litefs_watch.core.readings import NEVER_REPLICATED_MS
from litefs_watch.status import missing_database, reasons

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Run

logger: logging.Logger = logging.getLogger("litefs_watch")

NOT_RUNNING = "the watcher is not running: start it in the application's lifespan, or with start()"


def idle(run: Run) -> str | None:
    """Why it does not run, and what to do; None where it does."""
    if run.running:
        return None
    if run.failure is not None:
        return f"the watcher failed: {run.failure!r}"
    if run.stopped:
        return "the watcher was stopped"
    return NOT_RUNNING if run.token is None else "the watcher has ended with its event loop: start it again"


def unknown(run: Run) -> str:
    """What is appended to a message about a node that knows no primary: what keeps the sources from knowing. Empty where one
    is known, and where the sources are well: LiteFS knows none."""
    if run.standing.role is not Role.UNKNOWN:
        return ""
    down = idle(run) or ("; ".join(reasons(run.supervisor.status)) if run.supervisor else "")
    return f" ({down})" if down else ""


def explain(run: Run, database: str) -> str:
    """`unknown`, and where that is nothing, why the database is not known, if it is watched for."""
    why = unknown(run)
    if why or run.supervisor is None or run.position(database) is not None:
        return why
    missing = missing_database(run.status, database)
    return f"; {missing}" if missing else ""


def count_databases(run: Run) -> bool:
    """Once LiteFS has told which databases there are: say so where the one that is meant is not among them. Once, since it
    may be created later. Whether LiteFS has told."""
    state = run.board.state
    if state.role is Role.UNKNOWN or state.lag_ms == NEVER_REPLICATED_MS:
        return False
    if (missing := missing_database(run.status, run.settings.database)) is not None:
        logger.warning("%s; if it is not to be created later, set DATABASE_FILENAME (or database=) to one of those", missing)
    return True
