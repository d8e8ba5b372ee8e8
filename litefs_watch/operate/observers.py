"""Who is told what the middlewares do with requests: metrics, traces. Nobody is told of a request that simply runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.watcher import Watcher

logger: logging.Logger = logging.getLogger("litefs_watch")

MarkT = TypeVar("MarkT")
Ended = Callable[[str, float], object]
"""Called with a wait's outcome and its seconds."""

MET, UNMET, CANCELLED = "met", "unmet", "cancelled"
OUTCOMES = (MET, UNMET, CANCELLED)
"""What was waited for came; it did not; nobody wants it any more: the client has left, or the server stops."""
WAIT, HOLD = "wait", "hold"


class Observer(Protocol):
    """From any thread. It must be quick, and not wait."""

    def began(self, kind: str) -> Ended | None:
        """A request waits for a transaction (``wait``), or for a primary (``hold``). What this returns is called at its
        end."""

    def replayed(self, reason: str) -> None:
        """A request is sent on to the primary."""

    def refused(self, reason: str) -> None:
        """A request is refused."""

    def lost(self) -> None:
        """A client is told that a fail-over has lost what it had written."""


class Observers:
    """All those of one watcher. What one of them raises is logged once, and harms neither the request nor the others."""

    def __init__(self) -> None:
        self._all: tuple[Observer, ...] = ()
        self._said = False

    def add(self, observer: Observer) -> None:
        """It is told from now on."""
        self._all = (*self._all, observer)

    def remove(self, observer: Observer) -> None:
        """It is told no more."""
        self._all = tuple(each for each in self._all if each is not observer)

    def began(self, kind: str) -> list[Ended]:
        """A wait begins: what is to be given to `ended`."""
        ends = (self._tell(each.began, kind) for each in self._all)
        return [end for end in ends if end is not None]

    def ended(self, ends: list[Ended], outcome: str, seconds: float) -> None:
        """It is over."""
        for end in ends:
            self._tell(end, outcome, seconds)

    def replayed(self, reason: str) -> None:
        """As `Observer.replayed`."""
        for each in self._all:
            self._tell(each.replayed, reason)

    def refused(self, reason: str) -> None:
        """As `Observer.refused`."""
        for each in self._all:
            self._tell(each.refused, reason)

    def lost(self) -> None:
        """As `Observer.lost`."""
        for each in self._all:
            self._tell(each.lost)

    def _tell(self, told: Callable[..., MarkT], *words: object) -> MarkT | None:
        try:
            return told(*words)
        except Exception:
            if not self._said:
                self._said = True
                logger.exception("metrics or traces miss something, and the requests go on")
            return None


_NOBODY = Observers()
_of: WeakKeyDictionary[Watcher | BlockingWatcher, Observers] = WeakKeyDictionary()


def observers_of(watcher: Watcher | BlockingWatcher | None) -> Observers:
    """Those that are told of what is done by this watcher's word; nobody without one."""
    return _NOBODY if watcher is None else _of.get(watcher, _NOBODY)


def observe(watcher: Watcher | BlockingWatcher, observer: Observer) -> Callable[[], None]:
    """Tell ``observer``, too, from now on. Returns what ends that."""
    observers = _of.setdefault(watcher, Observers())
    observers.add(observer)
    return lambda: observers.remove(observer)
