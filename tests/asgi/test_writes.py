"""Writes go to the primary, or wait for one; never do they run elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from litefs_watch import Role
from litefs_watch.asgi import LiteFSMiddleware, Redirect
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica, unknown

WRITES = ["POST", "PUT", "PATCH", "DELETE", "MKCOL", "post"]
READS = ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"]


async def ask(watcher: FakeWatcher, *arguments: Any, handler: Handler | None = None, **options: Any) -> Reply:
    options = {"cookie": "txnum"} | options
    return await call(LiteFSMiddleware(handler or Handler(), watcher.watcher, **options), *arguments)


def is_replay(reply: Reply, hostname: str = "node-b") -> bool:
    return (reply.status, reply.header("fly-replay"), reply.body) == (409, f"instance={hostname}", b"")


def is_refusal(reply: Reply) -> bool:
    return reply.status == 503 and reply.header("retry-after") == "1" and reply.header("cache-control") == "no-store"


@pytest.mark.parametrize("method", WRITES)
async def test_a_write_on_a_replica_is_replayed_unread(method: str) -> None:
    """409, litefs-js's header, an empty body, no cache, no cookie; neither the handler nor the body is touched."""
    handler = Handler()
    reply = await ask(replica(), method, handler=handler)
    assert is_replay(reply)
    assert reply.header("content-length") == "0"
    assert reply.header("cache-control") == "no-store"
    assert reply.cookie is None
    assert (handler.runs, reply.received) == (0, 0)


@pytest.mark.parametrize("method", READS)
async def test_a_read_on_a_replica_runs(method: str) -> None:
    """OPTIONS too, which LiteFS's proxy takes for a write."""
    assert (await ask(replica(), method)).status == 200


@pytest.mark.parametrize("method", WRITES + READS)
async def test_the_primary_runs_everything(method: str) -> None:
    """Without a wait, whatever TXID the client has; one that is ahead has it look whether it still is the primary."""
    for txid, waits in ((9, []), (99, [("primary?", 5.0)])):
        watcher = FakeWatcher()
        assert (await ask(watcher, method, "/", [("cookie", f"txnum={txid}")])).status == 200
        assert watcher.waits == waits


async def test_named_paths_go_to_the_primary_whatever_the_method() -> None:
    """A GET that writes; but OPTIONS stays, which a browser asks before it sends anything."""
    assert is_replay(await ask(replica(), "GET", "/cart/add", primary_paths=["/cart/*"]))
    assert is_replay(await ask(replica(), "HEAD", "/cart/add", primary_paths=["/cart/*"]))
    assert (await ask(replica(), "OPTIONS", "/cart/add", primary_paths=["/cart/*"])).status == 200
    assert (await ask(replica(), "GET", "/cart", primary_paths=["/cart/*"])).status == 200


async def test_paths_pass_through_untouched() -> None:
    """No replay, no wait, no cookie, not a header, and nothing in the scope."""
    scopes: list[Any] = []
    handler, watcher = Handler(scopes.append), replica()
    reply = await ask(watcher, "POST", "/upload", [("cookie", "txnum=bad")], handler=handler, passthrough_paths=["/upload"])
    assert (reply.status, reply.messages[0]["headers"]) == (200, handler.headers)
    assert watcher.waits == []
    assert not [key for key in scopes[0] if key.startswith("litefs")]


async def test_a_write_is_held_until_a_primary_is_known_and_goes_there() -> None:
    """A fail-over that ends on another node."""
    watcher, handler = unknown(), Handler()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-c")
    assert is_replay(await ask(watcher, "POST", handler=handler), "node-c")
    assert watcher.waits == [("primary", 5.0)]
    assert handler.runs == 0


async def test_a_write_is_held_until_a_primary_is_known_and_runs_here() -> None:
    """A fail-over that ends on this node."""
    watcher, handler = unknown(), Handler()
    watcher.during = lambda: watcher.become(Role.PRIMARY)
    assert (await ask(watcher, "POST", handler=handler, hold_writes=2)).status == 200
    assert watcher.waits == [("primary", 2)]


