from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position, PrimaryChange, Role, Subscription, TxChange
from litefs_watch.core.conditions import ChangeQueue, RoleWaiter, RoleWaiters, Subscriptions, TxWaiter, TxWaiters

DB = "app.db"


def tx(txid: int, previous: int | None = None, database: str = DB) -> TxChange:
    return TxChange(database, Position(txid), None if previous is None else Position(previous))


def role(number: int) -> PrimaryChange:
    return PrimaryChange(Role.REPLICA, f"node-{number}", Role.UNKNOWN, None)


@given(st.lists(st.tuples(st.sampled_from(["add", "leave", "publish"]), st.integers(0, 20), st.sampled_from("ab"))))
def test_a_publication_wakes_exactly_those_it_satisfies(steps: list[tuple[str, int, str]]) -> None:
    """Whoever waits for that TXID or a lower one, of that database, once; and nobody else; whoever left leaves nothing."""
    waiters, model, woken = TxWaiters(), [], []
    for action, number, database in steps:
        if action == "add":
            waiter = TxWaiter(database, number, lambda: None)
            waiter.wake = lambda waiter=waiter: woken.append(waiter)  # type: ignore[misc]
            waiters.add(waiter)
            model.append(waiter)
        elif action == "leave" and model:
            waiters.discard(model.pop(number % len(model)))
        elif action == "publish":
            due = [waiter for waiter in model if waiter.database == database and waiter.txid <= number]
            woken.clear()
            assert waiters.publish(database, Position(number)) == len(due)
            assert sorted(map(id, woken)) == sorted(map(id, due))
            assert [waiter.txid for waiter in woken] == sorted(waiter.txid for waiter in due)
            assert all(waiter.position == Position(number) for waiter in due)
            model = [waiter for waiter in model if waiter not in due]
        assert len(waiters) == len(model)
        assert waiters.databases == {waiter.database for waiter in model}


def test_leaving_twice_or_after_the_wake_is_nothing() -> None:
    """A waiter that timed out as it was woken."""
    waiters = TxWaiters()
    first, second = TxWaiter(DB, 1, list), TxWaiter(DB, 1, list)
    waiters.add(first)
    waiters.add(second)
    waiters.discard(first)
    waiters.discard(first)
    assert len(waiters) == 1
    waiters.publish(DB, Position(1))
    waiters.discard(second)
    assert len(waiters) == 0
    assert waiters._queues == {}


def test_who_is_woken_is_counted_no_more() -> None:
    """Not even by itself: woken in a thread of its own, it runs on at once."""
    transactions, roles = TxWaiters(), RoleWaiters()
    seen: list[int] = []
    for txid in (1, 2, 3):
        transactions.add(TxWaiter(DB, txid, lambda: seen.append(len(transactions))))
        roles.add(RoleWaiter(frozenset((Role.REPLICA,)), lambda: seen.append(len(roles))))
    assert transactions.publish(DB, Position(2)) == 2
    assert seen == [2, 1]
    transactions.close()
    assert roles.publish(role(1)) == 3
    assert seen[2:] == [0, 2, 1, 0]


def test_closing_wakes_everybody_empty_handed() -> None:
    """Of each kind."""
    woken: list[str] = []
    txs, roles = TxWaiters(), RoleWaiters()
    tx_waiter, role_waiter = (
        TxWaiter(DB, 1, lambda: woken.append("tx")),
        RoleWaiter(frozenset((Role.PRIMARY,)), lambda: woken.append("role")),
    )
    txs.add(tx_waiter)
    roles.add(role_waiter)
    txs.close()
    roles.close()
    assert woken == ["tx", "role"]
    assert tx_waiter.closed
    assert tx_waiter.position is None
    assert role_waiter.closed
    assert role_waiter.reached is None
    assert len(txs) == len(roles) == 0


def test_a_role_wakes_those_who_want_it() -> None:
    """And leaves the others waiting."""
    roles = RoleWaiters()
    replica, primary = RoleWaiter(frozenset((Role.REPLICA,)), list), RoleWaiter(frozenset((Role.PRIMARY,)), list)
    roles.add(replica)
    roles.add(primary)
    assert roles.publish(role(1)) == 1
    assert replica.reached == role(1)
    assert primary.reached is None
    assert len(roles) == 1


