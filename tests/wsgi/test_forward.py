"""`Forward` under WSGI: the request goes to the primary through this node. The primary is a real server."""

from __future__ import annotations

import hashlib
import io
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import flask
import pytest

import litefs_watch.wsgi.forwarder  # noqa: F401 - what it imports reads files: once, and not in a test
from litefs_watch import BlockingWatcher, NotPrimary, Role
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import Forward, LiteFSMiddleware
from tests.asgi.serving import serve
from tests.asgi.test_forward import Primary

SOON = 10.0
SERVER = {"SERVER_NAME": "shop.example.com", "SERVER_PORT": "443"}  # without which werkzeug makes no address


class Reply:
    """One request through a middleware, as a server makes it."""

    def __init__(self, app: Any, method: str, path: str, body: Any = None, **environ: Any) -> None:
        self.headers: list[tuple[str, str]] = []
        raw, _, query = path.partition("?")
        given = {
            "REQUEST_METHOD": method,
            "PATH_INFO": raw,
            "QUERY_STRING": query,
            "wsgi.input": body if body is not None else io.BytesIO(),
            "wsgi.url_scheme": "https",
            "REMOTE_ADDR": "203.0.113.9",
            "HTTP_HOST": "shop.example.com",
        }
        self.chunks = app(given | environ, self._start)

    def _start(self, status: str, headers: list[tuple[str, str]]) -> Callable[[bytes], object]:
        self.status, self.headers = status, headers
        return lambda _: None

    def read(self) -> bytes:
        try:
            return b"".join(self.chunks)
        finally:
            self.close()

    def close(self) -> None:
        if hasattr(self.chunks, "close"):
            self.chunks.close()


class Upload:
    """A body of ``size`` bytes, which comes in pieces, and ends as a server lets it end."""

    def __init__(self, size: int) -> None:
        self.left, self.digest, self.largest = size, hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        self.largest = max(self.largest, size)
        chunk = b"x" * min(size, self.left, 50_000)
        self.left -= len(chunk)
        self.digest.update(chunk)
        return chunk


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Primary, str]]:
    primary = Primary()
    with serve(primary) as url:
        yield primary, url


@pytest.fixture
def watcher() -> Iterator[BlockingWatcher]:
    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        yield watcher


def unreached(environ: Any, start_response: Any) -> Any:
    raise AssertionError("the application ran on the replica")


def test_request_and_response_pass_through(served: tuple[Primary, str], watcher: BlockingWatcher) -> None:
    """Method, path and query as the client wrote them, headers, body; status, headers, both cookies."""
    reply = Reply(
        LiteFSMiddleware(unreached, watcher, replay=Forward(served[1])),
        "PUT",
        "/a/b;c?d=%20&e",
        io.BytesIO(b"somebody and the next request"),
        RAW_URI="/a%2Fb;c?d=%20&e",
        CONTENT_LENGTH="8",
        CONTENT_TYPE="text/plain",
        HTTP_X_TOKEN="é",
        HTTP_TE="gzip",
    )
    seen = json.loads(reply.read())
    assert reply.status == "201 Created"
    assert [value for name, value in reply.headers if name == "set-cookie"] == ["txnum=11; Path=/", "session=1"]
    assert "x-secret" not in dict(reply.headers)
    assert (seen["method"], seen["target"]) == ("PUT", "/a%2Fb;c?d=%20&e")
    assert seen["digest"] == hashlib.sha256(b"somebody").hexdigest()
    assert dict(seen["headers"]) == {
        "host": "shop.example.com",
        "content-length": "8",
        "content-type": "text/plain",
        "x-token": "é",
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-host": "shop.example.com",
        "x-forwarded-proto": "https",
        "litefs-forwarded": "node-b",
    }


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_passes_in_pieces(served: tuple[Primary, str], watcher: BlockingWatcher, chunked: bool) -> None:
    """Of a known length, and of an unknown one."""
    size = 3_000_001
    upload = Upload(size)
    length = (
        {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True} if chunked else {"CONTENT_LENGTH": str(size)}
    )
    reply = Reply(LiteFSMiddleware(unreached, watcher, replay=Forward(served[1])), "POST", "/", upload, **length)
    seen = json.loads(reply.read())
    assert (seen["size"], seen["digest"]) == (size, upload.digest.hexdigest())
    assert upload.largest <= 1 << 16


