"""The watcher for threads."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from litefs_watch import (
    BlockingWatcher,
    ConfigError,
    NotPrimary,
    Position,
    PrimaryChange,
    Role,
    Settings,
    WaitTimeout,
    Watcher,
    WatcherClosed,
)
from litefs_watch.core.waiters import RoleWaiter, TxWaiter
from litefs_watch.testing import SimulatedNode

SOON = 10.0


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


@pytest.fixture
def watcher(node: SimulatedNode) -> Iterator[BlockingWatcher]:
    with BlockingWatcher(node.settings()) as watcher:
        yield watcher


def waiting(watcher: BlockingWatcher, count: int) -> None:
    """Until so many wait."""
    pause = threading.Event()
    for _ in range(int(SOON * 1000)):
        if watcher.statistics().waiters == count:
            return
        pause.wait(0.001)
    raise TimeoutError(f"{watcher.statistics().waiters} wait, not {count}")


def test_it_starts_by_itself(node: SimulatedNode) -> None:
    """With the first call, and not before: a server may fork in between."""
    watcher = BlockingWatcher(node.settings())
    assert watcher._thread is None
    assert watcher.is_primary
    assert watcher.position() == node.position()
    assert watcher._thread is not None
    watcher.stop()


def test_a_transaction_that_is_there_is_returned_without_a_lock(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """One comparison: even while somebody holds the lock."""
    with watcher._run.board.lock:
        assert watcher.wait_for_tx(1) == node.position()
        assert watcher.wait_for_tx(0, database="app.db") == node.position()


def test_a_transaction_wakes_its_waiters_in_any_number_of_threads(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """Each gets the position that satisfied it; nobody else is woken."""
    with ThreadPoolExecutor(20) as pool:
        due = [pool.submit(watcher.wait_for_tx, 2, timeout=SOON) for _ in range(15)]
        late = [pool.submit(watcher.wait_for_tx, 3, timeout=SOON) for _ in range(5)]
        waiting(watcher, 20)
        position = node.commit()
        assert {future.result() for future in due} == {position}
        assert watcher.statistics().waiters == 5
        later = node.commit()
        assert {future.result() for future in late} == {later}
    assert watcher.statistics().waiters == 0


@pytest.mark.parametrize("overrides", [{}, {"api_url": None}])
def test_no_wake_up_is_lost(node: SimulatedNode, overrides: dict[str, Any]) -> None:
    """Commits as quickly as they come, and a thread that waits for each; with the stream and without it."""
    with BlockingWatcher(node.settings(idle_interval=60, **overrides)) as watcher, ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            future = pool.submit(watcher.wait_for_tx, watcher.tx_number() + 1, timeout=SOON)
            position = node.commit()
            assert future.result() == position


def test_a_wait_that_times_out_leaves_nothing(watcher: BlockingWatcher) -> None:
    """The same words as on an event loop."""
    with pytest.raises(WaitTimeout, match=r"app\.db did not reach transaction 9 within 0\.01 s: it is at 1"):
        watcher.wait_for_tx(9, timeout=0.01)
    with pytest.raises(TimeoutError):
        watcher.wait_for_tx(9, timeout=0)
    with pytest.raises(WaitTimeout, match="did not become replica"):
        watcher.wait_for_role("replica", timeout=0.01)
    assert watcher.statistics().waiters == 0


@pytest.mark.parametrize("txid", [-1, 2**64, 1.0, "1", None, True])
def test_what_is_no_txid_is_a_value_error(watcher: BlockingWatcher, txid: Any) -> None:
    """Whether it would be met or not."""
    with pytest.raises(ValueError, match="whole number"):
        watcher.wait_for_tx(txid)


def test_a_call_needs_a_database(node: SimulatedNode) -> None:
    """Named in the settings or in the call."""
    with BlockingWatcher(node.settings(database=None)) as watcher:
        with pytest.raises(ConfigError, match="DATABASE_FILENAME"):
            watcher.wait_for_tx(1)
        assert watcher.wait_for_tx(1, database="app.db") == node.position()


def test_read_position_is_straight_from_the_file(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """What was committed before the call is in its answer."""
    position = node.commit(notify=False)
    assert watcher.read_position() == position
    assert watcher.read_position("nowhere.db") is None
    (node.litefs_dir / "bad.db-pos").write_text("garbage")
    with pytest.raises(OSError, match="not a position"):
        watcher.read_position("bad.db")


def test_roles(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """wait_for_role, wait_for_primary, ensure_primary."""
    watcher.ensure_primary()
    assert watcher.wait_for_primary() is None
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(watcher.wait_for_role, Role.REPLICA, timeout=SOON)
        waiting(watcher, 1)
        node.set_primary("node-b")
        assert future.result() is None
    assert (watcher.role, watcher.primary, watcher.status.primary) == (Role.REPLICA, "node-b", "node-b")
    with pytest.raises(NotPrimary):
        watcher.ensure_primary()
    with pytest.raises(NotPrimary):
        watcher.ensure_instance("node-b")


def test_primary_changes_is_a_plain_iterator(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """Registered by the call; it ends with the watcher, after what was queued."""
    changes, everything = watcher.primary_changes(), watcher.changes()
    node.commit()
    watcher.wait_for_tx(2, timeout=SOON)
    node.set_primary("node-b")
    assert next(changes) == PrimaryChange(Role.REPLICA, "node-b", Role.PRIMARY, None)
    with pytest.raises(WaitTimeout):
        changes.take(timeout=0.01)
    node.lose_primary()
    watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
    watcher.stop()
    assert [change.role for change in changes] == [Role.UNKNOWN]
    assert len(list(everything)) == 3


def test_a_closed_subscription_ends_its_iterator(watcher: BlockingWatcher) -> None:
    """From another thread, too."""
    with watcher.changes() as changes, ThreadPoolExecutor(1) as pool:
        future = pool.submit(list, changes)
        changes.close()
        assert future.result(SOON) == []
    assert watcher.statistics().subscriptions == 0


def test_what_the_collector_ends_waits_for_no_lock(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """A dropped generator or coroutine is ended wherever the collector is at work: also where the watcher's lock is held."""
    run = watcher._live()
    changes = watcher.changes()
    gone = watcher.changes()
    waiters: list[TxWaiter | RoleWaiter] = [TxWaiter("app.db", 9, bool), RoleWaiter(frozenset((Role.UNKNOWN,)), "", bool)]

    def end() -> None:
        for waiter in waiters:
            run.board.leave(waiter)
        changes.close()
        gone.close()

    with ThreadPoolExecutor(2) as pool:
        future = pool.submit(list, changes)
        for waiter in waiters:
            assert run.begin_wait(waiter, None)
        waiting(watcher, 2)
        with run.board.lock:
            pool.submit(end).result(SOON)
            assert changes.closed
        run.board.leave(waiters[0])  # whoever comes next lets them out
        assert future.result(SOON) == []
    waiting(watcher, 0)
    assert watcher.statistics().subscriptions == 0
    assert watcher.wait_for_tx(node.commit().txid, timeout=SOON)


