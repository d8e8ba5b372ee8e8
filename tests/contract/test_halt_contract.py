"""HALT on real LiteFS nodes, from the binary that LITEFS_BIN names."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import pytest

from litefs_watch import BlockingWatcher, Watcher
from litefs_watch.errors import HaltError, HaltExpired, HaltTimeout
from litefs_watch.halt import client as module
from litefs_watch.halt import halt, halted
from tests.contract.real import RealNode, RealPair, reason_against_real, until
from tests.holders import application, recorded_holders, says

pytestmark = pytest.mark.litefs
SOON = 15.0
T = TypeVar("T")

WRITE = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO t VALUES (?)', [sys.argv[2]]); c.commit()"
)


@pytest.fixture
def holders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that have held locks, by id."""
    return recorded_holders(monkeypatch)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RealPair]:
    if reason := reason_against_real():
        pytest.skip(reason)
    with RealPair(tmp_path) as pair:
        yield pair


def write(node: RealNode, value: str) -> None:
    with closing(sqlite3.connect(node.litefs_dir / "app.db", timeout=SOON)) as connection, connection:
        connection.execute("INSERT INTO t VALUES (?)", [value])


def values(node: RealNode) -> set[str]:
    with closing(sqlite3.connect(node.litefs_dir / "app.db", timeout=SOON)) as connection:
        return {str(value) for (value,) in connection.execute("SELECT x FROM t")}


def writes(node: RealNode) -> bool:
    try:
        write(node, "tried")
    except sqlite3.OperationalError:
        return False
    return True


def writing_child(node: RealNode, value: str) -> list[str]:
    return [sys.executable, "-c", WRITE, str(node.litefs_dir / "app.db"), value]


