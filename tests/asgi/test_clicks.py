"""An application that lives in a WebSocket, as NiceGUI's do, and a hand-over in the middle: no click is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing

import anyio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import litefs_watch.asgi.websockets  # noqa: F401 - what it imports reads files: once, and not in a server
from litefs_watch import Watcher
from litefs_watch.asgi import Forward, LiteFSMiddleware
from litefs_watch.testing import SimulatedCluster
from tests.asgi.serving import serve

HOSTS = ("127.0.0.2", "127.0.0.3")
CLICKS = 20
SOON = 10.0


def application(watcher: Watcher, cluster: SimulatedCluster) -> Starlette:
    """Each message is a click, which is written, and confirmed; one that can't be written is logged, and that is all."""

    def write(click: str) -> None:
        with closing(cluster.connect(watcher.hostname, timeout=30)) as connection, connection:
            connection.execute("INSERT OR IGNORE INTO clicks VALUES (?)", (click,))

    async def clicks(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            async for click in websocket.iter_text():
                with contextlib.suppress(sqlite3.OperationalError):
                    await anyio.to_thread.run_sync(write, click)
                    await websocket.send_text(click)

    return Starlette(routes=[WebSocketRoute("/clicks", clicks)], lifespan=watcher.lifespan)


class Browser:
    """Clicks, and connects again where the connection is closed. ``closed`` are the codes that it was closed with."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.closed: list[int | None] = []
        self.lost: list[str] = []

    async def click_through(self, halfway: Callable[[], Awaitable[object]]) -> None:
        todo = [str(click) for click in range(CLICKS)]
        meanwhile: asyncio.Future[object] | None = None
        while todo:
            try:
                async with connect(self.url) as connection:
                    while todo:
                        if len(todo) == CLICKS // 2 and meanwhile is None:
                            meanwhile = asyncio.ensure_future(halfway())
                        await connection.send(todo[0])
                        try:
                            assert await asyncio.wait_for(connection.recv(), SOON) == todo[0]
                        except TimeoutError:
                            self.lost.append(todo[0])
                        todo.pop(0)
            except ConnectionClosed as closed:
                self.closed.append(closed.rcvd.code if closed.rcvd else None)
            except InvalidStatus:  # nobody is the primary yet
                await asyncio.sleep(0.05)
        assert meanwhile is not None
        await meanwhile


def test_no_click_is_lost() -> None:
    """The browser connects again, to the same node, which sends it on. Left open, all later clicks came to nothing."""
    with ExitStack() as stack:
        cluster = stack.enter_context(SimulatedCluster(hostnames=HOSTS, lag=0.01))
        cluster.execute("CREATE TABLE clicks (id TEXT PRIMARY KEY)")
        cluster.wait_until_replicated()
        sockets = [stack.enter_context(socket.socket()) for _ in HOSTS]
        sockets[0].bind((HOSTS[0], 0))
        port = sockets[0].getsockname()[1]
        sockets[1].bind((HOSTS[1], port))
        for host, sock in zip(HOSTS, sockets, strict=True):
            watcher = Watcher(cluster[host].settings())
            stack.enter_context(
                serve(
                    LiteFSMiddleware(
                        application(watcher, cluster),
                        watcher,
                        replay=Forward(f"http://{{hostname}}:{port}"),
                        primary_paths=["/clicks"],
                    ),
                    sock,
                )
            )
        browser = Browser(f"ws://{HOSTS[0]}:{port}/clicks")

        async def run() -> None:
            await browser.click_through(lambda: asyncio.to_thread(cluster.hand_over, HOSTS[1]))

        asyncio.run(asyncio.wait_for(run(), 60))
        with closing(cluster.connect(HOSTS[1])) as connection:
            found = {row[0] for row in connection.execute("SELECT id FROM clicks")}
    assert (browser.lost, browser.closed) == ([], [1012])
    assert found == {str(click) for click in range(CLICKS)}
