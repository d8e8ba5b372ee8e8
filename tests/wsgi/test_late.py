"""A write whose commit follows its response: Flask's teardown, generators, what runs when a body is closed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from wsgiref.validate import validator

import flask
import pytest
from werkzeug.test import Client, TestResponse, create_environ

from litefs_watch import BlockingWatcher, Position
from litefs_watch.testing import SimulatedCluster
from litefs_watch.wsgi import LiteFSMiddleware, mark_written

Connect = Callable[[], sqlite3.Connection]


@contextmanager
def primary() -> Iterator[tuple[SimulatedCluster, BlockingWatcher]]:
    """A cluster of one, with a table."""
    with SimulatedCluster(size=1) as cluster:
        cluster.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        with BlockingWatcher(cluster.primary.settings()) as watcher:
            watcher.wait_for_tx(cluster.primary.position(), timeout=10)
            yield cluster, watcher


def order(connect: Connect) -> None:
    with closing(connect()) as connection, connection:
        connection.execute("INSERT INTO orders DEFAULT VALUES")


def token_of(response: TestResponse) -> str | None:
    return response.headers.get("litefs-txid")


def settled(cluster: SimulatedCluster, watcher: BlockingWatcher) -> Position:
    """Where the database is, once the watcher has heard of it."""
    position = cluster.primary.position()
    watcher.wait_for_tx(position, timeout=10)
    return position


def teardown(connect: Connect) -> flask.Flask:
    """Commits when the request is over, as many do that open a session for each request."""
    app = flask.Flask(__name__)

    @app.route("/orders/<int:number>", methods=["GET", "POST"])
    def add(number: int) -> str:
        return "ordered"

    @app.teardown_appcontext
    def commit(error: BaseException | None) -> None:
        order(connect)

    return app


def streaming(connect: Connect) -> flask.Flask:
    """Commits between the pieces of a stream."""
    app = flask.Flask(__name__)

    @app.route("/orders/<int:number>", methods=["GET", "POST"])
    def add(number: int) -> flask.Response:
        def pieces() -> Iterator[str]:
            yield "one"
            order(connect)
            yield "two"

        return flask.Response(pieces())

    return app


def test_what_a_teardown_commits_is_in_the_token() -> None:
    """It has run when the response starts."""
    with primary() as (cluster, watcher):
        app = Client(LiteFSMiddleware(validator(teardown(cluster.connect).wsgi_app), watcher))
        before = cluster.primary.position()
        response = app.post("/orders/1", buffered=True)
        assert (response.status_code, response.text) == (200, "ordered")
        assert token_of(response) == str(cluster.primary.position()) != str(before)


def test_what_a_stream_commits_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is buffered: the first piece is there before the commit. The log says it once, with the remedy."""
    with primary() as (cluster, watcher):
        app = Client(validator(LiteFSMiddleware(streaming(cluster.connect).wsgi_app, watcher)))
        for number in range(3):
            before = settled(cluster, watcher)
            response = app.post(f"/orders/{number}")
            pieces = response.iter_encoded()
            assert next(pieces) == b"one"
            assert cluster.primary.position() == before
            assert b"".join(pieces) == b"two"
            response.close()
            assert cluster.primary.position() != before
            assert token_of(response) == "pin"
        (said,) = caplog.messages
        assert said.startswith("POST /orders/<int:number> commits after its response has started: the database was at")
        for remedy in ('Depends(get_session, scope="function")', "after_request", "mark_written"):
            assert remedy in said


def test_a_route_that_is_known_to_commit_late_is_pinned() -> None:
    """Where another write has moved the position when its response starts: its own commit is still to come."""
    with primary() as (cluster, watcher):
        flask_app, others = streaming(cluster.connect), [lambda: None]
        flask_app.before_request(lambda: others[-1]())
        app = Client(LiteFSMiddleware(flask_app.wsgi_app, watcher))
        app.post("/orders/1", buffered=True)
        settled(cluster, watcher)
        others.append(lambda: order(cluster.connect))
        assert token_of(app.post("/orders/2", buffered=True)) == "pin"


