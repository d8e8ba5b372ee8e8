"""`status_routes`: what load balancers ask for, as an ASGI application to mount."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.errors import ConfigError
from litefs_watch.operate.health import CHECKS, METHODS, answer, status_of
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.web.checks import check_async

if TYPE_CHECKING:
    from litefs_watch.watchers.watcher import Watcher

HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class StatusRoutes:
    """An ASGI application; iterated, Starlette's routes for each of its paths."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # Hypercorn's dispatcher hands it to all that it has, and waits for each
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        if scope["type"] != "http":  # a WebSocket: nobody is there
            await send({"type": "websocket.close", "code": 1000})
            return
        method, query = scope["method"], scope["query_string"].decode("latin-1")
        watcher = self._watcher
        status, record = answer(
            method, scope["path"], query, lambda: status_of(watcher), watcher.statistics, watcher.settings.database
        )
        body = json.dumps(record).encode() + b"\n"
        length = (b"content-length", str(len(body)).encode())
        allow = [(b"allow", ", ".join(METHODS).encode())] if status == 405 else []
        await send({"type": "http.response.start", "status": status, "headers": [*HEADERS, length, *allow]})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    def __iter__(self) -> Iterator[Any]:
        from starlette.routing import Route

        return (Route(f"/{name}", self, methods=list(METHODS)) for name in CHECKS)


def status_routes(watcher: Watcher) -> StatusRoutes:
    """``/livez``, ``/readyz``, ``/health``, ``/primary``, ``/replica`` and ``/read-only`` (`litefs_watch.operate.health`).

    An ASGI application to mount under any path: ``app.mount("/litefs", status_routes(watcher))`` in FastAPI and Starlette.
    Without a path of its own: ``Starlette(routes=[*status_routes(watcher), …])``. Each answers GET, HEAD and OPTIONS with
    200 or 503, and with JSON that says why, from memory: nothing is read, and nothing is waited for.

    Raises `ConfigError` for another kind of watcher, which would block the event loop.
    """
    check_async(watcher, "status_routes")
    if isinstance(watcher, AwaitableWatcher):
        raise ConfigError("status_routes needs a Watcher, not an AwaitableWatcher: Django has litefs_watch.django.urls")
    return StatusRoutes(watcher)
