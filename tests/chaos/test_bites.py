"""The chaos finds what it looks for: clients that do not keep what they are given break the guarantees, and it says so."""

from __future__ import annotations

from collections import Counter

import pytest

from litefs_watch.testing import Guarantee
from tests.chaos.client import TOKEN_HEADER, Client, Forgetful, Session
from tests.chaos.faults import LOSING
from tests.chaos.http import Response
from tests.chaos.runs import Outcome, Run, run_asgi, run_wsgi
from tests.chaos.simulated import Simulated

REQUESTS = 960
FOUND = 5
"""Violations, at least, of each guarantee that is broken."""
RUNS = 4
"""In so many runs together, at most: what a run loses, and who sees it, is chance."""


class OneBehind(Client):
    """Its tokens are always those that it was given before the last one."""

    _given: tuple[dict[str, str], str | None] = ({}, None)

    def keep(self, session: Session, response: Response) -> None:
        if not (response.all("set-cookie") or response.header(TOKEN_HEADER)):
            return
        newest = Session(session.name, session.by_header)
        newest.keep(response)
        (session.cookies, session.header), self._given = self._given, (newest.cookies, newest.header)


class DeletedOnArrival(Client):
    """Its token is gone with the first read that another node than the one which gave it has answered."""

    giver: str | None = None

    def keep(self, session: Session, response: Response) -> None:
        super().keep(session, response)
        node = response.header("x-node")
        if response.all("set-cookie"):
            self.giver = node
        elif response.status == 200 and node != self.giver:
            session.cookies.clear()
            session.header = None


class Findings:
    """What some runs have found together, until that is enough of each of ``guarantees``."""

    def __init__(self, *guarantees: Guarantee) -> None:
        self._counts = Counter(dict.fromkeys(guarantees, 0))
        self._outcomes: list[str] = []

    def add(self, outcome: Outcome) -> bool:
        """Whether it is enough."""
        self._outcomes.append(str(outcome))
        self._counts.update(each.guarantee for each in outcome.report.violations if each.guarantee in self._counts)
        return min(self._counts.values()) >= FOUND

    def check(self) -> None:
        assert min(self._counts.values()) >= FOUND, "\n".join(self._outcomes)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it is the chaos that is tested
@pytest.mark.parametrize("client", [Forgetful, OneBehind, DeletedOnArrival])
async def test_who_keeps_no_good_token_reads_old_data(client: type[Client], anyio_backend: str) -> None:
    """Though nothing was lost."""
    findings = Findings(Guarantee.READ_YOUR_WRITES)
    for _ in range(RUNS):
        run = Run(REQUESTS, monotonic=False, client=client, clients=4, left_out=LOSING)
        if findings.add(await run_asgi(Simulated(run))):
            break
    findings.check()


def test_in_threads() -> None:
    """It does not depend on the middleware."""
    findings = Findings(Guarantee.READ_YOUR_WRITES, Guarantee.MONOTONIC_READS)
    for _ in range(RUNS):
        if findings.add(run_wsgi(Simulated(Run(REQUESTS, client=Forgetful, left_out=LOSING)))):
            break
    findings.check()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_client_without_tokens_misses_what_is_lost(anyio_backend: str) -> None:
    """All four guarantees are broken where transactions are lost and nobody is told."""
    findings = Findings(*Guarantee)
    for _ in range(RUNS):
        if findings.add(await run_asgi(Simulated(Run(REQUESTS, client=Forgetful)))):
            break
    findings.check()