def queue() -> ChangeQueue[TxChange | PrimaryChange]:
    return ChangeQueue(lambda: None)


def drain(changes: ChangeQueue[TxChange | PrimaryChange]) -> list[TxChange | PrimaryChange]:
    return list(iter(changes.take, None))


def test_transactions_coalesce_to_the_newest_of_each_database() -> None:
    """A slow subscriber holds one change a database, which still joins to what it saw last."""
    changes = queue()
    for number in range(1, 100):
        changes.put(tx(number, number - 1))
        changes.put(tx(number + 100, number + 99, "other.db"))
    assert drain(changes) == [tx(99, 0), tx(199, 100, "other.db")]


def test_changes_of_the_primary_are_all_kept_and_order_is_kept() -> None:
    """A coalesced transaction stands where the newest stood."""
    changes = queue()
    for change in (tx(1, None), role(1), tx(2, 1), role(2), role(3)):
        changes.put(change)
    assert drain(changes) == [role(1), tx(2, None), role(2), role(3)]


def test_there_and_back_again_is_no_change() -> None:
    """A position that went up and came back before anybody looked."""
    changes = queue()
    changes.put(tx(2, 1))
    changes.put(tx(1, 2))
    assert drain(changes) == []


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.booleans()))
def test_what_a_subscriber_sees_is_one_chain(positions: list[int], takes: list[bool]) -> None:
    """Each change starts where the one before it ended, however slowly they are taken, and the last is the newest."""
    changes = queue()
    seen: list[TxChange | PrimaryChange | None] = []
    previous = None
    plan = iter(takes)
    for txid in positions:
        if txid != previous:
            changes.put(tx(txid, previous))
            previous = txid
        if next(plan, False):
            seen.append(changes.take())
    seen += drain(changes)
    chain = [change for change in seen if isinstance(change, TxChange)]
    assert all(a.position == b.previous for a, b in pairwise(chain))
    assert all(change.position != change.previous for change in chain)
    if chain:
        assert chain[0].previous is None
        assert chain[-1].position.txid == positions[-1]


async def test_a_subscription_yields_what_came_before_and_after_the_first_look() -> None:
    """Registered at the call: nothing between it and the first ``async for`` is missed."""
    subscription: Subscription[TxChange] = Subscription((TxChange,))
    subscription._put(tx(1))
    assert len(subscription) == 1
    got = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async for change in subscription:
                got.append(change)  # noqa: PERF401 - one by one is the point

        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        assert got == [tx(1)]
        subscription._put(role(1))  # not accepted
        subscription._put(tx(2, 1))
        await anyio.wait_all_tasks_blocked()
        assert got == [tx(1), tx(2, 1)]
        subscription._put(tx(3, 2))
        subscription.close()
    assert got[2:] == [tx(3, 2)]  # what was queued is still delivered


async def test_two_who_iterate_one_subscription_are_both_woken() -> None:
    """Each change goes to one of them, and its end to both."""
    subscription: Subscription[TxChange] = Subscription((TxChange,))
    got: list[TxChange] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async for change in subscription:
                got.append(change)  # noqa: PERF401 - one by one is the point

        tasks.start_soon(follow)
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        subscription._put(tx(1))
        await anyio.wait_all_tasks_blocked()
        subscription.close()
    assert got == [tx(1)]


async def test_leaving_the_context_ends_the_subscription() -> None:
    """Both kinds of ``with``."""
    subscriptions = Subscriptions()
    async with subscriptions.add(Subscription[TxChange]((TxChange,))) as first:
        assert len(subscriptions) == 1
    with subscriptions.add(Subscription[TxChange]((TxChange,))) as second:
        assert len(subscriptions) == 1
    assert first.closed
    assert second.closed
    assert len(subscriptions) == 0
    subscriptions.publish(tx(1))
    assert len(first) == len(second) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(first)


def test_a_dropped_subscription_is_gone() -> None:
    """A loop that was left with ``break`` does not collect changes for ever."""
    subscriptions = Subscriptions()
    reference = weakref.ref(subscriptions.add(Subscription[TxChange]((TxChange,))))
    gc.collect()
    assert reference() is None
    assert len(subscriptions) == 0
