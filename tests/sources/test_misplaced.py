"""A directory that is no mount, while LiteFS answers on its port."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from litefs_watch import WaitTimeout, Watcher
from litefs_watch.core.readings import DirectoryRead, Mount
from litefs_watch.operate.health import unready
from litefs_watch.position import Position
from litefs_watch.sources.misplaced import misplaced
from litefs_watch.testing import SimulatedNode, fuse_available


@pytest.mark.skipif(fuse_available() is not None, reason=str(fuse_available()))
async def test_a_wrong_directory_is_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """LiteFS's data directory: status and log name the right one, the log once, and such a node is not ready."""
    with SimulatedNode(tmp_path, fuse=True) as node:
        with caplog.at_level(logging.WARNING, "litefs_watch"):
            async with Watcher(node.settings(litefs_dir=node.data_dir, idle_interval=0.05)) as watcher:
                while watcher.statistics().rereads < 4:
                    await watcher.read_position()
                status = watcher.status
        said = status.faults["mount"]
        assert f"{node.data_dir} is not LiteFS's mount" in said
        assert str(node.litefs_dir) in said
        assert unready(status, 10) == said
        assert [r.getMessage() for r in caplog.records].count(said) == 1
        async with Watcher(node.settings()) as watcher:
            assert "mount" not in watcher.status.faults
            assert unready(watcher.status, 10) is None


def test_a_copy_of_the_mount_is_none() -> None:
    """An ordinary directory with LiteFS's files is a simulation, or another tool's; one that is away is said already."""
    here = Path("/litefs")
    assert misplaced(here, DirectoryRead(0, Mount.ORDINARY), []) is not None
    assert misplaced(here, DirectoryRead(0, Mount.ORDINARY, lag_ms=0), []) is None
    assert misplaced(here, DirectoryRead(0, Mount.ORDINARY, positions={"a": Position(1)}), []) is None
    assert misplaced(here, DirectoryRead(0, Mount.LITEFS), []) is None
    assert misplaced(here, DirectoryRead(0, Mount.AWAY), []) is None


async def test_a_misspelt_database_is_told_from_those_there_are(tmp_path: Path) -> None:
    """Who waits for it in vain reads which there are."""
    with SimulatedNode(tmp_path, databases=["app.db", "{x}.db"]) as node:
        async with Watcher(node.settings(database="ap.db")) as watcher:
            with pytest.raises(
                WaitTimeout, match=r"ap\.db .*not been seen \(there are app\.db, \{x\}\.db; did you mean 'app\.db'\?\)"
            ):
                await watcher.wait_for_tx(1, timeout=0)
