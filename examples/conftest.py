"""What the examples' tests share: the application on each node of a simulated cluster, a browser, real processes."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from litefs_watch.testing import SimulatedCluster, SimulatedNode, fuse_available
from tests.contract.real import free_port, until
from tests.environment import clean_environment, environment_of

EXAMPLES = Path(__file__).parent
ROOT = EXAMPLES.parent
SOON = 30.0
"""Seconds after which a test fails instead of waiting on."""
LAG = 0.02
"""Seconds by which replicas lag behind."""


def load(path: Path, environment: Mapping[str, str]) -> ModuleType:
    """A fresh copy of an example's module, made in that environment."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}_example", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", clean_environment() | dict(environment))
        spec.loader.exec_module(module)
    return module


def load_app(folder: str, cluster: SimulatedCluster, node: SimulatedNode, **environment: str) -> Any:
    """An example's application for a node. What it commits has its TXID before COMMIT returns, as on LiteFS."""
    module = load(EXAMPLES / folder / "app.py", environment_of(node) | environment)
    module.connect = partial(cluster.connect, node.hostname, timeout=SOON)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    """Three nodes with the examples' table; node-a is the primary."""
    with SimulatedCluster(size=3, lag=0.001) as cluster:
        migrate(cluster)
        cluster.lag = LAG
        yield cluster


@pytest.fixture
def silent_node() -> Iterator[SimulatedNode]:
    """A primary, with the examples' table, of whose commits nobody hears within a second where it says ``notify=False``."""
    if reason := fuse_available():
        pytest.skip(reason)
    with SimulatedNode(fuse=True) as node:
        with closing(sqlite3.connect(node.database_file())) as database:
            load(EXAMPLES / "fastapi" / "migrate.py", {}).migrate(database)
        yield node


def migrate(cluster: SimulatedCluster) -> None:
    with closing(cluster.connect()) as database:
        load(EXAMPLES / "fastapi" / "migrate.py", {}).migrate(database)
    cluster.wait_until_replicated()


@dataclass
class Answer:
    """What a node answered. The headers' names are in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str


Ask = Callable[[str, str, str, Mapping[str, str], Mapping[str, str]], Answer]
"""Hostname, method, path, headers, and the fields of a form."""


@dataclass
class Browser:
    """A browser behind Fly.io's edge: it keeps the cookie, and ``fly-replay`` sends its request to another node."""

    ask_node: Ask
    cookie: str = ""
    replays: int = 0

    def ask(self, hostname: str, method: str, path: str, form: Mapping[str, str] | None = None) -> Answer:
        headers = {"cookie": self.cookie} if self.cookie else {}
        answer = self.ask_node(hostname, method, path, headers, form or {})
        while "fly-replay" in answer.headers:
            self.replays += 1
            target, separator, state = answer.headers["fly-replay"].removeprefix("instance=").partition(";state=")
            headers["fly-replay-src"] = f"instance={hostname};region=ams;t=1{separator}{state}"
            hostname, answer = target, self.ask_node(target, method, path, headers, form or {})
        if cookie := re.match("litefs_pos=[^;]+(?=; )", answer.headers.get("set-cookie", "")):
            self.cookie = cookie[0]
        return answer

    def write_and_read(self, times: int, *, write_on: list[str], read_on: list[str]) -> int:
        """How many of its entries stood on the page that it was sent to. On random nodes of those."""
        seen, chance = 0, random.Random(7)
        for number in range(times):
            written = self.ask(chance.choice(write_on), "POST", "/entries", {"name": "A guest", "text": f"entry {number}."})
            assert written.status == 303, written
            page = self.ask(chance.choice(read_on), "GET", written.headers["location"])
            assert page.status == 200, page
            seen += f"entry {number}." in page.text
        return seen


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def ask_url(url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request over a socket, whatever it is answered with. With a form, it is a POST. Raises `OSError`."""
    body = urllib.parse.urlencode(form).encode() if form else None
    try:
        opener = urllib.request.build_opener(NoRedirects())
        response = opener.open(urllib.request.Request(url, body, dict(headers or {})), timeout=SOON)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, named, response.read().decode())


# An example as it is deployed.


def deployed_command(folder: str, port: int) -> str:
    """What LiteFS is to start by an example's litefs.yml, on loopback and on another port."""
    (entry,) = yaml.safe_load((EXAMPLES / folder / "litefs.yml").read_text())["exec"]
    command: str = entry["cmd"]
    assert "0.0.0.0" in command
    assert "8080" in command
    return command.replace("0.0.0.0", "127.0.0.1").replace("8080", str(port))


@dataclass
class Deployed:
    """An example that runs in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    """What it says."""

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return ask_url(self.url + "/healthz").status == 200
        except OSError:
            return False

    def stop(self) -> int:
        """End it with SIGTERM. Its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SOON)


@contextmanager
def deployed(
    words: list[str], cwd: Path, environment: Mapping[str, str], port: int, log: Path, patience: float = SOON
) -> Iterator[Deployed]:
    """Run a command, in a clean environment and this one. When the block is left it has ``patience`` seconds to end."""
    ours = {
        "HOME": str(log.parent),  # gunicorn puts a socket there
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # the commands of this interpreter
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=clean_environment() | ours | dict(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,  # a process that does not end is killed with its children
            text=True,
        )
    running = Deployed(process, f"http://127.0.0.1:{port}", log)
    try:
        yield running
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SOON)
            raise


