"""``litefs-watch status``: everything, once."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text

from litefs_watch import Role, Settings, Watcher
from litefs_watch.cli.options import node_options
from litefs_watch.cli.output import emit
from litefs_watch.cli.process import asynchronous
from litefs_watch.operate.words import status_lines, status_record


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
        for line in status_lines(status, settings.database):
            console.print(Text.assemble(*line), soft_wrap=True)
    return 0 if status.role is not Role.UNKNOWN else 1
