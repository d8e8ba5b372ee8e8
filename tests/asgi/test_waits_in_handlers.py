"""A wait of the handler's own that was in vain is what ``on_timeout`` says, as if the middleware had waited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from litefs_watch import Role, TransactionLost, WaitTimeout
from litefs_watch.asgi import LiteFSMiddleware
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, raises, replica, unknown

IN_VAIN: dict[str, Callable[[], Exception]] = {
    "timeout": lambda: WaitTimeout("transaction 42 did not come within 0.5 s"),
    "lost": lambda: TransactionLost("transaction 42 is lost"),
    "group": lambda: ExceptionGroup("one task", [WaitTimeout("transaction 42")]),
}


@pytest.fixture(params=IN_VAIN)
def error(request: pytest.FixtureRequest) -> Exception:
    return IN_VAIN[request.param]()


async def ask(watcher: FakeWatcher, error: Exception, method: str = "GET", *headers: Any, **options: Any) -> Reply:
    return await call(LiteFSMiddleware(Handler(raises(error)), watcher.watcher, **options), method, "/", headers)


def is_refused(reply: Reply) -> bool:
    return (reply.status, reply.header("retry-after")) == (503, "1")


@pytest.mark.parametrize("on_timeout", ["replay", "stale"])
async def test_on_a_replica_it_is_replayed(error: Exception, on_timeout: str) -> None:
    """To the primary, which has it or can tell. What the handler would have shown stale is not there to be served."""
    reply = await ask(replica(), error, on_timeout=on_timeout)
    assert (reply.status, reply.header("fly-replay")) == (409, "instance=node-b")


async def test_it_is_refused_where_that_is_chosen(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """503; the log has what was waited for, and no client's business is in the answer."""
    reply = await ask(replica(), error, on_timeout="error")
    assert is_refused(reply)
    assert "transaction 42" in caplog.text
    assert b"42" not in reply.body


@pytest.mark.parametrize("on_timeout", ["replay", "error", "stale"])
async def test_on_the_primary_it_is_refused(error: Exception, on_timeout: str) -> None:
    """No other node has more."""
    for method in ("GET", "POST"):
        assert is_refused(await ask(FakeWatcher(), error, method, on_timeout=on_timeout))


async def test_what_may_have_written_stays_an_error(error: Exception) -> None:
    """On the primary: who is told to try again would write twice."""
    watcher = FakeWatcher()

    async def app(*_: Any) -> None:
        watcher.commit()
        assert watcher.file is not None
        watcher.known = watcher.file  # type: ignore[assignment]
        raise error

    with pytest.raises(type(error)):
        await call(LiteFSMiddleware(app, watcher.watcher), "POST")


async def test_who_was_replayed_is_not_sent_back(error: Exception) -> None:
    """It is refused at once."""
    watcher = replica()
    reply = await ask(watcher, error, "GET", ("fly-replay-src", "instance=node-b"))
    assert is_refused(reply)
    assert watcher.waits == []


async def test_while_no_primary_is_known_it_is_held(error: Exception) -> None:
    """As a write is."""
    watcher = unknown()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-c")
    reply = await ask(watcher, error)
    assert (reply.status, reply.header("fly-replay")) == (409, "instance=node-c")


async def test_a_time_out_of_another_s_stays(error: Exception) -> None:
    """And one among several errors."""
    for other in (TimeoutError("a database's, or a peer's"), ExceptionGroup("two", [error, KeyError("bug")])):
        with pytest.raises(type(other)):
            await ask(replica(), other)


async def test_behind_starlette_s_error_page(error: Exception) -> None:
    """Which it sends while it handles the exception."""

    async def page(request: Request) -> Response:
        raise error

    app = LiteFSMiddleware(Starlette(routes=[Route("/", page)]), replica().watcher)
    reply = await call(app)
    assert (reply.status, reply.header("fly-replay")) == (409, "instance=node-b")
