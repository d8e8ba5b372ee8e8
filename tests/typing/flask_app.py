"""Flask."""

from __future__ import annotations

from flask import Flask, Response, request

from litefs_watch import BlockingWatcher, Settings
from litefs_watch.wsgi import LiteFSMiddleware, mark_failed, mark_written

watcher = BlockingWatcher(Settings(standalone=True))
app = Flask(__name__)


@app.post("/orders")
def order() -> Response:
    mark_written(request)
    return Response("")


@app.errorhandler(Exception)
def failed(error: Exception) -> Response:
    mark_failed(request, error)
    return Response("", 500)


app.wsgi_app = LiteFSMiddleware(app.wsgi_app, watcher, timeout=1.0)  # type: ignore[method-assign]  # mypy's, of any
