"""What the middlewares answer instead of the application, and what they raise into it."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from io import BytesIO
from typing import Any

import anyio
import pytest
from werkzeug.test import Client

from litefs_watch import BlockingWatcher, NotPrimary, Position, Role, Settings, WaitTimeout, Watcher, WrongInstance
from litefs_watch.asgi import Forward, LiteFSMiddleware
from litefs_watch.asgi.types import App, Message, Receive, Scope, Send
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware as ForThreads
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, raises, replica, scope_of, unknown
from tests.asgi.websocket_clients import LIVE, Echo, client
from tests.messages.provoking import Case, as_printed, case

AHEAD = ("litefs-txid", str(Position(50, 1 << 63)))
HOST = ("host", "shop.example.com")


def answered(
    watcher: FakeWatcher, handler: App | None = None, method: str = "POST", *headers: tuple[str, str], **options: Any
) -> Callable[[], Any]:
    """The status and the text of the answer to a request."""

    async def provoke() -> str:
        return shown(await call(LiteFSMiddleware(handler or Handler(), watcher.watcher, **options), method, "/", headers))

    return provoke


def shown(reply: Reply) -> str:
    return f"{reply.status} {reply.body.decode().rstrip()}"


def misplaced() -> FakeWatcher:
    watcher = FakeWatcher()
    watcher.misplaced = "/data is not LiteFS's mount"
    return watcher


def unsure() -> FakeWatcher:
    watcher = FakeWatcher()
    watcher.tells = False
    return watcher


def stopped() -> Callable[[], Any]:
    async def provoke() -> str:
        return shown(await call(LiteFSMiddleware(Handler(), Watcher(Settings("/nowhere", "app.db"))), "POST"))

    return provoke


async def went_back() -> str:
    watcher = FakeWatcher()

    def reset(scope: Scope) -> None:
        watcher.file = Position(5, 1)

    return shown(await call(LiteFSMiddleware(Handler(reset), watcher.watcher), "POST"))


async def unreplicated() -> str:
    watcher: Any = FakeWatcher()
    watcher.settings = Settings("/nowhere", "app.db", hostname="node-a", peers=["http://node-b:20202"])
    watcher.cluster = None
    app = LiteFSMiddleware(
        Handler(lambda scope: watcher.commit()), watcher.watcher, replicated_to=1, on_unreplicated="error"
    )
    return shown(await call(app, "POST"))


async def became_the_primary() -> str:
    watcher = replica()

    def during(scope: Scope) -> None:
        watcher.become(Role.PRIMARY)
        raise NotPrimary("node-b")

    return shown(await call(LiteFSMiddleware(Handler(during), watcher.watcher), "GET"))


async def committed_and_failed() -> str:
    watcher, reply = FakeWatcher(), Reply()

    def during(scope: Scope) -> None:
        watcher.commit()
        watcher.known = watcher.file if isinstance(watcher.file, Position) else None
        watcher.become(Role.REPLICA, "node-b")
        raise NotPrimary("node-b")

    with contextlib.suppress(NotPrimary):
        await call(LiteFSMiddleware(Handler(during), watcher.watcher), "POST", reply=reply)
    return shown(reply)


async def by_own_means(scope: Scope, receive: Receive, send: Send, hostname: str) -> None:
    """A strategy."""


async def read_here() -> str:
    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise NotPrimary("node-b")

    app = LiteFSMiddleware(reading, replica().watcher, replay=Forward("http://127.0.0.1:9"))
    return shown(await call(app, "GET", body=[b"some", b"body"]))


class Patient(FakeWatcher):
    """Whose waits for a primary do not end."""

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        await anyio.sleep_forever()
        raise AssertionError


async def stopping() -> str:
    reply = Reply()
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            await call(LiteFSMiddleware(Handler(), Patient(Role.UNKNOWN).watcher), "POST", reply=reply)

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    return shown(reply)


# Sent on.


@contextmanager
def primary(answer: Callable[[bytes], bytes] | None) -> Iterator[str]:
    """One connection's: it is sent what ``answer`` makes of the request, and closed. None: it is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(answer(connection.recv(65536)) if answer is not None else b"")

        thread = threading.Thread(target=serve if answer is not None else int)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


async def sent_on(url: str, *headers: tuple[str, str], receive: Receive | None = None, **options: Any) -> str:
    app, reply = LiteFSMiddleware(Handler(), replica().watcher, replay=Forward(url, **options)), Reply()
    if receive is None:
        return shown(await call(app, "POST", "/", [HOST, *headers]))

    async def send(message: Message) -> None:
        reply.messages.append(message)

    await app(scope_of("POST", "/", [HOST, ("content-length", "9")]), receive, send)
    return shown(reply)


async def nobody_there() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return await sent_on(f"http://127.0.0.1:{sock.getsockname()[1]}")


async def no_answer() -> str:
    with primary(None) as url:
        return await sent_on(url, timeout=0.05)


async def broken_off() -> str:
    with primary(lambda request: b"") as url:
        return await sent_on(url)


async def no_request() -> str:
    with primary(lambda request: b"") as url:
        return await sent_on(url, ("x y", "1"))


