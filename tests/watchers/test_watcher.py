"""The watcher on a simulated node in an ordinary directory: all three sources are real."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import (
    ConfigError,
    NoPrimary,
    NotPrimary,
    Position,
    PrimaryChange,
    Role,
    Settings,
    Subscription,
    TxChange,
    WaitTimeout,
    Watcher,
    WatcherClosed,
    WrongInstance,
)
from litefs_watch.sources.stream import EventStream
from litefs_watch.testing import SimulatedNode

SOON = 10.0  # seconds: what must happen happens within this, on the slowest machine; nothing waits for it to pass


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


@pytest.fixture
async def watcher(node: SimulatedNode) -> AsyncIterator[Watcher]:
    async with Watcher(node.settings()) as watcher:
        yield watcher


async def changes_until(subscription: Subscription[Any], last: Callable[[Any], bool]) -> list[Any]:
    changes = []
    with anyio.fail_after(SOON):
        async for change in subscription:
            changes.append(change)
            if last(change):
                break
    return changes


async def take_role(watcher: Watcher, role: Role) -> None:
    await watcher.wait_for_role(role, timeout=SOON)


# Starting and stopping


async def test_after_the_start_everything_is_known(node: SimulatedNode) -> None:
    """Role, positions and sources: the application's first request finds them."""
    async with Watcher(node.settings()) as watcher:
        status = watcher.status
        assert (status.role, status.primary, status.lag, status.replicated) == (Role.PRIMARY, None, 0.0, True)
        assert status.positions == {"app.db": node.position()}
        assert watcher.is_primary
        assert watcher.hostname == status.hostname == "node-a"
        assert status.sources["stream"].alive
        assert status.sources["reread"].alive
        assert set(status.sources) == {"stream", "files", "reread"}
        assert status.faults == {}


async def test_a_replica_is_known_after_the_start() -> None:
    """Though its primary must have stayed for the settling time."""
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(node.settings()) as watcher:
            assert (watcher.role, watcher.primary) == (Role.REPLICA, "node-b")


async def test_litefs_need_not_be_there(tmp_path: Any) -> None:
    """Starting does not fail, the role is UNKNOWN, and it heals by itself."""
    with SimulatedNode(tmp_path) as node:
        settings = node.settings(idle_interval=0.01)
        node.stop()
        node.litefs_dir.rmdir()
        with anyio.fail_after(5):
            await Watcher(settings).start()  # a first one, to be thrown away unstopped, is no harm either
        async with Watcher(settings) as watcher:
            assert watcher.role is Role.UNKNOWN
            assert watcher.position() is None
            assert not watcher.status.sources["stream"].alive
            assert "No such file" in watcher.status.sources["reread"].detail
            await anyio.to_thread.run_sync(node.restart)
            await take_role(watcher, Role.PRIMARY)
            assert (await watcher.wait_for_tx(1, timeout=SOON)) == node.position()


async def test_lifespan_gives_the_watcher_to_the_application(node: SimulatedNode) -> None:
    """Starlette, FastAPI, Litestar: state["litefs"]."""
    watcher = Watcher(node.settings())
    async with watcher.lifespan(object()) as state:
        assert state == {"litefs": watcher}
        assert watcher.running
    assert not watcher.running


async def test_start_and_stop_need_no_common_task(node: SimulatedNode) -> None:
    """A fixture's set-up and tear-down may run in different tasks."""
    watcher = Watcher(node.settings())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.start)
    await watcher.wait_for_tx(1, timeout=SOON)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.stop)
    assert not watcher.running


async def test_stopping_twice_is_nothing_and_starting_twice_an_error(node: SimulatedNode) -> None:
    """And a stopped watcher can be started again."""
    watcher = Watcher(node.settings())
    await watcher.stop()
    await watcher.start()
    with pytest.raises(RuntimeError, match="running already"):
        await watcher.start()
    await watcher.stop()
    await watcher.stop()
    await watcher.start()
    assert watcher.is_primary
    await watcher.stop()


