"""Reads wait for what their client has seen, before the application runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import Position, Role
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.web.waiting import AsyncGate
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica, unknown

COOKIE = [("cookie", "txnum=12")]


def waiting_in(middleware: LiteFSMiddleware) -> int:
    assert isinstance(middleware._gate, AsyncGate)
    return middleware._gate.budget.waiting


async def ask(watcher: FakeWatcher, *arguments: Any, handler: Handler | None = None, **options: Any) -> Reply:
    options = {"cookie": "txnum"} | options
    return await call(LiteFSMiddleware(handler or Handler(), watcher.watcher, **options), *arguments)


def arrive(watcher: FakeWatcher, txid: int) -> None:
    watcher.known = Position(txid, 1)


@pytest.mark.parametrize("headers", [COOKIE, [("litefs-txid", "12")], [*COOKIE, ("litefs-txid", "3")]])
async def test_a_read_waits_for_the_clients_txid(headers: list[tuple[str, str]]) -> None:
    """From the cookie, from the header, or the newer of both; the handler runs when the wait is over."""
    watcher = replica()
    handler = Handler(lambda scope: watcher.waits.append(("handler",)))
    watcher.during = lambda: arrive(watcher, 12)
    reply = await ask(watcher, "GET", "/", headers, handler=handler)
    assert reply.status == 200
    assert watcher.waits == [("tx", 12, 0.5), ("handler",)]
    assert reply.cookie is None  # it lives on: the next request may reach another replica
    assert reply.received == 0  # nor was the body touched


@pytest.mark.parametrize(("times", "status"), [(1, 200), (2, 200), (3, 409)])
async def test_what_is_met_for_a_moment_is_waited_for_again(times: int, status: int) -> None:
    """Within the same time, three times at most: an event that is late looks like a database that has gone back."""
    watcher, handler = replica(), Handler()
    wait = watcher.wait_for_tx

    async def wait_for_a_moment(*arguments: Any, **options: Any) -> Position:
        arrive(watcher, 12)
        found = await wait(*arguments, **options)
        if len(watcher.waits) <= times:
            arrive(watcher, 11)
        return found

    watcher.wait_for_tx = wait_for_a_moment  # type: ignore[method-assign]
    reply = await ask(watcher, "GET", "/", COOKIE, handler=handler)
    assert (reply.status, handler.runs) == (status, int(status == 200))
    assert len(watcher.waits) == min(times + 1, 3)
    assert all(0 < seconds <= 0.5 for _, _, seconds in watcher.waits)


async def test_a_txid_that_is_here_is_not_waited_for() -> None:
    """Nothing is awaited, nothing is added, and the cookie stays: litefs-js deletes it on the first replica that has it."""
    watcher, handler = replica(txid=12), Handler()
    reply = await ask(watcher, "GET", "/", COOKIE, handler=handler)
    assert (reply.status, reply.messages[0]["headers"]) == (200, handler.headers)
    assert (watcher.waits, watcher.reads) == ([], 0)


@pytest.mark.parametrize("headers", [[], [("cookie", "a=b")], [("litefs-txid", "x")]])
async def test_without_a_token_nothing_waits_and_nothing_is_added(headers: list[tuple[str, str]]) -> None:
    """Ordinary pages stay as cacheable as the application made them."""
    watcher, handler = replica(), Handler()
    reply = await ask(watcher, "GET", "/", headers, handler=handler)
    assert reply.messages[0]["headers"] == handler.headers
    assert (watcher.waits, watcher.reads) == ([], 0)


async def test_a_read_in_vain_is_replayed() -> None:
    """litefs-js's default: the primary has it."""
    watcher, handler = replica(), Handler()
    reply = await ask(watcher, "GET", "/", COOKIE, handler=handler, timeout=0.25)
    assert (reply.status, reply.header("fly-replay")) == (409, "instance=node-b")
    assert watcher.waits == [("tx", 12, 0.25)]
    assert handler.runs == 0


