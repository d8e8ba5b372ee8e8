"""A node that ceases to be the primary while a handler runs: what may have committed is never sent on."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from werkzeug.test import Client

from litefs_watch import BlockingWatcher, Role
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware

SOON = 10.0
MESSAGE = "attempt to write a readonly database"


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(hostname="node-a") as node:
        yield node


@pytest.fixture
def watcher(node: SimulatedNode) -> Iterator[BlockingWatcher]:
    with BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
        watcher.wait_for_tx(node.position(), timeout=SOON)
        yield watcher


def handler(node: SimulatedNode, *, committed: bool, notify: bool = True) -> Callable[[], str]:
    """Commits, or does not; then the node is demoted, and SQLite refuses the next write."""

    def handle() -> str:
        if committed:
            node.commit()
        node.set_primary("node-b", notify=notify)
        raise sqlite3.OperationalError(MESSAGE)

    return handle


def flask_app(handle: Callable[[], str]) -> Any:
    app = flask.Flask(__name__)
    app.add_url_rule("/", view_func=handle, methods=["GET", "POST"])
    return app.wsgi_app


def bare_app(handle: Callable[[], str]) -> Any:
    """Its exceptions come through."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = handle()
        start_response("200 OK", [])
        return [body.encode()]

    return app


@pytest.mark.parametrize("app", [flask_app, bare_app])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_has_committed_is_not_sent_on(
    node: SimulatedNode, watcher: BlockingWatcher, app: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would run twice: the error stays, and is logged, and the client is told and pinned."""
    client = Client(LiteFSMiddleware(app(handler(node, committed=True)), watcher))
    response = client.open("/", method=method)
    assert response.status_code == 500
    assert b"Internal Server Error" in response.data
    assert response.headers["litefs-committed"] == f"{node.position().txid:016x}"
    assert response.headers["set-cookie"].startswith("litefs_pos=pin; ")
    assert "fly-replay" not in response.headers
    assert any(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


@pytest.mark.parametrize("notify", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("app", [flask_app, bare_app])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_has_not_is_replayed(
    node: SimulatedNode, watcher: BlockingWatcher, app: Any, method: str, notify: bool
) -> None:
    """Also where the watcher has not heard of it: a write that is refused on a primary makes it look."""
    client = Client(LiteFSMiddleware(app(handler(node, committed=False, notify=notify)), watcher))
    response = client.open("/", method=method)
    assert response.status_code == 409
    assert response.headers["fly-replay"].startswith("instance=node-b")


def test_on_a_primary_that_is_one_it_stays(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """A full disk is a full disk: no mark, and the position that it has come to."""

    def handle() -> str:
        node.commit()
        raise sqlite3.OperationalError(MESSAGE)

    response = Client(LiteFSMiddleware(flask_app(handle), watcher)).post("/")
    assert response.status_code == 500
    assert response.headers["litefs-txid"] == str(node.position())
    assert "litefs-committed" not in response.headers
