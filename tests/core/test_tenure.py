"""Whether a node that says it is the primary can have lost its lease unawares."""

from __future__ import annotations

import pytest

from litefs_watch import Role
from litefs_watch.core.readings import DirectoryRead, Mount, Named, RoleEvent, Silence
from litefs_watch.core.state import NodeState
from litefs_watch.core.tenure import Tenure
from litefs_watch.core.waiters import PrimaryCheck

TTL = 10.0


def look(
    began: float, primary: str | None = None, *, resumed: bool = False, faults: dict[str, str] | None = None
) -> DirectoryRead:
    named = None if primary is None else Named(primary)
    lag = None if faults else 0 if primary is None else 20
    return DirectoryRead(began, Mount.LITEFS, named, lag, faults=faults or {}, resumed=resumed)


def primary(*looks: DirectoryRead) -> NodeState:
    state = NodeState("me", 0.0, TTL)
    for each in (look(1.0), look(1.1), *looks):
        state.apply(each)
    return state


def test_only_a_look_that_began_later_is_proof() -> None:
    """What was known before the question may be old by then."""
    state = primary()
    assert state.role is Role.PRIMARY
    assert state.is_sure(1.1)
    assert not state.is_sure(1.2)


@pytest.mark.parametrize(("gap", "sure"), [(1.0, True), (TTL / 2, True), (TTL / 2 + 0.1, False), (100.0, False)])
def test_who_stood_still_for_half_a_lease_is_not_believed(gap: float, sure: bool) -> None:
    """Until it has had the time to renew it: half a lease from its first look."""
    tenure = Tenure(TTL)
    tenure.look(1.0, primary=True, resumed=False)
    back = 1.0 + gap
    tenure.look(back, primary=True, resumed=False)
    assert tenure.is_sure(back) == sure
    for later, then in ((back + TTL / 2 - 0.1, sure), (back + TTL / 2, True)):
        tenure.look(later, primary=True, resumed=False)
        assert tenure.is_sure(later) == then


@pytest.mark.parametrize("streaming", [False, True])
def test_a_frozen_litefs_stood_still(streaming: bool) -> None:
    """Though this process ran, and knew nothing meanwhile: its first looks after that are not believed."""
    state = NodeState("me", 0.025, TTL)
    if streaming:
        state.apply(RoleEvent(0.9, is_primary=True, hostname=None, first=True))
    for reading in (look(1.0), look(1.1), Silence(4.1), look(1.2), look(20.0)):
        state.apply(reading)
    for began, sure in ((20.1, False), (24.9, False), (25.0, True)):
        state.apply(look(began))
        assert state.role is Role.PRIMARY
        assert state.is_sure(began) == sure
        assert state.look_again_at == (None if sure else 25.0)


def test_a_litefs_that_was_started_anew_has_a_lease_of_its_own() -> None:
    """Nobody doubts it for the time in which it was away."""
    state = primary(DirectoryRead(2.0, Mount.AWAY), DirectoryRead(19.0, Mount.AWAY), look(20.0), look(20.1))
    assert state.is_sure(20.1)


def test_a_suspended_machine_stood_still() -> None:
    """Its monotonic clock did, too."""
    state = primary(look(2.0, resumed=True))
    assert not state.is_sure(2.0)
    for began, sure in ((4.0, False), (7.1, True)):
        state.apply(look(began))
        assert state.is_sure(began) == sure


def test_who_takes_over_has_a_lease() -> None:
    """However long it stood still before."""
    state = primary(look(100.0, "other"), look(100.1, "other"), look(100.2), look(100.3))
    assert state.role is Role.PRIMARY
    assert state.is_sure(100.3)


def test_what_could_not_be_read_proves_nothing() -> None:
    """Nor does a claim that has not stayed long enough."""
    state = primary(look(2.0, faults={".primary": "Input/output error"}))
    assert state.role is Role.PRIMARY
    assert not state.is_sure(2.0)
    state = NodeState("me", 0.5, TTL)
    for each in (look(1.0), look(1.6), look(2.0, "other")):
        state.apply(each)
    assert state.role is Role.PRIMARY
    assert not state.is_sure(2.0)


def test_a_replica_is_told_at_once() -> None:
    """It has no lease to be sure of."""
    check = PrimaryCheck("app.db", bool)
    check.since = 2.0
    assert check.look(primary()) is None
    state = primary(look(2.0))
    assert check.look(state) == state.standing
    state = NodeState("me", 0.0, TTL)
    assert check.look(state) == state.standing
