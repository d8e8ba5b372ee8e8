"""The doctor finds each fault by its code, where that fault really is; and nothing on a healthy node."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litefs_watch import Position, Settings
from litefs_watch.cli.app import run as call
from litefs_watch.core.readings import DirectoryRead, Mount, Named
from litefs_watch.operate.doctor import gathering
from litefs_watch.operate.doctor.facts import Api, Config
from litefs_watch.operate.doctor.findings import CODES, Severity, examine
from litefs_watch.operate.doctor.gathering import gather, who_holds
from litefs_watch.sources.wire import Info
from litefs_watch.testing import SimulatedNode, fuse_available
from tests.environment import environment_of
from tests.operate.doctor.looking import PATIENCE, codes, facts

Run = Callable[..., subprocess.CompletedProcess[str]]
PAGE = Path(__file__).parents[3] / "docs" / "doctor.md"
on_fuse = pytest.mark.skipif(fuse_available() is not None, reason=fuse_available() or "")


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with SimulatedNode() as node:
        yield node


async def test_a_healthy_node(node: SimulatedNode) -> None:
    """Nothing: on the primary, and on a replica that follows."""
    assert await codes(node.settings()) == []
    node.set_primary("node-b")
    node.heartbeat()
    assert await codes(node.settings()) == []


@on_fuse
async def test_a_healthy_mount() -> None:
    """Nor on a mount."""
    with SimulatedNode(fuse=True) as node:
        assert await codes(node.settings()) == []


async def test_no_directory_and_an_empty_one(node: SimulatedNode, tmp_path: Path) -> None:
    """Whether LiteFS answers or not."""
    assert await codes(node.settings(litefs_dir=tmp_path / "nowhere")) == ["no-directory"]
    (tmp_path / "mnt").mkdir()
    assert await codes(node.settings(litefs_dir=tmp_path / "mnt")) == ["not-mounted"]
    assert await codes(Settings(tmp_path / "mnt", api_url=None)) == ["not-mounted"]


@on_fuse
async def test_a_mount_whose_litefs_has_died() -> None:
    """And its API is away."""
    with SimulatedNode(fuse=True) as node:
        node.kill()
        assert sorted(await codes(node.settings())) == ["api-away", "dead-mount"]


@on_fuse
async def test_a_frozen_node() -> None:
    """It is found out in time, and nothing hangs."""
    with SimulatedNode(fuse=True) as node:
        node.freeze()
        assert sorted(await codes(node.settings())) == ["api-away", "frozen"]
        node.thaw()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Somebody else's server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.recv(1)  # until the client has had enough

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "api-foreign"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "api-foreign"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "api-foreign"),
        (b"220 mail.example.com ESMTP\r\n", "api-away"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 100_000, "api-foreign"),
        (b"", "api-away"),
    ],
)
async def test_something_else_answers(node: SimulatedNode, answer: bytes, code: str) -> None:
    """A web server, one that never ends; a mail server, which waits for more, as one does that says nothing."""
    with answering(answer) as url:
        assert await codes(node.settings(api_url=url)) == [code]


async def test_litefs_answers_on_another_port(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said."""
    monkeypatch.setattr(gathering, "addresses", lambda yml: [node.api_url])
    (finding,) = examine(await gather(node.settings(api_url="http://127.0.0.1:1"), PATIENCE))
    assert finding.code == "api-elsewhere"
    assert f"LITEFS_API_URL={node.api_url}" in finding.remedy


async def test_a_stream_that_is_refused(node: SimulatedNode) -> None:
    """Though the rest of the API answers."""
    node.stream_available = False
    assert await codes(node.settings()) == ["stream-refused"]


async def test_a_data_directory_that_can_not_be_read(node: SimulatedNode, tmp_path: Path) -> None:
    """Or is not there: a warning."""
    facts = await gather(node.settings(data_dir=tmp_path / "nowhere"), PATIENCE)
    (finding,) = examine(facts)
    assert (finding.code, finding.severity) == ("data-directory", Severity.WARNING)


