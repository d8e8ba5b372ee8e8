"""What the middleware adds to a request, beside the bare application and Starlette's `BaseHTTPMiddleware` doing the same.

In one process first, call by call, in turn, in processor time, where nothing has to be waited for; also in times of what the
bare application takes in the same round: the machine's speed cancels out. Then through uvicorn in a process of its own, over
loopback, with connections that stay open. The node is a simulated replica, with a running watcher. `benchmarks.under_wsgi`
does the same for WSGI.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.table import show
from litefs_watch import Position, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.consistency.marks import current_exchange
from litefs_watch.testing import SimulatedNode

CALLS = 400
ROUNDS = 101
SECONDS = 0.25
SERVED_ROUNDS = 41
CONNECTIONS = 16

CARRIERS = frozenset((b"cookie", b"litefs-txid"))
# What a browser sends with a page; the second has our cookie, with the position that the node has.
AT = Position(2, 0x8F1C0D2E3B4A5968)
HEADERS = [
    (b"host", b"localhost:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"connection", b"keep-alive"),
    (b"sec-fetch-mode", b"navigate"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef; theme=dark"),
]
MET = [*HEADERS[:-1], (b"cookie", HEADERS[-1][1] + f"; litefs_pos={AT}".encode())]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Floor:
    """What no middleware that reads a cookie and sees the response start can do without."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = None
        for name, value in scope["headers"]:
            if name in CARRIERS and b"litefs_pos" in value:
                found = value

        def send_looked_at(message: Any) -> Any:
            if message["type"] == "http.response.start" and message["status"] >= 500:
                raise RuntimeError(f"not the answer that was expected, to {found!r}")
            return send(message)

        await self.app(scope, receive, send_looked_at)


def base_http(watcher: Watcher) -> Any:
    """What one would write: wait for the cookie's position, then go on."""

    async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        position = request.cookies.get("litefs_pos")
        if position is not None and not watcher.is_primary:
            await watcher.wait_for_tx(Position.parse(position), timeout=0.5)
        return await call_next(request)

    return BaseHTTPMiddleware(bare, dispatch=dispatch)


def committing(node: SimulatedNode, watcher: Watcher | None = None) -> Any:
    """An application whose every request commits; and, with a watcher, reads from the file where that is, off the event
    loop: no response to a write can do without."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        node.commit()
        if watcher is not None:
            await watcher.read_position()
        await bare(scope, receive, send)

    return app


@contextmanager
def replica() -> Iterator[SimulatedNode]:
    with SimulatedNode(primary="node-b") as node:
        node.commit(txid=AT.txid, checksum=AT.checksum)
        yield node


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


async def microseconds(app: Any, headers: list[tuple[bytes, bytes]], method: str = "GET") -> float:
    """For one call, on average over some; the scope is as large as uvicorn's."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": headers,
        "state": {},
    }
    slow = isinstance(app, BaseHTTPMiddleware) or method != "GET"
    calls = CALLS // 10 if slow else CALLS
    clock = time.perf_counter if method != "GET" else time.thread_time
    began = clock()
    for _ in range(calls):
        current_exchange.set(None)  # a server has a context for each request
        await app(dict(scope), receive, send)
    return (clock() - began) / calls * 1e6


