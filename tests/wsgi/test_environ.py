"""The environ is the application's own: who is around the middleware sees what the application has put into it."""

from __future__ import annotations

from typing import Any

import flask
from werkzeug.test import create_environ

from litefs_watch import BlockingWatcher
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware


def _start(status: str, headers: object, exc_info: object = None) -> object:
    return None


def test_an_outer_middleware_sees_what_the_application_has_set() -> None:
    """For traces and metrics; of a read and of a write."""
    app = flask.Flask(__name__)

    @app.route("/orders/<int:number>", methods=["GET", "POST"])
    def order(number: int) -> str:
        flask.request.environ["mark"] = number
        return "ordered"

    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher:
        wrapped: Any = LiteFSMiddleware(app.wsgi_app, watcher)
        for number, method in enumerate(["GET", "POST"]):
            environ = create_environ(f"/orders/{number}", method=method)
            assert b"".join(wrapped(environ, _start)) == b"ordered"
            assert environ["mark"] == number
