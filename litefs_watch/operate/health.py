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
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from litefs_watch.changes import Role
from litefs_watch.operate.words import status_record
from litefs_watch.printable import did_you_mean, safe
from litefs_watch.status import Status, missing_database, reasons

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


def unready(status: Status, max_lag: float, database: str | None = None) -> str | None:
    """Why the node is not ready, in one line; None where it is."""
    if "mount" in status.faults:
        return status.faults["mount"]
    if status.role is Role.UNKNOWN:
        why = "; ".join(reasons(status.sources))
        return f"no primary is known ({why})" if why else "no primary is known"
    return _behind(status, max_lag) or missing_database(status, database)


def _behind(status: Status, max_lag: float | None) -> str | None:
    if status.replicated is False:
        return "the first replication is not done"
    if max_lag is not None and status.lag is not None and status.lag > max_lag:
        return f"the lag is {status.lag:.3f} s, over {max_lag:g} s"
    return None


def _primary(status: Status, probe: Probe, database: str | None) -> str | None:
    if status.role is not Role.PRIMARY:
        return f"this node is {status.role}"
    return status.faults.get("mount")


def _replica(status: Status, probe: Probe, database: str | None) -> str | None:
    return f"this node is {status.role}" if status.role is not Role.REPLICA else _behind(status, probe.max_lag)


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


def answer(method: str, path: str, query: str, status: Callable[[], Status], database: str | None) -> Answer:
    """To a request. ``status`` is called where it is needed; ``database`` is the one that must be there."""
    if method not in METHODS:
        return Answer(405, {"error": f"{safe(method[:20])} is not answered here: {', '.join(METHODS)}"})
    name = path.rstrip("/").rpartition("/")[2]
    check = CHECKS.get(name)
    if check is None:
        return Answer(
            404, {"error": f"there is no {safe(name[:40])!r}{did_you_mean(name[:40], CHECKS)}", "paths": list(CHECKS)}
        )
    probe = _read(query)
    if isinstance(probe, str):
        return Answer(400, {"error": probe})
    now = status()
    problem = check(now, probe, database)
    record: dict[str, Any] = {"ok": problem is None, "reason": problem}
    if name not in ("livez", "readyz") or probe.verbose:
        record |= status_record(now)
    return Answer(200 if problem is None else 503, record)


def _read(query: str) -> Probe | str:
    """The query; what is wrong with it where something is."""
    if len(query) > _LONGEST_QUERY:
        return f"the query is longer than {_LONGEST_QUERY} characters"
    fields = parse_qs(query, keep_blank_values=True)
    lag = fields.get("lag", [None])[-1]
    if lag is None:
        return Probe(None, "verbose" in fields)
    found = _DURATION.fullmatch(lag)
    if found is None:
        return f"lag={safe(lag[:40])} is no duration: 500ms, 10s, or a number of seconds"
    return Probe(float(found[1]) * _SECONDS[found[2]], "verbose" in fields)
