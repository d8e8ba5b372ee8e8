"""A write that is held while no primary is known, and whose client leaves: it is not run when there is one.

Who retries during a fail-over would write twice. Through real servers: each tells of a client that has left in its own way.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.servers import ASGI_SERVERS, serve

SOON = 10.0


@pytest.fixture(params=ASGI_SERVERS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with serve(request.param, "tests.held_app:app") as port:
        yield port


def ask(port: int, word: str) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
    try:
        connection.request("GET", f"/-/{word}")
        found: list[str] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def post(port: int, body: bytes, length: int | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), SOON)
    length = len(body) if length is None else length
    sock.sendall(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%s" % (length, body))
    return sock


def test_a_held_write_whose_client_has_left_is_not_run(port: int) -> None:
    """With a body and without; those whose clients wait are run, with all of their bodies."""
    for body in (b"", b"has left"):
        with post(port, body):
            ask(port, "held")
        ask(port, "let_go")
    large = b"in two pieces" + b"." * 300_000
    with post(port, b"waits") as first, post(port, large[:5], len(large)) as second:
        ask(port, "held")
        ask(port, "primary")
        second.sendall(large[5:])
        for sock in (first, second):
            assert sock.recv(12) == b"HTTP/1.1 200"
    assert sorted(ask(port, "bodies")) == ["in two pieces.......", "waits"]


@pytest.mark.parametrize("server", ["hypercorn", "hypercorn-trio"])
def test_a_server_that_stops_ends_what_is_held(server: str) -> None:
    """Whose grace is less than a hold lasts: 503, which says that trying again is safe, and not 500."""
    with serve(server, "tests.held_app:app") as port:
        waiting = post(port, b"waits")
        ask(port, "held")
    with waiting:
        assert waiting.recv(12) == b"HTTP/1.1 503"
