"""What becomes a replay is no error, and is not logged as one."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import flask
import pytest
from werkzeug.test import Client

from litefs_watch import BlockingWatcher, NotPrimary, Role
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware

REFUSED = sqlite3.OperationalError("attempt to write a readonly database")
BUG = KeyError("bug")


def application(**handlers: Callable[[], Any]) -> flask.Flask:
    app = flask.Flask("shop")
    for name, handler in handlers.items():
        app.add_url_rule(f"/{name}", name, handler)
    return app


def raises(error: Exception) -> Callable[[], Any]:
    def handler() -> Any:
        raise error

    return handler


@contextmanager
def client_of(app: flask.Flask, *, primary: str | None) -> Iterator[Client]:
    with SimulatedNode(primary=primary) as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.PRIMARY if primary is None else Role.REPLICA, timeout=10)
        yield Client(LiteFSMiddleware(app.wsgi_app, watcher))


@pytest.mark.parametrize("error", [REFUSED, NotPrimary("node-b")])
def test_a_replay_is_not_logged_as_an_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Nor with a traceback: a refused write, and ``ensure_primary``."""
    with client_of(application(write=raises(error)), primary="node-b") as client:
        for _ in range(2):
            assert client.get("/write").headers["fly-replay"] == "instance=node-b"
    assert caplog.messages == []


def test_what_stays_an_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A bug anywhere; and a refused write on the primary, which is one."""
    for error, primary in ((BUG, "node-b"), (BUG, None), (REFUSED, None)):
        caplog.clear()
        with client_of(application(write=raises(error)), primary=primary) as client:
            assert client.get("/write").status_code == 500
        (record,) = caplog.records
        assert (record.levelno, record.message) == (logging.ERROR, "Exception on /write [GET]")
        assert record.exc_info is not None
        assert record.exc_info[1] is error


def test_what_is_answered_as_a_success_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error handler for 500 may answer so: then nothing is replayed."""
    app = application(write=raises(REFUSED))
    app.register_error_handler(500, lambda error: ("fine", 200))
    with client_of(app, primary="node-b") as client:
        assert client.get("/write").status_code == 200
    assert caplog.messages == ["Exception on /write [GET]"]


def test_without_the_middleware_all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An application that is wrapped is used without, too, and logs what it wants to."""

    def log() -> str:
        app.logger.error("mine")
        return "logged"

    app = application(write=raises(REFUSED), log=log)
    with client_of(app, primary="node-b") as client:
        client.get("/write")
        client.get("/log")
        Client(app).get("/write")
    assert caplog.messages == ["mine", "Exception on /write [GET]"]


def test_where_the_server_raises_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What was withheld comes out, whatever happens then."""

    def refused() -> Any:
        with closing(sqlite3.connect(":memory:")):
            raise REFUSED

    app = application(write=refused)

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        raise BUG

    with client_of(app, primary="node-b") as client, pytest.raises(KeyError):
        client.get("/write")
    assert caplog.messages == ["Exception on /write [GET]"]
