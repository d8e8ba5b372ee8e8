"""From the watcher to whoever follows. One task takes the changes, and puts them where all read them: a follower has a
number, not a queue, so that the slowest costs no more than the quickest.
"""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from litefs_watch.operate.words import change_record, status_record, timestamp
from litefs_watch.serve.memory import Event, Memory

if TYPE_CHECKING:
    from litefs_watch.changes import PrimaryChange, TxChange
    from litefs_watch.watchers.subscription import Subscription
    from litefs_watch.watchers.watcher import Watcher

logger: logging.Logger = logging.getLogger("litefs_watch")

BATCH = 64
"""Events that a follower takes at once: what is on its way to it, and not in the memory of all."""


class Events:
    """All that the watcher tells, for any number of followers."""

    def __init__(self, watcher: Watcher, kept: int) -> None:
        self._watcher = watcher
        self._news = anyio.Event()
        self.memory: Memory = Memory(kept, secrets.token_hex(4))
        self.ended: anyio.Event = anyio.Event()
        """Set when there will be no more: the watcher was stopped, or failed."""

    async def run(self, changes: Subscription[TxChange | PrimaryChange]) -> None:
        """Until the watcher, whose changes these are, ends. Raises nothing of its own."""
        try:
            with changes:
                async for change in changes:
                    self.memory.add({**change_record(change), "time": now()})
                    self._tell()
        except Exception:
            logger.exception("the events failed through a fault of litefs_watch")
        finally:
            self.ended.set()
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def news(self) -> None:
        """Wait for the next."""
        await self._news.wait()

    def status(self) -> Event:
        """What is true now: whatever follows the newest event may tell some of it again, and nothing is left out."""
        number = self.memory.newest  # before the look: see above
        record = {"type": "status", **status_record(self._watcher.status), "time": now()}
        return Event(record, self.memory.id_of(number))


class Follower:
    """One who follows: from the event that was last seen, or from what is true now."""

    def __init__(self, events: Events, last_seen: str | None) -> None:
        self._events = events
        self._number = None if last_seen is None else events.memory.number_of(last_seen)
        self._opening: list[Event] = []
        if self._number is None:
            if last_seen is not None:
                self._opening.append(_missed(None))
            self._opening.append(self._from_now())

    def _from_now(self) -> Event:
        self._number = self._events.memory.newest
        return self._events.status()

    def take(self) -> list[Event]:
        """What there is now. Whoever is too far behind is told how many events that makes, and what is true."""
        opening, self._opening = self._opening, []
        if opening or self._number is None:
            return opening
        memory = self._events.memory
        events = memory.after(self._number, BATCH)
        if events is None:
            missed = _missed(memory.newest - self._number)
            return [missed, self._from_now()]
        self._number += len(events)
        return events

    async def next(self, patience: float) -> list[Event] | None:
        """What comes next; an empty list where nothing does for ``patience`` seconds; None at the end."""
        with anyio.move_on_after(patience):
            while True:
                if events := self.take():
                    return events
                if self._events.ended.is_set():
                    return None
                await self._events.news()
        return []


def _missed(count: int | None) -> Event:
    """``count`` is None where nobody knows."""
    return Event({"type": "missed", "count": count, "time": now()})


def now() -> str:
    """UTC, to the millisecond, as LiteFS writes it in its events."""
    return timestamp(datetime.now(UTC))
