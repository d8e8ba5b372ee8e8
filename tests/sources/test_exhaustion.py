"""No descriptor is to be had for a moment: what was known of the mount stays so."""

from __future__ import annotations

import errno
from pathlib import Path

import anyio
import pytest

from litefs_watch import Role
from litefs_watch.core.readings import Mount
from litefs_watch.core.state import NodeState
from litefs_watch.sources.directory import RECHECK_INTERVAL, Directory
from litefs_watch.sources.files import FolderWatch
from tests.sources.test_files import Recorder, running

MOUNTINFO = Path("/proc/self/mountinfo")


class Mounts:
    """What the system says of its mounts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = MOUNTINFO.read_bytes().decode()
        self.error: OSError | None = None
        real = Path.read_text

        def read(path: Path, *args: str, **options: str) -> str:
            if path != MOUNTINFO:
                return real(path, *args, **options)
            if self.error is not None:
                raise self.error
            return self.text

        monkeypatch.setattr(Path, "read_text", read)


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    return Mounts(monkeypatch)


def used_up() -> OSError:
    return OSError(errno.EMFILE, "Too many open files", str(MOUNTINFO))


def test_a_list_of_mounts_that_cannot_be_read_makes_no_other_mount(tmp_path: Path, mounts: Mounts) -> None:
    """It was taken for an ordinary directory, for ten seconds: as if LiteFS had gone, and the role was UNKNOWN."""
    mounts.text = f"40 22 0:35 / {tmp_path.resolve()} rw - fuse litefs rw\n"
    (tmp_path / ".lag").write_text("+000000000\n")
    directory, state = Directory(tmp_path), NodeState("me", 0.0)
    for _ in range(2):
        state.apply(directory.look([]))
    assert state.role is Role.PRIMARY
    directory._recheck_at -= RECHECK_INTERVAL
    mounts.error = used_up()
    read = directory.look([])
    assert (read.mount, read.faults) == (Mount.LITEFS, {".": f"{tmp_path}: Too many open files"})
    state.apply(read)
    assert state.role is Role.PRIMARY
    mounts.error = None
    assert directory.look([]).faults == {}


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_without_a_list_of_mounts_all_are_ordinary(tmp_path: Path, mounts: Mounts, error: type[OSError]) -> None:
    """There is no ``/proc`` here, or none for us."""
    mounts.error = error()
    read = Directory(tmp_path).look([])
    assert (read.mount, read.faults) == (Mount.ORDINARY, {})


async def test_what_is_watched_stays_watched(tmp_path: Path, mounts: Mounts, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it a fault of ours, for which the source would be started anew."""
    recorder = Recorder()

    def check_now(watch: FolderWatch) -> None:
        watch._check_at = 0.0
        watch.stir()

    async with running(recorder.watch(tmp_path)) as watch:
        await recorder.until(lambda: watch.covers)
        slow, mounts.error = watch._slow, used_up()
        await recorder.until(lambda: watch.health.status.fault is not None, lambda: check_now(watch))
        assert watch.health.status.fault == f"{MOUNTINFO}: Too many open files"
        assert watch._slow is slow
        mounts.error = None
        await recorder.until(lambda: watch.health.status.fault is None, lambda: check_now(watch))
        await anyio.lowlevel.checkpoint()
        assert watch._slow is slow
        assert watch.covers
    assert "runs again" not in caplog.text
