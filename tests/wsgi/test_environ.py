"""The environ is the application's own: who is around the middleware sees what the application has put into it."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from werkzeug.test import create_environ

from litefs_watch import BlockingWatcher
from litefs_watch.consistency import Options, Policy
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware
from litefs_watch.wsgi.environ import headers_of, sent_headers_of


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


@pytest.mark.parametrize(
    ("joined", "token"),
    [
        ("a=b; txnum=12", 12),
        ("a=b,txnum=12", 12),
        ("a=b, txnum=12", 12),
        ("txnum=12,a=b", 12),
        ("a=1,2; txnum=12", 12),
        ("txnum=12,txnum=13", 12),
        ("a=b,c=d", None),
        ('a={"b":1,"txnum":3}; txnum=12', 12),
    ],
)
def test_our_cookie_is_found_in_several_lines(joined: str, token: object) -> None:
    """Which servers of HTTP/1 have joined with commas; what is sent on is as it came."""
    environ = create_environ("/", headers={"cookie": joined})
    exchange = Policy(Options(cookie="txnum")).begin("GET", "/", sent_headers_of(environ))
    assert exchange is not None
    assert exchange.token == token
    assert (b"cookie", joined.encode()) in headers_of(environ)
