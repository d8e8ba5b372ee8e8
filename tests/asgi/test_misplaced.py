"""A primary whose directory is not LiteFS's mount, though LiteFS answers: what is written there, nobody replicates.

And what a 503 tells of a node that knows nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

import pytest

from litefs_watch import NoPrimary, Settings, Watcher, WatcherClosed
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.consistency import OptionKeywords
from litefs_watch.position import Position
from litefs_watch.testing import SimulatedNode
from tests.asgi.fakes import FakeWatcher, Handler, Reply, call, replica

WHY = "/wrong is not LiteFS's mount"
SOON = 10.0


async def ask(
    watcher: FakeWatcher | Watcher, method: str, token: Position | None = None, **options: Unpack[OptionKeywords]
) -> Reply:
    known = watcher.watcher if isinstance(watcher, FakeWatcher) else watcher
    app = LiteFSMiddleware(Handler(), known, **options)
    return await call(app, method, "/", [("cookie", f"litefs_pos={token}")] if token is not None else [])


@pytest.mark.parametrize(
    ("method", "token", "options", "status"),
    [
        ("POST", None, {}, 503),
        ("GET", Position(9, 1), {}, 503),
        ("GET", Position(10, 1), {}, 503),
        ("GET", Position(10, 1), {"monotonic": True}, 503),
        ("GET", None, {}, 200),
        ("POST", None, {"unmounted": True}, 200),
        ("GET", Position(10, 1), {"unmounted": True}, 200),
    ],
    ids=[
        "a write",
        "a read of what was written",
        "a read of what the stream says is here",
        "the same of a client that never goes back",
        "a read that asks for nothing",
        "a write that is allowed",
        "a read that is allowed",
    ],
)
async def test_what_runs_there(
    method: str, token: Position | None, options: OptionKeywords, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A write is refused, and so is a read whose token was made elsewhere, with the reason in the log; unless allowed."""
    watcher = FakeWatcher()
    watcher.misplaced = WHY
    reply = await ask(watcher, method, token, **options)
    assert reply.status == status
    assert (WHY in caplog.text) == (status == 503)
    if status == 503:
        assert "not mounted where this node looks for it" in reply.body.decode()


@pytest.mark.parametrize(("method", "token"), [("POST", None), ("GET", Position(10, 1)), ("GET", Position(11, 1))])
@pytest.mark.parametrize("on_timeout", ["replay", "stale"])
async def test_a_replica_there_sends_its_clients_to_the_primary(
    method: str, token: Position | None, on_timeout: Literal["replay", "stale"]
) -> None:
    """The primary has a directory of its own. What a client has seen is not in this one, though the stream says so, and no
    wait brings it."""
    watcher = replica()
    watcher.misplaced = WHY
    reply = await ask(watcher, method, token, on_timeout=on_timeout)
    assert (reply.status, reply.header("fly-replay")) == (409, "instance=node-b")
    assert watcher.waits == []


async def test_an_unmounted_directory_refuses_and_heals(tmp_path: Path) -> None:
    """By the fault that `status` shows: as long as the empty directory is one; standalone never."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with SimulatedNode(directory=tmp_path / "node") as node:
        async with Watcher(node.settings(litefs_dir=empty, data_dir=None, idle_interval=0.05)) as watcher:
            assert "mount" in watcher.status.faults
            assert (await ask(watcher, "POST")).status == 503
            (empty / "app.db-pos").write_text(f"{node.position()}\n")  # a copy, or a mount that is there by now
            await watcher.wait_for_tx(node.position().txid, timeout=SOON)
            assert "mount" not in watcher.status.faults
            assert (await ask(watcher, "POST")).status == 200
    async with Watcher(Settings(empty, "app.db", standalone=True)) as watcher:
        assert (await ask(watcher, "POST")).status == 200


async def test_a_watcher_that_is_stopped_while_they_wait_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is so for each request that waits."""

    def closed() -> None:
        raise WatcherClosed("the watcher was stopped")

    watcher = replica()
    watcher.during = closed
    app = LiteFSMiddleware(Handler(), watcher.watcher)
    for _ in range(3):
        assert (await call(app, "GET", "/", [("cookie", f"litefs_pos={Position(11, 1)}")])).status == 409
    assert caplog.messages.count("requests are not waited for: the watcher was stopped") == 1


async def test_a_watcher_that_was_not_started_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """In the 503, and in the log with what to do; so does `ensure_primary`."""
    watcher = Watcher(Settings("/litefs", "app.db"))
    reply = await ask(watcher, "POST", hold_writes=0.01)
    assert reply.status == 503
    assert "watcher is not running" in reply.body.decode()
    assert "start it in the application's lifespan" in caplog.messages[-1]
    with pytest.raises(NoPrimary, match="start it in the application's lifespan"):
        watcher.ensure_primary()


async def test_an_unknown_node_names_the_source_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    """Of a 503: whether LiteFS is down, or its port is another one, is told by what the log says of it."""
    with SimulatedNode() as node:
        settings = node.settings(api_url="http://127.0.0.1:1")
        node.lose_primary()
        async with Watcher(settings) as watcher:
            assert (await ask(watcher, "POST", hold_writes=0.01)).status == 503
            assert "no primary is known (no connection to http://127.0.0.1:1/events" in caplog.messages[-1]


async def test_a_misspelt_database_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Once, when LiteFS has told which there are, with the one that may be meant."""
    with SimulatedNode() as node:
        async with Watcher(node.settings(database="ap.db")) as watcher:
            await watcher.read_position()
            said = [message for message in caplog.messages if "there is no database 'ap.db'" in message]
            assert len(said) == 1
            assert "did you mean 'app.db'" in said[0] or "is 'app.db' meant" in said[0]
