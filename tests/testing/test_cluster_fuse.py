"""A simulated cluster with FUSE mounts: what is read through the kernel is as new as on LiteFS, whoever has committed."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litefs_watch.testing import SimulatedCluster, fuse_available
from litefs_watch.testing.commits import CommitWatch
from litefs_watch.testing.fuse_server import _READ, _REQUEST, FileSystem, Op, Readers
from tests.testing.clusters import insert, rows, shown

pytestmark = pytest.mark.skipif(fuse_available() is not None, reason=str(fuse_available()))


@pytest.fixture
def mounted(tmp_path: Path, mode: str) -> Iterator[SimulatedCluster]:
    """Two nodes with FUSE mounts, and no lag."""
    with SimulatedCluster(2, directory=tmp_path, lag=0, fuse=True) as cluster:
        with closing(cluster.connect()) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("CREATE TABLE t (x)")
        yield cluster


def test_a_cluster_can_have_fuse_mounts(tmp_path: Path) -> None:
    """The same, with positions that are read through the kernel."""
    with SimulatedCluster(2, directory=tmp_path, lag=0, fuse=True) as cluster:
        cluster.execute("CREATE TABLE t (x)")
        position = insert(cluster, 1)
        assert shown(cluster.primary) == position
        cluster.wait_until_replicated()
        assert shown(cluster["node-b"]) == position
        assert rows(cluster, "node-b") == [1]
        cluster.kill_primary()
        with pytest.raises(OSError, match="not connected"):
            shown(cluster["node-a"])
        cluster.elect("node-b")
        cluster.restart("node-a")
        insert(cluster, 2)
        cluster.wait_until_replicated()
        assert rows(cluster, "node-a") == [1, 2]


def test_what_is_read_covers_each_commit_that_returned(mounted: SimulatedCluster) -> None:
    """Of connections that know nothing of the cluster, too, at once, and each is a TXID of its own."""
    before = shown(mounted.primary).txid
    with closing(sqlite3.connect(mounted.path("node-a"))) as connection:
        for number in range(50):
            with connection:
                connection.execute("INSERT INTO t VALUES (?)", (number,))
            assert shown(mounted.primary).txid == before + number + 1


def test_so_does_what_is_read_from_an_open_file(mounted: SimulatedCluster) -> None:
    """It counts when it is read, not when it was opened."""
    with (
        closing(sqlite3.connect(mounted.path("node-a"))) as connection,
        (mounted["node-a"].litefs_dir / "app.db-pos").open("rb", buffering=0) as file,
    ):
        for _ in range(20):
            before = int(file.read(16), 16)
            with connection:
                connection.execute("INSERT INTO t VALUES (1)")
            file.seek(0)
            assert int(file.read(16), 16) == before + 1
            file.seek(0)


def test_another_process_commits_and_reads(mounted: SimulatedCluster) -> None:
    """What it reads right after its COMMIT is that."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    script += "for n in range(10):\n"
    script += "    c.execute('INSERT INTO t VALUES (3)')\n"
    script += "    print(int(open(sys.argv[1] + '-pos').read(16), 16))"
    before = shown(mounted.primary).txid
    path = str(mounted.path("node-a"))
    process = subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True)
    assert [int(line) for line in process.stdout.split()] == [before + 1 + number for number in range(10)]


def test_a_look_that_can_not_be_keeps_nobody_waiting(mounted: SimulatedCluster) -> None:
    """While somebody keeps the database to himself, or the cluster is busy, the answer is what is known."""
    before = shown(mounted.primary)
    with closing(sqlite3.connect(mounted.path("node-a"), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("INSERT INTO t VALUES (1)")
        assert shown(mounted.primary) == before
        connection.execute("ROLLBACK")
    answers = []
    with mounted._lock:
        thread = threading.Thread(target=lambda: answers.append(shown(mounted.primary)))
        thread.start()
        thread.join(10)
    assert answers == [before]


def test_a_look_that_has_begun_keeps_nobody_waiting(mounted: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it looks again: whoever kills the node waits for that, and has the cluster's lock meanwhile."""
    before = shown(mounted.primary)
    reader, begun, publish = "litefs_watch FUSE reads", threading.Event(), mounted._publish

    def never_done(look: Callable[[CommitWatch], bytes | None]) -> bool:
        if threading.current_thread().name != reader:
            return publish(look)
        begun.set()
        return False

    monkeypatch.setattr(mounted, "_publish", never_done)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(shown(mounted.primary)))
    thread.start()
    assert begun.wait(10)
    with mounted._lock:
        thread.join(10)
        assert answers == [before]


def test_a_frozen_primary_is_not_read(mounted: SimulatedCluster) -> None:
    """Its readers wait for the thaw, those who were waiting for a look included."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(shown(mounted.primary)))
    with mounted._lock:
        thread.start()
        thread.join(0.05)
        mounted["node-a"].freeze()
    thread.join(0.1)
    assert answers == []
    mounted["node-a"].thaw()
    thread.join(10)
    assert answers == [mounted.primary.position()]


def test_who_comes_during_a_look_waits_for_the_next_one() -> None:
    """That one may have begun before its commit."""
    ours, asking = socket.socketpair()
    with ours, asking:
        files = FileSystem()
        files.change({"do": "show", "name": "app.db-pos", "content": "", "listed": True})
        node = files._inode("app.db-pos")
        first, second, third = (_REQUEST.pack(64, Op.READ, n, node, 0, 0, 0, 0, 0) + _READ.pack(0, 0, 34) for n in range(3))
        readers = Readers(asking)
        assert [readers.hold(files, request) for request in (first, second, third)] == [True] * 3
        assert ours.recv(10) == b"?"
        assert readers.looked() == [first]
        assert ours.recv(10) == b"?"
        assert readers.looked() == [second, third]
        rest = _REQUEST.pack(64, Op.READ, 9, node, 0, 0, 0, 0, 0) + _READ.pack(0, 34, 34)
        assert not readers.hold(files, rest)
        assert not Readers(None).hold(files, first)
