from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Position
from litefs_watch.core.readings import Mount, Named
from litefs_watch.sources.directory import Directory, mount_kind

POSITION = "0000000000000005/8000000000000001\n"
MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:35 / /litefs rw,nosuid,nodev,relatime shared:20 - fuse litefs rw,user_id=0,group_id=0,allow_other
41 22 0:36 / /srv/my\\040data rw master:1 - fuse litefs rw
42 22 0:37 / /other rw - fuse sshfs rw
43 22 0:38 / /twice rw - fuse litefs rw
44 43 0:39 / /twice rw - tmpfs tmpfs rw
45 22 0:40 / /sub rw - fuse.litefs litefs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/litefs", Mount.LITEFS),
        ("/srv/my data", Mount.LITEFS),
        ("/sub", Mount.LITEFS),
        ("/other", Mount.ORDINARY),
        ("/twice", Mount.ORDINARY),  # mounted over
        ("/litefs2", Mount.ORDINARY),
        ("/", Mount.ORDINARY),
        ("/nowhere", Mount.ORDINARY),
    ],
)
def test_litefs_mount_is_recognised(path: str, kind: Mount) -> None:
    """Type fuse from source litefs, in proc(5)'s format: octal escapes, optional fields, the later of two on one place."""
    assert mount_kind(Path(path), MOUNTINFO) is kind


def test_a_link_to_the_mount_is_followed(tmp_path: Path) -> None:
    """Over several links, relative ones, and one amid the path; those that lead in a circle lead nowhere."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "direct").symlink_to(tmp_path / "mnt")
    (tmp_path / "relative").symlink_to("./direct")
    (tmp_path / "above").symlink_to(tmp_path)
    (tmp_path / "deep" / "inner").mkdir(parents=True)
    (tmp_path / "jump").symlink_to("deep/inner")
    (tmp_path / "upwards").symlink_to("jump/../../mnt/")
    (tmp_path / "round").symlink_to("about")
    (tmp_path / "about").symlink_to("round")
    mountinfo = f"42 22 0:37 / {tmp_path.resolve()}/mnt rw - fuse litefs rw\n"
    for name in (
        "mnt",
        "direct",
        "relative",
        "above/relative",
        "relative/sub",
        "mnt/../direct",
        "direct/",
        "upwards",
        "mnt/sub/..",
    ):
        assert mount_kind(tmp_path / name, mountinfo) is Mount.LITEFS, name
    for name in ("above", "round", "nothing", "jump/../mnt"):
        assert mount_kind(tmp_path / name, mountinfo) is Mount.ORDINARY, name


@given(st.text())
def test_any_mountinfo_has_an_answer(text: str) -> None:
    """No text crashes it."""
    assert mount_kind(Path("/litefs"), text) in Mount


def test_a_look_sees_everything(tmp_path: Path) -> None:
    """Positions, the primary, the lag, and when it began."""
    (tmp_path / "app.db-pos").write_text(POSITION)
    (tmp_path / "b.db-pos").write_text(POSITION)
    (tmp_path / "app.db-wal").write_text("no position")
    (tmp_path / "-pos").write_text("no database has no name")
    (tmp_path / ".primary").write_text("node-b\n")
    (tmp_path / ".lag").write_text("+000000506\n")
    before = time.monotonic()
    read = Directory(tmp_path).look([])
    assert before <= read.began <= time.monotonic()
    assert read.mount is Mount.ORDINARY
    assert read.positions == {"app.db": Position(5, 2**63 + 1), "b.db": Position(5, 2**63 + 1)}
    assert (read.primary, read.lag_ms, read.faults) == (Named("node-b"), 506, {})


def test_a_database_that_is_asked_for_need_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteFS lists no dropped database, but its -pos can still be opened."""
    (tmp_path / "app.db-pos").write_text(POSITION)
    monkeypatch.setattr(os, "listdir", lambda _: [])
    assert Directory(tmp_path).look([]).positions == {}
    assert Directory(tmp_path).look(["app.db", "new.db"]).positions == {"app.db": Position(5, 2**63 + 1)}


def test_no_directory_is_away(tmp_path: Path) -> None:
    """Not mounted yet, or a file in its place."""
    gone = Directory(tmp_path / "gone").look([])
    assert gone.mount is Mount.AWAY
    assert "No such file" in gone.faults["."]
    (tmp_path / "file").write_text("")
    assert Directory(tmp_path / "file").look([]).mount is Mount.AWAY


BAD_POSITIONS = {
    "empty": b"",
    "half-written": POSITION.encode()[:20],
    "garbage": b"\x00\x01garbage",
    "10 MB": b"0" * 10_000_000,
    "not UTF-8": b"\xff" * 33,
}


