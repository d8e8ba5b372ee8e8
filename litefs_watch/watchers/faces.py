"""What a watcher's faces have in common: which roles are waited for, and what is required of this node and of callers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from litefs_watch.changes import Role, Standing
from litefs_watch.errors import NoPrimary, NotPrimary, WrongInstance
from litefs_watch.printable import by_name

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Callback, Run

KNOWN_PRIMARY = frozenset((Role.PRIMARY, Role.REPLICA))
NO_PRIMARY = "no primary was known"


def no_role(role: Role) -> str:
    """What did not happen, where a wait for ``role`` ends late."""
    return f"this node's role did not become {role}"


def check_callback(callback: Callback) -> None:
    """Raise `TypeError` for a coroutine function: nobody would await it."""
    if not callable(callback) or inspect.iscoroutinefunction(callback):
        seen = by_name(callback)
        raise TypeError(f"on_primary_change takes a plain function, not {seen}; async code iterates primary_changes()")


def require_primary(standing: Standing, run: Run) -> None:
    """Raise `NotPrimary` on a replica, and `NoPrimary` where no primary is known."""
    if standing.role is Role.UNKNOWN:
        raise NoPrimary(run.no_primary)
    if standing.role is Role.REPLICA:
        raise NotPrimary(standing.primary)


def require_instance(wanted: str, hostname: str) -> None:
    """Raise `WrongInstance` unless the two are the same."""
    if wanted != hostname:
        raise WrongInstance(wanted, f"this node is {hostname!r}: run this on {wanted!r}")
