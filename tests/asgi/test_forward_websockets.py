"""`Forward`: WebSockets go to the primary through this node, behind real servers and on both event loops."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

import litefs_watch.asgi.forwarder
import litefs_watch.asgi.websockets  # noqa: F401 - what these import reads files: once, and not in a test
from litefs_watch import NotPrimary, Role
from litefs_watch.asgi import Forward, LiteFSMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher, replica, scope_of
from tests.asgi.serving import serve
from tests.asgi.test_forward import Primary
from tests.asgi.test_forward_uploads import replica as served

DENIAL: dict[str, Any] = {"websocket.http.response": {}}
SOON = 10.0


class Live(Primary):
    """A primary with WebSockets."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        await receive()
        await getattr(self, scope["path"].rpartition("/")[2])(scope, receive, send)

    async def hello(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Says what it was asked for, then echoes."""
        headers = [(b"x-answer", b"42")]
        await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[-1], "headers": headers})
        seen = {
            "target": scope["raw_path"].decode() + "?" + scope["query_string"].decode(),
            "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
        }
        await send({"type": "websocket.send", "text": json.dumps(seen)})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "bye":
                await send({"type": "websocket.close", "code": 4321, "reason": "you said so"})
            else:
                await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        self.closed = message
        self.gone.set()

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With a response of its own."""
        headers = [(b"x-answer", b"42"), (b"content-length", b"4")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"who?"})

    async def die(self, scope: Scope, receive: Receive, send: Send) -> None:
        """In the middle, without a word."""
        await send({"type": "websocket.accept"})
        await receive()
        raise KeyError("a bug")


@pytest.fixture(scope="module")
def primary() -> Iterator[tuple[Live, str]]:
    live = Live()
    with serve(live) as url:
        yield live, url


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "hypercorn-trio", "granian", "daphne"])
def test_through_real_servers(server: str, primary: tuple[Live, str]) -> None:
    """Target, headers, subprotocol, text and bytes of any size, and the code and reason with which the primary closes."""

    async def converse(port: int) -> None:
        protocols = [Subprotocol("a"), Subprotocol("b")]
        headers = {"x-token": "1", "fly-replay-src": "instance=node-c"}  # sent here by another node: a second hop
        url = f"ws://127.0.0.1:{port}/live/hello?y[]=1"
        async with connect(url, subprotocols=protocols, additional_headers=headers) as socket:
            assert socket.subprotocol == "b"
            seen = json.loads(await socket.recv())
            assert seen["target"] == "/live/hello?y[]=1"
            assert seen["headers"]["x-token"] == "1"
            assert seen["headers"]["host"] == f"127.0.0.1:{port}"
            assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
            assert seen["headers"]["x-forwarded-proto"] == "http"
            assert seen["headers"]["litefs-forwarded"] == "node-a;state=litefs.2.0"
            for said in ("é", b"\x00\xff", "x" * 300_000, *(() if server == "daphne" else ("", b""))):  # it drops empty ones
                await socket.send(said)
                assert await socket.recv() == said
            await socket.send("bye")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4321
            assert closed.value.rcvd.reason == ("" if server == "daphne" else "you said so")  # nor does it pass reasons on

    with served(server, primary[1]) as port:
        asyncio.run(asyncio.wait_for(converse(port), 30))


class Client:
    """One side of an ASGI server, for a WebSocket through ``app``."""

    def __init__(self, app: Any, path: str, headers: Any = (("host", "h"),), **others: Any) -> None:
        self._app = app
        self._scope = scope_of("GET", path, headers, type="websocket", subprotocols=[], **others)
        self._saying, self._said = anyio.create_memory_object_stream[Message](8)
        self._to, self._heard = anyio.create_memory_object_stream[Message](64)

    async def run(self) -> None:
        async with self._to:
            await self._saying.send({"type": "websocket.connect"})
            await self._app(self._scope, self._said.receive, self._to.send)

    async def say(self, **message: Any) -> None:
        await self._saying.send({"type": "websocket.receive"} | message)

    async def hear(self) -> Message:
        with anyio.fail_after(SOON):
            return await self._heard.receive()


