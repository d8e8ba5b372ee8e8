"""``litefs-watch top``: what it makes of what it saw, and how it behaves on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from fcntl import ioctl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from litefs_watch import Cluster, Peer, Position, PrimaryChange, Role, Status, TxChange
from litefs_watch.cli.top.history import RATED, SAMPLES, History
from litefs_watch.cli.top.screen import Page, lines, sparkline
from litefs_watch.status import SourceStatus
from litefs_watch.testing import SimulatedCluster, SimulatedNode

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]

SOON = 20.0
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ALIVE = SourceStatus(True, NOW, "connected")


def status(**changed: object) -> Status:
    known = Status("here", Role.PRIMARY, None, {"app.db": Position(5)}, 0.0, True, {"stream": ALIVE, "reread": ALIVE})
    return replace(known, **changed)  # type: ignore[arg-type]


def peer(url: str = "http://there:20202", **changed: object) -> Peer:
    known = Peer(url, "A1", True, NOW, NOW, Role.REPLICA, "here", {"app.db": Position(3)}, {"app.db": 2}, True, "connected")
    return replace(known, **changed)  # type: ignore[arg-type]


def shown(history: History, width: int = 80, height: int = 24, **page: bool) -> list[str]:
    return [line.plain for line in lines(history, Page(width, height, NOW, **page))]


def test_a_rate_is_taken_over_the_last_samples() -> None:
    """A second of 4, a second of 2: 3 a second. A database that went back starts anew; what came later is no rate yet."""
    history = History()
    assert history.databases() == []
    for at, txid in enumerate((5, 9, 11)):
        history.sample(float(at), status(positions={"app.db": Position(txid)}), Cluster())
    assert [row.rate for row in history.databases()] == [3.0]
    history.sample(3.0, status(positions={"app.db": Position(4), "new.db": Position(1)}), Cluster())
    assert {row.name: row.rate for row in history.databases()} == {"app.db": None, "new.db": None}
    for at in range(4, 6 + RATED):
        history.sample(float(at), status(positions={"app.db": Position(at)}), Cluster())
    assert [(row.name, row.rate) for row in history.databases()] == [("app.db", 1.0)]  # the one that is gone is forgotten


def test_nothing_grows() -> None:
    """Minutes of samples, peers that come and go, and changes by the thousand."""
    history = History()
    for number in range(2 * SAMPLES):
        history.sample(float(number), status(), Cluster((peer(f"http://n{number}:1"),)))
        history.tell(NOW, PrimaryChange(Role.PRIMARY, None, Role.UNKNOWN, None))
    here, other = history.nodes()
    assert (len(here.past), len(other.past), len(history.changes)) == (SAMPLES, 1, 200)


def test_what_is_told() -> None:
    """A change of the primary, and writes that are lost; a transaction is no line. Names reach no control codes."""
    history = History()
    history.tell(NOW, PrimaryChange(Role.REPLICA, "a\x1b[2Jb", Role.UNKNOWN, None))
    history.tell(NOW, TxChange("app.db", Position(8), Position(7)))
    history.tell(NOW, TxChange("app.db", Position(3), Position(9), rewound=6))
    assert list(history.changes) == [
        "03:04:05Z  replica of a\\x1b[2Jb",
        "03:04:05Z  app.db went from 9 to 3 of another history: writes are lost",
    ]


def test_who_is_away_and_who_does_not_count() -> None:
    """Is said beside it, instead of its past."""
    history = History()
    away = peer("http://c:1", connected=False, behind={}, counts=False, detail="connection refused")
    history.sample(0.0, status(), Cluster((peer(), away)))
    history.sample(1.0, status(), Cluster((peer(), away)))
    text = shown(history, 100)
    assert re.fullmatch(r"  here \(this\) +primary +0\.000 s +▁▁", text[2])
    assert re.fullmatch(r"  http://there:20202 +replica of here +2 tx +██", text[3])
    assert re.fullmatch(r"  http://c:1 +away +- +connection refused", text[4])
    assert "2 behind elsewhere" in "\n".join(text)


@given(
    width=st.integers(0, 250),
    height=st.integers(0, 80),
    names=st.lists(st.text(max_size=300), max_size=12, unique=True),
    peers=st.integers(0, 12),
    changes=st.integers(0, 12),
    plain=st.booleans(),
)
def test_it_fits_every_window(width: int, height: int, names: list[str], peers: int, changes: int, plain: bool) -> None:
    """No line is wider, and there are no more than there is room for."""
    history = History()
    for at in range(3):
        known = status(positions={name: Position(at + 1) for name in names})
        history.sample(float(at), known, Cluster(tuple(peer(f"http://{n}") for n in range(peers))))
    for _ in range(changes):
        history.tell(NOW, PrimaryChange(Role.PRIMARY, None, Role.UNKNOWN, None))
    text = shown(history, width, height, plain=plain)
    assert len(text) <= height
    assert all(cell_len(line) <= max(width, 1) for line in text)


def test_what_gets_no_room_is_counted() -> None:
    """In the title of each section; the keys stay at the end."""
    history = History()
    history.sample(0.0, status(positions={f"{n}.db": Position(1) for n in range(50)}), Cluster())
    text = shown(history, height=14)
    assert (len(text), text[-1][:6]) == (14, "q quit")
    assert "databases  (46 more)" in text
    assert "q quit" not in "".join(shown(history, keys=False))
    assert [line for line in shown(history, height=7) if not line.startswith(" ")][1:-1] == ["nodes", "databases  (48 more)"]


@pytest.mark.parametrize(
    ("past", "bars"),
    [
        ([], "    "),
        ([0, 2, 4], " ▁▅█"),
        ([None, 1, None, 2], " ▅ █"),
        ([9, 0, 0, 0, 0], "▁▁▁▁"),
        ([0.1, 0.2, -5.0], " ▁▂▁"),  # less than a second is no full bar; a clock that is behind is no lag
    ],
)
def test_a_sparkline(past: list[float | None], bars: str) -> None:
    """The newest to the right, the highest full, a gap where nothing was known."""
    assert sparkline(past, 4) == bars
    assert sparkline(past, 4, plain=True).isascii()


def test_once(node: SimulatedNode, run: Run) -> None:
    """One screen of plain text, 80 columns wide in a pipe."""
    done = run(node, "top", "--once", "--doctor", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(r"^  app\.db +1 +- tx/s$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80
    options = ("--once", "--doctor", "0", "--dir", "/nowhere")
    assert run(None, "top", *options, LITEFS_API_URL="none").returncode == 1


def test_a_line_each_interval_in_a_pipe(start: Start) -> None:
    """As text, and as JSON, with what the other nodes say."""
    with SimulatedCluster(size=2, fuse=False) as cluster:
        env = {"LITEFS_PEERS": cluster["node-b"].api_url}
        with start(cluster["node-a"], "top", "--interval", "0.1", env=env) as process:
            assert process.stdout is not None
            line = ""
            while "1 of 1 other nodes heard   app.db 1 (0.0 tx/s)" not in line:
                line = process.stdout.readline()
                assert line
            assert re.match(r"\d\d:\d\d:\d\dZ   primary   lag 0\.000 s   ", line)
        with start(cluster["node-a"], "top", "--json", env=env) as process:
            assert process.stdout is not None
            record = json.loads(process.stdout.readline())
            assert (record["role"], record["rates"]) == ("primary", {"app.db": None})
            assert [other["url"] for other in record["cluster"]["peers"]] == [cluster["node-b"].api_url]


@pytest.mark.parametrize("interrupted", [False, True])
def test_on_a_terminal(node: SimulatedNode, start: Start, interrupted: bool) -> None:
    """It draws, follows the window's size, holds and goes on; ``q`` or SIGINT ends it. The terminal is as it was."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with start(node, "top", stdin=theirs, stdout=theirs, env={"TERM": "xterm", "COLUMNS": "80"}) as process:
        assert b"\x1b[?1049h" in read_until(ours, rb"q quit")
        assert termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO) == 0
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 40, 0, 0))
        read_until(ours, "c clear the chang…".encode())
        os.write(ours, b" ")
        read_until(ours, rb"held")
        os.write(ours, b" ")
        if interrupted:
            process.send_signal(signal.SIGINT)
        else:
            os.write(ours, b"q")
        read_until(ours, rb"\x1b\[\?1049l")
        assert process.wait() == (130 if interrupted else 0)
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)


def read_until(descriptor: int, pattern: bytes) -> bytes:
    shown = b""
    while not re.search(pattern, shown):
        assert select.select([descriptor], [], [], SOON)[0], shown
        shown += os.read(descriptor, 65536)
    return shown


def test_a_signal_ends_it(node: SimulatedNode, start: Start) -> None:
    """With its status, and no word."""
    with start(node, "top") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
        assert (process.returncode, err) == (143, "")
