"""Wake the moment LiteFS replicates.

A map of the package, in the order of the data::

    sources/        what says 'look again', or states a fact: the event stream, inotify, the re-read
    readings        what a source saw, and when that look began
    state           the one file that decides what is true
    conditions      who waits for what, and how they are woken
    supervisor      keeps the sources running
    watcher         Watcher: what applications call
    blocking        BlockingWatcher: the same for threads

    settings, position, wire, errors, status    the values in between
    cli, testing, pytest_plugin                 the command, the simulated node and cluster, fixtures

What is not exported here is in a module of its own, imported only by who uses it.
"""

from litefs_watch.changes import PrimaryChange, Role, TxChange
from litefs_watch.watchers.subscription import Subscription
from litefs_watch.errors import (
    ConfigError,
    LiteFSWatchError,
    NoPrimary,
    NotPrimary,
    WaitTimeout,
    WatcherClosed,
    WrongInstance,
)
from litefs_watch.position import Position
from litefs_watch.settings import Settings
from litefs_watch.status import Statistics, Status
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.watcher import Watcher

__all__ = [
    "BlockingWatcher",
    "ConfigError",
    "LiteFSWatchError",
    "NoPrimary",
    "NotPrimary",
    "Position",
    "PrimaryChange",
    "Role",
    "Settings",
    "Statistics",
    "Status",
    "Subscription",
    "TxChange",
    "WaitTimeout",
    "Watcher",
    "WatcherClosed",
    "WrongInstance",
]
__version__ = "0.1.0"