async def test_a_start_that_is_cancelled_leaves_nothing_running(node: SimulatedNode) -> None:
    """The application gave up on it."""
    node.freeze()
    watcher = Watcher(node.settings(litefs_dir=node.litefs_dir / "nowhere"))
    with anyio.move_on_after(0.05):
        await watcher.start()
    assert not watcher.running


async def test_without_an_argument_the_environment_serves(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """litefs-js's names."""
    monkeypatch.setenv("LITEFS_DIR", str(node.litefs_dir))
    monkeypatch.setenv("DATABASE_FILENAME", "app.db")
    monkeypatch.setenv("LITEFS_API_URL", node.api_url)
    async with Watcher() as watcher:
        assert watcher.tx_number() == 1


async def test_a_watcher_that_does_not_run_says_so(node: SimulatedNode) -> None:
    """Every call that would wait, before the start and after the stop."""
    watcher = Watcher(node.settings())
    for _ in range(2):
        for call in (
            watcher.wait_for_tx(1),
            watcher.wait_for_primary(),
            watcher.wait_for_role("primary"),
            watcher.read_position(),
        ):
            with pytest.raises(WatcherClosed, match="lifespan"):
                await call
        for subscribe in (watcher.changes, watcher.primary_changes):
            with pytest.raises(WatcherClosed):
                subscribe()
        async with watcher:
            pass


async def test_stopping_wakes_everybody(node: SimulatedNode) -> None:
    """Waiters with WatcherClosed; subscriptions end."""
    outcomes: list[str] = []

    async def wait(call: Any) -> None:
        try:
            await call
        except WatcherClosed as error:
            outcomes.append(str(error))

    watcher = Watcher(node.settings())
    await watcher.start()
    subscription = watcher.changes()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, watcher.wait_for_tx(99))
        tasks.start_soon(wait, watcher.wait_for_role(Role.REPLICA))
        await anyio.wait_all_tasks_blocked()
        await watcher.stop()
    assert len(outcomes) == 2
    assert all("stopped while" in outcome for outcome in outcomes)
    assert [change async for change in subscription] == []
    assert watcher.statistics().waiters == watcher.statistics().subscriptions == 0


# Waiting for a transaction


async def test_a_transaction_that_is_there_is_returned_at_once(node: SimulatedNode, watcher: Watcher) -> None:
    """Without a single switch to another task."""
    switched = False

    async def other() -> None:
        nonlocal switched
        switched = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        assert await watcher.wait_for_tx(1) == node.position()
        assert not switched


async def test_a_transaction_wakes_its_waiter(node: SimulatedNode, watcher: Watcher) -> None:
    """And returns the position that satisfied it, which may be a later one."""
    got: list[Position] = []

    async def wait() -> None:
        got.append(await watcher.wait_for_tx(2, timeout=SOON))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        position = node.commit(txid=5)
    assert got == [position]
    assert watcher.position() == position
    assert watcher.tx_number() == 5


@pytest.mark.parametrize("api_url", ["the node's", None])
async def test_each_source_alone_wakes(node: SimulatedNode, api_url: str | None) -> None:
    """The stream, and without it inotify."""
    async with Watcher(node.settings(api_url=node.api_url if api_url else None, idle_interval=60)) as watcher:
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(watcher.wait_for_tx, watcher.tx_number() + 1, timeout=SOON))
                await anyio.wait_all_tasks_blocked()
                node.commit()
        assert (watcher.statistics().events > 0) is bool(api_url)


async def test_the_re_read_finds_what_nobody_tells(node: SimulatedNode) -> None:
    """The truth changed and no event came: neither stream (notify=False) nor inotify (turned off)."""
    async with Watcher(node.settings(idle_interval=0.05)) as watcher:
        watcher._run.supervisor._files._stop_both()  # type: ignore[union-attr]
        node.commit(notify=False)
        await watcher.wait_for_tx(2, timeout=SOON)


