"""Wake the moment LiteFS replicates.

A map of the package, in the order of the data::

    changes, position, errors, settings, status, cluster    the words that everybody uses; they do no work

    core/           what decides: readings (what a source saw, and when that look began), state (the one file that
                    concludes), claims (what LiteFS says about the primary), presence (whether it is there), history
                    (which positions belong together), agreement (how far the stream and the files agree), following
                    (whether a replica does), tenure (whether a primary can have lost its lease), waiters and subscriptions
                    (who is to be woken), board (state and queues in one step), peers (what other nodes say, and who waits
                    for that)
    sources/        what says 'look again', or states a fact: the event stream, inotify, the re-read; their supervisor
    watchers/       run (from a start to its end), runs (those of the process), watcher (Watcher: asyncio and trio), blocking
                    (BlockingWatcher: threads), bridge (any event loop over the thread's), faces (what these share)

    consistency/    read-your-own-writes, decided: tokens, options, policy; knows no server
    web/            what drives that for requests; its shells are asgi, wsgi, django, fastapi
    refusals        what a driver raises is noted, whatever the application makes of it
    halt/           writing from a replica, under LiteFS's HALT lock
    jobs/           tokens on the messages of queues; the tasks of Celery, Django, Dramatiq, Huey, Taskiq wait for theirs
    operate/        the status in words, for whoever operates a node
    serve/          the watcher as a sidecar, over HTTP, for applications in any language
    cli, testing    the command; the simulated node and cluster, with pytest's fixtures in pytest_plugin

The names below are loaded when they are first used. What is not among them is in a module of its own, for who uses it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litefs_watch.changes import PrimaryChange, Role, TxChange
    from litefs_watch.cluster import Cluster, Peer
    from litefs_watch.errors import (
        ConfigError,
        LiteFSWatchError,
        NoPrimary,
        NotPrimary,
        TransactionLost,
        WaitTimeout,
        WatcherClosed,
        WrongInstance,
    )
    from litefs_watch.position import Position
    from litefs_watch.settings import Settings
    from litefs_watch.status import Statistics, Status
    from litefs_watch.watchers.blocking import BlockingWatcher
    from litefs_watch.watchers.subscription import Subscription
    from litefs_watch.watchers.watcher import Watcher

__all__ = [
    "BlockingWatcher",
    "Cluster",
    "ConfigError",
    "LiteFSWatchError",
    "NoPrimary",
    "NotPrimary",
    "Peer",
    "Position",
    "PrimaryChange",
    "Role",
    "Settings",
    "Statistics",
    "Status",
    "Subscription",
    "TransactionLost",
    "TxChange",
    "WaitTimeout",
    "Watcher",
    "WatcherClosed",
    "WrongInstance",
]
__version__ = "0.1.0"

_MODULES = {
    "changes": ("PrimaryChange", "Role", "TxChange"),
    "cluster": ("Cluster", "Peer"),
    "errors": (
        "ConfigError",
        "LiteFSWatchError",
        "NoPrimary",
        "NotPrimary",
        "TransactionLost",
        "WaitTimeout",
        "WatcherClosed",
        "WrongInstance",
    ),
    "position": ("Position",),
    "settings": ("Settings",),
    "status": ("Statistics", "Status"),
    "watchers.blocking": ("BlockingWatcher",),
    "watchers.subscription": ("Subscription",),
    "watchers.watcher": ("Watcher",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker that saw this would take any name for one of ours

    def __getattr__(name: str) -> object:
        """Load a public name: pytest imports this package in every project that has it, and few need pydantic for that."""
        if name in _MODULES:  # `litefs_watch.errors`, after `import litefs_watch` alone
            return import_module(f"{__name__}.{name}")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
