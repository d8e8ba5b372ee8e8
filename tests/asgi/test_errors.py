"""What a handler raises may ask for another node; what SQLite refuses on a replica belongs on the primary."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy.exc
from django.db.utils import OperationalError as DjangoOperationalError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from litefs_watch import NoPrimary, NotPrimary, Role, WrongInstance
from litefs_watch.asgi import LiteFSMiddleware, Redirect, mark_failed
from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.consistency import is_refused_write
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, raises, replica, unknown

READONLY = "attempt to write a readonly database"
DISK = "disk I/O error"


def caused(outer: Exception, inner: BaseException) -> Exception:
    try:
        raise outer from inner
    except Exception as error:  # noqa: BLE001
        return error


def while_handling(outer: Exception, inner: BaseException, *, suppressed: bool = False) -> Exception:
    try:
        try:
            raise inner
        except BaseException:  # noqa: BLE001
            if suppressed:
                raise outer from None
            raise outer  # noqa: B904 - with the other as its context is what is tested
    except Exception as error:  # noqa: BLE001
        return error


def circular() -> Exception:
    one, two = KeyError(1), KeyError(2)
    one.__cause__, two.__cause__ = two, one
    return one


REFUSED: dict[str, Callable[[], Exception]] = {
    "sqlite3": lambda: sqlite3.OperationalError(READONLY),
    "disk": lambda: sqlite3.OperationalError(DISK),
    "django": lambda: caused(DjangoOperationalError(READONLY), sqlite3.OperationalError(READONLY)),
    "sqlalchemy": lambda: sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError(DISK)),
    "caused": lambda: caused(RuntimeError("saving failed"), sqlite3.OperationalError(READONLY)),
    "while handling": lambda: while_handling(RuntimeError("rolling back"), sqlite3.OperationalError(READONLY)),
    "deep": lambda: caused(KeyError(), caused(ValueError(), sqlite3.OperationalError(READONLY))),
    "group": lambda: ExceptionGroup("tasks", [KeyError(), sqlite3.OperationalError(READONLY)]),
    "another driver": lambda: type("OperationalError", (Exception,), {})(READONLY),
}
OTHERS: dict[str, Callable[[], Exception]] = {
    "other message": lambda: sqlite3.OperationalError("no such table: orders"),
    "message within another": lambda: sqlite3.OperationalError(f"{READONLY}: really"),
    "other class": lambda: ValueError(READONLY),
    "no message": lambda: sqlite3.OperationalError(),
    "unhashable": lambda: sqlite3.OperationalError([READONLY]),
    "suppressed": lambda: while_handling(RuntimeError("handled"), sqlite3.OperationalError(READONLY), suppressed=True),
    "circular": circular,
}


async def ask(watcher: FakeWatcher, error: Exception, method: str = "GET", *headers: Any, **options: Any) -> Reply:
    return await call(LiteFSMiddleware(Handler(raises(error)), watcher.watcher, **options), method, "/", headers)


def is_replay(reply: Reply, hostname: str = "node-b") -> bool:
    return (reply.status, reply.header("fly-replay"), reply.body) == (409, f"instance={hostname}", b"")


@pytest.mark.parametrize("name", REFUSED)
async def test_a_write_that_hits_a_replica_is_replayed(name: str) -> None:
    """Through the wrappers of SQLAlchemy and Django, and whatever it was turned into on its way."""
    assert is_refused_write(REFUSED[name]())
    assert is_replay(await ask(replica(), REFUSED[name]()))


@pytest.mark.parametrize("name", REFUSED)
async def test_on_the_primary_it_stays_the_error_that_it_is(name: str) -> None:
    """A full disk is a full disk."""
    error = REFUSED[name]()
    with pytest.raises(type(error)):
        await ask(FakeWatcher(), error)


@pytest.mark.parametrize("name", OTHERS)
async def test_other_errors_stay(name: str) -> None:
    """Only the two exact messages of an ``OperationalError`` count."""
    error = OTHERS[name]()
    assert not is_refused_write(error)
    with pytest.raises(type(error)):
        await ask(replica(), error)


async def test_after_the_response_has_started_it_is_too_late() -> None:
    """The error goes where it would have gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise sqlite3.OperationalError(READONLY)

    with pytest.raises(sqlite3.OperationalError):
        await call(LiteFSMiddleware(app, replica().watcher))


