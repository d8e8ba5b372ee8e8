"""Each defect of litefs-js and of LiteFS's own proxy, on a real watcher of a simulated cluster."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from litefs_watch import Role, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import App, Receive, Scope, Send
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.web.waiting import AsyncGate
from tests.asgi.fakes import Handler, call

SOON = 10.0


@pytest.fixture
def cluster() -> Any:
    with SimulatedCluster(size=3, lag=0.05) as cluster:
        cluster.execute("CREATE TABLE t (x)")
        cluster.wait_until_replicated()
        yield cluster


@asynccontextmanager
async def site(node: SimulatedNode, app: Any = None, **options: Any) -> AsyncIterator[LiteFSMiddleware]:
    async with Watcher(node.settings()) as watcher:
        yield LiteFSMiddleware(app or Handler(), watcher, **{"cookie": "txnum"} | options)


def writer(cluster: SimulatedCluster) -> App:
    """An application whose every request commits, off the event loop."""

    async def write(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.to_thread.run_sync(cluster.execute, "INSERT INTO t VALUES (1)")
        await Handler()(scope, receive, send)

    return write


def watcher_of(app: LiteFSMiddleware) -> Watcher:
    assert isinstance(app._gate, AsyncGate)
    assert isinstance(app._gate._known, Watcher)
    return app._gate._known


def cookie(txid: int) -> list[tuple[str, str]]:
    return [("cookie", f"txnum={txid}")]


async def test_behind_it_waits_and_caught_up_it_does_not(cluster: SimulatedCluster) -> None:
    """litefs-js's loop is inverted: behind by 50 ms it gives up after 30, and caught up it spins to the timeout."""
    async with site(cluster.replicas[0], timeout=SOON) as app:
        txid = cluster.execute("INSERT INTO t VALUES (1)").txid
        began = time.monotonic()
        assert (await call(app, "GET", "/", cookie(txid))).status == 200
        assert time.monotonic() - began < SOON / 2
        assert cluster.replicas[0].position().txid >= txid
        began = time.monotonic()
        assert (await call(app, "GET", "/", cookie(txid))).status == 200
        assert time.monotonic() - began < SOON / 2


async def test_each_middleware_waits_for_its_own_database() -> None:
    """litefs-js's wait ignores the directory and the database that it is given."""
    with SimulatedCluster(size=2, lag=0.01, databases=("app.db", "other.db")) as cluster:
        async with site(cluster.replicas[0], database="other.db", timeout=0.05) as app:
            for _ in range(5):
                txid = cluster.execute("CREATE TABLE IF NOT EXISTS t (x)").txid + 10
            assert (await call(app, "GET", "/", cookie(txid))).status == 409  # app.db's transactions are nothing to it


async def test_in_a_fail_over_nobody_writes_locally(cluster: SimulatedCluster) -> None:
    """For litefs-js, no ``.primary`` means 'I am the primary'. Here the write is held, and replayed to the new one."""
    handler, (here, there) = Handler(), cluster.replicas
    async with site(here, handler, hold_writes=SOON) as app:
        cluster.kill_primary()
        with anyio.fail_after(SOON):
            await watcher_of(app).wait_for_role(Role.UNKNOWN)
        async with anyio.create_task_group() as tasks:
            replies: list[Any] = []

            async def write() -> None:
                replies.append(await call(app, "POST"))

            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            assert replies == []
            await anyio.to_thread.run_sync(cluster.elect, there.hostname)
        assert replies[0].header("fly-replay") == f"instance={there.hostname}"
        assert handler.runs == 0


async def test_in_a_fail_over_that_ends_here_the_write_runs_here(cluster: SimulatedCluster) -> None:
    """It goes on, with its body, without a detour."""
    handler, node = Handler(), cluster.replicas[0]
    async with site(node, handler, hold_writes=SOON) as app:
        cluster.kill_primary()
        with anyio.fail_after(SOON):
            await watcher_of(app).wait_for_role(Role.UNKNOWN)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, app, "POST")
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(cluster.elect, node.hostname)
        assert handler.runs == 1


async def test_the_cookie_outlives_the_first_replica_that_has_caught_up(cluster: SimulatedCluster) -> None:
    """litefs-js deletes it there, and the next replica serves an old page."""
    txid = cluster.execute("INSERT INTO t VALUES (1)").txid
    for replica in cluster.replicas:
        async with site(replica, timeout=SOON) as app:
            assert (await call(app, "GET", "/", cookie(txid))).cookie is None


async def test_nor_does_the_primary_delete_it(cluster: SimulatedCluster) -> None:
    """litefs-js always does."""
    async with site(cluster.primary) as app:
        assert (await call(app, "GET", "/", cookie(cluster.primary.position().txid))).cookie is None


async def test_two_nodes_that_mistake_each_other_for_the_primary_do_not_loop(cluster: SimulatedCluster) -> None:
    """litefs-js has no guard. Here what was replayed is not sent back, but refused."""
    other = cluster.primary.hostname
    async with site(cluster.replicas[0]) as app:
        reply = await call(app, "POST", "/", [("fly-replay-src", f"instance={other};region=ams;t=1")])
    assert (reply.status, reply.header("fly-replay")) == (503, None)


async def test_a_handler_that_ends_the_response_itself_gets_its_cookie(cluster: SimulatedCluster) -> None:
    """litefs-js's middleware is not run then. Here the cookie goes with the first byte, streaming or not."""

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.to_thread.run_sync(cluster.execute, "INSERT INTO t VALUES (1)")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body"})

    async with site(cluster.primary, streaming) as app:
        reply = await call(app, "POST")
    assert (reply.cookie or "").startswith(f"txnum={cluster.primary.position().txid};")