async def test_a_wait_that_times_out_leaves_nothing(node: SimulatedNode, watcher: Watcher) -> None:
    """The error says what was waited for, where the database is, and what this node is."""
    with pytest.raises(
        WaitTimeout, match=r"app\.db did not reach transaction 9 within 0.01 s: it is at 1; this node is the primary"
    ):
        await watcher.wait_for_tx(9, timeout=0.01)
    with pytest.raises(TimeoutError):
        await watcher.wait_for_tx(9, timeout=0)
    with pytest.raises(TimeoutError, match="has not been seen"):
        await watcher.wait_for_tx(9, timeout=-1, database="new.db")
    assert watcher.statistics().waiters == 0
    assert watcher._run.board._tx_waiters._queues == {}


async def test_a_wait_that_is_cancelled_leaves_nothing(watcher: Watcher) -> None:
    """Nor does a crowd of them."""
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(watcher.wait_for_tx, 100 + number)
        await anyio.wait_all_tasks_blocked()
        assert watcher.statistics().waiters == 100
        tasks.cancel_scope.cancel()
    assert watcher.statistics().waiters == 0


async def test_only_those_are_woken_who_are_due(node: SimulatedNode, watcher: Watcher) -> None:
    """A herd is never woken."""
    got: list[int] = []

    async def wait(txid: int) -> None:
        await watcher.wait_for_tx(txid)
        got.append(txid)

    async with anyio.create_task_group() as tasks:
        for txid in range(2, 50):
            tasks.start_soon(wait, txid)
        await anyio.wait_all_tasks_blocked()
        before = watcher.statistics().wakes
        node.commit(txid=10)
        with anyio.fail_after(SOON):
            while len(got) < 9:
                await anyio.lowlevel.checkpoint()
        assert sorted(got) == list(range(2, 11))
        assert watcher.statistics().wakes - before == 9
        tasks.cancel_scope.cancel()


