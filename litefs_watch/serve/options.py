"""The sidecar's limits, and its token."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from litefs_watch.errors import ConfigError

TOKEN_VARIABLE = "LITEFS_WATCH_TOKEN"  # noqa: S105 - its name
_SHORTEST = 16
"""Characters: what can be guessed over a network is no token."""
_LARGEST_FILE = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """What `litefs_watch.serve.app.application` may use up, and who is let in."""

    token: str | None = field(default=None, repr=False)
    """What a client has to know; None: it is on loopback, and whoever is on this machine may ask."""
    max_waiting: int = 1000
    """Requests that wait at once; more are told to come back."""
    max_subscribers: int = 100
    """Streams of events that are open at once; more are told to come back."""
    max_timeout: float = 60.0
    """Seconds that a request waits at most, whatever it asks for."""
    kept: int = 1000
    """Events that are kept for those who come back."""


def find_token(file: Path | None) -> str | None:
    """What is in the file, else in the environment; None where neither is given. Not from the command line: other users of
    the machine can read that. Raises `ConfigError` for what is none, and `OSError` where there is no such file."""
    if file is None:
        text = os.environ.get(TOKEN_VARIABLE, "")
        return check_token(text, TOKEN_VARIABLE) if text else None
    with file.open("rb") as stream:
        raw = stream.read(_LARGEST_FILE + 1)
    return check_token(raw.decode("ascii", "replace").strip(), f"--token-file {file}")


def check_token(text: str, where: str) -> str:
    """Raises `ConfigError` for what is too short, or can't stand in a header."""
    if len(text) < _SHORTEST or len(text) > _LARGEST_FILE or not all("!" <= char <= "~" for char in text):
        raise ConfigError(
            f"{where}: a token is {_SHORTEST} printable ASCII characters or more, without spaces; one is made by "
            "openssl rand -hex 32"
        )
    return text
