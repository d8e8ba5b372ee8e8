"""The commands, as in tests/cli; and nothing of this machine is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from litefs_watch.operate.doctor import gathering
from tests.cli.conftest import node, run

__all__ = ["node", "run"]


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of this machine, and no LiteFS on its usual port."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gathering, "addresses", lambda yml: [])
