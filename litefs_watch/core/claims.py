"""What LiteFS says, in its files and on its stream, about who the primary is: the state's rules 3, 4 and 6. What follows,
`state` decides."""

from __future__ import annotations

from litefs_watch.changes import NOBODY, Role, Standing
from litefs_watch.core.readings import DirectoryRead, Named, RoleEvent

PRIMARY = Standing(Role.PRIMARY)


def of_named(named: Named | None, hostname: str) -> Standing:
    """What ``.primary`` says on the node ``hostname``, where it is there."""
    return Standing(Role.REPLICA, named.hostname) if named is not None and named.hostname != hostname else NOBODY


def of_event(event: RoleEvent, hostname: str) -> Standing:
    """What the stream says on the node ``hostname``."""
    if event.is_primary:
        return PRIMARY
    return NOBODY if event.hostname in (None, hostname) else Standing(Role.REPLICA, event.hostname)


def of_look(read: DirectoryRead, hostname: str, *, streaming: bool) -> Standing | None:
    """None where it proves nothing: what LiteFS last said on its stream, if that is open, still stands."""
    if read.primary is not None:
        return of_named(read.primary, hostname)
    if read.lag_ms is not None and ".primary" not in read.faults:
        return PRIMARY if read.lag_ms == 0 else NOBODY
    if streaming or not read.faults.keys().isdisjoint((".", ".primary", ".lag")):
        return None
    some_database = read.positions or any(name.endswith("-pos") for name in read.faults)
    return PRIMARY if some_database else NOBODY
