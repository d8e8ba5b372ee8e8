"""Bad input, end to end: health shows what was wrong and where, the last true state stays, a later good reading heals it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import Role, Watcher
from litefs_watch.testing import SimulatedNode

SOON = 10.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(primary="node-b") as node:
        yield node


@asynccontextmanager
async def watching(node: SimulatedNode) -> AsyncIterator[Watcher]:
    """A watcher that looks often; without the stream, so that the files alone must tell."""
    async with Watcher(node.settings(api_url=None, idle_interval=0.01)) as watcher:
        yield watcher


async def until(watcher: Watcher, condition: Callable[[], bool]) -> None:
    """Look until it is so."""
    with anyio.fail_after(SOON):
        while not condition():
            await watcher.read_position("no.db")
            await anyio.lowlevel.checkpoint()


def replace(path: Path, content: bytes | None) -> None:
    """A file of that content, or (None) a link to a directory, whole at once: nobody sees that nothing is there."""
    new = path.with_name(f".{path.name}.new")
    if content is None:
        new.symlink_to(path.parent)
    else:
        new.write_bytes(content)
    os.replace(new, path)


BAD = {
    "empty": b"",
    "garbage": b"\x00\xff garbage",
    "10 MB": b"7" * 10_000_000,
    "a directory": None,
    "not UTF-8": b"\xff\xfe\n",
    "two lines": b"one\ntwo\n",
    "control characters": b"\x1b[31mred\n",
}


@pytest.mark.parametrize("name", ["app.db-pos", ".primary", ".lag"])
@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
async def test_a_bad_file(node: SimulatedNode, name: str, content: bytes | None) -> None:
    """-pos, .primary and .lag: a fault by the file's name; role and position stay; a good file heals."""
    path = node.litefs_dir / name
    good = path.read_bytes()
    async with watching(node) as watcher:
        changes = watcher.changes()
        before = (watcher.role, watcher.primary, watcher.position())
        replace(path, content)
        await until(watcher, lambda: name in watcher.status.faults)
        looks = watcher.statistics().rereads
        await until(watcher, lambda: watcher.statistics().rereads > looks + 5)
        assert (watcher.role, watcher.primary, watcher.position()) == before
        assert before[0] is Role.REPLICA
        assert name in (watcher.status.sources["reread"].fault or "")
        assert len(watcher.status.faults[name]) < 500
        assert watcher.status.faults[name].isprintable()
        replace(path, good)
        await until(watcher, lambda: not watcher.status.faults)
        assert watcher.status.sources["reread"].fault is None
        assert len(changes) == 0


async def test_a_file_that_comes_and_goes_is_no_change(node: SimulatedNode) -> None:
    """.primary, replaced by removing and writing it anew."""
    path = node.litefs_dir / ".primary"
    good = path.read_bytes()
    async with watching(node) as watcher:
        changes = watcher.primary_changes()
        for _ in range(20):
            path.unlink()
            path.write_bytes(good)
            looks = watcher.statistics().rereads
            await until(watcher, lambda looks=looks: watcher.statistics().rereads > looks)  # type: ignore[misc]
        assert len(changes) == 0
        assert watcher.role is Role.REPLICA


@pytest.mark.parametrize(
    "garbage",
    [b"garbage\n", b'{"type":"tx","db":"app.db","data":{"txID":"1e300"}}\n', b"\x00" * 50 + b"\n", b'{"type":"tx"'],
)
async def test_garbage_in_the_stream(node: SimulatedNode, garbage: bytes) -> None:
    """What is true stays, and transactions go on: by the stream, or by the files where half a line blocks it."""
    async with Watcher(node.settings(idle_interval=0.05)) as watcher:
        await anyio.to_thread.run_sync(node.wait_for_streams)
        node.raw_event(garbage)
        for _ in range(3):
            position = node.commit()
            assert await watcher.wait_for_tx(position.txid, timeout=SOON) == position
        assert watcher.role is Role.REPLICA


async def test_a_stream_that_breaks_http(node: SimulatedNode) -> None:
    """Bytes that are no chunk: the stream is opened again."""
    async with Watcher(node.settings()) as watcher:
        await anyio.to_thread.run_sync(node.wait_for_streams)
        node.raw_event(b"no chunk at all\r\n", framed=False)
        await until(watcher, lambda: watcher.statistics().reconnects == 1)
        position = node.commit()
        assert await watcher.wait_for_tx(position.txid, timeout=SOON) == position


@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_another_program_on_the_port(node: SimulatedNode, status: int) -> None:
    """HTML, a redirect, an error: health names it, files serve meanwhile, and LiteFS's return heals it."""
    node.respond_with(status, headers={"Location": "http://127.0.0.1:1/"}, body=b"<html>\n" * 1000)
    async with Watcher(node.settings()) as watcher:
        assert watcher.role is Role.REPLICA
        source = watcher.status.sources["stream"]
        assert not source.alive
        assert "/events" in source.detail
        assert str(status) in source.detail or "<html>" in source.detail
        position = node.commit()
        assert await watcher.wait_for_tx(position.txid, timeout=SOON) == position
        node.respond_normally()
        await until(watcher, lambda: watcher.status.sources["stream"].alive)


async def test_many_databases_in_the_stream_are_bounded(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that names a new one in each event."""
    monkeypatch.setattr("litefs_watch.core.state.DATABASE_LIMIT", 50)
    line = b'{"type":"tx","db":"%d.db","data":{"txID":"0000000000000001","postApplyChecksum":"8000000000000001"}}\n'
    async with Watcher(node.settings()) as watcher:
        await anyio.to_thread.run_sync(node.wait_for_streams)
        for number in range(200):
            node.raw_event(line % number)
        await until(watcher, lambda: watcher.statistics().events >= 200)
        assert len(watcher.status.positions) == 50
