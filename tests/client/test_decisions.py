"""Where a request goes, which token travels, what is sent again: against nodes that answer as each test has it."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from litefs_watch import (
    BlockingWatcher,
    ConfigError,
    NotPrimary,
    Position,
    TransactionLost,
    WaitTimeout,
    Watcher,
    WatcherClosed,
)
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.client import BlockingPrimaryClient, BlockingTokenTransport, NotHereYet, PrimaryClient, TokenTransport
from litefs_watch.client import session as module
from litefs_watch.jobs import acurrent_token
from litefs_watch.testing import SimulatedNode

Answers = Callable[[httpx2.Request], httpx2.Response]
ADDRESS = "http://{hostname}:8080"
AHEAD = Position(50, 0x8000000000000001)


class Nodes(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """The other nodes: what they were sent, and what they answer, one after the other; the last one again and again."""

    def __init__(self, *answers: httpx2.Response | Exception | Answers) -> None:
        self.answers = list(answers)
        self.seen: list[httpx2.Request] = []
        self.closed = False

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else httpx2.Response(answer.status_code, headers=answer.headers)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if not (self.answers and isinstance(self.answers[0], Exception)):
            request.read()
        return self._answer(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not (self.answers and isinstance(self.answers[0], Exception)):
            await request.aread()
        return self._answer(request)

    async def aclose(self) -> None:
        self.closed = True

    @property
    def hosts(self) -> list[str]:
        return [request.url.host for request in self.seen]

    @property
    def tokens(self) -> list[str | None]:
        return [request.headers.get("litefs-txid") for request in self.seen]


def answer(token: object = None, status: int = 200, **headers: str) -> httpx2.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, headers=given | ({} if token is None else {"litefs-txid": str(token)}))


REPLAY = answer(status=409, fly_replay="instance=node-c")
LITEFS_PROXY = answer(fly_replay="instance=node-c")
REFUSED = httpx2.ConnectError("connection refused")


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(primary="node-b") as node:
        yield node


@asynccontextmanager
async def client_of(node: SimulatedNode, nodes: Nodes, **options: Any) -> AsyncIterator[PrimaryClient]:
    async with (
        Watcher(node.settings()) as watcher,
        PrimaryClient(watcher, options.pop("address", ADDRESS), transport=nodes, **options) as client,
    ):
        yield client


async def test_it_goes_to_the_primary_and_carries_the_token_both_ways(node: SimulatedNode) -> None:
    """Path, query, body and headers are the request's; the host is the primary's; the shared transport stays open."""
    here = node.position()
    nodes = Nodes(answer(here))
    async with client_of(node, nodes) as client:
        assert client.token is None
        await client.post("/orders?a=%2F", json={"n": 1}, headers={"x-of": "mine"})
        assert client.token == str(here)
        await client.get("/orders", headers={"host": "shop.example", "litefs-txid": "7"})
    first, second = nodes.seen
    assert str(first.url) == "http://node-b:8080/orders?a=%2F"
    assert (first.method, first.content, first.headers["x-of"]) == ("POST", b'{"n":1}', "mine")
    assert first.headers["host"] == "node-b:8080"
    assert second.headers["host"] == "shop.example"
    assert nodes.tokens == [None, "7"]
    assert not nodes.closed


async def test_the_primary_itself_is_asked_by_its_name(node: SimulatedNode) -> None:
    """An address may be a function of the hostname."""
    node.become_primary()
    nodes = Nodes(answer())
    async with client_of(node, nodes, address=lambda hostname: f"https://{hostname}.example") as client:
        await client.get("/")
    assert str(nodes.seen[0].url) == "https://node-a.example/"


@pytest.mark.parametrize("options", [{}, {"secret": "ours", "cookie": "mine"}])
async def test_of_another_database_than_the_watchers(options: Any) -> None:
    """The middleware for it has another header; and a secret is all that is to be shared with it, and with jobs."""
    seen: list[bytes | None] = []
    secret = options.get("secret")
    with SimulatedNode(databases=("app.db", "users.db")) as node:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(dict(scope["headers"]).get(b"litefs-txid-users-db"))
            await anyio.to_thread.run_sync(node.commit, "users.db")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        async with Watcher(node.settings()) as watcher:
            below = httpx2.ASGITransport(LiteFSMiddleware(app, watcher, database="users.db", **options))
            async with PrimaryClient(
                watcher, "https://{hostname}", database="users.db", secret=secret, transport=below
            ) as client:
                await client.post("/")
                token = client.token or ""
                assert token.partition(".")[0] == str(node.position("users.db"))
                assert token == await acurrent_token("users.db", watcher=watcher, secret=secret)
                await client.post("/")
    assert seen == [None, token.encode()]


async def test_an_address_may_end_with_a_path(node: SimulatedNode) -> None:
    """As `Forward` has it: the request's is put behind it."""
    for address in ("http://{hostname}:8080/shop%2F1", lambda hostname: f"http://{hostname}:8080/shop%2F1/"):
        nodes = Nodes(answer())
        async with client_of(node, nodes, address=address) as client:
            await client.get("/orders?a=%2F")
        assert str(nodes.seen[0].url) == "http://node-b:8080/shop%2F1/orders?a=%2F"


