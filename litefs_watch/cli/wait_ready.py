"""``litefs-watch wait-ready``: for health checks and compose files."""

from __future__ import annotations

import anyio
import click

from litefs_watch import Settings
from litefs_watch.cli.app import FAILED, TIMED_OUT
from litefs_watch.cli.deadline import Deadline
from litefs_watch.cli.options import check_seconds, node_options
from litefs_watch.cli.output import emit, warn
from litefs_watch.cli.process import asynchronous
from litefs_watch.operate.health import MAX_LAG, unready
from litefs_watch.operate.words import role_text

_LOOK = 0.02  # seconds between two looks at what the watcher knows, which costs no I/O: nothing announces the lag


@click.command("wait-ready", short_help="Say whether this node is ready to serve; wait until it is.")
@click.option(
    "--max-lag",
    type=click.FloatRange(min=0),
    callback=check_seconds,
    default=MAX_LAG,
    show_default=True,
    metavar="SECONDS",
    help="Ready only where the primary was heard so shortly ago.",
)
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0),
    callback=check_seconds,
    metavar="SECONDS",
    help="Wait for so long (status 124). Without it: look once.",
)
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, max_lag: float, timeout: float | None) -> int:
    """Ready: the role is known, the first replication is done, and the lag is under a limit; and where LiteFS has databases,
    the one that is named is among them. Status 0 if so, else 1.

    With --timeout, wait for that; 124 where it did not come in time. What is missing is said on stderr.
    """
    deadline = Deadline(timeout)
    async with deadline.watcher(settings) as watcher:
        if timeout is not None:
            with anyio.move_on_after(deadline.left):
                while unready(watcher.status, max_lag, settings.database) is not None:  # noqa: ASYNC110 - the lag is no event
                    await anyio.sleep(_LOOK)
        status = watcher.status
    problem = unready(status, max_lag, settings.database)
    if as_json:
        emit(
            {
                "ready": problem is None,
                "reason": problem,
                "hostname": status.hostname,
                "role": status.role,
                "primary": status.primary,
                "lag": status.lag,
                "replicated": status.replicated,
            }
        )
    elif problem is None:
        click.echo(f"ready: {role_text(status.role, status.primary)}")
    if problem is None:
        return 0
    if timeout is None:
        warn(f"not ready: {problem}")
        return FAILED
    warn(f"not ready within {timeout:g} s: {problem}")
    return TIMED_OUT
