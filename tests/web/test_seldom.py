"""What clients can cause any number of times does not fill the log; what may have been done is always said."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from litefs_watch import BlockingWatcher, Settings
from litefs_watch.consistency import Refuse
from litefs_watch.web.forwarding import Failures, broke_off, malformed, unreachable
from litefs_watch.web.seldom import SAID_EVERY, Refusals, Seldom, more
from litefs_watch.wsgi import LiteFSMiddleware


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_kind_by_itself_and_with_what_went_unsaid() -> None:
    """The first at once, the next after its time, with the number of those between; another kind has a time of its own."""
    clock = Clock()
    seldom = Seldom(clock)
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b"), seldom.due("a")] == [0, None, 0, None]
    clock.now += SAID_EVERY
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [2, None, 0]
    assert [seldom.due("a", 0), seldom.due("a", 0)] == [1, 0]
    assert (more(0), more(2)) == ("", " (and 2 more like it since the last such line)")


def test_refusals(caplog: pytest.LogCaptureFixture) -> None:
    """Of those that did nothing one of each reason; each of those whose write may stand."""
    refusals = Refusals()
    for number in range(50):
        refusals.say(Refuse("No primary.", f"seen {number}"), f"GET /{number}")
        refusals.say(Refuse("Try again.", f"seen {number}"), f"GET /{number}")
    assert caplog.messages == ["503 for GET /0: No primary. seen 0", "503 for GET /0: Try again. seen 0"]
    caplog.clear()
    for number in range(3):
        refusals.say(Refuse("Lost?", status=500), f"POST /{number}")
        refusals.say(Refuse("On too few.", headers=((b"a", b"b"),)), f"POST /{number}")
    assert len(caplog.messages) == 6


def test_failures_of_forwarding(caplog: pytest.LogCaptureFixture) -> None:
    """Likewise: what the client does, and where nothing was sent, is seldom; what may have run is each time."""
    failures = Failures()
    for number in range(20):
        failures.say(f"GET /{number}", unreachable("refused"))
        failures.say(f"GET /{number}", malformed(ValueError(f"header {number}")))
    assert [message.partition(" failed")[0] for message in caplog.messages] == ["forwarding GET /0"] * 2
    caplog.clear()
    for number in range(3):
        failures.say(f"POST /{number}", broke_off("reset"))
    assert len(caplog.messages) == 3


def test_a_middleware_under_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    """Two hundred requests that are refused, each with a path of its own: one line, in which the first one stands."""

    def never(environ: Any, start_response: Any) -> list[bytes]:
        raise AssertionError

    with BlockingWatcher(Settings("/nowhere", "app.db", api_url=None)) as watcher:
        app = LiteFSMiddleware(never, watcher, timeout=0, hold_writes=0)
        caplog.clear()
        for number in range(200):
            environ = {"REQUEST_METHOD": "POST", "PATH_INFO": f"/{number}", "QUERY_STRING": "", "wsgi.input": io.BytesIO()}
            environ |= {"wsgi.url_scheme": "http", "SERVER_NAME": "x", "SERVER_PORT": "80"}
            list(app(environ, lambda *_: None))  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message[:14] for message in said if " for " in message] == ["503 for POST /"]
