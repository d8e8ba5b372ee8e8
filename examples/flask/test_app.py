"""The Flask example on a simulated cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from examples.conftest import (
    EXAMPLES,
    SOON,
    Answer,
    Browser,
    check_agreement,
    check_migration,
    check_that_it_starts,
    load,
    load_app,
)
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.environment import environment_of


class Nodes:
    """The application on each node."""

    def __init__(self, cluster: SimulatedCluster, *, middleware: bool = True) -> None:
        self.modules: dict[str, Any] = {}
        self.clients: dict[str, Client] = {}
        for node in cluster.nodes:
            module = load_app("flask", cluster, node)
            if not middleware:
                module.app.wsgi_app = module.app.wsgi_app.app
            self.modules[node.hostname] = module
            self.clients[node.hostname] = Client(module.app, use_cookies=False)

    def ask(self, hostname: str, method: str, path: str, headers: Mapping[str, str], form: Mapping[str, str]) -> Answer:
        response = self.clients[hostname].open(path, method=method, headers=dict(headers), data=dict(form))
        return Answer(response.status_code, {name.lower(): value for name, value in response.headers}, response.text)

    def close(self) -> None:
        for module in self.modules.values():
            module.watcher.stop()


@pytest.fixture
def nodes(cluster: SimulatedCluster) -> Iterator[Nodes]:
    nodes = Nodes(cluster)
    yield nodes
    nodes.close()


def test_guests_see_what_they_wrote(nodes: Nodes) -> None:
    """A hundred times, on the next page already, whichever replicas the requests reach."""
    browser = Browser(nodes.ask)
    replicas = ["node-b", "node-c"]
    assert browser.write_and_read(100, write_on=replicas, read_on=replicas) == 100
    assert browser.replays >= 100


def test_without_the_middleware_they_do_not(cluster: SimulatedCluster) -> None:
    """Even where each write reaches the primary: the page is older than what was written."""
    cluster.lag = 0.5  # more than a request takes on a slow machine
    nodes = Nodes(cluster, middleware=False)
    try:
        assert Browser(nodes.ask).write_and_read(20, write_on=["node-a"], read_on=["node-b", "node-c"]) < 10
    finally:
        nodes.close()


def test_a_write_on_a_replica_is_replayed(nodes: Nodes) -> None:
    """By the edge: 409, and where to."""
    response = nodes.clients["node-b"].post("/entries", data={"name": "A guest", "text": "Hello."})
    assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
    assert nodes.clients["node-a"].get("/entries").json["entries"] == []  # type: ignore[index]


def test_what_stands_in_the_book_is_text(nodes: Nodes) -> None:
    """Whatever it looks like."""
    primary = nodes.clients["node-a"]
    assert primary.post("/entries", data={"name": "<b>", "text": "&amp; {{ node }}"}).status_code == 303
    assert primary.get("/entries").json == {
        "entries": [{"name": "<b>", "text": "&amp; {{ node }}"}],
        "node": "node-a",
        "role": "primary",
        "primary": None,
        "txid": 3,
    }
    page = primary.get("/").text
    assert "<li><b>&lt;b&gt;</b> &amp;amp; {{ node }}</li>" in page
    assert "<footer>node-a, primary, transaction 3</footer>" in page


def test_it_names_the_newest_transaction(silent_node: SimulatedNode) -> None:
    """Not the one that was heard of last."""
    module = load(EXAMPLES / "flask" / "app.py", environment_of(silent_node))
    with module.watcher:
        assert module.watcher.tx_number() == 1
        position = silent_node.commit(notify=False)
        assert Client(module.app).get("/entries").json["txid"] == position.txid  # type: ignore[index]


def test_what_is_no_entry(nodes: Nodes) -> None:
    """Is refused, and not written."""
    assert nodes.clients["node-a"].post("/entries", data={"name": "A guest"}).status_code == 400
    assert nodes.clients["node-a"].get("/entries").json["entries"] == []  # type: ignore[index]


def test_health(cluster: SimulatedCluster, nodes: Nodes) -> None:
    """Healthy on the primary and on replicas; amid a fail-over, too, when pages can be read, but nothing can be written."""
    for client in nodes.clients.values():
        assert client.get("/healthz").status_code == 200
    cluster.kill_primary()
    replica = nodes.clients["node-b"]
    nodes.modules["node-b"].watcher.wait_for_role("unknown", timeout=SOON)
    assert replica.get("/healthz").status_code == 200
    assert replica.get("/").status_code == 200
    refused = replica.post("/entries", data={"name": "A guest", "text": "Hello."})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_health_where_litefs_is_down(cluster: SimulatedCluster, nodes: Nodes) -> None:
    """Its files are gone with its mount."""
    cluster["node-b"].path("app.db-pos").unlink()
    answer = nodes.clients["node-b"].get("/healthz")
    assert (answer.status_code, answer.json["position"]) == (503, None)  # type: ignore[index]


def test_health_before_the_first_replication(cluster: SimulatedCluster, nodes: Nodes) -> None:
    """LiteFS's `.lag` says so."""
    cluster["node-b"].set_lag(2147483647)
    answer = nodes.clients["node-b"].get("/healthz")
    assert (answer.status_code, answer.json["role"]) == (503, "replica")  # type: ignore[index]


def test_migrating_twice_is_migrating_once() -> None:
    """Each start of a primary does it."""
    check_migration("flask")


def test_it_starts(tmp_path: Path) -> None:
    """By the command in litefs.yml."""
    check_that_it_starts("flask", tmp_path, app="flask", status=0, last_words="Shutting down: Master")


def test_its_files_agree() -> None:
    """litefs.yml, fly.toml, the Dockerfile, the application."""
    check_agreement("flask")
