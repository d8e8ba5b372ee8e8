"""``litefs-watch status``: everything, once."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litefs_watch import Role, Settings, Status, Watcher
from litefs_watch.cli.app import asynchronous, node_options
from litefs_watch.cli.output import emit, role_text, safe, status_record

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
        show(status, Console(highlight=False, soft_wrap=True))
    return 0 if status.role is not Role.UNKNOWN else 1


def show(status: Status, console: Console) -> None:
    head = Table.grid(padding=(0, 2))
    head.add_row("node", Text(safe(status.hostname)))
    head.add_row("role", Text(role_text(status.role, status.primary), COLOURS[status.role]))
    head.add_row("lag", Text(lag_text(status)))
    for database, position in sorted(status.positions.items()):
        head.add_row(Text(safe(database)), Text(f"{position.txid}  ({position})"))
    console.print(head)
    if status.sources:
        sources = Table("source", "", "since", "", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name, source in status.sources.items():
            mark = Text("alive", "green") if source.alive else Text("away", "yellow")
            age = datetime.now(UTC) - source.since
            detail = Text(safe(source.detail))
            if source.fault:
                detail.append(f"\nunreadable: {safe(source.fault)}", "red")
            sources.add_row(name, mark, f"{source.since:%H:%M:%S}Z, {age.total_seconds():.0f} s", detail)
        console.print()
        console.print(sources)
    for name, fault in sorted(status.faults.items()):
        console.print(Text(f"unreadable: {safe(fault)}" if name in fault else f"{safe(name)}: {safe(fault)}", "red"))


def lag_text(status: Status) -> str:
    if status.replicated is None:
        return "LiteFS does not say"
    return "not replicated yet" if status.lag is None else f"{status.lag:.3f} s"
