"""WebSockets on a primary, until ``GET /-/demote``, for servers that import their application.

``GET /-/told`` says what their handlers have been told.
"""

from __future__ import annotations

import json

import anyio

from litefs_watch import Role
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher

watcher = FakeWatcher()
told: list[object] = []


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"].startswith("/-/"):
        await control(scope, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    await (feed if scope["path"] == "/live/feed" else echo)(receive, send)


async def echo(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    told.append(message["code"])


async def feed(receive: Receive, send: Send) -> None:
    try:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await anyio.sleep(0.001)
    except OSError:
        told.append("feed")
        raise


async def control(scope: Scope, send: Send) -> None:
    if scope["path"] == "/-/demote":
        watcher.become(Role.REPLICA, "node-b")
    said = json.dumps(told).encode()
    length = (b"content-length", b"%d" % len(said))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": said})


app = LiteFSMiddleware(inner, watcher.watcher, primary_paths=["/live/*"], passthrough_paths=["/-/*"])