async def test_inotify_used_up(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit that was hit."""
    assert gathering.inotify_fault() is None
    monkeypatch.setattr(gathering, "inotify_fault", lambda: "Too many open files; fs.inotify.max_user_instances is 128")
    assert await codes(node.settings()) == ["inotify-limit"]


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_inotify_really_used_up(limit: str) -> None:
    """In a user namespace, whose limits are nobody else's."""
    own = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    code = "from litefs_watch.operate.doctor.gathering import inotify_fault; print(inotify_fault())"
    setting = f'echo 0 > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    words = [*own, "sh", "-c", setting, "sh", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    assert f"fs.inotify.max_user_{limit} is " in done.stdout


async def test_a_misspelt_database(node: SimulatedNode) -> None:
    """Those that are there are named."""
    (finding,) = examine(await gather(node.settings(database="ap.db"), PATIENCE))
    assert finding.code == "no-database"
    assert "did you mean 'app.db'?" in finding.seen


async def test_a_file_that_can_not_be_understood(node: SimulatedNode) -> None:
    """Is named, and what is in it."""
    (node.litefs_dir / "app.db-pos").write_bytes(b"garbage\n")
    (finding,) = examine(await gather(node.settings(), PATIENCE))
    assert (finding.code, "app.db-pos" in finding.seen) == ("unreadable", True)


async def test_no_primary_no_first_replication_and_lag(node: SimulatedNode) -> None:
    """By ``.primary`` and ``.lag``, at both looks."""
    node.lose_primary()
    assert await codes(node.settings()) == ["no-primary"]
    node.set_primary("node-b")
    for lag, code in ((2147483647, "never-replicated"), (11_000, "lag"), (-50, None)):
        node.set_lag(lag)
        assert await codes(node.settings()) == ([code] if code else [])


async def test_two_nodes_of_one_name(node: SimulatedNode) -> None:
    """A replica whose primary is called as itself; not for the moment of a hand-over, nor on the primary."""
    node.set_primary("node-b")
    node.heartbeat()
    assert await codes(node.settings(hostname="node-b")) == ["same-hostname"]
    self_named = DirectoryRead(0.0, Mount.LITEFS, Named("node-b"), 0, {"app.db": Position(5)})
    assert [each.code for each in examine(facts(hostname="node-b", first=self_named, second=self_named))] == [
        "same-hostname"
    ]
    assert examine(facts(hostname="node-b", second=self_named)) == []
    leads = Api("http://localhost:20202", Info(isPrimary=True))
    assert examine(facts(hostname="node-b", first=self_named, second=self_named, api=leads)) == []


@pytest.mark.parametrize(("kind", "expected"), [("consul", ["same-hostname"]), ("static", [])])
def test_a_name_in_litefs_yml(kind: str, expected: list[str]) -> None:
    """Is this node's own; but of a static lease, where it is the primary's."""
    yml = Config(Path("litefs.yml"), values={"lease": {"type": kind, "hostname": "node-b"}})
    named = DirectoryRead(0.0, Mount.LITEFS, Named("node-b"), 0, {"app.db": Position(5)})
    assert [each.code for each in examine(facts(litefs_yml=yml, first=named, second=named))] == expected


async def test_no_thread_can_be_had(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and nothing is taken for frozen; a look's own error is another."""

    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("litefs_watch.sources.thread.lend", none_left)
    found = examine(await gather(node.settings(), PATIENCE))
    assert [finding.code for finding in found] == ["thread-limit"]
    assert "can't start new thread" in found[0].seen
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await gathering.within(10, none_left)


@pytest.mark.parametrize(("yml", "status"), [("proxy: {addr: ':8080'}", 0), ("proxy: [", 1)])
def test_json_and_exit_status_agree(
    node: SimulatedNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    yml: str,
    status: int,
) -> None:
    """Warnings leave both well."""
    (tmp_path / "own.yml").write_text(yml)
    for name, value in environment_of(node).items():
        monkeypatch.setenv(name, value)
    assert call(["doctor", "--json", "--patience", "0.1", "--config", str(tmp_path / "own.yml")]) == status
    record = json.loads(capsys.readouterr().out)
    assert record["ok"] is (status == 0)
    assert len(record["findings"]) == 1


def test_who_has_a_database_open(tmp_path: Path) -> None:
    """Through a symbolic link, too; nobody where nobody has."""
    (tmp_path / "real").write_bytes(b"")
    (tmp_path / "app.db").symlink_to(tmp_path / "real")
    assert who_holds(tmp_path, ["app.db"]) == {}
    with (tmp_path / "app.db").open("rb"):
        ((holder,),) = who_holds(tmp_path, ["app.db"]).values()
    assert holder.pid == os.getpid()


def test_names_from_outside_reach_no_terminal() -> None:
    """Whoever names a primary, or a file, writes no control codes."""
    evil = "a\x1b[2J"
    read = DirectoryRead(0.0, Mount.LITEFS, Named(evil), 99_000, {"app.db": Position(5)}, {evil: evil})
    found = examine(facts(first=read, second=read, fly_toml=Config(Path(evil), fault=evil)))
    assert len(found) == 3
    assert all(text.isprintable() for finding in found for text in (finding.seen, finding.remedy))


def test_the_worst_comes_first() -> None:
    """Errors, warnings, notes."""
    yml = Config(Path("litefs.yml"), values={"proxy": {"addr": ":1"}})
    found = examine(facts(standalone=True, litefs_yml=yml, fly_toml=Config(Path("f"), fault="no TOML")))
    assert [finding.severity.name for finding in found] == ["ERROR", "WARNING", "NOTE"]


def test_each_code_has_its_section() -> None:
    """In docs/doctor.md, in the same order, and no other has."""
    assert re.findall(r"^## ([a-z-]+)$", PAGE.read_text(), re.MULTILINE) == list(CODES)


def test_the_command(node: SimulatedNode, run: Run) -> None:
    """One line where all is well; a paragraph for each finding, 80 columns wide, and status 1; JSON."""
    done = run(node, "doctor", "--patience", "0.2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing wrong\nlooked at /")
    done = run(node, "doctor", "--patience", "0.2", "-d", "ap.db")
    assert done.returncode == 1
    assert re.match(r"error  no-database\n  There is no database 'ap\.db'", done.stdout)
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    found = json.loads(run(node, "doctor", "--patience", "0.2", "-d", "ap.db", "--json").stdout)
    assert (found["ok"], [finding["code"] for finding in found["findings"]]) == (False, ["no-database"])
    assert run(None, "doctor").returncode == 2
