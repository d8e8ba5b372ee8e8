"""Several databases: a token for each that was written, whether one middleware serves them all, or each has its own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from typing import Any

import anyio
import pytest

from litefs_watch import BlockingWatcher, ConfigError, NotPrimary, Position, Role, Watcher
from litefs_watch.asgi import LiteFSMiddleware, mark_written
from litefs_watch.asgi.types import App, Receive, Scope, Send
from litefs_watch.consistency.options import options_of
from litefs_watch.testing import SimulatedCluster
from litefs_watch.wsgi import LiteFSMiddleware as BlockingMiddleware
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, raises, replica

DATABASES = ["app.db", "users.db"]
APP, USERS = "litefs_pos", "litefs_pos_users.db"
APP_HEADER, USERS_HEADER = "litefs-txid", "litefs-txid-users-db"
SOON = 10.0


def insert(connect: Callable[..., sqlite3.Connection], database: str) -> None:
    with closing(connect(database=database)) as connection, connection:
        connection.execute("INSERT INTO t DEFAULT VALUES")


def shop(cluster: SimulatedCluster, *, late: bool = False) -> App:
    """``POST /app.db,users.db`` writes both; ``late``: after the response has been sent. ``GET`` says how many are where."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        databases = [] if scope["method"] == "GET" else [name for name in scope["path"].strip("/").split(",") if name]
        for database in databases if not late else ():
            await anyio.to_thread.run_sync(insert, cluster.connect, database)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        for database in databases if late else ():
            await anyio.to_thread.run_sync(insert, cluster.connect, database)

    return app


@contextmanager
def two_databases(lag: float = 0.001) -> Iterator[SimulatedCluster]:
    with SimulatedCluster(size=2, lag=lag, databases=DATABASES) as cluster:
        for database in DATABASES:
            cluster.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)", database=database)
        cluster.wait_until_replicated()
        yield cluster


def both(app: App, watcher: Watcher, *, nested: bool, **options: Any) -> App:
    """One middleware for both, or one in the other."""
    if not nested:
        return LiteFSMiddleware(app, watcher, databases=DATABASES, **options)
    inner = LiteFSMiddleware(app, watcher, database="users.db", **options)
    return LiteFSMiddleware(inner, watcher, **options)


@asynccontextmanager
async def primary(lag: float = 0.001) -> AsyncIterator[tuple[SimulatedCluster, Watcher]]:
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(two_databases(lag))
        watcher = await stack.enter_async_context(Watcher(cluster.primary.settings()))
        for database in DATABASES:
            await watcher.wait_for_tx(cluster.primary.position(database), database=database, timeout=SOON)
        yield cluster, watcher


def tokens(reply: Reply) -> dict[str, str]:
    """The cookies that were set."""
    return dict(each.split(";")[0].split("=", 1) for each in reply.all("set-cookie"))


def at(cluster: SimulatedCluster, database: str) -> str:
    return str(cluster.primary.position(database))


async def test_one_cookie_for_each_that_was_written() -> None:
    """And the header beside it. What has not moved beside one that has needs no pin."""
    async with primary() as (cluster, watcher):
        app = both(shop(cluster), watcher, nested=False)
        reply = await call(app, "POST", "/app.db")
        assert tokens(reply) == {APP: at(cluster, "app.db")}
        assert (reply.header(APP_HEADER), reply.header(USERS_HEADER)) == (at(cluster, "app.db"), None)
        assert reply.header("cache-control") == "private"
        reply = await call(app, "POST", "/users.db")
        assert tokens(reply) == {USERS: at(cluster, "users.db")}
        assert reply.header(USERS_HEADER) == at(cluster, "users.db")
        reply = await call(app, "POST", "/app.db,users.db")
        assert tokens(reply) == {APP: at(cluster, "app.db"), USERS: at(cluster, "users.db")}
        assert reply.header("cache-control") == "private"


async def test_what_has_written_nothing_is_pinned() -> None:
    """To both: either may be written later. The next read replaces both."""
    async with primary() as (cluster, watcher):
        app = both(shop(cluster), watcher, nested=False)
        assert tokens(await call(app, "POST")) == {APP: "pin", USERS: "pin"}
        reply = await call(app, "GET", "/", [("cookie", f"{APP}=pin; {USERS}=pin")])
        assert tokens(reply) == {APP: at(cluster, "app.db"), USERS: at(cluster, "users.db")}


