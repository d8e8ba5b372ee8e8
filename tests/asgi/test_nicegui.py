"""NiceGUI itself, which keeps its pages in WebSockets, and its handlers' errors to itself: no click is lost.

Where it is installed, with FUSE: it is no part of the test extra.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from litefs_watch.testing import SimulatedCluster, fuse_available

HOSTS = ("127.0.0.2", "127.0.0.3")
CLICKS = 20
SOON = 10.0
ROOT = Path(__file__).parents[2]


@contextmanager
def served(cluster: SimulatedCluster, host: str, port: int) -> Iterator[None]:
    node = cluster[host]
    env = {"LITEFS_DIR": str(node.litefs_dir), "LITEFS_API_URL": node.api_url or "none", "FLY_MACHINE_ID": host}
    env |= {"DATABASE_FILENAME": "app.db", "FORWARD_TO": f"http://{{hostname}}:{port}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "--host", host, "--port", str(port), "--log-level", "critical"]
    process = subprocess.Popen([*command, "tests.nicegui_app:app"], env=os.environ | env, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)


class Page:
    """The page as a browser has it."""

    def __init__(self, html: str) -> None:
        self.count = int(re.findall(r"clicks=(\d+);", html)[0])
        self.client = re.findall(r"'client_id': '([^']+)'", html)[0]
        number, listener = re.findall(r'"(\d+)":{"tag":"q-btn".*?"listener_id":"([^"]+)"', html)[0]
        event = {"id": int(number), "client_id": self.client, "listener_id": listener, "args": []}
        self.click = "42" + json.dumps(["event", event])

    @asynccontextmanager
    async def connected(self, address: str) -> AsyncIterator[ClientConnection]:
        """Its socket.io, over a WebSocket. Raises `ConnectionError` where the server doesn't know the page."""
        query = f"EIO=4&transport=websocket&client_id={self.client}&tab_id=t&document_id=d&next_message_id=0"
        url = f"ws://{address}/_nicegui_ws/socket.io/?{query}&implicit_handshake=true"
        async with connect(url) as connection:
            await connection.recv()
            await connection.send("40")
            if not str(await connection.recv()).startswith("40"):
                raise ConnectionError("the page is to be loaded anew")
            yield connection


class Browser:
    """Clicks, and loads the page anew where its connection is closed, as NiceGUI's does: that shows what was written."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed: list[int | None] = []
        self.done = 0

    async def load(self) -> Page:
        async with httpx2.AsyncClient(timeout=SOON) as http:
            while True:  # the servers start; later, nobody is the primary yet
                with suppress(httpx2.HTTPError):
                    if (answer := await http.get(f"http://{self.address}/")).status_code == 200:
                        return Page(answer.text)
                await asyncio.sleep(0.05)

    async def click_through(self, cluster: SimulatedCluster) -> None:
        """Half of the clicks; some during a hand-over; as many after it."""
        halfway: asyncio.Future[Any] | None = None
        left = CLICKS // 2
        while left:
            page = await self.load()
            self.done = page.count
            try:
                async with page.connected(self.address) as connection:
                    while left:
                        if self.done == CLICKS // 2 and halfway is None:
                            halfway = asyncio.ensure_future(asyncio.to_thread(cluster.hand_over, HOSTS[1]))
                        await connection.send(page.click)
                        await self.is_shown(connection, self.done + 1)
                        self.done += 1
                        left -= halfway is not None and halfway.done()
            except ConnectionClosed as closed:
                self.closed.append(closed.rcvd.code if closed.rcvd else None)
            except (InvalidHandshake, ConnectionError):
                await asyncio.sleep(0.05)

    async def is_shown(self, connection: ClientConnection, count: int) -> None:
        """Raises `TimeoutError` for a click that comes to nothing."""
        async with asyncio.timeout(SOON):
            while f"clicks={count};" not in (said := str(await connection.recv())):
                if said == "2":
                    await connection.send("3")


def test_no_click_is_lost() -> None:
    """Each is shown, though the primary is another node halfway."""
    if importlib.util.find_spec("nicegui") is None:
        pytest.skip("NiceGUI is not installed")
    if reason := fuse_available():
        pytest.skip(reason)
    with ExitStack() as stack:
        cluster = stack.enter_context(SimulatedCluster(hostnames=HOSTS, lag=0.01, fuse=True))
        cluster.execute("CREATE TABLE clicks (id INTEGER PRIMARY KEY)")
        cluster.wait_until_replicated()
        with socket.socket() as free:
            free.bind((HOSTS[0], 0))
            port = free.getsockname()[1]
        for host in HOSTS:
            stack.enter_context(served(cluster, host, port))
        browser = Browser(f"{HOSTS[0]}:{port}")
        asyncio.run(asyncio.wait_for(browser.click_through(cluster), 120))
        assert browser.done >= CLICKS
        assert browser.closed == [1012]
        with closing(cluster.connect(HOSTS[1])) as connection:
            assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (browser.done,)
