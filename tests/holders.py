"""Which processes hold HALT locks."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from litefs_watch import halt as module


def recorded_holders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of those that are started from now on."""
    started: list[int] = []
    start = module._Holder._start

    def recording(self: Any) -> subprocess.Popen[bytes]:
        process = start(self)
        started.append(process.pid)
        return process

    monkeypatch.setattr(module._Holder, "_start", recording)
    return started
