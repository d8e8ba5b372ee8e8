"""Whatever goes wrong on a simulated cluster: no session's guarantee is broken, as its client sees it behind Fly's edge.

A run that fails prints its seed: with that in LITEFS_WATCH_CHAOS_SEED the same requests and the same faults come again, each
in the same order; how they interleave is up to the machine.
"""

from __future__ import annotations

import pytest

from tests.chaos.driver import Driver
from tests.chaos.runs import Outcome, Run, run_asgi, run_wsgi
from tests.chaos.simulated import Simulated

REQUESTS = 3360
"""Of each run; six of them are 20,160."""
OFTEN = 170
"""How often each guarantee must have been put to the test in a run: three of them promise all four, so over 500 in all."""

naming_histories = pytest.mark.xfail(raises=AssertionError, reason="a token is a TXID, which names no history", strict=True)
variants = pytest.mark.parametrize("monotonic", [True, False], ids=["monotonic", "own writes"])


def check(outcome: Outcome) -> None:
    report = outcome.report
    assert not report.violations, str(outcome)
    assert not report.refused_but_written, str(outcome)
    assert not report.written_twice, str(outcome)
    assert not outcome.edge.loops, str(outcome)
    assert min(report.tested.values()) >= OFTEN, str(outcome)
    assert isinstance(outcome.driver, Driver)
    assert not outcome.driver.missing, str(outcome)


@naming_histories
@variants
async def test_no_guarantee_is_broken(monotonic: bool) -> None:
    """Through the ASGI middleware: all four with ``monotonic=True``, read your writes without."""
    check(await run_asgi(Simulated(Run(REQUESTS, monotonic=monotonic))))


@naming_histories
@variants
def test_no_guarantee_is_broken_in_threads(monotonic: bool) -> None:
    """The same through the WSGI middleware, each client in a thread."""
    check(run_wsgi(Simulated(Run(REQUESTS, monotonic=monotonic))))
