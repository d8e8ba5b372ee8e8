"""The server around the application, in this process: its ends that no signal asks for, and connections that ask nothing."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
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
async def serving(node: SimulatedNode, ended: Callable[[bool], object] = bool) -> AsyncIterator[int]:
    """Its port. ``ended`` is called with what `serve` returns."""
    ready = anyio.Event()
    with listen("127.0.0.1", 0, None) as listener:

        async def run_it() -> None:
            ended(await serve(node.settings(), Options(), listener, ready.set))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_it)
                await ready.wait()
                yield listener.getsockname()[1]
                tasks.cancel_scope.cancel()


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
    monkeypatch.setattr(connections, "ASK_WITHIN", 0.05)
    async with serving(node) as port:
        assert (b"200 OK" in await all_of(port, request_)) == (b"host" in request_)
        waits = b"GET /wait?txid=99&timeout=0.2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert b"408 Request Timeout" in await all_of(port, waits)


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
    ("soft", "hard", "raised"),
    [(1024, 1 << 20, 1676), (1024, -1, 1676), (1024, 1200, 1200), (4096, 4096, None), (-1, -1, None)],
)
def test_there_is_room_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, soft: int, hard: int, raised: int | None
) -> None:
    """As many descriptors as they take, where that is allowed; less is said."""
    calls: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr("resource.getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr("resource.setrlimit", lambda kind, limits: calls.append((kind, limits)))
    server._make_room(Options())
    assert [limits for _, limits in calls] == ([] if raised is None else [(raised, hard)])
    assert ("may have 1200 descriptors open" in caplog.text) == (hard == 1200)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_token(host: str) -> None:
    """By whatever name."""
    with listen(host, 0, None) as listener:
        assert listener.getsockname()[0].startswith("127.") or listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_another_address_needs_one(host: str) -> None:
    """And all addresses are others."""
    with pytest.raises(ConfigError, match="whoever asks there needs a token"):
        listen(host, 0, None)
