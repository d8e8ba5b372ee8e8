"""What is shown, and where: records on stdout, one a line; what an operator is told on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from litefs_watch.cli.options import options_for_keywords
from litefs_watch.operate.words import timestamp
from litefs_watch.printable import safe


def emit(record: Mapping[str, Any]) -> None:
    """One object, one line, at once."""
    click.echo(json.dumps(record, ensure_ascii=True))


def warn(text: str) -> None:
    """A line on stderr."""
    click.echo(f"litefs-watch: {options_for_keywords(safe(text))}", err=True)


def now() -> str:
    """UTC, to the millisecond, as LiteFS writes it in its events."""
    return timestamp(datetime.now(UTC))
