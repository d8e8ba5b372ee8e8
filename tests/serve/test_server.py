"""The server around the application, in this process: its ends that no signal asks for, and connections that ask nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import ConfigError, Settings, Watcher
from litefs_watch.serve import connections, server
from litefs_watch.serve.options import Options
from litefs_watch.serve.server import listen, serve
from litefs_watch.testing import SimulatedNode
from tests.serve.asking import until

SOON = 20.0


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn's."""
    return "asyncio"


@asynccontextmanager
async def serving(
    node: SimulatedNode, ended: Callable[[bool], object] = bool, options: Options | None = None
) -> AsyncIterator[int]:
    """Its port. ``ended`` is called with what `serve` returns."""
    ready = anyio.Event()
    with listen("127.0.0.1", 0, None) as listener:

        async def run_it() -> None:
            ended(await serve(node.settings(), options or Options(), listener, ready.set))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_it)
                await ready.wait()
                yield listener.getsockname()[1]
                tasks.cancel_scope.cancel()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> set[connections.Connection]:
    """Those of the sidecar's that are open. What is on its way to a client that doesn't read is not much."""
    found = set[connections.Connection]()

    class Connection(connections.Connection):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            found.add(self)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport.set_write_buffer_limits(4096)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            found.discard(self)
            super().connection_lost(exc)

    monkeypatch.setattr(server, "Connection", Connection)
    return found


async def all_of(port: int, request: bytes) -> bytes:
    """What is answered until the connection is closed."""
    text = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as connection:
        await connection.send(request)
        try:
            while True:
                text += await connection.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return text


@pytest.mark.parametrize("request_", [b"", b"GET /st", b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nGET /li"])
async def test_a_connection_that_asks_nothing_is_closed(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    """Neither one that begins and doesn't go on; one that waits for its answer is let."""
    monkeypatch.setattr(connections, "PATIENCE", 0.05)
    async with serving(node) as port:
        assert (b"200 OK" in await all_of(port, request_)) == (b"host" in request_)
        waits = b"GET /wait?txid=99&timeout=0.2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert b"408 Request Timeout" in await all_of(port, waits)


@pytest.mark.parametrize("path", ["/livez", "/events"])
async def test_a_connection_that_takes_no_answer_is_closed(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, connected: set[connections.Connection], path: str
) -> None:
    """With a token or without one: it would be open for ever, though it has asked, and is being answered."""
    monkeypatch.setattr(connections, "PATIENCE", 0.05)
    async with serving(node) as port:
        with socket.socket() as reads_nothing:
            reads_nothing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reads_nothing.connect(("127.0.0.1", port))
            reads_nothing.setblocking(False)
            while not any(each.flow.write_paused for each in connected):
                if path == "/events":
                    node.commit()
                with suppress(BlockingIOError):
                    reads_nothing.send(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode() * 20)
                await anyio.lowlevel.checkpoint()
            await until(lambda: not connected)


async def test_what_comes_over_the_limit_is_closed_at_once(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, connected: set[connections.Connection]
) -> None:
    """After some that are told 503. The next would take the descriptors that the watcher reads with."""
    monkeypatch.setattr(server, "OTHERS", 2)
    monkeypatch.setattr(connections, "TURNED_AWAY", 3)
    async with serving(node, options=Options(max_waiting=1, max_subscribers=0)) as port:
        async with AsyncExitStack() as stack:
            for _ in range(6):
                await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            await until(lambda: len(connected) == 6)
            assert await all_of(port, b"") == b""
            assert len(connected) == 6
        await until(lambda: not connected)
        asked = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert b"200 OK" in await all_of(port, asked)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("litefs_watch.serve.events.change_record", "the sidecar ends: its events have failed"),
        ("board", "the sidecar ends: the watcher failed: OSError('of a test')"),
    ],
)
async def test_a_fault_of_ours_ends_it(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str, what: str
) -> None:
    """With status 1, and the reason in the log: whoever runs it starts it anew; one that knows nothing helps nobody."""

    def fail(*_: object) -> None:
        raise OSError("of a test")

    results, made = list[bool](), list[Watcher]()

    def make(settings: Settings) -> Watcher:
        made.append(Watcher(settings))
        return made[-1]

    monkeypatch.setattr(server, "Watcher", make)
    async with serving(node, results.append):
        if broken == "board":
            (watcher,) = made
            watcher.run.failure = OSError("of a test")
            watcher.run.end("of a test")
        else:
            monkeypatch.setattr(broken, fail)
            node.commit()
        await until(lambda: results)
    assert results == [False]
    assert what in [each for each in caplog.records if each.levelno == logging.ERROR][-1].message


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "room"),
    [
        (1024, 1 << 20, 1804, 1612),
        (1024, -1, 1804, 1612),
        (1024, 1200, 1200, 1008),
        (100, 100, 100, 1),
        (4096, 4096, None, 1612),
        (-1, -1, None, 1612),
    ],
)
def test_there_is_room_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, soft: int, hard: int, raised: int | None, room: int
) -> None:
    """As many descriptors as they take, where that is allowed; less is said, and then so many connections are fewer."""
    calls: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr("resource.getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr("resource.setrlimit", lambda kind, limits: calls.append((kind, limits)))
    assert server._make_room(Options()) == room
    assert [limits for _, limits in calls] == ([] if raised is None else [(raised, hard)])
    less = f"may have {hard} descriptors open: room for {room} connections, not for 1612"
    assert (less in caplog.text) == (room < 1612)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "::ffff:127.0.0.1"])
def test_loopback_needs_no_token(host: str) -> None:
    """By whatever name."""
    with listen(host, 0, None) as listener:
        address = listener.getsockname()[0]
        assert address.removeprefix("::ffff:").startswith("127.") or address == "::1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_another_address_needs_one(host: str) -> None:
    """And all addresses are others."""
    with pytest.raises(ConfigError, match="whoever asks there needs a token"):
        listen(host, 0, None)
