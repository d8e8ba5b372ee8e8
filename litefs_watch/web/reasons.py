"""Why a request was sent on, or refused, in one word: for metrics. Pure."""

from __future__ import annotations

from litefs_watch.changes import Role
from litefs_watch.consistency import PIN, Exchange, Node
from litefs_watch.consistency.exchange import Undone, Unreplicated

REPLAYED = ("write", "pin", "timeout", "not_waited", "raised")
"""A write on a replica; a client whose write has no known position; a read whose wait ended late; one that might not wait;
an application that said so while it ran (`NotPrimary`, a write that SQLite refused)."""

REFUSED = ("no_watcher", "no_primary", "mount", "timeout", "unreplicated", "undone", "unroutable")
"""The watcher does not run; no primary is known; the directory is not LiteFS's mount; what was waited for did not come; too
few nodes have what was written; a fail-over went on while a request wrote; the primary can't be sent to."""


def why_replayed(exchange: Exchange, error: BaseException | None) -> str:
    """One of `REPLAYED`."""
    if error is not None:
        return "raised"
    if exchange.writes:
        return "write"
    if exchange.token == PIN:
        return "pin"
    return "timeout" if exchange.waited else "not_waited"


def why_refused(exchange: Exchange, node: Node, error: BaseException | None, *, runs: bool) -> str:
    """One of `REFUSED`. ``runs``: the watcher does."""
    if isinstance(error, Undone):
        return "undone"
    if isinstance(error, Unreplicated):
        return "unreplicated"
    if not runs:
        return "no_watcher"
    if node.misplaced is not None:
        return "mount"
    if node.role is Role.UNKNOWN:
        return "no_primary"
    return "timeout" if exchange.waited and not exchange.writes else "unroutable"
