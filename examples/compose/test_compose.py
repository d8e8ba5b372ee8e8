"""The Compose example: the FastAPI application on two nodes without Fly.io, each of which sends writes on by itself."""

from __future__ import annotations

import http.cookiejar
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.conftest import EXAMPLES, LAG, ROOT, SOON, ask_url, check_that_it_starts, copied_files, load_app, migrate
from litefs_watch.testing import SimulatedCluster
from tests.asgi.serving import listening, serve

COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLES / "compose" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = {name: service for name, service in SERVICES.items() if name != "consul"}
ENVIRONMENT: dict[str, str] = NODES["node-a"]["environment"]
LITEFS: dict[str, Any] = yaml.safe_load((EXAMPLES / "compose" / "litefs.yml").read_text())
PORT = "8080"


def forward_to(port: int) -> str:
    """FORWARD_TO of compose.yaml, with a port that is free here."""
    assert ENVIRONMENT["FORWARD_TO"].endswith(f":{PORT}")
    return ENVIRONMENT["FORWARD_TO"].replace(PORT, str(port))


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Both nodes, served with Compose's settings. The primary's hostname is one that resolves here, too."""
    with ExitStack() as stack:
        cluster = stack.enter_context(SimulatedCluster(hostnames=["127.0.0.1", "node-b"], lag=0.001))
        migrate(cluster)
        cluster.lag = LAG
        sock: socket.socket = stack.enter_context(listening())
        settings = {"FORWARD_TO": forward_to(sock.getsockname()[1]), "SECURE_COOKIES": ENVIRONMENT["SECURE_COOKIES"]}
        primary, replica = (load_app("fastapi", cluster, node, **settings).app for node in cluster.nodes)
        yield {"primary": stack.enter_context(serve(primary, sock)), "replica": stack.enter_context(serve(replica))}


def test_a_write_on_a_replica_is_sent_on(urls: dict[str, str]) -> None:
    """Its own answer is the primary's, cookie included: plain HTTP, hence not a Secure one."""
    answer = ask_url(f"{urls['replica']}/entries", {"name": "A guest", "text": "Hello."})
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "fly-replay" not in answer.headers
    assert answer.headers["set-cookie"].startswith("litefs_pos=0000000000000003/")
    assert "Secure" not in answer.headers["set-cookie"]
    assert "<b>A guest</b> Hello." in ask_url(urls["primary"]).text


def test_guests_see_what_they_wrote(urls: dict[str, str]) -> None:
    """Fifty times, with an ordinary browser that follows the redirect, on the replica."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    for number in range(50):
        form = urllib.parse.urlencode({"name": "A guest", "text": f"entry {number}."}).encode()
        with browser.open(f"{urls['replica']}/entries", form, timeout=SOON) as response:
            page = response.read().decode()
        assert f"entry {number}." in page
        assert "<footer>node-b, replica, transaction " in page


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_readme_s_commands(urls: dict[str, str], tmp_path: Path) -> None:
    """The three with curl, as they stand there: what each prints is what is said about it."""
    readme = (EXAMPLES / "README.md").read_text()
    commands = re.findall("^curl .*", readme, re.MULTILINE)
    ports = {"localhost:8081": urls["primary"], "localhost:8082": urls["replica"]}
    printed = []
    for command in commands:
        for public, url in ports.items():
            command = command.replace(f"http://{public}", url)
        assert "localhost" not in command
        done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=SOON, check=True)
        printed.append(done.stdout)
    first, written, last = printed
    assert json.loads(first) == {"node": "node-b", "role": "replica", "primary": "127.0.0.1", "txid": 2, "entries": []}
    assert written.startswith("HTTP/1.1 303 See Other\n")
    assert "set-cookie: litefs_pos=0000000000000003/" in written
    assert json.loads(last) == {
        "node": "node-b",
        "role": "replica",
        "primary": "127.0.0.1",
        "txid": 3,
        "entries": [{"name": "A guest", "text": "Hello."}],
    }


def test_the_files_named_are_there() -> None:
    """By the README, and by the comments of what one deploys."""
    texts = [
        path.read_text() for path in EXAMPLES.rglob("*") if path.name in ("README.md", "Dockerfile") or "ml" in path.suffix
    ]
    named = {name for text in texts for name in re.findall(r"\bexamples/[\w./-]*\w", text)}
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_it_starts(tmp_path: Path) -> None:
    """By the command in its litefs.yml, in the folder of the FastAPI example, which its image is built from."""
    check_that_it_starts(
        "compose",
        tmp_path,
        app="fastapi",
        status=-signal.SIGTERM,
        last_words="Application shutdown complete.",
        **{name: ENVIRONMENT[name] for name in ("FORWARD_TO", "SECURE_COOKIES")},
    )


def test_its_files_agree() -> None:
    """compose.yaml, litefs.yml, and the FastAPI example's Dockerfile."""
    here = EXAMPLES / "compose"
    assert list(NODES) == ["node-a", "node-b"]
    for number, (name, node) in enumerate(NODES.items(), start=1):
        assert node["hostname"] == name
        assert (here / node["build"]["context"]).resolve() == ROOT
        assert node["build"]["dockerfile"] == "examples/fastapi/Dockerfile"
        assert (node["devices"], node["cap_add"]) == (["/dev/fuse"], ["SYS_ADMIN"])
        assert node["environment"] == {
            "LITEFS_DIR": LITEFS["fuse"]["dir"],
            "DATABASE_FILENAME": "app.db",
            "FORWARD_TO": f"http://{{hostname}}:{PORT}",
            "SECURE_COOKIES": "0",
        }
        assert node["ports"] == [f"127.0.0.1:808{number}:{PORT}"]
        assert node["volumes"] == ["./litefs.yml:/etc/litefs.yml:ro", f"{name}:{LITEFS['data']['dir']}"]
        assert node["depends_on"] == {"consul": {"condition": "service_healthy"}}
        assert node["healthcheck"]["test"] == ["CMD", "litefs-watch", "wait-ready"]
    assert set(COMPOSE["volumes"]) == set(NODES)
    assert (here / "litefs.yml").is_file()
    assert "ports" not in SERVICES["consul"]
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}

    assert set(LITEFS) == {"fuse", "data", "exec", "lease"}  # no proxy
    assert LITEFS["lease"]["consul"]["url"] == "http://consul:8500"
    assert LITEFS["lease"]["advertise-url"] == "http://${HOSTNAME}:20202"
    assert LITEFS["lease"]["candidate"] is True
    (entry,) = LITEFS["exec"]
    assert f"--port {PORT} " in entry["cmd"]
    (fly_entry,) = yaml.safe_load((EXAMPLES / "fastapi" / "litefs.yml").read_text())["exec"]
    assert entry == fly_entry  # one image
    assert "'/src[cli,forward]'" in (EXAMPLES / "fastapi" / "Dockerfile").read_text()
    assert copied_files("fastapi")