async def test_the_answer_is_there_when_what_it_wrote_is_here(node: SimulatedNode) -> None:
    """Not before."""
    wrote: list[Position] = []
    arrived = anyio.Event()

    def write(request: httpx2.Request) -> httpx2.Response:
        wrote.append(Position(node.position().txid + 1, 0x8000000000000005))
        return answer(wrote[0])

    async with client_of(node, Nodes(write)) as client, anyio.create_task_group() as tasks:

        async def post() -> None:
            await client.post("/orders")
            assert node.position().txid == wrote[0].txid
            arrived.set()

        tasks.start_soon(post)
        await anyio.wait_all_tasks_blocked()
        assert not arrived.is_set()
        node.record("app.db", wrote[0])
        with anyio.fail_after(10):
            await arrived.wait()


async def test_a_watcher_that_is_stopped_meanwhile(node: SimulatedNode) -> None:
    """What was answered is not said to be unsent: it would be sent again. What is asked for later is."""
    nodes = Nodes(answer(AHEAD))
    async with Watcher(node.settings()) as watcher, PrimaryClient(watcher, ADDRESS, transport=nodes) as client:
        async with anyio.create_task_group() as tasks:

            async def post() -> None:
                with pytest.raises(NotHereYet, match=r"has answered 200, and may have written.*stopped"):
                    await client.post("/orders")

            tasks.start_soon(post)
            await anyio.wait_all_tasks_blocked()
            await watcher.stop()
        with pytest.raises(WatcherClosed):
            await client.post("/orders")
    assert len(nodes.seen) == 1


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        pytest.param(answer(AHEAD), None, 500, id="not here in time"),
        pytest.param(answer(), REPLAY, 500, id="done, and then the next one is not"),
        pytest.param(httpx2.ReadError("reset"), None, 500, id="broken off"),
        pytest.param(REPLAY, None, 409, id="not done"),
    ],
)
async def test_a_handler_that_had_something_done_is_not_sent_on(
    node: SimulatedNode, first: Any, second: Any, status: int
) -> None:
    """It would have that done again, on the primary: as a handler is that raises `NotPrimary`, or has waited in vain."""
    nodes = Nodes(first, *([second] if second else []))
    async with (
        Watcher(node.settings()) as watcher,
        PrimaryClient(watcher, ADDRESS, wait=0.01, patience=0.01, transport=nodes) as primary,
    ):

        async def page(scope: Any, receive: Any, send: Any) -> None:
            try:
                await primary.post("/one")
            except httpx2.ReadError as error:
                raise NotPrimary("node-b") from error
            await primary.post("/two")

        below = httpx2.ASGITransport(LiteFSMiddleware(page, watcher), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=below, base_url="https://shop") as client:
            assert (await client.get("/")).status_code == status


LIES = [
    pytest.param(str(AHEAD), "did not reach", id="of a stranger, or huge"),
    pytest.param("f" * 16 + "/" + "f" * 16, "did not reach", id="the largest"),
    pytest.param("x" * 60_000, "garbage", id="endless"),
    pytest.param("drop table", "garbage", id="garbage"),
    pytest.param("caf\xe9", "garbage", id="not ASCII"),
    pytest.param(f"{AHEAD}.{'A' * 22}", "garbage", id="signed, where nobody knows by whom"),
    pytest.param("pin", "not known yet", id="pin"),
]


@pytest.mark.parametrize(("token", "why"), LIES)
async def test_a_lying_answer_is_said(node: SimulatedNode, token: str, why: str) -> None:
    """With the answer, and that it is not to be sent again; what is no token is not carried, and nothing hangs."""
    response = httpx2.Response(201, headers=[(b"litefs-txid", token.encode("latin-1"))])
    nodes = Nodes(lambda request: response, answer(node.position()))
    async with client_of(node, nodes, wait=0.01) as client:
        with pytest.raises(NotHereYet, match=why) as raised:
            await client.post("/orders")
        assert raised.value.response.status_code == 201
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
        await client.get("/orders")  # the next answer replaces what the last one said
        assert client.token == str(node.position())
    assert nodes.tokens == [None, None if why == "garbage" else token]


