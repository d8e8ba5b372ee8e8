"""The token is set after a write, from what the file says then, and deleted where it can never be met."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from litefs_watch import Position, Role
from litefs_watch.asgi import LiteFSMiddleware, mark_written
from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.consistency import SCOPE_KEY
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica, unknown

SET_11 = "txnum=11; Max-Age=300; Path=/; HttpOnly; SameSite=Lax; Secure"
AT_11 = "000000000000000b/0000000000000002"
PINNED = "txnum=18446744073709551615; Max-Age=300; Path=/; HttpOnly; SameSite=Lax; Secure"
DELETED = "txnum=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure"


async def ask(watcher: FakeWatcher, *arguments: Any, handler: Any = None, **options: Any) -> Reply:
    options = {"cookie": "txnum"} | options
    return await call(LiteFSMiddleware(handler or Handler(), watcher.watcher, **options), *arguments)


def writer(watcher: FakeWatcher) -> Handler:
    return Handler(lambda scope: watcher.commit())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_after_a_write_the_response_carries_the_position(method: str) -> None:
    """Read when the response starts, of which the watcher has not heard yet: in the cookie, and in the header."""
    watcher = FakeWatcher()
    reply = await ask(watcher, method, handler=writer(watcher))
    assert reply.cookie == SET_11
    assert reply.header("litefs-txid") == AT_11
    assert reply.header("cache-control") == "private"
    assert reply.header("vary") is None  # the body does not depend on the cookie
    assert watcher.reads == 2  # and once when the application was done, the first times: whether it commits again


async def test_in_the_format_of_litefs_own_proxy() -> None:
    """``__txid``, 16 hexadecimal digits, in both directions."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "POST", handler=writer(watcher), cookie="__txid")
    assert reply.cookie == "__txid=000000000000000b; Max-Age=300; Path=/; HttpOnly; SameSite=Lax; Secure"
    watcher = replica()
    await ask(watcher, "GET", "/", [("cookie", "__txid=000000000000000b")], cookie="__txid")
    assert watcher.waits == [("tx", 11, 0.5)]


async def test_without_a_cookie_only_the_header() -> None:
    """And the other way round."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "POST", handler=writer(watcher), cookie=None)
    assert (reply.cookie, reply.header("litefs-txid"), reply.header("cache-control")) == (None, AT_11, None)
    reply = await ask(watcher, "POST", handler=writer(watcher), header=None)
    assert (reply.cookie is not None, reply.header("litefs-txid")) == (True, None)


async def test_a_write_method_that_has_not_written_yet_pins_its_client() -> None:
    """The position has not moved: what commits after the response is read on the primary, by the very next request."""
    reply = await ask(FakeWatcher(), "POST")
    assert (reply.cookie, reply.header("litefs-txid")) == (PINNED, "pin")


async def test_the_format_of_litefs_own_proxy_has_no_pin() -> None:
    """The proxy would answer 504 to it on every replica, for as long as the cookie lives."""
    reply = await ask(FakeWatcher(), "POST", cookie="__txid")
    assert (reply.cookie, reply.header("litefs-txid")) == (None, None)


async def test_a_get_that_writes_says_so() -> None:
    """`mark_written`, and its response is for its client alone."""
    watcher = FakeWatcher()

    def during(scope: Scope) -> None:
        watcher.commit()
        mark_written(scope)

    reply = await ask(watcher, "GET", handler=Handler(during))
    assert (reply.cookie, reply.header("cache-control"), reply.header("vary")) == (SET_11, "private", "cookie")


async def test_a_get_that_does_not_say_so_sets_nothing() -> None:
    """However the position moves meanwhile: ordinary pages stay cacheable."""
    watcher = FakeWatcher()
    handler = writer(watcher)
    reply = await ask(watcher, "GET", handler=handler)
    assert reply.messages[0]["headers"] == handler.headers
    assert watcher.reads == 0


async def test_a_get_on_a_path_of_the_primary_is_a_write() -> None:
    """LiteFS's proxy gives no cookie to a GET that it always forwards."""
    watcher = FakeWatcher()
    assert (await ask(watcher, "GET", "/logout", handler=writer(watcher), primary_paths=["/logout"])).cookie == SET_11


async def test_a_replica_that_wrote_says_so() -> None:
    """With the HALT lock, a replica writes: its handler knows."""
    watcher = replica()

    def during(scope: Scope) -> None:
        watcher.commit()
        mark_written(scope)

    assert (await ask(watcher, "GET", handler=Handler(during))).cookie == SET_11


