"""What each operation costs, counted instead of timed: reads of LiteFS's mount, hops to another thread, events decoded. What
makes one dearer fails here, on however busy a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from litefs_watch import Position, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.sources.directory import Directory
from litefs_watch.sources.event_decoder import EventDecoder
from litefs_watch.sources.files import FolderWatch
from litefs_watch.sources.thread import CallThread
from litefs_watch.testing import SimulatedNode

QUIET = {"idle_interval": 60.0, "silence": 180.0}
"""No look comes by itself meanwhile."""


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


@pytest.fixture(autouse=True)
def silent_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on LiteFS's own mount, inotify tells of no commit: the look that it asks for comes whenever the kernel and this
    machine please, and is no part of what a call costs."""
    monkeypatch.setattr(FolderWatch, "_changed", lambda self, paths, gone: None)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    for owner, name, what in (
        (Directory, "_read", "reads"),
        (CallThread, "run", "hops"),
        (EventDecoder, "next_event", "events"),
    ):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), what, counted))
    return counted


def counting(real: Callable[..., Any], what: str, counted: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        counted[what] += what != "events" or result is not None
        return result

    return call


async def settled(watcher: Watcher, node: SimulatedNode, counts: Counter[str]) -> None:
    """The looks that the start begins are over."""
    await watcher.wait_for_tx(node.commit().txid, timeout=10)
    before = None
    while before != dict(counts):
        before = dict(counts)
        await anyio.sleep(0.1)
    counts.clear()


async def request(app: Any, method: str, *headers: tuple[bytes, bytes]) -> int:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "raw_path": b"/", "root_path": "", "query_string": b""}
    await app(scope | {"scheme": "https", "headers": list(headers), "state": {}}, receive, send)
    return int(sent[0]["status"])


def token(position: Position) -> tuple[bytes, bytes]:
    return b"litefs-txid", str(position).encode()


async def test_what_is_known_costs_nothing(node: SimulatedNode, counts: Counter[str]) -> None:
    """A wait that is met, a status, a request without a token, one whose token is met: from memory."""
    async with Watcher(node.settings(**QUIET)) as watcher:
        await settled(watcher, node, counts)
        await watcher.wait_for_tx(node.position())
        assert watcher.status.positions["app.db"] == node.position()

        async def hello(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        app = LiteFSMiddleware(hello, watcher)
        assert await request(app, "GET") == 200
        assert await request(app, "GET", token(node.position())) == 200
        assert counts == Counter()


async def test_a_crowd_costs_one_event(node: SimulatedNode, counts: Counter[str]) -> None:
    """However many wait for a transaction: one look at most, and that for all."""
    node.set_primary("node-b")
    node.heartbeat()
    async with Watcher(node.settings(**QUIET)) as watcher:
        await settled(watcher, node, counts)
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(watcher.wait_for_tx, node.position().txid + 1)
            await anyio.wait_all_tasks_blocked()
            counts.clear()
            node.commit()
        assert counts["events"] <= 1  # those that look as LiteFS prints them are not decoded at all
        assert counts["reads"] <= 3
        assert counts["hops"] <= 1


async def test_a_position_from_the_file(node: SimulatedNode, counts: Counter[str]) -> None:
    """One read, one hop; and of ten that ask at once, no more than two."""
    async with Watcher(node.settings(**QUIET)) as watcher:
        await settled(watcher, node, counts)
        await watcher.read_position()
        assert counts["reads"] <= 2  # and .primary, which tells whose history it is
        assert counts["hops"] <= 1
        counts.clear()
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(watcher.read_position)
        assert counts["reads"] <= 4


async def test_a_write(node: SimulatedNode, counts: Counter[str]) -> None:
    """Its position is read when its response starts, and once more when the application is done, the first times: two looks,
    each at the database and, after it, at who the primary is."""
    async with Watcher(node.settings(**QUIET)) as watcher:
        await settled(watcher, node, counts)

        async def write(scope: Any, receive: Any, send: Any) -> None:
            await anyio.to_thread.run_sync(node.commit)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        assert await request(LiteFSMiddleware(write, watcher), "POST") == 200
        assert 1 <= counts["reads"] <= 4
        assert counts["hops"] <= 2
