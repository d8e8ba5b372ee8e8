"""pytest's fixtures work in somebody else's tests, and loading them costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from litefs_watch.testing import fuse_available

TESTS = """
import os

def test_node(litefs_node):
    assert litefs_node.is_primary
    assert litefs_node.commit().txid == 2

def test_cluster(litefs_cluster):
    assert litefs_cluster.lag == 0.05
    position = litefs_cluster.execute("CREATE TABLE t (x)")
    litefs_cluster.wait_until_replicated()
    assert [node.position() for node in litefs_cluster] == [position] * 3

def test_fuse(litefs_fuse_node):
    assert os.path.ismount(litefs_fuse_node.litefs_dir)

def test_late():
    import sys
    assert "litefs_watch.testing.cluster" in sys.modules
"""
EARLY = """
import sys

def test_early():
    assert "litefs_watch.pytest_plugin" in sys.modules
    assert "litefs_watch.testing" not in sys.modules
"""


@pytest.fixture
def plugin() -> list[str]:
    """How to load the plugin: an installed package's entry point does it by itself."""
    installed = any(point.name == "litefs_watch" for point in entry_points(group="pytest11"))
    return [] if installed else ["-p", "litefs_watch.pytest_plugin"]


def test_the_fixtures_work_in_a_suite_of_its_own(tmp_path: Path, plugin: list[str]) -> None:
    """With warnings as errors; the FUSE node skips where it can't be; the simulators load with the first fixture."""
    (tmp_path / "test_a_early.py").write_text(EARLY)
    (tmp_path / "test_b.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *plugin, str(tmp_path)]
    package = str(Path(__file__).parents[2])
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert ("5 passed" if fuse_available() is None else "4 passed, 1 skipped") in run.stdout
