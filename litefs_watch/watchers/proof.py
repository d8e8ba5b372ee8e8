"""Whether a whole position that met a wait is in the history that this node has now.

What is from before all that a watcher remembers meets a wait where somebody vouches for this node. LiteFS's transaction
files may know better, as for the middlewares; and where a replica's database may have been replaced since, by a snapshot of
its new primary's, they must. On the primary a wait says itself what is lost (the state's rule 11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from litefs_watch.changes import Role
from litefs_watch.errors import WaitTimeout
from litefs_watch.position import Position, Where
from litefs_watch.sources.ltx import where_on_disk
from litefs_watch.sources.thread import CallThread

if TYPE_CHECKING:
    from litefs_watch.watchers.run import Run


def has_now(run: Run, database: str, wanted: int | Position) -> bool:
    """Whether a wait for it would end at once, and well, whatever LiteFS's files say."""
    if run.supervisor is None:
        return True
    state = run.board.state
    if state.has(database, wanted) is None:
        return False
    doubtful = isinstance(wanted, Position) and needs_proof(run, database, wanted)
    return not (doubtful and state.histories.by_database[database].replaced)


def needs_proof(run: Run, database: str, wanted: Position) -> bool:
    """Whether ``wanted``, which meets a wait, does so for being from before what is remembered, on a replica."""
    state = run.board.state  # standalone it has nothing
    lineage = state.here.get(database)
    return lineage is not None and wanted.txid < lineage.first and state.standing.role is not Role.PRIMARY


def prove(run: Run, database: str, wanted: Position) -> None:
    """Look for what `needs_proof` in LiteFS's files. Raises `WaitTimeout` where it may be lost: no wait tells more."""
    view = run.view(database)
    told = Where.UNTOLD if view.data_dir is None else where_on_disk(view.data_dir, database, wanted)
    if told is Where.UNTOLD:
        told = view.where(wanted) or Where.DOUBTED
    if told not in (Where.HERE, Where.UNTOLD) or run.view(database).era is not view.era:
        raise WaitTimeout(f"position {wanted} of {database} may be lost: what is here has replaced it; ask the primary")


async def prove_off_loop(run: Run, database: str, wanted: Position) -> None:
    """The same in a task: the files are read in a thread."""
    await CallThread("litefs_watch disk").run(lambda: prove(run, database, wanted))