async def test_txids_beyond_two_to_the_53rd_are_exact() -> None:
    """litefs-js rounds them: two neighbours are the same to it."""
    with SimulatedNode(primary="node-b") as node:
        node.commit(txid=2**53)
        async with site(node, timeout=0.05) as app:
            assert (await call(app, "GET", "/", cookie(2**53))).status == 200
            assert (await call(app, "GET", "/", cookie(2**53 + 1))).status == 409
            node.commit(txid=2**53 + 1)
            with anyio.fail_after(SOON):
                await watcher_of(app).wait_for_tx(2**53 + 1)
            assert (await call(app, "GET", "/", cookie(2**53 + 1))).status == 200


async def test_a_thousand_waiting_requests_do_not_poll(cluster: SimulatedCluster) -> None:
    """Each of litefs-js's reads the file every 30 ms. Here they share what one watcher knows."""
    async with site(cluster.replicas[0], timeout=SOON) as app:
        cluster.lag = 0.2
        txid = cluster.execute("INSERT INTO t VALUES (1)").txid
        before = watcher_of(app).statistics().rereads
        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(call, app, "GET", "/", cookie(txid))
        assert watcher_of(app).statistics().rereads - before < 100


async def test_a_txid_of_the_future_costs_the_primary_nothing(cluster: SimulatedCluster) -> None:
    """LiteFS's proxy waits 5 s for it, on the primary too, and answers 504."""
    async with site(cluster.primary, timeout=SOON) as app:
        began = time.monotonic()
        reply = await call(app, "GET", "/", cookie(cluster.primary.position().txid + 7))
        assert time.monotonic() - began < SOON / 2
        assert reply.status == 200
        assert (reply.cookie or "").startswith(f"txnum={cluster.primary.position().txid};")


async def test_a_client_ahead_after_a_fail_over_is_set_right(cluster: SimulatedCluster) -> None:
    """Its transaction is lost with the old primary: the new one replaces the cookie, instead of a replay for ever."""
    cluster.lag = 60.0
    new, other = cluster.replicas
    txid = cluster.execute("INSERT INTO t VALUES (1)").txid
    cluster.kill_primary()
    await anyio.to_thread.run_sync(cluster.elect, new.hostname)
    async with site(other, timeout=0.05) as app:
        with anyio.fail_after(SOON):
            await watcher_of(app).wait_for_primary()
        reply = await call(app, "GET", "/", cookie(txid))
        assert reply.header("fly-replay") == f"instance={new.hostname}"
    async with site(new) as app:
        with anyio.fail_after(SOON):
            await watcher_of(app).wait_for_role(Role.PRIMARY)
        reply = await call(app, "GET", "/", [*cookie(txid), ("fly-replay-src", "instance=node-c")])
        assert (reply.status, reply.header("litefs-lost")) == (200, f"{txid:016x}")
        assert (reply.cookie or "").startswith(f"txnum={new.position().txid};")


async def test_an_options_request_is_no_write(cluster: SimulatedCluster) -> None:
    """LiteFS's proxy forwards it."""
    async with site(cluster.replicas[0]) as app:
        assert (await call(app, "OPTIONS")).status == 200


async def test_a_get_that_always_goes_to_the_primary_gets_its_cookie(cluster: SimulatedCluster) -> None:
    """LiteFS's proxy forgets it."""
    async with site(cluster.primary, writer(cluster), primary_paths=["/add"]) as app:
        assert (await call(app, "GET", "/add")).cookie is not None


async def test_the_position_is_read_not_remembered(cluster: SimulatedCluster) -> None:
    """The watcher hears of a commit a moment later; the cookie has it all the same, time after time."""
    async with site(cluster.primary, writer(cluster)) as app:
        for _ in range(50):
            reply = await call(app, "POST")
            assert (reply.cookie or "").startswith(f"txnum={cluster.primary.position().txid};")


async def test_a_frozen_litefs_delays_no_response_for_ever(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The read of the position is given up; the response goes out with a pin, and the log says so."""
    monkeypatch.setattr("litefs_watch.web.waiting.READ_TIMEOUT", 0.05)

    async with site(cluster.primary) as app:

        async def never(database: str) -> None:
            await anyio.sleep_forever()

        monkeypatch.setattr(watcher_of(app), "read_position", never)
        reply = await call(app, "POST")
    assert (reply.status, (reply.cookie or "").partition(";")[0]) == (200, f"txnum={2**64 - 1}")
    assert "within 0.05 s" in caplog.text


async def test_a_watcher_that_is_stopped_refuses_writes_and_serves_reads(
    cluster: SimulatedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Forgotten to start, or shutting down: never a local write on a guess, and the log says why."""
    handler = Handler()
    app = LiteFSMiddleware(handler, Watcher(cluster.primary.settings()), cookie="txnum")
    assert (await call(app, "GET")).status == 200
    assert (await call(app, "POST")).status == 503
    assert (await call(app, "GET", "/", cookie(99))).status == 503
    assert handler.runs == 1
    assert "start it in the application's lifespan" in caplog.text


async def test_standalone_needs_nothing() -> None:
    """Development without LiteFS: everything runs here, and no cookie is made up."""
    from litefs_watch import Settings

    handler = Handler()
    async with Watcher(Settings(standalone=True)) as watcher:
        app = LiteFSMiddleware(handler, watcher, cookie="txnum")
        for method in ("GET", "POST"):
            reply = await call(app, method, "/", cookie(99))
            assert (reply.status, reply.cookie) == (200, None)