async def in_process() -> None:
    with replica() as node, SimulatedNode() as primary:
        async with Watcher(node.settings()) as watcher, Watcher(primary.settings()) as leading:
            ours = LiteFSMiddleware(bare, watcher)
            ways = {
                "bare application": (bare, HEADERS, "GET"),
                "the floor: looks at headers and status": (Floor(bare), HEADERS, "GET"),
                "LiteFSMiddleware, without our cookie": (ours, HEADERS, "GET"),
                "LiteFSMiddleware, with one that is met": (ours, MET, "GET"),
                "BaseHTTPMiddleware, without our cookie": (base_http(watcher), HEADERS, "GET"),
                "BaseHTTPMiddleware, with one that is met": (base_http(watcher), MET, "GET"),
                "LiteFSMiddleware, a write on a replica": (ours, HEADERS, "POST"),
                "a simulated commit": (committing(primary), HEADERS, "POST"),
                "the same, and reading the position": (committing(primary, leading), HEADERS, "POST"),
                "LiteFSMiddleware, a write that commits": (LiteFSMiddleware(committing(primary), leading), HEADERS, "POST"),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, (app, headers, method) in ways.items():
                    times[name].append(await microseconds(app, headers, method))
    medians = {name: statistics.median(each) for name, each in times.items()}
    floor = medians["bare application"]
    rows = []
    for name, median in medians.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], times["bare application"], strict=True))
        rows.append([name, f"{median:.2f} us", f"{median - floor:+.2f} us", f"{ratio:.1f}"])
    seconds = {name: [value / 1e6 for value in each] for name, each in times.items()}
    head = ["", "median", "over bare", "times bare"]
    show(f"One request, in process (median of {ROUNDS} rounds, in turn)", head, rows, seconds)


def serve(way: str, descriptor: int) -> None:
    """In a process of its own: uvicorn with one of the applications."""

    async def run() -> None:
        with replica() as node:
            async with Watcher(node.settings()) as watcher:
                app = {"bare": bare, "ours": LiteFSMiddleware(bare, watcher), "base": base_http(watcher)}[way]
                config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False)
                await uvicorn.Server(config).serve([socket.socket(fileno=descriptor)])

    asyncio.run(run())


class Server:
    """A served application, and connections to it."""

    def __init__(self, way: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = listener.getsockname()
            command = [sys.executable, "-m", "benchmarks.http", way, str(listener.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=os.environ)

    async def connect(self, connections: int = CONNECTIONS) -> None:
        self._connections = [await asyncio.open_connection(*self.address) for _ in range(connections)]

    async def requests(self, headers: list[tuple[bytes, bytes]]) -> float:
        """Requests a second, over ``SECONDS``."""
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        request, done, until = b"GET / HTTP/1.1\r\n" + lines + b"\r\n", 0, time.perf_counter() + SECONDS

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal done
            while time.perf_counter() < until:
                writer.write(request)
                if not (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("not the answer that was expected")
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(client(*connection) for connection in self._connections))
        return done / (time.perf_counter() - began)

    def stop(self) -> None:
        for _, writer in self._connections:
            writer.close()
        self._process.terminate()
        self._process.wait()


async def served() -> None:
    servers = {way: Server(way) for way in ("bare", "ours", "base")}
    ways = {
        "bare application": ("bare", HEADERS),
        "LiteFSMiddleware, without our cookie": ("ours", HEADERS),
        "LiteFSMiddleware, with one that is met": ("ours", MET),
        "BaseHTTPMiddleware, with one that is met": ("base", MET),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for server in servers.values():
        await server.connect()
    for number in range(SERVED_ROUNDS + 1):
        turn = list(ways.items())
        random.Random(number).shuffle(turn)
        for name, (way, headers) in turn:
            rate = await servers[way].requests(headers)
            if number:  # the first round warms up
                rates[name].append(rate)
    for server in servers.values():
        server.stop()
    medians = {name: statistics.median(each) for name, each in rates.items()}
    # Of each round's own baseline: what else the machine does is in both.
    baseline = rates["bare application"]
    shares = {
        name: statistics.median(rate / bare_rate - 1 for rate, bare_rate in zip(each, baseline, strict=True))
        for name, each in rates.items()
    }
    rows = [[name, f"{median:,.0f}", f"{shares[name]:+.1%}"] for name, median in medians.items()]
    title = f"Through uvicorn, {CONNECTIONS} connections (median of {SERVED_ROUNDS} rounds of {SECONDS:g} s, in turn)"
    show(title, ["", "requests/s", "of bare"], rows)


def main() -> None:
    from benchmarks import under_wsgi  # which has the same servers

    asyncio.run(in_process())
    asyncio.run(served())
    under_wsgi.main()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
