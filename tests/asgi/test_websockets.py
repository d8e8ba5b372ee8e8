"""WebSockets are denied before they are accepted, or left alone; so is the lifespan."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from litefs_watch import NotPrimary, Role
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher, replica, scope_of, unknown

DENIAL: dict[str, Any] = {"websocket.http.response": {}}


async def connect(app: Any, path: str = "/live", **others: Any) -> list[Message]:
    """The messages that a server would get."""
    sent: list[Message] = []
    incoming: list[Message] = [{"type": "websocket.connect"}]

    async def receive() -> Message:
        if not incoming:
            await anyio.sleep_forever()  # the client stays
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = scope_of(path=path, type="websocket", scheme="ws", **others)
    del scope["method"]
    await app(scope, receive, send)
    return sent


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    await send({"type": "websocket.close", "code": 1000})


async def asks(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotPrimary("node-b")


async def test_they_pass_through() -> None:
    """On a replica, with a cookie that would make a read wait: a connection is no read."""
    watcher = replica()
    sent = await connect(LiteFSMiddleware(echo, watcher.watcher, cookie="txnum"), headers=[("cookie", "txnum=99; x=1")])
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert watcher.waits == []


async def test_a_path_of_the_primary_is_denied_with_the_replay() -> None:
    """Where the server can send a response: 409 and the header, before accept."""
    app = LiteFSMiddleware(echo, replica().watcher, primary_paths=["/live"])
    start, body = await connect(app, extensions=DENIAL)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 409)
    assert (b"fly-replay", b"instance=node-b") in start["headers"]
    assert (body["type"], body["body"]) == ("websocket.http.response.body", b"")


async def test_without_the_extension_it_is_closed() -> None:
    """1013, try again later: the server makes a 403 of it."""
    (close,) = await connect(LiteFSMiddleware(echo, replica().watcher, primary_paths=["/live"]), extensions=None)
    assert (close["type"], close["code"]) == ("websocket.close", 1013)


async def test_on_the_primary_they_run() -> None:
    """On any path."""
    sent = await connect(LiteFSMiddleware(echo, FakeWatcher().watcher, primary_paths=["/live"]))
    assert sent[0]["type"] == "websocket.accept"


async def test_they_are_held_for_a_primary() -> None:
    """As a write is."""
    watcher = unknown()
    watcher.during = lambda: watcher.become(Role.PRIMARY)
    assert (await connect(LiteFSMiddleware(echo, watcher.watcher, primary_paths=["/live"])))[0]["type"] == "websocket.accept"
    start, _ = await connect(LiteFSMiddleware(echo, unknown().watcher, primary_paths=["/live"]), extensions=DENIAL)
    assert start["status"] == 503


async def test_a_handler_may_ask_for_the_primary() -> None:
    """`ensure_primary` before accept."""
    start, _ = await connect(LiteFSMiddleware(asks, replica().watcher), extensions=DENIAL)
    assert start["status"] == 409


async def test_a_starlette_handler_may_ask_for_the_primary() -> None:
    """With the framework in between."""

    async def live(websocket: WebSocket) -> None:
        raise NotPrimary("node-b")

    app = LiteFSMiddleware(Starlette(routes=[WebSocketRoute("/live", live)]), replica().watcher)
    start, _ = await connect(app, extensions=DENIAL)
    assert start["status"] == 409


async def test_a_framework_that_closes_while_handling_the_exception_is_replaced() -> None:
    """Litestar sends its own close."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raise NotPrimary("node-b")
        except NotPrimary:
            await send({"type": "websocket.close", "code": 4500})

    sent = await connect(LiteFSMiddleware(app, replica().watcher), extensions=DENIAL)
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]


async def test_after_accept_it_is_too_late() -> None:
    """The error goes where it would have gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise NotPrimary("node-b")

    with pytest.raises(NotPrimary):
        await connect(LiteFSMiddleware(app, replica().watcher), extensions=DENIAL)


async def test_a_strategy_of_one_s_own_knows_no_websockets() -> None:
    """503, rather than half a connection."""

    async def strategy(scope: Scope, receive: Receive, send: Send, hostname: str) -> None:
        raise AssertionError

    app = LiteFSMiddleware(echo, replica().watcher, primary_paths=["/live"], replay=strategy)
    start, _ = await connect(app, extensions=DENIAL)
    assert start["status"] == 503


async def test_passed_through_paths_are_passed_through() -> None:
    """Though the other option names them, too."""
    app = LiteFSMiddleware(echo, replica().watcher, primary_paths=["/live"], passthrough_paths=["/live"])
    assert (await connect(app))[0]["type"] == "websocket.accept"


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scopes_pass_as_they_are(kind: str) -> None:
    """The same scope, the same calls."""
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)

    given: tuple[Any, Any, Any] = ({"type": kind}, object(), object())
    await LiteFSMiddleware(app, replica().watcher)(*given)
    assert all(one is other for one, other in zip(seen[0], given, strict=True))
