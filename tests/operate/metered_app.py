"""For gunicorn: a WSGI application with metrics, on the node that the environment says. It tells which worker it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import prometheus_client

from litefs_watch import BlockingWatcher
from litefs_watch.prometheus import instrument
from litefs_watch.wsgi import LiteFSMiddleware

watcher = BlockingWatcher()
metrics = prometheus_client.make_wsgi_app(instrument(watcher))


def inner(environ: Any, start_response: Any) -> Any:
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    start_response("200 OK", [("content-length", "0")])
    return []


gate = LiteFSMiddleware(inner, watcher, timeout=30.0, max_waiting=64, passthrough_paths=["/metrics"])


def app(environ: Any, start_response: Any) -> Any:
    """The worker's number is in each answer; with a query string it is written to a file of that name, too."""
    worker = str(os.getpid())
    if name := environ["QUERY_STRING"]:
        Path(os.environ["SEEN"], name).write_text(worker)

    def start(status: str, headers: Any, *more: Any) -> Any:
        return start_response(status, [*headers, ("worker", worker)], *more)

    return gate(environ, start)
