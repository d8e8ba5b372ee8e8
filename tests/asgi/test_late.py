"""A write whose commit follows its response: held until it is there, pinned where it comes later, and said in the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from litefs_watch import ConfigError, NotPrimary, Position, Role
from litefs_watch.asgi import LiteFSMiddleware, mark_written
from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher, Reply, call, scope_of

LONG = 3600.0
"""Seconds: what is held that long would hang the test."""

START: Message = {"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"4")]}
BODY: Message = {"type": "http.response.body", "body": b"done"}
REFUSED = sqlite3.OperationalError("attempt to write a readonly database")


def app_of(*messages: Message, after: Callable[[], Any] = lambda: None) -> App:
    """Sends these, and does something when they are sent: as a dependency's exit does, or a background task."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if (more := after()) is not None:
            await more

    return app


async def write(watcher: FakeWatcher, app: App, *, reply: Reply | None = None, **options: Any) -> Reply:
    """One POST."""
    middleware = LiteFSMiddleware(app, watcher.watcher, **({"late_commits": LONG} | options))
    return await call(middleware, "POST", reply=reply)


def hear(watcher: FakeWatcher) -> None:
    """Of what is in the file."""
    assert isinstance(watcher.file, Position)
    watcher.known = watcher.file


def token_of(reply: Reply) -> str | None:
    return reply.header("litefs-txid")


async def test_a_commit_before_the_application_returns_is_in_the_token() -> None:
    """The response is held, and carries the position that is read then."""
    watcher, reply, sent = FakeWatcher(), Reply(), []

    def exit_of_dependency() -> None:
        sent.extend(reply.messages)
        watcher.commit()

    await write(watcher, app_of(START, BODY, after=exit_of_dependency), reply=reply)
    assert sent == []
    assert token_of(reply) == str(Position(11, 2))
    assert (reply.status, reply.body) == (201, b"done")
    assert [message["type"] for message in reply.messages] == [START["type"], BODY["type"]]


async def test_what_has_moved_is_never_held() -> None:
    """The response is sent when the application sends it, whatever runs on."""
    watcher, reply = FakeWatcher(), Reply()
    sent: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watcher.commit()
        for message in (START, BODY):
            await send(message)
            sent.append(len(reply.messages))

    await write(watcher, app, reply=reply)
    assert sent == [1, 2]
    assert token_of(reply) == str(Position(11, 2))


async def test_a_stream_is_never_held() -> None:
    """Each piece goes when it comes; nobody knows what is committed meanwhile, so its client is pinned."""
    watcher, reply = FakeWatcher(), Reply()
    sent: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            watcher.commit()
            await send({"type": "http.response.body", "body": b"x", "more_body": number < 2})
            sent.append(len(reply.messages))

    await write(watcher, app, reply=reply)
    assert sent == [2, 3, 4]
    assert (token_of(reply), reply.body) == ("pin", b"xxx")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_read_is_never_held(method: str) -> None:
    """Nor is one that says that it has written."""
    for mark in (False, True):
        watcher, reply = FakeWatcher(), Reply()
        sent: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send, mark: bool = mark) -> None:
            if mark:
                mark_written(scope)
            for message in (START, BODY):
                await send(message)
                sent.append(len(reply.messages))  # noqa: B023

        await call(LiteFSMiddleware(app, watcher.watcher, late_commits=LONG), method, reply=reply)
        assert sent == [1, 2]


@pytest.mark.parametrize(
    "more",
    [
        {"type": "http.response.pathsend", "path": "/nowhere"},
        {"type": "http.response.body", "body": b"do", "more_body": True},
        {"type": "http.response.trailers", "headers": []},
    ],
)
async def test_what_is_no_whole_body_is_never_held(more: Message) -> None:
    """It is sent, in its order, and pinned."""
    reply = Reply()
    sent: list[str] = []
    app = app_of(START, more, after=lambda: sent.extend(message["type"] for message in reply.messages))
    await write(FakeWatcher(), app, reply=reply)
    assert sent == [START["type"], more["type"]]
    assert token_of(reply) == "pin"


