"""`Forward`: the request goes to the primary through this node, and nothing is buffered. The primary is a real server."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

import litefs_watch.asgi.forwarder  # noqa: F401 - what it imports reads files: once, and not in a test
from litefs_watch import Role
from litefs_watch.asgi import Forward, LiteFSMiddleware
from litefs_watch.asgi.types import Message, Receive, Scope, Send
from litefs_watch.replay import end_to_end
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica, scope_of, unknown
from tests.asgi.serving import serve

MEGABYTE = 1 << 20


class Primary:
    """The application on the primary: it tells what it got."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.asked = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": message["type"] + ".complete"})
            return
        self.asked.set()
        await getattr(self, scope["path"].strip("/") or "show", self.show)(scope, receive, send)

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        digest, size = hashlib.sha256(), 0
        while True:
            message = await receive()
            digest.update(message.get("body", b""))
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        seen = {
            "method": scope["method"],
            "target": scope["raw_path"].decode() + "?" + scope["query_string"].decode(),
            "headers": [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]],
            "size": size,
            "digest": digest.hexdigest(),
        }
        headers = [
            (b"set-cookie", b"txnum=11; Path=/"),
            (b"set-cookie", b"session=1"),
            (b"x-answer", b"42"),
            (b"connection", b"x-secret"),
            (b"x-secret", b"between us"),
        ]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(seen).encode()})

    async def large(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"x" * MEGABYTE, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def endless(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    async def silent(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    async def empty(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Primary, str]]:
    primary = Primary()
    with serve(primary) as url:
        yield primary, url


@pytest.fixture
def primary(served: tuple[Primary, str]) -> Primary:
    served[0].gone.clear()
    return served[0]


@asynccontextmanager
async def forwarding(url: str, watcher: FakeWatcher | None = None, **options: Any) -> AsyncIterator[LiteFSMiddleware]:
    """A replica's middleware; its connections are closed at the end, as by the lifespan's."""
    handler = Handler()
    middleware = LiteFSMiddleware(handler, (watcher or replica()).watcher, replay=Forward(url, **options))
    try:
        yield middleware
    finally:
        await middleware._responder.aclose()
        assert handler.runs == 0


async def test_request_and_response_pass_through(served: tuple[Primary, str]) -> None:
    """Method, path, query, headers, body; status, headers, both cookies."""
    async with forwarding(served[1]) as app:
        headers = [("host", "shop.example.com"), ("content-length", "8"), ("x-token", "é".encode("latin-1")), ("te", "gzip")]
        reply = await call(app, "PUT", "/a%2Fb;c?d=%20&e", headers, body=[b"some", b"body"])
    assert reply.status == 201
    assert reply.all("set-cookie") == ["txnum=11; Path=/", "session=1"]
    assert reply.header("x-answer") == "42"
    seen = json.loads(reply.body)
    assert (seen["method"], seen["target"]) == ("PUT", "/a%2Fb;c?d=%20&e")
    assert seen["digest"] == hashlib.sha256(b"somebody").hexdigest()
    assert dict(seen["headers"]) == {
        "host": "shop.example.com",
        "content-length": "8",
        "x-token": "é",
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop.example.com",
        "litefs-forwarded": "node-a",
    }


async def test_hop_by_hop_headers_stay_between_neighbours(served: tuple[Primary, str]) -> None:
    """In both directions; what the answer's ``connection`` names, too; what a proxy before this one said is added to. The
    client's ``connection`` takes nothing away: nobody knows what the proxy has added."""
    async with forwarding(served[1]) as app:
        headers = [
            ("host", "h"),
            ("connection", "keep-alive, x-forwarded-for, host, x-real-ip, Forwarded, fly-client-ip, x-of-a-proxy"),
            ("x-real-ip", "203.0.113.1"),
            ("forwarded", "for=203.0.113.1"),
            ("fly-client-ip", "203.0.113.1"),
            ("x-of-a-proxy", "it is you"),
            ("upgrade", "h2c"),
            ("keep-alive", "5"),
            ("proxy-authorization", "Basic x"),
            ("expect", "100-continue"),
            ("http2-settings", "x"),
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-for", "198.51.100.1, 198.51.100.2"),
            ("cookie", "a=1"),
            ("x-forwarded-proto", "https"),
            ("cookie", "b=2; c=3"),
        ]
        reply = await call(app, "POST", "/", headers)
    assert "x-secret" not in [name for name, _ in reply.messages[0]["headers"]]
    sent = dict(json.loads(reply.body)["headers"])
    ours = {"host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "litefs-forwarded", "cookie"}
    assert sent.keys() == ours | {"x-real-ip", "forwarded", "fly-client-ip", "x-of-a-proxy"}
    assert len(sent) == len(json.loads(reply.body)["headers"])
    assert sent["x-forwarded-for"] == "203.0.113.1, 198.51.100.1, 198.51.100.2, 192.0.2.7"
    assert sent["x-forwarded-proto"] == "https"
    assert sent["cookie"] == "a=1; b=2; c=3"


def test_what_is_hop_by_hop() -> None:
    """RFC 9110's list, in any case; ``connection`` can't take away what identifies a request."""
    assert end_to_end([(b"Transfer-Encoding", b"chunked"), (b"TE", b"x"), (b"X-A", b"1")]) == [(b"x-a", b"1")]
    kept = [(b"cookie", b"a=b"), (b"host", b"h"), (b"authorization", b"x"), (b"content-length", b"0")]
    assert end_to_end([(b"connection", b"cookie, host, authorization, content-length"), *kept]) == kept


async def test_a_body_of_any_size_is_streamed(served: tuple[Primary, str]) -> None:
    """64 MB each way, a megabyte at a time, with its length and without."""
    piece = b"y" * MEGABYTE
    digest = hashlib.sha256(piece * 64).hexdigest()
    async with forwarding(served[1]) as app:
        for headers in ([("host", "h")], [("host", "h"), ("content-length", str(64 * MEGABYTE))]):
            seen = json.loads((await call(app, "POST", "/", headers, body=[piece] * 64)).body)
            assert (seen["size"], seen["digest"]) == (64 * MEGABYTE, digest)
        reply = await call(app, "POST", "/large", [("host", "h")])
        assert len(reply.body) == 64 * MEGABYTE
        assert len(reply.messages) > 64  # as it came


async def test_responses_without_a_body(served: tuple[Primary, str]) -> None:
    """204, and HEAD."""
    async with forwarding(served[1]) as app:
        assert (await call(app, "DELETE", "/empty", [("host", "h")])).status == 204
    watcher = replica()
    async with forwarding(served[1], watcher) as app:
        reply = await call(app, "HEAD", "/", [("host", "h"), ("litefs-txid", "99")])
        assert (reply.status, reply.body) == (201, b"")


async def test_who_hangs_up_hangs_up_on_the_primary(served: tuple[Primary, str], primary: Primary) -> None:
    """While the answer streams, and while it is awaited."""
    for path in ("/endless", "/silent"):
        primary.gone.clear()
        primary.asked.clear()
        async with forwarding(served[1]) as app:
            begun, hang_up, reply = anyio.Event(), anyio.Event(), Reply()
            incoming: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive() -> Message:
                if incoming:  # noqa: B023
                    return incoming.pop()  # noqa: B023
                await hang_up.wait()  # noqa: B023
                return {"type": "http.disconnect"}

            async def send(message: Message) -> None:
                reply.messages.append(message)  # noqa: B023
                if message.get("body"):
                    begun.set()  # noqa: B023

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(app, scope_of("POST", path, [("host", "h")]), receive, send)
                with anyio.fail_after(10):
                    if path == "/endless":
                        await begun.wait()
                    assert await anyio.to_thread.run_sync(primary.asked.wait, 10)
                hang_up.set()
            assert await anyio.to_thread.run_sync(primary.gone.wait, 10)


async def test_who_hangs_up_while_sending_is_gone(served: tuple[Primary, str]) -> None:
    """Nothing is answered, and nothing hangs."""
    async with forwarding(served[1]) as app:
        messages: list[Message] = [
            {"type": "http.disconnect"},
            {"type": "http.request", "body": b"half", "more_body": True},
        ]
        sent: list[Message] = []

        async def receive() -> Message:
            return messages.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        with anyio.fail_after(10):
            await app(scope_of("POST", "/", [("host", "h"), ("content-length", "8")]), receive, send)
        assert sent == []


async def test_a_primary_that_cannot_be_reached_is_503() -> None:
    """Nothing was sent: trying again is safe."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with forwarding(f"http://127.0.0.1:{closed.getsockname()[1]}") as app:
            reply = await call(app, "POST", "/", [("host", "h")])
    assert (reply.status, reply.header("retry-after")) == (503, "1")


async def test_a_primary_that_stays_silent_is_504(served: tuple[Primary, str]) -> None:
    """Whether it did anything is not known, and the answer says so."""
    async with forwarding(served[1], timeout=0.05) as app:
        reply = await call(app, "POST", "/silent", [("host", "h")])
    assert (reply.status, reply.header("retry-after"), b"not known" in reply.body) == (504, None, True)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n"])
async def test_a_primary_that_breaks_off_is_502(said: bytes) -> None:
    """It closes the connection, or speaks something else."""
    with broken_primary(said) as url:
        async with forwarding(url) as app:
            reply = await call(app, "POST", "/", [("host", "h")])
    assert (reply.status, b"not known" in reply.body) == (502, True)


async def test_an_answer_that_breaks_off_breaks_off() -> None:
    """Half a body must not look like a whole one: the server is told by the exception."""
    with broken_primary(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf") as url:
        async with forwarding(url) as app:
            reply = Reply()
            with pytest.raises(Exception, match="peer closed"):
                await call(app, "POST", "/", [("host", "h")], reply=reply)
    assert (reply.status, reply.body) == (200, b"half")
    assert reply.messages[-1]["more_body"]


async def test_a_forwarded_request_is_not_forwarded_back(served: tuple[Primary, str], primary: Primary) -> None:
    """Refused at once: two nodes that take each other for the primary."""
    primary.asked.clear()
    watcher = replica()
    async with forwarding(served[1], watcher) as app:
        assert (await call(app, "POST", "/", [("litefs-forwarded", "node-b")])).status == 503
    assert watcher.waits == []
    assert not primary.asked.is_set()


async def test_a_forwarded_request_is_forwarded_on_and_counted(served: tuple[Primary, str]) -> None:
    """To another node, which gets one count, the larger one, also where Fly's edge has sent it here."""
    for header, hops in (
        (("litefs-forwarded", "node-c"), 2),
        (("fly-replay-src", "instance=node-c;t=1;state=litefs.2.0"), 3),
    ):
        async with forwarding(served[1]) as app:
            seen = json.loads((await call(app, "POST", "/", [("host", "h"), header])).body)
        values = [value for name, value in seen["headers"] if name == "litefs-forwarded"]
        assert values == [f"node-a;state=litefs.{hops}.0"]


async def test_a_held_write_is_forwarded_with_its_body(served: tuple[Primary, str]) -> None:
    """It waits at the client until a primary is known."""
    watcher = unknown()
    watcher.during = lambda: watcher.become(Role.REPLICA, "node-b")
    async with forwarding(served[1], watcher) as app:
        reply = await call(app, "POST", "/", [("host", "h")], body=[b"some", b"body"])
    assert json.loads(reply.body)["size"] == 8


def test_over_real_sockets_on_both_sides() -> None:
    """Client, replica and primary are three; the connections are closed with the lifespan, and open anew after it."""
    primary = Primary()
    with serve(primary) as url:
        middleware = LiteFSMiddleware(primary, replica().watcher, replay=Forward(url))
        for _ in range(2):
            with serve(middleware) as replica_url, httpx2.Client(timeout=20) as client:
                for _ in range(3):
                    reply = client.post(replica_url, content=b"z" * (3 * MEGABYTE))
                    assert reply.json()["size"] == 3 * MEGABYTE
                    assert dict(reply.json()["headers"])["litefs-forwarded"] == "node-a"
                    assert len(reply.headers.get_list("date")) == 1
                    assert len(reply.headers.get_list("server")) == 1


class broken_primary:  # noqa: N801 - used as a function
    """A server that says something, once, and closes the connection."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self._said)

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._socket.close()
