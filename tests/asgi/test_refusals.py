"""A write that SQLite refuses is noted where it happens: what the application makes of the error can't hide it."""

from __future__ import annotations

import contextvars
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import anyio.to_thread
import fastapi
import litestar
import pytest
import quart
import sqlalchemy
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from litefs_watch import NotPrimary, Role, WrongInstance
from litefs_watch.asgi import LiteFSMiddleware, mark_failed, mark_written
from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.halt import Halt, halt, halted
from litefs_watch.halt.client import HolderClient
from litefs_watch.refusals import Connection, note, watch_aiosqlite, watch_engine
from litefs_watch.web import notes
from tests.asgi.fakes import FakeWatcher, Reply, call, replica
from tests.refusing import allow_writes, database, kill_connections, refuse_writes

HOST = [("host", "localhost")]
READONLY = "attempt to write a readonly database"
DEAD = "LiteFS was started anew, or is down"
SWALLOWED = "answers with a success, and a write of its was refused here"

Write = Callable[[], Awaitable[None]]


def is_replay(reply: Reply) -> bool:
    return (reply.status, reply.header("fly-replay"), reply.body) == (409, "instance=node-b", b"")


def refused() -> sqlite3.OperationalError:
    return sqlite3.OperationalError(READONLY)


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of dead connections is the process's."""
    monkeypatch.setattr(notes, "dead_connections", notes.DeadConnections())


# The drivers: each gives a function that writes, over a connection that is open by now, and one that reads.


@asynccontextmanager
async def in_sqlite3(path: Path) -> AsyncIterator[tuple[Write, Write]]:
    with closing(sqlite3.connect(path, factory=Connection, check_same_thread=False)) as connection:

        def write() -> None:
            with connection:
                connection.execute("INSERT INTO t VALUES (2)")

        def read() -> None:
            connection.execute("SELECT * FROM t").fetchall()

        await anyio.to_thread.run_sync(read)
        yield lambda: anyio.to_thread.run_sync(write), lambda: anyio.to_thread.run_sync(read)


@asynccontextmanager
async def in_sqlite3_s_cursors(path: Path) -> AsyncIterator[tuple[Write, Write]]:
    with closing(sqlite3.connect(path, factory=Connection, check_same_thread=False)) as connection:
        cursor = connection.cursor()

        def write() -> None:
            try:
                cursor.executemany("INSERT INTO t VALUES (?)", [(2,)])
                connection.commit()
            except sqlite3.Error:
                connection.rollback()
                raise

        def read() -> None:
            cursor.execute("SELECT * FROM t").fetchall()

        await anyio.to_thread.run_sync(read)
        yield lambda: anyio.to_thread.run_sync(write), lambda: anyio.to_thread.run_sync(read)


@asynccontextmanager
async def in_sqlalchemy(path: Path) -> AsyncIterator[tuple[Write, Write]]:
    engine = watch_engine(watch_engine(sqlalchemy.create_engine(f"sqlite:///{path}")))

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))

    def read() -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT * FROM t")).all()

    read()
    yield lambda: anyio.to_thread.run_sync(write), lambda: anyio.to_thread.run_sync(read)
    engine.dispose()


@asynccontextmanager
async def in_sqlalchemy_s_asyncio(path: Path) -> AsyncIterator[tuple[Write, Write]]:
    engine = watch_engine(create_async_engine(f"sqlite+aiosqlite:///{path}"))

    async def write() -> None:
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))

    async def read() -> None:
        async with engine.connect() as connection:
            (await connection.execute(sqlalchemy.text("SELECT * FROM t"))).all()

    await read()
    yield write, read
    await engine.dispose()


@asynccontextmanager
async def in_aiosqlite(path: Path) -> AsyncIterator[tuple[Write, Write]]:
    async with watch_aiosqlite(aiosqlite.connect(path)) as connection:
        await connection.execute_fetchall("SELECT * FROM t")

        async def write() -> None:
            try:
                await connection.execute_insert("INSERT INTO t VALUES (2)")
                await connection.commit()
            except sqlite3.Error:
                await connection.rollback()
                raise

        async def read() -> None:
            cursor = await connection.cursor()
            await cursor.execute("SELECT * FROM t")

        yield write, read


