"""Metrics: what a scrape says of the node and of the requests, in one process and in several."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from litefs_watch import BlockingWatcher, ConfigError, Position, Role, Settings, Statistics, Watcher
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.operate.observers import observe, observers_of
from litefs_watch.prometheus import instrument
from litefs_watch.testing import SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware
from tests.asgi.fakes import FakeWatcher, Handler, call, replica, unknown
from tests.operate.statuses import ALIVE, REPLICA

Samples = dict[str, float]


def scrape(registry: CollectorRegistry) -> Samples:
    """Those that are not zero, as Prometheus has them: ``name{label}``, without the buckets."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        sample.name + (f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""): sample.value
        for sample in samples
        if sample.value and not sample.name.endswith(("_bucket", "_created"))
    }


def of_requests(registry: CollectorRegistry) -> Samples:
    """The counts of what became of requests, without the seconds."""
    ours = ("litefs_watch_replays", "litefs_watch_refused", "litefs_watch_lost", "litefs_watch_wait_", "litefs_watch_held_")
    return {name: n for name, n in scrape(registry).items() if name.startswith(ours) and "_sum" not in name}


COUNTS = Statistics(waiters=0, subscriptions=0, events=7, reconnects=2, rereads=0, wakes=0, restarts=1)


def known(status: Any) -> Any:
    """A watcher that has this status."""

    class Known:
        settings = Settings("/nowhere", "app.db", api_url=None)
        run = SimpleNamespace(running=True, status=status)

        def statistics(self) -> Statistics:
            return COUNTS

    return Known()


def counted_by(watcher: FakeWatcher) -> CollectorRegistry:
    """What counts the requests of a watcher whose node is of no interest."""
    vars(watcher).update(status=REPLICA, statistics=lambda: COUNTS)
    return instrument(watcher.watcher, registry=CollectorRegistry())


def test_what_is_said_of_a_node() -> None:
    """Its role, lag, positions and sources, and how the watcher fares; in base units."""
    status = replace(REPLICA, lag=0.25, sources={"stream": ALIVE, "reread": replace(ALIVE, alive=False)})
    samples = scrape(instrument(known(status), registry=CollectorRegistry()))
    assert samples == {
        "litefs_watch_up": 1,
        "litefs_watch_role{replica}": 1,
        "litefs_watch_lag_seconds": 0.25,
        "litefs_watch_txid{app.db}": 5,
        "litefs_watch_source_up{stream}": 1,
        "litefs_watch_events_total": 7,
        "litefs_watch_reconnects_total": 2,
        "litefs_watch_source_restarts_total": 1,
    }


def test_a_name_that_is_no_text_is_escaped() -> None:
    """A database's name may be any bytes; a scrape must be UTF-8."""
    status = replace(REPLICA, lag=None, positions={"a\udcff\n.db": Position(5)})
    samples = scrape(instrument(known(status), registry=CollectorRegistry()))
    assert samples["litefs_watch_txid{a\\udcff\\n.db}"] == 5
    assert "litefs_watch_lag_seconds" not in samples


def test_a_watcher_that_does_not_run_is_scraped_and_not_started() -> None:
    """It knows nothing, and that is said; registering alone starts none, as a server may yet fork."""
    stopped = BlockingWatcher(Settings(standalone=True))
    registry = instrument(stopped, registry=CollectorRegistry())
    assert not stopped.running
    stopped.start()
    assert scrape(registry)["litefs_watch_is_primary"] == 1
    stopped.stop()
    for each in (registry, instrument(Watcher(Settings(standalone=True)), registry=CollectorRegistry())):
        assert scrape(each) == {"litefs_watch_role{unknown}": 1}


def test_a_registry_has_them_once() -> None:
    """A second watcher in the same process is said to need another one."""
    registry = CollectorRegistry()
    instrument(Watcher(Settings(standalone=True)), registry=registry)
    with pytest.raises(ConfigError, match="this registry has litefs_watch's metrics already: give another registry="):
        instrument(Watcher(Settings(standalone=True)), registry=registry)


