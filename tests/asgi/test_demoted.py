"""A node that ceases to be the primary while a handler runs: what may have committed is never sent on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from litefs_watch import NotPrimary, Position, Role, WrongInstance
from litefs_watch.asgi import LiteFSMiddleware, mark_failed
from litefs_watch.asgi.types import Scope
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call

REFUSED = sqlite3.OperationalError("attempt to write a readonly database")
ERRORS = [REFUSED, NotPrimary("node-b")]
METHODS = ["GET", "POST"]
LOOK = ("primary?", 5.0)


def demoted(watcher: FakeWatcher, *, committed: bool, error: Exception = REFUSED) -> Callable[[Scope], object]:
    """A handler that commits, or does not, and fails since the node is not the primary any more."""

    def during(scope: Scope) -> object:
        if committed:
            watcher.commit()
        watcher.become(Role.REPLICA, "node-b")
        raise error

    return during


def is_marked(reply: Reply, txid: int = 11) -> bool:
    """Said to the client, which is pinned; and not sent on."""
    return (
        reply.header("litefs-committed") == f"{txid:016x}"
        and (reply.cookie or "").startswith("litefs_pos=pin; ")
        and reply.header("litefs-txid") == "pin"
        and reply.header("fly-replay") is None
    )


async def ask(watcher: FakeWatcher, during: Callable[[Scope], object], method: str = "POST", **options: Any) -> Reply:
    """The reply, also where the exception comes through."""
    reply = Reply()
    try:
        await call(LiteFSMiddleware(Handler(during), watcher.watcher, **options), method, "/", reply=reply)
    except (sqlite3.OperationalError, NotPrimary):
        assert reply.status == 500
    return reply


@pytest.mark.parametrize("error", ERRORS, ids=["refused", "asked"])
@pytest.mark.parametrize("method", METHODS)
async def test_what_has_committed_is_not_sent_on(method: str, error: Exception) -> None:
    """It would run twice: the error stays, and goes into the server's log, and the client is told."""
    watcher = FakeWatcher()
    middleware, reply = LiteFSMiddleware(Handler(demoted(watcher, committed=True, error=error)), watcher.watcher), Reply()
    with pytest.raises(type(error)):
        await call(middleware, method, "/", reply=reply)
    assert (reply.status, reply.body) == (500, b"Internal Server Error\n")
    assert is_marked(reply)


@pytest.mark.parametrize("error", ERRORS, ids=["refused", "asked"])
@pytest.mark.parametrize("method", METHODS)
async def test_what_has_not_is_replayed(method: str, error: Exception) -> None:
    """The position has not moved: nothing ran that would run twice."""
    watcher = FakeWatcher()
    reply = await ask(watcher, demoted(watcher, committed=False, error=error), method)
    assert (reply.status, reply.header("litefs-committed")) == (409, None)
    assert (reply.header("fly-replay") or "").startswith("instance=node-b")
    assert watcher.reads == 1


@pytest.mark.parametrize("moved", ["by the file", "by the stream", "unreadable", "back"])
async def test_the_file_and_the_stream_are_asked(moved: str) -> None:
    """One of the two is enough, and so is a position that can't be read."""
    watcher = FakeWatcher()

    def during(scope: Scope) -> None:
        if moved == "by the stream":  # and reset by the new primary since, which may have got it before
            watcher.known, watcher.file = Position(11, 2), Position(10, 1)
        elif moved == "unreadable":
            watcher.file = OSError("frozen")
        else:
            watcher.file = Position(11, 2) if moved == "by the file" else Position(9, 1)
        watcher.become(Role.UNKNOWN)
        raise REFUSED

    reply = await ask(watcher, during, hold_writes=0)
    assert is_marked(reply, 10 if moved in ("unreadable", "back") else 11)


@pytest.mark.parametrize("status", [400, 503])
async def test_the_application_s_own_error_page_is_marked(status: int) -> None:
    """One that it has made of the exception itself."""
    watcher = FakeWatcher()

    async def endpoint(request: Request) -> Response:
        watcher.commit()
        watcher.become(Role.REPLICA, "node-b")
        mark_failed(request, REFUSED)
        return PlainTextResponse("half of it", status)

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    reply = await call(LiteFSMiddleware(app, watcher.watcher), "POST")
    assert (reply.status, reply.body) == (status, b"half of it")
    assert is_marked(reply)


async def test_starlette_s_error_page_is_marked() -> None:
    """It is sent while the exception is handled, which goes on to the server's log."""
    watcher = FakeWatcher()

    async def endpoint(request: Request) -> Response:
        watcher.commit()
        watcher.become(Role.REPLICA, "node-b")
        raise REFUSED

    app, reply = Starlette(routes=[Route("/", endpoint, methods=["POST"])]), Reply()
    with pytest.raises(sqlite3.OperationalError):
        await call(LiteFSMiddleware(app, watcher.watcher), "POST", reply=reply)
    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert is_marked(reply)


async def test_a_response_that_stands_is_not_marked() -> None:
    """Whatever became of the node meanwhile: it says what was done."""
    watcher = FakeWatcher()

    def during(scope: Scope) -> None:
        watcher.commit()
        watcher.become(Role.REPLICA, "node-b")

    reply = await ask(watcher, during)
    assert (reply.status, reply.header("litefs-committed")) == (200, None)


async def test_a_get_that_asks_for_an_instance_goes_there() -> None:
    """A primary moves on all the time; who asks first of all where it is has done nothing."""
    watcher = FakeWatcher()

    def during(scope: Scope) -> None:
        watcher.commit()  # another request's
        raise WrongInstance("node-c")

    assert (await ask(watcher, during, "GET")).status == 409


# A watcher that has not heard of it yet.


async def test_a_refused_write_on_a_primary_makes_it_look() -> None:
    """It was none any more, and nothing was committed: the replay."""
    watcher = FakeWatcher()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-b")

    def during(scope: Scope) -> None:
        raise REFUSED

    reply = await ask(watcher, during)
    assert (reply.status, watcher.waits) == (409, [LOOK])


async def test_a_refused_write_after_a_commit_makes_it_look_too() -> None:
    """And it stays an error, marked."""
    watcher = FakeWatcher()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-b")

    def during(scope: Scope) -> None:
        watcher.commit()
        raise REFUSED

    assert is_marked(await ask(watcher, during))
    assert watcher.waits == [LOOK]


@pytest.mark.parametrize("tells", [True, False])
async def test_a_refused_write_on_a_primary_that_is_one_stays(tells: bool) -> None:
    """A full disk is a full disk; and where nothing tells within the time, the error is all that is known."""
    watcher = FakeWatcher()
    watcher.tells = tells

    def during(scope: Scope) -> None:
        watcher.commit()
        raise REFUSED

    middleware, reply = LiteFSMiddleware(Handler(during), watcher.watcher), Reply()
    with pytest.raises(sqlite3.OperationalError):
        await call(middleware, "POST", reply=reply)
    assert (reply.messages, watcher.waits) == ([], [LOOK])
