"""The last events, numbered. Pure.

An event's id is ``EPOCH-NUMBER``: another start of the sidecar numbers anew, and has another epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """``record`` has its kind under ``type``; without an ``id`` it can't be come back to."""

    record: Mapping[str, Any]
    id: str | None = None


class Memory:
    """The newest ``size`` events."""

    def __init__(self, size: int, epoch: str) -> None:
        self._ring: list[Event | None] = [None] * size
        self._epoch = epoch
        self.newest: int = 0
        """The number of the newest; 0: none yet."""

    def add(self, record: Mapping[str, Any]) -> None:
        """The newest from now on; the oldest goes where there is no room."""
        self.newest += 1
        self._ring[self.newest % len(self._ring)] = Event(record, self.id_of(self.newest))

    def id_of(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def number_of(self, id: str) -> int | None:  # noqa: A002 - its name
        """None for one of another start, for one that is still to come, and for what is none."""
        found = _ID.fullmatch(id)
        if found is None or found[1] != self._epoch or int(found[2]) > self.newest:
            return None
        return int(found[2])

    def after(self, number: int, most: int) -> list[Event] | None:
        """Those that follow, up to so many; None where the next one is gone."""
        if self.newest - number > len(self._ring):
            return None
        last = min(self.newest, number + most)
        found = (self._ring[each % len(self._ring)] for each in range(number + 1, last + 1))
        return [event for event in found if event is not None]
