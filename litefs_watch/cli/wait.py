"""``litefs-watch wait TXID``: for scripts."""

from __future__ import annotations

import click

from litefs_watch import Settings
from litefs_watch.cli.deadline import Deadline
from litefs_watch.cli.options import check_seconds, check_txid_argument, node_options
from litefs_watch.cli.output import emit, warn
from litefs_watch.cli.process import asynchronous
from litefs_watch.operate.words import position_record
from litefs_watch.status import reasons


@click.command("wait", short_help="Wait until a transaction is here.")
@click.argument("txid", callback=check_txid_argument)
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(min=0),
    callback=check_seconds,
    metavar="SECONDS",
    help="Give up after so long (status 124).",
)
@node_options
@asynchronous
async def command(settings: Settings, as_json: bool, txid: int, timeout: float | None) -> int:
    """Wait until the database has transaction TXID, and print its position. Without --timeout: for ever.

    TXID is decimal, hexadecimal with a leading 0x, or LiteFS's text of a position, TXID/CHECKSUM, of which the TXID counts.
    """
    database = settings.database_or_default(None)
    deadline = Deadline(timeout)
    async with deadline.watcher(settings) as watcher:
        if timeout is None and watcher.position() is None and not settings.standalone:
            # Who waits for ever should know that it may be for ever.
            why = "; ".join(reasons(watcher.status.sources)) or f"is it in {settings.litefs_dir}?"
            warn(f"{database} has not been seen yet ({why}); waiting")
        position = await deadline.bound(watcher.wait_for_tx, txid)
    if as_json:
        emit(position_record(position) or {})
    else:
        click.echo(str(position))
    return 0
