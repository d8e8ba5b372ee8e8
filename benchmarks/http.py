"""What the middleware costs a request, beside the bare application and Starlette's BaseHTTPMiddleware doing the same."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from benchmarks.table import show
from litefs_watch import Position, Settings, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.readings import RoleEvent, TxEvent

ROUNDS = 15
REQUESTS = 4_000
SERVED_ROUNDS = 7
SERVED_SECONDS = 1.5
PLAIN = [(b"host", b"example.com"), (b"user-agent", b"benchmark"), (b"accept", b"*/*"), (b"cookie", b"theme=dark; lang=en")]
MET = [*PLAIN[:-1], (b"cookie", b"theme=dark; txnum=41; lang=en")]

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY = {"type": "http.response.body", "body": b"ok"}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


def replica() -> Watcher:
    """A watcher that knows: a replica, at transaction 42. Nothing is watched."""
    watcher = Watcher(Settings("/nowhere", "app.db", api_url=None))
    for moment in (1.0, 2.0):
        watcher._state.apply(RoleEvent(moment, is_primary=False, hostname="node-b"))
    watcher._state.apply(TxEvent(3.0, "app.db", Position(42)))
    watcher._running = True
    return watcher


class ByHand(BaseHTTPMiddleware):
    """The same for this request, as one writes it with Starlette's class: read the cookie, compare, go on."""

    def __init__(self, app: Any, watcher: Watcher) -> None:
        super().__init__(app)
        self._watcher = watcher

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        if request.method == "GET" and (seen := request.cookies.get("txnum")) is not None:
            await self._watcher.wait_for_tx(int(seen), timeout=0.5)
        return await call_next(request)


async def send(message: Any) -> None:
    """A server that throws everything away."""


async def receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def a_request(app: Any, headers: list[tuple[bytes, bytes]], requests: int) -> float:
    """Microseconds, over so many of them."""
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": headers}
    scope |= {"http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    began = time.perf_counter()
    for _ in range(requests):
        await app(dict(scope), receive, send)
    return (time.perf_counter() - began) / requests * 1e6


async def in_process() -> None:
    watcher = replica()
    ways: dict[str, tuple[Any, list[tuple[bytes, bytes]]]] = {
        "bare application": (bare, PLAIN),
        "LiteFSMiddleware, no cookie of ours": (LiteFSMiddleware(bare, watcher), PLAIN),
        "LiteFSMiddleware, a cookie that is met": (LiteFSMiddleware(bare, watcher), MET),
        "BaseHTTPMiddleware, no cookie": (ByHand(bare, watcher), PLAIN),
        "BaseHTTPMiddleware, a cookie that is met": (ByHand(bare, watcher), MET),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turn, so that a machine that slows down slows all of them
        for name, (app, headers) in ways.items():
            slow = name.startswith("Base")
            measured[name].append(await a_request(app, headers, REQUESTS // 10 if slow else REQUESTS))
    baseline = statistics.median(measured["bare application"])
    rows = [
        [name, f"{(m := statistics.median(times)):.2f} us", f"{m - baseline:+.2f} us"] for name, times in measured.items()
    ]
    show("One request, in process", ["", "median", "over bare"], rows)


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def rate(url: str) -> float:
    """Requests a second, one after the other on one connection."""
    with httpx2.Client(headers={"cookie": "txnum=41"}) as client:
        client.get(url)
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < SERVED_SECONDS:
            client.get(url)
            count += 1
    return count / elapsed


def through_uvicorn() -> None:
    ratios: list[float] = []
    rates: dict[str, list[float]] = {"bare application": [], "LiteFSMiddleware": []}
    with served(bare) as plain, served(LiteFSMiddleware(bare, replica())) as ours:
        for _ in range(SERVED_ROUNDS):
            for name, url in (("bare application", plain), ("LiteFSMiddleware", ours)):
                rates[name].append(rate(url))
            ratios.append(rates["LiteFSMiddleware"][-1] / rates["bare application"][-1])
    rows = [[name, f"{statistics.median(each):,.0f}"] for name, each in rates.items()]
    show("Through uvicorn, requests a second", ["", "median"], rows)
    print(f"\n  {statistics.median(ratios) - 1:+.1%} (median of {SERVED_ROUNDS} rounds, each beside the other)")


def main() -> None:
    asyncio.run(in_process())
    through_uvicorn()