DRIVERS = [in_sqlite3, in_sqlite3_s_cursors, in_sqlalchemy, in_sqlalchemy_s_asyncio, in_aiosqlite]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, anyio_backend: str) -> Any:
    if anyio_backend == "trio" and request.param in (in_sqlalchemy_s_asyncio, in_aiosqlite):
        pytest.skip("it knows no other loop than asyncio's")
    return request.param


def catches(run: Write, status: int) -> Any:
    """The textbook's handler."""

    async def endpoint(request: Request) -> PlainTextResponse:
        try:
            await run()
        except (sqlite3.Error, SQLAlchemyError):
            return PlainTextResponse("sorry", status)
        return PlainTextResponse("done")

    return Starlette(routes=[Route("/items/{number}", endpoint, methods=["GET", "POST"])])


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_what_a_handler_catches_is_replayed(
    driver: Any, mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever error it answers, by statement or COMMIT; a success stays, and is said once for each route. On the primary
    all stays."""
    path = database(tmp_path, mode)
    async with driver(path) as (write, read):
        refuse_writes(path)
        for status in (400, 500):
            assert is_replay(await call(LiteFSMiddleware(catches(write, status), replica().watcher), "GET", "/items/1"))
            assert (
                await call(LiteFSMiddleware(catches(write, status), FakeWatcher().watcher), "GET", "/items/1")
            ).status == status
        await read()
        assert caplog.messages == []

        app = LiteFSMiddleware(catches(write, 200), replica().watcher)
        for number in (1, 2):
            assert (await call(app, "GET", f"/items/{number}")).status == 200
        (said,) = caplog.messages
        assert said.startswith(f"GET /items/{{number}} {SWALLOWED}")
        assert ("SQLITE_READONLY" if mode == "DELETE" else "SQLITE_IOERR_WRITE") in said
        assert "primary_paths" in said
        assert "INSERT" not in said
        assert (await call(LiteFSMiddleware(catches(write, 200), FakeWatcher().watcher), "GET", "/items/1")).status == 200
        assert (await call(LiteFSMiddleware(catches(read, 200), replica().watcher), "GET", "/items/1")).body == b"done"
        assert len(caplog.messages) == 1


async def test_a_read_over_a_dead_connection_stays_an_error(
    driver: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to nobody else: the log says once what to do, and SQLAlchemy's pool has new connections the next time."""
    path = database(tmp_path)
    async with driver(path) as (_, read):
        kill_connections(path)
        app = LiteFSMiddleware(catches(read, 500), replica().watcher)
        replies = [await call(app, "GET", "/items/1") for _ in range(3)]
        renewed = driver in (in_sqlalchemy, in_sqlalchemy_s_asyncio)
        assert [reply.status for reply in replies] == ([500, 200, 200] if renewed else [500] * 3)
        (said,) = caplog.messages
        assert said.startswith(DEAD)
        assert "(disk I/O error, SQLITE_IOERR_LOCK)" in said
        assert ("pool makes new ones" if renewed else "CONN_MAX_AGE, pool_recycle") in said


async def test_one_that_nobody_catches_stays_too(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any driver that notes: the error goes on, and is said. A write method belongs on the primary all the same."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_LOCK"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watcher.become(Role.REPLICA, "node-b")
        raise error

    watcher = replica()
    for every, times in ((notes.DEAD_EVERY, 1), (notes.DEAD_EVERY, 1), (0, 2)):
        monkeypatch.setattr(notes, "DEAD_EVERY", every)
        with pytest.raises(sqlite3.OperationalError):
            await call(LiteFSMiddleware(app, watcher.watcher), "GET")
        assert [message.startswith(DEAD) for message in caplog.messages] == [True] * times
    watcher = FakeWatcher()
    assert is_replay(await call(LiteFSMiddleware(app, watcher.watcher), "POST"))


async def test_a_write_over_a_dead_connection_is_replayed(tmp_path: Path) -> None:
    """A POST whose node has been demoted, and which has done nothing yet, whether or not its handler catches that."""
    path = database(tmp_path)
    watcher = FakeWatcher()
    async with in_sqlite3(path) as (write, _):
        kill_connections(path)

        async def demoted() -> None:
            watcher.become(Role.REPLICA, "node-b")
            await write()

        assert is_replay(await call(LiteFSMiddleware(catches(demoted, 500), watcher.watcher), "POST", "/items/1"))


async def test_what_has_committed_is_not_replayed(caplog: pytest.LogCaptureFixture) -> None:
    """As for an exception that nobody catches: the handler's own error stays, and says so."""
    watcher = FakeWatcher()

    async def endpoint(request: Request) -> PlainTextResponse:
        watcher.commit()
        watcher.become(Role.REPLICA, "node-b")
        note(refused())
        return PlainTextResponse("sorry", 400)

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    reply = await call(LiteFSMiddleware(app, watcher.watcher), "POST")
    assert (reply.status, reply.body, reply.header("fly-replay")) == (400, b"sorry", None)
    assert reply.header("litefs-committed") == f"{11:016x}"
    assert (reply.cookie or "").startswith("litefs_pos=pin; ")
    assert caplog.messages == []


async def test_one_that_was_tried_again_with_success(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`mark_written` says so, where it was made here (HALT); on who is the primary by then, nothing is said nor replayed."""
    path = database(tmp_path)
    for marks, status, watcher in ((True, 400, replica()), (True, 200, replica()), (False, 200, replica())):
        refuse_writes(path)

        def endpoint(request: Request, marks: bool = marks, status: int = status, watcher: Any = watcher) -> Any:
            with pytest.raises(sqlite3.OperationalError):
                insert(path)
            allow_writes(path)
            insert(path)
            if marks:
                mark_written(request)
            else:
                watcher.become(Role.PRIMARY)
            return PlainTextResponse("done", status)

        reply = await call(LiteFSMiddleware(Starlette(routes=[Route("/", endpoint)]), watcher.watcher))
        assert (reply.status, reply.body) == (status, b"done")
    assert caplog.messages == []


async def test_an_error_that_says_where_it_belongs_comes_first() -> None:
    """`ensure_instance` after a refused write that was caught."""

    async def endpoint(request: Request) -> PlainTextResponse:
        note(refused())
        raise WrongInstance("node-x")

    reply = await call(LiteFSMiddleware(Starlette(routes=[Route("/", endpoint)]), replica().watcher))
    assert reply.header("fly-replay") == "instance=node-x"


@pytest.mark.parametrize("started", [False, True])
async def test_an_error_that_nobody_answers(started: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Made of a refused write, and raised: the replay; or, where the response has started, the server's to log. Nor is an
    application that answers nothing a success."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note(refused())
        if scope["path"] == "/silent":
            return
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("unavailable")

    site = LiteFSMiddleware(app, replica().watcher)
    if started:
        with pytest.raises(KeyError):
            await call(site)
    else:
        assert is_replay(await call(site))
    await call(site, "GET", "/silent")
    assert caplog.messages == []


@pytest.mark.parametrize("status", [None, 500, 422])
async def test_an_error_of_the_application_s_own_made_of_it(status: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """Raised ``from None``, so that nothing else tells; and raised again by Starlette once its page was sent, which is then
    nobody's error any more."""

    class Unavailable(Exception):
        pass

    async def endpoint(request: Request) -> PlainTextResponse:
        try:
            raise refused()
        except sqlite3.OperationalError as error:
            note(error)
            raise Unavailable from None

    async def page(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("sorry", status or 500)

    handlers: Any = {} if status is None else {Exception if status == 500 else Unavailable: page}
    app = LiteFSMiddleware(Starlette(routes=[Route("/", endpoint)], exception_handlers=handlers), replica().watcher)
    assert is_replay(await call(app))
    if status != 422:
        with pytest.raises(Unavailable):
            await call(app.app)
    assert caplog.messages == []


def in_fastapi(path: Path) -> Any:
    """A handler for all of SQLAlchemy's errors, an ordinary function as the endpoint, and one more middleware."""
    engine = watch_engine(sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool))
    app = fastapi.FastAPI()

    async def explain(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the database is unavailable"}, 503)

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))

    async def timed(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.exception_handler(SQLAlchemyError)(explain)
    app.add_middleware(BaseHTTPMiddleware, dispatch=timed)
    app.get("/")(write)
    return app


def in_litestar(path: Path) -> Any:
    """An exception handler, and an ordinary function in a thread."""

    def write() -> None:
        insert(path)

    app: Any = litestar.Litestar(
        [litestar.get("/", sync_to_thread=True)(write)],
        exception_handlers={sqlite3.Error: lambda request, error: litestar.Response("sorry", status_code=400)},
        logging_config=None,
    )
    return app


def in_quart(path: Path) -> Any:
    """A try/except, around an ordinary function."""
    app = quart.Quart("shop")

    @app.get("/")
    async def write() -> Any:
        try:
            await quart.utils.run_sync(insert)(path)
        except sqlite3.Error:
            return "sorry", 500
        return "done"

    return app


def insert(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=Connection)) as connection, connection:
        connection.execute("INSERT INTO t VALUES (2)")


@pytest.mark.parametrize("make", [in_fastapi, in_litestar, in_quart])
async def test_textbook_error_handlers(make: Any, anyio_backend: str, tmp_path: Path) -> None:
    """Of each framework, with a thread in between: on a replica they become the replay, on the primary they stay."""
    if make is in_quart and anyio_backend == "trio":
        pytest.skip("Quart knows no other loop than asyncio's")
    path = database(tmp_path)
    app = make(path)
    refuse_writes(path)
    assert is_replay(await call(LiteFSMiddleware(app, replica().watcher), "GET", "/", HOST))
    assert (await call(LiteFSMiddleware(app, FakeWatcher().watcher), "GET", "/", HOST)).status in (400, 500, 503)


async def test_quart_logs_no_error_that_becomes_a_replay(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """Made of a refused write; on the primary it does."""
    if anyio_backend == "trio":
        pytest.skip("Quart knows no other loop than asyncio's")
    app: Any = quart.Quart("shop")

    async def write() -> Any:
        note(refused())
        raise KeyError("unavailable")

    app.add_url_rule("/", view_func=write)

    assert is_replay(await call(LiteFSMiddleware(app, replica().watcher), "GET", "/", HOST))
    assert caplog.messages == []
    assert (await call(LiteFSMiddleware(app, FakeWatcher().watcher), "GET", "/", HOST)).status == 500
    assert len(caplog.messages) == 1


async def test_anybody_can_say_it() -> None:
    """``mark_failed(error)``, from wherever the handler calls; and nothing happens outside of a request."""

    def elsewhere() -> None:
        mark_failed(refused())

    async def endpoint(request: Request) -> PlainTextResponse:
        await anyio.to_thread.run_sync(elsewhere)
        return PlainTextResponse("sorry", 400)

    app = LiteFSMiddleware(Starlette(routes=[Route("/", endpoint)]), replica().watcher)
    assert is_replay(await call(app))
    contextvars.Context().run(elsewhere)
    assert not contextvars.Context().run(note, refused())
    with pytest.raises(TypeError, match="mark_failed takes an error"):
        mark_failed({"type": "http"})  # type: ignore[call-overload]


async def test_nested_middlewares(tmp_path: Path) -> None:
    """One for each of two databases: both know, and the outer one answers."""
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("sorry", 400 if note(refused()) else 500))])
    inner = LiteFSMiddleware(app, FakeWatcher().watcher, database="users.db")
    assert is_replay(await call(LiteFSMiddleware(inner, replica().watcher)))
    reply = await call(LiteFSMiddleware(app, replica().watcher, databases=["app.db", "users.db"]))
    assert is_replay(reply)