def check_that_it_starts(folder: str, directory: Path, *, app: str, status: int, last_words: str, **more: str) -> None:
    """By the command of its litefs.yml, on a primary and on a replica: the page, health, one migration, a clean end."""
    with SimulatedCluster(size=2, lag=0.001) as cluster:
        primary, replica = cluster.nodes

        def start(node: SimulatedNode) -> Any:
            port = free_port()
            words = shlex.split(deployed_command(folder, port))
            return deployed(words, EXAMPLES / app, environment_of(node) | more, port, directory / node.hostname)

        with start(primary) as first, start(replica) as second:
            until(first.is_up, "the primary is healthy", SOON)
            until(second.is_up, "the replica is healthy", SOON)
            cluster.sync()
            cluster.wait_until_replicated()
            assert ask_url(f"{second.url}/entries").text.count('"name"') == 0  # the table is there
            assert ask_url(f"{first.url}/entries", {"name": "A guest", "text": "Hello."}).status == 303
            cluster.sync()
            cluster.wait_until_replicated()
            for running, node, role in ((first, primary, "primary"), (second, replica, "replica")):
                page = ask_url(running.url)
                assert page.status == 200
                assert "<li><b>A guest</b> Hello.</li>" in page.text
                assert f"<footer>{node.hostname}, {role}, transaction " in page.text
            replica.lose_primary()
            until(
                lambda: json.loads(ask_url(f"{second.url}/healthz").text)["role"] == "unknown",
                "it has lost its primary",
                SOON,
            )
            assert second.is_up()
            assert "A guest" in ask_url(second.url).text
            replica.path("app.db-pos").unlink()  # as where LiteFS's mount is gone
            assert not second.is_up()
            assert (first.stop(), second.stop()) == (status, status)
        on_primary, on_replica = first.log.read_text(), second.log.read_text()
    assert "litefs-watch: running on the primary: python migrate.py\n" in on_primary
    assert "litefs-watch: replica of node-a\n" in on_replica
    assert "migrate.py" not in on_replica
    assert last_words in on_primary
    assert last_words in on_replica
    assert "Traceback" not in on_primary + on_replica


def check_migration(folder: str) -> None:
    """Whether migrating a second time changes nothing."""
    migrate = load(EXAMPLES / folder / "migrate.py", {}).migrate
    with closing(sqlite3.connect(":memory:")) as database:
        migrate(database)
        database.execute("INSERT INTO entries (name, text) VALUES ('A guest', 'Hello.')")
        database.commit()
        migrate(database)
        assert database.execute("SELECT name, text FROM entries").fetchall() == [("A guest", "Hello.")]


def copied_files(folder: str) -> list[str]:
    """What an example's Dockerfile copies from its context. Each is there, and its ignore file lets it in."""
    dockerfile = (EXAMPLES / folder / "Dockerfile").read_text()
    names = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    ignore = (EXAMPLES / folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[1] == "*"
    for name in names:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignore or f"!{Path(name).parent}" in ignore, name
    return names


def check_agreement(folder: str) -> None:
    """Whether an example's litefs.yml, fly.toml, Dockerfile and application mean the same."""
    here = EXAMPLES / folder
    litefs = yaml.safe_load((here / "litefs.yml").read_text())
    fly = tomllib.loads((here / "fly.toml").read_text())
    dockerfile = (here / "Dockerfile").read_text()
    command = litefs["exec"][0]["cmd"]

    assert set(litefs) == {"fuse", "data", "exec", "lease"}  # no proxy
    lease = litefs["lease"]
    assert (lease["type"], lease["candidate"], lease["promote"]) == ("consul", "${FLY_REGION == PRIMARY_REGION}", True)
    assert lease["advertise-url"] == "http://${HOSTNAME}.vm.${FLY_APP_NAME}.internal:20202"
    assert lease["consul"] == {"url": "${FLY_CONSUL_URL}", "key": "${FLY_APP_NAME}/primary"}

    assert fly["env"] == {"LITEFS_DIR": litefs["fuse"]["dir"], "DATABASE_FILENAME": "app.db"}
    assert fly["mounts"]["destination"] == litefs["data"]["dir"]
    assert fly["primary_region"]
    assert (here / fly["build"]["dockerfile"]).is_file()
    assert (here / fly["build"]["ignorefile"]).is_file()
    assert re.search(rf"(0\.0\.0\.0:|--port ){fly['http_service']['internal_port']}\b", command)
    (grace,) = map(int, re.findall("graceful-(?:shutdown|timeout) ([0-9]+)", command))
    assert grace < int(fly["kill_timeout"].removesuffix("s"))
    (check,) = fly["http_service"]["checks"]
    assert check["path"] == "/healthz"
    assert 'passthrough_paths=["/healthz"]' in (here / "app.py").read_text()

    files = {f"examples/{folder}/{name}" for name in ("app.py", "migrate.py", "litefs.yml", "requirements.txt")}
    assert set(copied_files(folder)) == {"pyproject.toml", "README.md", "LICENSE", "litefs_watch"} | files
    assert f"COPY examples/{folder}/litefs.yml /etc/litefs.yml\n" in dockerfile
    assert "COPY --from=flyio/litefs:0.5 /usr/local/bin/litefs /usr/local/bin/litefs\n" in dockerfile
    assert re.search(r"apt-get install .*\bca-certificates\b.*\bfuse3\b", dockerfile)
    assert dockerfile.endswith('\nENTRYPOINT ["litefs", "mount"]\n')
    assert f"fly deploy . --config examples/{folder}/fly.toml" in (here / "fly.toml").read_text()
    server = command.split(" -- ")[1].split()[0]
    assert re.search(rf"^{server}\b", (here / "requirements.txt").read_text(), re.MULTILINE)