async def test_a_database_that_does_not_exist_yet_is_waited_for(node: SimulatedNode, watcher: Watcher) -> None:
    """Any number of databases in one directory."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: watcher.wait_for_tx(0, database="new.db", timeout=SOON))
        tasks.start_soon(lambda: watcher.wait_for_tx(2, database="new.db", timeout=SOON))
        await anyio.wait_all_tasks_blocked()
        node.commit("new.db")
        node.commit("new.db")
    assert watcher.tx_number("new.db") == 2
    assert watcher.tx_number() == 1
    assert set(watcher.status.positions) == {"app.db", "new.db"}


@pytest.mark.parametrize("txid", [-1, 2**64, 1.0, "1", None, True])
async def test_what_is_no_txid_is_a_value_error(watcher: Watcher, txid: Any) -> None:
    """A bug in the application, not something to wait for."""
    with pytest.raises(ValueError, match="whole number"):
        await watcher.wait_for_tx(txid)


async def test_the_highest_txid_can_be_waited_for(node: SimulatedNode, watcher: Watcher) -> None:
    """2^64-1, past where JavaScript loses precision."""
    node.commit(txid=2**64 - 1)
    assert (await watcher.wait_for_tx(2**64 - 1, timeout=SOON)).txid == 2**64 - 1


async def test_a_timeout_is_a_number(watcher: Watcher) -> None:
    """nan compares with nothing."""
    with pytest.raises(ValueError, match="nan"):
        await watcher.wait_for_tx(9, timeout=float("nan"))


async def test_a_call_needs_a_database(node: SimulatedNode) -> None:
    """Named in the settings or in the call."""
    async with Watcher(node.settings(database=None)) as watcher:
        with pytest.raises(ConfigError, match="DATABASE_FILENAME"):
            await watcher.wait_for_tx(1)
        assert await watcher.wait_for_tx(1, database="app.db") == node.position()
        with pytest.raises(ConfigError, match="without a path"):
            watcher.position("../app.db")


async def test_a_position_that_goes_back_is_seen_and_waited_from(node: SimulatedNode, watcher: Watcher) -> None:
    """A reset replica, a restored database."""
    subscription = watcher.changes()
    node.commit(txid=9)
    node.commit(txid=4)
    changes = await changes_until(subscription, lambda change: change.position.txid == 4)
    assert changes[-1].position == node.position()
    assert watcher.tx_number() == 4
    with pytest.raises(WaitTimeout, match="it is at 4"):
        await watcher.wait_for_tx(5, timeout=0)
    node.commit()
    await watcher.wait_for_tx(5, timeout=SOON)


async def test_read_position_is_straight_from_the_file(node: SimulatedNode, watcher: Watcher) -> None:
    """What was committed before the call is in its answer, whatever the sources know."""
    for _ in range(5):
        position = node.commit(notify=False)
        with anyio.fail_after(SOON):
            assert await watcher.read_position() == position
        assert watcher.position() == position
    assert await watcher.read_position("nowhere.db") is None
    (node.litefs_dir / "bad.db-pos").write_text("garbage")
    with pytest.raises(OSError, match="not a position: 'garbage'"):
        await watcher.read_position("bad.db")


async def test_reads_at_the_same_time_are_shared(node: SimulatedNode, watcher: Watcher) -> None:
    """1,000 requests do not read 1,000 times."""
    before = watcher.statistics().rereads
    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(watcher.read_position)
    assert watcher.statistics().rereads - before < 10


# The primary


async def test_subscriptions_see_every_change_from_the_call_on(node: SimulatedNode, watcher: Watcher) -> None:
    """Transactions and the primary, in order."""
    subscription, roles = watcher.changes(), watcher.primary_changes()
    node.commit()
    (first,) = await changes_until(subscription, lambda _: True)
    assert first == TxChange("app.db", node.position(), Position(1, first.previous.checksum))
    node.set_primary("node-b")
    await take_role(watcher, Role.REPLICA)
    node.commit()
    change, second = await changes_until(subscription, lambda change: isinstance(change, TxChange))
    assert change == PrimaryChange(Role.REPLICA, "node-b", Role.PRIMARY, None)
    assert second == TxChange("app.db", node.position(), first.position)
    assert await changes_until(roles, lambda _: True) == [change]


async def test_a_slow_subscriber_holds_one_change_a_database(node: SimulatedNode, watcher: Watcher) -> None:
    """And never slows the watcher."""
    subscription = watcher.changes()
    for _ in range(200):
        node.commit()
    await watcher.wait_for_tx(201, timeout=SOON)
    assert len(subscription) == 1
    assert (await anext(subscription)).position == node.position()  # type: ignore[union-attr]


async def test_a_dropped_subscription_is_forgotten(watcher: Watcher) -> None:
    """The watcher holds it weakly."""
    reference = weakref.ref(watcher.changes())
    gc.collect()
    assert reference() is None
    assert watcher.statistics().subscriptions == 0


async def test_wait_for_primary_tells_the_hostname(node: SimulatedNode, watcher: Watcher) -> None:
    """None where it is this node; and waits where none is known."""
    assert await watcher.wait_for_primary() is None
    node.lose_primary()
    await take_role(watcher, Role.UNKNOWN)
    with pytest.raises(WaitTimeout, match=r"no primary was known within 0\.01 s; this node's role is unknown"):
        await watcher.wait_for_primary(timeout=0.01)
    got: list[str | None] = []

    async def wait() -> None:
        got.append(await watcher.wait_for_primary(timeout=SOON))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        node.set_primary("node-c")
    assert got == ["node-c"]


async def test_wait_for_role_takes_a_role_or_its_name(node: SimulatedNode, watcher: Watcher) -> None:
    """And nothing else."""
    await watcher.wait_for_role("primary")
    with pytest.raises(ValueError, match="leader"):
        await watcher.wait_for_role("leader")
    with pytest.raises(WaitTimeout, match="did not become replica"):
        await watcher.wait_for_role(Role.REPLICA, timeout=0.01)


async def test_ensure_primary_and_instance(node: SimulatedNode, watcher: Watcher) -> None:
    """Each of the three roles has an answer of its own."""
    watcher.ensure_primary()
    watcher.ensure_instance("node-a")
    with pytest.raises(WrongInstance, match="run this on 'node-z'") as wrong:
        watcher.ensure_instance("node-z")
    assert wrong.value.primary == "node-z"
    node.set_primary("node-b")
    await take_role(watcher, Role.REPLICA)
    with pytest.raises(NotPrimary, match="the primary is 'node-b'") as caught:
        watcher.ensure_primary()
    assert caught.value.primary == "node-b"
    node.lose_primary()
    await take_role(watcher, Role.UNKNOWN)
    with pytest.raises(NoPrimary):
        watcher.ensure_primary()


@pytest.mark.parametrize("api_url", ["the node's", None])
async def test_a_hand_over_seen_from_the_old_primary(node: SimulatedNode, api_url: str | None) -> None:
    """false/none, false/itself, false/none, false/new, as measured: PRIMARY, UNKNOWN, REPLICA, and nothing else."""
    settings = node.settings(idle_interval=0.01) if api_url else node.settings(api_url=None, idle_interval=0.01)
    async with Watcher(settings) as watcher:
        subscription = watcher.primary_changes()
        node.lose_primary()
        await take_role(watcher, Role.UNKNOWN)
        node.set_primary("node-a")
        node.lose_primary()
        node.set_primary("node-b")
        roles = await changes_until(subscription, lambda change: change.primary == "node-b")
        assert [(change.role, change.primary) for change in roles] == [(Role.UNKNOWN, None), (Role.REPLICA, "node-b")]


async def test_a_cut_off_replica_that_flaps_is_unknown_all_along() -> None:
    """Each second its primary is named for about a millisecond."""
    with SimulatedNode(primary="node-b") as node:
        async with Watcher(node.settings(idle_interval=0.01)) as watcher:
            subscription = watcher.primary_changes()
            node.lose_primary()
            await take_role(watcher, Role.UNKNOWN)
            await anyio.to_thread.run_sync(lambda: node.flap("node-b", times=20, hold=0.001, every=0.03))
            node.become_primary()
            roles = await changes_until(subscription, lambda change: change.role is Role.PRIMARY)
            assert [change.role for change in roles] == [Role.UNKNOWN, Role.PRIMARY]


async def test_a_primary_without_a_name_is_a_primary() -> None:
    """A static lease without lease.hostname: .primary is a lone newline."""
    with SimulatedNode(primary="") as node:
        async with Watcher(node.settings()) as watcher:
            assert (watcher.role, watcher.primary) == (Role.REPLICA, None)
            assert await watcher.wait_for_primary() is None
            with pytest.raises(NotPrimary, match="without a hostname"):
                watcher.ensure_primary()
            node.drop_stream()
            node.commit()
            await watcher.wait_for_tx(2, timeout=SOON)
            assert watcher.role is Role.REPLICA


async def test_what_changed_and_nobody_told_is_found(node: SimulatedNode) -> None:
    """The primary, too: level-triggered, not edge-triggered."""
    async with Watcher(node.settings(idle_interval=0.05)) as watcher:
        node.set_primary("node-b", notify=False)
        await take_role(watcher, Role.REPLICA)
        node.become_primary(notify=False)
        await take_role(watcher, Role.PRIMARY)


async def test_litefs_before_0_5_has_no_lag() -> None:
    """The stream tells the role; without it litefs-js's rule does."""
    with SimulatedNode(lag_file=False) as node:
        for overrides in ({}, {"api_url": None}):
            async with Watcher(node.settings(**overrides)) as watcher:
                assert watcher.role is Role.PRIMARY
                assert (watcher.status.lag, watcher.status.replicated) == (None, None)


