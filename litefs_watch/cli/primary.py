"""``litefs-watch primary``: is this node it?"""

from __future__ import annotations

import click

from litefs_watch import Role, Settings
from litefs_watch.cli.deadline import Deadline
from litefs_watch.cli.options import check_seconds, node_options
from litefs_watch.cli.output import emit, warn
from litefs_watch.cli.process import asynchronous
from litefs_watch.operate.words import role_text
from litefs_watch.printable import safe
from litefs_watch.status import reasons


@click.command("primary", short_help="Say who the primary is; status 0 if it is this node.")
@click.option(
    "-w",
    "--wait",
    "timeout",
    type=click.FloatRange(min=0),
    callback=check_seconds,
    metavar="SECONDS",
    help="First wait until a primary is known.",
)
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, timeout: float | None) -> int:
    """Say who the primary is. Status 0 if it is this node, else 1; with --wait, 124 where none became known."""
    deadline = Deadline(timeout)
    async with deadline.watcher(settings) as watcher:
        if timeout is not None:
            await deadline.bound(watcher.wait_for_primary)
        status = watcher.status
    if as_json:
        emit({"hostname": status.hostname, "role": status.role, "primary": status.primary})
    elif status.role is Role.PRIMARY:
        click.echo(f"primary: this node, {safe(status.hostname)}")
    else:
        click.echo(role_text(status.role, status.primary))
    if status.role is Role.UNKNOWN:
        for reason in reasons(status.sources):
            warn(reason)
    return 0 if status.role is Role.PRIMARY else 1