async def test_a_read_in_vain_is_an_error() -> None:
    """``on_timeout="error"``: 503, with the time to come again."""
    reply = await ask(replica(), "GET", "/", COOKIE, on_timeout="error")
    assert (reply.status, reply.header("retry-after")) == (503, "1")


async def test_a_read_in_vain_is_served_stale() -> None:
    """``on_timeout="stale"``: it says so, and caches keep it for nobody else."""
    reply = await ask(replica(), "GET", "/", COOKIE, on_timeout="stale")
    assert (reply.status, reply.header("litefs-stale"), reply.header("vary")) == (200, "true", "cookie")


async def test_a_read_in_time_is_not_stale() -> None:
    """The header is for those that are."""
    watcher = replica()
    watcher.during = lambda: arrive(watcher, 13)
    reply = await ask(watcher, "GET", "/", COOKIE, on_timeout="stale")
    assert reply.header("litefs-stale") is None


async def test_a_response_that_waited_varies_by_what_it_waited_for() -> None:
    """Without the token, its body might have been an older one."""
    for headers, vary in ((COOKIE, "cookie"), ([("litefs-txid", "12")], "cookie, litefs-txid")):
        watcher = replica()
        watcher.during = partial(arrive, watcher, 12)
        assert (await ask(watcher, "GET", "/", headers)).header("vary") == vary


async def test_what_the_application_says_to_caches_stays() -> None:
    """``vary`` is added to, and not said twice."""
    watcher = replica()
    handler = Handler(headers=[(b"vary", b"Accept, Cookie"), (b"cache-control", b"max-age=60")])
    watcher.during = lambda: arrive(watcher, 12)
    reply = await ask(watcher, "GET", "/", COOKIE, handler=handler)
    assert reply.messages[0]["headers"] == handler.headers


async def test_a_replayed_read_in_vain_is_refused() -> None:
    """It is not sent back and forth, and it waits no longer than one that nobody has sent here."""
    watcher = replica()
    reply = await ask(watcher, "GET", "/", [*COOKIE, ("fly-replay-src", "instance=node-b")])
    assert reply.status == 503
    assert watcher.waits == [("tx", 12, 0.5)]


async def test_a_read_in_vain_without_a_primary_is_held() -> None:
    """What must go to the primary waits for one; if the position comes meanwhile, the better."""
    watcher = unknown()
    waits: list[object] = watcher.waits  # type: ignore[assignment]

    def during() -> None:
        if len(waits) == 2:
            arrive(watcher, 12)

    watcher.during = during
    position = Position(12, 1)
    assert (await ask(watcher, "GET", "/", [("cookie", f"litefs_pos={position}")], cookie="litefs_pos")).status == 200
    assert waits == [("tx", position, 0.5), ("primary", 5.0)]


async def test_a_replica_that_becomes_the_primary_serves() -> None:
    """Also what it will never have: the primary does not replay, and says that it is lost."""
    watcher = replica()
    watcher.during = lambda: watcher.become(Role.PRIMARY)
    reply = await ask(watcher, "GET", "/", COOKIE)
    assert reply.status == 200
    assert reply.cookie is not None
    assert reply.cookie.startswith("txnum=10; ")
    assert reply.header("litefs-lost") == "000000000000000c"


async def test_a_txid_absurdly_far_ahead_is_not_waited_for() -> None:
    """Who makes one up gets a replay, and costs no wait; the primary then replaces it."""
    for txid in (10 + 1_000_001, 2**63, 2**64 - 1):
        watcher = replica()
        reply = await ask(watcher, "GET", "/", [("cookie", f"txnum={txid}")])
        assert (reply.status, watcher.waits) == (409, [])
    watcher = replica()
    await ask(watcher, "GET", "/", [("cookie", f"txnum={10 + 1_000_000}")])
    assert len(watcher.waits) == 1


