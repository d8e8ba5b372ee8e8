"""The document and the page tell of what there is; metrics, where they can be had; what systemd is told."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from litefs_watch import __version__
from litefs_watch.operate.health import PARAMETERS
from litefs_watch.serve import metrics
from litefs_watch.serve.notify import notify, watchdog_interval
from litefs_watch.serve.openapi import document
from litefs_watch.testing import SimulatedNode
from tests.serve.asking import asked, until
from tests.serve.conftest import Served, served


def references(value: Any) -> Iterator[str]:
    """All of them, from wherever."""
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


async def test_the_document_tells_of_each_path(here: Served) -> None:
    """Each that there is, and no other; what it refers to is there; its parameters are taken, and others are not."""
    response = await here.ask("/openapi.json")
    record = response.json()
    assert (record["openapi"], record["info"]["version"]) == ("3.1.0", __version__)
    paths = (await here.ask("/nowhere")).json()["paths"]
    assert set(record["paths"]) == set(paths) - {"/", "/openapi.json"}
    for reference in references(record):
        found = record
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
    for path, methods in record["paths"].items():
        for method, operation in methods.items():
            query = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            for name in query:
                assert "is no parameter" not in (await here.ask(f"{path}?{name}=x&bogus=1")).text.replace("bogus is no", "")
            assert set(query) >= set(PARAMETERS.get(path[1:], ()))
            if path != "/events" and method == "get":
                seen = (await here.ask(path)).status_code
                assert str(seen) in operation["responses"], path


def test_the_document_names_each_status_that_there_is() -> None:
    """Of those that the code raises, but for what is the same everywhere."""
    everywhere = {401, 403, 404, 405, 414, 500}
    told = {int(code) for path in document()["paths"].values() for each in path.values() for code in each["responses"]}
    assert {200, 400, 408, 410, 413, 415, 429, 501, 503} <= told
    assert told - {200, 400, 408, 410, 413, 415, 429, 501, 503} <= everywhere


async def test_the_page_needs_nothing_from_elsewhere(here: Served) -> None:
    """No script, no image, no address but its own; each path stands on it."""
    response = await here.ask("/")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Parser().feed(response.text)
    assert {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "object"} == set()
    assert {attributes["href"] for _, attributes in tags if "href" in attributes} == {"openapi.json", "status"}
    for path in document()["paths"]:
        assert re.search(rf"<h2><code>[A-Z, ]+ {path}</code>", response.text)


async def test_metrics_tell_of_the_node_and_of_waits(here: Served) -> None:
    """By how they ended, and how many wait now."""
    await here.ask("/wait?txid=99&timeout=1ms")
    async with asked(here.app, "/wait?txid=99&timeout=60") as connection:
        await until(lambda: here.watcher.statistics().waiters)
        response = await here.ask("/metrics")
        connection.leave()
        await connection.ended()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for text in (response.text, (await here.ask("/metrics")).text)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["litefs_watch_is_primary",] == 1
    assert samples["litefs_watch_wait_seconds_count", "unmet"] == 1
    assert samples["litefs_watch_wait_seconds_count", "cancelled"] == 1
    assert "litefs_watch_waiters" in response.text
    assert 'litefs_watch_waiters{kind="wait"} 1.0' in response.text


async def test_without_the_extra_metrics_say_what_to_install(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all else is there."""
    monkeypatch.setattr(metrics, "INSTALLED", False)
    async with served(node) as bare:
        assert "pip install 'litefs-watch[prometheus]'" in await bare.refused("/metrics", 501)
        assert (await bare.ask("/status")).status_code == 200


async def test_the_status_counts_who_waits_and_who_follows(here: Served) -> None:
    """With what the watcher knows."""
    async with asked(here.app, "/wait?txid=99&timeout=60"), asked(here.app, "/events") as follows:
        await follows.start()
        await until(lambda: here.watcher.statistics().waiters)
        record = (await here.ask("/status")).json()
    assert record["sidecar"] == {"version": __version__, "waiting": 1, "subscribers": 1}
    assert record["role"] == "primary"


@pytest.mark.parametrize("name", ["{path}/notify", "\0litefs-watch-{path}"], ids=["a file", "an abstract socket"])
def test_systemd_is_told(name: str, tmp_path: Any) -> None:
    """Word by word, by either kind of socket."""
    address = name.format(path=tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        assert notify("READY=1", {"NOTIFY_SOCKET": address.replace("\0", "@")})
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "nonsense", "/nowhere/notify", "@" + "x" * 200])
def test_without_systemd_nothing_happens(address: str) -> None:
    """Whatever the environment says."""
    assert not notify("READY=1", {"NOTIFY_SOCKET": address} if address else {})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_the_watchdog_s_interval(environ: dict[str, str], seconds: float | None) -> None:
    """Half of what systemd waits; none where it asks another process, or says nothing that can be meant."""
    assert watchdog_interval(environ) == seconds


def test_what_a_silent_socket_has_no_room_for_is_not_waited_for(tmp_path: Any) -> None:
    """Systemd is busy: the event loop goes on."""
    address = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        assert not all(notify("WATCHDOG=1", {"NOTIFY_SOCKET": address}) for _ in range(10_000))
