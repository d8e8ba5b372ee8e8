from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position, Role
from litefs_watch.changes import Standing
from litefs_watch.core.board import Board
from litefs_watch.core.readings import PositionsRead, RoleEvent
from litefs_watch.core.state import NodeState
from litefs_watch.core.waiters import RoleWaiter, RoleWaiters, TxWaiter, TxWaiters

DB = "app.db"
REPLICA = Standing(Role.REPLICA, "node-1")
STATE = NodeState("here", 0.0)
STATE.standing = REPLICA


def state_at(database: str, position: Position) -> NodeState:
    """A primary's, which has the database there."""
    state = NodeState("here", 0.0)
    state.apply(RoleEvent(1.0, is_primary=True, hostname=None, first=True))
    state.apply(PositionsRead(2.0, {database: position}))
    return state


def unvouched(position: Position) -> NodeState:
    """Of a node of which nobody says whether it follows a primary."""
    state = NodeState("here", 0.0)
    state.apply(PositionsRead(2.0, {DB: position}))
    return state


@given(st.lists(st.tuples(st.sampled_from(["add", "leave", "publish"]), st.integers(0, 20), st.sampled_from("ab"))))
def test_a_publication_wakes_exactly_those_it_satisfies(steps: list[tuple[str, int, str]]) -> None:
    """Whoever waits for that TXID or a lower one, of that database, once; and nobody else; whoever left leaves nothing."""
    waiters, model, woken = TxWaiters(), [], []
    for action, number, database in steps:
        if action == "add":
            waiter = TxWaiter(database, number, bool)
            waiter.wake = lambda result, waiter=waiter: woken.append(waiter)  # type: ignore[misc]
            waiters.add(waiter)
            model.append(waiter)
        elif action == "leave" and model:
            waiters.discard(model.pop(number % len(model)))
        elif action == "publish":
            due = [waiter for waiter in model if waiter.database == database and waiter.txid <= number]
            woken.clear()
            assert waiters.publish(database, state_at(database, Position(number))) == len(due)
            assert sorted(map(id, woken)) == sorted(map(id, due))
            assert [waiter.txid for waiter in woken] == sorted(waiter.txid for waiter in due)
            assert all(waiter.result == Position(number) for waiter in due)
            model = [waiter for waiter in model if waiter not in due]
        assert len(waiters) == len(model)
        assert waiters.databases == {waiter.database for waiter in model}


# Of the transaction that is published: here, and of another history. Of one before it, untold; and of none that is there.
SOUGHT = (Position(2, 22), Position(2, 99), Position(1, 11), 1, 2, Position(3, 33), 3)


@given(st.lists(st.sampled_from(SOUGHT), max_size=12))
def test_each_of_a_crowd_gets_what_it_would_alone(crowd: list[int | Position]) -> None:
    """However many wait for the same position, beside those of other histories, and for a TXID: on a replica of which nobody
    has said yet that it follows, a position wakes who waits for it, and nobody else."""
    waiters = TxWaiters()
    each = [TxWaiter(DB, wanted, bool) for wanted in crowd]
    for waiter in each:
        waiters.add(waiter)
    behind = state_at(DB, Position(2, 22))
    behind.met[DB] = Position(1, 11)
    for state in (unvouched(Position(2, 22)), behind, state_at(DB, Position(2, 22))):
        alone = [waiter.result or waiter.look(state) for waiter in each]
        waiters.publish(DB, state)
        assert [waiter.result for waiter in each] == alone
    assert len(waiters) == sum(waiter.result is None for waiter in each)


def test_who_has_waited_longest() -> None:
    """Is told of all together, and of those who wait yet."""
    board = Board(NodeState("here", 0.0))
    role = RoleWaiter(frozenset({Role.PRIMARY}), "", bool)
    first, second = TxWaiter(DB, 9, bool), TxWaiter("other.db", 1, bool)
    for waiter, since in ((second, 3.0), (role, 1.0), (first, 2.0)):
        waiter.since = since
        assert board.register(waiter, wait=True)
    for left, waiter in ((3, role), (2, first), (1, second)):
        assert board.counts == (left, 4.0 - left, 0)
        board.leave(waiter)
    assert board.counts == (0, None, 0)


def test_leaving_twice_or_after_the_wake_is_nothing() -> None:
    """A waiter that timed out as it was woken."""
    waiters = TxWaiters()
    first, second = TxWaiter(DB, 1, bool), TxWaiter(DB, 1, bool)
    waiters.add(first)
    waiters.add(second)
    waiters.discard(first)
    waiters.discard(first)
    assert len(waiters) == 1
    waiters.publish(DB, state_at(DB, Position(1)))
    waiters.discard(second)
    assert len(waiters) == 0
    assert waiters._queues == {}


def test_who_is_woken_is_counted_no_more() -> None:
    """Not even by itself: woken in a thread of its own, it runs on at once."""
    transactions, roles = TxWaiters(), RoleWaiters()
    seen: list[int] = []
    for txid in (1, 2, 3):
        transactions.add(TxWaiter(DB, txid, lambda _: seen.append(len(transactions))))
        roles.add(RoleWaiter(frozenset((Role.REPLICA,)), "", lambda _: seen.append(len(roles))))
    assert transactions.publish(DB, state_at(DB, Position(2))) == 2
    assert seen == [1, 1]
    transactions.close()
    assert roles.publish(STATE) == 3
    assert seen[2:] == [0, 0, 0, 0]


def test_closing_wakes_everybody_empty_handed() -> None:
    """Of each kind."""
    woken: list[str] = []
    txs, roles = TxWaiters(), RoleWaiters()
    tx_waiter, role_waiter = (
        TxWaiter(DB, 1, lambda _: woken.append("tx")),
        RoleWaiter(frozenset((Role.PRIMARY,)), "", lambda _: woken.append("role")),
    )
    txs.add(tx_waiter)
    roles.add(role_waiter)
    txs.close()
    roles.close()
    assert woken == ["tx", "role"]
    assert tx_waiter.closed
    assert tx_waiter.result is None
    assert role_waiter.closed
    assert role_waiter.result is None
    assert len(txs) == len(roles) == 0


def test_a_role_wakes_those_who_want_it() -> None:
    """And leaves the others waiting."""
    roles = RoleWaiters()
    replica, primary = RoleWaiter(frozenset((Role.REPLICA,)), "", bool), RoleWaiter(frozenset((Role.PRIMARY,)), "", bool)
    roles.add(replica)
    roles.add(primary)
    assert roles.publish(STATE) == 1
    assert replica.result == REPLICA
    assert primary.result is None
    assert len(roles) == 1


def test_one_whose_wake_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """An event loop that is closed can't be told; whoever stands behind it in the queue can."""
    waiters, roles = TxWaiters(), RoleWaiters()
    woken: list[object] = []

    def fail(result: object) -> None:
        raise RuntimeError("Event loop is closed")

    for wake in (fail, woken.append, fail, woken.append):
        waiters.add(TxWaiter(DB, 1, wake))
        roles.add(RoleWaiter(frozenset((Role.REPLICA,)), "", wake))
    with caplog.at_level(logging.ERROR):
        assert waiters.publish(DB, state_at(DB, Position(1))) == 4
        assert roles.publish(STATE) == 4
        for wake in (fail, woken.append):
            waiters.add(TxWaiter(DB, 2, wake))
        waiters.close()
    assert woken == [Position(1)] * 2 + [REPLICA] * 2 + [None]
    assert len(caplog.records) == 5
