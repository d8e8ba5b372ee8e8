"""The clients in other languages, against a real sidecar; and the unit for systemd."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest

from litefs_watch import Position
from litefs_watch.cli.app import app
from litefs_watch.testing import SimulatedNode
from tests.docs.pages import PAGES
from tests.environment import clean_environment, environment_of

HERE = Path(__file__).parent
SOON = 300.0
"""Seconds after which a test fails instead of waiting on: go compiles its own library first."""
TOKEN = "a-token-of-the-tests"
CLIENTS = {"node": ["node", str(HERE / "client.mjs")], "go": ["go", "run", str(HERE / "client.go")]}


@pytest.fixture(scope="module")
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        node.commit()
        yield node


@pytest.fixture(scope="module")
def environment(node: SimulatedNode) -> Iterator[dict[str, str]]:
    """Of a client of a sidecar that runs for all of them: with a token, and as a process of its own."""
    ours = clean_environment() | environment_of(node) | {"LITEFS_WATCH_TOKEN": TOKEN}
    words = [sys.executable, "-m", "litefs_watch", "serve", "--port", "0"]
    with subprocess.Popen(words, env=ours, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[2].rstrip("/")
            yield dict(os.environ) | {"LITEFS_WATCH_URL": url, "LITEFS_WATCH_TOKEN": TOKEN}
        finally:
            process.terminate()


def home_of(language: str, folder: Path) -> dict[str, str]:
    """Go keeps what it has compiled."""
    return {"HOME": str(folder)} if language == "node" else {}


def lost(node: SimulatedNode) -> Position:
    return Position(node.position().txid, 0x8000000000000BAD)


def late(node: SimulatedNode) -> Position:
    return Position(node.position().txid + 100, 0x8000000000000BAD)


@pytest.mark.parametrize("language", CLIENTS)
def test_a_client_marks_a_write_waits_and_follows(
    language: str, node: SimulatedNode, environment: dict[str, str], tmp_path: Path
) -> None:
    """What is written is here; what is lost is lost; the first event is the state. Without a sidecar nothing is known."""
    if shutil.which(language) is None:
        pytest.skip(f"there is no {language} on this machine")

    def run(*words: str, **more: str) -> tuple[int, str]:
        env = environment | home_of(language, tmp_path) | more
        done = subprocess.run([*CLIENTS[language], *words], env=env, capture_output=True, text=True, timeout=SOON)
        return done.returncode, done.stdout

    assert run("app.db") == (0, f"{node.position()} here\nstatus primary\n")
    assert run("app.db", str(lost(node))) == (0, f"{lost(node)} lost\nstatus primary\n")
    code, said = run("app.db", str(late(node)), LITEFS_WATCH_URL="http://127.0.0.1:9")
    assert (code, said.split("\n")[0]) == (1, f"{late(node)} late")


@pytest.mark.parametrize("language", CLIENTS)
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 No\r\ncontent-length: 99\r\n\r\n{"])
def test_a_client_waits_for_no_sidecar_that_hangs(language: str, answer: bytes, node: SimulatedNode, tmp_path: Path) -> None:
    """One that is stopped, or that ends in the midst of an answer: no longer than its own timeout, and a second."""
    if shutil.which(language) is None:
        pytest.skip(f"there is no {language} on this machine")
    with socket.create_server(("127.0.0.1", 0)) as hangs, ExitStack() as connections:
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        env = dict(os.environ) | home_of(language, tmp_path) | {"LITEFS_WATCH_URL": url}
        words = [*CLIENTS[language], "app.db", str(late(node))]
        with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
            watchdog = threading.Timer(SOON, process.kill)
            watchdog.start()
            hangs.settimeout(SOON)
            connection = connections.enter_context(hangs.accept()[0])
            if answer:
                connection.sendall(answer)
                connection.close()
            assert process.stdout is not None
            assert process.stdout.readline() == f"{late(node)} late\n"
            process.kill()
            watchdog.cancel()


def test_node_s_client_runs_from_anywhere(node: SimulatedNode, environment: dict[str, str], tmp_path: Path) -> None:
    """Through a symbolic link, and in a folder whose name is not fit for a URL."""
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    (tmp_path / "a folder").mkdir()
    copy, link = tmp_path / "a folder" / "client.mjs", tmp_path / "link.mjs"
    copy.write_bytes((HERE / "client.mjs").read_bytes())
    link.symlink_to(copy)
    for path in (copy, link):
        done = subprocess.run(["node", path, "app.db"], env=environment, capture_output=True, text=True, timeout=SOON)
        assert done.stdout == f"{node.position()} here\nstatus primary\n"


def test_the_page_s_php(node: SimulatedNode, environment: dict[str, str]) -> None:
    """What was written is here, what is not known is not; and so is nothing where no sidecar is."""
    if shutil.which("php") is None:
        pytest.skip("there is no php on this machine")
    (snippet,) = re.findall(r"```text\n(function sidecar.*?)```", PAGES["serve.md"], re.DOTALL)

    def run(position: str | None, url: str) -> Any:
        session = "$_SESSION = [];" if position is None else f"$_SESSION = ['position' => '{position}'];"
        stub = "$database = new class { function commit() {} };"
        told = "echo json_encode([$here, $_SESSION['position']]);"
        token = f"'http' => ['header' => 'authorization: Bearer {TOKEN}', "  # the page's sidecar has none
        code = snippet.replace("http://127.0.0.1:20203", url).replace("'http' => [", token)
        words = ["php", "-r", f"{stub} {session} {code} {told}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SOON)
        assert done.stderr == ""
        return json.loads(done.stdout)

    url, here = environment["LITEFS_WATCH_URL"], str(node.position())
    assert run(None, url) == run(here, url) == [True, here]
    assert run(str(lost(node)), url) == run("unknown", url) == [False, here]
    assert run(here, "http://127.0.0.1:9") == [False, "unknown"]


def test_a_container_s_start_ends_with_the_application(tmp_path: Path) -> None:
    """Which gets the signal, and whose status counts; the sidecar ends after it, and is waited for."""
    ends = "while :; do sleep 0.02; done"
    (tmp_path / "litefs-watch").write_text(f"#!/bin/sh\ntrap 'echo the sidecar ends; exit 0' TERM\necho $1; {ends}\n")
    (tmp_path / "litefs-watch").chmod(0o755)
    env = dict(os.environ) | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    words = [str(HERE / "start.sh"), "sh", "-c", f"trap 'echo the application ends; exit 7' TERM; echo runs; {ends}"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"serve\n", "runs\n"}
        process.terminate()
        assert process.stdout.read() == "the application ends\nthe sidecar ends\n"
        assert process.wait(SOON) == 7


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(HERE / "litefs-watch.service")
    return parser["Service"]


def test_the_unit_starts_what_there_is() -> None:
    """Its options, and those of its comments, are the command's; what it says of notification is so."""
    text = (HERE / "litefs-watch.service").read_text()
    service = unit()
    assert service["Type"] == "notify"
    command: Any = app.get_command(click.Context(app), "serve")
    known = {option for parameter in command.params for option in parameter.opts}
    commands = [line.partition("ExecStart=")[2] for line in text.splitlines() if "ExecStart=" in line]
    assert len(commands) == 2
    for words in map(shlex.split, commands):
        assert words[1] == "serve"
        assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """As it is, but for a program that is here."""
    copy = tmp_path / "litefs-watch.service"
    text = (HERE / "litefs-watch.service").read_text()
    copy.write_text(text.replace("/opt/litefs-watch/bin/litefs-watch", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=SOON)
    assert (done.returncode, done.stderr) == (0, "")