async def test_a_cookie_never_goes_back() -> None:
    """A replica that has written keeps the newer position that the client has seen elsewhere."""
    watcher = replica(txid=12)
    headers = [("litefs-txid", str(Position(12, 1))), ("cookie", "txnum=12")]
    reply = await ask(watcher, "GET", "/", headers, handler=Handler(mark_written))
    assert reply.header("litefs-txid") == str(Position(12, 1))
    watcher.file = Position(11, 1)  # the file is read later than what is known, and can be lower after a reset
    reply = await ask(watcher, "GET", "/", [("cookie", "txnum=12")], handler=Handler(mark_written))
    assert (reply.cookie or "").startswith("txnum=12; ")


async def test_a_write_whose_application_raised_sets_nothing() -> None:
    """There is no response of the application's; the error is the server's business."""
    watcher = FakeWatcher()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watcher.commit()
        raise KeyError("bug")

    reply = Reply()
    with pytest.raises(KeyError, match="bug"):
        reply = await ask(watcher, "POST", handler=app)
    assert (reply.messages, watcher.reads) == ([], 0)


async def test_who_writes_after_the_response_started_is_pinned() -> None:
    """Where no response is held, a background task that writes: the next request is served where it did."""
    watcher = FakeWatcher()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watcher.commit()
        await send({"type": "http.response.body", "body": b""})

    assert (await ask(watcher, "POST", handler=app, late_commits=0)).cookie == PINNED


@pytest.mark.parametrize("error", [OSError("unreadable"), None])
async def test_an_unreadable_position_pins(error: OSError | None, caplog: pytest.LogCaptureFixture) -> None:
    """No token from older knowledge; the response itself goes on, and the log says why."""
    watcher = FakeWatcher()
    watcher.known, watcher.file = (watcher.known, error) if error else (None, None)
    reply = await ask(watcher, "POST")
    assert (reply.status, reply.cookie) == (200, PINNED)
    assert ("unreadable" in caplog.text) == (error is not None)


@pytest.mark.parametrize(("cookie", "token"), [("litefs_pos", "pin"), ("__txid", "000000000000000b")])
async def test_what_the_stream_has_told_is_not_what_was_written(cookie: str, token: str) -> None:
    """It may be another request's write, and the node die with this one: a pin; what has none carries what is known."""
    watcher = FakeWatcher()
    watcher.file = OSError("unreadable")

    def others(scope: Scope) -> None:
        watcher.known = Position(11, 5)

    reply = await ask(watcher, "POST", handler=Handler(others), cookie=cookie)
    assert (reply.cookie or "").startswith(f"{cookie}={token}; ")


async def test_an_application_may_say_what_it_likes_to_caches() -> None:
    """Its own ``cache-control`` stays."""
    watcher = FakeWatcher()
    handler = Handler(lambda scope: watcher.commit(), headers=[(b"Cache-Control", b"no-cache")])
    reply = await ask(watcher, "POST", handler=handler)
    assert [name for name, _ in reply.messages[0]["headers"]].count(b"cache-control") == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_cookie_ahead_of_the_primary_is_replaced(method: str) -> None:
    """A fail-over lost its transaction: no replica will ever have it. On LiteFS's proxy it costs 5 s and a 504."""
    reply = await ask(FakeWatcher(), method, "/", [("cookie", "txnum=99")])
    assert (reply.cookie == PINNED) if method == "POST" else (reply.cookie or "").startswith("txnum=10; ")
    assert reply.header("cache-control") == "private"


async def test_ahead_means_ahead_of_the_file() -> None:
    """What the watcher knows may be older than what this very node has handed out a moment ago."""
    watcher = FakeWatcher()
    watcher.commit()
    reply = await ask(watcher, "GET", "/", [("cookie", "txnum=11")])
    assert (reply.cookie, watcher.reads) == (None, 1)


async def test_ahead_is_not_judged_without_reading() -> None:
    """Where the file can't be read, the cookie stays."""
    watcher = FakeWatcher()
    watcher.file = OSError("frozen")
    assert (await ask(watcher, "GET", "/", [("cookie", "txnum=99")])).cookie is None


async def test_a_write_replaces_a_cookie_that_is_ahead() -> None:
    """With the lower TXID, which can be met."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "POST", "/", [("cookie", "txnum=99")], handler=writer(watcher))
    assert reply.all("set-cookie") == [SET_11]


async def test_a_header_ahead_of_the_primary_is_answered_with_the_truth() -> None:
    """There is nothing to delete: the client is told where the primary is."""
    reply = await ask(FakeWatcher(), "GET", "/", [("litefs-txid", "99")])
    assert (reply.header("litefs-txid"), reply.cookie) == (str(Position(10, 1)), None)


@pytest.mark.parametrize("watcher", [FakeWatcher(), replica(), unknown()])
async def test_a_cookie_that_is_garbage_is_deleted_anywhere(watcher: FakeWatcher) -> None:
    """It can never be met; the request runs as if it had none."""
    watcher.waits.clear()
    reply = await ask(watcher, "GET", "/", [("cookie", "a=b; txnum=1e300")])
    assert (reply.status, reply.cookie, watcher.waits) == (200, DELETED, [])


async def test_nothing_is_deleted_on_a_replica() -> None:
    """It can't know what the primary has."""
    reply = await ask(replica(), "GET", "/", [("cookie", "txnum=99")], on_timeout="stale")
    assert reply.cookie is None


