"""What becomes a replay is no error, and is not logged as one: in Quart, which logs what it turns into an error page."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

import pytest
from quart import Quart

from litefs_watch import NotPrimary
from litefs_watch.asgi import LiteFSMiddleware
from tests.asgi.fakes import FakeWatcher, Reply, call, replica

REFUSED = sqlite3.OperationalError("attempt to write a readonly database")
BUG = KeyError("bug")


@pytest.fixture
def anyio_backend() -> str:
    """Quart knows no other."""
    return "asyncio"


async def ask(error: Exception, watcher: FakeWatcher, status: int | None = None) -> Reply:
    app: Any = Quart("shop")

    async def write() -> Any:
        raise error

    async def answer(error: Exception) -> Any:
        return "fine", status

    app.add_url_rule("/write", view_func=write)
    if status is not None:
        app.register_error_handler(500, answer)
    return await call(LiteFSMiddleware(app, watcher.watcher), "GET", "/write", [("host", "localhost")])


@pytest.mark.parametrize("error", [REFUSED, NotPrimary("node-b")])
async def test_a_replay_is_not_logged_as_an_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Nor with a traceback."""
    for _ in range(2):
        assert (await ask(error, replica())).header("fly-replay") == "instance=node-b"
    assert caplog.messages == []


async def test_what_stays_an_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A bug anywhere; a refused write on the primary, which is one; and what the application answers as a success."""
    cases: list[tuple[Exception, FakeWatcher, int | None]] = [
        (BUG, replica(), None),
        (BUG, FakeWatcher(), None),
        (REFUSED, FakeWatcher(), None),
        (REFUSED, replica(), 200),
    ]
    for error, watcher, status in cases:
        caplog.clear()
        assert (await ask(error, watcher, status)).status == (status or 500)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[1] is error
