"""The FUSE mount behaves as LiteFS's where an ordinary directory can't: silence, blocked reads, and death."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import watchfiles

from litefs_watch import Position
from litefs_watch.testing import SimulatedNode, fuse_available

pytestmark = pytest.mark.skipif(fuse_available() is not None, reason=str(fuse_available()))

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimulatedNode]:
    with SimulatedNode(tmp_path / "with space", fuse=True, primary="node-b") as node:
        yield node


def read(node: SimulatedNode, name: str) -> bytes:
    return (node.litefs_dir / name).read_bytes()


def mounts(directory: Path) -> list[str]:
    """The lines of mountinfo about this directory, from the separator on: type, source, options."""
    point = str(directory).replace(" ", "\\040")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.partition(" - ")[2] for line in lines if line.split(" ")[4] == point]


def test_it_is_a_mount_of_type_fuse_from_litefs(node: SimulatedNode) -> None:
    """So mountinfo says, as it does of LiteFS; after a clean stop an empty ordinary directory is left."""
    assert [line.split(" ")[:2] for line in mounts(node.litefs_dir)] == [["fuse", "litefs"]]
    node.stop()
    assert mounts(node.litefs_dir) == []
    assert os.listdir(node.litefs_dir) == []


def test_it_shows_what_an_ordinary_directory_shows(node: SimulatedNode) -> None:
    """The same names and contents, each as new as the last change."""
    assert set(os.listdir(node.litefs_dir)) == {"app.db", "app.db-pos", ".primary", ".lag"}
    assert read(node, ".primary") == b"node-b\n"
    assert read(node, ".lag") == b"+2147483647\n"
    for _ in range(20):
        position = node.commit()
        assert read(node, "app.db-pos") == f"{position}\n".encode()
    node.set_lag(-5)
    assert read(node, ".lag") == b"-000000005\n"
    assert (node.litefs_dir / ".lag").stat().st_size == 11
    node.become_primary()
    assert set(os.listdir(node.litefs_dir)) == {"app.db", "app.db-pos", ".lag"}
    assert read(node, ".lag") == b"+000000000\n"
    with pytest.raises(FileNotFoundError):
        read(node, ".primary")
    many = {f"{number}-{'x' * 200}.db" for number in range(40)}
    for name in many:
        node.commit(name)
    assert many < set(os.listdir(node.litefs_dir))


def test_inotify_is_silent_on_it(node: SimulatedNode, tmp_path: Path) -> None:
    """Commits and changes of the primary wake nobody; a file beside the mount, written last, is the first news."""
    beside = tmp_path / "beside"
    beside.mkdir()
    watching, stop = threading.Event(), threading.Event()
    woken: list[str] = []

    def watch() -> None:
        for changes in watchfiles.watch(
            node.litefs_dir, beside, watch_filter=None, step=1, rust_timeout=20, yield_on_timeout=True, stop_event=stop
        ):
            watching.set()
            woken.extend(path for _, path in changes)
            if woken:
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        assert watching.wait(10)
        for _ in range(50):
            node.commit()
            read(node, "app.db-pos")
        node.lose_primary()
        node.set_primary("node-c")
        node.drop_database()
        (beside / "news").write_bytes(b"")
        thread.join(10)
    finally:
        stop.set()
        thread.join()
    assert set(woken) == {str(beside / "news")}


def test_the_lag_grows_by_itself(node: SimulatedNode, eventually: Eventually) -> None:
    """It is computed at each read; but an open file keeps its first answer, as LiteFS's does."""
    node.heartbeats = False
    node.heartbeat()
    descriptor = os.open(node.litefs_dir / ".lag", os.O_RDONLY)
    try:
        held = os.pread(descriptor, 100, 0)
        eventually(lambda: int(read(node, ".lag")) > int(held) + 20)
        assert os.pread(descriptor, 100, 0) == held
    finally:
        os.close(descriptor)
    descriptor = os.open(node.litefs_dir / "app.db-pos", os.O_RDONLY)
    try:
        position = node.commit()
        assert os.pread(descriptor, 100, 0) == f"{position}\n".encode()
    finally:
        os.close(descriptor)


