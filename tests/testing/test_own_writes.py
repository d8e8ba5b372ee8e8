"""Unmodified applications on the simulated cluster read their own writes: 50 rounds each, with 0.3 s of lag."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from litefs_watch.testing import SimulatedCluster, SimulatedNode, fuse_available
from tests.asgi.serving import serve as serve_here
from tests.servers import serve as serve_elsewhere
from tests.testing.todo_apps import ASGI, MAKERS, TABLE

pytestmark = pytest.mark.skipif(fuse_available() is not None, reason=str(fuse_available()))
CLIENTS, ROUNDS = 10, 5


@pytest.fixture
def todos(tmp_path: Path) -> Iterator[SimulatedCluster]:
    """Two nodes, and an empty list."""
    with SimulatedCluster(2, directory=tmp_path, lag=0.3, fuse=True) as cluster:
        cluster.execute(TABLE)
        cluster.wait_until_replicated()
        yield cluster


def test_a_cluster_is_as_true_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being asked it has FUSE mounts where they can be had, and ordinary directories where not."""
    for reason in (None, "there is no /dev/fuse"):
        monkeypatch.setattr("litefs_watch.testing.cluster.fuse_available", lambda reason=reason: reason)
        assert SimulatedCluster(1).fuse is (reason is None)


def elsewhere(stack: ExitStack, framework: str, node: SimulatedNode) -> str:
    """The framework's application for a node, in another process."""
    server, options = ("uvicorn", ["--factory"]) if framework in ASGI else ("gunicorn", [])
    port = stack.enter_context(
        serve_elsewhere(
            server,
            f"tests.testing.todo_apps:{'app' if framework in ASGI else 'app()'}",
            *options,
            TODO=framework,
            LITEFS_DIR=str(node.litefs_dir),
            DATABASE_FILENAME="app.db",
            LITEFS_API_URL=node.api_url,
            FLY_MACHINE_ID=node.hostname,
        )
    )
    return f"http://127.0.0.1:{port}"


def stale_reads(primary: str, replica: str, client_number: int) -> list[str]:
    """What one client, which keeps its cookies, has written on the primary and did not read on the replica. Where nobody
    could tell whose commit was whose it is pinned, and reads on the primary; seldom."""
    stale, pinned = [], 0
    with httpx2.Client(timeout=30) as client:
        for number in range(ROUNDS):
            title = f"client {client_number} round {number}"
            client.post(f"{primary}/todos/{title}").raise_for_status()
            where = primary if client.cookies.get("litefs_pos") == "pin" else replica
            pinned += where == primary
            if title not in client.get(f"{where}/todos").raise_for_status().json():
                stale.append(title)
    return stale if pinned <= ROUNDS / 2 else [*stale, f"{pinned} pins"]


def check(cluster: SimulatedCluster, primary: str, replica: str) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = pool.map(lambda number: stale_reads(primary, replica, number), range(CLIENTS))
        assert [title for stale in found for title in stale] == []
    cluster.wait_until_replicated()
    cluster.pause_replication()
    with httpx2.Client(timeout=30) as client:  # and it is the cookie that does it
        client.post(f"{primary}/todos/last").raise_for_status()
        client.cookies.clear()
        assert "last" not in client.get(f"{replica}/todos").raise_for_status().json()


@pytest.mark.parametrize("framework", MAKERS)
def test_an_application_in_another_process_reads_its_own_writes(todos: SimulatedCluster, framework: str) -> None:
    """Whatever it writes with; without its cookie it does not, so it is not the lag that is short."""
    with ExitStack() as stack:
        check(todos, *[elsewhere(stack, framework, node) for node in todos.nodes])


@pytest.mark.parametrize("framework", ASGI)
def test_an_application_in_this_process_reads_its_own_writes(todos: SimulatedCluster, framework: str) -> None:
    """The process of the simulator."""
    with ExitStack() as stack:
        check(todos, *[stack.enter_context(serve_here(MAKERS[framework](node.settings()))) for node in todos.nodes])
