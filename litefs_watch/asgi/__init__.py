"""Read your own writes, for every ASGI application: Starlette, FastAPI, Litestar, Quart, Django.

- `middleware`: `LiteFSMiddleware`, a thin shell around `litefs_watch.consistency`.
- `late`: holds a response whose commit may still come.
- `open_websockets`: closes those that were opened on the primary, when this node no longer is.
- `responder`: how a request that can't run here is answered, on HTTP and before a WebSocket is accepted.
- `forwarder`: sends a request on to the primary, and streams the answer back.
- `status`: `status_routes`, what load balancers ask for.
- `lifespan`: `LifespanMiddleware`, for frameworks without a lifespan.
"""

from litefs_watch.asgi.lifespan import LifespanMiddleware
from litefs_watch.asgi.middleware import LiteFSMiddleware
from litefs_watch.asgi.status import StatusRoutes, status_routes
from litefs_watch.consistency import lost_transaction, mark_failed, mark_written
from litefs_watch.replay import FlyReplay, Forward, Redirect

__all__ = [
    "FlyReplay",
    "Forward",
    "LifespanMiddleware",
    "LiteFSMiddleware",
    "Redirect",
    "StatusRoutes",
    "lost_transaction",
    "mark_failed",
    "mark_written",
    "status_routes",
]
