"""Starlette."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from litefs_watch import Position, Settings, Watcher
from litefs_watch.asgi import Forward, LiteFSMiddleware, lost_transaction, mark_written

watcher = Watcher(Settings(standalone=True))


async def orders(request: Request) -> JSONResponse:
    at: Position | None = watcher.position()
    mark_written(request)
    return JSONResponse({"lost": lost_transaction(request), "at": None if at is None else at.txid})


async def live(websocket: WebSocket) -> None:
    await websocket.accept()
    async with watcher.changes() as changes:
        async for change in changes:
            await websocket.send_text(str(change))


middleware = [
    Middleware(LiteFSMiddleware, watcher=watcher, replay=Forward("http://{hostname}:8080"), primary_paths=["/live"])
]
app = Starlette(
    routes=[Route("/orders", orders), WebSocketRoute("/live", live)], middleware=middleware, lifespan=watcher.lifespan
)
other = Starlette(lifespan=watcher.lifespan)
other.add_middleware(LiteFSMiddleware, watcher=watcher, close_websockets="none")
wrapped = LiteFSMiddleware(app, watcher)
