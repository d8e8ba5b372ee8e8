"""What a client can't do: have the threads of a healthy node wait; nor, in an election, all of them."""

from __future__ import annotations

import http.client
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from litefs_watch import BlockingWatcher, Role
from litefs_watch.consistency import RUN, Confirm, Exchange, Hold, OptionKeywords, Options, Replay, Wait
from litefs_watch.testing import SimulatedNode
from litefs_watch.web.budget import Budget
from litefs_watch.web.waiting import AsyncGate, BlockingGate
from tests.servers import serve

SOON = 10.0
THREADS = 8
"""Of `tests.servers`' gunicorn."""


@pytest.fixture(scope="module")
def replica() -> Iterator[tuple[SimulatedNode, int]]:
    with SimulatedNode(hostname="node-b", primary="node-a") as node:
        environment = {
            "LITEFS_DIR": str(node.litefs_dir),
            "DATABASE_FILENAME": "app.db",
            "LITEFS_API_URL": str(node.api_url),
            "FLY_MACHINE_ID": node.hostname,
        }
        with serve("gunicorn", "tests.waiting_app:app", **environment) as port:
            while ask(port, "POST", "/") != 409:  # until its watcher knows
                pass
            yield node, port


def ask(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


class Attack:
    """Requests on connections of their own, all at once."""

    def __init__(self, port: int, method: str, *headers: str) -> None:
        self._waiting = selectors.DefaultSelector()
        for header in headers:
            sock = socket.create_connection(("127.0.0.1", port), SOON)
            sock.sendall(f"{method} / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{header}\r\n\r\n".encode())
            self._waiting.register(sock, selectors.EVENT_READ)

    def __len__(self) -> int:
        """How many have no answer."""
        return len(self._waiting.get_map())

    def answered(self, number: int) -> Counter[int]:
        """The statuses of so many of them. Raises `TimeoutError` where no more come."""
        statuses: Counter[int] = Counter()
        while statuses.total() < number:
            ready = self._waiting.select(SOON)
            if not ready:
                raise TimeoutError(f"{statuses} of {number}")
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                self._waiting.unregister(key.fileobj)
                with key.fileobj as sock:
                    statuses[int(sock.recv(12)[9:])] += 1
        return statuses

    def close(self) -> None:
        for key in list(self._waiting.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._waiting.close()


def test_nobody_waits_for_a_primary_on_a_healthy_replica(replica: tuple[SimulatedNode, int]) -> None:
    """Whatever he says of where he comes from: ten connections have their answers, and none of them is a wait."""
    _, port = replica
    forged = ["fly-replay-src: instance=node-a", "fly-replay-src: x", "fly-replay-failed: x", "litefs-forwarded: node-a"]
    attack = Attack(port, "POST", *forged, "fly-replay-src: instance=x", "litefs-forwarded: x;state=litefs.1.0", *forged)
    try:
        assert attack.answered(10) == {503: 8, 409: 2}
        assert ask(port, "GET", "/healthz") == 200
    finally:
        attack.close()


def test_reads_that_wait_leave_threads_free(replica: tuple[SimulatedNode, int]) -> None:
    """Eight that have seen what this replica has not, or say so: a quarter of them wait, the others go to the primary."""
    node, port = replica
    attack = Attack(port, "GET", *["litefs-txid: 0000000000000063"] * THREADS)
    try:
        assert attack.answered(THREADS - 2) == {409: THREADS - 2}
        assert ask(port, "GET", "/healthz") == 200
        assert len(attack) == 2
        node.commit(txid=0x63)
        assert attack.answered(2) == {200: 2}
    finally:
        attack.close()


def test_writes_that_are_held_leave_most_threads_free(replica: tuple[SimulatedNode, int]) -> None:
    """In an election, eight of them, and eight reads: what needs no primary is answered at once."""
    node, port = replica
    node.lose_primary()
    while ask(port, "GET", "/healthz") != 200 or not is_undecided(port):
        pass
    attack = Attack(port, "POST", *["content-length: 0"] * THREADS)
    reads = Attack(port, "GET", *["litefs-txid: 0000000000001000"] * THREADS)
    try:
        assert attack.answered(THREADS - 3) == {503: THREADS - 3}
        assert reads.answered(THREADS - 2) == {503: THREADS - 2}
        assert ask(port, "GET", "/healthz") == 200
        assert (len(attack), len(reads)) == (3, 2)
        node.become_primary()
        assert attack.answered(3) == {200: 3}
    finally:
        attack.close()
        reads.close()


@pytest.mark.parametrize(
    ("options", "waiting", "looking", "held"),
    [
        ({}, 2, 4, 3),
        ({"secret": "tests"}, 4, 4, 3),
        ({"max_waiting": 5}, 5, 5, 5),
        ({"max_held": 1}, 2, 4, 1),
        ({"secret": "tests", "max_waiting": 1, "max_held": 2}, 1, 1, 2),
    ],
)
def test_more_may_wait_whose_tokens_are_signed(options: OptionKeywords, waiting: int, looking: int, held: int) -> None:
    """Nobody can make those up; what is chosen is what counts; and none of the three takes another's places."""
    budget = Budget(Options(**options), BlockingGate.DEFAULT_BUDGET)
    with ExitStack() as stack:
        for number in range(6):
            assert (budget.room, budget.looks, budget.holds) == (number < waiting, number < looking, number < held)
            for action in (Wait(1, 0.5), Confirm(5.0), Hold(5.0)):
                stack.enter_context(budget.spent_on(action))
    assert (budget.waiting, budget.looking, budget.held) == (0, 0, 0)


def test_waits_in_vain_take_an_eighth_of_a_thread() -> None:
    """Where anybody can make up what he waits for. Of a server that has one thread, two such waits at once would take all
    the time."""
    budget = Budget(Options(), BlockingGate.DEFAULT_BUDGET)
    full, hurried, none = (True, False), (True, True), (False, False)
    taken, now = 0.0, 1000.0
    seen = []
    while now < 1100.0:
        waits = budget.places(Role.REPLICA, 1.0, now)[:2]
        seen.append(waits)
        seconds = {full: 0.5, hurried: 0.05, none: 0.0}[waits]
        taken, now = taken + seconds, now + seconds + 0.01
        budget.spend_in_vain(seconds, now)
    assert seen[:4] == [full, full, full, hurried]
    assert none in seen
    assert full not in seen[3:]
    assert taken < 100.0 / 8 + 2.5
    assert budget.places(Role.REPLICA, 1.0, now + 8.0)[:2] == hurried
    assert budget.places(Role.REPLICA, 1.0, now + 17.0)[:2] == full


@pytest.mark.parametrize("options", [{"secret": "tests"}, {"max_waiting": 2}])
def test_no_wait_in_vain_counts_where(options: OptionKeywords) -> None:
    """Tokens are signed, or a number was chosen; nor under ASGI, where none takes a thread."""
    for budget in (
        Budget(Options(**options), BlockingGate.DEFAULT_BUDGET),
        Budget(Options(), AsyncGate.DEFAULT_BUDGET),
    ):
        budget.spend_in_vain(3600.0, 1000.0)
        assert budget.places(Role.REPLICA, 1.0, 1000.0)[:2] == (True, False)


def test_only_what_has_not_come_was_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for what comes takes nothing from those after it."""
    monkeypatch.setattr("litefs_watch.web.budget.IN_VAIN", 1e-9)
    monkeypatch.setattr("litefs_watch.web.budget.IN_VAIN_SHARE", 0.0)
    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=SOON)
        first = watcher.wait_for_tx(node.commit(), timeout=SOON).txid

        patient = BlockingGate(watcher, None, Options(timeout=SOON))

        def commit() -> None:
            while patient.budget.waiting == 0:
                pass
            node.commit()

        thread = threading.Thread(target=commit)
        thread.start()
        assert patient.enter(reading(patient, first + 1)) is RUN
        thread.join(SOON)
        assert patient.budget.in_vain(0.0) == 0.0

        gate = BlockingGate(watcher, None, Options(timeout=0.01))
        late = reading(gate, first + 2)
        assert gate.policy.decide(late, gate.node(late)) == Wait(first + 2, 0.01)
        assert isinstance(gate.enter(late), Replay)
        assert gate.budget.in_vain(0.0) > 0.0
        later = reading(gate, first + 2)
        assert isinstance(gate.policy.decide(later, gate.node(later)), Replay)


def reading(gate: BlockingGate, txid: int) -> Exchange:
    """A read of a client that says that it has seen that."""
    exchange = gate.policy.begin("GET", "/", [(b"litefs-txid", b"%016x" % txid)])
    assert exchange is not None
    return exchange


def is_undecided(port: int) -> bool:
    """Whether its watcher has heard of the election: a write that has waited elsewhere for long enough is refused then."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
    try:
        connection.request("POST", "/", headers={"fly-replay-src": "instance=node-x;state=litefs.1.9999"})
        return connection.getresponse().status == 503
    finally:
        connection.close()