async def half_a_body() -> str:
    pieces = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive() -> Message:
        if not pieces:
            await anyio.sleep_forever()
        return pieces.pop()

    with primary(None) as url:
        return await sent_on(url, receive=receive, upload_timeout=0.05)


# WebSockets.


async def denied(*, extension: bool = True, without: str | None = None) -> str:
    """The answer to a WebSocket that belongs on the primary."""
    replay: Any = by_own_means if without is None else Forward("http://127.0.0.1:9")
    app, reply = LiteFSMiddleware(Handler(), replica().watcher, replay=replay, primary_paths=LIVE), Reply()
    extensions: dict[str, Any] = {"websocket.http.response": {}} if extension else {}
    scope = scope_of(path="/live", type="websocket", scheme="ws", subprotocols=[], extensions=extensions)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        reply.messages.append(message)

    with pytest.MonkeyPatch.context() as patch:
        if without is not None:
            patch.setitem(sys.modules, without, None)
            patch.delitem(sys.modules, "litefs_watch.asgi.websockets", raising=False)
        await app(scope, receive, send)
    last = reply.messages[-1]
    return f"{last['code']} {last['reason']}" if last["type"] == "websocket.close" else shown(reply)


async def closed_without_extension() -> str:
    return await denied(extension=False)


async def without_wsproto() -> str:
    return await denied(without="wsproto")


class Talker:
    """A handler that only talks, and what it is told."""

    def __init__(self) -> None:
        self.told = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        with contextlib.suppress(anyio.get_cancelled_exc_class()):
            try:
                while True:
                    await send({"type": "websocket.send", "text": "news"})
                    await anyio.lowlevel.checkpoint()
            except OSError as error:
                self.told = as_printed(error)


async def demoted_talker() -> str:
    watcher, talker = FakeWatcher(), Talker()
    async with client(LiteFSMiddleware(talker, watcher.watcher, primary_paths=LIVE), opened=False) as one:
        await one.hear()
        watcher.become(Role.REPLICA, "node-b")
        await one.done.wait()
    return talker.told


async def demoted_listener() -> str:
    watcher, closing = FakeWatcher(), []

    async def note(message: Message) -> None:
        if message["type"] == "websocket.close":
            closing.append(f"{message['code']} {message['reason']}")

    async with client(LiteFSMiddleware(Echo(), watcher.watcher, primary_paths=LIVE)) as one:
        one.sending = note
        watcher.become(Role.REPLICA, "node-b")
        await one.done.wait()
    return closing[0]


def accepted(request: bytes) -> bytes:
    """The handshake's answer (RFC 6455)."""
    key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")).split(b": ")[1]
    proof = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    return upgrade + b"sec-websocket-accept: " + proof + b"\r\n\r\n"


async def websocket_broken_off() -> str:
    reply, come = Reply(), [{"type": "websocket.connect"}]

    async def receive() -> Message:
        if not come:
            await anyio.sleep_forever()
        return come.pop()

    async def send(message: Message) -> None:
        reply.messages.append(message)

    scope = scope_of(path="/live", headers=[HOST], type="websocket", scheme="ws", subprotocols=[])
    with primary(accepted) as url:
        await LiteFSMiddleware(Handler(), replica().watcher, replay=Forward(url), primary_paths=LIVE)(scope, receive, send)
    return f"{reply.messages[-1]['code']} {reply.messages[-1]['reason']}"


# WSGI.


def short_body() -> str:
    with (
        SimulatedNode(hostname="node-b", primary="node-a") as node,
        BlockingWatcher(node.settings()) as watcher,
        primary(None) as url,
    ):
        app = ForThreads(lambda environ, start_response: [], watcher, replay=Forward(url))
        response = Client(app).post("/", input_stream=BytesIO(b"half"), environ_overrides={"CONTENT_LENGTH": "9"})
    return f"{response.status_code} {response.text.rstrip()}"


CASES: list[Case] = [
    case(answered(misplaced())),
    case(stopped()),
    case(answered(unknown(), hold_writes=0)),
    case(answered(unsure(), None, "GET", AHEAD)),
    case(answered(replica(), None, "GET", AHEAD, on_timeout="error")),
    case(answered(FakeWatcher(Role.REPLICA, None))),
    case(answered(FakeWatcher(Role.REPLICA, "x\r\ny: z"))),
    case(answered(replica(), None, "POST", ("litefs-forwarded", "node-b"))),
    case(went_back),
    case(unreplicated),
    case(became_the_primary),
    case(answered(replica(), Handler(raises(WrongInstance("node-a"))), "GET")),
    case(answered(FakeWatcher(), Handler(raises(WaitTimeout("in vain"))), "GET")),
    case(answered(replica(), None, "POST", ("litefs-forwarded", "node-c"), replay=by_own_means)),
    case(read_here),
    case(committed_and_failed),
    case(stopping),
    case(nobody_there),
    case(no_answer),
    case(broken_off),
    case(no_request),
    case(half_a_body),
    case(denied),
    case(without_wsproto),
    case(closed_without_extension),
    case(demoted_talker),
    case(demoted_listener),
    case(websocket_broken_off),
    case(short_body),
]
