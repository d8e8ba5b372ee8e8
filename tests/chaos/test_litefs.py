"""The same on real LiteFS: kills, frozen nodes, hand-overs, restarts and blocked replicas, while clients write and read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litefs_watch.testing import Guarantee
from tests.chaos.litefs import Real
from tests.chaos.runs import Outcome, Run, run_asgi, run_wsgi
from tests.contract.real import reason_against_real

pytestmark = pytest.mark.litefs

SECONDS = float(os.environ.get("LITEFS_WATCH_CHAOS_SECONDS", "60"))
CLIENTS = 16
OFTEN = {
    Guarantee.READ_YOUR_WRITES: 1.0,
    Guarantee.MONOTONIC_READS: 1.0,
    Guarantee.MONOTONIC_WRITES: 0.1,
    Guarantee.WRITES_FOLLOW_READS: 0.1,
}
"""How often a second each guarantee must have been put to the test."""
MANY = 10**9
"""Requests: as many as there is time for."""


@pytest.fixture(autouse=True)
def real_nodes() -> None:
    if reason := reason_against_real():
        pytest.skip(reason)


def check(outcome: Outcome) -> None:
    report = outcome.report
    assert not report.violations, str(outcome)
    assert not report.refused_but_written, str(outcome)
    assert not report.written_twice, str(outcome)
    assert not outcome.edge.loops, str(outcome)
    for guarantee, often in OFTEN.items():
        assert report.tested[guarantee] >= SECONDS * often, str(outcome)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_three_nodes(tmp_path: Path, anyio_backend: str) -> None:
    """All four guarantees, through the ASGI middleware."""
    check(await run_asgi(Real(Run(MANY, journal="delete", clients=CLIENTS), tmp_path, size=3, seconds=SECONDS)))


def test_two_nodes(tmp_path: Path) -> None:
    """All four guarantees, through the WSGI middleware."""
    check(run_wsgi(Real(Run(MANY, journal="delete", clients=CLIENTS), tmp_path, size=2, seconds=SECONDS)))