def test_callbacks(node: SimulatedNode, watcher: BlockingWatcher, caplog: pytest.LogCaptureFixture) -> None:
    """Called in the watcher's thread; one that fails is logged and harms no other."""
    seen: list[tuple[PrimaryChange, str]] = []

    def fail(change: PrimaryChange) -> None:
        raise KeyError(change)

    watcher.on_primary_change(fail)
    end = watcher.on_primary_change(lambda change: seen.append((change, threading.current_thread().name)))
    node.set_primary("node-b")
    watcher.wait_for_role(Role.REPLICA, timeout=SOON)
    node.lose_primary()
    watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
    assert [change.role for change, _ in seen[:1]] == [Role.REPLICA]
    assert seen[0][1] == "litefs_watch watcher"
    assert any("a callback for changes of the primary failed" in record.message for record in caplog.records)
    end()
    end()
    assert fail in watcher._callbacks


def test_stopping_wakes_everybody(node: SimulatedNode) -> None:
    """With WatcherClosed; and later calls raise it, until it is started again."""
    watcher = BlockingWatcher(node.settings())
    with ThreadPoolExecutor(2) as pool:
        calls: list[Callable[[], object]] = [lambda: watcher.wait_for_tx(99), lambda: watcher.wait_for_role("replica")]
        futures = [pool.submit(call) for call in calls]
        waiting(watcher, 2)
        watcher.stop()
        for future in futures:
            with pytest.raises(WatcherClosed):
                future.result()
    watcher.stop()
    for call in (lambda: watcher.wait_for_tx(1), lambda: watcher.role, watcher.changes, lambda: watcher.wait_for_primary()):
        with pytest.raises(WatcherClosed):
            call()
    with watcher:
        assert watcher.wait_for_tx(1, timeout=SOON) == node.position()


