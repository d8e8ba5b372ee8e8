"""Each page of *Start*: its application, as it stands there, on two simulated nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from litefs_watch.testing import SimulatedCluster, SimulatedNode, fuse_available
from litefs_watch.watchers import blocking
from tests.docs.pages import PAGES, blocks, execute, files
from tests.environment import clean_environment, environment_of

ASGI = ("fastapi", "starlette", "litestar", "quart")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimulatedCluster]:
    """Two nodes with the table of schema.py; a replica that is as far behind as a test wants it to be."""
    with SimulatedCluster(2, lag=0.001, fuse=fuse_available() is None) as cluster:
        run(cluster, "schema.py", files("start/index.md")["schema.py"])
        cluster.wait_until_replicated()
        yield cluster


@pytest.fixture(autouse=True)
def empty_list(cluster: SimulatedCluster) -> Iterator[None]:
    cluster.resume_replication()
    cluster.execute("DELETE FROM todo")
    cluster.wait_until_replicated()
    yield
    cluster.resume_replication()


def run(cluster: SimulatedCluster, name: str, code: str) -> None:
    """As a script, on the primary."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment_of(cluster.primary).items():
            patch.setenv(variable, value)
        execute(code, name)


def load(page: str, node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's application for a node."""
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)  # Litestar's takes the root logger for good
    for name, value in environment_of(node).items():
        monkeypatch.setenv(name, value)
    return execute(files(page)["app.py"], page)["app"]


def check(cluster: SimulatedCluster, primary: Any, replica: Any) -> None:
    """What the page says that one sees."""
    cluster.pause_replication()
    token = primary.post("/todos/milk").headers["litefs-txid"]
    assert replica.get("/todos").text.strip() == "[]"
    cluster.resume_replication()
    assert replica.get("/todos", headers={"litefs-txid": token}).text.strip() == '["milk"]'
    refused = replica.post("/todos/bread")
    assert (refused.status_code, refused.headers["fly-replay"]) == (409, "instance=node-a")


@pytest.mark.parametrize("framework", ASGI)
def test_an_asgi_page(cluster: SimulatedCluster, framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's read waits, a write on the replica is sent on."""
    primary, replica = (load(f"start/{framework}.md", node, monkeypatch) for node in cluster.nodes)
    with TestClient(primary) as here, TestClient(replica) as there:
        check(cluster, here, there)


def test_the_flask_page(cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, in threads."""
    primary, replica = (load("start/flask.md", node, monkeypatch).test_client() for node in cluster.nodes)
    try:
        check(cluster, primary, replica)
    finally:
        for watcher in list(blocking._all):
            watcher.stop()


def test_the_django_page_and_the_two_nodes(tmp_path: Path) -> None:
    """Word by word, with the server of another process on each node: what it prints last is what the page says."""
    written = files("start/index.md", "start/django.md")
    for name, code in written.items():
        (tmp_path / name).write_text(code)
    command = re.findall(r"^python (two_nodes\.py .*)$", PAGES["start/django.md"], re.MULTILINE)
    done = subprocess.run(
        [sys.executable, *command[0].replace("python ", f"{sys.executable} ").split()],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path), "LITEFS_STANDALONE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.endswith(blocks("start/django.md", "text")[0]), done.stderr


def test_two_nodes_end_with_their_servers(tmp_path: Path) -> None:
    """A server that does not start is told; nobody waits for it for ever."""
    for name, code in files("start/index.md").items():
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "two_nodes.py", sys.executable, "-c", "raise SystemExit('no such application')"],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "a server has ended: what it said is above"


def test_the_threads_page(cluster: SimulatedCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Both scripts, one after the other."""
    written = files("start/threads.md")
    run(cluster, "job.py", written["job.py"])
    assert "0 to do" in capsys.readouterr().out
    run(cluster, "two_threads.py", written["two_threads.py"])
    assert capsys.readouterr().out == "the thread reads: [('milk',)]\n"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("start/")])
def test_each_block_of_start_is_a_file(page: str) -> None:
    """Whatever is shown is run: by its name. Django's settings for a project of one's own are run by the README's tests."""
    others = [code for code in blocks(page) if not re.match(r"# \w+\.py", code)]
    assert others == []
    assert set(files(page)) <= {"schema.py", "two_nodes.py", "app.py", "job.py", "two_threads.py", "settings.py"}
