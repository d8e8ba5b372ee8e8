"""Whatever goes wrong on a simulated cluster: no session's guarantee is broken, as its client sees it behind Fly's edge.

Nothing is written twice, nor although it was refused; no request goes in circles; what a fail-over has lost is said to
whoever comes back (or a guarantee is broken), and nothing else is called lost.

A run that fails prints its seed: with that in LITEFS_WATCH_CHAOS_SEED the same requests and the same faults come again, each
in the same order; how they interleave is up to the machine.
"""

from __future__ import annotations

from collections import Counter

import pytest

from litefs_watch.testing import Guarantee
from tests.chaos.driver import Driver
from tests.chaos.runs import Outcome, Run, run_asgi, run_wsgi
from tests.chaos.simulated import Simulated

REQUESTS = 3360
"""Of each run."""
RUNS = 6
"""20,160 requests."""
OFTEN = 500
"""How often each guarantee must have been put to the test, in all runs together."""

outcomes: list[Outcome] = []


def check(outcome: Outcome) -> None:
    outcomes.append(outcome)
    report = outcome.report
    assert not report.refused_but_written, str(outcome)
    assert not report.written_twice, str(outcome)
    assert not outcome.edge.loops, str(outcome)
    assert not outcome.run.record.false_alarms, str(outcome)
    assert not report.violations, str(outcome)


@pytest.mark.parametrize("run", ["first", "second"])
async def test_no_guarantee_is_broken(run: str) -> None:
    """Through the ASGI middleware, all four, with ``monotonic=True``."""
    check(await run_asgi(Simulated(Run(REQUESTS))))


def test_no_guarantee_is_broken_in_threads() -> None:
    """Through the WSGI middleware, each client in a thread."""
    check(run_wsgi(Simulated(Run(REQUESTS))))


def test_own_writes_are_read_without_monotonic() -> None:
    """That much is promised by default."""
    check(run_wsgi(Simulated(Run(REQUESTS, monotonic=False))))


def put_to_the_test() -> Counter[str]:
    counts = Counter({str(name): 0 for name in Guarantee})
    for outcome in outcomes:
        counts.update(outcome.report.tested)
    return counts


def test_all_was_put_to_the_test() -> None:
    """Each guarantee often enough, and each fault took place: or the runs above say nothing. On a busy machine it takes some
    runs more: what waits too long is refused, and tests nothing."""
    if len(outcomes) < RUNS:
        pytest.skip(f"{len(outcomes)} of {RUNS} runs took place")
    while min(put_to_the_test().values()) < OFTEN and len(outcomes) < 2 * RUNS:
        check(run_wsgi(Simulated(Run(REQUESTS))))
    assert min(put_to_the_test().values()) >= OFTEN, put_to_the_test()
    missing = [outcome.driver.missing for outcome in outcomes if isinstance(outcome.driver, Driver)]
    assert not set.intersection(*missing)