def test_a_dropped_database_is_not_listed_but_its_position_can_be_opened(node: SimulatedNode) -> None:
    """As on LiteFS; and again after a restart."""
    position = node.drop_database()
    for _ in range(2):
        assert set(os.listdir(node.litefs_dir)) == {".primary", ".lag"}
        assert read(node, "app.db-pos") == f"{position}\n".encode()
        with pytest.raises(FileNotFoundError):
            node.path().stat()
        node.restart()


def test_reads_block_while_it_is_frozen(node: SimulatedNode) -> None:
    """And answer with the newest at the thaw."""
    node.freeze()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(read(node, "app.db-pos")))
    thread.start()
    thread.join(0.1)
    position = node.commit()
    assert answers == []
    node.thaw()
    thread.join(10)
    assert answers == [f"{position}\n".encode()]


def test_whoever_waits_for_a_frozen_one_can_be_killed(node: SimulatedNode) -> None:
    """The request is still with the kernel, as it is when LiteFS is stopped, so a process that waits for it can die."""
    node.freeze()
    with subprocess.Popen(["cat", node.litefs_dir / "app.db-pos"]) as process:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
            process.kill()
            assert process.wait(10) == -signal.SIGKILL
        finally:
            node.thaw()


def test_a_stop_frees_whoever_is_blocked(node: SimulatedNode) -> None:
    """A node that is stopped while it is frozen leaves no reader waiting, and no mount."""
    node.freeze()
    errors: list[OSError] = []

    def block() -> None:
        try:
            read(node, "app.db-pos")
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    node.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert mounts(node.litefs_dir) == []


def test_a_killed_one_answers_enotconn_until_it_is_back(node: SimulatedNode) -> None:
    """'Transport endpoint is not connected', and after the restart all is there again."""
    position = node.commit()
    node.kill()
    with pytest.raises(OSError, match="not connected") as raised:
        read(node, "app.db-pos")
    assert raised.value.errno == errno.ENOTCONN
    assert len(mounts(node.litefs_dir)) == 1
    for come_back in (node.restart, node.start):
        come_back()
        assert read(node, "app.db-pos") == f"{position}\n".encode()
        assert len(mounts(node.litefs_dir)) == 1
        node.kill()
    node.close()
    assert mounts(node.litefs_dir) == []


def test_nothing_can_be_written_to_it(node: SimulatedNode) -> None:
    """Its files are LiteFS's to write; only locks are taken on ``-lock``."""
    for path, flags in ((node.litefs_dir / "app.db-pos", os.O_WRONLY), (node.litefs_dir / "new", os.O_CREAT | os.O_WRONLY)):
        with pytest.raises(OSError, match="Read-only file system"):
            os.write(os.open(path, flags), b"x")
    descriptor = os.open(node.litefs_dir / "app.db-lock", os.O_RDWR)
    try:
        os.lockf(descriptor, os.F_TLOCK, 1)
    finally:
        os.close(descriptor)


def test_sqlite_works_on_a_database_in_it(node: SimulatedNode) -> None:
    """The mount links to the database's file in the data directory, and SQLite follows."""
    connection = sqlite3.connect(node.path())
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
    finally:
        connection.close()
    assert node.path().stat().st_size == (node.data_dir / "dbs" / "app.db" / "database").stat().st_size > 4096


def test_the_mount_goes_with_the_process_that_made_it(tmp_path: Path, eventually: Eventually) -> None:
    """Even if that is killed, and had frozen it."""
    script = "from litefs_watch.testing import SimulatedNode; import os, sys\n"
    script += "node = SimulatedNode(sys.argv[1], fuse=True).start(); node.freeze(); os.kill(os.getpid(), 9)"
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: not mounts(tmp_path / "litefs"))


def test_nothing_is_left_of_a_mount_that_failed(tmp_path: Path) -> None:
    """A mount point that is a file is an error, and the node can be closed and used elsewhere."""
    (tmp_path / "litefs").write_bytes(b"in the way")
    threads = set(threading.enumerate())
    node = SimulatedNode(tmp_path, fuse=True, databases={"app.db": Position(7)})
    with pytest.raises((RuntimeError, OSError)):
        node.start()
    assert not node.running
    node.close()
    assert set(threading.enumerate()) == threads
