"""What is concluded from other nodes' words: who has a position, and who waits for that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position, Role
from litefs_watch.core.board import Board
from litefs_watch.core.peers import DATABASES, LIMIT, NOBODY_KNOWN, Identity, Peers, PeerState, ReplicaWaiter, TxidsTold
from litefs_watch.core.readings import Reading, RoleEvent, StreamEnded, TxEvent
from litefs_watch.core.state import NodeState

OWN = Identity("A", "ours")


def board(*peers: str, own: Identity = OWN) -> Board:
    """With a peer of each name, which is its node's id, too; none is connected."""
    made = Board(NodeState("a", 0.0))
    made.peers = Peers()
    made.peers.own.identity = own
    made.peers.by_url = {name: PeerState(name) for name in peers}
    return made


def hear(made: Board, name: str | None, reading: Reading, identity: Identity = NOBODY_KNOWN) -> None:
    made.change_peers(lambda peers: peers.apply(name, reading, identity))


def connect(made: Board, name: str, node: str | None = None, cluster: str = "ours") -> None:
    hear(
        made,
        name,
        RoleEvent(1.0, is_primary=False, hostname="a", first=True),
        Identity(name if node is None else node, cluster),
    )


def say(made: Board, name: str, *positions: Position) -> None:
    *passed, last = positions
    hear(made, name, TxEvent(2.0, "app.db", last, tuple(passed)))


def count(made: Board, position: Position, own: Sequence[Position] = ()) -> int:
    """How many have it; what this node's ``own`` stream has told is forgotten afterwards."""
    assert made.peers is not None
    if own:
        hear(made, None, TxEvent(2.0, "app.db", own[-1], tuple(own[:-1])))
    counted = made.peers.count("app.db", position)
    hear(made, None, StreamEnded(3.0))
    return counted


def p(txid: int, history: int = 0) -> Position:
    """Position ``txid`` of a history."""
    return Position(txid, txid * 16 + history)


def test_a_peer_has_what_it_told_and_what_came_before_without_a_gap() -> None:
    """One that goes on has it still; another checksum is another history's; what it has not reached it has not."""
    made = board("B", "C")
    connect(made, "B")
    connect(made, "C")
    say(made, "B", p(7))
    say(made, "B", p(8), p(9))
    say(made, "C", p(8, history=1))
    assert [count(made, p(txid)) for txid in (6, 7, 8, 9, 10)] == [0, 1, 1, 1, 0]
    assert count(made, p(8, history=2)) == 0


def test_one_that_jumped_has_what_this_nodes_own_history_says() -> None:
    """Its last word is a position of ours, and so is the one asked for, before it. Else nothing tells."""
    made = board("B")
    connect(made, "B")
    say(made, "B", p(5))
    say(made, "B", p(9))
    own = [p(txid) for txid in range(5, 11)]
    assert count(made, p(7)) == 0
    assert count(made, p(7), own) == 1
    assert count(made, p(10), own) == 0
    assert count(made, p(7, history=1), own) == 0
    assert count(made, p(7), [p(txid, history=txid == 9) for txid in range(5, 11)]) == 0


def test_a_word_about_its_primary_breaks_the_history() -> None:
    """A snapshot of another primary may have the very next TXID: the one before it was another history's."""
    made = board("B")
    connect(made, "B")
    say(made, "B", p(7))
    hear(made, "B", RoleEvent(3.0, is_primary=False, hostname="c"))
    assert count(made, p(7)) == 1
    say(made, "B", p(8, history=1))
    assert count(made, p(7)) == 0
    assert count(made, p(8, history=1)) == 1


def test_what_it_had_before_it_was_away_does_not_count() -> None:
    """It may have been reset; the picture keeps what was last told."""
    made = board("B")
    connect(made, "B")
    say(made, "B", p(7))
    hear(made, "B", StreamEnded(3.0))
    assert count(made, p(7)) == 0
    assert made.peers is not None
    peer = made.peers.by_url["B"]
    assert peer.lineage("app.db") is None
    connect(made, "B")
    assert count(made, p(7)) == 0
    assert peer.positions == {"app.db": p(7)}
    assert peer.standing == (Role.REPLICA, "a")
    say(made, "B", p(8))
    assert count(made, p(7)) == 0
    assert count(made, p(7), [p(7), p(8)]) == 1


