"""A WSGI application for gunicorn, on whatever node the environment says, behind a middleware with its own budgets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from litefs_watch import BlockingWatcher
from litefs_watch.wsgi import LiteFSMiddleware


def inner(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-length", "0")])
    return []


watcher = BlockingWatcher()
app = LiteFSMiddleware(inner, watcher, timeout=30.0, hold_writes=30.0)  # longer than a test waits
