"""``litefs-watch status``: everything, once."""

from __future__ import annotations

import anyio
import click
from rich.console import Console
from rich.text import Text

from litefs_watch import Cluster, Role, Settings, Watcher
from litefs_watch.cli.options import cluster_options
from litefs_watch.cli.output import emit
from litefs_watch.cli.process import asynchronous
from litefs_watch.operate.words import cluster_lines, cluster_record, status_lines, status_record
from litefs_watch.sources import NOT_STARTED

IN_PLACE_LIMIT = 1.0
"""Seconds for inotify's watch, which comes into place some steps after a start that does not wait for it."""


@click.command("status", short_help="Show role, primary, positions and sources.")
@click.option("--cluster", "of_cluster", is_flag=True, help="And what the other nodes say.  [env: LITEFS_PEERS]")
@cluster_options
@asynchronous
async def command(settings: Settings, as_json: bool, of_cluster: bool) -> int:
    """Show the role, the primary, the positions, and the three sources. Status 1 where no primary is known.

    With --cluster, ask the other nodes, too (LITEFS_PEERS). Each tells its role at once, and a database's position with its
    next transaction.
    """
    async with Watcher(settings if of_cluster else settings.model_copy(update={"peers": ()})) as watcher:
        cluster = await _ask(watcher) if of_cluster else None
        with anyio.move_on_after(IN_PLACE_LIMIT):
            while any(source.detail == NOT_STARTED for source in watcher.status.sources.values()):  # noqa: ASYNC110
                await anyio.sleep(0.005)
        status = watcher.status
    if as_json:
        emit(status_record(status) | ({} if cluster is None else {"cluster": cluster_record(cluster)}))
    else:
        console = Console(highlight=False)
        for line in [*status_lines(status, settings.database), *([] if cluster is None else cluster_lines(cluster))]:
            console.print(Text.assemble(*line), soft_wrap=True)
    return 0 if status.role is not Role.UNKNOWN else 1


async def _ask(watcher: Watcher) -> Cluster:
    """What they say once each has been reached, or was not to be; or after as long as a start may take."""
    if watcher.settings.peers and not watcher.settings.standalone:
        with watcher.cluster_changes() as changes, anyio.move_on_after(watcher.settings.start_timeout):
            while not watcher.cluster.settled:
                await changes.take()
    return watcher.cluster
