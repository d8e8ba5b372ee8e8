"""A write's response that waits until other nodes have it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from litefs_watch import ConfigError, Position, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware, mark_written
from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from litefs_watch.testing import SimulatedCluster
from litefs_watch.watchers import cluster as cluster_module
from litefs_watch.web import replication as replication_module
from tests.asgi.fakes import Handler, Reply, call
from tests.replicated import PATIENCE, insert, settings, stopped, three

LONG: dict[str, Any] = {"replication_timeout": PATIENCE}
SHORT: dict[str, Any] = {"replication_timeout": 0.01}


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with three() as made:
        yield made


@asynccontextmanager
async def serving(cluster: SimulatedCluster) -> AsyncIterator[Watcher]:
    async with Watcher(settings(cluster)) as watcher:
        with anyio.fail_after(PATIENCE), watcher.cluster_changes() as changes:
            while sum(peer.counts for peer in watcher.cluster.peers) < 2:
                await changes.take()
        yield watcher


def inserting(cluster: SimulatedCluster, *, status: int = 200) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await commit(cluster)
        await Handler(status=status)(scope, receive, send)

    return app


async def commit(cluster: SimulatedCluster) -> None:
    await anyio.to_thread.run_sync(insert, cluster)


async def ask(watcher: Watcher, handler: Any, method: str = "POST", **options: Any) -> Reply:
    return await call(LiteFSMiddleware(handler, watcher, **options), method)


def position_in(reply: Reply) -> Position:
    return Position.parse(reply.header("litefs-txid") or "")


async def test_a_write_is_answered_when_others_have_it(cluster: SimulatedCluster) -> None:
    """And says how many; its token is what they have."""
    async with serving(cluster) as watcher:
        reply = await ask(watcher, inserting(cluster), replicated_to=2, **LONG)
        assert (reply.status, reply.header("litefs-replicated")) == (200, "2")
        assert await watcher.wait_for_replicas(position_in(reply), 2, timeout=0) == 2
        with stopped(cluster, "node-c"):
            reply = await ask(watcher, inserting(cluster), replicated_to=1, **LONG)
            assert reply.header("litefs-replicated") == "1"


async def test_one_that_others_have_not_got_is_answered_late_or_refused(
    cluster: SimulatedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """503 says that it stands here, carries its token and asks nobody to try again; the log says who is behind, once."""
    caplog.set_level(logging.WARNING)
    async with serving(cluster) as watcher:
        app = LiteFSMiddleware(inserting(cluster), watcher, replicated_to=2, **SHORT)
        refusing = LiteFSMiddleware(inserting(cluster), watcher, replicated_to=1, on_unreplicated="error", **SHORT)
        with stopped(cluster, "node-b", "node-c"):
            replies = [await call(app, "POST") for _ in range(2)]
            assert [(reply.status, reply.header("litefs-replicated")) for reply in replies] == [(200, "0")] * 2
            assert len([line for line in caplog.messages if "0 of 2 other nodes had a write" in line]) == 1
            assert "has not said where it is" in caplog.text
            refused = await call(refusing, "POST")
            assert (refused.status, refused.header("litefs-replicated")) == (503, "0")
            assert b"stands on this node, and nowhere else yet" in refused.body
            assert refused.header("retry-after") is None
            assert position_in(refused) == cluster.primary.position()
            assert "litefs_pos=" in (refused.cookie or "")
            assert len(refused.messages) == 2
        assert await watcher.wait_for_replicas(position_in(refused), 2, timeout=PATIENCE) == 2


async def test_what_acknowledges_no_write_waits_for_nobody(cluster: SimulatedCluster) -> None:
    """A read, a write that has written nothing, and one that failed; a GET that says it has written waits."""
    async with serving(cluster) as watcher:
        options: dict[str, Any] = {"replicated_to": 1, "on_unreplicated": "error", "replication_timeout": PATIENCE}

        async def marked(scope: Scope, receive: Receive, send: Send) -> None:
            await commit(cluster)
            mark_written(scope)
            await Handler()(scope, receive, send)

        with stopped(cluster, "node-b", "node-c"):
            for handler, method in ((Handler(), "GET"), (Handler(), "POST"), (inserting(cluster, status=422), "POST")):
                reply = await ask(watcher, handler, method, **options)
                assert reply.header("litefs-replicated") is None
                assert reply.status in (200, 422)
            assert (await ask(watcher, marked, "GET", **(options | SHORT))).status == 503
        assert (await ask(watcher, marked, "GET", **options)).header("litefs-replicated") in ("1", "2")


async def test_nobody_is_waited_for_who_is_not_there(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer are connected than are asked for: it is said at once."""
    monkeypatch.setattr(cluster_module, "MOMENT", 0.0)
    async with serving(cluster) as watcher:
        for name in ("node-b", "node-c"):
            cluster[name].stream_available = False
        with anyio.fail_after(PATIENCE), watcher.cluster_changes() as changes:
            while any(peer.counts for peer in watcher.cluster.peers):
                await changes.take()
            reply = await ask(watcher, inserting(cluster), replicated_to=1, replication_timeout=3600.0)
        assert (reply.status, reply.header("litefs-replicated")) == (200, "0")


