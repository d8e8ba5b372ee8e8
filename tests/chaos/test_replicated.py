"""A primary that dies the moment that it acknowledges a write: with ``replicated_to`` none is lost, without it some are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from litefs_watch import Role, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from litefs_watch.testing import SimulatedCluster
from tests.asgi.fakes import scope_of
from tests.chaos.replicated import Arm, measure
from tests.contract.real import reason_against_real

SOON = 10.0
ROUNDS = 3
"""Of each arm."""


@asynccontextmanager
async def watched(cluster: SimulatedCluster) -> AsyncIterator[dict[str, Watcher]]:
    urls = [cluster[name].api_url for name in ("node-a", "node-b")]
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(Watcher(cluster[name].settings(peers=urls)))
            for name in ("node-a", "node-b")
        }


async def write_and_kill(cluster: SimulatedCluster, watcher: Watcher, number: int, copies: int) -> None:
    """The primary's acknowledgement is the last thing that it does."""

    def insert() -> None:
        with closing(cluster.connect(watcher.hostname)) as connection, connection:
            connection.execute("INSERT INTO t VALUES (?)", (number,))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await run_sync(insert)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            await run_sync(cluster.kill, watcher.hostname)

    await LiteFSMiddleware(app, watcher, replicated_to=copies, on_unreplicated="error", replication_timeout=SOON)(
        scope_of("POST"), receive, send
    )


async def hears_the_other(watcher: Watcher) -> None:
    await watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
    with anyio.fail_after(SOON), watcher.cluster_changes() as changes:
        while not any(peer.counts and peer.role is Role.REPLICA for peer in watcher.cluster.peers):
            await changes.take()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_a_simulated_cluster(anyio_backend: str) -> None:
    """The same nodes, the same lag, in turn."""
    lost = {0: 0, 1: 0}
    with SimulatedCluster(2, lag=0.02) as cluster:
        cluster.execute("CREATE TABLE t (id)")
        async with watched(cluster) as watchers:
            for number in range(2 * ROUNDS):
                copies = number % 2
                primary = cluster.primary.hostname
                await hears_the_other(watchers[primary])
                await write_and_kill(cluster, watchers[primary], number, copies)
                other = "node-b" if primary == "node-a" else "node-a"
                await run_sync(cluster.elect, other)
                lost[copies] += not cluster.query(other, "SELECT * FROM t WHERE id = ?", (number,))
                await run_sync(cluster.restart, primary)
    assert lost[1] == 0
    assert lost[0] > 0


@pytest.mark.litefs
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_litefs(tmp_path: Path, anyio_backend: str) -> None:
    """Two real nodes, which are far apart."""
    if reason := reason_against_real():
        pytest.skip(reason)
    arms = [Arm(0), Arm(1)]
    await measure(tmp_path, 2, arms, kills=5, writes=2, delay=0.01)
    assert [arm.acknowledged > 0 for arm in arms] == [True, True]
    assert arms[1].lost == 0
    assert arms[0].lost > 0
