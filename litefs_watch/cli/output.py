"""What is shown: one JSON object a line, or text for people. Names from outside can't reach a terminal's control codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from litefs_watch import Position, PrimaryChange, Status, TxChange
from litefs_watch.sources import SourceStatus

RESTING = ("turned off", "resting")
"""How the detail of a source begins that is not alive, and does not have to be."""


def safe(text: str) -> str:
    """The text with whatever is not printable escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def emit(record: Mapping[str, Any]) -> None:
    """One object, one line, at once."""
    click.echo(json.dumps(record, ensure_ascii=True))


def warn(text: str) -> None:
    """A line on stderr."""
    click.echo(f"litefs-watch: {safe(text)}", err=True)


def now() -> str:
    """UTC, to the millisecond, as LiteFS writes it in its events."""
    return timestamp(datetime.now(UTC))


def timestamp(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


def role_text(role: str, primary: str | None) -> str:
    """The role in a few words."""
    if role == "replica":
        return f"replica of {safe(primary)}" if primary is not None else "replica of a primary without a name"
    return "unknown: no primary is known" if role == "unknown" else role


def reasons(status: Status) -> list[str]:
    """Why nothing is known: what the sources miss that should be alive. inotify never tells a role."""
    down = (source for name, source in status.sources.items() if name != "files" and not source.alive)
    return [source.detail for source in down if not source.detail.startswith(RESTING)]


# JSON. Names of several words are written as LiteFS writes its own: `primaryChange`, `isPrimary`.


def position_record(position: Position | None) -> dict[str, Any] | None:
    """The TXID as a number, and LiteFS's text for who can't hold numbers of 64 bits (JavaScript, jq)."""
    return None if position is None else {"txid": position.txid, "position": str(position)}


def change_record(change: TxChange | PrimaryChange) -> dict[str, Any]:
    if isinstance(change, TxChange):
        return {
            "type": "tx",
            "database": change.database,
            **(position_record(change.position) or {}),
            "previous": position_record(change.previous),
        }
    return {
        "type": "primaryChange",
        "role": change.role,
        "primary": change.primary,
        "previousRole": change.previous_role,
        "previousPrimary": change.previous_primary,
    }


def status_record(status: Status) -> dict[str, Any]:
    """``lag`` is in seconds."""
    return {
        "hostname": status.hostname,
        "role": status.role,
        "primary": status.primary,
        "lag": status.lag,
        "replicated": status.replicated,
        "positions": {database: position_record(position) for database, position in sorted(status.positions.items())},
        "sources": {name: source_record(source) for name, source in status.sources.items()},
        "faults": dict(status.faults),
    }


def source_record(source: SourceStatus) -> dict[str, Any]:
    return asdict(source) | {"since": timestamp(source.since)}
