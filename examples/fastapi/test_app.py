"""The FastAPI example on a simulated cluster."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from examples.conftest import (
    EXAMPLES,
    SOON,
    Answer,
    Browser,
    ask_url,
    check_agreement,
    check_migration,
    check_that_it_starts,
    load,
    load_app,
)
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from tests.asgi.serving import serve
from tests.environment import environment_of


class Nodes:
    """The application on each node."""

    def __init__(self, cluster: SimulatedCluster, stack: ExitStack, *, middleware: bool = True) -> None:
        self.clients: dict[str, TestClient] = {}
        for node in cluster.nodes:
            app = load_app("fastapi", cluster, node).app
            if not middleware:
                app.user_middleware.clear()
            client = TestClient(app, base_url="https://guest-book.example.com", follow_redirects=False)
            self.clients[node.hostname] = stack.enter_context(client)

    def ask(self, hostname: str, method: str, path: str, headers: Mapping[str, str], form: Mapping[str, str]) -> Answer:
        client = self.clients[hostname]
        client.cookies.clear()
        response = client.request(method, path, headers=dict(headers), data=dict(form) or None)
        return Answer(response.status_code, response.headers, response.text)


@pytest.fixture
def nodes(cluster: SimulatedCluster) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(cluster, stack)


def test_guests_see_what_they_wrote(nodes: Nodes) -> None:
    """A hundred times, on the next page already, whichever replicas the requests reach."""
    browser = Browser(nodes.ask)
    replicas = ["node-b", "node-c"]
    assert browser.write_and_read(100, write_on=replicas, read_on=replicas) == 100
    assert browser.replays >= 100


def test_without_the_middleware_they_do_not(cluster: SimulatedCluster) -> None:
    """Even where each write reaches the primary: the page is older than what was written."""
    cluster.lag = 0.5  # more than a request takes on a slow machine
    with ExitStack() as stack:
        browser = Browser(Nodes(cluster, stack, middleware=False).ask)
        assert browser.write_and_read(20, write_on=["node-a"], read_on=["node-b", "node-c"]) < 10


def test_a_write_on_a_replica_is_replayed(nodes: Nodes) -> None:
    """By the edge: 409, and where to."""
    response = nodes.clients["node-b"].post("/entries", data={"name": "A guest", "text": "Hello."})
    assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
    assert nodes.clients["node-a"].get("/entries").json()["entries"] == []


def test_the_cookie_is_for_https_only(nodes: Nodes) -> None:
    """Unless SECURE_COOKIES says otherwise, which the Compose example does."""
    response = nodes.clients["node-a"].post("/entries", data={"name": "A guest", "text": "Hello."})
    assert response.headers["set-cookie"].startswith("litefs_pos=0000000000000003/")
    assert "Secure" in response.headers["set-cookie"]


def test_what_stands_in_the_book_is_text(nodes: Nodes) -> None:
    """Whatever it looks like: HTML, or the page's own placeholders."""
    primary = nodes.clients["node-a"]
    assert primary.post("/entries", data={"name": "<b>", "text": "&amp; $who"}).status_code == 303
    assert primary.get("/entries").json() == {
        "entries": [{"name": "<b>", "text": "&amp; $who"}],
        "node": "node-a",
        "role": "primary",
        "primary": None,
        "txid": 3,
    }
    page = primary.get("/").text
    assert "<li><b>&lt;b&gt;</b> &amp;amp; $who</li>" in page
    assert "<footer>node-a, primary, transaction 3</footer>" in page


def test_it_names_the_newest_transaction(silent_node: SimulatedNode) -> None:
    """Not the one that was heard of last."""
    with TestClient(load(EXAMPLES / "fastapi" / "app.py", environment_of(silent_node)).app) as client:
        position = silent_node.commit(notify=False)
        assert client.get("/entries").json()["txid"] == position.txid


@pytest.mark.parametrize("form", [{"name": "A guest"}, {"name": "A guest", "text": "x" * 501}, {"name": "", "text": "x"}])
def test_what_is_no_entry(nodes: Nodes, form: dict[str, str]) -> None:
    """Is refused, and not written."""
    assert nodes.clients["node-a"].post("/entries", data=form).status_code == 422
    assert nodes.clients["node-a"].get("/entries").json()["entries"] == []


def test_changes_are_told_as_they_arrive(cluster: SimulatedCluster) -> None:
    """One server-sent event for each transaction, on a replica, over a socket."""
    replica = cluster.replicas[0]
    with (
        serve(load_app("fastapi", cluster, replica).app) as url,
        urllib.request.urlopen(f"{url}/changes", timeout=SOON) as events,
    ):
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.readline() + events.readline() == b": subscribed\n\n"
        for _ in range(3):
            position = cluster.execute("INSERT INTO entries (name, text) VALUES ('A guest', 'Hello.')")
            assert events.readline() + events.readline() == f"data: {position.txid}\n\n".encode()


def test_health(cluster: SimulatedCluster, nodes: Nodes) -> None:
    """Healthy on the primary and on replicas; amid a fail-over, too, when pages can be read, but nothing can be written."""
    for client in nodes.clients.values():
        assert client.get("/healthz").status_code == 200
    with serve(load_app("fastapi", cluster, cluster["node-c"]).app) as url:
        with urllib.request.urlopen(f"{url}/changes", timeout=SOON) as events:
            assert events.readline() + events.readline() == b": subscribed\n\n"
            cluster.kill_primary()
            assert events.readline().startswith(b"data: ")  # that there is no primary
        answer = ask_url(f"{url}/healthz")
        assert (answer.status, json.loads(answer.text)["role"]) == (200, "unknown")
        assert ask_url(url).status == 200
        refused = ask_url(f"{url}/entries", {"name": "A guest", "text": "Hello."})
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")


def test_health_where_litefs_is_frozen(silent_node: SimulatedNode) -> None:
    """No read is answered then; this is, within two seconds, which is the check's limit in fly.toml."""
    with TestClient(load(EXAMPLES / "fastapi" / "app.py", environment_of(silent_node)).app) as client:
        assert client.get("/healthz").json() == {
            "role": "primary",
            "position": str(silent_node.position()),
            "replicated": True,
        }
        too_late = threading.Timer(SOON, silent_node.thaw)  # then the answer is 200
        silent_node.freeze()
        too_late.start()
        try:
            assert client.get("/healthz").status_code == 503
        finally:
            too_late.cancel()
            silent_node.thaw()


def test_health_before_the_first_replication(cluster: SimulatedCluster) -> None:
    """LiteFS's `.lag` says so."""
    cluster["node-b"].set_lag(2147483647)
    with TestClient(load_app("fastapi", cluster, cluster["node-b"]).app) as client:
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["role"]) == (503, "replica")


def test_migrating_twice_is_migrating_once() -> None:
    """Each start of a primary does it."""
    check_migration("fastapi")


def test_it_starts(tmp_path: Path) -> None:
    """By the command in litefs.yml. Having finished, uvicorn dies of the signal that ended it."""
    check_that_it_starts(
        "fastapi", tmp_path, app="fastapi", status=-signal.SIGTERM, last_words="Application shutdown complete."
    )


def test_its_files_agree() -> None:
    """litefs.yml, fly.toml, the Dockerfile, the application."""
    check_agreement("fastapi")