async def test_a_node_that_is_demoted_meanwhile_deletes_nothing() -> None:
    """What it read is then a replica's position."""
    watcher = FakeWatcher()
    handler = Handler(lambda scope: watcher.become(Role.REPLICA, "node-b"))
    assert (await ask(watcher, "GET", "/", [("cookie", "txnum=99")], handler=handler)).cookie is None


async def test_several_cookie_headers_count_in_order() -> None:
    """HTTP/2 clients split them; the first of ours wins, and the others are not looked at."""
    watcher = replica()
    headers = [("cookie", "a=b"), ("cookie", "txnum=12"), ("cookie", "txnum=99"), ("cookie", "txnum=bad")]
    await ask(watcher, "GET", "/", headers)
    assert watcher.waits == [("tx", 12, 0.5)]


async def test_monotonic_every_response_carries_what_it_may_have_shown() -> None:
    """The position when the response starts, since the handler may have read up to that; or the client's, if newer."""
    watcher = replica()
    reply = await ask(watcher, "GET", handler=writer(watcher), monotonic=True)
    assert reply.cookie == SET_11
    reply = await ask(replica(), "GET", "/", [("cookie", "txnum=12")], monotonic=True, on_timeout="stale")
    assert (reply.cookie or "").startswith("txnum=12; ")
    reply = await ask(FakeWatcher(), "GET", "/", [("cookie", "txnum=99")], monotonic=True)
    assert (reply.cookie or "").startswith("txnum=10; ")  # ahead of the primary: the truth


class Wrapped:
    """Like the requests of Starlette, FastAPI, Litestar, Quart and Django."""

    def __init__(self, scope: Scope) -> None:
        self.scope = dict(scope)  # frameworks copy it


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scope: scope,
        dict,
        Wrapped,
        lambda scope: SimpleNamespace(environ={SCOPE_KEY: scope[SCOPE_KEY]}),
        lambda scope: SimpleNamespace(scope=None, environ={SCOPE_KEY: scope[SCOPE_KEY]}),
    ],
)
async def test_mark_written_takes_any_request(wrap: Any) -> None:
    """A scope, a copy of it, a request with ``scope``, or with ``environ``."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "GET", handler=Handler(lambda scope: mark_written(wrap(scope))))
    assert reply.cookie is not None


def test_mark_written_without_the_middleware_does_nothing() -> None:
    """A handler can be tested alone, and a path passed through. What is no request is a mistake."""
    mark_written({"type": "http"})
    mark_written(SimpleNamespace(scope={}))
    with pytest.raises(TypeError, match="not str"):
        mark_written("request")


async def test_an_error_page_after_a_commit_carries_the_position() -> None:
    """What is committed is committed, whatever the status: the client's next read shall see it."""
    watcher = FakeWatcher()
    reply = await ask(watcher, "POST", handler=Handler(lambda scope: watcher.commit(), status=502))
    assert (reply.status, reply.cookie) == (502, SET_11)


@pytest.mark.parametrize("said", [b"public, max-age=60", b"S-MaxAge=60", b"max-age=60,public"])
async def test_a_cookie_is_not_left_to_shared_caches(said: bytes) -> None:
    """``private`` is added to what the application says, and counts, whatever else is said (RFC 9111, 5.2.2.7)."""
    watcher = FakeWatcher()
    handler = Handler(lambda _: watcher.commit(), headers=[(b"cache-control", said)])
    reply = await call(LiteFSMiddleware(handler, watcher.watcher), "POST")
    assert reply.all("cache-control") == [said.decode(), "private"]


async def test_scripts_of_other_origins_may_read_the_token() -> None:
    """Where the application lets them read its answer."""
    for headers, exposed in (([], []), ([(b"Access-Control-Allow-Origin", b"*")], ["litefs-txid"])):
        watcher = FakeWatcher()
        handler = Handler(lambda _: watcher.commit(), headers=headers)  # noqa: B023 - it is called at once
        reply = await call(LiteFSMiddleware(handler, watcher.watcher), "POST")
        assert reply.header("litefs-txid") is not None
        assert reply.all("access-control-expose-headers") == exposed
