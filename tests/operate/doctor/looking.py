"""What the doctor says of a node, and facts to say it of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from litefs_watch import Position, Settings
from litefs_watch.core.readings import DirectoryRead, Mount
from litefs_watch.operate.doctor.facts import Facts
from litefs_watch.operate.doctor.findings import examine
from litefs_watch.operate.doctor.gathering import gather

PATIENCE = 0.3
"""Seconds."""


async def codes(settings: Settings, **files: Path) -> list[str]:
    return [finding.code for finding in examine(await gather(settings, PATIENCE, **files))]


def facts(**changed: Any) -> Facts:
    read = DirectoryRead(0.0, Mount.LITEFS, None, 0, {"app.db": Position(5)})
    return replace(Facts(Path("/litefs"), "app.db", 1.0, first=read, second=read), **changed)