async def test_time_is_up() -> None:
    """A background task that goes on does not keep its response longer than ``late_commits``; its client is pinned, even
    where something has been committed meanwhile: more may be."""
    watcher = FakeWatcher()
    sent = anyio.Event()
    reply = Reply()

    class Told(list[Message]):
        def append(self, message: Message) -> None:
            super().append(message)
            if message is BODY:
                sent.set()

    reply.messages = Told()

    async def background() -> None:
        watcher.commit()
        await sent.wait()

    await write(watcher, app_of(START, BODY, after=background), reply=reply, late_commits=0.01)
    assert (token_of(reply), len(reply.messages)) == ("pin", 2)


async def test_zero_holds_nothing() -> None:
    """As it is without this: pinned."""
    watcher, reply, sent = FakeWatcher(), Reply(), []

    def after() -> None:
        sent.extend(reply.messages)
        watcher.commit()

    await write(watcher, app_of(START, BODY, after=after), reply=reply, late_commits=0)
    assert len(sent) == 2
    assert token_of(reply) == "pin"
    with pytest.raises(ConfigError, match="late_commits"):
        await write(watcher, app_of(), late_commits=-1)


async def test_nothing_committed_is_pinned() -> None:
    """A POST that writes nothing costs one replay at most."""
    assert token_of(await write(FakeWatcher(), app_of(START, BODY))) == "pin"