async def test_with_a_secret_no_stranger_is_believed(node: SimulatedNode) -> None:
    """A token that nobody has signed, or another, is neither carried nor waited for."""
    signed: list[str] = []
    nodes = Nodes(answer(AHEAD), lambda request: answer(signed[0]))
    async with client_of(node, nodes, secret="ours", wait=0.01) as client:
        with pytest.raises(NotHereYet, match="forged"):
            await client.post("/orders")
        signed.append(client._session._tokens.encode(node.position()))
        await client.post("/orders")
        assert (client.token, nodes.tokens) == (signed[0], [None, None])
        with pytest.raises(ValueError, match="is no token"):
            client.token = signed[0][:-1] + ("A" if signed[0][-1] != "A" else "B")


async def test_a_session_goes_back_only_where_it_is_told_to(node: SimulatedNode) -> None:
    """Two requests at once: the later answer is of the earlier write. Then the primary says that the last write is lost."""
    nodes = Nodes(answer(AHEAD), answer(Position(49, 1)), answer(Position(48, 1)))
    async with client_of(node, nodes, wait=None) as client:
        await client.get("/")
        await client.get("/", headers={"litefs-txid": "1"})
        assert client.token == str(AHEAD)
        await client.get("/")
        assert client.token == str(Position(48, 1))
        client.token = None
        await client.get("/")
    assert nodes.tokens == [None, "1", str(AHEAD), None]


async def test_a_lost_write_is_said(node: SimulatedNode) -> None:
    """Where this node has become the primary meanwhile, and never had it."""
    node.become_primary()
    async with client_of(node, Nodes(answer(AHEAD))) as client:
        with pytest.raises(TransactionLost):
            await client.post("/orders")


# A fail-over


@pytest.mark.parametrize("first", [REFUSED, REPLAY, LITEFS_PROXY], ids=["refused", "a replay", "a replay of LiteFS's proxy"])
async def test_a_fail_over_is_followed(node: SimulatedNode, first: Any) -> None:
    """The body is sent whole, again: that node has not done it."""

    nodes = Nodes(first, first, answer(node.position()))
    async with client_of(node, nodes) as client:
        with anyio.fail_after(10):
            assert (await client.post("/orders", content=b"body")).status_code == 200
    assert [request.content for request in nodes.seen[-1:]] == [b"body"]
    assert len(nodes.seen) == 3


@pytest.mark.parametrize(
    "error",
    [httpx2.ReadError("reset"), httpx2.RemoteProtocolError("cut"), httpx2.WriteError("broken"), httpx2.ReadTimeout("")],
)
async def test_what_may_have_run_is_sent_once(node: SimulatedNode, error: Exception) -> None:
    """The error is the caller's."""
    nodes = Nodes(error)
    async with client_of(node, nodes) as client:
        with pytest.raises(type(error)):
            await client.post("/orders")
    assert len(nodes.seen) == 1


