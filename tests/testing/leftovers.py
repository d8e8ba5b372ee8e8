"""What a simulated node or cluster may leave behind: threads and descriptors, told from what others leave."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections import Counter

from litefs_watch.sources import files, inotify
from litefs_watch.sources.thread import IDLE_NAME
from litefs_watch.watchers.runs import running

WATCHING = (inotify._THREAD, files._THREAD)
SOON = 10.0
"""Seconds, at most, until a thread has seen that it is to end."""


def end_what_others_left() -> None:
    """Watchers that earlier tests have dropped go on watching: what they open would be taken for a test's own."""
    gc.collect()
    for run in running():
        run.stop()
    until = time.monotonic() + SOON
    while any(thread.name.startswith(WATCHING) for thread in threading.enumerate()) and time.monotonic() < until:
        threading.Event().wait(0.001)


def open_descriptors(*, collect: bool = True) -> Counter[str]:
    """What is open, by what it is: ``now - before`` is what is new. Not by number: one that an earlier test left may be
    closed meanwhile, by the garbage collector or by a thread that ends, and its number be given again."""
    if collect:
        gc.collect()
    links: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links[os.readlink(f"/proc/self/fd/{number}")] += 1
    return links


def at_work() -> set[threading.Thread]:
    """All threads but those that wait for whoever comes next: an earlier test's may be lent and given back meanwhile; and
    but for those of watchers, which no node has."""
    return {each for each in threading.enumerate() if not each.name.startswith((IDLE_NAME, *WATCHING))}