async def in_thread(function: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(function)


async def test_a_replica_writes_inside_and_not_outside(pair: RealPair) -> None:
    """The commit is on the primary when it returns; before and after, the replica refuses."""
    node = pair.replica
    before = await in_thread(pair.primary.position)
    with pytest.raises(sqlite3.OperationalError):
        await in_thread(lambda: write(node, "before"))
    async with halt("app.db", litefs_dir=node.litefs_dir) as held:
        assert held.forwarded
        assert 0 < held.remaining <= 30
        await in_thread(lambda: write(node, "inside"))
        assert await in_thread(pair.primary.position) == await in_thread(pair.replica.position)
        assert (await in_thread(pair.primary.position)).txid == before.txid + 1
    with pytest.raises(sqlite3.OperationalError):
        await in_thread(lambda: write(node, "after"))
    assert (await in_thread(lambda: values(pair.primary))) == {"1", "inside"}
    await in_thread(lambda: write(pair.primary, "theirs"))


def test_any_subprocess_inside_keeps_the_lock_and_writes(pair: RealPair) -> None:
    """subprocess in each of its ways, a shell with several, a spawned process, and a fork: none of them takes it along."""
    node = pair.replica
    with halted("app.db", litefs_dir=node.litefs_dir):
        subprocess.run(writing_child(node, "plain"), check=True)
        subprocess.run(writing_child(node, "inheriting"), check=True, close_fds=False)
        pid = os.posix_spawn(sys.executable, writing_child(node, "spawned"), os.environ)
        assert os.waitpid(pid, 0)[1] == 0
        subprocess.run(
            "true; exec >/dev/null; ls; (true); " + " ".join(map(repr, writing_child(node, "shell"))), shell=True, check=True
        )
        process = multiprocessing.get_context("spawn").Process(target=_nothing)
        process.start()
        process.join(SOON)
        write(node, "own")
    assert values(pair.primary) == {"1", "plain", "inheriting", "spawned", "shell", "own"}
    assert not writes(node)


def _nothing() -> None:
    pass


def test_a_child_that_outlives_the_block_does_not_hold_the_lock(pair: RealPair) -> None:
    """It is released at the end of the block, whoever was forked inside."""
    reading, writing = os.pipe()
    with halted("app.db", litefs_dir=pair.replica.litefs_dir):
        child = subprocess.Popen(["cat"], stdin=reading, close_fds=False)
        os.close(reading)
    assert not writes(pair.replica)
    write(pair.primary, "theirs")
    os.close(writing)
    assert child.wait(SOON) == 0


async def test_on_the_primary_it_does_nothing(pair: RealPair) -> None:
    """LiteFS decides, at the moment of the lock; with a watcher that knows, it is not even asked."""
    node = pair.primary
    async with halt("app.db", litefs_dir=node.litefs_dir) as held:
        assert not held.forwarded
        await in_thread(lambda: write(node, "inside"))
    async with Watcher(node.settings()) as watcher, halt(watcher=watcher) as held:
        assert (held.database, held.forwarded) == ("app.db", False)
        await in_thread(lambda: write(node, "again"))


def test_with_a_watcher_of_the_replica(pair: RealPair) -> None:
    """Its settings say where and what."""
    with BlockingWatcher(pair.replica.settings()) as watcher, halted(watcher=watcher) as held:
        assert (held.database, held.forwarded) == ("app.db", True)
        write(pair.replica, "inside")
    assert "inside" in values(pair.primary)


async def test_what_is_not_granted_in_time(pair: RealPair) -> None:
    """A transaction on the primary: `HaltTimeout`, soon, and nothing is left behind that halts the primary later."""
    with closing(sqlite3.connect(pair.primary.litefs_dir / "app.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(HaltTimeout, match="another node or another call holds it, or a transaction is open"):
            async with halt("app.db", litefs_dir=pair.replica.litefs_dir, timeout=0.3):
                pass
        assert time.monotonic() - began < 5
        connection.execute("ROLLBACK")
    await in_thread(lambda: write(pair.primary, "theirs"))
    async with halt("app.db", litefs_dir=pair.replica.litefs_dir):
        await in_thread(lambda: write(pair.replica, "ours"))


def test_litefs_s_own_limit_is_the_same_error(pair: RealPair) -> None:
    """After 10 s LiteFS gives up, however long the caller would wait."""
    with closing(sqlite3.connect(pair.primary.litefs_dir / "app.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(HaltTimeout), halted("app.db", litefs_dir=pair.replica.litefs_dir, timeout=60):
            pass
        assert time.monotonic() - began < 14


async def test_a_cancelled_one_is_given_back(pair: RealPair) -> None:
    """While it is being acquired, and inside the block."""
    with closing(sqlite3.connect(pair.primary.litefs_dir / "app.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with anyio.move_on_after(0.2) as scope:
            async with halt("app.db", litefs_dir=pair.replica.litefs_dir):
                pass
        assert scope.cancelled_caught
        connection.execute("ROLLBACK")
    await in_thread(lambda: write(pair.primary, "theirs"))
    with anyio.CancelScope() as scope:
        async with halt("app.db", litefs_dir=pair.replica.litefs_dir):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not await in_thread(lambda: writes(pair.replica))
    await in_thread(lambda: write(pair.primary, "theirs again"))


async def test_cancelled_at_any_moment(pair: RealPair) -> None:
    """Or out of time: before it is asked for, amid the granting, after it. The primary can write at once."""
    kinds = {"entered": 0, "cancelled": 0, "late": 0}
    for number in range(60):
        moment = random.uniform(0.001, 0.06)
        with anyio.move_on_after(moment if number % 2 else SOON) as scope:
            try:
                timeout = SOON if number % 2 else moment
                async with halt("app.db", litefs_dir=pair.replica.litefs_dir, timeout=timeout):
                    kinds["entered"] += 1
            except HaltTimeout:
                kinds["late"] += 1
        kinds["cancelled"] += scope.cancelled_caught
        await in_thread(lambda: write_soon(pair.primary))
    assert min(kinds["cancelled"], kinds["late"]) > 0, kinds


def write_soon(node: RealNode) -> None:
    """Within the time that a lock takes to be granted and released, and far less than one takes to expire."""
    with closing(sqlite3.connect(node.litefs_dir / "app.db", timeout=5)) as connection, connection:
        connection.execute("INSERT INTO t VALUES ('soon')")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_of_the_service(pair: RealPair, number: signal.Signals, holders: list[int]) -> None:
    """As systemd sends it, while the application is still at work: the lock is held, and released in order."""
    with halted("app.db", litefs_dir=pair.replica.litefs_dir):
        os.kill(holders[-1], number)
        write(pair.replica, "after the signal")
    assert "after the signal" in values(pair.primary)
    write_soon(pair.primary)


async def test_one_after_the_other(pair: RealPair) -> None:
    """Tasks of one node that want it at the same time get it in turn."""

    async def one(number: int) -> None:
        async with halt("app.db", litefs_dir=pair.replica.litefs_dir):
            await in_thread(lambda: write(pair.replica, f"task {number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(one, number)
    assert (await in_thread(lambda: values(pair.primary))) >= {"task 0", "task 1", "task 2"}


def test_no_such_database(pair: RealPair) -> None:
    """An error, and no stray file."""
    before = sorted(os.listdir(pair.replica.litefs_dir))
    with (
        pytest.raises(HaltError, match=r"there is no database other\.db in "),
        halted("other.db", litefs_dir=pair.replica.litefs_dir),
    ):
        pass
    assert sorted(os.listdir(pair.replica.litefs_dir)) == before


async def test_it_expires(pair: RealPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over the replica refuses at once, the primary goes on, and the end of the block says so."""
    monkeypatch.setattr(module, "LIFETIME", 1.0)
    with pytest.raises(HaltExpired, match=r"expired 1 s after it had been asked for, and was needed for [1-9]"):  # noqa: PT012
        async with halt("app.db", litefs_dir=pair.replica.litefs_dir) as held:
            await in_thread(lambda: write(pair.replica, "in time"))
            await in_thread(lambda: until(lambda: not writes(pair.replica), "the lock is gone"))
            assert held.remaining < 0.1
            await in_thread(lambda: write(pair.primary, "theirs"))
    assert {"in time", "theirs"} <= await in_thread(lambda: values(pair.primary))


def test_it_expires_where_a_broken_pipe_is_deadly(pair: RealPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts give SIGPIPE its default action back, which ends the process."""
    monkeypatch.setattr(module, "LIFETIME", 0.5)
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with pytest.raises(HaltExpired), halted("app.db", litefs_dir=pair.replica.litefs_dir):
            until(lambda: not writes(pair.replica), "the lock is gone")
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_an_error_from_inside_passes_with_a_note(pair: RealPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed write is what matters; that the lock had expired is why."""
    monkeypatch.setattr(module, "LIFETIME", 0.5)
    directory = pair.replica.litefs_dir
    with pytest.raises(sqlite3.OperationalError) as caught, halted("app.db", litefs_dir=directory):  # noqa: PT012
        until(lambda: not writes(pair.replica), "the lock is gone")
        write(pair.replica, "late")
    assert any("expired" in note for note in caught.value.__notes__)


def test_litefs_dies_inside(pair: RealPair) -> None:
    """The lock is lost with it."""
    with pytest.raises(HaltExpired, match="was lost before its end"), halted("app.db", litefs_dir=pair.replica.litefs_dir):
        pair.replica.kill()


def test_no_primary_in_reach(pair: RealPair) -> None:
    """LiteFS refuses at once; so do we."""
    pair.primary.kill()
    until(lambda: not (pair.replica.litefs_dir / ".primary").exists(), "the replica has noticed")
    with pytest.raises(HaltError, match="no primary is in reach"), halted("app.db", litefs_dir=pair.replica.litefs_dir):
        pass


@pytest.mark.parametrize("child", [False, True])
def test_an_application_that_is_killed_holds_nothing(pair: RealPair, child: bool) -> None:
    """The process that holds the lock ends with the application, also where a forked child lives on."""
    program = "import os, signal, sys\nfrom litefs_watch.halt import halted\n"
    program += "with halted('app.db', litefs_dir=sys.argv[1]):\n"
    program += "    if sys.argv[2] == 'True' and os.fork() == 0:\n        os._exit(sys.stdin.read() != '')\n"
    program += "    print('held', flush=True)\n    signal.pause()\n"
    with application(program, pair.replica.litefs_dir, str(child)) as process:
        says(process, "held")
        process.kill()
        process.wait(SOON)
        write_soon(pair.primary)
        until(lambda: not writes(pair.replica), "the lock is gone")


def test_an_application_that_is_killed_while_it_waits(pair: RealPair) -> None:
    """The primary is halted no longer than the granting takes."""
    program = "import sys\nfrom litefs_watch.halt import halted\nprint('asking', flush=True)\n"
    program += "with halted('app.db', litefs_dir=sys.argv[1]):\n    pass\n"
    with closing(sqlite3.connect(pair.primary.litefs_dir / "app.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with application(program, pair.replica.litefs_dir) as process:
            says(process, "asking")
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
            process.wait(SOON)
        connection.execute("ROLLBACK")
    write_soon(pair.primary)


def test_two_databases_at_once(pair: RealPair) -> None:
    """Each has its lock, its holder, and its end."""
    with closing(sqlite3.connect(pair.primary.litefs_dir / "other.db")) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    until((pair.replica.litefs_dir / "other.db-pos").exists, "the replica has the other one")
    with halted("app.db", litefs_dir=pair.replica.litefs_dir):
        with halted("other.db", litefs_dir=pair.replica.litefs_dir):
            write(pair.replica, "both")
            with closing(sqlite3.connect(pair.replica.litefs_dir / "other.db")) as connection, connection:
                connection.execute("INSERT INTO t VALUES ('both')")
        write(pair.replica, "one")
        with closing(sqlite3.connect(pair.primary.litefs_dir / "other.db")) as connection, connection:
            connection.execute("INSERT INTO t VALUES ('theirs')")
    assert {"both", "one"} <= values(pair.primary)
    write_soon(pair.primary)


def test_run_with_halt_migrates_from_a_replica(pair: RealPair) -> None:
    """``litefs-watch run --halt``: a shell with two commands that write, then the application; afterwards no more."""
    node = pair.replica
    shell = " && ".join(" ".join(f'"{word}"' for word in writing_child(node, value)) for value in ("first", "second"))
    command = [sys.executable, "-m", "litefs_watch", "run", "--dir", str(node.litefs_dir), "--database", "app.db"]
    command += ["--api-url", node.api_url, "--hostname", node.hostname, "--halt", "--primary", shell, "--"]
    done = subprocess.run([*command, "echo", "application"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "application\n"), done.stderr
    assert "running under the HALT lock on app.db" in done.stderr
    assert {"first", "second"} <= values(pair.primary)
    assert not writes(node)
