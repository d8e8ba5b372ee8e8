from __future__ import annotations

import gc
import weakref
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position, PrimaryChange, Role, TxChange
from litefs_watch.core.subscriptions import ChangeQueue, Subscriptions

DB = "app.db"


def tx(txid: int, previous: int | None = None, database: str = DB) -> TxChange:
    return TxChange(database, Position(txid), None if previous is None else Position(previous))


def role(number: int) -> PrimaryChange:
    return PrimaryChange(Role.REPLICA, f"node-{number}", Role.UNKNOWN, None)


def queue() -> ChangeQueue[TxChange | PrimaryChange]:
    return ChangeQueue((TxChange, PrimaryChange), lambda: None)


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
    """A coalesced transaction stands where the first of them stood."""
    changes = queue()
    for change in (tx(1, None), role(1), tx(2, 1), role(2), role(3)):
        changes.put(change)
    assert drain(changes) == [tx(2, None), role(1), role(2), role(3)]


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


def test_the_busiest_database_keeps_its_turn() -> None:
    """A subscriber that takes one change for each ten of them sees it: else it would always stand last."""
    changes = queue()
    seen: list[str] = []
    for number in range(1, 100):
        for other in range(9):
            changes.put(tx(number, number - 1, f"{other}.db"))
        changes.put(tx(number, number - 1, "busy.db"))
        change = changes.take()
        assert isinstance(change, TxChange)
        seen.append(change.database)
    assert seen.count("busy.db") == 9


def test_a_dropped_queue_is_gone() -> None:
    """A loop that was left with ``break`` does not collect changes for ever."""
    subscriptions, one = Subscriptions(), queue()
    subscriptions.add(one)
    assert len(subscriptions) == 1
    reference = weakref.ref(one)
    del one
    gc.collect()
    assert reference() is None
    assert len(subscriptions) == 0


def test_a_subscriber_whose_wake_fails_harms_nobody_else() -> None:
    """It is logged, and the next one is told."""
    subscriptions = Subscriptions()

    def fail() -> None:
        raise RuntimeError("Event loop is closed")

    queues: list[ChangeQueue[TxChange]] = [ChangeQueue((TxChange,), wake) for wake in (fail, bool, fail, bool)]
    for each in queues:
        subscriptions.add(each)
    subscriptions.publish(tx(1))
    subscriptions.publish(role(1))
    assert [len(each) for each in queues] == [1] * 4
    subscriptions.close()
    assert all(each.closed for each in queues)
