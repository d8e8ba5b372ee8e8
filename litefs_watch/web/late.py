"""Which routes commit after their responses have started, so that the response can't say where its write is.

It is told by the position, which is everybody's: only of a write that ran alone in this process is it sure whose commit that
was. Once a route is known, its responses are pinned even where another write has moved the position meanwhile. Before that,
who has not run alone is taken for one that may commit late.
"""

from __future__ import annotations

import logging
import re
import threading

from litefs_watch.printable import safe

logger: logging.Logger = logging.getLogger("litefs_watch")

ROUTES = 100
"""Routes that are kept in mind and logged. Where the framework doesn't tell them, a client may make up any number."""

LOOKS = 3
"""Times that a route is looked at which has committed before its response started: whether it commits again afterwards."""

_NUMBERED = re.compile(r"[^/]*\d[^/]*")


class LateRoutes:
    """Of one middleware. For any number of threads."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._looks: dict[str, int] = {}
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

    def trusts(self, route: str) -> bool:
        """Whether the route was seen, as often as it is looked at, to commit before its response started, and not after."""
        return self._looks.get(route, 0) >= LOOKS and route not in self._known

    def __bool__(self) -> bool:
        """Whether any was seen to commit late."""
        return bool(self._known)

    def wants(self, route: str, number: int, *, moved: bool) -> bool:
        """Whether a look is worth its while, when the application is done, whether that write has committed late.

        ``moved``: it has committed before, too. Most do so once, and are looked at a few times only.
        """
        if not self.was_alone(number) or self.knows(route) or len(self._known) >= ROUTES:
            return False
        if moved:
            looks = self._looks.get(route, 0)
            if looks >= LOOKS or (not looks and len(self._looks) >= ROUTES):
                return False
            self._looks[route] = looks + 1
        return True

    def say(self, route: str, then: object, now: object) -> None:
        """It has: where the database was when the response started, and where it is."""
        self._known.add(route)
        logger.warning(
            "%s commits after its response has started: the database was at %s then, and is at %s now that it is done. Its "
            "client's next read may have to go to the primary. Commit before the response: "
            'Depends(get_session, scope="function") in FastAPI; in Flask, the view or after_request, and no generator; '
            "in Litestar, with LiteFSMiddleware around the application; elsewhere the handler, not its background task or "
            "stream, and mark_written(request) after a commit that no write method tells of",
            safe(route),
            _text(then),
            _text(now),
            extra={"litefs_event": "late_commit", "litefs_route": route},
        )


def _text(positions: object) -> str:
    """One, or that of each of several databases."""
    return ", ".join(map(str, positions)) if type(positions) is tuple else str(positions)


def route_named(method: str, path: str | None, actual: str) -> str:
    """What a route is called: its ``path`` with its parameters, where the framework tells; else the request's, in which a
    part with a digit is taken for a parameter."""
    return f"{method} {path if path is not None else _NUMBERED.sub('*', actual)}"
