"""pytest's fixtures work in somebody else's tests, and loading them costs nothing."""

from __future__ import annotations

import json
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

MODULES = """
import json
import sys

def test_modules():
    with open("modules.json", "w") as file:
        json.dump(list(sys.modules), file)
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
    run = run_pytest(tmp_path, *plugin)
    assert run.returncode == 0, run.stdout + run.stderr
    assert ("5 passed" if fuse_available() is None else "4 passed, 1 skipped") in run.stdout


def test_a_suite_that_uses_no_fixture_loads_nothing_of_ours(tmp_path: Path) -> None:
    """The plugin adds two small modules of ours to somebody else's run of pytest, and no library."""
    (tmp_path / "test_modules.py").write_text(MODULES)
    loaded = []
    for plugin in ([], ["-p", "litefs_watch.pytest_plugin"]):
        run = run_pytest(tmp_path, *plugin, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")  # anyio's own plugin would hide ours
        assert run.returncode == 0, run.stdout + run.stderr
        loaded.append(set(json.loads((tmp_path / "modules.json").read_text())))
    without, with_plugin = loaded
    assert with_plugin - without == {"litefs_watch", "litefs_watch.pytest_plugin"}


def run_pytest(directory: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with warnings as errors."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *options, str(directory)]
    package = str(Path(__file__).parents[2])
    environ = os.environ | variables | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environ, check=False, timeout=60)
