"""More requests at once than may wait by default, under WSGI: what becomes of those that are too many."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from litefs_watch import BlockingWatcher, Role
from litefs_watch.consistency import Hold, OptionKeywords, Options, Refuse, Wait
from litefs_watch.consistency.exchange import HURRIED
from litefs_watch.testing import SimulatedNode
from litefs_watch.web.budget import HAND_OVER, SPARE, Budget
from litefs_watch.web.waiting import AsyncGate, BlockingGate
from litefs_watch.wsgi import LiteFSMiddleware
from tests.wsgi.test_forward import Reply

SOON = 10.0
THREADS = 8


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode(hostname="node-b", primary="node-a") as node:
        node.commit()
        yield node


@pytest.fixture
def watcher(node: SimulatedNode) -> Iterator[BlockingWatcher]:
    """Of a replica."""
    with BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        watcher.wait_for_tx(node.position(), timeout=SOON)
        yield watcher


def busy(budget: Budget, threads: int) -> Budget:
    """One whose process was seen to serve so many at once."""
    with ExitStack() as stack:
        for _ in range(threads):
            stack.enter_context(budget.crowd)
    return budget


def ok(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return []


@pytest.mark.parametrize(
    ("options", "threads", "leaderless", "held"),
    [
        ({}, 8, 0.5, [math.inf] * 3 + [HAND_OVER - 0.5] * 3 + [0.0] * 2),
        ({}, 8, HAND_OVER + 1, [math.inf] * 3 + [0.0] * 5),
        ({}, 8, math.inf, [math.inf] * 3 + [0.0] * 5),
        ({}, 4, 0.5, [math.inf] * 3 + [0.0] * 5),
        ({"max_held": 1}, 8, 0.5, [math.inf] + [0.0] * 7),
        ({"max_waiting": 2}, 8, 0.5, [math.inf] * 2 + [0.0] * 6),
    ],
)
def test_a_hand_over_may_take_all_threads_but_two(
    options: OptionKeywords, threads: int, leaderless: float, held: list[float]
) -> None:
    """Of those that were seen, and for as long as a planned one lasts; not beyond a number that was chosen."""
    budget = busy(Budget(Options(**options), BlockingGate.DEFAULT_BUDGET), threads)
    with ExitStack() as stack:
        for seconds in held:
            assert budget.hold_for(leaderless) == seconds
            stack.enter_context(budget.spent_on(Hold(5.0)))


def test_under_asgi_no_number_gives() -> None:
    """There none takes a thread, and a thousand are many."""
    budget = busy(Budget(Options(secret="tests"), AsyncGate.DEFAULT_BUDGET), 5000)
    assert not budget.hurries
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(budget.spent_on(Hold(5.0)))
        assert budget.hold_for(0.0) == 0.0


def test_eight_writes_in_a_hand_over(node: SimulatedNode, watcher: BlockingWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has served eight requests at once holds six of eight writes, and sends them on when it knows where to;
    two threads are free all the time."""
    monkeypatch.setattr("litefs_watch.web.budget.HAND_OVER", 60.0)
    together = threading.Barrier(THREADS, timeout=SOON)

    def handler(environ: Any, start_response: Any) -> Any:
        together.wait()
        return ok(environ, start_response)

    app = LiteFSMiddleware(handler, watcher, hold_writes=60.0)
    budget = app._gate.budget
    gets = [threading.Thread(target=Reply, args=(app, "GET", "/")) for _ in range(THREADS)]
    for get in gets:
        get.start()
    for get in gets:
        get.join(SOON)
    statuses: list[str] = []
    posts = [threading.Thread(target=lambda: statuses.append(Reply(app, "POST", "/").status)) for _ in range(THREADS)]
    node.lose_primary()
    watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
    for number, post in enumerate(posts, 1):
        post.start()
        while budget.held + len(statuses) < number:
            pass
    assert (budget.held, len(statuses)) == (THREADS - SPARE, SPARE)
    node.set_primary("node-c")
    for post in posts:
        post.join(SOON)
    assert Counter(status[:3] for status in statuses) == {"409": THREADS - SPARE, "503": SPARE}


@pytest.mark.parametrize(
    ("options", "places", "part"),
    [({"secret": "tests"}, 4, HURRIED), ({}, 2, None), ({"secret": "tests", "max_waiting": 4}, 4, None)],
)
def test_a_read_that_is_one_too_many(
    watcher: BlockingWatcher, options: OptionKeywords, places: int, part: float | None
) -> None:
    """Where nobody can make up a token it waits for a tenth of the time, in which most come; else not at all, and the log
    says which option that is about."""
    given: OptionKeywords = {"timeout": 2.0, "on_timeout": "error"}
    gate = LiteFSMiddleware(ok, watcher, **(given | options))._gate
    assert isinstance(gate, BlockingGate)
    txid = watcher.tx_number() + 1
    cookie = f"litefs_pos={gate.policy.options.tokens('app.db').encode(txid)}".encode()
    exchange = gate.policy.begin("GET", "/", [(b"cookie", cookie)])
    assert exchange is not None
    with ExitStack() as stack:
        for _ in range(places):
            assert gate.policy.decide(exchange, gate.node(exchange)) == Wait(txid, 2.0)
            stack.enter_context(gate.budget.spent_on(Wait(txid, 2.0)))
        action = gate.policy.decide(exchange, gate.node(exchange))
    if part is not None:
        assert action == Wait(txid, 2.0 * part)
    else:
        assert isinstance(action, Refuse)
        assert "max_waiting" in action.detail
