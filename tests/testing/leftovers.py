"""What a simulated node or cluster may leave behind: threads and descriptors, told from what others leave."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections import Counter

from litefs_watch.sources.thread import IDLE_NAME


def open_descriptors() -> Counter[str]:
    """What is open, by what it is: ``now - before`` is what is new. Not by number: one that an earlier test left may be
    closed meanwhile, by the garbage collector or by a thread that ends, and its number be given again."""
    gc.collect()
    links: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links[os.readlink(f"/proc/self/fd/{number}")] += 1
    return links


def at_work() -> set[threading.Thread]:
    """All threads but those that wait for whoever comes next: an earlier test's may be lent and given back meanwhile."""
    return {thread for thread in threading.enumerate() if thread.name != IDLE_NAME}