@pytest.mark.parametrize(
    ("own", "nodes", "counted"),
    [
        (OWN, [("B", "ours"), ("C", "ours")], 2),
        (OWN, [("A", "ours"), ("C", "ours")], 1),
        (OWN, [("B", "ours"), ("B", "ours")], 1),
        (OWN, [("B", "theirs"), ("C", "ours")], 1),
        (OWN, [("B", ""), ("C", "ours")], 2),
        (Identity("A"), [("B", ""), ("C", "ours")], 2),
        (OWN, [("", "ours"), ("", "ours")], 0),
        (Identity(), [("B", "ours"), ("C", "ours")], 0),
    ],
    ids=[
        "two",
        "this node itself",
        "one node twice",
        "another cluster",
        "not in its cluster yet",
        "this one not in its cluster yet",
        "no id",
        "own id unknown",
    ],
)
def test_each_node_counts_once_and_this_one_never(own: Identity, nodes: list[tuple[str, str]], counted: int) -> None:
    """By LiteFS's id: an address says nothing."""
    made = board("1", "2", own=own)
    for name, (node, cluster) in zip("12", nodes, strict=True):
        connect(made, name, node, cluster)
        say(made, name, p(7))
    assert count(made, p(7)) == counted


def wait(made: Board, position: Position, wanted: int = 1) -> tuple[ReplicaWaiter, list[int | None]]:
    assert made.peers is not None
    woken: list[int | None] = []
    waiter = ReplicaWaiter(made.peers, "app.db", position, wanted, woken.append)
    assert made.register(waiter, wait=True)
    return waiter, woken


def test_who_waits_is_woken_by_the_last_that_was_missing_and_nobody_else() -> None:
    """In one step with what the peer said; who left leaves nothing; the rest is woken empty-handed at the end."""
    made = board("B", "C")
    connect(made, "B")
    connect(made, "C")
    one, two, later = wait(made, p(7)), wait(made, p(7), 2), wait(made, p(8))
    left = wait(made, p(7), 2)
    made.leave(left[0])
    say(made, "B", p(7))
    assert (one[1], two[1], later[1]) == ([1], [], [])
    say(made, "C", p(7))
    assert (two[1], later[1], left[1]) == ([2], [], [])
    assert made.counts[0] == 1
    assert "1 of 2 other nodes had position" in (late := made.late(wait(made, p(9), 2)[0])) or "0 of 2" in late
    made.close()
    assert later[1] == [None]
    assert later[0].closed
    assert made.counts[0] == 0


