"""The dashboard: each panel says what it shows, of metrics that are exported; and a real Prometheus, where it is here, has
an answer to each query."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.parse
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from examples.conftest import SOON, ask_url
from litefs_watch import BlockingWatcher, Position, Role
from litefs_watch.prometheus import instrument
from litefs_watch.testing import SimulatedCluster
from litefs_watch.wsgi import LiteFSMiddleware
from tests.contract.real import free_port, until

DASHBOARD: Any = json.loads((Path(__file__).parent / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
PROMETHEUS = shutil.which("prometheus")
CONFIG = """\
global: {{ scrape_interval: 100ms, scrape_timeout: 100ms }}
scrape_configs: [ {{ job_name: app, static_configs: [ {{ targets: {targets} }} ] }} ]
"""


def as_sent(query: str) -> str:
    """By Grafana, whose variables Prometheus does not know."""
    values = {"$__rate_interval": "5s", "$__range": "1m", "$job": "app|other", "$instance": ".*"}
    return re.sub(r"\$\w+", lambda name: values[name[0]], query)


QUERIES = [(panel["title"], as_sent(target["expr"])) for panel in PANELS for target in panel["targets"]]
(ANNOTATION,) = (as_sent(each["expr"]) for each in DASHBOARD["annotations"]["list"])


def exported() -> set[str]:
    """The names that a node's scrape has."""
    with SimulatedCluster(size=1, fuse=False) as cluster, BlockingWatcher(cluster.primary.settings()) as watcher:
        watcher.wait_for_role(Role.PRIMARY, timeout=SOON)
        text = generate_latest(instrument(watcher, registry=CollectorRegistry())).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_each_panel_says_what_it_shows() -> None:
    """Its title, a sentence, a unit, thresholds, and which Prometheus: the one that was chosen. None lies on another."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)


def test_the_nodes_can_be_chosen() -> None:
    """The Prometheus, the job, and its nodes, one, several or all; by labels that Prometheus gives."""
    assert VARIABLES["datasource"]["type"] == "datasource"
    for name in ("job", "instance"):
        assert VARIABLES[name]["multi"]
        assert VARIABLES[name]["includeAll"]
        assert re.fullmatch(rf"label_values\(litefs_watch_up(\{{.*\}})?, {name}\)", VARIABLES[name]["definition"])
    used = {name for panel in PANELS for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
    assert used == {"job", "instance", "__rate_interval", "__range"}
    for panel in PANELS:
        for target in panel["targets"]:
            assert all("$job" in chosen for chosen in re.findall(r"{(.*?)}", target["expr"])), target["expr"]


def test_it_shows_what_is_exported() -> None:
    """Each of the metrics, in one panel or another, and none that there is not."""
    named = {name for _, query in QUERIES for name in re.findall(r"\blitefs_watch_\w+", query)}
    there = {name for name in exported() if not name.endswith("_created")}
    assert named <= there
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in there} == {
        re.sub("_(bucket|count|sum)$", "", name) for name in named
    }


class Site:
    """Three nodes: the primary, a replica, and one that knows no primary. Each has its watcher, middleware and metrics."""

    def __init__(self, stack: ExitStack) -> None:
        self._cluster = stack.enter_context(SimulatedCluster(size=3, lag=0.005, fuse=False))
        self._cluster.execute("CREATE TABLE entries (text)")
        self._cluster.wait_until_replicated()
        self._cluster.nodes[2].lose_primary()
        roles = (Role.PRIMARY, Role.REPLICA, Role.UNKNOWN)
        self.targets: list[str] = []
        self._apps = []
        for node, role in zip(self._cluster.nodes, roles, strict=True):
            watcher = stack.enter_context(BlockingWatcher(node.settings()))
            watcher.wait_for_role(role, timeout=SOON)
            server, thread = start_http_server(0, "127.0.0.1", instrument(watcher, registry=CollectorRegistry()))
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            self.targets.append(f"127.0.0.1:{server.server_port}")
            self._apps.append(LiteFSMiddleware(answer, watcher, timeout=0.02, hold_writes=0.01))

    def work(self) -> None:
        """A write; a read on the replica that waits for it, one that waits in vain, and a write there; one that is held and
        refused where no primary is known; and at the primary a client whose write is lost."""
        position = self._cluster.execute("INSERT INTO entries VALUES ('Hello.')")
        primary, replica, lost = self._apps
        ask(replica, "GET", position)
        ask(replica, "GET", Position(position.txid + 1000, 1))
        ask(replica, "POST")
        ask(lost, "POST")
        ask(primary, "GET", Position(position.txid, position.checksum ^ 1))


def answer(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


def ask(app: Any, method: str, position: Position | None = None) -> None:
    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80"}
    environ |= {"wsgi.url_scheme": "http"} | ({"HTTP_COOKIE": f"litefs_pos={position}"} if position else {})
    list(app(environ, lambda *_: lambda _: None))


def figures(url: str, query: str) -> list[float]:
    """What Prometheus answers, without what is no number (the quantiles of what did not happen)."""
    found = ask_url(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    assert found.status == 200, f"{query}: {found.text}"
    values = [float(each["value"][1]) for each in json.loads(found.text)["data"]["result"]]
    return [value for value in values if value == value]


@pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus")
def test_each_query_has_an_answer(tmp_path: Path) -> None:
    """Of nodes that are scraped while they do all that is counted: figures, in every panel. Prometheus takes five seconds to
    its first scrape, whatever it is told."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        site = Site(stack)
        config = tmp_path / "prometheus.yml"
        config.write_text(CONFIG.format(targets=json.dumps(site.targets)))
        words = [str(PROMETHEUS), "--config.file", str(config), "--storage.tsdb.path", str(tmp_path), "--log.level", "error"]
        words += ["--web.listen-address", f"127.0.0.1:{port}"]
        process = Popen(words, stdout=DEVNULL)
        stack.callback(process.wait, SOON)
        stack.callback(process.kill)
        until(lambda: answers(f"{url}/-/ready"), "Prometheus runs", SOON)
        missing = QUERIES
        deadline = time.monotonic() + SOON
        while missing:
            assert time.monotonic() < deadline, f"no figures: {missing}"
            site.work()
            missing = [(title, query) for title, query in missing if not figures(url, query)]
        assert figures(url, ANNOTATION) == []
        shown = dict(QUERIES)
        assert figures(url, shown["Primaries"]) == [1]
        assert figures(url, shown["Nodes away"]) == [0]
        assert sorted(figures(url, shown["Role"])) == [0, 1, 2]


def answers(url: str) -> bool:
    try:
        return ask_url(url).status == 200
    except OSError:
        return False
