"""``litefs-watch serve`` as a process: its start, its end, what systemd hears, and clients that leave."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import click
import pytest

from litefs_watch.cli.app import app, run
from litefs_watch.testing import SimulatedNode
from tests.docs.pages import PAGES

Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
SOON = 20.0


def port_of(process: subprocess.Popen[str]) -> int:
    """Where it serves, once it does."""
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline())["url"].rstrip("/").rpartition(":")[2])


def asked(port: int, path: str, *headers: str) -> socket.socket:
    """A connection on which that is asked."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=SOON)
    lines = [f"GET {path} HTTP/1.1", "host: localhost", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def answered(connection: socket.socket) -> str:
    """All that comes until the connection is closed, or the answer is whole."""
    text = b""
    with connection:
        while piece := connection.recv(65536):
            text += piece
            head, _, body = text.partition(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
            if length and len(body) >= int(length[0].partition(b": ")[2]):
                break
    return text.decode()


def waiting(port: int) -> Any:
    """What the sidecar says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=SOON) as answer:
        return json.load(answer)["sidecar"]


def test_a_signal_ends_it_cleanly_and_systemd_hears_of_all(node: SimulatedNode, start: Start) -> None:
    """Who waits gets 503, a stream its last event; one that asks nothing keeps nobody. Status 0, and no word."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(f"\0litefs-watch-test-{id(systemd)}")
        systemd.settimeout(SOON)
        env = {"NOTIFY_SOCKET": "@" + systemd.getsockname()[1:].decode(), "WATCHDOG_USEC": "20000"}
        with start(node, "serve", "--port", "0", "--json", env=env) as process:
            port = port_of(process)
            heard = {systemd.recv(100)}
            while heard < {b"READY=1", b"WATCHDOG=1"}:
                heard.add(systemd.recv(100))
            waits, follows = asked(port, "/wait?txid=99&timeout=50"), asked(port, "/events")
            idle, half = socket.create_connection(("127.0.0.1", port)), asked(port, "/status", "x: y")
            half.close()
            while waiting(port).items() < {"waiting": 1, "subscribers": 1}.items():
                pass
            while b"event: status" not in follows.recv(65536):
                pass
            process.send_signal(signal.SIGTERM)
            assert "503 Service Unavailable" in (late := answered(waits))
            assert "the watcher was stopped while transaction 99 of app.db was waited for" in late
            assert "event: closing" in answered(follows)
            assert process.wait(SOON) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
            idle.close()
        while b"STOPPING=1" not in heard:
            heard.add(systemd.recv(100))
        assert heard == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}


def test_who_leaves_makes_room(node: SimulatedNode, start: Start) -> None:
    """At once, though it asked for a minute; from a wait and from a stream."""
    with start(node, "serve", "--port", "0", "--json", "--max-waiting", "1", "--max-subscribers", "1") as process:
        port = port_of(process)
        for path, what in (("/wait?txid=99&timeout=60", "waiting"), ("/events", "subscribers")):
            leaves = asked(port, path)
            while waiting(port)[what] != 1:
                pass
            assert "429 Too Many Requests" in answered(asked(port, path))
            leaves.close()
            while waiting(port)[what] != 0:
                pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_starts_ends_it(node: SimulatedNode, start: Start, number: signal.Signals) -> None:
    """LiteFS answers nothing, and the start waits for it. SIGHUP is that of a terminal which is closed."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        api = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"LITEFS_API_URL": api, "LITEFS_DIR": str(node.litefs_dir)}
        with start(node, "serve", "--port", "0", env=env) as process:
            silent.settimeout(SOON)
            with silent.accept()[0]:  # it asks, so it has begun
                process.send_signal(number)
                assert process.wait(SOON) == 0


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        (["--host", "0.0.0.0"], {}, "--host 0.0.0.0 can be reached from other machines: whoever asks there needs a token"),
        (["--host", "::"], {}, "--host :: can be reached from other machines"),
        ([], {"LITEFS_WATCH_TOKEN": "short"}, "LITEFS_WATCH_TOKEN: a token is 16 printable ASCII characters or more"),
        (["--token-file", "{empty}"], {}, "a token is 16 printable ASCII characters or more"),
        (["--token-file", "/nowhere/token"], {}, "'/nowhere/token' does not exist"),
        (["--max-timeout", "nan"], {}, "nan is no number of seconds"),
    ],
)
def test_what_can_t_be_meant_is_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    env: dict[str, str],
    message: str,
) -> None:
    """One line, and nobody is served."""
    (tmp_path / "empty").touch()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    words = [word.format(empty=tmp_path / "empty") for word in words]
    assert run(["serve", "--dir", "/nowhere", "--port", "0", *words]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is watched."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        assert run(["serve", "--dir", "/nowhere", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"litefs-watch: --host 127.0.0.1 --port {port}: Address already in use\n"


def test_few_descriptors_are_enough(node: SimulatedNode, start: Start) -> None:
    """Where a client opens more connections than there is room for, it is in nobody's way but other clients': the watcher
    still reads, and nothing is on stderr."""
    limited = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    with start(node, "serve", "--port", "0", "--json", inherited=limited) as process, ExitStack() as crowd:
        port = port_of(process)
        for _ in range(400):
            connection = socket.create_connection(("127.0.0.1", port), timeout=SOON)
            crowd.enter_context(connection)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""  # the last was closed, so all of them were accepted
        crowd.close()
        served = ""
        while "200 OK" not in served:
            with suppress(ConnectionError):
                served = answered(asked(port, "/position"))
        process.terminate()
        assert process.wait(SOON) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_reader_that_has_gone_is_141(node: SimulatedNode, start: Start) -> None:
    """``litefs-watch serve | true``: without a word, as with the other commands."""
    with start(node, "serve", "--port", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(SOON) == 141
        assert process.stderr.read() == ""


def test_each_option_stands_on_the_page() -> None:
    """With its default; and no other."""
    command: Any = app.get_command(click.Context(app), "serve")
    rows = [row.split("|")[1:3] for row in PAGES["serve.md"].splitlines() if row.startswith("| `-")]
    named = {word.strip("` "): default.strip(" `") for words, default in rows for word in words.split(",")}
    options = {parameter.opts[0]: parameter for parameter in command.params}
    assert named.keys() - {"-vv", "-v"} == options.keys() - {"--json", "-v", "--help"} - {"-d"} | {"--database"}
    for name in ("--host", "--port", "--max-waiting", "--max-subscribers", "--max-timeout", "--kept"):
        assert str(options[name].default).removesuffix(".0").endswith(named[name])


def test_without_its_extra_it_says_what_to_install() -> None:
    """One line."""
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv[1:] = ['serve', '--dir', '/x', '--database', 'app.db']\n"
        "from litefs_watch.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SOON)
    assert (done.returncode, done.stderr) == (1, "litefs-watch: serve needs uvicorn: pip install 'litefs-watch[serve]'\n")
