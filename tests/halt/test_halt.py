"""HALT without LiteFS: what is refused, what is not needed, and the process that holds the lock."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from litefs_watch import BlockingWatcher, ConfigError, LiteFSWatchError, Settings, WaitTimeout, Watcher
from litefs_watch.errors import HaltError, HaltExpired, HaltTimeout
from litefs_watch.halt import client, halt, halted, holder, launch
from litefs_watch.testing import SimulatedNode
from tests.holders import recorded_holders

SOON = 10.0


@pytest.fixture
def replica() -> Iterator[SimulatedNode]:
    with SimulatedNode(primary="node-z") as node:
        yield node


def content(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_the_errors_are_what_callers_expect() -> None:
    """A timeout is a `TimeoutError`, and all are this package's."""
    assert issubclass(HaltTimeout, (HaltError, WaitTimeout))
    assert issubclass(HaltTimeout, TimeoutError)
    assert issubclass(HaltExpired, HaltError)
    assert issubclass(HaltError, LiteFSWatchError)


async def test_an_ordinary_directory_is_an_error(replica: SimulatedNode) -> None:
    """There is no lock to be had."""
    with pytest.raises(HaltError, match="is not a mount of LiteFS"):
        async with halt("app.db", litefs_dir=replica.litefs_dir):
            pytest.fail("there is no lock here")


def test_no_stray_file_appears_in_an_ordinary_directory(replica: SimulatedNode) -> None:
    """Whether the database is there or not, ``-lock`` least of all."""
    (replica.litefs_dir / "app.db-lock").unlink(missing_ok=True)
    before = content(replica.litefs_dir)
    for database in ("app.db", "other.db"):
        with pytest.raises(HaltError, match="is not a mount of LiteFS"), halted(database, litefs_dir=replica.litefs_dir):
            pytest.fail("there is no lock here")
    assert content(replica.litefs_dir) == before


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    """The same, and it is not created."""
    with pytest.raises(HaltError, match="is not a mount of LiteFS"), halted("app.db", litefs_dir=tmp_path / "nowhere"):
        pass
    assert content(tmp_path) == []


async def test_it_does_nothing_on_the_primary() -> None:
    """Where a watcher says so; the database is the watcher's unless it is named."""
    with SimulatedNode() as node:
        async with Watcher(node.settings()) as watcher, halt(watcher=watcher) as held:
            assert (held.database, held.forwarded, held.remaining) == ("app.db", False, float("inf"))


def test_it_does_nothing_on_the_primary_in_threads() -> None:
    """The same with a `BlockingWatcher`."""
    with (
        SimulatedNode() as node,
        BlockingWatcher(node.settings()) as watcher,
        halted("other.db", watcher=watcher) as held,
    ):
        assert (held.database, held.forwarded, held.remaining) == ("other.db", False, float("inf"))


async def test_a_replica_asks_for_it(replica: SimulatedNode) -> None:
    """And where the directory can't have one, that is an error: never a write that goes nowhere."""
    async with Watcher(replica.settings()) as watcher:
        with pytest.raises(HaltError):
            async with halt(watcher=watcher):
                pass


def test_it_does_nothing_in_development(monkeypatch: pytest.MonkeyPatch) -> None:
    """``LITEFS_STANDALONE``: this node counts as the primary."""
    monkeypatch.delenv("LITEFS_DIR", raising=False)
    monkeypatch.setenv("LITEFS_STANDALONE", "1")
    monkeypatch.setenv("DATABASE_FILENAME", "app.db")
    with halted() as held:
        assert (held.database, held.forwarded) == ("app.db", False)
    with BlockingWatcher(Settings(standalone=True)) as watcher, halted("other.db", watcher=watcher) as held:
        assert held.database == "other.db"


