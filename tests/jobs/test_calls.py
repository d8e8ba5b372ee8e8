"""The calls by hand: what a token says, in whichever framework and thread it is asked for; and what a wait for it meets."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import anyio
import flask
import httpx2
import pytest
from anyio.abc import TaskGroup
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from litefs_watch import BlockingWatcher, ConfigError, Role, Settings, TransactionLost, WaitTimeout, Watcher, WatcherClosed
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.errors import TokenError
from litefs_watch.jobs import acurrent_token, await_token, calls, current_token, wait_for_token
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.watchers import threads
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware

Connect = Callable[[], sqlite3.Connection]


def write(connect: Connect) -> None:
    with closing(connect()) as connection, connection:
        connection.execute("INSERT INTO t VALUES (NULL)")


def at(node: SimulatedNode) -> str:
    return str(node.position())


# What a token says.


def test_after_a_commit_a_thread_has_its_position(cluster: SimulatedCluster) -> None:
    """Although no event has told the watcher of it: the file is read anew."""
    cluster.primary.notifies = False
    with BlockingWatcher(cluster.primary.settings(api_url=None, idle_interval=60.0)) as watcher:
        for _ in range(20):
            write(cluster.connect)
            assert current_token(watcher=watcher) == at(cluster.primary)


async def test_after_a_commit_a_task_has_its_position(cluster: SimulatedCluster) -> None:
    """In the watcher's event loop, and with the watcher of a thread."""
    write_it = lambda: write(cluster.connect)  # noqa: E731
    async with Watcher(cluster.primary.settings()) as watcher:
        await anyio.to_thread.run_sync(write_it)
        assert await acurrent_token(watcher=watcher) == await acurrent_token() == at(cluster.primary)
    threaded = BlockingWatcher(cluster.primary.settings())
    await anyio.to_thread.run_sync(write_it)
    assert await acurrent_token(watcher=threaded) == at(cluster.primary)
    assert await acurrent_token(watcher=AwaitableWatcher(threaded)) == at(cluster.primary)


def api(watcher: Watcher, connect: Connect) -> FastAPI:
    """Endpoints that write, and say which token they have then."""
    app = FastAPI(lifespan=watcher.lifespan)
    app.add_middleware(LiteFSMiddleware, watcher=watcher, secret="secret")

    @app.post("/async")
    async def in_a_task() -> str:
        await anyio.to_thread.run_sync(write, connect)
        return await acurrent_token()

    @app.post("/def")
    def in_a_thread() -> str:
        write(connect)
        return current_token()

    @app.get("/wait")
    def wait(request: Request) -> str:
        wait_for_token(request.query_params["token"])
        return current_token()

    return app


def site(watcher: BlockingWatcher, connect: Connect) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.post("/flask")
    def view() -> Any:
        write(connect)
        return flask.jsonify(current_token())

    app.wsgi_app = WSGIMiddleware(app.wsgi_app, watcher, secret="secret")  # type: ignore[method-assign]
    return app


@pytest.mark.parametrize("path", ["/async", "/def"])
def test_in_an_asgi_request_it_is_the_header_s(cluster: SimulatedCluster, path: str) -> None:
    """Of an ``async def`` endpoint and of a ``def`` endpoint's thread: signed as the middleware signs."""
    app = api(Watcher(cluster.primary.settings()), cluster.connect)
    with TestClient(app, base_url="https://testserver") as client:
        response = client.post(path)
        assert response.json() == response.headers["litefs-txid"]
        assert response.json().startswith(f"{at(cluster.primary)}.")
        assert client.get("/wait", params={"token": response.json()}).json() == response.json()


def test_in_a_wsgi_request_it_is_the_header_s(cluster: SimulatedCluster) -> None:
    """With a watcher that starts by itself, and another one that runs in this process."""
    with BlockingWatcher(cluster["node-b"].settings()):
        watcher = BlockingWatcher(cluster.primary.settings())
        response = site(watcher, cluster.connect).test_client().post("/flask")
        watcher.stop()
        assert response.json == response.headers["litefs-txid"]
        cluster.wait_until_replicated()  # else node-b moves between the two
        assert current_token() == at(cluster["node-b"])  # that request's watcher is gone