async def test_an_error_that_says_nothing_was_sent_is_not_believed_once_the_body_was_read(node: SimulatedNode) -> None:
    """Whatever a transport calls it."""

    async def lie(request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        tries.append(request)
        raise httpx2.ConnectError("not so")

    tries: list[httpx2.Request] = []
    below = httpx2.MockTransport(lie)
    async with Watcher(node.settings()) as watcher, PrimaryClient(watcher, ADDRESS, transport=below) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.post("/orders", content=b"body")
    assert len(tries) == 1


async def test_a_body_that_is_gone_is_not_sent_again(node: SimulatedNode) -> None:
    """A stream that the replica has read; before anything was sent, it goes out whole."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    nodes = Nodes(REFUSED, REPLAY)
    async with client_of(node, nodes) as client:
        with pytest.raises(NotPrimary, match="can't be sent again"):
            await client.post("/orders", content=pieces())
    assert len(nodes.seen) == 2
    assert nodes.seen[1].content == b"onetwo"


@pytest.mark.parametrize(("always", "error"), [(REFUSED, httpx2.ConnectError), (REPLAY, NotPrimary)])
async def test_it_does_not_try_for_ever(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, always: Any, error: type[Exception]
) -> None:
    """So often, and for so long, at most."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    nodes = Nodes(always)
    async with client_of(node, nodes, patience=1e6) as client:
        with pytest.raises(error):
            await client.post("/orders")
        assert len(nodes.seen) == module.MOST_TRIES
    async with client_of(node, nodes, patience=0.001) as client:
        with pytest.raises((error, WaitTimeout)):
            await client.post("/orders")
    assert len(nodes.seen) <= 2 * module.MOST_TRIES


async def test_where_no_primary_is_known_nothing_is_sent(node: SimulatedNode) -> None:
    """It waits for one, for so long; and a primary without a name can't be sent to."""
    node.lose_primary()
    nodes = Nodes(answer())
    async with client_of(node, nodes, patience=0.01) as client:
        with pytest.raises(WaitTimeout, match="no primary was known"):
            await client.post("/orders")
        node.set_primary("")
        await client._transport._watcher.wait_for_role("replica", timeout=10)  # type: ignore[attr-defined]
        with pytest.raises(NotPrimary, match="has no hostname"):
            await client.post("/orders")
    assert nodes.seen == []


async def test_it_sends_nothing_elsewhere(node: SimulatedNode) -> None:
    """Neither for a caller, nor for a redirection; one within the primary is followed, with the token."""
    nodes = Nodes(
        answer(5, status=307, location="/there"), answer(6), answer(status=307, location="http://elsewhere.example/")
    )
    async with client_of(node, nodes, follow_redirects=True, wait=None) as client:
        with pytest.raises(httpx2.UnsupportedProtocol, match="to the primary only"):
            await client.get("http://elsewhere.example/")
        await client.get("/here")
        assert [request.url.path for request in nodes.seen] == ["/here", "/there"]
        with pytest.raises(httpx2.UnsupportedProtocol, match="to the primary only"):
            await client.get("/")
    assert nodes.tokens == [None, "5", "6"]
    assert set(nodes.hosts) == {"node-b"}


@pytest.mark.parametrize(
    ("address", "location", "then"),
    [
        (ADDRESS, "http://node-b:8080/orders/?a=%2F", "http://node-b:8080/orders/?a=%2F"),  # Starlette's, for a slash
        (ADDRESS, "https://node-b:8080/x", "http://node-b:8080/x"),
        (ADDRESS, "again", "http://node-b:8080/again"),
        (ADDRESS + "/shop", "http://node-b:8080/shop/x", "http://node-b:8080/shop/x"),
        (ADDRESS + "/shop", "/shop/x", "http://node-b:8080/shop/x"),
        (ADDRESS, "http://node-c:8080/x", None),
        (ADDRESS, "http://[", None),
    ],
)
async def test_a_redirection_to_the_same_node_is_followed(
    node: SimulatedNode, address: str, location: str, then: str | None
) -> None:
    """It is one to the primary, whoever that is by then; another node is elsewhere."""
    nodes = Nodes(answer(status=307, location=location), answer())
    async with client_of(node, nodes, address=address, follow_redirects=True) as client:
        if then is None:
            with pytest.raises((httpx2.UnsupportedProtocol, httpx2.RemoteProtocolError)):
                await client.post("/orders", content=b"body")
        else:
            await client.post("/orders", content=b"body")
    assert [str(request.url) for request in nodes.seen[1:]] == ([then] if then else [])
    assert [request.content for request in nodes.seen] == [b"body"] * len(nodes.seen)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("node-b:8080", {}),
        ("http://{host}:1", {}),
        (8080, {}),
        (ADDRESS, {"secret": ""}),
        (ADDRESS, {"patience": None}),
        (ADDRESS, {"proxy": "http://127.0.0.1:9"}),  # would be asked for a name that nobody has
        (ADDRESS, {"mounts": {"http://": Nodes(answer())}}),
        (ADDRESS, {"transport": Nodes(answer()), "verify": False}),  # would be passed over
    ],
)
async def test_what_can_not_work_is_a_config_error(node: SimulatedNode, address: Any, options: dict[str, Any]) -> None:
    """At once, not with the first request."""
    async with Watcher(node.settings()) as watcher:
        with pytest.raises(ConfigError):
            PrimaryClient(watcher, address, **options)


