"""What LiteFS does, as this library relies on it: the same tests on the simulated nodes and on real ones.

So the simulation can't drift from the truth. The real ones are started from the binary that LITEFS_BIN names.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import watchfiles

from litefs_watch import Position, Role, Watcher
from litefs_watch.core.readings import Mount
from litefs_watch.sources.directory import current_mount_kind
from litefs_watch.sources.wire import parse_event, parse_info
from litefs_watch.testing import fuse_available
from tests.contract.pairs import Pair, SimulatedPair, thawed
from tests.contract.real import RealPair, reason_against_real, until

SOON = 15.0


def reason_against(kind: str) -> str | None:
    if kind == "ordinary":
        return None
    return reason_against_real() if kind == "real" else fuse_available()


def make(kind: str, directory: Path) -> Any:
    if reason := reason_against(kind):
        pytest.skip(reason)
    return RealPair(directory) if kind == "real" else SimulatedPair(fuse=kind == "fuse")


REAL = pytest.param("real", marks=pytest.mark.litefs)


@pytest.fixture(params=["ordinary", "fuse", REAL])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """All three."""
    with make(request.param, tmp_path) as pair:
        yield pair


@pytest.fixture(params=["fuse", REAL])
def mounted_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """The two that have a mount."""
    with make(request.param, tmp_path) as pair:
        yield pair


def content(node: Any, name: str) -> bytes:
    return bytes((node.litefs_dir / name).read_bytes())


class Events:
    """The event stream, as plain lines."""

    def __init__(self, node: Any) -> None:
        self._connection = http.client.HTTPConnection(node.api_url.removeprefix("http://"), timeout=SOON)
        self._connection.request("GET", "/events")
        self.response = self._connection.getresponse()

    def next(self) -> dict[str, Any]:
        line = self.response.readline()
        assert parse_event(line)
        event: dict[str, Any] = json.loads(line)
        return event

    def close(self) -> None:
        self.response.close()
        self._connection.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def get(node: Any, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(node.api_url.removeprefix("http://"), timeout=SOON)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# The files


def test_the_position_is_34_bytes_and_the_same_on_both(pair: Pair) -> None:
    """TXID/CHECKSUM, 16 lower-case hexadecimal digits each, and a newline; the checksum's top bit is set."""
    raw = content(pair.primary, "app.db-pos")
    assert re.fullmatch(rb"[0-9a-f]{16}/[0-9a-f]{16}\n", raw)
    assert raw == content(pair.replica, "app.db-pos")
    assert Position.parse(raw).checksum >> 63 == 1


def test_a_commit_is_the_next_txid(pair: Pair) -> None:
    """At once on the primary, soon on the replica."""
    before = Position.parse(content(pair.primary, "app.db-pos"))
    position = pair.commit()
    assert position.txid > before.txid
    assert Position.parse(content(pair.primary, "app.db-pos")) == position
    until(lambda: Position.parse(content(pair.replica, "app.db-pos")) == position, "the replica follows")


def test_only_a_replica_has_primary(pair: Pair) -> None:
    """The primary's hostname and a newline."""
    assert content(pair.replica, ".primary") == b"node-a\n"
    assert not (pair.primary.litefs_dir / ".primary").exists()


def test_lag_is_11_bytes(pair: Pair) -> None:
    """Zero on the primary; on a replica the milliseconds since it heard of the primary, about a second at most."""
    assert content(pair.primary, ".lag") == b"+000000000\n"
    until(lambda: content(pair.replica, ".lag") != b"+2147483647\n"[:10], "the first heartbeat")
    lag = content(pair.replica, ".lag")
    assert re.fullmatch(rb"[+-][0-9]{9,10}\n?", lag)
    assert int(lag) < 10_000 or int(lag) == 2**31 - 1