@pytest.mark.parametrize(("database", "token"), [(None, "app.db"), ("app.db", "app.db"), ("users.db", "users.db")])
def test_of_several_databases_the_one_that_is_meant(database: str | None, token: str) -> None:
    """The watcher's own without its name."""
    with SimulatedNode(databases=("app.db", "users.db")) as node:
        watcher = Watcher(node.settings())
        app = FastAPI(lifespan=watcher.lifespan)
        app.add_middleware(LiteFSMiddleware, watcher=watcher, databases=["users.db", "app.db"])

        @app.get("/")
        async def get() -> str:
            return await acurrent_token(database)

        with TestClient(app) as client:
            assert client.get("/").json() == str(node.position(token))


async def test_a_watcher_that_is_given_says_which_database() -> None:
    """Also in a request of another database's middleware, on the same node: who waits with that watcher waits there."""
    with SimulatedNode(databases=("app.db", "users.db")) as node:
        node.commit("users.db")
        async with Watcher(node.settings()) as watcher, Watcher(node.settings(database="users.db")) as users:
            app = FastAPI()
            app.add_middleware(LiteFSMiddleware, watcher=watcher)

            @app.get("/")
            async def get() -> str:
                return await acurrent_token(watcher=users)

            transport = httpx2.ASGITransport(app)
            async with httpx2.AsyncClient(transport=transport, base_url="https://testserver") as client:
                assert (await client.get("/")).json() == str(node.position("users.db"))


def test_what_a_stale_read_s_client_has_seen_stays_in_its_token(cluster: SimulatedCluster) -> None:
    """This node is behind it, and the job must not be."""
    cluster.pause_replication()
    write(cluster.connect)
    seen = at(cluster.primary)
    watcher = Watcher(cluster["node-b"].settings())
    app = FastAPI(lifespan=watcher.lifespan)
    app.add_middleware(LiteFSMiddleware, watcher=watcher, timeout=0.01, on_timeout="stale")

    @app.get("/")
    def get() -> str:
        return current_token()

    with TestClient(app) as client:
        assert client.get("/").json() == at(cluster["node-b"]) != seen
        assert client.get("/", headers={"litefs-txid": seen}).json() == seen


def test_what_was_written_before_another_primary_took_over_is_pinned(cluster: SimulatedCluster) -> None:
    """The file may be of another history by now."""
    watcher = Watcher(cluster.primary.settings(settle=0.001))
    app = FastAPI(lifespan=watcher.lifespan)
    app.add_middleware(LiteFSMiddleware, watcher=watcher)
    tokens: list[str] = []

    @app.post("/")
    def post() -> None:
        write(cluster.connect)
        cluster.hand_over("node-b", seconds=0.0)
        anyio.from_thread.run(watcher.wait_for_role, Role.REPLICA)
        tokens.append(current_token())

    with TestClient(app) as client:
        client.post("/")
    assert tokens == ["pin"]


@pytest.mark.parametrize("secret", [None, "secret"])
def test_what_can_t_be_read_is_pinned(cluster: SimulatedCluster, secret: str | None) -> None:
    """A token from older knowledge would promise too little."""
    with BlockingWatcher(cluster.primary.settings()) as watcher:
        file = watcher.settings.litefs_dir
        assert file is not None
        (file / "app.db-pos").write_text("nonsense")
        assert current_token(watcher=watcher, secret=secret).partition(".")[0] == "pin"


