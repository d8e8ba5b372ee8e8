"""What the re-read hands around: who asked for a look, and what a look at everything has seen."""

from __future__ import annotations

from typing import NamedTuple

import anyio

from litefs_watch.core.readings import DirectoryRead, PositionsRead
from litefs_watch.position import Position


class Batch:
    """Those who asked for the same look."""

    def __init__(self) -> None:
        self.everything = False
        self.databases: set[str] = set()
        self.done: anyio.Event = anyio.Event()
        self.positions: dict[str, Position] = {}
        self.faults: dict[str, str] = {}
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Tell those who wait. Nothing where the look is done."""
        if not self.done.is_set():
            self.error = error
            self.done.set()


class Everything(NamedTuple):
    """What a look at everything has seen, and what it was to see."""

    read: DirectoryRead
    left: list[str]
    """The databases that it did not come to."""
    first: set[str]
    before: list[str] | None
    """What the one before had left; empty: it was between two rounds; None: it began a new one."""
    in_turn: bool
    asked: tuple[PositionsRead, dict[str, str]] | None
    """What was read for those who asked for it."""
