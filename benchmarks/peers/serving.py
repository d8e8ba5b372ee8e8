"""``python -m benchmarks.peers.serving WAY PORT``: a server in Python, on the node that the environment tells of."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn

from litefs_watch import Position, Settings, Watcher
from litefs_watch.asgi import LifespanMiddleware, LiteFSMiddleware

INTERVAL, TIMEOUT = 0.03, 0.5
"""Seconds: litefs-js's."""


async def bare(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError("a lifespan is none of its business")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


def ours() -> Any:
    watcher = Watcher()
    return LifespanMiddleware(LiteFSMiddleware(bare, watcher), watcher)


def loop() -> Any:
    """litefs-js's wait as it was meant: until the TXID is there, by reading ``-pos`` every 30 ms."""
    settings = Settings.from_env()
    path = Path(f"{settings.litefs_dir}/{settings.database}-pos")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        wanted = next((int(v.partition(b"txnum=")[2]) for k, v in scope["headers"] if k == b"cookie" and b"txnum=" in v), 0)
        deadline = asyncio.get_running_loop().time() + TIMEOUT
        while Position.parse(path.read_bytes()).txid < wanted:  # noqa: ASYNC240 - as litefs-js does it
            if asyncio.get_running_loop().time() > deadline:
                await send({"type": "http.response.start", "status": 409, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
                return
            await asyncio.sleep(INTERVAL)
        await bare(scope, receive, send)

    return app


WAYS = {"bare": lambda: bare, "ours": ours, "loop": loop}

if __name__ == "__main__":
    name, port = sys.argv[1:]
    lifespan = "on" if name == "ours" else "off"
    uvicorn.run(WAYS[name](), host="127.0.0.1", port=int(port), log_level="error", access_log=False, lifespan=lifespan)  # type: ignore[arg-type]
