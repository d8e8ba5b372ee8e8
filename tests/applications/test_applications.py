"""Wagtail, Datasette and MLflow behind the middleware, as their users will have them: nothing stale, nothing lost."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from litefs_watch.testing import Operation, SimulatedCluster, check_sessions, fuse_available
from litefs_watch.testing.sessions import Answer
from tests.applications.sites import Application, Datasette, MLflow, Visitor, Wagtail, python_with

ROUNDS = 50
HOSTS = ("node-a", "node-b")
LAG = 0.15
REFUSED = 3
"""Writes in a row that may be answered with 503: the nodes disagree for a moment, and for longer on a busy machine."""


@pytest.mark.applications
@pytest.mark.parametrize("kind", [Datasette, Wagtail, MLflow], ids=lambda kind: kind.package)
def test_it_reads_its_own_writes(kind: type[Application], tmp_path: Path) -> None:
    """Fifty writes, at both nodes in turn, and as many reads at each, with a hand-over in the middle: none is stale, none
    fails. The same application without the middleware, asked at the same moments, is."""
    python = python_with(kind.package)
    if python is None:
        pytest.skip(f"{kind.package} is not installed: APPLICATIONS")
    if reason := fuse_available():
        pytest.skip(reason)
    application = kind(python, tmp_path)
    with ExitStack() as stack:
        cluster = stack.enter_context(SimulatedCluster(hostnames=HOSTS, lag=0.01, fuse=True))
        application.prepare(application.environment(cluster.primary))
        cluster.wait_until_replicated()
        cluster.lag = LAG
        ports = {host: stack.enter_context(application.served(cluster[host])) for host in HOSTS}
        bare = stack.enter_context(application.served(cluster[HOSTS[1]], bare=True))
        history, stale, stale_without = rounds(application, cluster, Visitor(ports), bare)
        with closing(cluster.connect()) as connection:
            log = [name for (name,) in connection.execute(application.log)]
    assert stale == 0
    assert stale_without > ROUNDS // 4
    report = check_sessions(history, log)
    assert report.ok, report
    assert not report.lost, report
    assert report.tested["read your writes"] >= ROUNDS // 2


def rounds(
    application: Application, cluster: SimulatedCluster, visitor: Visitor, bare: int
) -> tuple[list[Operation], int, int]:
    """What the visitor did; how many of its reads missed its last write; and how many of those on ``bare`` did, a replica's
    port during the first half."""
    history: list[Operation] = []
    stale = stale_without = 0
    handing_over = threading.Thread(target=cluster.hand_over, args=(HOSTS[1],))
    application.enter(visitor, HOSTS[1])
    for number in range(ROUNDS):
        if number == ROUNDS // 2:
            handing_over.start()
        name = write(application, visitor, number, history)
        if number < ROUNDS // 2:
            stale_without += name not in application.read(Visitor({"": bare}), "")
        for host in HOSTS:
            began = time.monotonic()
            seen = application.read(visitor, host)
            history.append(Operation("visitor", began, time.monotonic(), read=seen, node=host))
            stale += name not in seen
    handing_over.join()
    assert cluster.primary.hostname == HOSTS[1]
    return history, stale, stale_without


def write(application: Application, visitor: Visitor, number: int, history: list[Operation]) -> str:
    """Write until it is not refused. Returns the id that was written. Raises `AssertionError` for a wrong answer."""
    for attempt in range(1 + REFUSED):
        name, began = f"note {number}.{attempt}", time.monotonic()
        reply = application.write(visitor, HOSTS[number % 2], name)
        answer: Answer = "refused" if reply.status == 503 else "ok"
        history.append(Operation("visitor", began, time.monotonic(), written=name, answer=answer))
        if answer == "ok":
            assert reply.status < 400, reply.text
            assert '"ok": false' not in reply.text, reply.text  # as Datasette has it
            return name
    raise AssertionError(f"refused {REFUSED} times: {reply.text}")