async def test_not_primary_is_replayed_to_the_primary() -> None:
    """`ensure_primary` on a replica."""
    assert is_replay(await ask(replica(), NotPrimary("node-b")))


async def test_not_primary_goes_to_who_is_primary_now() -> None:
    """Which may have changed since the handler looked."""
    assert is_replay(await ask(FakeWatcher(Role.REPLICA, "node-c"), NotPrimary("node-b")), "node-c")


async def test_wrong_instance_is_replayed_to_that_instance() -> None:
    """From the primary, from a replica, and while no primary is known."""
    for watcher in (FakeWatcher(), replica(), unknown()):
        assert is_replay(await ask(watcher, WrongInstance("node-x")), "node-x")


@pytest.mark.parametrize("host", ["node-a", "x\r\ny: z", ""])
async def test_wrong_instance_neither_loops_nor_injects(host: str) -> None:
    """To itself, or to what is no name: 503."""
    reply = await ask(replica(), WrongInstance(host))
    assert (reply.status, reply.header("fly-replay")) == (503, None)


async def test_wrong_instance_is_not_replayed_twice() -> None:
    """A name that leads elsewhere than it says would go round for ever."""
    assert (await ask(replica(), WrongInstance("node-x"), "GET", ("fly-replay-src", "instance=node-b"))).status == 503


async def test_in_a_group_of_one_it_counts_too() -> None:
    """Task groups wrap what is raised in them."""
    assert is_replay(await ask(replica(), ExceptionGroup("tasks", [ExceptionGroup("more", [NotPrimary("node-b")])])))


async def test_no_primary_is_held_then_refused() -> None:
    """As a write is."""
    watcher = unknown()
    reply = await ask(watcher, NoPrimary("none"))
    assert (reply.status, reply.header("retry-after"), watcher.waits) == (503, "1", [("primary", 5.0)])


@pytest.mark.parametrize("error", [NoPrimary("none"), sqlite3.OperationalError(READONLY)])
async def test_no_primary_is_held_then_replayed(error: Exception) -> None:
    """When one comes."""
    watcher = unknown()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-c")
    assert is_replay(await ask(watcher, error), "node-c")


@pytest.mark.parametrize("error", [NoPrimary("none"), sqlite3.OperationalError(READONLY)])
async def test_a_node_that_becomes_the_primary_meanwhile_says_try_again(error: Exception) -> None:
    """The handler has run: it can't be run once more, and nobody else is the primary."""
    watcher = unknown()
    watcher.during = lambda: watcher.become(Role.PRIMARY)
    assert (await ask(watcher, error)).status == 503


def shop(error: Exception) -> list[Route]:
    async def endpoint(request: Request) -> Response:
        await request.body()
        raise error

    return [Route("/", endpoint, methods=["GET", "POST"])]


@pytest.mark.parametrize("inside", [False, True])
async def test_starlettes_own_error_page_is_replaced(inside: bool) -> None:
    """Around the application, where Starlette has sent its page before it raises; and as one of its middlewares."""
    watcher, routes = replica(), shop(sqlite3.OperationalError(READONLY))
    if inside:
        app: Any = Starlette(routes=routes, middleware=[Middleware(LiteFSMiddleware, watcher=watcher.watcher)])
    else:
        app = LiteFSMiddleware(Starlette(routes=routes), watcher.watcher)
    assert is_replay(await call(app))


