"""WebSockets of a node that is not the primary any more, or never was: through real servers, and what the log says."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import httpx2
import litestar as litestar_
import pytest
import quart as quart_
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from litefs_watch import BlockingWatcher, NotPrimary, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.consistency.marks import note_refused
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers.bridge import AwaitableWatcher
from tests.asgi.fakes import FakeWatcher, replica
from tests.asgi.websocket_clients import LIVE, Echo, around, client, ends
from tests.servers import serve

REFUSED = sqlite3.OperationalError("attempt to write a readonly database")


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "hypercorn-trio"])
def test_through_real_servers(server: str) -> None:
    """Handlers that listen and ones that only talk; the client hears of it, and is sent on when it connects again."""

    async def converse(port: int) -> None:
        url = f"ws://127.0.0.1:{port}/live"
        async with (
            connect(f"{url}/echo") as listens,
            connect(f"{url}/feed") as talks,
            httpx2.AsyncClient() as http,
        ):
            for socket in (listens, talks):
                assert await socket.recv() == "hello"
            await listens.send("still there?")
            assert await listens.recv() == "still there?"
            await http.get(f"http://127.0.0.1:{port}/-/demote")
            for socket in (listens, talks):
                with suppress(ConnectionClosed):
                    while True:
                        await socket.recv()
                assert socket.close_code == 1012
            assert sorted((await http.get(f"http://127.0.0.1:{port}/-/told")).json(), key=str) == [1012, "feed"]
            with pytest.raises(InvalidStatus) as denied:
                await connect(f"{url}/echo")
            assert denied.value.response.headers["fly-replay"] == "instance=node-b"

    with serve(server, "tests.websocket_app:app") as port:
        asyncio.run(asyncio.wait_for(converse(port), 30))


@pytest.mark.parametrize("of_threads", [False, True])
async def test_by_watchers_of_either_kind(of_threads: bool) -> None:
    """One of this event loop, and one whose changes are told in another thread."""
    with SimulatedNode() as node:
        blocking = BlockingWatcher(node.settings())
        watcher: Any = AwaitableWatcher(blocking) if of_threads else Watcher(node.settings())
        await watcher.start()
        try:
            async with client(LiteFSMiddleware(Echo(), watcher, primary_paths=LIVE)) as one:
                node.lose_primary()
                node.set_primary("node-b")
                assert await one.hear() == "1012"
        finally:
            await (anyio.to_thread.run_sync(blocking.stop) if of_threads else watcher.stop())


# What a handler is refused once it has accepted.


async def fail(watcher: FakeWatcher, error: Exception, path: str = "/live/7", **options: Any) -> Exception | None:
    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise error

    async with client(around(live, watcher, **options), path, opened=False) as one:
        assert await one.hear() == "websocket.accept"
        await ends(one)
    return one.error


@pytest.mark.parametrize("error", [REFUSED, NotPrimary("node-b")])
async def test_a_refused_write_is_said_with_the_remedy(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each path; and the error stays."""
    caplog.set_level(logging.WARNING, "litefs_watch")
    watcher = replica()
    assert await fail(watcher, error) is error
    (message,) = caplog.messages
    assert message.startswith("a WebSocket at /live/* was refused a write, after it was accepted: ")
    assert str(error) in message
    assert "primary_paths" in message


async def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """For each path, however many there are; and not of other errors."""
    watcher = replica()

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise KeyError("bug") if scope["path"] == "/bug" else REFUSED

    app = around(live, watcher)
    for path in ("/live/1", "/live/2", "/bug", "/other", "/live/3"):
        async with client(app, path, opened=False) as one:
            await ends(one)
    said = [message.partition(" was refused")[0] for message in caplog.messages]
    assert said == ["a WebSocket at /live/*", "a WebSocket at /other"]


@pytest.mark.parametrize(("options", "remedy"), [({}, "connect again"), ({"close_websockets": "none"}, "close_websockets=")])
async def test_on_what_was_the_primary_it_is_another_remedy(
    options: dict[str, Any], remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its path is one of the primary's already."""
    assert await fail(FakeWatcher(), REFUSED, "/live", **options) is REFUSED
    (message,) = caplog.messages
    assert remedy in message


async def test_what_the_handler_catches_is_said_with_the_next_that_it_sends(caplog: pytest.LogCaptureFixture) -> None:
    """It may be open for days; once."""

    async def live(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(2):
            note_refused(REFUSED)
            await send({"type": "websocket.send", "text": "sorry"})
        await anyio.sleep_forever()

    async with client(around(live, replica(), primary_paths=[]), "/feed", opened=False) as one:
        assert [await one.hear() for _ in range(3)] == ["websocket.accept", "sorry", "sorry"]
        (message,) = caplog.messages
    assert message.startswith("a WebSocket at /feed was refused a write")


def starlette() -> Any:
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        raise REFUSED

    return Starlette(routes=[WebSocketRoute("/live", live)])


def litestar() -> Any:
    async def live(socket: litestar_.WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        raise REFUSED

    return litestar_.Litestar([litestar_.websocket("/live")(live)], logging_config=None)


def quart() -> Any:
    app = quart_.Quart("shop")

    async def live() -> None:
        await quart_.websocket.accept()
        raise REFUSED

    app.add_websocket("/live", view_func=live)
    return app


@pytest.mark.parametrize("make", [starlette, litestar, quart])
async def test_frameworks_that_keep_it_to_themselves(
    make: Callable[[], Any], anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Litestar closes the WebSocket while it handles the error; Quart says so by a signal."""
    if make is quart and anyio_backend == "trio":
        pytest.skip("Quart knows asyncio alone")
    caplog.set_level(logging.WARNING, "litefs_watch")
    async with client(around(make(), replica(), primary_paths=[]), opened=False) as one:
        await ends(one)
    said = [record.getMessage() for record in caplog.records if record.name == "litefs_watch"]
    assert [message.partition(" was refused")[0] for message in said] == ["a WebSocket at /live"]