async def test_a_request_within_a_request() -> None:
    """A handler that asks its own application, in its own task: what it is refused afterwards is its own."""

    async def endpoint(request: Request) -> PlainTextResponse:
        if request.url.path == "/outer":
            assert (await call(app, "GET", "/inner")).status == 400
            note(refused())
        return PlainTextResponse("sorry", 400)

    app = LiteFSMiddleware(Starlette(routes=[Route("/{path}", endpoint)]), replica().watcher)
    assert is_replay(await call(app, "GET", "/outer"))
    assert (await call(app, "GET", "/inner")).status == 400


async def test_requests_that_are_interleaved() -> None:
    """On one loop: a refused write is of the request that has made it. So is the thread of a thread pool."""
    turn, other = anyio.Event(), anyio.Event()
    refuses: list[str] = []

    async def endpoint(request: Request) -> PlainTextResponse:
        if "write" in request.url.path:
            turn.set()
            await other.wait()
            await anyio.to_thread.run_sync(note, refused())
        else:
            await turn.wait()
            other.set()
        refuses.append(request.url.path)
        return PlainTextResponse("sorry", 400)

    app = LiteFSMiddleware(Starlette(routes=[Route("/{path}", endpoint)]), replica().watcher)
    replies: dict[str, Reply] = {}

    async def ask(path: str) -> None:
        replies[path] = await call(app, "GET", path)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "/write")
        tasks.start_soon(ask, "/read")
    assert is_replay(replies["/write"])
    assert (replies["/read"].status, len(refuses)) == (400, 2)
    assert (await call(app, "GET", "/read")).status == 400


