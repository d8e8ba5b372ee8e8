"""``litefs-watch status``: everything, once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.text import Text

from litefs_watch import Role, Settings, Status, Watcher
from litefs_watch.cli.options import node_options
from litefs_watch.cli.output import RESTING, emit, role_text, safe, status_record
from litefs_watch.cli.process import asynchronous
from litefs_watch.sources import SourceStatus

COLOURS = {Role.PRIMARY: "bold green", Role.REPLICA: "bold cyan", Role.UNKNOWN: "bold red"}


@click.command("status", short_help="Show role, primary, positions and sources.")
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool) -> int:
    """Show the role, the primary, the positions, and the three sources. Status 1 where no primary is known."""
    async with Watcher(settings) as watcher:
        status = watcher.status
    if as_json:
        emit(status_record(status))
    else:
        console = Console(highlight=False)
        for line in lines(status, settings.database):
            console.print(line, soft_wrap=True)
    return 0 if status.role is not Role.UNKNOWN else 1


def lines(status: Status, database: str | None) -> Iterator[Text]:
    """``database`` is listed even where it has not been seen."""
    positions = {name: f"{position.txid}  ({position})" for name, position in sorted(status.positions.items())}
    if database is not None and status.sources:
        positions.setdefault(database, "not seen")
    rows = [
        ("node", Text(safe(status.hostname))),
        ("role", Text(role_text(status.role, status.primary), COLOURS[status.role])),
        ("lag", Text(lag_text(status))),
        *((safe(name), Text(text, "" if name in status.positions else "yellow")) for name, text in positions.items()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        yield Text(f"{name:{width}}  ") + text
    yield Text()
    if not status.sources:
        yield Text("standalone: nothing is watched, this node counts as the primary, and every wait is met", "yellow")
    for name, source in status.sources.items():
        yield source_line(name, source)
    known = {source.detail for source in status.sources.values()}
    faults = [source.fault for name, source in status.sources.items() if source.fault and name != "reread"]
    for fault in dict.fromkeys([*faults, *(status.faults[name] for name in sorted(status.faults))]):
        if fault not in known:
            yield Text(f"unreadable: {safe(fault)}", "red")


def source_line(name: str, source: SourceStatus) -> Text:
    if source.alive:
        mark = Text("alive", "green")
    elif source.detail.startswith(RESTING):
        mark = Text("idle ", "dim")
    else:
        mark = Text("away ", "bold yellow")
    age = (datetime.now(UTC) - source.since).total_seconds()
    since = f"since {source.since:%H:%M:%S}Z ({age:.0f} s)"
    return Text.assemble(f"{name:6}  ", mark, f"  {since}  ", safe(source.detail))


def lag_text(status: Status) -> str:
    if status.replicated is None:
        return "LiteFS does not say"
    return "not replicated yet" if status.lag is None else f"{status.lag:.3f} s"