@pytest.mark.parametrize("seconds", [5.0, 0])
async def test_a_write_is_refused_when_no_primary_comes(seconds: float) -> None:
    """503, and the handler never ran: litefs-js writes locally in a fail-over."""
    watcher, handler = unknown(), Handler()
    assert is_refusal(await ask(watcher, "POST", handler=handler, hold_writes=seconds))
    assert handler.runs == 0
    assert watcher.waits == ([("primary", 5.0)] if seconds else [])


async def test_a_flickering_primary_holds_a_write_once() -> None:
    """What it was held for is gone again when it goes on: refused, and not held for ever."""
    watcher = unknown()
    reply = await ask(watcher, "POST")
    assert is_refusal(reply)
    watcher.waits.clear()
    roles: Iterator[Any] = iter([Role.REPLICA, Role.UNKNOWN])

    async def flicker(*, timeout: float) -> None:
        watcher.waits.append(next(roles))

    watcher.wait_for_primary = flicker  # type: ignore[assignment, method-assign]
    assert is_refusal(await ask(watcher, "POST"))
    assert len(watcher.waits) == 1


@pytest.mark.parametrize("header", ["fly-replay-src", "fly-replay-failed", "litefs-forwarded"])
@pytest.mark.parametrize("value", ["", "\xff;;", "instance=node-a", "node-a", "node-b", "instance=node-b;region=ams;t=1"])
async def test_a_replayed_write_does_not_go_back(header: str, value: str) -> None:
    """Nor on, where nobody can tell who has sent it. It is refused at once: a primary is known, and not waited for."""
    watcher, handler = replica(), Handler()
    reply = await ask(watcher, "POST", "/", [(header, value.encode("latin-1"))], handler=handler)
    assert is_refusal(reply)
    assert watcher.waits == []
    assert handler.runs == 0


async def test_a_replayed_write_goes_on_and_is_counted() -> None:
    """To another node than the one that has sent it."""
    watcher, handler = replica(), Handler()
    for value, state in (("", 2), (";state=litefs.1.0", 2), (";state=litefs.2.13", 3)):
        reply = await ask(watcher, "POST", "/", [("fly-replay-src", f"instance=node-c;t=1{value}")], handler=handler)
        waited = 13 if state == 3 else 0
        assert (reply.status, reply.header("fly-replay")) == (409, f"instance=node-b;state=litefs.{state}.{waited}")
    assert is_refusal(await ask(watcher, "POST", "/", [("fly-replay-src", "instance=node-c;state=litefs.3.0")]))
    assert (handler.runs, watcher.waits) == (0, [])


@pytest.mark.parametrize("secret", [None, "k"])
@pytest.mark.parametrize("has_heard", [True, False])
async def test_a_hand_over_costs_one_hop(has_heard: bool, secret: str | None) -> None:
    """The new primary still believes the old one, which hears of its successor a moment later. If that one has still not
    heard of it when the write comes back, it is refused."""
    old, new, handler = unknown(), FakeWatcher(Role.REPLICA, "node-a"), Handler()
    new.hostname = "node-b"

    def hand_over() -> None:
        old.become(Role.REPLICA, "node-b")
        if has_heard:
            new.become(Role.PRIMARY)

    old.during = hand_over
    replayed: list[tuple[str, str]] = []
    for here, there in ((new, "node-a"), (old, "node-b")):
        reply = await ask(here, "POST", "/", replayed, handler=handler, secret=secret)
        assert reply.status == 409
        to, separator, state = (reply.header("fly-replay") or "").removeprefix("instance=").partition(";state=")
        assert to == there
        replayed = [("fly-replay-src", f"instance={here.hostname};region=ams;t=1{separator}{state}")]
    reply = await ask(new, "POST", "/", replayed, handler=handler, secret=secret)
    assert (reply.status, handler.runs) == ((200, 1) if has_heard else (503, 0))
    assert (old.waits, new.waits) == ([("primary", 5.0)], [])


async def test_a_strategy_that_does_not_count_sends_on_once() -> None:
    """It gets no count to send along, and so has none for a request that another node has sent here."""
    asked: list[str] = []

    async def send_on(scope: Any, receive: Any, send: Any, hostname: str) -> None:
        asked.append(hostname)
        await Handler()(scope, receive, send)

    assert (await ask(replica(), "POST", replay=send_on)).status == 200
    assert is_refusal(await ask(replica(), "POST", "/", [("fly-replay-src", "instance=node-c")], replay=send_on))
    assert asked == ["node-b"]


