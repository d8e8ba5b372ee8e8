"""Which routes commit after their responses have started, so that the response can't say where its write is.

It is told by the position, which is everybody's: only of a write that ran alone in this process is it sure whose commit that
was. Once a route is known, its responses are pinned even where another write has moved the position meanwhile.
"""

from __future__ import annotations

import logging
import re
import threading

from litefs_watch.consistency import Exchange, named
from litefs_watch.position import Position

logger = logging.getLogger("litefs_watch")

ROUTES = 100
"""Routes that are kept in mind and logged. Where the framework doesn't tell them, a client may make up any number."""

_NUMBERED = re.compile(r"[^/]*\d[^/]*")


class LateRoutes:
    """Of one middleware. For any number of threads."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._begun = self._running = 0

    def begin(self) -> int:
        """A write begins. Returns its number, 0 where another one is running."""
        with self._lock:
            self._begun += 1
            self._running += 1
            return self._begun if self._running == 1 else 0

    def end(self) -> None:
        """A write is over, and what the application does after it too."""
        with self._lock:
            self._running -= 1

    def was_alone(self, number: int) -> bool:
        """Whether no other write has run beside the one of that number."""
        return number == self._begun

    def knows(self, route: str) -> bool:
        """Whether the route was seen to commit late."""
        return route in self._known

    def wants(self, route: str, number: int) -> bool:
        """Whether it is worth a look whether it has committed late."""
        return self.was_alone(number) and not self.knows(route) and len(self._known) < ROUTES

    def say(self, route: str, exchange: Exchange, position: Position) -> None:
        """It has: ``position`` is where the database is when the application is done."""
        self._known.add(route)
        logger.warning(
            "%s commits after its response has started: the database was at %s then, and is at %s now that it is done. Its "
            "client's next read may have to go to the primary. Commit before the response: "
            'Depends(get_session, scope="function") in FastAPI; in Flask, the view or after_request, and no generator; '
            "elsewhere the handler, not its background task or stream, and mark_written(request) after a commit that no "
            "write method tells of",
            route,
            exchange.before,
            position,
        )


def route_named(method: str, path: str | None, actual: str) -> str:
    """What a route is called: its ``path`` with its parameters, where the framework tells; else the request's, in which a
    part with a digit is taken for a parameter."""
    return named(method, path if path is not None else _NUMBERED.sub("*", actual))
