"""What clients can cause any number of times is said the first time, and then now and then, with how often it was."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from litefs_watch.consistency import Refuse

logger: logging.Logger = logging.getLogger("litefs_watch")

SAID_EVERY = 10.0
"""Seconds between two lines of one kind: in a fail-over, which takes 2 to 10, every request may be refused."""


class Seldom:
    """For any number of threads. The kinds are few: none of them is a client's own words."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[object, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def due(self, kind: object, every: float | None = None) -> int | None:
        """None: not now. Else how many of that kind have gone unsaid since the last one: say it. ``every``: seconds; None:
        `SAID_EVERY`."""
        now = self._clock()
        with self._lock:
            last, unsaid = self._said.get(kind, (float("-inf"), 0))
            if now < last + (SAID_EVERY if every is None else every):
                self._said[kind] = last, unsaid + 1
                return None
            self._said[kind] = now, 0
            return unsaid


def more(unsaid: int) -> str:
    """What is appended to a line that stands for others, too."""
    return f" (and {unsaid} more like it since the last such line)" if unsaid else ""


class Refusals:
    """Of one middleware: which requests it refuses, and why. One whose writes may stand is always said."""

    def __init__(self) -> None:
        self._seldom = Seldom()

    def say(self, action: Refuse, request: str) -> None:
        """``request``: fit for one line."""
        unsaid: int | None = 0
        if action.status == 503 and not action.headers:  # nothing was done: its client may try again as often as it likes
            unsaid = self._seldom.due(action.reason)
        if unsaid is not None:
            logger.warning("%d for %s: %s %s%s", action.status, request, action.reason, action.detail, more(unsaid))
