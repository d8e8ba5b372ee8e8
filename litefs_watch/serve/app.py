"""The application: its paths, and who may reach them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from litefs_watch import __version__
from litefs_watch.asgi.status import status_routes
from litefs_watch.asgi.types import App
from litefs_watch.operate.health import status_of
from litefs_watch.operate.words import status_record
from litefs_watch.printable import did_you_mean, safe
from litefs_watch.serve.endpoints import Endpoint, Refusal, answer
from litefs_watch.serve.events import Events
from litefs_watch.serve.guard import Guard
from litefs_watch.serve.metrics import metrics_handler
from litefs_watch.serve.openapi import PAGE_HEADERS, document, page
from litefs_watch.serve.options import Options
from litefs_watch.serve.places import Places
from litefs_watch.serve.questions import NoQuestion, in_query
from litefs_watch.serve.streams import events_handler
from litefs_watch.serve.waiting import Waiting

if TYPE_CHECKING:
    from litefs_watch.watchers.watcher import Watcher


class Sidecar:
    """The application of a watcher that runs. `Events.run` is to run beside it."""

    def __init__(self, watcher: Watcher, options: Options, own_name: str | None = None) -> None:
        self._watcher = watcher
        self.events: Events = Events(watcher, options.kept)
        self.waits: Waiting = Waiting(watcher, options)
        self.subscribers: Places = Places(options.max_subscribers, "streams of events are open")
        paths: dict[str, App] = {
            "/": Endpoint({"GET": self._page}, head=True),
            "/openapi.json": Endpoint({"GET": self._document}, head=True),
            "/status": Endpoint({"GET": self._status}, head=True),
            "/position": Endpoint({"GET": self.waits.position}),
            "/wait": Endpoint({"GET": self.waits.get, "POST": self.waits.post}),
            "/events": Endpoint({"GET": events_handler(self.events, self.subscribers)}),
            "/metrics": Endpoint({"GET": metrics_handler(watcher)}, head=True),
        }
        health = status_routes(watcher)
        paths |= {route.path: health for route in health}
        self._paths = list(paths)
        # A route without methods passes all of them on; an endpoint has its own words for those that it doesn't answer.
        routes = [Route(path, endpoint) for path, endpoint in paths.items()]
        self.app: Starlette = Starlette(
            routes=routes,
            middleware=[Middleware(Guard, token=options.token, own=own_name)],
        )
        self.app.router.redirect_slashes = False
        self.app.router.default = Endpoint({}, otherwise=self._nothing)

    async def _status(self, request: Request) -> App:
        in_query(NoQuestion, request)
        record = status_record(status_of(self._watcher))
        own = {"version": __version__, "waiting": self.waits.waiting.taken, "subscribers": self.subscribers.taken}
        return answer({**record, "sidecar": own})

    async def _document(self, request: Request) -> App:
        return answer(document())

    async def _page(self, request: Request) -> App:
        return HTMLResponse(page(document()), headers=PAGE_HEADERS)

    async def _nothing(self, request: Request) -> App:
        path = request.scope["path"][:80]
        raise Refusal(404, f"there is no {safe(path)}{did_you_mean(path, self._paths)}", paths=self._paths)
