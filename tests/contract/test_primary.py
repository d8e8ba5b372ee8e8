"""What runs on the primary only, and what writes from anywhere, on real LiteFS through hand-overs."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

from litefs_watch import BlockingWatcher
from litefs_watch.client import BlockingPrimaryClient
from tests.asgi.serving import serve
from tests.chaos.litefs import LeasedNode
from tests.contract.real import reason_against_real, until
from tests.contract.test_hand_over import FIRST, SECOND, nodes, rows, site

__all__ = ["nodes"]
pytestmark = [pytest.mark.litefs, pytest.mark.skipif(reason_against_real() is not None, reason=str(reason_against_real()))]
SOON = 20.0


def lead(node: LeasedNode) -> None:
    """Have the lease handed over. LiteFS refuses while it knows of no primary itself, as just after a hand-over; and what is
    asked for may come to nothing."""
    for _ in range(5):
        with suppress(OSError, TimeoutError):
            node.promote()
            until(node.leads, "it has the lease", timeout=4)
            return
        time.sleep(0.2)
    raise TimeoutError(f"{node.hostname} does not get the lease")


def test_a_job_runs_where_the_primary_is(nodes: dict[str, LeasedNode]) -> None:
    """On one node at a time, through three hand-overs, and each time on the other; it writes, which no replica could: what
    is refused at first is tried again."""
    running: set[str] = set()
    begun: list[str] = []
    both: list[set[str]] = []
    lock = threading.Lock()

    def job_of(node: LeasedNode) -> Any:
        def job(over: threading.Event) -> None:
            with lock:
                running.add(node.hostname)
                if len(running) > 1:
                    both.append(set(running))
            try:
                with closing(sqlite3.connect(node.litefs_dir / "app.db")) as connection, connection:
                    connection.execute("INSERT INTO t VALUES (1)")
                begun.append(node.hostname)
                over.wait()
            finally:
                with lock:
                    running.discard(node.hostname)

        return job

    with ExitStack() as stack:
        threads = []
        for node in nodes.values():
            watcher = stack.enter_context(BlockingWatcher(node.settings()))
            threads.append(threading.Thread(target=watcher.while_primary, args=(job_of(node),), daemon=True))
            threads[-1].start()
        until(lambda: begun == [FIRST], "it begins on the first")
        for number, name in enumerate((SECOND, FIRST, SECOND), 2):
            lead(nodes[name])
            until(lambda count=number: len(begun) == count, f"it begins on {name}")  # type: ignore[misc]
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    assert begun == [FIRST, SECOND, FIRST, SECOND]
    assert both == []
    until(lambda: rows(nodes[FIRST]) == 4, "all four have written")


def test_one_write_from_here(nodes: dict[str, LeasedNode]) -> None:
    """From both nodes, before and after a hand-over: it is done at the primary, and here when it is answered."""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(serve(site(node))) for name, node in nodes.items()}
        clients = {}
        for name, node in nodes.items():
            watcher = stack.enter_context(BlockingWatcher(node.settings()))
            clients[name] = stack.enter_context(BlockingPrimaryClient(watcher, urls.__getitem__))
        written = 0
        for leader in (FIRST, SECOND):
            if leader == SECOND:
                lead(nodes[SECOND])
            for _ in range(10):
                for name, client in clients.items():
                    assert client.post("/").status_code == 201
                    written += 1
                    assert rows(nodes[name]) == written