@pytest.mark.parametrize("content", BAD_POSITIONS.values(), ids=BAD_POSITIONS)
def test_a_bad_position_is_a_fault(tmp_path: Path, content: bytes) -> None:
    """Named by file, with what was seen; the other databases are read."""
    (tmp_path / "app.db-pos").write_bytes(content)
    (tmp_path / "b.db-pos").write_text(POSITION)
    read = Directory(tmp_path).look([])
    assert list(read.positions) == ["b.db"]
    assert "not a position" in read.faults["app.db-pos"]
    some, faults = Directory(tmp_path).positions(["app.db", "b.db"])
    assert list(some.positions) == ["b.db"]
    assert list(faults) == ["app.db-pos"]


def test_a_position_that_is_no_file_is_a_fault(tmp_path: Path) -> None:
    """A directory; a FIFO, which must not hold the thread; a link to itself."""
    (tmp_path / "app.db-pos").mkdir()
    os.mkfifo(tmp_path / "fifo.db-pos")
    (tmp_path / "loop.db-pos").symlink_to("loop.db-pos")
    read = Directory(tmp_path).look([])
    assert read.positions == {}
    assert set(read.faults) == {"app.db-pos", "fifo.db-pos", "loop.db-pos"}
    assert "directory" in read.faults["app.db-pos"]


def test_an_unreadable_file_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions: this process may not be the one that LiteFS was configured for."""
    (tmp_path / "app.db-pos").write_text(POSITION)
    opened = os.open

    def refuse(path: Path, flags: int) -> int:
        if str(path).endswith("-pos"):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    assert Directory(tmp_path).look([]).faults == {"app.db-pos": "app.db-pos: Permission denied"}


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"\x1b]0;x\x07\n", b"x" * 5000])
def test_a_bad_primary_is_a_fault_and_no_primary(tmp_path: Path, content: bytes) -> None:
    """Control characters, two lines, very long, empty."""
    (tmp_path / ".primary").write_bytes(content)
    (tmp_path / ".lag").write_text("+000000000\n")
    read = Directory(tmp_path).look([])
    assert read.primary is None
    assert ".primary" in read.faults
    assert read.lag_ms == 0


def test_a_bad_lag_is_a_fault_and_an_absent_one_is_not(tmp_path: Path) -> None:
    """LiteFS before 0.5 has none."""
    assert Directory(tmp_path).look([]).faults == {}
    (tmp_path / ".lag").write_text("soon\n")
    read = Directory(tmp_path).look([])
    assert read.lag_ms is None
    assert "milliseconds" in read.faults[".lag"]


def test_each_look_opens_the_files_anew(tmp_path: Path) -> None:
    """A held descriptor keeps its first answer on LiteFS's mount: here, one of a file that was replaced."""
    directory = Directory(tmp_path)
    (tmp_path / "app.db-pos").write_text(POSITION)
    directory.look([])
    (tmp_path / "new").write_text(POSITION.replace("5/", "6/"))
    (tmp_path / "new").rename(tmp_path / "app.db-pos")
    assert directory.look([]).positions["app.db"].txid == 6


def test_a_name_can_not_write_the_log(tmp_path: Path) -> None:
    """Names are anybody's who can write to an ordinary directory."""
    (tmp_path / "a\n2026-01-01 role: primary\x1b[0m-pos").write_text("garbage")
    (fault,) = Directory(tmp_path).look([]).faults.values()
    assert fault.isprintable()


def test_a_look_stops_when_its_time_is_over(tmp_path: Path) -> None:
    """After what is wanted first and one more; what it did not come to is told, in the order of the names, and around."""
    for number in range(6):
        (tmp_path / f"{number}.db-pos").write_text("0000000000000001/8000000000000000\n")
    (tmp_path / ".lag").write_text("+000000000\n")
    directory = Directory(tmp_path)
    read, left = directory.begin_look(["4.db"], ["dropped.db"], start="2.db", within=0)
    assert set(read.positions) == {"4.db", "2.db"}
    assert left == ["3.db", "5.db", "dropped.db", "0.db", "1.db"]
    some, _, left = directory.go_on(["4.db"], left, within=0)
    assert set(some.positions) == {"4.db", "3.db"}
    some, _, left = directory.go_on([], left, within=60)
    assert set(some.positions) == {"5.db", "0.db", "1.db"}
    assert left == []


def test_without_lag_a_look_is_whole(tmp_path: Path) -> None:
    """Whether any database is there decides on the role then."""
    for number in range(6):
        (tmp_path / f"{number}.db-pos").write_text("0000000000000001/8000000000000000\n")
    read, left = Directory(tmp_path).begin_look([], within=0)
    assert len(read.positions) == 6
    assert left == []