async def test_late_commits_of_each() -> None:
    """The response is held until the application returns, and carries both positions as they are then."""
    async with primary() as (cluster, watcher):
        app = both(shop(cluster, late=True), watcher, nested=False, late_commits=3600)
        reply = await call(app, "POST", "/users.db")
        assert tokens(reply) == {USERS: at(cluster, "users.db")}
        reply = await call(app, "POST", "/app.db,users.db")
        assert tokens(reply) == {APP: at(cluster, "app.db"), USERS: at(cluster, "users.db")}


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "one"])
async def test_a_read_waits_for_the_one_that_its_client_has_written(nested: bool) -> None:
    """And for it alone: the position of one says nothing of the other."""
    with two_databases(lag=0.001) as cluster:
        async with Watcher(cluster.replicas[0].settings()) as watcher:
            handler = Handler()
            app = both(handler, watcher, nested=nested, on_timeout="error", timeout=0.01)
            for _ in range(5):  # the TXIDs of the one are far ahead of the other's
                cluster.execute("INSERT INTO t DEFAULT VALUES", database="users.db")
            cluster.wait_until_replicated()
            await watcher.wait_for_tx(cluster.primary.position("users.db"), database="users.db", timeout=SOON)
            users, ahead = at(cluster, "users.db"), str(Position(99, 1))
            assert (await call(app, "GET", "/", [("cookie", f"{USERS}={users}")])).status == 200
            assert (await call(app, "GET", "/", [(USERS_HEADER, users)])).status == 200
            assert handler.runs == 2
            for header in (("cookie", f"{USERS}={ahead}"), ("cookie", f"{APP}={ahead}"), (USERS_HEADER, ahead)):
                assert (await call(app, "GET", "/", [header])).status == 503
            both_cookies = f"{APP}={at(cluster, 'app.db')}; {USERS}={ahead}"
            assert (await call(app, "GET", "/", [("cookie", both_cookies)])).status == 503
            assert handler.runs == 2


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "one"])
async def test_the_primary_deletes_nobody_s_cookie(nested: bool) -> None:
    """One database is far ahead of the other: it is neither lost nor waited for."""
    async with primary() as (cluster, watcher):
        for _ in range(5):
            cluster.execute("INSERT INTO t DEFAULT VALUES", database="users.db")
        app = both(shop(cluster), watcher, nested=nested)
        await watcher.wait_for_tx(cluster.primary.position("users.db"), database="users.db", timeout=SOON)
        reply = await call(app, "GET", "/", [("cookie", f"{USERS}={at(cluster, 'users.db')}")])
        assert (tokens(reply), reply.header("litefs-lost")) == ({}, None)
        reply = await call(app, "GET", "/", [("cookie", f"{USERS}={Position(99, 1)}")])
        assert (tokens(reply), reply.header("litefs-lost")) == ({USERS: at(cluster, "users.db")}, f"{99:016x}")


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "one"])
async def test_a_get_that_says_it_has_written(nested: bool) -> None:
    """Carries where both are."""
    async with primary() as (cluster, watcher):
        reply = await call(both(Handler(mark_written), watcher, nested=nested), "GET")
        assert tokens(reply) == {APP: at(cluster, "app.db"), USERS: at(cluster, "users.db")}


async def test_on_a_replica() -> None:
    """Writes are replayed, and so are refused ones; a pin of either goes to the primary."""
    with two_databases() as cluster:
        async with Watcher(cluster.replicas[0].settings()) as watcher:
            await watcher.wait_for_role(Role.REPLICA, timeout=SOON)
            refused = sqlite3.OperationalError("attempt to write a readonly database")
            for error in (refused, NotPrimary("node-a")):
                app = both(Handler(raises(error)), watcher, nested=False)
                for method in ("GET", "POST"):
                    assert (await call(app, method)).header("fly-replay") == "instance=node-a"
            app = both(Handler(), watcher, nested=False)
            assert (await call(app, "GET", "/", [("cookie", f"{USERS}=pin")])).header("fly-replay") == "instance=node-a"


