"""What the status routes say to load balancers and to who looks at them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litefs_watch import Position, Role, Settings, Status, Watcher, WatcherClosed
from litefs_watch.asgi import status_routes
from litefs_watch.operate.health import answer
from litefs_watch.sources.misplaced import misplaced
from litefs_watch.status import SourceStatus, Statistics
from tests.asgi.fakes import call
from tests.messages.provoking import Case, case

AWAY = SourceStatus(False, datetime(2026, 1, 1, tzinfo=UTC), "no connection to http://localhost:20202/events: refused")
PRIMARY = Status("node-a", Role.PRIMARY, None, {"app.db": Position(5)}, 0.0, True, {})
STATISTICS = Statistics(*[0] * 6)
BARE: Any = SimpleNamespace(is_bare=True)
REPLICA = replace(PRIMARY, role=Role.REPLICA, primary="node-b", lag=30.0)
UNKNOWN = replace(PRIMARY, role=Role.UNKNOWN, lag=None)


def asked(path: str, status: Status = PRIMARY, *, query: str = "", database: str = "app.db", method: str = "GET") -> Case:
    """What is answered by a node of that status."""

    def provoke() -> str:
        found = answer(method, f"/litefs/{path}", query, lambda: status, lambda: STATISTICS, database)
        return f"{found.status} {found.record.get('reason', found.record.get('error'))}"

    return case(provoke)


async def not_started() -> str:
    reply = await call(status_routes(Watcher(Settings("/nowhere", "app.db"))), "GET", "/readyz")
    return f"{reply.status} {json.loads(reply.body)['reason']}"


async def failed() -> str:
    async def run(supervisor: object) -> None:
        raise KeyError("a fault")

    watcher = Watcher(Settings("/nowhere", "app.db"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litefs_watch.sources.supervisor.Supervisor.run", run)
        with contextlib.suppress(WatcherClosed):
            await watcher.start()
    reply = await call(status_routes(watcher), "GET", "/readyz")
    return f"{reply.status} {json.loads(reply.body)['reason']}"


CASES: list[Case] = [
    case(failed),
    case(not_started),
    asked("readyz", replace(UNKNOWN, sources={"stream": AWAY})),
    asked("readyz", UNKNOWN),
    asked("readyz", replace(PRIMARY, faults={"mount": misplaced(Path("/data"), BARE, ["/litefs"]) or ""})),
    asked("readyz", replace(REPLICA, replicated=False)),
    asked("readyz", REPLICA),
    asked("replica", replace(REPLICA, lag=None), query="lag=10s"),
    asked("readyz", database="ap.db"),
    asked("primary", REPLICA),
    asked("primary", replace(REPLICA, primary=None)),
    asked("replica", PRIMARY),
    asked("replica", UNKNOWN),
    asked("replica", query="lag=soon"),
    asked("replica", query="lga=10s"),
    asked("replica", query="lag=" + "9" * 2000),
    asked("primry"),
    asked("readyz", method="POST"),
]
