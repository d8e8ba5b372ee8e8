"""The environment of processes under test: this one's, without what they would take from it."""

from __future__ import annotations

import os

from litefs_watch.testing import SimulatedNode

_READ = (
    *("LITEFS_", "FLY_", "DATABASE_", "PORT", "INTERNAL_PORT"),  # by litefs_watch
    *("NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED"),  # by what writes to a terminal
    *("FORWARD_TO", "SECURE_COOKIES"),  # by the examples
)


def clean_environment() -> dict[str, str]:
    """Without all that litefs_watch, its commands and the examples read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_READ)}


def environment_of(node: SimulatedNode) -> dict[str, str]:
    """What tells a process on which node it is."""
    return {
        "LITEFS_DIR": str(node.litefs_dir),
        "DATABASE_FILENAME": "app.db",
        "LITEFS_API_URL": node.api_url,
        "FLY_MACHINE_ID": node.hostname,
    }
