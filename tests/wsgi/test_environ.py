"""The environ is the application's own: who is around the middleware sees what the application has put into it."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from werkzeug.test import create_environ

from litefs_watch import BlockingWatcher
from litefs_watch.consistency import Exchange, Options, Policy, exchange_of
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware
from litefs_watch.wsgi.environ import Headers, carried_of, headers_of, keys_of, sent_headers_of


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
    policy = Policy(Options(cookie="txnum"))
    for carried in (None, carried_of(environ, keys_of(policy.carriers))):
        exchange = policy.begin("GET", "/", sent_headers_of(environ), carried)
        assert exchange is not None
        assert exchange.token == token
    assert (b"cookie", joined.encode()) in headers_of(environ)


def test_of_a_request_that_carries_no_token_two_headers_are_looked_for() -> None:
    """The others are read where it is sent on, or refused; and when it is over, nothing of it is kept."""
    seen: list[bytes] = []
    exchange: Exchange | None = None

    class Environ(dict[str, Any]):
        def items(self) -> Any:
            raise AssertionError("all of its headers were read")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        nonlocal exchange
        exchange = exchange_of(environ)
        assert exchange is not None
        seen.extend(value for name, value in exchange.headers if name == b"x-large")
        start_response("200 OK", [])
        return []

    policy = Policy(Options())
    environ = Environ(create_environ("/", headers={"x-large": "1"}))
    assert policy.begin("GET", "/", Headers(environ), carried_of(environ, keys_of(policy.carriers))) is not None
    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher:
        wrapped: Any = LiteFSMiddleware(app, watcher)
        wrapped(create_environ("/", headers={"x-large": "1"}), _start)
    assert seen == [b"1"]
    assert exchange is not None
    assert list(exchange.headers) == []


def test_a_token_in_a_header_of_any_name() -> None:
    """Which an environ writes its own way."""
    policy = Policy(Options(header="X-Litefs-2"))
    environ = create_environ("/", headers={"x-litefs-2": f"{7:016x}"})
    exchange = policy.begin("GET", "/", Headers(environ), carried_of(environ, keys_of(policy.carriers)))
    assert exchange is not None
    assert exchange.token == 7