def test_the_directory_lists_what_there_is(pair: Pair) -> None:
    """-pos files are listed, so a look finds databases that nobody named."""
    pair.commit("second.db")
    until(lambda: "second.db-pos" in os.listdir(pair.replica.litefs_dir), "the second database")
    assert {".lag", "app.db", "app.db-pos", "second.db"} <= set(os.listdir(pair.primary.litefs_dir))
    assert ".primary" in os.listdir(pair.replica.litefs_dir)


def test_a_dropped_database_keeps_its_position(pair: Pair) -> None:
    """With the next TXID and the checksum 8000000000000000; it can be opened by name."""
    before = pair.commit("second.db")
    position = pair.drop_database("second.db")
    assert (position.txid, position.checksum) == (before.txid + 1, 1 << 63)
    assert Position.parse(content(pair.primary, "second.db-pos")) == position
    until(lambda: Position.parse(content(pair.replica, "second.db-pos")) == position, "the replica follows")


def test_a_dropped_database_is_not_listed(mounted_pair: Pair) -> None:
    """So a look must ask for the databases that it knows by name."""
    mounted_pair.commit("second.db")
    mounted_pair.drop_database("second.db")
    assert not {"second.db", "second.db-pos"} & set(os.listdir(mounted_pair.primary.litefs_dir))


def test_each_transaction_renames_a_file_into_ltx(pair: Pair) -> None:
    """dbs/DB/ltx/MINTXID-MAXTXID.ltx, on both nodes: what inotify on the data directory sees."""
    position = pair.commit()
    name = f"{position.txid:016x}-{position.txid:016x}.ltx"
    for node in (pair.primary, pair.replica):
        folder = node.data_dir / "dbs" / "app.db" / "ltx"
        until(lambda folder=folder: any(n.endswith(name[17:]) for n in os.listdir(folder)), f"{name} in {folder}")  # type: ignore[misc]


# The mount


def test_the_mount_is_recognised(mounted_pair: Pair) -> None:
    """Type fuse, source litefs."""
    for node in (mounted_pair.primary, mounted_pair.replica):
        assert current_mount_kind(node.litefs_dir) is Mount.LITEFS


@pytest.mark.parametrize("which", ["primary", "replica"])
def test_inotify_is_silent_for_the_files_of_the_mount(mounted_pair: Pair, which: str) -> None:
    """Ten transactions, and not one event for -pos, .primary or .lag: LiteFS changes them inside its own process."""
    node = getattr(mounted_pair, which)
    seen: list[str] = []
    stop, watching = threading.Event(), threading.Event()

    def watch() -> None:
        for changes in watchfiles.watch(
            node.litefs_dir,
            watch_filter=None,
            recursive=False,
            step=5,
            rust_timeout=20,
            yield_on_timeout=True,
            stop_event=stop,
            raise_interrupt=False,
            force_polling=False,
        ):
            seen.extend(os.path.basename(path) for _, path in changes)
            watching.set()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        assert watching.wait(SOON)
        for _ in range(10):
            position = mounted_pair.commit()
        until(lambda: Position.parse(content(node, "app.db-pos")) == position, "the last transaction")
        watching.clear()
        assert watching.wait(SOON)
    finally:
        stop.set()
        thread.join()
    assert not {"app.db-pos", ".primary", ".lag"} & set(seen)


def test_a_killed_litefs_leaves_a_dead_mount(mounted_pair: Pair) -> None:
    """ENOTCONN until it is mounted again."""
    mounted_pair.replica.kill()
    with pytest.raises(OSError, match="not connected") as caught:
        content(mounted_pair.replica, "app.db-pos")
    assert caught.value.errno == errno.ENOTCONN
    assert current_mount_kind(mounted_pair.replica.litefs_dir) is Mount.LITEFS
    mounted_pair.restart(mounted_pair.replica)
    assert content(mounted_pair.replica, "app.db-pos") == content(mounted_pair.primary, "app.db-pos")


