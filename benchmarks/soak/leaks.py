"""Leaks, to see that they are found: each is made by every request that reads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Collection
from typing import Any

from litefs_watch import Watcher

_kept: list[Any] = []

LEAKS: dict[str, Callable[[Watcher, asyncio.AbstractEventLoop], object]] = {
    "memory": lambda watcher, loop: _kept.append(os.urandom(16 * 1024)),
    "descriptors": lambda watcher, loop: _kept.append(os.dup(0)),
    "threads": lambda watcher, loop: threading.Thread(target=threading.Event().wait, daemon=True).start(),
    "waiters": lambda watcher, loop: asyncio.run_coroutine_threadsafe(watcher.wait_for_tx(2**63), loop),
}


def leak(names: Collection[str], watcher: Watcher, loop: asyncio.AbstractEventLoop) -> None:
    for name in names:
        LEAKS[name](watcher, loop)
