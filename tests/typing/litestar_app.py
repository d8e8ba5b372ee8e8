"""Litestar."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, get, post
from litestar.middleware import DefineMiddleware

from litefs_watch import Settings, Watcher
from litefs_watch.asgi import FlyReplay, LiteFSMiddleware, lost_transaction, mark_written

watcher = Watcher(Settings(standalone=True))


@get("/orders")
async def orders(request: Request[Any, Any, Any]) -> dict[str, int | None]:
    return {"lost": lost_transaction(request), "at": watcher.tx_number()}


@post("/orders")
async def order(request: Request[Any, Any, Any]) -> None:
    watcher.ensure_primary()
    mark_written(request)


app = Litestar(
    [orders, order],
    lifespan=[watcher.lifespan],
    middleware=[DefineMiddleware(LiteFSMiddleware, watcher=watcher, replay=FlyReplay(), primary_paths=["/admin/*"])],
)