async def test_an_error_page_of_ones_own_is_replaced() -> None:
    """A handler for all exceptions must not turn a misplaced write into a page."""

    async def page(request: Request, error: Exception) -> Response:
        return PlainTextResponse("sorry", 500)

    app = Starlette(routes=shop(NotPrimary("node-b")), exception_handlers={Exception: page})
    assert is_replay(await call(LiteFSMiddleware(app, replica().watcher)))


async def test_an_error_that_was_dealt_with_and_told_of_is_replayed() -> None:
    """Whatever the page's status is, from 400 on; a page of success stays."""
    for status, replayed in ((400, True), (500, True), (200, False)):

        async def app(scope: Scope, receive: Receive, send: Send, status: int = status) -> None:
            error = None
            try:
                raise sqlite3.OperationalError(READONLY)
            except sqlite3.OperationalError as refused:
                error = refused
            mark_failed(scope, error)
            await PlainTextResponse("sorry", status)(scope, receive, send)

        reply = await call(LiteFSMiddleware(app, replica().watcher))
        assert is_replay(reply) is replayed
        assert reply.status == (409 if replayed else 200)


async def test_what_the_application_deals_with_itself_stays() -> None:
    """A response that is no error page, made while handling the exception."""

    async def page(request: Request, error: Exception) -> Response:
        return PlainTextResponse("read only at the moment", 200)

    app = Starlette(routes=shop(NotPrimary("node-b")), exception_handlers={NotPrimary: page})
    assert (await call(LiteFSMiddleware(app, replica().watcher))).status == 200


async def test_an_unrelated_error_page_passes_and_raises() -> None:
    """Starlette's page goes out, and its exception goes on to the server's log."""
    app = LiteFSMiddleware(Starlette(routes=shop(KeyError("bug"))), replica().watcher)
    reply = Reply()
    with pytest.raises(KeyError, match="bug"):
        await call(app, reply=reply)
    assert reply.status == 500


async def test_an_error_page_of_a_request_without_an_exception_passes() -> None:
    """A 500 that the application chose."""
    assert (await call(LiteFSMiddleware(Handler(status=500), replica().watcher))).status == 500


async def test_a_body_that_was_read_cannot_be_sent_on(caplog: pytest.LogCaptureFixture) -> None:
    """A strategy that needs the body gets it whole, or not at all: 503, and the log says what to set."""
    sent_on: list[bytes] = []

    async def strategy(scope: Scope, receive: Receive, send: Send, hostname: str) -> None:
        while (message := await receive())["type"] == "http.request":
            sent_on.append(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": hostname.encode()})

    app = LiteFSMiddleware(Starlette(routes=shop(NotPrimary("node-b"))), replica().watcher, replay=strategy)
    reply = await call(app, "GET", body=[b"some", b"body"])
    assert (reply.status, sent_on) == (503, [])
    assert "primary_paths" in caplog.text

    reply = await call(app, "GET")
    assert (reply.status, reply.body, sent_on) == (201, b"node-b", [b""])  # an empty one is as good as unread

    sent_on.clear()
    reply = await call(app, "POST", body=[b"some", b"body"])
    assert (reply.status, sent_on) == (201, [b"some", b"body"])


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/a/b?c=d&e", "https://node-b.example.com/a/b?c=d&e"),
        ("/", "https://node-b.example.com/"),
        ("//evil.com/x", "https://node-b.example.com//evil.com/x"),
        ("/a%2Fb%20c", "https://node-b.example.com/a%2Fb%20c"),
        ("/a\r\nx: y", "https://node-b.example.com/a%0D%0Ax:%20y"),
        ("/ü", "https://node-b.example.com/%C3%BC"),
    ],
)
async def test_a_redirect_keeps_method_body_path_and_query(path: str, location: str) -> None:
    """307; and no path gets out of its place."""
    app = LiteFSMiddleware(Handler(), replica().watcher, replay=Redirect("https://{hostname}.example.com"))
    reply = await call(app, "POST", path)
    assert (reply.status, reply.header("location"), reply.body) == (307, location, b"")
    assert reply.header("cache-control") == "no-store"