async def test_a_signed_txid_is_waited_for_however_far_ahead() -> None:
    """It is true: this replica is that far behind."""
    middleware = LiteFSMiddleware(Handler(), replica().watcher, secret="s3cret", cookie="txnum")
    token = middleware._policy.options.tokens("app.db").encode(2**40)
    watcher = replica()
    await ask(watcher, "GET", "/", [("cookie", f"txnum={token}")], secret="s3cret")
    assert watcher.waits == [("tx", 2**40, 0.5)]


@pytest.mark.parametrize("value", ["12", "12.AAAAAAAAAAAAAAAAAAAAAA"])
async def test_a_forged_token_is_ignored(value: str) -> None:
    """Not waited for, and not deleted: a node that has not got the new secret yet must not undo it."""
    watcher = replica()
    reply = await ask(watcher, "GET", "/", [("cookie", f"txnum={value}"), ("litefs-txid", value)], secret="s3cret")
    assert (reply.status, reply.cookie, watcher.waits) == (200, None, [])


async def test_a_replica_without_the_database_waits_for_it() -> None:
    """A new node has nothing yet."""
    watcher = replica()
    watcher.known = None
    watcher.during = lambda: arrive(watcher, 12)
    assert (await ask(watcher, "GET", "/", COOKIE)).status == 200


@pytest.mark.parametrize(("on_timeout", "status"), [("replay", 409), ("error", 503), ("stale", 200)])
async def test_the_next_one_does_not_wait(on_timeout: Any, status: int) -> None:
    """``max_waiting`` counts those that wait at this moment; who comes then is treated as if its time had passed."""
    watcher, handler = replica(), Handler()
    arrived, waiting = anyio.Event(), anyio.Event()

    async def wait_for_tx(txid: int, **_: Any) -> None:
        waiting.set()
        await arrived.wait()

    watcher.wait_for_tx = wait_for_tx  # type: ignore[assignment, method-assign]
    middleware = LiteFSMiddleware(handler, watcher.watcher, cookie="txnum", max_waiting=1, on_timeout=on_timeout)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, middleware, "GET", "/", COOKIE)
        await waiting.wait()
        assert (await call(middleware, "GET", "/", COOKIE)).status == status
        assert (await call(middleware, "GET", "/")).status == 200
        arrive(watcher, 12)
        arrived.set()
    assert (await call(middleware, "GET", "/", [("cookie", "txnum=13")])).status == status  # none waits now: it has waited
    assert waiting_in(middleware) == 0


async def test_a_client_that_hangs_up_leaves_no_waiter() -> None:
    """Cancelled by the server while it waits, it counts no more."""
    watcher = replica()

    async def wait_for_tx(txid: int, **_: Any) -> None:
        await anyio.sleep_forever()

    watcher.wait_for_tx = wait_for_tx  # type: ignore[assignment, method-assign]
    middleware = LiteFSMiddleware(Handler(), watcher.watcher, cookie="txnum")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, middleware, "GET", "/", COOKIE)
        await anyio.wait_all_tasks_blocked()
        assert waiting_in(middleware) == 1
        tasks.cancel_scope.cancel()
    assert waiting_in(middleware) == 0


async def test_requests_do_not_mix() -> None:
    """Nothing of a request is kept on the middleware: a hundred at once each get what is theirs."""
    watcher = FakeWatcher()
    watcher.file = Position(50, 1)
    replies: dict[int, Reply] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.lowlevel.checkpoint()
        status = int(scope["path"][1:])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await anyio.lowlevel.checkpoint()
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    middleware = LiteFSMiddleware(app, watcher.watcher, cookie="txnum")

    async def one(number: int) -> None:
        replies[number] = await call(middleware, "POST" if number % 2 else "GET", f"/{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(200, 300):
            tasks.start_soon(one, number)
    for number, reply in replies.items():
        assert (reply.status, reply.body) == (number, b"/%d" % number)
        assert (reply.cookie is not None) == bool(number % 2)
