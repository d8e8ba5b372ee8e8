"""`Forward`'s connections to the primary: used again while they live; a write is never run twice, nor lost without need."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

import litefs_watch.asgi.forwarder
import litefs_watch.wsgi.forwarder  # noqa: F401 - what these import reads files: once, and not in a test
from litefs_watch import BlockingWatcher, Role
from litefs_watch.asgi import Forward
from litefs_watch.testing import SimulatedNode
from litefs_watch.web import slots
from litefs_watch.web.forwarding import KEEP_ALIVE, Origin
from litefs_watch.wsgi import LiteFSMiddleware
from tests.asgi.fakes import call
from tests.asgi.test_forward import forwarding
from tests.wsgi.test_forward import Reply, unreached

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SOON = 10.0


@dataclass
class Fickle:
    """A primary that does with each connection what the test says, and counts the requests that have reached it."""

    plans: list[list[bytes | None]]
    """For each connection: what is answered to its requests, one after the other; None closes it instead. At the end it is
    closed."""
    requests: int = 0
    connections: int = 0
    closed: list[threading.Event] = field(default_factory=list)
    url: str = ""

    def run(self, listening: socket.socket) -> None:
        serving = []
        for plan, closed in zip(self.plans, self.closed, strict=True):
            connection, _ = listening.accept()
            connection.settimeout(SOON)
            self.connections += 1
            serving.append(threading.Thread(target=self._serve, args=(connection, plan, closed)))
            serving[-1].start()
        for thread in serving:
            thread.join()

    def _serve(self, connection: socket.socket, plan: list[bytes | None], closed: threading.Event) -> None:
        with connection:
            for answer in plan:
                if not self._has_request(connection) or answer is None:
                    break
                connection.sendall(answer)
        closed.set()

    def _has_request(self, connection: socket.socket) -> bool:
        seen = b""
        while not seen.endswith((b"body", b"0\r\n\r\n")):
            if not (piece := connection.recv(4096)):
                return False
            seen += piece
        self.requests += 1
        return True


@contextmanager
def fickle(*plans: list[bytes | None]) -> Iterator[Fickle]:
    primary = Fickle(list(plans), closed=[threading.Event() for _ in plans])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SOON)
        primary.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=primary.run, args=(listening,))
        thread.start()
        yield primary
        thread.join(SOON)
        assert not thread.is_alive()


@contextmanager
def wsgi_replica(url: str) -> Iterator[Any]:
    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        yield LiteFSMiddleware(unreached, watcher, replay=Forward(url))


HEADERS = [("host", "h"), ("content-length", "4")]


def post(app: Any) -> int:
    reply = Reply(app, "POST", "/", io.BytesIO(b"body"), CONTENT_LENGTH="4")
    reply.read()
    return int(reply.status[:3])


@pytest.fixture
def race_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary closes just after it was looked whether it has."""
    monkeypatch.setattr(slots, "is_readable", lambda sock: False)


async def test_a_closed_connection_is_not_used() -> None:
    """It is seen before anything is sent."""
    with fickle([ANSWER], [ANSWER]) as primary:
        async with forwarding(primary.url) as app:
            for each in range(2):
                assert (await call(app, "POST", "/", HEADERS, body=[b"body"])).status == 200
                assert await anyio.to_thread.run_sync(primary.closed[each].wait, SOON)
    assert (primary.requests, primary.connections) == (2, 2)


async def test_what_has_reached_nobody_is_sent_again(race_lost: None) -> None:
    """The connection was closed in that very moment: the primary's system has taken nothing, and the write runs once."""
    with fickle([ANSWER], [ANSWER]) as primary:
        async with forwarding(primary.url) as app:
            assert (await call(app, "POST", "/", HEADERS, body=[b"body"])).status == 200
            assert await anyio.to_thread.run_sync(primary.closed[0].wait, SOON)
            assert (await call(app, "POST", "/", HEADERS, body=[b"body"])).status == 200
    assert (primary.requests, primary.connections) == (2, 2)


async def test_what_may_have_run_is_not_sent_again() -> None:
    """The primary took it, and closed without an answer: 502 says that it may have run, on a used connection, too."""
    with fickle([ANSWER, None]) as primary:
        async with forwarding(primary.url) as app:
            assert (await call(app, "POST", "/", HEADERS, body=[b"body"])).status == 200
            reply = await call(app, "POST", "/", HEADERS, body=[b"body"])
    assert (reply.status, b"not known" in reply.body) == (502, True)
    assert (primary.requests, primary.connections) == (2, 1)


async def test_a_body_that_is_still_to_come_gets_a_new_connection() -> None:
    """It could not be sent again; what is complete, by its length too, uses one again."""
    with fickle([ANSWER, ANSWER], [ANSWER, ANSWER]) as primary:
        async with forwarding(primary.url) as app:
            for body, connections in (([b"body"], 1), ([b"bo", b"dy"], 2), ([b"body", b""], 2)):
                assert (await call(app, "POST", "/", HEADERS, body=body)).status == 200
                assert primary.connections == connections
    assert primary.requests == 3


def test_in_threads_a_closed_connection_is_not_used() -> None:
    """As on an event loop."""
    with fickle([ANSWER], [ANSWER]) as primary, wsgi_replica(primary.url) as app:
        for each in range(2):
            assert post(app) == 200
            assert primary.closed[each].wait(SOON)
    assert (primary.requests, primary.connections) == (2, 2)


def test_in_threads_what_has_reached_nobody_is_sent_again(race_lost: None) -> None:
    """As on an event loop."""
    with fickle([ANSWER], [ANSWER]) as primary, wsgi_replica(primary.url) as app:
        for each in range(2):
            assert post(app) == 200
            assert primary.closed[each].wait(SOON)
    assert (primary.requests, primary.connections) == (2, 2)


def test_in_threads_what_may_have_run_is_not_sent_again() -> None:
    """As on an event loop."""
    with fickle([ANSWER, None]) as primary, wsgi_replica(primary.url) as app:
        assert post(app) == 200
        assert post(app) == 502
    assert (primary.requests, primary.connections) == (2, 1)


def test_connections_are_given_up_in_time() -> None:
    """Long before the least patient server gives them up; the newest is used first, and there are never too many."""

    class Kept:
        origin = Origin.of("http://node-a:80")

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

    assert KEEP_ALIVE <= 1.0
    ends = [socket.socketpair() for _ in range(3)]
    a, b, c = (Kept(end) for end, _ in ends)
    idle = slots.Idle[Kept](2)
    assert idle.keep(a, 0.0) == []
    assert idle.keep(b, 0.5) == []
    assert idle.take(Origin.of("http://node-b:80"), 0.6) == (None, [])
    assert idle.take(a.origin, KEEP_ALIVE + 0.1) == (b, [a])
    assert idle.keep(a, 2.0) == []
    assert idle.keep(b, 2.0) == []
    assert idle.keep(c, 2.0) == [a]
    assert idle.given_up(2.0, room=1) == [b]
    assert idle.take(c.origin, 2.0 + KEEP_ALIVE + 0.1) == (None, [c])
    for end in (each for pair in ends for each in pair):
        end.close()
