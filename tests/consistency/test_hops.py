"""What travels with a replay: hops are counted, and what anybody makes up only ever costs hops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch.changes import Role
from litefs_watch.consistency import Hold, Node, Options, Policy, Refuse, Replay
from litefs_watch.consistency.hops import FAILED, FORWARDED, MOST_HOPS, REPLAYED, Hops, Trail
from litefs_watch.errors import NotPrimary, WrongInstance

Headers = Sequence[tuple[bytes, bytes]]

PLAIN, SIGNED, OTHER = Hops(), Hops([b"new", b"old"]), Hops([b"another"])
NO_MORE = Trail(MOST_HOPS)


def source(state: str = "", sender: str = "node-c") -> tuple[bytes, bytes]:
    """As Fly's edge has it."""
    return REPLAYED, f"instance={sender};region=ams;t=1{';state=' if state else ''}{state}".encode()


def trail(hops: int, waited: float = 0.0, *senders: str) -> Trail:
    return Trail(hops, waited, frozenset(senders or ("node-c",)))


READ: dict[str, tuple[Headers, Trail]] = {
    "nothing": ([(b"cookie", b"a=b")], Trail()),
    "the first hop": ([source()], trail(1)),
    "somebody else's state": ([source("tenant-7")], trail(1)),
    "spaces": ([(REPLAYED, b" t=1 ; instance = node-c ; state = litefs.2.0 ")], trail(2)),
    "waited": ([source("litefs.1.13")], trail(1, 1.3)),
    "the last": ([source("litefs.3.0")], trail(3)),
    "forwarded": ([(FORWARDED, b"node-c")], trail(1)),
    "forwarded on": ([(FORWARDED, b"node-c;state=litefs.2.7")], trail(2, 0.7)),
    "both": ([source("litefs.2.9"), (FORWARDED, b"node-d;state=litefs.1.4")], trail(2, 0.9, "node-c", "node-d")),
    "signed, and no secret here": ([source(SIGNED.state(2, 0))], trail(2)),
    "failed": ([(FAILED, b"instance=node-c;reason=timeout;elapsed_ms=1"), source()], trail(3)),
    "negative": ([source("litefs.-1.0")], trail(3)),
    "zero": ([source("litefs.0.0")], trail(3)),
    "one too many": ([source("litefs.4.0")], trail(3)),
    "2^64": ([source("litefs.18446744073709551616.0")], trail(3)),
    "waited for 2^64": ([source("litefs.1.18446744073709551616")], trail(3)),
    "waited for less than nothing": ([source("litefs.1.-50")], trail(3)),
    "another script's digits": ([(REPLAYED, "instance=node-c;state=litefs.\u0661.0".encode())], trail(3)),
    "junk": ([source("litefs.\xff\x00")], trail(3)),
    "two states": ([(REPLAYED, b"instance=node-c;state=litefs.1.0;state=litefs.1.0")], NO_MORE),
    "two senders": ([(REPLAYED, b"instance=node-c;instance=node-d")], NO_MORE),
    "two headers": ([source(), source(sender="node-d")], trail(3)),
    "two headers that a server has joined": ([(REPLAYED, b"instance=node-c,instance=node-d")], NO_MORE),
    "two that were joined elsewhere": ([(REPLAYED, b"instance=node-c;t=1,instance=node-d")], NO_MORE),
    "no sender": ([(REPLAYED, b"region=ams;t=1;state=litefs.1.0")], NO_MORE),
    "an empty one": ([(REPLAYED, b"")], NO_MORE),
    "a sender that is none": ([(FORWARDED, b"instance=node-c")], NO_MORE),
    "this very node": ([source(sender="node-a")], NO_MORE),
    "forwarded by this very node": ([(FORWARDED, b"node-a;state=litefs.1.0")], NO_MORE),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str) -> None:
    """A count, and who has sent it; what is not understood has no hop left."""
    headers, expected = READ[name]
    assert PLAIN.read(headers, "node-a") == expected


def test_what_is_written_is_read() -> None:
    """By those who have one of the secrets; the first hop of what has not waited needs no word."""
    assert PLAIN.state(1, 0.49) == SIGNED.state(1, 0) == ""
    assert PLAIN.state(1, 0.5) == "litefs.1.5"
    assert PLAIN.state(2, 0) == "litefs.2.0"
    assert PLAIN.read([source(PLAIN.state(3, 2e6))], "node-a") == trail(3, 999.9)
    for hops in (Hops([b"new"]), Hops([b"old"])):
        assert SIGNED.read([source(hops.state(2, 1.26))], "node-a") == trail(2, 1.3)
    assert SIGNED.read([source()], "node-a") == trail(1)
    for forged in (PLAIN.state(2, 0), OTHER.state(2, 0), SIGNED.state(2, 0).replace(".2.", ".1."), SIGNED.state(2, 0)[:-1]):
        assert SIGNED.read([source(forged)], "node-a") == trail(3)