def test_standalone_has_every_transaction() -> None:
    """Development without LiteFS."""
    with BlockingWatcher(Settings(standalone=True, database="app.db")) as watcher:
        assert watcher.is_primary
        assert watcher.wait_for_tx(7) == Position(7)
        assert watcher.read_position() is None
        assert watcher.wait_for_primary() is None


def test_it_has_the_names_of_the_watcher() -> None:
    """Whatever Watcher can be asked; but for the lifespan of an ASGI application."""
    names = {name for name in dir(Watcher) if not name.startswith("_")}
    assert names - set(dir(BlockingWatcher)) == {"lifespan"}


def in_child(watcher: BlockingWatcher, connection: Any) -> None:
    connection.send((watcher.wait_for_tx(2, timeout=SOON), watcher.role))
    watcher.stop()


def test_a_child_after_a_fork_starts_its_own(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """Though the parent's was running, and its lock may be held by a thread that the child has not got."""
    position = node.commit()
    here, there = multiprocessing.Pipe()
    with watcher._run.board.lock:
        process = multiprocessing.get_context("fork").Process(target=in_child, args=(watcher, there))
        process.start()
    assert here.poll(SOON)
    assert here.recv() == (position, Role.PRIMARY)
    process.join(SOON)
    assert process.exitcode == 0
    node.commit()
    assert watcher.wait_for_tx(3, timeout=SOON)


def iterate_in_child(changes: Any, connection: Any) -> None:
    connection.send((changes.closed, list(changes)))


def test_a_subscription_ends_in_a_forked_child(node: SimulatedNode, watcher: BlockingWatcher) -> None:
    """Nobody feeds it there. The parent's goes on."""
    here, there = multiprocessing.Pipe()
    with watcher.changes() as changes:
        with watcher._run.board.lock:
            process = multiprocessing.get_context("fork").Process(target=iterate_in_child, args=(changes, there))
            process.start()
        assert here.poll(SOON)
        assert here.recv() == (True, [])
        process.join(SOON)
        node.commit()
        assert changes.take(SOON) is not None


@pytest.mark.parametrize(
    ("module", "name"), [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")]
)
def test_threads_that_are_none(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's and eventlet's take turns in one, which the watcher would never leave: it says so, and does not hang."""
    watcher = BlockingWatcher(Settings(standalone=True))
    asked: list[str] = []
    answers = [False]

    def patched(what: str) -> bool:
        asked.append(what)
        return answers[0]

    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: patched}))
    BlockingWatcher(Settings(standalone=True))  # loaded, but nothing is replaced
    answers[0] = True
    for attempt in (lambda: BlockingWatcher(Settings(standalone=True)), watcher.start):
        with pytest.raises(ConfigError, match=f"{module.split('.')[0]} has replaced Python's threads"):
            attempt()
    assert set(asked) <= {"threading", "thread"}


def test_a_process_ends_that_never_stopped_it(node: SimulatedNode) -> None:
    """At exit, without a word; also where a thread still waits."""
    code = f"""
import threading
from litefs_watch import BlockingWatcher, Settings, WatcherClosed
watcher = BlockingWatcher(Settings({str(node.litefs_dir)!r}, "app.db", api_url={node.api_url!r}))
print(watcher.wait_for_tx(1, timeout=5))
def wait():
    try:
        watcher.wait_for_tx(99)
    except WatcherClosed:
        pass
threading.Thread(target=wait, daemon=True).start()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(node.position()), "")


def test_logs_name_no_thread_s_failure(watcher: BlockingWatcher, caplog: pytest.LogCaptureFixture) -> None:
    """A stop is no error."""
    caplog.set_level(logging.WARNING)
    watcher.stop()
    assert caplog.records == []


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
def test_no_timeout_is_too_long(node: SimulatedNode, watcher: BlockingWatcher, timeout: float) -> None:
    """A lock takes 292 years at most: who waits longer waits all the same."""
    with ThreadPoolExecutor(2) as pool:
        tx = pool.submit(watcher.wait_for_tx, 2, timeout=timeout)
        role = pool.submit(watcher.wait_for_role, Role.REPLICA, timeout=timeout)
        waiting(watcher, 2)
        position = node.commit()
        assert tx.result(SOON) == position
        node.set_primary("node-z")
        role.result(SOON)