async def test_all_nodes_together_hold_a_write_no_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has waited elsewhere is not waited here, and what it has waited here it takes along."""
    now, watcher = [7.0], unknown()
    monkeypatch.setattr("litefs_watch.web.gate.time", SimpleNamespace(monotonic=lambda: now[0]))

    def elect() -> None:
        now[0] += 1.3
        watcher.become(Role.REPLICA, "node-c")

    watcher.during = elect
    assert (await ask(watcher, "POST")).header("fly-replay") == "instance=node-c;state=litefs.1.13"
    for tenths, left in ((13, [("primary", 3.7)]), (50, []), (9999, [])):
        watcher = unknown()
        assert is_refusal(await ask(watcher, "POST", "/", [("litefs-forwarded", f"node-c;state=litefs.1.{tenths}")]))
        assert watcher.waits == left


async def test_a_replayed_write_runs_where_this_node_becomes_the_primary() -> None:
    """The other node knew it first."""
    watcher = unknown()
    watcher.during = lambda: watcher.become(Role.PRIMARY)
    assert (await ask(watcher, "POST", "/", [("fly-replay-src", "instance=node-c")])).status == 200


async def test_a_replayed_write_runs_on_the_primary_at_once() -> None:
    """The ordinary case."""
    watcher = FakeWatcher()
    assert (await ask(watcher, "POST", "/", [("fly-replay-src", "instance=node-c")])).status == 200
    assert watcher.waits == []


@pytest.mark.parametrize("forged", ["fly-replay-src", "fly-replay-failed", "litefs-forwarded"])
async def test_a_forged_header_grants_nothing(forged: str) -> None:
    """A read runs as ever, and a write is only refused sooner."""
    assert (await ask(replica(), "GET", "/", [(forged, "instance=node-a;state=primary")])).status == 200
    assert is_refusal(await ask(replica(), "POST", "/", [(forged, "instance=node-a;state=primary")], hold_writes=0))


async def test_a_node_never_replays_to_itself() -> None:
    """Not even if it were named as its own primary: two nodes have its hostname, and no wait mends that."""
    watcher = FakeWatcher(Role.REPLICA, "node-a")
    assert is_refusal(await ask(watcher, "POST"))
    assert watcher.waits == []


async def test_a_primary_without_a_name_cannot_be_replayed_to(caplog: pytest.LogCaptureFixture) -> None:
    """503 at once, and the log says what to set."""
    watcher = FakeWatcher(Role.REPLICA, None)
    reply = await ask(watcher, "POST")
    assert is_refusal(reply)
    assert b"no hostname" in reply.body
    assert "lease.hostname" in caplog.text
    assert watcher.waits == []


@pytest.mark.parametrize(
    "name",
    ["a\r\nset-cookie: x=1", "a;state=evil", "a b", "a,b", "", "é", "a/../b", "a:80", "a@b", "..", "-x", "x" * 254, "a\0"],
)
async def test_a_hostname_cannot_inject_anything(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A ``.primary`` that would end a header, a field or a host is no primary to replay to."""
    for strategy in (None, Redirect("https://{hostname}.example.com")):
        reply = await ask(FakeWatcher(Role.REPLICA, name), "POST", replay=strategy)
        assert is_refusal(reply)
        assert reply.header("fly-replay") is reply.header("location") is None
        assert name not in reply.body.decode() or not name
    assert "only letters, digits" in caplog.text


async def test_too_many_held_writes_are_refused() -> None:
    """``max_held`` bounds what a fail-over can pile up; where it is not given, ``max_waiting`` does."""
    chosen: list[tuple[dict[str, Any], int]] = [
        ({"max_waiting": 0}, 0),
        ({"max_held": 0}, 0),
        ({"max_waiting": 0, "max_held": 1}, 1),
    ]
    for options, held in chosen:
        watcher = unknown()
        assert is_refusal(await ask(watcher, "POST", **options))
        assert len(watcher.waits) == held


async def test_every_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the request and the reason."""
    with caplog.at_level(logging.WARNING, "litefs_watch"):
        await ask(unknown(), "POST", "/orders")
    assert "503 for POST /orders" in caplog.text
    assert "no primary is known" in caplog.text