async def test_behind_starlette_s_base_http_middleware() -> None:
    """Which sends the body and its end apart, from another task: the length tells that the body is whole."""
    watcher = FakeWatcher()

    async def order(request: Request) -> Response:
        return PlainTextResponse("ordered", background=BackgroundTask(watcher.commit))

    async def timed(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    app = Starlette(
        routes=[Route("/", order, methods=["POST"])], middleware=[Middleware(BaseHTTPMiddleware, dispatch=timed)]
    )
    reply = await write(watcher, app)
    assert (token_of(reply), reply.body) == (str(Position(11, 2)), b"ordered")


async def test_a_refused_write_in_a_dependency_s_exit_is_replayed() -> None:
    """The response that was held is dropped: nothing was committed."""
    for error in (REFUSED, NotPrimary("node-b")):
        watcher = FakeWatcher()

        def demoted(watcher: FakeWatcher = watcher, error: Exception = error) -> None:
            watcher.become(Role.REPLICA, "node-b")
            raise error

        reply = await write(watcher, app_of(START, BODY, after=demoted))
        assert (reply.status, reply.header("fly-replay")) == (409, "instance=node-b")


async def test_a_commit_that_fails_is_no_success() -> None:
    """The client would believe the 200: it is not sent, and the server answers 500."""
    reply = Reply()

    def fails() -> None:
        raise RuntimeError("exit") from sqlite3.IntegrityError("FOREIGN KEY constraint failed")

    with pytest.raises(RuntimeError):
        await write(FakeWatcher(), app_of(START, BODY, after=fails), reply=reply)
    assert reply.messages == []


async def test_a_background_task_that_fails_keeps_its_response() -> None:
    """It is the application's answer, with this middleware or without."""
    reply = Reply()

    def fails() -> None:
        raise ConnectionRefusedError("no mail server")

    with pytest.raises(ConnectionRefusedError):
        await write(FakeWatcher(), app_of(START, BODY, after=fails), reply=reply)
    assert (reply.status, reply.body) == (201, b"done")


async def test_sending_fails_when_time_is_up() -> None:
    """The application's task sees it, when it has done what it had to do."""
    failed = anyio.Event()

    async def send(message: Message) -> None:
        failed.set()
        raise OSError("the client has gone")

    async def receive() -> Message:
        return {"type": "http.request"}

    app = LiteFSMiddleware(app_of(START, BODY, after=failed.wait), FakeWatcher().watcher, late_commits=0.01)
    with pytest.raises(OSError, match="has gone"):
        await app(scope_of("POST"), receive, send)


async def test_cancelled_while_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent any more: the timer is stopped, too."""
    reply, stopped = Reply(), []
    held = anyio.Event()

    def call_later(seconds: float, function: object) -> Callable[[], object]:
        return lambda: stopped.append(seconds)

    monkeypatch.setattr("litefs_watch.asgi.late._call_later", call_later)

    async def forever() -> None:
        held.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:

        async def one() -> None:
            await write(FakeWatcher(), app_of(START, BODY, after=forever), reply=reply)

        tasks.start_soon(one)
        await held.wait()
        tasks.cancel_scope.cancel()
    assert (reply.messages, stopped) == ([], [LONG])


# What is said of it.


def routed(watcher: FakeWatcher, during: Callable[[], object] = lambda: None) -> Any:
    """An application with a route, that commits late."""

    async def order(request: Request) -> Response:
        during()
        return PlainTextResponse("ordered", background=BackgroundTask(watcher.commit))

    return Starlette(routes=[Route("/orders/{number}", order, methods=["POST"])])


async def test_a_route_that_commits_late_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """What was seen, and what to do; held or not."""
    for late_commits in (LONG, 0):
        caplog.clear()
        watcher = FakeWatcher()
        app = LiteFSMiddleware(routed(watcher), watcher.watcher, late_commits=late_commits)
        for number in range(3):
            await call(app, "POST", f"/orders/{number}")
            hear(watcher)
        (said,) = caplog.messages
        assert said.startswith("POST /orders/{number} commits after its response has started: the database was at")
        for remedy in ('Depends(get_session, scope="function")', "after_request", "around the application", "mark_written"):
            assert remedy in said


async def test_without_a_route_numbers_are_parameters(caplog: pytest.LogCaptureFixture) -> None:
    """And a client that makes up paths fills no log."""
    watcher = FakeWatcher()
    app = LiteFSMiddleware(app_of(START, BODY, after=lambda: watcher.commit()), watcher.watcher, late_commits=LONG)
    for number in range(300):
        await call(app, "POST", f"/orders/{number}/items")
        hear(watcher)
    assert len(caplog.messages) == 1
    assert "POST /orders/*/items" in caplog.text
    for number in range(300):
        await call(app, "POST", "/" + "x" * number)
        hear(watcher)
    assert len(caplog.messages) == 100


async def test_a_path_cannot_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It is the client's."""
    watcher = FakeWatcher()
    app = LiteFSMiddleware(app_of(START, BODY, after=lambda: watcher.commit()), watcher.watcher, late_commits=LONG)
    await call(app, "POST", "/a\nERROR root")
    assert caplog.messages[0].startswith(r"POST /a\nERROR root commits")


async def test_whose_commit_it_was_is_not_known_where_others_write(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of a route while another write runs: that one's commit may be what is seen."""
    watcher = FakeWatcher()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(BODY)
        if scope["path"] == "/":
            await call(middleware, "POST", "/other")
            watcher.commit()

    middleware = LiteFSMiddleware(app, watcher.watcher, late_commits=LONG)
    await call(middleware, "POST")
    assert caplog.messages == []
    await call(middleware, "GET")
    assert caplog.messages == []


async def test_a_route_that_commits_again_is_found_and_pinned(caplog: pytest.LogCaptureFixture) -> None:
    """What it has committed before its response is in the token of the first one; then it is known, and pinned."""
    watcher = FakeWatcher()
    app = LiteFSMiddleware(routed(watcher, watcher.commit), watcher.watcher, late_commits=LONG)
    assert token_of(await call(app, "POST", "/orders/1")) == str(Position(11, 2))
    hear(watcher)
    assert "the database was at 000000000000000b/0000000000000002 then, and is at 000000000000000c" in caplog.messages[0]
    assert token_of(await call(app, "POST", "/orders/2")) == "pin"


async def test_a_route_that_commits_once_is_looked_at_a_few_times() -> None:
    """Each look is a read of ``-pos`` when the response is on its way; then it costs nothing any more."""
    watcher = FakeWatcher()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watcher.commit()
        await send(START)
        await send(BODY)

    middleware = LiteFSMiddleware(app, watcher.watcher)
    for _ in range(10):
        await call(middleware, "POST")
        hear(watcher)
    assert watcher.reads == 10 + 3


async def test_a_route_that_is_known_to_commit_late_is_pinned() -> None:
    """Where another write has moved the position when its response starts: its own commit is still to come."""
    watcher = FakeWatcher()
    app = LiteFSMiddleware(routed(watcher), watcher.watcher, late_commits=LONG)
    assert token_of(await call(app, "POST", "/orders/1")) == str(Position(11, 2))
    hear(watcher)
    app.app = routed(watcher, watcher.commit)
    assert token_of(await call(app, "POST", "/orders/2")) == "pin"
