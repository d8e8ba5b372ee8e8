"""Which routes answer with a success although a write of theirs was refused: nobody else sees what they catch."""

from __future__ import annotations

import logging

from litefs_watch.changes import Role
from litefs_watch.consistency import Exchange
from litefs_watch.consistency.faults import sqlite_says
from litefs_watch.printable import safe
from litefs_watch.web.late import ROUTES

logger: logging.Logger = logging.getLogger("litefs_watch")


class SwallowedWrites:
    """Of one middleware."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def look(self, exchange: Exchange, route: str, role: Role) -> None:
        """When a request is over to which a write was refused, and which nothing else has answered: say so, once for each
        route. ``role`` is that of this node now: on a primary, it is not LiteFS that refuses."""
        if exchange.shown or exchange.refused is None or role is Role.PRIMARY:
            return
        if route in self._said or len(self._said) >= ROUTES:
            return
        self._said.add(route)
        logger.warning(
            "%s answers with a success, and a write of its was refused here (%s): it is written nowhere. Name the path in "
            "primary_paths, which then go to the primary; or let the error through, which sends the request there; "
            "mark_written(request) says that it was tried again, and done",
            safe(route),
            sqlite_says(exchange.refused),
        )
