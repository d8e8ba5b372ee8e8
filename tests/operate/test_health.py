"""What a load balancer is told: decided from the status, and the same through each framework."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from flask import Flask
from hypercorn.middleware.dispatcher import AsyncioDispatcherMiddleware
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, asgi
from quart import Quart
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from litefs_watch import BlockingWatcher, ConfigError, Position, Role, Settings, Statistics, Status, Watcher
from litefs_watch.asgi import LiteFSMiddleware, status_routes
from litefs_watch.consistency import OptionKeywords
from litefs_watch.operate.health import CHECKS, answer
from litefs_watch.status import SourceStatus
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware
from litefs_watch.wsgi import status_routes as wsgi_status_routes
from tests.asgi.fakes import call
from tests.asgi.serving import serve

AWAY = SourceStatus(False, datetime(2026, 1, 1, tzinfo=UTC), "connection refused")
PRIMARY = Status("here", Role.PRIMARY, None, {"app.db": Position(5)}, 0.0, True, {})
REPLICA = replace(PRIMARY, role=Role.REPLICA, primary="there", lag=3.0)
UNKNOWN = replace(PRIMARY, role=Role.UNKNOWN, lag=None, sources={"stream": AWAY})
MISPLACED = replace(PRIMARY, faults={"mount": "/litefs is no mount"})
UNSAID = "LiteFS does not say how large the lag is, so it is not known to be under 10 s"
COUNTS = Statistics(3, 0, 0, 0, 0, 0, oldest_wait=0.25)
NEW = replace(REPLICA, replicated=False, lag=None)


def ask(path: str, status: Status, query: str = "", database: str | None = "app.db") -> tuple[int, Any]:
    found = answer("GET", f"/litefs/{path}", query, lambda: status, lambda: COUNTS, database)
    return found.status, found.record.get("reason", found.record.get("error"))


@pytest.mark.parametrize(
    ("path", "primary", "replica", "unknown", "misplaced", "new"),
    [
        ("livez", 200, 200, 200, 200, 200),
        ("readyz", 200, 200, 503, 503, 503),
        ("health", 200, 200, 503, 200, 200),
        ("primary", 200, 503, 503, 503, 503),
        ("replica", 503, 200, 503, 503, 503),
        ("read-only", 200, 200, 503, 503, 503),
    ],
)
def test_each_path(path: str, primary: int, replica: int, unknown: int, misplaced: int, new: int) -> None:
    """On a primary, a replica, a node that knows nobody, one whose directory is no mount, and one that has just joined."""
    found = [ask(path, status)[0] for status in (PRIMARY, REPLICA, UNKNOWN, MISPLACED, NEW)]
    assert found == [primary, replica, unknown, misplaced, new]


@pytest.mark.parametrize(
    ("path", "query", "status", "code", "reason"),
    [
        ("replica", "lag=2s", REPLICA, 503, "the lag is 3.000 s, over 2 s"),
        ("replica", "lag=2999ms", REPLICA, 503, "the lag is 3.000 s, over 2.999 s"),
        ("replica", "lag=10", REPLICA, 200, None),
        ("read-only", "lag=0", PRIMARY, 200, None),  # it has no lag
        ("read-only", "lag=0", REPLICA, 503, "the lag is 3.000 s, over 0 s"),
        ("readyz", "", replace(REPLICA, lag=11.0), 503, "the lag is 11.000 s, over 10 s"),
        ("readyz", "lag=1m", replace(REPLICA, lag=11.0), 200, None),
        ("readyz", "", UNKNOWN, 503, "no primary is known (connection refused)"),
        ("replica", "lag=10s", replace(REPLICA, lag=None), 503, UNSAID),
        ("replica", "", replace(REPLICA, lag=None), 200, None),
        ("replica", "", replace(REPLICA, faults={"mount": "/litefs is no mount"}), 503, "/litefs is no mount"),
        ("replica", "lga=10s", REPLICA, 400, "lga is no parameter of this path; did you mean 'lag'?"),
        ("primary", "lag=10s", PRIMARY, 400, "lag is no parameter of this path"),
        ("replica", "lag=soon", REPLICA, 400, "lag=soon is no duration: 500ms, 10s, or a number of seconds"),
        ("replica", "lag=-1", REPLICA, 400, "lag=-1 is no duration: 500ms, 10s, or a number of seconds"),
        ("replica", "lag=nan", REPLICA, 400, "lag=nan is no duration: 500ms, 10s, or a number of seconds"),
        ("replica", "lag=" + "9" * 2000, REPLICA, 400, "the query is longer than 1000 characters"),
        ("primry", "", PRIMARY, 404, "there is no 'primry'; did you mean 'primary'?"),
    ],
)
def test_why_not(path: str, query: str, status: Status, code: int, reason: str | None) -> None:
    """Is said, with what was asked for."""
    assert ask(path, status, query) == (code, reason)


def test_a_database_that_is_not_there() -> None:
    """Is not ready, and named, with those that are."""
    code, reason = ask("readyz", PRIMARY, database="ap.db")
    assert code == 503
    assert "did you mean 'app.db'?" in reason


@given(method=st.text(max_size=30), path=st.text(max_size=60), query=st.text(max_size=60))
def test_whatever_is_asked_there_is_an_answer(method: str, path: str, query: str) -> None:
    """JSON, and one of six statuses."""
    for name in (path, *CHECKS):
        for how in (method, "GET"):
            found = answer(how, f"/{name}", query, lambda: REPLICA, lambda: COUNTS, None)
            assert found.status in (200, 400, 404, 405, 503)
            json.dumps(found.record).encode()


async def test_the_oldest_wait() -> None:
    """Of all that wait, for whatever: a transaction, a role."""
    with SimulatedNode() as node:
        async with Watcher(node.settings()) as watcher, anyio.create_task_group() as tasks:
            assert watcher.statistics().oldest_wait is None
            for wait in (partial(watcher.wait_for_tx, 99), partial(watcher.wait_for_role, Role.REPLICA)):
                began, before = time.monotonic(), watcher.statistics().oldest_wait or 0.0
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                oldest = watcher.statistics().oldest_wait
                assert oldest is not None
                assert before <= oldest <= before + time.monotonic() - began
            tasks.cancel_scope.cancel()


def test_who_waits() -> None:
    """Is told with ``?verbose``, and of which process."""
    for path in ("livez", "readyz"):
        told, short = (answer("GET", path, query, lambda: PRIMARY, lambda: COUNTS, None) for query in ("verbose", ""))
        record = told.record
        assert (record["waiters"], record["oldestWait"], record["process"]) == (3, 0.25, os.getpid())
        assert set(short.record) == {"ok", "reason"}


# Through the frameworks.


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


def mounted(watcher: Watcher) -> dict[str, Any]:
    routes = status_routes(watcher)

    @asgi("/litefs", is_mount=True, copy_scope=True)
    async def litestar_routes(scope: Any, receive: Any, send: Any) -> None:
        await routes(scope, receive, send)

    fastapi = FastAPI()
    fastapi.mount("/litefs", routes)
    return {
        "alone": routes,
        "Starlette": Starlette(routes=[Mount("/litefs", routes)]),
        "FastAPI": fastapi,
        "Litestar": Litestar([litestar_routes], logging_config=None),
        "within the middleware": LiteFSMiddleware(Starlette(routes=[Mount("/litefs", routes)]), watcher),
        "without a path of its own": Starlette(routes=[Mount("/litefs", Starlette(routes=[*routes]))]),
    }


async def test_asgi(node: SimulatedNode) -> None:
    """In each framework: GET, HEAD and OPTIONS; JSON that no cache keeps; 405 for what writes."""
    async with Watcher(node.settings()) as watcher:
        for name, app in mounted(watcher).items():
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://node") as client:
                got = await client.get("/litefs/primary")
                assert (got.status_code, got.json()["role"], got.json()["ok"]) == (200, "primary", True), name
                assert (got.headers["cache-control"], got.headers["content-type"]) == ("no-store", "application/json")
                for method in ("HEAD", "OPTIONS"):
                    if (name, method) != ("without a path of its own", "OPTIONS"):
                        probed = await client.request(method, "/litefs/replica")
                        said = int(probed.headers["content-length"])  # a server believes it
                        sent = 0 if method == "HEAD" else said
                        assert (probed.status_code, said > 0, len(probed.content)) == (503, True, sent), (name, method)
                assert (await client.get("/litefs/replica?lag=x")).status_code == 400
                if name != "within the middleware":
                    refused = await client.post("/litefs/primary")
                    allowed = sorted(refused.headers["allow"].split(", "))
                    assert (refused.status_code, allowed) == (405, ["GET", "HEAD", "OPTIONS"])


async def test_a_watcher_that_does_not_run() -> None:
    """Knows nothing, and says why: before its start, and after its end. Standalone, too, where it needs no LiteFS. That this
    process lives is true all the same: who restarted it for that would end what it still answers."""
    watcher = Watcher(Settings(standalone=True))
    for path in ("/livez", "/livez?verbose"):
        alive = await call(status_routes(watcher), "GET", path)
        assert (alive.status, json.loads(alive.body)["ok"]) == (200, True)
    before = await call(status_routes(watcher), "GET", "/primary")
    async with watcher:
        assert (await call(status_routes(watcher), "GET", "/primary")).status == 200
        alive = await call(status_routes(watcher), "GET", "/livez?verbose")
        assert json.loads(alive.body)["waiters"] == 0
    after = await call(status_routes(watcher), "GET", "/primary")
    alive = await call(status_routes(watcher), "GET", "/livez")
    assert (alive.status, json.loads(alive.body)) == (200, {"ok": True, "reason": None})
    assert (before.status, after.status) == (503, 503)
    assert b"the watcher is not running: start it" in before.body
    assert b"the watcher was stopped" in after.body


PASSED: OptionKeywords = {"passthrough_paths": ["/litefs/*"], "primary_paths": ["*"], "monotonic": True, "timeout": 60.0}
AHEAD = [("cookie", f"litefs_pos={Position(99, 1)}")]


async def test_what_is_passed_through_neither_waits_nor_is_sent_on() -> None:
    """A replica answers for itself, whatever a probe carries; in Quart, by Hypercorn's dispatcher, which has lifespans."""
    with SimulatedNode(hostname="node-b", primary="node-a") as node:
        async with Watcher(node.settings()) as watcher:
            await watcher.wait_for_role(Role.REPLICA, timeout=20)
            both = AsyncioDispatcherMiddleware(
                {"/litefs": cast("Any", status_routes(watcher)), "": cast("Any", Quart("shop"))}
            )
            answer = await call(LiteFSMiddleware(both, watcher, **PASSED), "GET", "/litefs/primary", AHEAD)
            assert (answer.status, json.loads(answer.body)["reason"]) == (503, "this node is a replica of node-a")
            assert (await call(LiteFSMiddleware(both, watcher, **PASSED), "POST", "/litefs/primary", AHEAD)).status == 405


