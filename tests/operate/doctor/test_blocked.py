"""Replication that an open transaction on this node holds up is found, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.core.readings import DirectoryRead, Mount, Named
from litefs_watch.operate.doctor.findings import SILENT_MS, examine
from litefs_watch.operate.doctor.gathering import gather, parse_read_locks
from litefs_watch.testing import SimulatedCluster
from tests.contract.real import RealPair, reason_against_real, until
from tests.operate.doctor.looking import PATIENCE, codes, facts


async def test_replication_that_an_open_transaction_holds_up() -> None:
    """With who it may be: this very process."""
    with SimulatedCluster(size=2, lag=0.0, fuse=False) as cluster:
        cluster.execute("CREATE TABLE t (x)")
        cluster.wait_until_replicated()
        replica = cluster["node-b"]
        with closing(sqlite3.connect(cluster.path("node-b"), isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM t").fetchall()
            position = cluster.execute("INSERT INTO t VALUES (1)")
            # LiteFS has the file before it applies it
            replica._data.add_ltx("app.db", position, replica.position(), 2)
            (finding,) = examine(await gather(replica.settings(), PATIENCE))
            assert finding.code == "blocked"
            assert f"(pid {os.getpid()})" in finding.seen
        cluster.wait_until_replicated()
        assert await codes(replica.settings()) == []


@pytest.mark.litefs
@pytest.mark.skipif(reason_against_real() is not None, reason=reason_against_real() or "")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_a_reader_holds_up_a_real_replica(tmp_path: Path, mode: str) -> None:
    """LiteFS keeps nothing of what waits; its locks and its lag tell. A reader alone, or a connection, is no fault."""
    await anyio.to_thread.run_sync(partial(hold_up, tmp_path, mode))


def hold_up(directory: Path, mode: str) -> None:
    with RealPair(directory) as pair:
        with closing(sqlite3.connect(pair.primary.litefs_dir / "app.db")) as primary:
            primary.execute(f"PRAGMA journal_mode={mode}")
        position = pair.commit()
        until(lambda: pair.replica.position() == position, "the replica follows")
        with closing(sqlite3.connect(pair.replica.litefs_dir / "app.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM t").fetchall()
            assert anyio.run(codes, pair.replica.settings()) == []
            position = pair.commit()
            until(lambda: int((pair.replica.litefs_dir / ".lag").read_text()) > SILENT_MS, "the lag grows")
            (finding,) = examine(anyio.run(gather, pair.replica.settings(), PATIENCE))
            assert (finding.code, f"(pid {os.getpid()})" in finding.seen) == ("blocked", True)
            reader.execute("COMMIT")
            until(lambda: pair.replica.position() == position, "the replica has caught up")
            assert anyio.run(codes, pair.replica.settings()) == []


LOCKS = ["pending", "shared", "reserved", "write", "ckpt", "recover", *(f"read{number}" for number in range(5)), "dms"]


@pytest.mark.parametrize(
    ("held", "read"),
    [
        ([], False),
        (["shared"], True),
        (["shared", "dms"], False),
        (["shared", "dms", "read0"], True),
        (["dms", "read4"], True),
    ],
)
def test_what_locks_mean(held: list[str], read: bool) -> None:
    """As LiteFS 0.5.14 told them: rollback mode, WAL mode, an open connection in either."""
    locks = {lock: "shared" if lock in held else "unlocked" for lock in LOCKS}
    told = {"cmdline": [], "store": {"dbs": {"app.db": {"name": "app.db", "locks": locks}}}}
    assert parse_read_locks(json.dumps(told).encode()) == (frozenset({"app.db"}) if read else frozenset())


NAMES = st.sampled_from(["store", "dbs", "app.db", "locks", "shared", "dms"])
JSON = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@settings(max_examples=100, deadline=None)
@given(told=st.one_of(st.binary(max_size=50), JSON.map(json.dumps).map(str.encode)))
@example(b"[" * 100_000)
@example(b'{"store": {"dbs": {"a": {"locks": "pairs"}}}}')
def test_whatever_litefs_tells_of_its_locks(told: bytes) -> None:
    """It is a set of names."""
    assert all(isinstance(name, str) for name in parse_read_locks(told))


@pytest.mark.parametrize(
    ("first", "second", "locked", "txid", "code"),
    [
        (900, 2_900, True, 5, "blocked"),
        (900, 2_900, False, 5, None),
        (900, 2_900, True, 6, None),
        (200, 900, True, 5, None),
        (2_900, 1_600, True, 5, None),
        (900, 2147483647, True, 5, "never-replicated"),
    ],
)
def test_what_is_held_up(first: int, second: int, locked: bool, txid: int, code: str | None) -> None:
    """Only where somebody reads, the position stands, and the lag grows past LiteFS's sign of life."""
    before = DirectoryRead(0.0, Mount.LITEFS, Named("node-a"), first, {"app.db": Position(5)})
    after = replace(before, lag_ms=second, positions={"app.db": Position(txid)})
    names = frozenset({"app.db"} if locked else ())
    found = examine(facts(first=before, second=after, read_locked=names))
    assert [finding.code for finding in found] == ([code] if code else [])