async def test_after_the_response_has_started(caplog: pytest.LogCaptureFixture) -> None:
    """A stream and a background task: their responses stay, whatever their status, and the log says so once for each."""

    async def write() -> None:
        note(refused())

    async def stream() -> AsyncIterator[bytes]:
        yield b"one"
        note(refused())
        yield b"two"

    routes = [
        Route("/later", lambda request: PlainTextResponse("no", 404, background=BackgroundTask(write))),
        Route("/stream", lambda request: StreamingResponse(stream())),
    ]
    app = LiteFSMiddleware(Starlette(routes=routes), replica().watcher)
    for _ in range(2):
        assert (await call(app, "GET", "/later")).status == 404
        assert (await call(app, "GET", "/stream")).body == b"onetwo"
    assert [message.split(" answers")[0] for message in caplog.messages] == ["GET /later", "GET /stream"]
    assert all(SWALLOWED in message for message in caplog.messages)


async def test_a_thread_of_the_application_s_own(caplog: pytest.LogCaptureFixture) -> None:
    """It is nobody's request, unless it takes the context along."""

    def endpoint(request: Request) -> PlainTextResponse:
        target: Callable[[], object] = lambda: note(refused())  # noqa: E731
        if "along" in request.url.path:
            context, inner = contextvars.copy_context(), target
            target = lambda: context.run(inner)  # noqa: E731
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        return PlainTextResponse("sorry", 400)

    app = LiteFSMiddleware(Starlette(routes=[Route("/{path}", endpoint)]), replica().watcher)
    assert (await call(app, "GET", "/alone")).status == 400
    assert is_replay(await call(app, "GET", "/along"))
    assert caplog.messages == []