def test_a_stopped_litefs_leaves_an_empty_ordinary_directory(pair: Pair) -> None:
    """No .primary, no .lag: no proof of anything."""
    pair.replica.stop()
    assert os.listdir(pair.replica.litefs_dir) == []
    assert current_mount_kind(pair.replica.litefs_dir) is Mount.ORDINARY


def test_a_frozen_litefs_blocks_a_read(mounted_pair: Pair) -> None:
    """Until it goes on: never read the mount on the event loop's thread."""
    node, read = mounted_pair.replica, threading.Event()

    def look() -> None:
        content(node, "app.db-pos")
        read.set()

    thread = threading.Thread(target=look, daemon=True)
    with thawed(node):
        thread.start()
        assert not read.wait(0.3)
    assert read.wait(SOON)
    thread.join()


# The HTTP API


def test_a_stream_opens_with_the_role(pair: Pair) -> None:
    """init: isPrimary, and the hostname only where another node is the primary."""
    with Events(pair.primary) as events:
        assert (events.response.status, events.response.version) == (200, 11)
        assert events.response.getheader("content-type") == "application/json"
        assert events.response.getheader("transfer-encoding") == "chunked"
        assert events.next() == {"type": "init", "data": {"isPrimary": True}}
    with Events(pair.replica) as events:
        assert events.next() == {"type": "init", "data": {"isPrimary": False, "hostname": "node-a"}}


def test_a_tx_event_comes_after_the_position_shows_it(pair: Pair) -> None:
    """On both nodes; in LiteFS's fields."""
    with Events(pair.primary) as primary, Events(pair.replica) as replica:
        primary.next(), replica.next()
        for _ in range(5):
            position = pair.commit()
            for node, events in ((pair.primary, primary), (pair.replica, replica)):
                while (event := events.next())["data"].get("txID") != f"{position.txid:016x}":
                    assert event["type"] == "tx"
                seen = Position.parse(content(node, "app.db-pos"))
                assert event["db"] == "app.db"
                assert set(event["data"]) == {"txID", "postApplyChecksum", "pageSize", "commit", "timestamp"}
                assert (
                    seen == position == Position(int(event["data"]["txID"], 16), int(event["data"]["postApplyChecksum"], 16))
                )


def test_info_tells_the_role_and_the_data_directory(pair: Pair) -> None:
    """On a replica the primary's hostname; on the primary its own."""
    for node, is_primary in ((pair.primary, True), (pair.replica, False)):
        status, body = get(node, "GET", "/info")
        info = parse_info(body)
        assert status == 200
        assert (info.is_primary, info.primary.hostname, info.path) == (is_primary, "node-a", str(node.data_dir))


@pytest.mark.parametrize(
    ("method", "path", "expected"), [("GET", "/nowhere", 404), ("POST", "/events", 405), ("GET", "/promote", 405)]
)
def test_other_requests_are_refused(pair: Pair, method: str, path: str, expected: int) -> None:
    """As Go's router does."""
    assert get(pair.primary, method, path)[0] == expected


def test_promote_on_the_primary_is_nothing(pair: Pair) -> None:
    """200, and it stays."""
    assert get(pair.primary, "POST", "/promote") == (200, b"")


def test_the_stream_ends_with_litefs_and_nothing_listens(pair: Pair) -> None:
    """Until it is back, on the same port."""
    with Events(pair.replica) as events:
        events.next()
        pair.replica.stop()
        rest = b"some"
        while rest:
            try:
                rest = events.response.read1()
            except (http.client.IncompleteRead, ConnectionError):
                rest = b""
    with pytest.raises(ConnectionRefusedError):
        Events(pair.replica)
    pair.restart(pair.replica)
    with Events(pair.replica) as events:
        assert events.next()["type"] == "init"


# The watcher on it