@pytest.mark.parametrize(
    ("client", "watcher", "transport"),
    [
        (PrimaryClient, Watcher, "AsyncHTTPTransport"),
        (BlockingPrimaryClient, BlockingWatcher, "HTTPTransport"),
    ],
)
def test_what_is_for_the_transport_reaches_it(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, client: Any, watcher: Any, transport: str
) -> None:
    """Whom it trusts, and how many connections there are; none is kept so long that a server may have closed it."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(httpx2, transport, lambda **options: seen.update(options))
    client(watcher(node.settings()), ADDRESS, verify="ours", cert="mine", limits=httpx2.Limits(max_connections=3), timeout=1)
    assert seen == {
        "verify": "ours",
        "cert": "mine",
        "limits": httpx2.Limits(max_connections=3, keepalive_expiry=module.KEEP_ALIVE),
    }


# In threads


def test_in_threads(node: SimulatedNode) -> None:
    """The same, with a `BlockingWatcher`."""
    node.commit()
    nodes = Nodes(REFUSED, REPLAY, answer(node.position()), answer(AHEAD), answer())
    with (
        BlockingWatcher(node.settings()) as watcher,
        BlockingPrimaryClient(watcher, ADDRESS, transport=nodes, wait=0.01) as client,
    ):
        assert client.post("/orders", content=b"body").status_code == 200
        assert client.token == str(node.position())
        with pytest.raises(NotHereYet, match="did not reach") as raised:
            client.post("/orders")
        assert raised.value.response.status_code == 200
        client.token = None
        client.get("/")
    assert nodes.seen[2].content == b"body"
    assert nodes.tokens == [None, None, None, str(node.position()), None]
    assert not nodes.closed


# From service to service


async def test_a_service_gets_back_what_it_said_last() -> None:
    """And no other's; also across a redirection. What is no header of ours is not kept."""
    to: dict[str, httpx2.Response] = {
        "a.example": answer(5),
        "b.example": answer("x" * 200),
        "c.example": answer(status=307, location="http://b.example/"),
    }
    nodes = Nodes(lambda request: httpx2.Response(to[request.url.host].status_code, headers=to[request.url.host].headers))
    async with httpx2.AsyncClient(transport=TokenTransport(nodes), follow_redirects=True) as client:
        for host in ("a.example", "b.example", "a.example", "b.example"):
            await client.get(f"http://{host}/")
        to["c.example"].headers["litefs-txid"] = "9"
        for _ in range(2):
            await client.get("http://c.example/")
    assert nodes.closed
    assert nodes.tokens == [None, None, "5", None, None, None, "9", None]
    with httpx2.Client(transport=BlockingTokenTransport(nodes)) as blocking:
        for _ in range(2):
            blocking.get("http://a.example/")
    assert nodes.tokens[-2:] == [None, "5"]


@pytest.mark.parametrize(
    ("wrote", "read", "then"),
    [
        (f"{AHEAD}.{'A' * 22}", f"{Position(49, 5)}.{'B' * 22}", f"{AHEAD}.{'A' * 22}"),
        ("pin", str(AHEAD), "pin"),
        ("50", str(Position(51, 5)), str(Position(51, 5))),
        ("a-b", "c-d", "a-b"),
    ],
)
def test_an_answer_that_took_long_takes_no_write_back(wrote: str, read: str, then: str) -> None:
    """A read was under way while something was written: that is in the session, however the two are answered. An answer to
    who carried it counts, whatever it says: it may be of a write that is lost."""

    def slow(request: httpx2.Request) -> httpx2.Response:
        client.post("http://a.example/write")
        return answer(read)

    nodes = Nodes(slow, answer(wrote), answer("7"), answer())
    with httpx2.Client(transport=BlockingTokenTransport(nodes)) as client:
        for _ in range(3):
            client.get("http://a.example/")
    assert nodes.tokens == [None, None, then, "7"]


def test_a_service_may_have_several_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a header of its own, up to so many; what only begins like it is none."""
    monkeypatch.setattr(module, "_MOST_DATABASES", 2)
    nodes = Nodes(answer(5, litefs_txid_users_db="6", litefs_txids="7"), answer(litefs_txid_more="8"), answer())
    with httpx2.Client(transport=BlockingTokenTransport(nodes)) as client:
        for _ in range(3):
            client.get("http://a.example/")
    found = [{name: value for name, value in seen.headers.items() if name.startswith("litefs")} for seen in nodes.seen]
    assert found == [{}] + 2 * [{"litefs-txid": "5", "litefs-txid-users-db": "6"}]


def test_services_do_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest one's token is forgotten."""
    monkeypatch.setattr(module, "_MOST_SERVICES", 2)
    nodes = Nodes(answer(5))
    with httpx2.Client(transport=BlockingTokenTransport(nodes)) as client:
        for host in ("a", "b", "c", "a", "c"):
            client.get(f"http://{host}.example/")
    assert nodes.tokens == [None, None, None, None, "5"]