async def test_left_alone_and_web_sockets() -> None:
    """As with one database."""
    seen: list[Any] = []
    app = both(
        Handler(seen.append), replica().watcher, nested=False, passthrough_paths=["/files/*"], primary_paths=["/live"]
    )
    assert (await call(app, "POST", "/files/1")).status == 200
    assert not [key for key in seen[0] if key.startswith("litefs")]
    reply = await call(app, "GET", "/live", type="websocket")
    assert reply.messages[0]["type"] == "websocket.close"


def test_in_threads() -> None:
    """WSGI likewise: each that was written, none that was not; held back until the application has returned."""
    with two_databases() as cluster, BlockingWatcher(cluster.primary.settings()) as watcher:
        for database in DATABASES:
            watcher.wait_for_tx(cluster.primary.position(database), database=database, timeout=SOON)

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            for database in filter(None, environ["PATH_INFO"].strip("/").split(",")):
                insert(cluster.connect, database)
            return []

        def cookies(method: str, path: str) -> dict[str, str]:
            sent: list[tuple[str, str]] = []

            def start(status: str, headers: Any, exc_info: Any = None) -> Any:
                sent.extend(headers)

            list(middleware({"REQUEST_METHOD": method, "PATH_INFO": path}, start))
            return dict(value.split(";")[0].split("=", 1) for name, value in sent if name == "set-cookie")

        middleware: Any = BlockingMiddleware(app, watcher, databases=DATABASES)
        assert cookies("POST", "/users.db") == {USERS: at(cluster, "users.db")}
        assert cookies("POST", "/app.db,users.db") == {APP: at(cluster, "app.db"), USERS: at(cluster, "users.db")}
        assert cookies("GET", "/") == {}


async def test_they_have_one_budget() -> None:
    """The one that waits for a database takes the place of one that would wait for the other."""
    watcher, arrived, waiting = replica(), anyio.Event(), anyio.Event()

    async def wait_for_tx(*_: Any, **__: Any) -> None:
        waiting.set()
        await arrived.wait()

    watcher.wait_for_tx = wait_for_tx  # type: ignore[assignment, method-assign]
    app = both(Handler(), watcher.watcher, nested=False, max_waiting=1, on_timeout="error")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, app, "GET", "/", [("cookie", f"{APP}={Position(99, 1)}")])
        await waiting.wait()
        assert (await call(app, "GET", "/", [("cookie", f"{USERS}={Position(99, 1)}")])).status == 503
        arrived.set()


def test_names() -> None:
    """The watcher's own database has the plain ones; no two others have the same."""
    watcher = FakeWatcher().watcher
    for database in (None, "app.db"):
        assert LiteFSMiddleware(Handler(), watcher, database=database)._policy.options.cookie == APP
    options = [
        options_of({}, name) for name in ("users.db", "users-db", "users_db", "Users.db", "users db", "ü;=", "a\udcff")
    ]
    assert (options[0].cookie, options[0].header) == (USERS, USERS_HEADER)
    assert len({each.cookie for each in options}) == len({each.header for each in options}) == len(options)
    assert options_of({"cookie": "mine", "header": None}, "users.db").cookie == "mine"


def test_what_cannot_work_is_said() -> None:
    """A single name, none, one twice; both arguments; one cookie for several."""
    watcher = FakeWatcher().watcher
    for wrong in ("app.db", [], ["app.db", "app.db"]):
        with pytest.raises(ConfigError, match="databases is a sequence of names"):
            LiteFSMiddleware(Handler(), watcher, databases=wrong)
    with pytest.raises(ConfigError, match="give one of them"):
        LiteFSMiddleware(Handler(), watcher, database="app.db", databases=DATABASES)
    for name, value in (("cookie", "txnum"), ("header", "x-txid"), ("accept", ["txnum"])):
        options: Any = {name: value}
        with pytest.raises(ConfigError, match=f"{name}: each of several databases has its own"):
            LiteFSMiddleware(Handler(), watcher, databases=DATABASES, **options)
