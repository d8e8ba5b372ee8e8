"""``litefs-watch primary``: is this node it?"""

from __future__ import annotations

import click

from litefs_watch import Settings, Watcher
from litefs_watch.cli.app import asynchronous, node_options
from litefs_watch.cli.output import emit, role_text


@click.command("primary")
@click.option(
    "-w", "--wait", "timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="First wait until a primary is known."
)
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, timeout: float | None) -> int:
    """Say who the primary is. Status 0 if it is this node, else 1; with --wait, 124 where none became known."""
    async with Watcher(settings) as watcher:
        if timeout is not None:
            await watcher.wait_for_primary(timeout=timeout)
        role, primary = watcher.role, watcher.primary
    if as_json:
        emit({"hostname": watcher.hostname, "role": role, "primary": primary})
    else:
        click.echo(role_text(role, primary))
    return 0 if role == "primary" else 1
