"""What all this is for: whoever has written sees it, on whichever replica, however that lags."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from litefs_watch import Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.testing import SimulatedCluster
from tests.asgi.serving import serve
from tests.contract.real import RealPair, reason_against_real

CLIENTS = 4


def application(watcher: Watcher, connect: Callable[[], sqlite3.Connection]) -> Starlette:
    """``POST /`` writes a row and says which; ``GET /?id=N`` says whether it is here."""

    def write() -> int:
        with closing(connect()) as connection, connection:
            return int(connection.execute("INSERT INTO t VALUES (NULL)").lastrowid or 0)

    def read(number: int) -> bool:
        with closing(connect()) as connection:
            return connection.execute("SELECT 1 FROM t WHERE id = ?", (number,)).fetchone() is not None

    async def endpoint(request: Request) -> Response:
        if request.method == "POST":
            return JSONResponse(await anyio.to_thread.run_sync(write))
        return JSONResponse(await anyio.to_thread.run_sync(read, int(request.query_params["id"])))

    return Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])], lifespan=watcher.lifespan)


@dataclass
class Outcome:
    """Of reads that followed a write of the same client."""

    seen: int = 0
    missing: int = 0
    other: list[object] = field(default_factory=list)


def write_and_read(urls: list[str], primary: str, times: int, *, seed: int = 7) -> Outcome:
    """``CLIENTS`` clients at once write on the primary, and each reads its row back on a random replica."""
    outcome, lock = Outcome(), threading.Lock()

    def client(number: int) -> None:
        chance = random.Random(seed + number)
        with httpx2.Client(timeout=30) as http:
            for _ in range(times // CLIENTS):
                try:
                    written = http.post(primary).json()
                    answer = http.get(chance.choice(urls), params={"id": written})
                    found: object = answer.json() if answer.status_code == 200 else answer.status_code
                except Exception as error:  # noqa: BLE001 - it is an outcome, too
                    found = error
                with lock:
                    if found is True:
                        outcome.seen += 1
                    elif found is False:
                        outcome.missing += 1
                    else:
                        outcome.other.append(found)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def open_cluster(stack: ExitStack, *, middleware: bool, lag: float = 0.05) -> tuple[list[str], str]:
    """Three nodes, served; the replicas lag by ``lag`` seconds. Returns the replicas' addresses, and the primary's."""
    cluster = stack.enter_context(SimulatedCluster(size=3, lag=lag))
    cluster.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    cluster.wait_until_replicated()
    urls = {}
    for node in cluster.nodes:
        watcher = Watcher(node.settings())
        app: Any = application(watcher, partial(cluster.connect, node.hostname, timeout=30))
        if middleware:
            app = LiteFSMiddleware(app, watcher, secure=False, timeout=20, on_timeout="error")
        urls[node.hostname] = stack.enter_context(serve(app))
    return [urls[node.hostname] for node in cluster.replicas], urls[cluster.primary.hostname]


def test_writes_are_each_seen_on_a_random_replica() -> None:
    """Every time; no read is refused, replayed or served stale."""
    with ExitStack() as stack:
        replicas, primary = open_cluster(stack, middleware=True)
        assert write_and_read(replicas, primary, 300) == Outcome(seen=300)


def test_without_the_middleware_they_are_not() -> None:
    """The same clients, the bare application; a lag that is longer than a request on the slowest machine."""
    with ExitStack() as stack:
        replicas, primary = open_cluster(stack, middleware=False, lag=0.5)
        outcome = write_and_read(replicas, primary, 100)
        assert outcome.other == []
        assert outcome.missing > 50


@pytest.mark.litefs
def test_a_thousand_writes_are_each_seen_on_a_real_replica(tmp_path: Path) -> None:
    """On LiteFS itself: its mounts, its replication, its event stream."""
    if reason := reason_against_real():
        pytest.skip(reason)
    with ExitStack() as stack:
        pair = stack.enter_context(RealPair(tmp_path))
        urls = []
        for node in (pair.primary, pair.replica):
            path = node.litefs_dir / "app.db"
            if node is pair.primary:
                with closing(sqlite3.connect(path)) as connection, connection:
                    connection.execute("DROP TABLE t")
                    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
            watcher = Watcher(node.settings())
            app = LiteFSMiddleware(
                application(watcher, partial(sqlite3.connect, path, timeout=30)),
                watcher,
                secure=False,
                timeout=20,
                on_timeout="error",
            )
            urls.append(stack.enter_context(serve(app)))
        assert write_and_read(urls[1:], urls[0], 1000) == Outcome(seen=1000)
