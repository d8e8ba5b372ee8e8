"""A node without a primary, until it is told that it is one, for servers that import their application.

``GET /-/held`` answers when a request is held, ``GET /-/let_go`` when none is any more; ``GET /-/primary`` makes this node
the primary; ``GET /-/bodies`` tells what has run.
"""

from __future__ import annotations

import json
from typing import Any

import anyio

from litefs_watch import Role, WaitTimeout
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.asgi.types import Receive, Scope, Send
from tests.asgi.fakes import FakeWatcher


class Undecided(FakeWatcher):
    """Its waits last until somebody says who is primary."""

    def __init__(self) -> None:
        super().__init__(Role.UNKNOWN)
        self.held = 0
        self.bodies: list[str] = []

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        self.held += 1
        try:
            with anyio.move_on_after(timeout):
                await until(lambda: self.role is Role.PRIMARY)
                return None
            raise WaitTimeout("in vain")
        finally:
            self.held -= 1


async def until(holds: Any) -> None:
    while not holds():  # noqa: ASYNC110 - of this process's own state: there is no watcher that would wake anybody
        await anyio.sleep(0.005)


watcher = Undecided()


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    said = b""
    if scope["path"].startswith("/-/"):
        await getattr(Control, scope["path"].removeprefix("/-/"))()
        said = json.dumps(watcher.bodies).encode()
    else:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        watcher.bodies.append(body.decode()[:20])
    length = (b"content-length", b"%d" % len(said))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": said})


class Control:
    """What a test may ask for."""

    @staticmethod
    async def held() -> None:
        await until(lambda: watcher.held)

    @staticmethod
    async def let_go() -> None:
        await until(lambda: not watcher.held)

    @staticmethod
    async def primary() -> None:
        watcher.become(Role.PRIMARY)

    @staticmethod
    async def bodies() -> None:
        pass


app = LiteFSMiddleware(inner, watcher.watcher, passthrough_paths=["/-/*"], hold_writes=20.0)
