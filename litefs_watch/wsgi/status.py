"""`status_routes`: what load balancers ask for, as a WSGI application to mount."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from litefs_watch.operate.health import METHODS, answer, status_of
from litefs_watch.web.checks import check_blocking

if TYPE_CHECKING:
    from litefs_watch.watchers.blocking import BlockingWatcher


def status_routes(watcher: BlockingWatcher) -> Callable[[dict[str, Any], Any], list[bytes]]:
    """As `litefs_watch.asgi.status_routes`, for WSGI: with Werkzeug's ``DispatcherMiddleware``, for example.

    The watcher starts at the first request that asks it for something. Raises `ConfigError` for another kind of watcher.
    """

    check_blocking(watcher, "status_routes")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        path, database = environ.get("PATH_INFO", ""), watcher.settings.database
        status, record = answer(method, path, query, lambda: status_of(watcher), watcher.statistics, database)
        body = json.dumps(record).encode() + b"\n"
        headers = [("content-type", "application/json"), ("cache-control", "no-store"), ("content-length", str(len(body)))]
        if status == 405:
            headers.append(("allow", ", ".join(METHODS)))
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [] if method == "HEAD" else [body]

    return app