async def test_a_log_is_not_filled(caplog: pytest.LogCaptureFixture) -> None:
    """A client that makes up paths, where the framework tells no route."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note(refused())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    site = LiteFSMiddleware(app, replica().watcher)
    with caplog.at_level(logging.WARNING):
        for letter in range(150):
            await call(site, "GET", f"/{chr(0x4E00 + letter)}")
    assert len(caplog.messages) == 100


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_websocket(accepts: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that catches it: before it accepts it goes to the primary, afterwards the log says it once."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if accepts:
            await send({"type": "websocket.accept"})
        note(refused())
        await send({"type": "websocket.close", "code": 1011})

    site = LiteFSMiddleware(app, replica().watcher)
    for _ in range(2):
        others: Any = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
        messages = (await call(site, "GET", "/live", **others)).messages
        if accepts:
            assert [message["type"] for message in messages] == ["websocket.accept", "websocket.close"]
        else:
            assert (messages[0]["status"], dict(messages[0]["headers"])[b"fly-replay"]) == (409, b"instance=node-b")
    assert [message.split(",")[0] for message in caplog.messages] == ["a WebSocket at /live was refused a write"] * accepts


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("databases", [(), ["app.db", "users.db"]])
@pytest.mark.parametrize("later", [None, refused(), NotPrimary("node-b")])
async def test_one_that_has_held_the_halt_lock(
    blocking: bool, databases: Any, later: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have committed on this replica: whatever it answers, or raises, afterwards, it is not sent on."""
    held = Halt("app.db", forwarded=True, ends=0)
    for name, result in (("acquire", held), ("ask", None), ("finish", None), ("note", None), ("drop", None)):
        monkeypatch.setattr(HolderClient, name, lambda *_, result=result: result)
    monkeypatch.setattr(HolderClient, "is_ours", True)

    def halting() -> None:
        with halted("app.db", litefs_dir=tmp_path):
            pass

    async def endpoint(request: Request) -> PlainTextResponse:
        note(refused())
        if blocking:
            await anyio.to_thread.run_sync(halting)
        else:
            async with halt("app.db", litefs_dir=tmp_path):
                pass
        if later is not None:
            raise later
        return PlainTextResponse("sorry", 400)

    app = Starlette(routes=[Route("/", endpoint)])
    site = LiteFSMiddleware(app, replica().watcher, databases=databases)
    if later is not None:
        with pytest.raises(type(later)):
            await call(site)
    else:
        assert (await call(site)).status == 400
