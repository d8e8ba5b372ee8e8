"""Every run of this process, for who is given none, and for what a fork does to them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Run

_all: WeakSet[Run] = WeakSet()
_orphans: list[Run] = []  # of the parent, after a fork: kept, since finalising a foreign event loop would speak of it


def add(run: Run) -> None:
    """Count it among them, for as long as somebody refers to it."""
    _all.add(run)


def running() -> list[Run]:
    """Those that are being served."""
    return [run for run in list(_all) if run.running]


def _after_fork() -> None:
    for run in list(_all):
        run.after_fork()
        _orphans.append(run)


os.register_at_fork(after_in_child=_after_fork)