def test_an_answer_is_streamed_and_given_up_with_its_reader(served: tuple[Primary, str], watcher: BlockingWatcher) -> None:
    """The first piece arrives before the last is made; who closes the answer hangs up on the primary."""
    primary, url = served
    primary.gone.clear()
    reply = Reply(LiteFSMiddleware(unreached, watcher, replay=Forward(url)), "POST", "/endless")
    assert next(iter(reply.chunks)) == b"first"
    reply.close()
    assert primary.gone.wait(SOON)


def test_connections_are_used_again(served: tuple[Primary, str], watcher: BlockingWatcher) -> None:
    """One request after the other needs one connection."""
    app = LiteFSMiddleware(unreached, watcher, replay=Forward(served[1]))
    for _ in range(3):
        Reply(app, "DELETE", "/").read()
    assert app._responder._forwarder is not None
    assert app._responder._forwarder.pool().idle == 1


def test_a_primary_that_cannot_be_reached(watcher: BlockingWatcher, caplog: pytest.LogCaptureFixture) -> None:
    """503: nothing was sent."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        reply = Reply(LiteFSMiddleware(unreached, watcher, replay=Forward(url)), "POST", "/")
    assert b"can't be reached" in reply.read()
    assert reply.status == "503 Service Unavailable"
    assert dict(reply.headers)["retry-after"] == "1"
    assert "forwarding POST / to node-a failed" in caplog.text


def test_a_primary_that_stays_silent(
    served: tuple[Primary, str], watcher: BlockingWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    """504: it may have done it."""
    app = LiteFSMiddleware(unreached, watcher, replay=Forward(served[1], timeout=0.05))
    reply = Reply(app, "POST", "/silent")
    assert b"did not answer in time" in reply.read()
    assert reply.status == "504 Gateway Timeout"


def test_a_client_that_hangs_up_within_its_body(served: tuple[Primary, str], watcher: BlockingWatcher) -> None:
    """The primary does not take a part for the whole."""
    app = LiteFSMiddleware(unreached, watcher, replay=Forward(served[1]))
    reply = Reply(app, "POST", "/", io.BytesIO(b"half"), CONTENT_LENGTH="8")
    assert reply.read() == b"The rest of the request's body could not be read. Send the whole request again.\n"
    assert reply.status == "400 Bad Request"


@pytest.mark.parametrize("read", ["read", "readline", "readlines", "__iter__"])
def test_a_body_that_was_read_here_is_not_sent_on(served: tuple[Primary, str], watcher: BlockingWatcher, read: str) -> None:
    """A handler on the replica finds out too late that it belongs on the primary."""

    def handler(environ: Any, start_response: Any) -> Any:
        list(getattr(environ["wsgi.input"], read)())
        raise NotPrimary("node-a")

    reply = Reply(
        LiteFSMiddleware(handler, watcher, replay=Forward(served[1])), "GET", "/", io.BytesIO(b"x"), CONTENT_LENGTH="1"
    )
    assert b"body has been read there" in reply.read()
    assert reply.status == "503 Service Unavailable"


def test_a_body_that_flask_has_read_is_not_sent_on(served: tuple[Primary, str], watcher: BlockingWatcher) -> None:
    """By ``readinto``, where the stream has it: a file's, and a socket's."""
    app = flask.Flask(__name__)

    @app.route("/", methods=["GET"])
    def handler() -> str:
        assert flask.request.get_data() == b"body"
        raise NotPrimary("node-a")

    body = io.BytesIO(b"body")
    assert hasattr(body, "readinto")
    reply = Reply(
        LiteFSMiddleware(app.wsgi_app, watcher, replay=Forward(served[1])), "GET", "/", body, CONTENT_LENGTH="4", **SERVER
    )
    assert b"body has been read there" in reply.read()
    assert reply.status == "503 Service Unavailable"


def test_a_handler_that_has_not_read_it(served: tuple[Primary, str], watcher: BlockingWatcher) -> None:
    """Is sent on, body and all; so is one without a body, whatever was read."""

    def handler(environ: Any, start_response: Any) -> Any:
        if not environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"].read()
        raise NotPrimary("node-a")

    app = LiteFSMiddleware(handler, watcher, replay=Forward(served[1]))
    assert json.loads(Reply(app, "GET", "/", io.BytesIO(b"abc"), CONTENT_LENGTH="3").read())["size"] == 3
    assert json.loads(Reply(app, "GET", "/").read())["size"] == 0