async def in_thread(function: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(function)


async def test_both_roles_are_known_and_transactions_wake(pair: Pair) -> None:
    """The README's example, on each of the three."""
    async with Watcher(pair.primary.settings()) as primary, Watcher(pair.replica.settings()) as replica:
        assert (primary.role, primary.primary) == (Role.PRIMARY, None)
        assert (replica.role, replica.primary) == (Role.REPLICA, "node-a")
        for _ in range(5):
            position = await in_thread(pair.commit)
            for watcher in (primary, replica):
                assert await watcher.wait_for_tx(position.txid, timeout=SOON) == position
                assert await watcher.read_position() == position
        assert replica.status.sources["stream"].alive


@pytest.mark.parametrize("data_dir", ["the node's", "/nowhere"])
async def test_a_mount_without_its_stream_is_watched_too(mounted_pair: Pair, data_dir: str) -> None:
    """By the data directory, and without that by the shared re-read."""
    overrides: dict[str, Any] = {"api_url": None} | ({"data_dir": data_dir} if data_dir == "/nowhere" else {})
    async with Watcher(mounted_pair.replica.settings(**overrides)) as watcher:
        assert (watcher.role, watcher.primary) == (Role.REPLICA, "node-a")
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: watcher.wait_for_tx(watcher.tx_number() + 1, timeout=SOON))
                await anyio.wait_all_tasks_blocked()
                await in_thread(mounted_pair.commit)
        files = watcher.status.sources["files"]
        assert files.alive is (data_dir != "/nowhere")
        assert "inotify is silent" in files.detail


async def test_a_killed_primary_is_unknown_everywhere_and_comes_back(mounted_pair: Pair) -> None:
    """The true sequence on both nodes, and nothing else, though the replica flaps all the while."""
    settings = mounted_pair.primary.settings(), mounted_pair.replica.settings()
    async with Watcher(settings[0]) as primary, Watcher(settings[1]) as replica:
        ours, theirs = primary.primary_changes(), replica.primary_changes()
        await in_thread(mounted_pair.primary.kill)
        await primary.wait_for_role(Role.UNKNOWN, timeout=SOON)
        await replica.wait_for_role(Role.UNKNOWN, timeout=SOON)
        assert primary.tx_number() == replica.tx_number() > 0
        await in_thread(lambda: mounted_pair.restart(mounted_pair.primary))
        await primary.wait_for_role(Role.PRIMARY, timeout=SOON)
        await replica.wait_for_role(Role.REPLICA, timeout=SOON)
        position = await in_thread(mounted_pair.commit)
        await replica.wait_for_tx(position.txid, timeout=SOON)
    assert [change.role async for change in ours] == [Role.UNKNOWN, Role.PRIMARY]
    assert [change.role async for change in theirs] == [Role.UNKNOWN, Role.REPLICA]


async def test_a_frozen_litefs_freezes_nothing_here(mounted_pair: Pair) -> None:
    """The loop goes on, the role becomes UNKNOWN, the start is bounded, and all heals with the thaw."""
    node = mounted_pair.replica
    async with Watcher(node.settings(silence=0.5, idle_interval=0.1)) as watcher:
        position = watcher.position()
        with thawed(node):
            began = time.monotonic()
            await watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
            assert watcher.position() == position
            assert "frozen" in watcher.status.sources["reread"].detail
            with anyio.move_on_after(0.05) as scope:
                await watcher.read_position()
            assert scope.cancelled_caught
            with anyio.fail_after(5):
                async with Watcher(node.settings(start_timeout=0.2)) as second:
                    assert second.role is Role.UNKNOWN
            assert time.monotonic() - began < SOON
        await watcher.wait_for_role(Role.REPLICA, timeout=SOON)


async def test_a_stopped_replica_is_unknown_and_comes_back(pair: Pair) -> None:
    """After a clean stop the place of the mount is an empty ordinary directory; a new mount is picked up."""
    async with Watcher(pair.replica.settings()) as watcher:
        await in_thread(pair.replica.stop)
        await watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
        await in_thread(lambda: pair.restart(pair.replica))
        await watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        position = await in_thread(pair.commit)
        await watcher.wait_for_tx(position.txid, timeout=SOON)
