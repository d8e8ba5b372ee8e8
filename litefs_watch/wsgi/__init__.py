"""Read your own writes, for every WSGI application: Flask, Django, Bottle, Falcon, and others, in threads that are real.

- `middleware`: `LiteFSMiddleware`, a thin shell around `litefs_watch.consistency`.
- `late`: starts a response when the application has returned.
- `environ`: a request taken apart.
- `responder`: how a request that can't run here is answered.
- `status`: `status_routes`, what load balancers ask for.
- `forwarder`: sends a request on to the primary, and streams the answer back.

WSGI knows neither WebSockets nor a lifespan: the `BlockingWatcher` starts by itself, after the server has forked.
"""

from litefs_watch.consistency import lost_transaction, mark_failed, mark_written
from litefs_watch.replay import FlyReplay, Forward, Redirect
from litefs_watch.wsgi.middleware import LiteFSMiddleware
from litefs_watch.wsgi.status import status_routes

__all__ = [
    "FlyReplay",
    "Forward",
    "LiteFSMiddleware",
    "Redirect",
    "lost_transaction",
    "mark_failed",
    "mark_written",
    "status_routes",
]