def test_many_that_wait_cost_one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node says is held against all nodes once, not for each: where one of them lags, many wait, and the others go on
    speaking."""
    made = board("B", "C")
    connect(made, "B")
    connect(made, "C")
    counts: list[int] = []
    real = Peers.counting

    def counting(peers: Peers) -> dict[str, PeerState]:
        counts.append(1)
        return real(peers)

    waiting = [wait(made, p(txid), 2)[1] for txid in range(1, 101)]
    monkeypatch.setattr(Peers, "counting", counting)
    say(made, "B", *map(p, range(1, 101)))
    assert (waiting.count([]), len(counts)) == (100, 1)
    say(made, "C", *map(p, range(1, 101)))
    assert (waiting.count([2]), len(counts)) == (100, 2)


def test_who_waits_is_woken_when_this_node_learns_who_it_is() -> None:
    """Until then nobody counts: it might be itself."""
    made = board("B", own=Identity())
    connect(made, "B")
    say(made, "B", p(7))
    _, woken = wait(made, p(7))
    assert woken == []
    hear(made, None, RoleEvent(1.0, is_primary=True, hostname=None, first=True), OWN)
    assert woken == [1]


def test_a_jump_ahead_of_this_nodes_own_knowledge_counts_when_that_has_come() -> None:
    """The peer's word may be here before this node's own."""
    made = board("B")
    connect(made, "B")
    say(made, "B", p(9))
    hear(made, None, TxEvent(2.0, "app.db", p(8), (p(7),)))
    _, woken = wait(made, p(8))
    assert woken == []
    hear(made, None, TxEvent(3.0, "app.db", p(9)))
    assert woken == [1]


def test_one_whose_stream_has_just_ended_is_still_in_reach() -> None:
    """For whoever would wait for it. This node never is, nor is one twice."""
    made = board("A", "B", "C")
    connect(made, "A")
    connect(made, "B")
    connect(made, "C", node="B")
    peers = made.peers
    assert peers is not None
    assert peers.in_reach(since=0.0) == 1
    for name in "BC":
        hear(made, name, StreamEnded(5.0))
    assert [peers.in_reach(since) for since in (4.0, 6.0)] == [1, 0]


def test_a_txid_alone_counts_for_nothing() -> None:
    """It is shown until the stream tells of that database, or ends."""
    made = board("B")
    assert made.peers is not None
    peer = made.peers.by_url["B"]
    told = TxidsTold(2.0, {"app.db": 7, "other.db": 3})
    made.change_peers(lambda peers: peers.apply("B", told, NOBODY_KNOWN))
    assert peer.untold() == {}
    connect(made, "B")
    made.change_peers(lambda peers: peers.apply("B", told, NOBODY_KNOWN))
    assert (peer.untold(), peer.positions, count(made, p(7))) == ({"app.db": 7, "other.db": 3}, {}, 0)
    say(made, "B", p(8))
    assert peer.untold() == {"other.db": 3}
    hear(made, "B", StreamEnded(3.0))
    assert peer.untold() == {}


def test_what_a_peer_names_is_bounded() -> None:
    """In databases and in positions, whatever it says."""
    made = board("B")
    connect(made, "B")
    for number in range(DATABASES + 10):
        hear(made, "B", TxEvent(2.0, f"{number}.db", p(7)))
    for txid in range(1, 3 * LIMIT):
        hear(made, "B", TxEvent(2.0, "0.db", p(txid)))
    assert made.peers is not None
    peer = made.peers.by_url["B"]
    assert len(peer.positions) == DATABASES
    known = peer.lineage("0.db")
    assert known is not None
    assert len(known.checksums) <= LIMIT


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 1)),
        st.tuples(st.just("tell"), st.integers(0, 1)),
        st.tuples(st.just("reset"), st.integers(0, 1)),
        st.tuples(st.just("drop"), st.integers(0, 1)),
        st.tuples(st.just("connect"), st.integers(0, 1)),
    ),
    max_size=60,
)


@given(STEPS)
def test_nobody_is_said_to_have_what_it_has_not(steps: list[tuple[str, int]]) -> None:
    """Two peers that replicate one of two histories, are reset to the other one, come and go: whoever counts has it."""
    made = board("B", "C")
    histories: list[list[Position]] = [[p(1, number)] for number in range(2)]
    fork = iter(range(2, 10_000))
    has: dict[str, list[Position]] = dict.fromkeys("BC", histories[0][:1])
    follows = dict.fromkeys("BC", 0)
    open_streams: set[str] = set()
    for step, which in steps:
        name = "BC"[which]
        if step == "commit":
            histories[which].append(Position(len(histories[which]) + 1, next(fork)))
        elif step == "tell" and has[name] != histories[follows[name]]:
            whole = has[name] == histories[follows[name]][: len(has[name])]
            has[name] = histories[follows[name]][: len(has[name]) + 1] if whole else list(histories[follows[name]])
            if name in open_streams:
                say(made, name, has[name][-1])
        elif step == "reset":
            follows[name] = 1 - follows[name]
            if name in open_streams:
                hear(made, name, RoleEvent(3.0, is_primary=False, hostname="abc"[follows[name]]))
        elif step == "drop" and name in open_streams:
            open_streams.remove(name)
            hear(made, name, StreamEnded(4.0))
        elif step == "connect" and name not in open_streams:
            open_streams.add(name)
            connect(made, name)
        for history in histories:
            for position in history:
                truly = sum(position in has[each] for each in open_streams)
                assert count(made, position, history) <= truly
                assert count(made, position) <= truly
