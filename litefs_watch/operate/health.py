"""What a load balancer is told: yes or no, and why. Pure: the shells (ASGI, WSGI, Django) ask, from memory.

The paths are Kubernetes' and Patroni's, which HAProxy's, Fly.io's and others' checks know how to ask for:

==============  ====================================================================================================
``livez``       this process answers: nothing else is looked at, since LiteFS's faults heal without a restart of it
``readyz``      it can serve: the role is known, the first replication is done, the lag is under a limit, and LiteFS has
                the database that is named
``health``      a primary is known: this node, or another
``primary``     this node is the primary, and its directory is LiteFS's mount: it takes writes
``replica``     it follows a primary, the first replication is done, and the lag is under ``?lag=``, where that is given
``read-only``   either of these two
==============  ====================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from litefs_watch.changes import Role, Standing, clause
from litefs_watch.errors import WatcherClosed
from litefs_watch.operate.words import status_record, waits_record
from litefs_watch.printable import did_you_mean, safe
from litefs_watch.status import Statistics, Status, missing_database, reasons
from litefs_watch.watchers import why

if TYPE_CHECKING:
    from litefs_watch.watchers.blocking import BlockingWatcher
    from litefs_watch.watchers.watcher import Watcher

MAX_LAG = 10.0
"""Seconds: of LiteFS's own proxy's health check (http/proxy_server.go: DefaultMaxLag)."""
METHODS = ("GET", "HEAD", "OPTIONS")
"""HAProxy's checks are OPTIONS requests unless told otherwise."""
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_LONGEST_QUERY = 1000


class Answer(NamedTuple):
    """What is answered: a status, and the JSON of the body."""

    status: int
    record: dict[str, Any]


class Probe(NamedTuple):
    """What a request asks for."""

    max_lag: float | None
    verbose: bool


def status_of(watcher: Watcher | BlockingWatcher) -> Status:
    """The status of a watcher that runs. Raises `WatcherClosed`, which says why it does not."""
    run = watcher.run
    if (idle := why.idle(run)) is not None:
        raise WatcherClosed(idle)
    return run.status


def unready(status: Status, max_lag: float, database: str | None = None) -> str | None:
    """Why the node is not ready, in one line; None where it is."""
    if "mount" in status.faults:
        return status.faults["mount"]
    if status.role is Role.UNKNOWN:
        why = "; ".join(reasons(status.sources))
        return f"no primary is known ({why})" if why else "no primary is known"
    return _behind(status, max_lag) or missing_database(status, database)


def _behind(status: Status, max_lag: float | None, *, told: bool = False) -> str | None:
    """``told``: what LiteFS does not say is under no limit."""
    if status.replicated is False:
        return "the first replication is not done"
    if told and max_lag is not None and status.lag is None:
        return f"LiteFS does not say how large the lag is, so it is not known to be under {max_lag:g} s"
    if max_lag is not None and status.lag is not None and status.lag > max_lag:
        return f"the lag is {status.lag:.3f} s, over {max_lag:g} s"
    return None


def _primary(status: Status, probe: Probe, database: str | None) -> str | None:
    if status.role is not Role.PRIMARY:
        return clause(Standing(status.role, status.primary))
    return status.faults.get("mount")


def _replica(status: Status, probe: Probe, database: str | None) -> str | None:
    if status.role is not Role.REPLICA:
        return clause(Standing(status.role))
    return status.faults.get("mount") or _behind(status, probe.max_lag, told=True)


def _read_only(status: Status, probe: Probe, database: str | None) -> str | None:
    return (_primary if status.role is Role.PRIMARY else _replica)(status, probe, database)


def _ready(status: Status, probe: Probe, database: str | None) -> str | None:
    return unready(status, MAX_LAG if probe.max_lag is None else probe.max_lag, database)


def _known(status: Status, probe: Probe, database: str | None) -> str | None:
    return unready(status, float("inf")) if status.role is Role.UNKNOWN else None


CHECKS: dict[str, Callable[[Status, Probe, str | None], str | None]] = {
    "livez": lambda status, probe, database: None,
    "readyz": _ready,
    "health": _known,
    "primary": _primary,
    "replica": _replica,
    "read-only": _read_only,
}
"""By the last part of the path: why not; None: yes."""
PARAMETERS = {"readyz": ("lag", "verbose"), "livez": ("verbose",), "replica": ("lag",), "read-only": ("lag",)}
"""What each may be asked with; the others with nothing."""


def answer(
    method: str,
    path: str,
    query: str,
    status: Callable[[], Status],
    statistics: Callable[[], Statistics],
    database: str | None,
) -> Answer:
    """To a request. ``status`` and ``statistics`` are called where they are needed, and may raise `WatcherClosed`;
    ``database`` is the one that must be there."""
    if method not in METHODS:
        return Answer(405, {"error": f"{safe(method[:20])} is not answered here: {', '.join(METHODS)}"})
    name = path.rstrip("/").rpartition("/")[2]
    check = CHECKS.get(name)
    if check is None:
        return Answer(
            404, {"error": f"there is no {safe(name[:40])!r}{did_you_mean(name[:40], CHECKS)}", "paths": list(CHECKS)}
        )
    probe = _read(query, PARAMETERS.get(name, ()))
    if isinstance(probe, str):
        return Answer(400, {"error": probe})
    lives = name == "livez"  # whatever becomes of the watcher: a probe is no reason to start it, nor its end one to restart
    if lives and not probe.verbose:
        return Answer(200, {"ok": True, "reason": None})
    try:
        now = status()
        waits = waits_record(statistics()) if probe.verbose else {}
    except WatcherClosed as error:
        return Answer(200 if lives else 503, {"ok": lives, "reason": str(error)})
    problem = check(now, probe, database)
    record: dict[str, Any] = {"ok": problem is None, "reason": problem, **waits}
    if name != "readyz" or probe.verbose:
        record |= status_record(now)
    return Answer(200 if problem is None else 503, record)


def _read(query: str, known: Sequence[str]) -> Probe | str:
    """The query; what is wrong with it where something is."""
    if len(query) > _LONGEST_QUERY:
        return f"the query is longer than {_LONGEST_QUERY} characters"
    fields = parse_qs(query, keep_blank_values=True)
    for name in fields:
        if name not in known:  # a misspelt limit that is passed over would be no limit
            return f"{safe(name[:40])} is no parameter of this path{did_you_mean(name[:40], known)}"
    lag = fields.get("lag", [None])[-1]
    if lag is None:
        return Probe(None, "verbose" in fields)
    try:
        return Probe(duration(lag), "verbose" in fields)
    except ValueError as error:
        return f"lag={error}"


def duration(text: str) -> float:
    """Seconds, of ``500ms``, ``10s``, ``2m``, ``1h``, or of a number of them. Raises `ValueError` for all else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{safe(text[:40])} is no duration: 500ms, 10s, or a number of seconds")
    return float(found[1]) * _SECONDS[found[2]]
