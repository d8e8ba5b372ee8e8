"""What a client, or a file, can say that makes no sense, and what then happens: one table, and a property over all bytes."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from litefs_watch import Role
from litefs_watch.asgi import FlyReplay, LiteFSMiddleware, Redirect
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica, unknown

# On a replica at transaction 10, whose primary is at 10, too. The client's GET ...
RUNS = "runs"  # as if the client had said nothing
DELETED = "runs, and the cookie is deleted"
WAITS = "waits"  # for 12, and is replayed in vain; on the primary it runs and the cookie is replaced: it is ahead
REPLAYED = "replayed at once"  # on the primary it runs and the cookie is replaced

COOKIES: dict[str, tuple[list[bytes], str]] = {
    # what is sent: the cookie headers, what happens
    "a TXID": ([b"txnum=12"], WAITS),
    "a TXID that is here": ([b"txnum=10"], RUNS),
    "nothing": ([], RUNS),
    "an empty header": ([b""], RUNS),
    "another cookie": ([b"a=12; xtxnum=12; TXNUM=12"], RUNS),
    "JSON before it": ([b'cart={"a":[1,2],"txnum":3}; txnum=12'], WAITS),
    "bare words before it": ([b"hello; big world; txnum=12"], WAITS),
    "a quote that never ends": ([b'a="; txnum=12'], WAITS),
    "UTF-8 before it": (["naïve=日本; txnum=12".encode()], WAITS),
    "bytes that are no text": ([b"a=\xff\xfe\x00\x80; txnum=12"], WAITS),
    "8 KB before it": ([b"a=" + b"x" * 8192 + b"; txnum=12"], WAITS),
    "8 KB of semicolons": ([b";" * 8192 + b"txnum=12"], WAITS),
    "8 KB of spaces": ([b" " * 8192 + b"txnum" + b" " * 8192 + b"=" + b" " * 8192 + b"12"], WAITS),
    "8 KB in it": ([b"txnum=" + b"1" * 8192], DELETED),
    "in the second header": ([b"a=b", b"txnum=12"], WAITS),
    "five, the first counts": ([b"txnum=12; txnum=1; txnum=x", b"txnum=13; txnum=14"], WAITS),
    "five, the first is garbage": ([b"txnum=x; txnum=12", b"txnum=12; txnum=12; txnum=12"], DELETED),
    "empty": ([b"txnum="], DELETED),
    "no value": ([b"txnum"], RUNS),
    "spaces around": ([b"txnum = 12 "], WAITS),
    "a space inside": ([b"txnum=1 2"], DELETED),
    "negative": ([b"txnum=-1"], DELETED),
    "with a plus": ([b"txnum=+12"], DELETED),
    "a float": ([b"txnum=12.0"], DELETED),
    "1e300": ([b"txnum=1e300"], DELETED),
    "NaN": ([b"txnum=NaN"], DELETED),
    "hexadecimal": ([b"txnum=000000000000000c"], DELETED),
    "0x": ([b"txnum=0xc"], DELETED),
    "underscores": ([b"txnum=1_2"], DELETED),
    "in quotes": ([b'txnum="12"'], DELETED),
    "percent-encoded": ([b"txnum=%31%32"], DELETED),
    "Arabic digits": (["txnum=١٢".encode()], DELETED),
    "full-width digits": (["txnum=\uff11\uff12".encode()], DELETED),
    "a null byte": ([b"txnum=12\x00"], DELETED),
    "2^64": ([b"txnum=18446744073709551616"], DELETED),
    "2^64 - 1": ([b"txnum=18446744073709551615"], REPLAYED),
    "2^53 + 1": ([b"txnum=9007199254740993"], REPLAYED),
    "signed, where nothing is": ([b"txnum=12.AAAAAAAAAAAAAAAAAAAAAA"], DELETED),
}


async def ask(watcher: FakeWatcher, method: str, headers: list[tuple[str, bytes]], **options: Any) -> Reply:
    options = {"cookie": "txnum"} | options
    return await call(LiteFSMiddleware(Handler(), watcher.watcher, **options), method, "/", headers)


@pytest.mark.parametrize("name", COOKIES)
async def test_a_cookie_on_a_replica(name: str) -> None:
    """The table, on a replica."""
    headers, outcome = COOKIES[name]
    watcher = replica()
    reply = await ask(watcher, "GET", [("cookie", header) for header in headers])
    replayed = outcome in (WAITS, REPLAYED)
    assert watcher.waits == ([("tx", 12, 0.5)] if outcome == WAITS else [])
    assert reply.status == (409 if replayed else 200)
    assert (reply.cookie or "").startswith("txnum=; Max-Age=0") == (outcome == DELETED)


@pytest.mark.parametrize("name", COOKIES)
async def test_a_cookie_on_the_primary(name: str) -> None:
    """The table, on the primary: what is ahead makes it look whether it still is, and is replaced; garbage is deleted."""
    headers, outcome = COOKIES[name]
    watcher = FakeWatcher()
    reply = await ask(watcher, "GET", [("cookie", header) for header in headers])
    asks = outcome in (WAITS, REPLAYED) and name != "2^64 - 1"  # a pin
    assert (reply.status, watcher.waits) == (200, [("primary?", 5.0)] if asks else [])
    assert (reply.cookie or "").startswith("txnum=; Max-Age=0") == (outcome == DELETED)
    assert (reply.cookie or "").startswith("txnum=10; ") == (outcome in (WAITS, REPLAYED))


@pytest.mark.parametrize("name", [name for name, (headers, _) in COOKIES.items() if headers and headers[0][:6] == b"txnum="])
async def test_a_header(name: str) -> None:
    """The same values in ``litefs-txid``: there is nothing to delete, so garbage is ignored. It has positions, and a TXID
    alone is understood in both ways of writing it."""
    headers, outcome = COOKIES[name]
    outcome = WAITS if name == "hexadecimal" else outcome
    value = headers[0].removeprefix(b"txnum=").partition(b";")[0].strip()
    watcher = replica()
    reply = await ask(watcher, "GET", [("litefs-txid", value)])
    assert watcher.waits == ([("tx", 12, 0.5)] if outcome == WAITS else [])
    assert (reply.status, reply.cookie) == (409 if outcome in (WAITS, REPLAYED) else 200, None)


async def test_several_headers() -> None:
    """The first ``litefs-txid`` that is no garbage counts; joined to one, as WSGI servers do, they are garbage."""
    for values, waits in (
        ([b"12", b"13"], [("tx", 12, 0.5)]),
        ([b"x", b"12"], [("tx", 12, 0.5)]),
        ([b"12,13"], []),
        ([b"12, 12"], []),
    ):
        watcher = replica()
        reply = await ask(watcher, "GET", [("litefs-txid", value) for value in values])
        assert (reply.status, watcher.waits) == (409 if waits else 200, waits)


@pytest.mark.parametrize("name", ["litefs-lost", "litefs-stale", "litefs-committed", "litefs-doubted", "fly-replay"])
async def test_what_only_we_say_is_not_listened_to(name: str) -> None:
    """In a request it is nobody's word: everything is as without it."""
    for watcher in (replica, FakeWatcher, unknown):
        for method in ("GET", "POST"):
            said, unsaid = watcher(), watcher()
            there = await ask(said, method, [(name, b"instance=node-c"), ("cookie", b"txnum=12")])
            assert there.messages == (await ask(unsaid, method, [("cookie", b"txnum=12")])).messages
            assert said.waits == unsaid.waits


