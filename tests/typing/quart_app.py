"""Quart."""

from __future__ import annotations

from quart import Quart, Response, request

from litefs_watch import Settings, Watcher
from litefs_watch.asgi import LifespanMiddleware, LiteFSMiddleware, mark_written

watcher = Watcher(Settings(standalone=True))
app = Quart(__name__)


@app.get("/orders")
async def orders() -> dict[str, int]:
    return {"at": watcher.tx_number()}


@app.post("/orders")
async def order() -> Response:
    mark_written(request)
    return Response("")


app.asgi_app = LiteFSMiddleware(app.asgi_app, watcher, close_websockets="all")  # type: ignore[method-assign]  # mypy's, of any
app.asgi_app = LifespanMiddleware(app.asgi_app, watcher)  # type: ignore[method-assign]
