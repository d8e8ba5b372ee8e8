"""A write that SQLite refuses is noted where it happens: what a WSGI application makes of the error can't hide it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import flask
import pytest
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.test import Client

from litefs_watch import BlockingWatcher, Role
from litefs_watch.refusals import Connection, note, watch_engine
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware, mark_failed
from tests.refusing import database, refuse_writes

SWALLOWED = "answers with a success, and a write of its was refused here"
SOON = 10.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(hostname="node-b", primary="node-a") as node:
        yield node


@pytest.fixture
def watcher(node: SimulatedNode) -> Iterator[BlockingWatcher]:
    with BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        yield watcher


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = database(tmp_path)
    refuse_writes(path)
    return path


def refused() -> sqlite3.OperationalError:
    return sqlite3.OperationalError("attempt to write a readonly database")


def in_sqlite3(path: Path) -> Callable[[], object]:
    def write() -> None:
        with closing(sqlite3.connect(path, factory=Connection)) as connection, connection:
            connection.execute("INSERT INTO t VALUES (2)")

    return write


def in_sqlalchemy(path: Path) -> Callable[[], object]:
    engine = watch_engine(sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool))

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))

    return write


def catching(write: Callable[[], object], status: int) -> flask.Flask:
    """``try/except`` in the view."""
    app = flask.Flask("shop")

    @app.get("/items/<number>")
    def view(number: str) -> Any:
        try:
            write()
        except (sqlite3.Error, SQLAlchemyError):
            return "sorry", status
        return "done"

    return app


def handling(write: Callable[[], object], status: int) -> flask.Flask:
    """``@app.errorhandler``, of which Flask tells nobody."""
    app = flask.Flask("shop")

    @app.get("/items/<number>")
    def view(number: str) -> Any:
        write()
        return "done"

    for kind in (sqlite3.Error, SQLAlchemyError):
        app.register_error_handler(kind, lambda error: ("sorry", status))
    return app


@pytest.mark.parametrize("driver", [in_sqlite3, in_sqlalchemy])
@pytest.mark.parametrize("make", [catching, handling])
def test_textbook_error_handlers(
    node: SimulatedNode, watcher: BlockingWatcher, path: Path, driver: Any, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """They become the replay on a replica, whatever error they answer; a success is said once; on the primary all stays."""
    for status in (400, 500):
        response = Client(LiteFSMiddleware(make(driver(path), status).wsgi_app, watcher)).get("/items/1")
        assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
    assert caplog.messages == []
    client = Client(LiteFSMiddleware(make(driver(path), 200).wsgi_app, watcher))
    assert [client.get(f"/items/{number}").text for number in (1, 2)] == ["sorry", "sorry"]
    (said,) = caplog.messages
    assert said.startswith(f"GET /items/<number> {SWALLOWED}")
    node.become_primary()
    watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
    assert Client(LiteFSMiddleware(make(driver(path), 400).wsgi_app, watcher)).get("/items/1").text == "sorry"
    assert Client(LiteFSMiddleware(make(driver(path), 200).wsgi_app, watcher)).get("/items/1").text == "sorry"
    assert len(caplog.messages) == 1


def test_flask_logs_no_error_that_becomes_a_replay(watcher: BlockingWatcher, caplog: pytest.LogCaptureFixture) -> None:
    """Made of a refused write, which nothing else tells."""

    def write() -> str:
        note(refused())
        raise KeyError("unavailable")

    app = flask.Flask("shop")
    app.add_url_rule("/", view_func=write)
    assert Client(LiteFSMiddleware(app.wsgi_app, watcher)).get("/").headers["fly-replay"] == "instance=node-a"
    assert caplog.messages == []


def bare(environ: Any, start_response: Any) -> Any:
    """By its path: an error of its own, one that it tells of, a stream, a request to itself, and what follows on the same
    thread."""
    path = environ["PATH_INFO"]
    if path == "/within":
        assert Client(environ["site"]).get("/other").status_code == 400
        note(refused())
    if path == "/raises":
        note(refused())
        raise KeyError("unavailable")
    if path == "/tells":
        mark_failed(refused())
    if path == "/thread":
        thread = threading.Thread(target=lambda: note(refused()))
        thread.start()
        thread.join()
    start_response("200 OK" if path == "/stream" else "400 Bad Request", [])
    return streamed() if path == "/stream" else [b"sorry"]


def streamed() -> Iterator[bytes]:
    yield b"one"
    note(refused())
    yield b"two"


def test_each_request_has_its_own(watcher: BlockingWatcher, caplog: pytest.LogCaptureFixture) -> None:
    """One after the other on a thread: only those that refused a write, and have answered with nothing yet, are replayed."""
    site = LiteFSMiddleware(bare, watcher)
    client = Client(lambda environ, start_response: site(environ | {"site": site}, start_response))
    expected = {"/raises": 409, "/other": 400, "/within": 409, "/tells": 409, "/stream": 200, "/thread": 400}
    for _ in range(2):
        assert {path: client.get(path).status_code for path in expected} == expected
    assert client.get("/stream").data == b"onetwo"
    assert caplog.messages == []


def test_what_a_teardown_catches(watcher: BlockingWatcher, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The response has been made by then, and starts: the log says what was lost."""
    app, write = flask.Flask("shop"), in_sqlite3(path)
    app.add_url_rule("/items/<number>", view_func=lambda number: "done")

    @app.teardown_appcontext
    def log(error: BaseException | None) -> None:
        with pytest.raises(sqlite3.Error):
            write()

    client = Client(LiteFSMiddleware(app.wsgi_app, watcher))
    assert [client.get(f"/items/{number}").text for number in (1, 2)] == ["done", "done"]
    (said,) = caplog.messages
    assert said.startswith(f"GET /items/* {SWALLOWED}")