async def test_a_lifespan_is_answered() -> None:
    """At both its ends: a dispatcher that hands it on waits for that."""
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await status_routes(Watcher(Settings(standalone=True)))({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_other_kind_of_watcher_is_refused() -> None:
    """It would block the event loop, or know nothing."""
    settings = Settings(standalone=True)
    for wrong in (BlockingWatcher(settings), AwaitableWatcher(BlockingWatcher(settings))):
        with pytest.raises(ConfigError, match="status_routes needs a Watcher"):
            status_routes(cast("Any", wrong))
    with pytest.raises(ConfigError, match="status_routes needs a BlockingWatcher"):
        wsgi_status_routes(cast("Any", Watcher(settings)))


def test_wsgi(node: SimulatedNode) -> None:
    """Beside Flask, in Werkzeug's dispatcher."""
    flask = Flask(__name__)
    with BlockingWatcher(node.settings()) as watcher:
        client = Client(DispatcherMiddleware(flask, {"/litefs": wsgi_status_routes(watcher)}))
        got = client.get("/litefs/primary")
        assert (got.status_code, got.json["hostname"], got.headers["cache-control"]) == (200, "node-a", "no-store")  # type: ignore[index]
        for method in ("HEAD", "OPTIONS"):
            probed = client.open("/litefs/replica", method=method)
            said = int(probed.headers["content-length"])
            assert (probed.status_code, said > 0, len(probed.data)) == (503, True, 0 if method == "HEAD" else said)
        assert client.post("/litefs/primary").headers["allow"] == "GET, HEAD, OPTIONS"
        assert client.get("/litefs/").status_code == 404
        passed = Client(
            WSGIMiddleware(DispatcherMiddleware(flask, {"/litefs": wsgi_status_routes(watcher)}), watcher, **PASSED)
        )
        passed.set_cookie("litefs_pos", str(Position(99, 1)))
        assert passed.get("/litefs/primary").status_code == 200
        assert passed.post("/litefs/primary").status_code == 405
    assert client.get("/litefs/primary").json == {"ok": False, "reason": "the watcher was stopped"}


# Through HAProxy.

EXAMPLE = Path(__file__).parents[2] / "examples" / "haproxy" / "haproxy.cfg"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def application(cluster: SimulatedCluster, hostname: str) -> Any:
    watcher = Watcher(cluster[hostname].settings())

    async def who(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": hostname.encode()})

    return Starlette(routes=[Mount("/litefs", status_routes(watcher)), Mount("/", who)], lifespan=watcher.lifespan)


def via(port: int, method: str) -> str:
    """Which node answers; where none does, why."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return str(response.read().decode())
    except urllib.error.URLError as error:  # it does not listen yet, or it knows nobody
        return str(error)


def until(expected: str, port: int, method: str) -> None:
    deadline = time.monotonic() + 20
    while (found := via(port, method)) != expected:
        assert time.monotonic() < deadline, found


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not here")
def test_haproxy_sends_writes_to_the_primary(tmp_path: Path) -> None:
    """By the example: POSTs to whoever answers ``/primary``, with no replay, before and after a hand-over."""
    with SimulatedCluster(size=2, fuse=False) as cluster, ExitStack() as stack:
        urls = {name: stack.enter_context(serve(application(cluster, name))) for name in ("node-a", "node-b")}
        (front,) = free_ports(1)
        config = EXAMPLE.read_text().replace(":8000", f"127.0.0.1:{front}").replace("inter 1s", "inter 50ms")
        for name, url in urls.items():
            config = config.replace(f"{name}.internal:8080", url.removeprefix("http://"))
        (tmp_path / "haproxy.cfg").write_text(config)
        process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(tmp_path / "haproxy.cfg")])
        try:
            until("node-a", front, "POST")
            until("node-b", front, "GET")
            cluster.hand_over("node-b")
            until("node-b", front, "POST")
            until("node-a", front, "GET")
        finally:
            process.terminate()
            process.wait(10)