async def test_lag_is_in_seconds(node: SimulatedNode) -> None:
    """None before the first replication, negative where clocks differ."""
    node.set_primary("node-b")
    async with Watcher(node.settings(idle_interval=0.01)) as watcher:
        for milliseconds, expected in ((506, (0.506, True)), (-12, (-0.012, True)), (2**31 - 1, (None, False))):
            node.set_lag(milliseconds)
            with anyio.fail_after(SOON):
                while (watcher.status.lag, watcher.status.replicated) != expected:
                    await watcher.read_position()


# Faults


async def test_a_stopped_litefs_is_unknown_and_heals(node: SimulatedNode) -> None:
    """Positions stay as last known; a wait that began before goes on."""
    async with Watcher(node.settings()) as watcher:
        subscription = watcher.primary_changes()
        position = node.position()
        await anyio.to_thread.run_sync(node.stop)
        await take_role(watcher, Role.UNKNOWN)
        assert watcher.position() == position
        assert not watcher.status.sources["stream"].alive
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: watcher.wait_for_tx(2, timeout=SOON))
            await anyio.to_thread.run_sync(node.restart)
            node.commit()
        await take_role(watcher, Role.PRIMARY)
        roles = await changes_until(subscription, lambda change: change.role is Role.PRIMARY)
        assert [change.role for change in roles] == [Role.UNKNOWN, Role.PRIMARY]
        with anyio.fail_after(SOON):
            while not watcher.status.sources["stream"].alive:
                await anyio.to_thread.run_sync(node.wait_for_streams)
        assert watcher.statistics().reconnects == 1