HOSTNAME = re.compile(r"[A-Za-z0-9._-]+")
BYTES = st.binary(max_size=60)
TEXT = st.text(max_size=40)


def check(reply: Reply, method: str, role: Role, ran: int, watcher: FakeWatcher) -> None:
    """All that may ever come of a request."""
    assert reply.status in (200, 307, 409, 503)
    assert ran == (reply.status == 200)
    if method == "POST" and role is not Role.PRIMARY:
        assert ran == 0
    for name, value in reply.messages[0]["headers"]:
        assert re.fullmatch(rb"[a-z-]+", name)
        assert re.fullmatch(rb"[ -~]*", value)
    if (replay := reply.header("fly-replay")) is not None:
        assert HOSTNAME.fullmatch(re.sub(r";state=litefs\.[23]\.[0-9]{1,4}\Z", "", replay.removeprefix("instance=")))
    if (location := reply.header("location")) is not None:
        assert re.fullmatch(r"https://[A-Za-z0-9._-]+\.example\.com/", location)
    if reply.cookie is not None:
        assert re.fullmatch(r"txnum=[0-9]*; Max-Age=[0-9]+; Path=/; HttpOnly; SameSite=Lax; Secure", reply.cookie)
    looks = [wait for wait in watcher.waits if wait[0] == "primary?"]
    assert looks in ([], [("primary?", 5.0)] if role is Role.PRIMARY else [])
    for wait in watcher.waits[len(looks) :]:
        least = -1 if role is Role.UNKNOWN else 10  # while nobody vouches for what is here, no TXID alone is met
        assert wait == ("primary", 5.0) or (wait[0] == "tx" and least < wait[1] <= 10 + 1_000_000)
        assert wait[0] == "tx" or role is Role.UNKNOWN
    assert len(watcher.waits) <= 2


