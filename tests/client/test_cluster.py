"""A client on a replica of a simulated cluster, and the application on both nodes behind real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import httpcore2  # noqa: F401 - httpx2 loads it with its first client, and that reads files: once, and not in a test
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from litefs_watch import Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.client import PrimaryClient
from litefs_watch.testing import SimulatedCluster
from tests.asgi.serving import serve


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with SimulatedCluster(2, lag=0.1) as cluster:
        cluster.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        yield cluster


def application(cluster: SimulatedCluster, hostname: str) -> Any:
    watcher = Watcher(cluster[hostname].settings())

    def order(request: Request) -> PlainTextResponse:
        watcher.ensure_primary()
        cluster.execute("INSERT INTO orders DEFAULT VALUES")
        return PlainTextResponse(hostname)

    app = Starlette(routes=[Route("/orders", order, methods=["POST"])], lifespan=watcher.lifespan)
    app.add_middleware(LiteFSMiddleware, watcher=watcher)
    return app


# trio parses a numeric address on its loop, by a getaddrinfo that does not block, and is taken for one that does.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_write_is_here_when_it_is_answered(cluster: SimulatedCluster) -> None:
    """Also after a fail-over, in the middle of one session."""
    with ExitStack() as servers:
        urls = {name: servers.enter_context(serve(application(cluster, name))) for name in ("node-a", "node-b")}

        def rows() -> int:
            return int(cluster.query("node-b", "SELECT count(*) FROM orders")[0][0])

        async with (
            Watcher(cluster["node-b"].settings()) as watcher,
            PrimaryClient(watcher, urls.__getitem__) as client,
        ):
            for number in range(1, 4):
                answer = await client.post("/orders")
                assert (answer.status_code, answer.text) == (200, "node-a")
                assert await anyio.to_thread.run_sync(rows) == number
            await anyio.to_thread.run_sync(cluster.hand_over, "node-b")
            answer = await client.post("/orders")
            assert (answer.status_code, answer.text) == (200, "node-b")
            assert await anyio.to_thread.run_sync(rows) == 4