def test_which_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It must be named, by the call or the environment, and be a name; a timeout must be a number."""
    monkeypatch.delenv("DATABASE_FILENAME", raising=False)
    with pytest.raises(ConfigError, match="which database"), halted(litefs_dir=tmp_path):
        pass
    with pytest.raises(ConfigError), halted("../app.db", litefs_dir=tmp_path):
        pass
    with pytest.raises(ValueError, match="nan"), halted("app.db", litefs_dir=tmp_path, timeout=float("nan")):
        pass


async def test_a_mount_without_the_database(mounted: SimulatedNode) -> None:
    """An error that says which."""
    with pytest.raises(HaltError, match=r"there is no database other\.db in "):
        async with halt("other.db", litefs_dir=mounted.litefs_dir):
            pass


async def test_two_at_a_time(mounted: SimulatedNode) -> None:
    """The second one waits for the first, and gives up after its timeout."""
    async with halt("app.db", litefs_dir=mounted.litefs_dir):
        with pytest.raises(HaltTimeout, match=r"did not grant the HALT lock on app\.db within 0\.[2-9] s"):
            async with halt("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2):
                pass
    async with halt("app.db", litefs_dir=mounted.litefs_dir):
        pass


async def test_cancelled_while_it_waits(mounted: SimulatedNode) -> None:
    """At once; and what it waited for is not taken afterwards."""
    async with halt("app.db", litefs_dir=mounted.litefs_dir):
        with anyio.move_on_after(0.1) as scope:
            async with halt("app.db", litefs_dir=mounted.litefs_dir):
                pass
        assert scope.cancelled_caught
    async with halt("app.db", litefs_dir=mounted.litefs_dir, timeout=5):
        pass


async def test_cancelled_while_litefs_is_frozen(mounted: SimulatedNode) -> None:
    """Nothing waits for it; what was asked for is given back when it goes on."""
    mounted.freeze()
    try:
        with anyio.move_on_after(0.1) as scope:
            async with halt("app.db", litefs_dir=mounted.litefs_dir):
                pass
        assert scope.cancelled_caught
    finally:
        mounted.thaw()
    async with halt("app.db", litefs_dir=mounted.litefs_dir, timeout=5):
        pass


def test_a_timeout_while_litefs_is_frozen(mounted: SimulatedNode) -> None:
    """It is kept: nothing here asks LiteFS."""
    with ThreadPoolExecutor(1) as pool:
        mounted.freeze()
        try:
            entered = pool.submit(halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.1).__enter__)
            with pytest.raises(HaltTimeout):
                entered.result(SOON)
        finally:
            mounted.thaw()
    with halted("app.db", litefs_dir=mounted.litefs_dir, timeout=5):
        pass


def test_litefs_freezes_inside(
    mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the block does not wait for ever, and says what may follow."""
    monkeypatch.setattr(client, "RELEASE_LIMIT", 0.05)
    monkeypatch.setattr(client, "_END_LIMIT", 0.05)
    program = Path(holder.__file__).read_text()
    frozen = program.replace("lock.release()\n    application", "os.stat(path); lock.release()\n    application")
    assert frozen != program
    monkeypatch.setattr(launch, "_PROGRAM", ["-c", frozen])
    try:
        with halted("app.db", litefs_dir=mounted.litefs_dir):
            mounted.freeze()
    finally:
        mounted.thaw()
    assert "LiteFS did not release the HALT lock on app.db within 0.05 s" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_do_not_end_it(mounted: SimulatedNode, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager's, which go to all processes: LiteFS often misses the release by one that dies."""
    holders = recorded_holders(monkeypatch)
    with halted("app.db", litefs_dir=mounted.litefs_dir):
        os.kill(holders[-1], number)
        with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2):
            pass


def test_a_holder_that_is_killed(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is lost with it, and the end of the block says so."""
    holders = recorded_holders(monkeypatch)
    with (
        pytest.raises(HaltExpired, match="lost before its end: the process that held it was killed"),
        halted("app.db", litefs_dir=mounted.litefs_dir),
    ):
        os.kill(holders[-1], signal.SIGKILL)


def test_a_block_that_fails(mounted: SimulatedNode) -> None:
    """Its own error passes, and the lock is released."""
    with pytest.raises(KeyError), halted("app.db", litefs_dir=mounted.litefs_dir):
        raise KeyError
    with halted("app.db", litefs_dir=mounted.litefs_dir, timeout=5):
        pass


async def test_the_interpreter_is_multiprocessing_s(mounted: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process itself is a server with Python inside; one that can't be started is an error that says so."""
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "/nowhere/python")
    with pytest.raises(HaltError, match="'/nowhere/python': No such file or directory"):
        async with halt("app.db", litefs_dir=mounted.litefs_dir):
            pass
    multiprocessing.set_executable("/bin/true")
    with pytest.raises(HaltError, match="ended with status 0 before it had it"):
        async with halt("app.db", litefs_dir=mounted.litefs_dir):
            pass


def test_a_forked_child_that_leaves_the_block(mounted: SimulatedNode) -> None:
    """The lock is the parent's: the child's end of the block does not release it."""
    block = halted("app.db", litefs_dir=mounted.litefs_dir)
    block.__enter__()
    if (child := os.fork()) == 0:
        try:
            block.__exit__(None, None, None)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=mounted.litefs_dir, timeout=0.2):
        pass
    block.__exit__(None, None, None)
    with halted("app.db", litefs_dir=mounted.litefs_dir, timeout=5):
        pass