@settings(max_examples=300, deadline=None)
@given(
    role=st.sampled_from(list(Role)),
    primary=st.none() | TEXT | st.just("node-a") | st.just("node-b"),
    method=st.sampled_from(["GET", "POST"]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["cookie", "litefs-txid", "fly-replay-src", "fly-replay-failed", "litefs-forwarded", "x"]),
            BYTES | BYTES.map(lambda raw: b"txnum=" + raw) | st.integers(-1, 2**65).map(lambda n: b"txnum=%d" % n),
        ),
        max_size=6,
    ),
    strategy=st.sampled_from([FlyReplay(), Redirect("https://{hostname}.example.com")]),
    on_timeout=st.sampled_from(["replay", "error", "stale"]),
)
@example(Role.REPLICA, "a\r\nset-cookie: x=y", "POST", [], FlyReplay(), "replay")
@example(Role.REPLICA, "node-b", "GET", [("cookie", b"txnum=12"), ("fly-replay-src", b"\xff")], FlyReplay(), "replay")
def test_no_bytes_get_anything_else(
    role: Role, primary: str | None, method: str, headers: list[tuple[str, bytes]], strategy: Any, on_timeout: Any
) -> None:
    """Whatever is in the headers and in ``.primary``: the request runs, is sent to a name that is one, or is refused; a
    write runs on the primary only; nothing but our own bytes gets into a header; and it waits at most twice."""
    watcher = FakeWatcher(role, primary if role is Role.REPLICA else None)
    handler = Handler()
    middleware = LiteFSMiddleware(handler, watcher.watcher, cookie="txnum", replay=strategy, on_timeout=on_timeout)
    reply = anyio.run(call, middleware, method, "/", headers)
    check(reply, method, role, handler.runs, watcher)


@settings(max_examples=100, deadline=None)
@given(token=BYTES | st.from_regex(rb"[0-9]{1,20}\.[A-Za-z0-9_-]{22}", fullmatch=True), carrier=st.sampled_from(["c", "h"]))
def test_with_a_secret_nothing_made_up_is_waited_for(token: bytes, carrier: str) -> None:
    """In the cookie and in the header."""
    watcher, handler = replica(), Handler()
    header = ("cookie", b"txnum=" + token) if carrier == "c" else ("litefs-txid", token)
    reply = anyio.run(
        call, LiteFSMiddleware(handler, watcher.watcher, cookie="txnum", secret=b"k" * 32), "GET", "/", [header]
    )
    assert (reply.status, watcher.waits, handler.runs) == (200, [], 1)


@pytest.mark.parametrize("value", [b"", b"instance=", b"instance=node-a;state=x", b"\xff\xfe", b"t=1;" * 2000])
@pytest.mark.parametrize("header", ["fly-replay-src", "fly-replay-failed", "litefs-forwarded"])
async def test_a_forged_replay_header_only_ever_harms_its_sender(header: str, value: bytes) -> None:
    """A read and the primary don't look at it; a write elsewhere is refused, at once where a primary is known."""
    assert (await ask(replica(), "GET", [(header, value)])).status == 200
    assert (await ask(FakeWatcher(), "POST", [(header, value)])).status == 200
    for watcher, waits in ((replica(), []), (unknown(), [("primary", 5.0)])):
        assert (await ask(watcher, "POST", [(header, value)])).status == 503
        assert watcher.waits == waits