def test_a_directory_for_several_processes_that_comes_late_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """prometheus_client has then decided to count in this process alone, and each scrape would tell of nothing."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    with pytest.raises(ConfigError, match="PROMETHEUS_MULTIPROC_DIR came after prometheus_client was imported"):
        instrument(Watcher(Settings(standalone=True)), registry=CollectorRegistry())


AHEAD = [("cookie", f"litefs_pos={Position(99, 1)}")]


@pytest.mark.parametrize(
    ("make", "method", "headers", "options", "counted"),
    [
        (replica, "GET", [], {}, {}),
        (replica, "GET", [("cookie", f"litefs_pos={Position(10, 1)}")], {}, {}),
        (replica, "POST", [], {}, {"replays_total{write}": 1}),
        (replica, "GET", AHEAD, {}, {"replays_total{timeout}": 1, "wait_seconds_count{unmet}": 1}),
        (replica, "GET", AHEAD, {"max_waiting": 0}, {"replays_total{not_waited}": 1}),
        (replica, "GET", AHEAD, {"on_timeout": "error"}, {"refused_total{timeout}": 1, "wait_seconds_count{unmet}": 1}),
        (unknown, "POST", [], {}, {"refused_total{no_primary}": 1, "held_seconds_count{unmet}": 1}),
        (FakeWatcher, "GET", AHEAD, {}, {"lost_writes_total": 1}),
    ],
    ids=["a read", "a read that is met", "a write", "a wait", "no room", "an error instead", "no primary", "a lost write"],
)
async def test_what_is_said_of_requests(
    make: Callable[[], FakeWatcher], method: str, headers: list[tuple[str, str]], options: Any, counted: Samples
) -> None:
    """Each once, by reason or outcome, and nothing of those that simply run; nobody waits any more afterwards."""
    watcher = make()
    app = LiteFSMiddleware(Handler(), watcher.watcher, **options)
    registry = counted_by(watcher)
    await call(app, method, "/", headers)
    assert of_requests(registry) == {f"litefs_watch_{name}": number for name, number in counted.items()}
    assert "litefs_watch_waiters{wait}" not in scrape(registry)


async def test_a_wait_is_counted_while_it_lasts_and_by_how_it_ends() -> None:
    """As met, where what was waited for has come."""
    watcher, seen = replica(), list[float]()

    def arrives() -> None:
        seen.append(scrape(registry)["litefs_watch_waiters{wait}"])
        watcher.known = Position(99, 1)

    watcher.during = arrives
    registry = counted_by(watcher)
    await call(LiteFSMiddleware(Handler(), watcher.watcher), "GET", "/", AHEAD)
    assert seen == [1]
    assert of_requests(registry) == {"litefs_watch_wait_seconds_count{met}": 1}


class Faulty:
    """An observer that fails at each call."""

    def fail(self, *_: object) -> Any:
        raise OSError("no space left on device")

    began = replayed = refused = lost = fail


@pytest.mark.parametrize("make", [replica, FakeWatcher], ids=["a wait and a replay", "a lost write"])
async def test_an_observer_that_fails_harms_nobody(
    make: Callable[[], FakeWatcher], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the request nor the other observers; it is said once."""
    watcher = make()
    plain = (await call(LiteFSMiddleware(Handler(), watcher.watcher), "GET", "/", AHEAD)).status
    observe(watcher.watcher, cast("Any", Faulty()))
    registry = counted_by(watcher)
    for _ in range(2):
        assert (await call(LiteFSMiddleware(Handler(), watcher.watcher), "GET", "/", AHEAD)).status == plain
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert set(of_requests(registry).values()) == {2}


def test_observing_ends() -> None:
    """With what `observe` returns."""
    watcher = Watcher(Settings(standalone=True))
    registry = instrument(watcher, registry=CollectorRegistry())
    observe(watcher, cast("Any", Faulty()))()
    observers_of(watcher).lost()
    assert of_requests(registry) == {"litefs_watch_lost_writes_total": 1}


def test_under_wsgi() -> None:
    """A write on a replica, through the other kind of gate."""
    with SimulatedNode(hostname="node-b", primary="node-a") as node, BlockingWatcher(node.settings()) as watcher:
        watcher.wait_for_role(Role.REPLICA, timeout=20)
        registry = instrument(watcher, registry=CollectorRegistry())
        app = WSGIMiddleware(lambda environ, start_response: [], watcher)
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80"}
        list(app(environ | {"wsgi.url_scheme": "http"}, lambda *_: lambda _: None))
        assert of_requests(registry) == {"litefs_watch_replays_total{write}": 1}


PROCESS = """
import os, sys
from prometheus_client import generate_latest
from litefs_watch import Settings, Watcher
from litefs_watch.operate.observers import observers_of
from litefs_watch.prometheus import instrument
watcher = Watcher(Settings(standalone=True))
registry = instrument(watcher)
for _ in range(2):
    if (child := os.fork()) == 0:
        told = observers_of(watcher)
        told.replayed("write")
        told.ended(told.began("wait"), "met", 0.004)
        os._exit(0)
    os.waitpid(child, 0)
sys.stdout.write(generate_latest(registry).decode())
"""


def test_several_processes_are_one_server(tmp_path: Path) -> None:
    """What became of requests is summed over them, whichever answers; what is of one process alone is not told."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    output = subprocess.run([sys.executable, "-c", PROCESS], env=env, capture_output=True, text=True, check=True, timeout=60)
    lines = output.stdout.splitlines()
    assert 'litefs_watch_replays_total{reason="write"} 2.0' in lines
    assert 'litefs_watch_wait_seconds_count{outcome="met"} 2.0' in lines
    assert 'litefs_watch_wait_seconds_bucket{le="0.005",outcome="met"} 2.0' in lines
    assert 'litefs_watch_role{role="unknown"} 1.0' in lines
    assert 'litefs_watch_waiters{kind="wait"} 0.0' in lines
    assert not [line for line in lines if line.startswith("litefs_watch_events")]


def test_they_are_as_prometheus_names_them() -> None:
    """By its own tool where that is here; and in any case with a unit, a type and a text, and no name of a node."""
    text = generate_latest(instrument(known(REPLICA), registry=CollectorRegistry())).decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter", "histogram")
        assert {label for sample in family.samples for label in sample.labels} <= {
            "role",
            "db",
            "source",
            "kind",
            "reason",
            "outcome",
            "le",
        }
    assert "here" not in text.replace("where", "")
    if (promtool := shutil.which("promtool")) is not None:
        found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
        assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_page_names_each_metric() -> None:
    """And none that is not there."""
    text = generate_latest(instrument(known(REPLICA), registry=CollectorRegistry())).decode()
    there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    page = (Path(__file__).parents[2] / "docs" / "operate" / "metrics.md").read_text()
    assert set(re.findall(r"`(litefs_watch_\w+)", page)) == {name for name in there if not name.endswith("_created")}