async def test_a_dropped_stream_changes_nothing(node: SimulatedNode, watcher: Watcher) -> None:
    """It is opened again, and what was missed is read."""
    subscription = watcher.primary_changes()
    node.drop_stream()
    node.commit()
    await watcher.wait_for_tx(2, timeout=SOON)
    await anyio.to_thread.run_sync(node.wait_for_streams)
    node.commit()
    await watcher.wait_for_tx(3, timeout=SOON)
    assert len(subscription) == 0


async def test_without_the_stream_files_go_on(node: SimulatedNode, watcher: Watcher) -> None:
    """The status tells which sources are alive."""
    node.stream_available = False
    node.commit()
    await watcher.wait_for_tx(2, timeout=SOON)
    node.set_primary("node-b")
    await take_role(watcher, Role.REPLICA)
    status = watcher.status.sources
    assert not status["stream"].alive
    assert status["files"].alive
    assert status["reread"].alive


async def test_a_source_that_crashes_is_run_again(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of this library takes one source down for a moment, not the application; and it is logged, whole."""
    monkeypatch.setattr("litefs_watch.sources.supervisor.FIRST_PAUSE", 0.01)
    session, crashes = EventStream._session, iter([KeyError("a fault of ours"), None])

    async def crash_once(self: EventStream, url: str) -> float:
        if error := next(crashes, None):
            raise error
        return await session(self, url)

    monkeypatch.setattr(EventStream, "_session", crash_once)
    async with Watcher(node.settings()) as watcher:
        node.commit()
        await watcher.wait_for_tx(2, timeout=SOON)
        await anyio.to_thread.run_sync(node.wait_for_streams)
        assert watcher.is_primary
    assert any(record.exc_info for record in caplog.records)


async def test_logs_tell_what_happens(node: SimulatedNode, caplog: pytest.LogCaptureFixture) -> None:
    """Each change once, under one name; and watchfiles' own chatter is left out."""
    caplog.set_level(logging.INFO)
    async with Watcher(node.settings()) as watcher:
        for _ in range(3):
            node.commit()
            await watcher.wait_for_tx(node.position().txid, timeout=SOON)
        node.set_primary("node-b")
        await take_role(watcher, Role.REPLICA)
    names = {record.name for record in caplog.records}
    assert "litefs_watch" in names
    assert "watchfiles.main" not in names
    messages = [record.message for record in caplog.records]
    assert messages.count("role: replica of node-b") == 1


# Standalone


async def test_standalone_is_the_primary_and_has_every_transaction() -> None:
    """Development without LiteFS: nothing is watched, and nothing waits."""
    async with Watcher(Settings(standalone=True, database="app.db")) as watcher:
        assert watcher.role is Role.PRIMARY
        watcher.ensure_primary()
        assert (await watcher.wait_for_tx(2**64 - 1)).txid == 2**64 - 1
        assert await watcher.wait_for_primary() is None
        assert await watcher.read_position() is None
        assert watcher.tx_number() == 0
        assert watcher.status.sources == {}
        with pytest.raises(ValueError, match="whole number"):
            await watcher.wait_for_tx(-1)
        with pytest.raises(WaitTimeout):
            await watcher.wait_for_role(Role.REPLICA, timeout=0.01)
        subscription = watcher.changes()
    assert [change async for change in subscription] == []
