"""`Forward` while the request's body is still to come: the answer is read meanwhile, and silence has an end.

Through real servers, as a client sees it. Daphne is not among them: it reads the whole body before it calls anybody.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from litefs_watch.asgi.types import Receive, Scope, Send
from litefs_watch.testing import SimulatedNode
from tests.asgi.serving import serve as serve_primary
from tests.asgi.test_forward import Primary
from tests.servers import serve

SERVERS = ["uvicorn", "hypercorn", "hypercorn-trio", "granian", "gunicorn"]
STREAMING = SERVERS[:-1]
"""Those that hand a body on as it comes. gunicorn reads as much as it is asked for."""

MEGABYTE = 1 << 20
AT_ONCE = 8.0
"""Seconds: less than any time limit of the library's, and much more than a busy machine needs."""
MOST_WRITES = 500


class Reluctant(Primary):
    """A primary that answers before it has read."""

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """At once, without a look at the body, and hangs up."""
        headers = [(b"content-length", b"9"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"too large"})

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Piece by piece, as they come."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more and (message := await receive())["type"] == "http.request":
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


@contextmanager
def replica(server: str, url: str, arguments: Iterable[str] = (), **options: Any) -> Iterator[int]:
    """A replica behind ``server`` with these ``arguments``, which forwards to ``url``; gives its port."""
    env = {"FORWARD_TO": url, "FORWARD_OPTIONS": json.dumps(options)}
    with ExitStack() as stack:
        if server == "gunicorn":
            node = stack.enter_context(SimulatedNode(hostname="node-b", primary="node-a"))
            env |= {"LITEFS_DIR": str(node.litefs_dir), "LITEFS_API_URL": node.api_url or "none"}
            env |= {"FLY_MACHINE_ID": "node-b", "DATABASE_FILENAME": "app.db"}
        env["FORWARD_APP"] = "wsgi" if server == "gunicorn" else "asgi"
        yield stack.enter_context(serve(server, "tests.forwarding_apps:app", *arguments, **env))


@pytest.fixture(scope="module")
def primary() -> Iterator[str]:
    with serve_primary(Reluctant()) as url:
        yield url


@pytest.fixture(scope="module", params=SERVERS)
def port(request: pytest.FixtureRequest, primary: str) -> Iterator[int]:
    with replica(request.param, primary, upload_timeout=0.5) as port:
        yield port


def upload(port: int, path: str, length: int, body: bytes = b"") -> socket.socket:
    """A connection on which a request of ``length`` bytes has begun."""
    sock = socket.create_connection(("127.0.0.1", port), AT_ONCE)
    sock.sendall(b"POST %s HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % (path.encode(), length) + body)
    return sock


def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    """What comes, up to ``wanted``."""
    seen = b""
    while wanted not in seen:
        piece = sock.recv(65536)
        assert piece, f"the end, after {seen!r}"
        seen += piece
    return seen


def test_an_early_answer_reaches_a_client_that_sends_on(port: int, request: pytest.FixtureRequest) -> None:
    """One that sends 30 MB before it reads anything: the 413 is there, and no reset connection. (Granian may take no more
    once it has the whole answer, whoever still reads: its clients see a write fail, and then the answer.)"""
    granian = "granian" in request.node.name
    with upload(port, "/refuse", 30 * MEGABYTE) as sock:
        with contextlib.suppress(BrokenPipeError) if granian else contextlib.nullcontext():
            for _ in range(30):
                sock.sendall(b"x" * MEGABYTE)
        assert read_until(sock, b"too large").startswith(b"HTTP/1.1 413")


def test_a_client_that_waits_gets_its_answer(port: int) -> None:
    """Three bytes of a hundred are sent: the primary's answer does not wait for the rest."""
    with upload(port, "/refuse", 100, b"abc") as sock:
        assert read_until(sock, b"too large").startswith(b"HTTP/1.1 413")


def test_a_client_that_falls_silent_is_told(port: int) -> None:
    """408 after ``upload_timeout``, whether the body has begun or not, and the next client is served."""
    for begun in (b"", b"abc"):
        with upload(port, "/", 100, begun) as sock:
            assert read_until(sock, b"did not come").startswith(b"HTTP/1.1 408")
    with upload(port, "/", 3, b"abc") as sock:
        assert read_until(sock, b'"size": 3').startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize("server", STREAMING)
def test_a_conversation(server: str, primary: str) -> None:
    """Each piece is answered before the next is sent, with pauses longer than ``upload_timeout``: who has an answer may take
    time."""
    with replica(server, primary, upload_timeout=0.2) as port, upload(port, "/echo", 9) as sock:
        for piece in (b"one", b"two", b"end"):
            sock.sendall(piece)
            read_until(sock, piece)
            threading.Event().wait(0.3)


@pytest.mark.parametrize("server", SERVERS)
def test_a_primary_that_closes_ends_the_upload(server: str) -> None:
    """Without a word, in the middle: 502, and not only when the client has sent everything."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def close_early() -> None:
            connection, _ = listening.accept()
            with connection:
                read_until(connection, b"\r\n\r\n")

        thread = threading.Thread(target=close_early)
        thread.start()
        port = stack.enter_context(replica(server, url))
        sock = stack.enter_context(upload(port, "/", 100, b"abc"))
        assert read_until(sock, b"not known").startswith(b"HTTP/1.1 502")
        thread.join(AT_ONCE)


@pytest.mark.parametrize(("server", "places"), [("uvicorn", 100), ("hypercorn", 100), ("gunicorn", 4)])
def test_silent_uploads_do_not_stop_others(server: str, places: int, primary: str) -> None:
    """As many as there are connections, which would hold them for half a minute: an honest write is answered."""
    with ExitStack() as stack:
        port = stack.enter_context(replica(server, primary, max_connections=places))
        held = [stack.enter_context(upload(port, "/", 100, b"abc")) for _ in range(places)]
        told: list[socket.socket] = []
        writes = 0
        while not told and writes < MOST_WRITES:  # a server may take a while to come to the silent ones
            began = time.monotonic()
            with upload(port, "/", 3, b"abc") as sock:
                assert read_until(sock, b'"size": 3').startswith(b"HTTP/1.1 201")
            assert time.monotonic() - began < AT_ONCE
            writes += 1
            told = [sock for sock in held if is_told(sock)]
        assert 1 <= len(told) <= writes


def is_told(sock: socket.socket) -> bool:
    """Whether something has come, which is not waited for."""
    sock.setblocking(False)
    try:
        return sock.recv(12) == b"HTTP/1.1 408"
    except BlockingIOError:
        return False