async def test_a_commit_that_follows_its_response_is_known_of_nobody(cluster: SimulatedCluster) -> None:
    """Held for it, it is waited for; where the route is known to commit later, it says 0, or is refused."""
    async with serving(cluster) as watcher:

        async def late(scope: Scope, receive: Receive, send: Send) -> None:
            await Handler()(scope, receive, send)
            await commit(cluster)

        held = LiteFSMiddleware(late, watcher, replicated_to=1, late_commits=PATIENCE, **LONG)
        assert (await call(held, "POST")).header("litefs-replicated") in ("1", "2")

        async def twice(scope: Scope, receive: Receive, send: Send) -> None:
            await commit(cluster)
            await late(scope, receive, send)

        outcomes: list[tuple[Any, Any]] = [("answer", (200, "0")), ("error", (503, "0"))]
        for outcome, expected in outcomes:
            app = LiteFSMiddleware(twice, watcher, replicated_to=1, on_unreplicated=outcome, **LONG)
            assert (await call(app, "POST")).header("litefs-replicated") in ("1", "2")  # of what it had committed by then
            reply = await call(app, "POST")
            assert (reply.status, reply.header("litefs-replicated")) == expected


async def test_many_that_wait_wait_together_and_no_longer_than_few(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry each in one queue; beyond ``max_waiting`` a tenth of the time."""
    async with serving(cluster) as watcher:
        app: Any = LiteFSMiddleware(inserting(cluster), watcher, replicated_to=2, max_waiting=2, replication_timeout=3600.0)
        replies: list[Reply] = []

        async def write() -> None:
            replies.append(await call(app, "POST"))

        with stopped(cluster, "node-c"):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(write)
                with anyio.fail_after(PATIENCE):
                    while watcher.statistics().waiters < 5:
                        await anyio.lowlevel.checkpoint()
                assert app._gate.budget.replicating == 5
                tasks.cancel_scope.cancel()
            assert (watcher.statistics().waiters, app._gate.budget.replicating, replies) == (0, 0, [])
            monkeypatch.setattr(replication_module, "HURRIED", 1e-5)
            hurried = LiteFSMiddleware(
                inserting(cluster), watcher, replicated_to=2, max_waiting=0, replication_timeout=3600.0
            )
            with anyio.fail_after(PATIENCE):
                assert (await call(hurried, "POST")).header("litefs-replicated") == "1"
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(write)
        assert [reply.header("litefs-replicated") for reply in replies] == ["2"] * 5


async def test_several_databases_wait_for_what_was_written(cluster: SimulatedCluster) -> None:
    """Not for one that was not."""
    cluster.create_database("users.db")
    async with serving(cluster) as watcher:
        await watcher.wait_for_tx(1, database="users.db", timeout=PATIENCE)
        options: dict[str, Any] = {"databases": ["app.db", "users.db"], "replicated_to": 2}
        reply = await ask(watcher, inserting(cluster), **options, **LONG)
        assert (reply.status, reply.header("litefs-replicated")) == (200, "2")
        with stopped(cluster, "node-b"):
            reply = await ask(watcher, inserting(cluster), on_unreplicated="error", **options, **SHORT)
            assert (reply.status, reply.header("litefs-replicated")) == (503, "1")


@pytest.mark.parametrize(
    ("peers", "options", "reason"),
    [
        ((), {"replicated_to": 1}, "LITEFS_PEERS"),
        (("http://127.0.0.1:1",), {"replicated_to": 2}, "2 other nodes are asked for, and .* names 1"),
        ((), {"replicated_to": -1}, "replicated_to"),
        ((), {"replicated_to": True}, "replicated_to"),
        ((), {"replication_timeout": -1.0}, "replication_timeout"),
        ((), {"on_unreplicated": "replay"}, "'answer' or 'error'"),
    ],
)
def test_what_cant_work_is_said_when_it_is_made(peers: Any, options: Any, reason: str) -> None:
    """Before the first request."""
    with pytest.raises(ConfigError, match=reason):
        LiteFSMiddleware(Handler(), Watcher(Settings("/nowhere", "app.db", peers=peers)), **options)


async def test_standalone_there_is_nobody_to_wait_for() -> None:
    """The same application runs on a developer's machine."""
    async with Watcher(Settings(standalone=True, database="app.db")) as watcher:
        reply = await ask(watcher, Handler(), replicated_to=1, on_unreplicated="error")
        assert (reply.status, reply.header("litefs-replicated")) == (200, None)


async def test_a_watcher_that_is_stopped_knows_of_nobody(cluster: SimulatedCluster) -> None:
    """In the midst of the wait: it ends, and says what is known."""
    async with serving(cluster) as watcher:
        replies: list[Message] = []
        app = LiteFSMiddleware(inserting(cluster), watcher, replicated_to=2, replication_timeout=3600.0)

        async def write() -> None:
            replies.extend((await call(app, "POST")).messages)

        with stopped(cluster, "node-c"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                with anyio.fail_after(PATIENCE):
                    while not watcher.statistics().waiters:
                        await anyio.lowlevel.checkpoint()
                await watcher.stop()
        assert (b"litefs-replicated", b"0") in replies[0]["headers"]