def test_whose_commit_it_was_is_not_known_where_others_write(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of a route while another write runs; of a GET nothing is ever said."""
    with primary() as (cluster, watcher):
        app = Client(LiteFSMiddleware(streaming(cluster.connect).wsgi_app, watcher))
        outer = app.post("/orders/1")
        app.post("/orders/2", buffered=True)
        outer.get_data()
        outer.close()
        settled(cluster, watcher)
        app.get("/orders/3", buffered=True)
        assert caplog.messages == []
        app.post("/orders/4", buffered=True)  # alone again
        assert len(caplog.messages) == 1


def test_another_one_s_commit_is_not_taken_for_a_stream_s_own() -> None:
    """The position has moved when it starts, and another write runs: its commit may be to come. What is whole is done."""
    with primary() as (cluster, watcher):
        flask_app = streaming(cluster.connect)
        flask_app.add_url_rule("/whole", view_func=lambda: "ordered", methods=["POST"])
        flask_app.before_request(lambda: order(cluster.connect))
        app = Client(LiteFSMiddleware(flask_app.wsgi_app, watcher))
        outer = app.post("/orders/1")
        assert token_of(app.post("/orders/2", buffered=True)) == "pin"
        assert token_of(app.post("/whole", buffered=True)) == str(settled(cluster, watcher))
        outer.get_data()
        outer.close()


class Page:
    """A body as Django's responses are, with what it says of itself."""

    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming

    def __iter__(self) -> Iterator[bytes]:
        yield b"ordered"

    def close(self) -> None:
        """Nothing is done any more."""


def test_what_is_whole_without_a_length_is_no_stream() -> None:
    """A list, and a page of Django's, whose CommonMiddleware alone tells a length: their commits are over."""
    with primary() as (cluster, watcher):
        bodies: list[Any] = [[b"ordered"], Page(streaming=False), Page(streaming=True)]

        def app(environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] != "/beside":
                order(cluster.connect)
            start_response("200 OK", [])
            return iter([b"", b""]) if environ["PATH_INFO"] == "/beside" else bodies.pop(0)

        client = Client(LiteFSMiddleware(app, watcher))
        beside = client.post("/beside")
        for _ in range(2):
            assert token_of(client.post("/orders")) == str(settled(cluster, watcher))
        assert token_of(client.post("/orders")) == "pin"
        beside.close()


def test_a_route_that_commits_again_is_found_and_pinned(caplog: pytest.LogCaptureFixture) -> None:
    """What it has committed before its response is in the token of the first one; then it is known, and pinned."""
    with primary() as (cluster, watcher):
        flask_app = streaming(cluster.connect)
        flask_app.before_request(lambda: order(cluster.connect))
        app = Client(LiteFSMiddleware(flask_app.wsgi_app, watcher))
        assert Position.parse(token_of(app.post("/orders/1", buffered=True)) or "").txid < settled(cluster, watcher).txid
        assert len(caplog.messages) == 1
        assert token_of(app.post("/orders/2", buffered=True)) == "pin"


def test_a_refused_write_in_a_teardown_is_replayed() -> None:
    """The response has not started."""
    with SimulatedCluster(size=2, lag=0.001) as cluster:
        cluster.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        cluster.wait_until_replicated()
        with BlockingWatcher(cluster["node-b"].settings()) as watcher:
            watcher.wait_for_primary(timeout=10)
            app = Client(LiteFSMiddleware(teardown(lambda: cluster.connect("node-b")).wsgi_app, watcher))
            response = app.get("/orders/1")
            assert (response.status_code, response.headers.get("fly-replay")) == (409, "instance=node-a")


def test_a_teardown_that_fails_stays_an_error() -> None:
    """For the server to answer, which has not been told of a response."""
    with primary() as (_, watcher):
        app = teardown(lambda: (_ for _ in ()).throw(KeyError("bug")))
        with pytest.raises(KeyError, match="bug"):
            Client(LiteFSMiddleware(app.wsgi_app, watcher)).post("/orders/1")


def test_one_that_writes_by_itself() -> None:
    """PEP 3333's ``write`` sends at once: the response begins with it."""
    with primary() as (cluster, watcher):

        def app(environ: Any, start_response: Any) -> list[bytes]:
            order(cluster.connect)
            write = start_response("200 OK", [("content-type", "text/plain")])
            write(b"one")
            order(cluster.connect)
            return [b"two"]

        sent: list[Any] = []

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            sent.append(dict(headers)["litefs-txid"])
            return sent.append

        body = LiteFSMiddleware(app, watcher)(create_environ(method="POST"), start)
        assert sent[1:] == [b"one"]
        assert list(body) == [b"two"]
        assert Position.parse(sent[0]).txid == cluster.primary.position().txid - 1


def test_a_response_that_is_started_anew() -> None:
    """With exc_info, before anything was sent: the second one counts. A teardown may say that it has written."""
    with primary() as (cluster, watcher):

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("content-type", "text/plain")])
            try:
                raise KeyError("bug")
            except KeyError as error:
                start_response("500 Oh", [("content-type", "text/html")], (KeyError, error, error.__traceback__))
            mark_written(environ)
            return [b"page"]

        response = Client(validator(LiteFSMiddleware(validator(app), watcher))).get("/", buffered=True)
        assert (response.status, response.headers["content-type"]) == ("500 Oh", "text/html")
        assert token_of(response) == str(cluster.primary.position())