@given(
    st.lists(st.tuples(st.sampled_from([REPLAYED, FORWARDED, FAILED, b"x"]), st.binary(max_size=80)), max_size=4),
    st.sampled_from([PLAIN, SIGNED]),
)
def test_no_bytes_give_a_hop_back(headers: Headers, hops: Hops) -> None:
    """Whatever they are: with one of the headers it is one hop at least, and never one of no sender."""
    seen = hops.read(headers, "node-a")
    assert (seen.hops == 0) is all(name == b"x" for name, _ in headers)
    assert 0 <= seen.hops <= MOST_HOPS
    assert seen.waited >= 0
    assert seen.senders or seen.hops in (0, MOST_HOPS)


def node(role: Role = Role.REPLICA, primary: str | None = "node-b", hostname: str = "node-a", *, holds: bool = True) -> Node:
    return Node(role, primary, hostname, None, lambda token: None, holds=holds)


UNKNOWN = node(Role.UNKNOWN, None)
UNDECIDED = (Hold, 5.0)

DECIDED: dict[str, tuple[Headers, Node, object]] = {
    "a client's": ([], node(), ("node-b", "")),
    "sent on": ([source()], node(), ("node-b", "litefs.2.0")),
    "and on": ([source("litefs.2.8")], node(), ("node-b", "litefs.3.8")),
    "and no further": ([source("litefs.3.0")], node(), Refuse),
    "not back": ([source(sender="node-b")], node(), Refuse),
    "not back to who forwarded it": ([(FORWARDED, b"node-b"), source()], node(), Refuse),
    "not to itself": ([], node(primary="node-a"), Refuse),
    "held": ([], UNKNOWN, UNDECIDED),
    "sent here, and held": ([source()], UNKNOWN, UNDECIDED),
    "held elsewhere": ([source("litefs.1.20")], UNKNOWN, (Hold, 3.0)),
    "held elsewhere for long enough": ([source("litefs.1.50")], UNKNOWN, Refuse),
    "too many are held": ([source()], node(Role.UNKNOWN, None, holds=False), Refuse),
    "an election, and no hop left": ([source("litefs.3.0")], UNKNOWN, UNDECIDED),
}


@pytest.mark.parametrize("name", DECIDED)
def test_what_is_decided(name: str) -> None:
    """A write waits only while no primary is known; else it goes on by a counted hop, or is refused."""
    headers, here, expected = DECIDED[name]
    exchange = (policy := Policy(Options())).begin("POST", "/", headers)
    assert exchange is not None
    action = policy.decide(exchange, here)
    if isinstance(action, Replay):
        assert (action.hostname, action.state) == expected
    elif isinstance(action, Hold):
        assert (Hold, action.timeout) == expected
    else:
        assert type(action) is expected


@pytest.mark.parametrize("error", [None, NotPrimary("node-b"), NotPrimary("node-c")])
def test_after_a_hold_it_may_go_back(error: Exception | None) -> None:
    """To the sender, which has been named as the primary since; once, and with what it has waited."""
    exchange = (policy := Policy(Options())).begin("POST", "/", [source("litefs.1.4", sender="node-b")])
    assert exchange is not None
    assert isinstance(policy.decide(exchange, UNKNOWN), Hold)
    exchange.held, exchange.held_for = True, 1.1
    action = policy.failed(exchange, node(), error) if error is not None else policy.decide(exchange, node())
    assert action == Replay("node-b", 2, "litefs.2.15")
    assert isinstance(policy.decide(exchange, UNKNOWN), Refuse)  # it is not held twice


@pytest.mark.parametrize("asks", ["node-c", "node-a", "node-x"])
def test_an_instance_is_chosen_once(asks: str) -> None:
    """By a handler: where that is not the primary's matter, whoever was sent on stays where it is."""
    exchange = (policy := Policy(Options())).begin("GET", "/", [source()])
    assert exchange is not None
    assert isinstance(policy.failed(exchange, node(), WrongInstance(asks)), Refuse)


@pytest.mark.parametrize("secret", [None, "k"])
@pytest.mark.parametrize("beliefs", [{"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "a"}, {"a": "a"}, {"a": "b", "b": "b"}])
def test_nodes_that_are_all_wrong_end(beliefs: dict[str, str], secret: str | None) -> None:
    """However they believe in each other, and whether Fly's edge sends it on or they do, by turns: at most three hops, none
    to where it comes from, and then it is refused."""
    for forwards in range(8):
        policy, here, headers, way = Policy(Options(secret=secret)), "a", list[tuple[bytes, bytes]](), ["a"]
        while len(way) <= MOST_HOPS + 1:
            exchange = policy.begin("POST", "/", headers)
            assert exchange is not None
            action = policy.decide(exchange, node(primary=beliefs[here], hostname=here))
            if not isinstance(action, Replay):
                break
            if forwards >> len(way) - 1 & 1:
                sent = f"{here};state={action.state}" if action.state else here
                headers = [pair for pair in headers if pair[0] != FORWARDED] + [(FORWARDED, sent.encode())]
            else:
                headers = [source(action.state, here)]  # the edge has the client's request, and its own header
            here = action.hostname
            way.append(here)
        assert isinstance(action, Refuse)
        assert len(way) <= MOST_HOPS + 1
        assert all(way[index] != way[index + 2] for index in range(len(way) - 2))
        assert all(one != next_one for one, next_one in pairwise(way))
