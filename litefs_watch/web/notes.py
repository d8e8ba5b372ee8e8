"""Notes what a driver has raised: a write that was refused, of the request that has made it; a connection that is dead.

The drivers themselves are `litefs_watch.refusals`'s, and Django's `litefs_watch.django.connections`'s: this needs none.
"""

from __future__ import annotations

import logging

from litefs_watch.consistency.faults import is_dead_connection, is_refused_write, sqlite_says
from litefs_watch.consistency.marks import current_exchange, note_refused
from litefs_watch.web.seldom import Seldom

logger: logging.Logger = logging.getLogger("litefs_watch")

DEAD_EVERY = 600.0
"""Seconds: each connection of a pool dies, and a pool is large."""


class DeadConnections:
    """Says that there are some, not each by itself."""

    def __init__(self) -> None:
        self._seldom = Seldom()

    def say(self, error: BaseException, remedy: str | None = None) -> None:
        """``remedy`` is what is done about it; by default, what is to be done."""
        if self._seldom.due(DeadConnections, DEAD_EVERY) is None:
            return
        logger.warning(
            "LiteFS was started anew, or is down: each statement over a connection from before fails (%s), whether it reads "
            "or writes. %s",
            sqlite_says(error),
            remedy or _REMEDY,
        )


_REMEDY = (
    "Close such connections: watch_engine(engine) of litefs_watch.refusals does so in SQLAlchemy's pool, and "
    "litefs_watch.django in Django; elsewhere use one for each request, or an age (CONN_MAX_AGE, pool_recycle)"
)

dead_connections: DeadConnections = DeadConnections()
"""Of this process."""


def note(error: BaseException, *, remedy: str | None = None) -> bool:
    """What a driver has raised. Whatever it is, it may be told. Returns whether its connection is dead: close it.

    ``remedy`` is what the log then says of it.
    """
    if is_refused_write(error):
        note_refused(error)
        return False
    if not is_dead_connection(error):
        return False
    dead_connections.say(error, remedy)
    exchange = current_exchange.get()
    if exchange is not None and exchange.writes:  # it belongs on the primary, whatever its connection was
        note_refused(error)
    return True