def test_where_litefs_has_gone_it_is_pinned(cluster: SimulatedCluster) -> None:
    """Its mount is an empty directory then, as if there were no database, and what was written a moment ago nothing."""
    other = cluster.primary.settings(database="other.db")
    with BlockingWatcher(cluster.primary.settings()) as watcher, BlockingWatcher(other) as unseen:
        assert current_token(watcher=watcher) == at(cluster.primary)
        assert current_token(watcher=unseen) == "0000000000000000"
        cluster.primary.stop()
        assert current_token(watcher=watcher) == "pin"
        assert anyio.run(partial(acurrent_token, watcher=watcher)) == "pin"
        unseen.wait_for_role("unknown")
        assert current_token(watcher=unseen) == "pin"


async def test_a_read_that_hangs_is_pinned(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while: a frozen LiteFS must not hold a request."""
    monkeypatch.setattr(calls, "READ_TIMEOUT", 0.01)
    async with Watcher(cluster.primary.settings()) as watcher:
        monkeypatch.setattr("litefs_watch.watchers.bridge.read_position", lambda *_: anyio.sleep_forever())
        assert await acurrent_token(watcher=watcher) == "pin"


def test_reads_that_hang_are_few(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, too, a frozen LiteFS holds nobody for long; of those who ask again and again only some leave a thread
    behind, until it is thawed."""
    monkeypatch.setattr(calls, "READ_TIMEOUT", 0.001)
    monkeypatch.setattr(calls, "MOST_HANGING", 2)
    thawed, real = threading.Event(), threads.read_position
    monkeypatch.setattr(threads, "read_position", lambda *_: thawed.wait(20) and real(*_))
    with BlockingWatcher(cluster.primary.settings()) as watcher:
        assert [current_token(watcher=watcher) for _ in range(5)] == ["pin"] * 5
        hanging = [thread for thread in threading.enumerate() if thread.name == "litefs_watch job"]
        assert len(hanging) == 2
        thawed.set()
        for thread in hanging:
            thread.join(20)
        monkeypatch.setattr(calls, "READ_TIMEOUT", 20.0)
        assert current_token(watcher=watcher) == at(cluster.primary)


def test_without_litefs_there_is_nothing_to_wait_for() -> None:
    """Standalone, for development: any node meets that token, and this one any token."""
    with BlockingWatcher(Settings(standalone=True)) as watcher:
        assert current_token() == "0" * 16
        wait_for_token("00000000000000ff/00000000000000ff")
        wait_for_token("pin")
    with SimulatedNode(databases=(), primary="") as node, BlockingWatcher(node.settings(database="app.db")) as watcher:
        wait_for_token("0" * 16, watcher=watcher, timeout=0)


# Which watcher.


def test_no_watcher_and_several_are_said(cluster: SimulatedCluster) -> None:
    """With what to write. Two of the same node are as good as one."""
    with pytest.raises(ConfigError, match="No watcher runs in this process: start one"):
        current_token()
    with BlockingWatcher(cluster.primary.settings()) as watcher, BlockingWatcher(cluster.primary.settings()):
        assert current_token() == at(cluster.primary)
        with BlockingWatcher(cluster["node-b"].settings()) as other:
            with pytest.raises(ConfigError, match=r"Several watchers run .*app\.db in .*: say which one with watcher="):
                current_token()
            assert current_token(watcher=other) == at(cluster["node-b"])
        watcher.stop()
        with pytest.raises(WatcherClosed, match="stopped"):
            current_token(watcher=watcher)
    with pytest.raises(WatcherClosed, match="not running"):
        current_token(watcher=Watcher(cluster.primary.settings()))


async def test_a_thread_s_calls_are_refused_in_an_event_loop(cluster: SimulatedCluster) -> None:
    """They would block it, and who waits for its own loop's watcher waits in vain."""
    async with Watcher(cluster.primary.settings()):
        with pytest.raises(RuntimeError, match=r"write await acurrent_token\(\)"):
            current_token()
        with pytest.raises(RuntimeError, match=r"write await await_token\(\)"):
            wait_for_token("pin")


# Waiting.


@asynccontextmanager
async def bounded_group() -> AsyncIterator[TaskGroup]:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            yield group


@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_a_wait_ends_when_it_is_here(cluster: SimulatedCluster, in_a_thread: bool) -> None:
    """In an event loop, and in a thread with the event loop's watcher."""
    cluster.pause_replication()
    cluster.execute("INSERT INTO t VALUES (NULL)")
    token, seen = at(cluster.primary), []
    async with Watcher(cluster["node-b"].settings()) as watcher, bounded_group() as group:

        async def wait() -> None:
            if in_a_thread:
                await anyio.to_thread.run_sync(lambda: wait_for_token(token, timeout=None))
            else:
                await await_token(token, timeout=None)
            seen.append(await watcher.read_position())

        group.start_soon(wait)
        while not watcher.statistics().waiters:
            await anyio.lowlevel.checkpoint()
        assert seen == []
        cluster.resume_replication()
    assert list(map(str, seen)) == [token]


async def test_in_another_event_loop(cluster: SimulatedCluster) -> None:
    """With the watcher of a thread, which starts by itself."""
    watcher = BlockingWatcher(cluster["node-b"].settings())
    primary = BlockingWatcher(cluster.primary.settings())
    await await_token(at(cluster.primary), watcher=watcher)
    await await_token("pin", watcher=primary)


BEHIND = "00000000000000ff/00000000000000ff"


@pytest.mark.parametrize(
    ("node", "token", "database", "error"),
    [
        (1, BEHIND, None, WaitTimeout),  # not yet
        (0, BEHIND, None, TransactionLost),  # the primary, which knows that it never was
        (1, "pin", None, WaitTimeout),  # no primary
        (1, BEHIND, "apq.db", WaitTimeout),  # a database that this node does not have
        (1, "0000000000000001/0000000000000001", None, None),  # years old
        (0, "0000000000000001", None, None),  # a TXID alone
        (1, "", None, TokenError),
        (1, "forged", None, TokenError),
        (1, BEHIND + ".AAAAAAAAAAAAAAAAAAAAAA", None, TokenError),  # signed, by whom?
    ],
)
async def test_each_token_has_an_outcome(
    cluster: SimulatedCluster, node: int, token: str, database: str | None, error: type[Exception] | None
) -> None:
    """In threads and in event loops the same."""
    for _ in range(3):
        cluster.execute("INSERT INTO t VALUES (NULL)")
    cluster.wait_until_replicated()
    async with Watcher(cluster.nodes[node].settings()) as watcher:
        await watcher.wait_for_tx(cluster.primary.position(), timeout=10)
        limit = 10 if error in (TransactionLost, None) else 0.02
        results: list[type[Exception] | None] = []

        def wait() -> None:
            wait_for_token(token, database=database, timeout=limit)

        async def wait_here() -> None:
            await await_token(token, database=database, timeout=limit)

        async def wait_there() -> None:
            await anyio.to_thread.run_sync(wait)

        for each in (wait_there, wait_here):
            try:
                await each()
            except Exception as raised:  # noqa: BLE001 - whichever it is
                results.append(type(raised))
            else:
                results.append(None)
        assert results == [error, error]
        assert watcher.statistics().waiters == 0


def test_litefs_that_is_down_is_waited_for(cluster: SimulatedCluster) -> None:
    """And not for longer than is said; what is said is why."""
    token = at(cluster.primary)
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:
        cluster["node-b"].stop()
        watcher.wait_for_role("unknown", timeout=10)
        with pytest.raises(WaitTimeout, match="unknown"):
            wait_for_token(token, timeout=0.02)
        with pytest.raises(ValueError, match="nan"):
            wait_for_token(token, timeout=float("nan"))


def test_a_stop_wakes_who_waits(cluster: SimulatedCluster) -> None:
    """With an error that says so."""
    errors: list[BaseException] = []
    with BlockingWatcher(cluster["node-b"].settings()) as watcher:

        def wait() -> None:
            try:
                wait_for_token(BEHIND, timeout=None)
            except WatcherClosed as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while not watcher.statistics().waiters:
            pass
    thread.join(10)
    assert len(errors) == 1