@asynccontextmanager
async def client(
    url: str, path: str, app: Any = None, watcher: FakeWatcher | None = None, **others: Any
) -> AsyncIterator[Client]:
    """A client of a replica that forwards to ``url``; the application is ``app``, else nothing runs here."""

    async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the application ran on the replica")

    paths = [] if app and watcher is None else ["/*"]
    watcher = watcher or replica()
    middleware = LiteFSMiddleware(app or unreached, watcher.watcher, replay=Forward(url), primary_paths=paths)
    one = Client(middleware, path, **others)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            yield one
    finally:
        for stream in (one._said, one._saying, one._heard):
            stream.close()


async def test_who_leaves_leaves_the_primary(primary: tuple[Live, str]) -> None:
    """With the code that the client gave, or without a word, as it was here (which uvicorn calls 1005)."""
    live, url = primary
    for code, seen in ((4001, 4001), (1005, 1005), (1006, 1005)):
        live.gone.clear()
        async with client(url, "/live/hello") as one:
            assert (await one.hear())["type"] == "websocket.accept"
            await one.hear()
            await one._saying.send({"type": "websocket.disconnect", "code": code, "reason": ""})
        assert await anyio.to_thread.run_sync(live.gone.wait, SOON)
        assert int(live.closed["code"]) == seen


async def test_a_primary_that_breaks_off_is_1012(primary: tuple[Live, str]) -> None:
    """The client connects again, and may find another primary."""
    async with client(primary[1], "/live/die") as one:
        assert (await one.hear())["type"] == "websocket.accept"
        await one.say(text="now")
        closed = await one.hear()
        assert (closed["type"], closed["code"] in (1011, 1012)) == ("websocket.close", True)


@pytest.mark.parametrize("extensions", [{}, DENIAL])
async def test_a_refusal_is_the_primary_s(primary: tuple[Live, str], extensions: dict[str, Any]) -> None:
    """Its status, headers and body, where the server here can; else the WebSocket is closed before it is accepted."""
    async with client(primary[1], "/live/refuse", extensions=extensions) as one:
        first = await one.hear()
        if not extensions:
            assert first["type"] == "websocket.close"
            return
        assert (first["type"], first["status"]) == ("websocket.http.response.start", 401)
        assert (b"x-answer", b"42") in first["headers"]
        body = b""
        while (message := await one.hear()).get("more_body"):
            body += message["body"]
        assert body + message["body"] == b"who?"


async def test_a_primary_that_cannot_be_reached_is_503() -> None:
    """Before the WebSocket is accepted."""
    async with client("http://127.0.0.1:1", "/live/hello", extensions=DENIAL) as one:
        assert (await one.hear())["status"] == 503


async def test_a_handler_that_says_so(primary: tuple[Live, str]) -> None:
    """`NotPrimary` before it has accepted, though it has seen the client connect: the primary takes over."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        raise NotPrimary("node-b")

    async with client(primary[1], "/live/hello", handler, scheme="wss") as one:
        assert (b"x-answer", b"42") in (await one.hear())["headers"]
        seen = json.loads((await one.hear())["text"])
        assert seen["headers"]["x-forwarded-proto"] == "https"
        await one.say(bytes=b"x", text=None)
        assert (await one.hear())["bytes"] == b"x"
        await one.say(text="bye")
        assert (await one.hear())["code"] == 4321


async def test_one_that_was_let_in_on_the_primary(primary: tuple[Live, str]) -> None:
    """Which is none any more when its handler asks: what is sent on is open on the new one, and not closed here."""
    watcher = FakeWatcher()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        watcher.become(Role.REPLICA, "node-b")
        raise NotPrimary("node-b")

    async with client(primary[1], "/live/hello", handler, watcher) as one:
        assert (b"x-answer", b"42") in (await one.hear())["headers"]
        await one.hear()
        await anyio.wait_all_tasks_blocked()
        await one.say(bytes=b"x", text=None)
        assert (await one.hear())["bytes"] == b"x"
        await one.say(text="bye")
        assert (await one.hear())["code"] == 4321


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """503, and the log says what to install; requests need nothing."""
    monkeypatch.setitem(sys.modules, "litefs_watch.asgi.websockets", None)
    async with client("http://127.0.0.1:1", "/live/hello", extensions=DENIAL) as one:
        assert (await one.hear())["status"] == 503
    assert "litefs-watch[forward]" in caplog.text


def test_a_replica_answers_requests_too(primary: tuple[Live, str]) -> None:
    """Whatever WebSockets there are."""
    with served("uvicorn", primary[1]) as port, httpx2.Client(timeout=SOON) as http:
        assert http.post(f"http://127.0.0.1:{port}/", content=b"abc").json()["size"] == 3
