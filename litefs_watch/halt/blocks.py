"""The two blocks, ``async with halt(...)`` and ``with halted(...)``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from litefs_watch.consistency.marks import note_halted
from litefs_watch.halt.client import ACQUIRE_LIMIT, PARTING, RELEASE_LIMIT, Halt, HolderClient
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.sources.thread import CallThread

if TYPE_CHECKING:
    from litefs_watch.watchers.blocking import BlockingWatcher
    from litefs_watch.watchers.watcher import Watcher


@asynccontextmanager
async def halt(
    database: str | None = None,
    *,
    litefs_dir: str | Path | None = None,
    timeout: float = ACQUIRE_LIMIT,
    watcher: Watcher | BlockingWatcher | None = None,
) -> AsyncIterator[Halt]:
    """Hold the HALT lock, so that this node can write, be it a replica: ``async with halt("app.db"): ...``.

    On the primary it does nothing, as LiteFS itself decides at that moment; with a ``watcher`` (whose settings then count)
    that says PRIMARY, and where ``LITEFS_STANDALONE`` is set, LiteFS is not asked. ``database`` and ``litefs_dir`` come from
    the environment where they are not given, as for `Settings`.

    Hold it shortly: meanwhile nobody else writes, and on the primary a new connection can't even read (``database is
    locked``, ``locking protocol``). It takes as long as a request to the primary and some 20 ms, and at most ``timeout``
    seconds; LiteFS itself gives up after 10. It lives for 30 s, counted from when it was asked for: `Halt.remaining`.

    It stays while subprocesses of any kind run inside, and they write as well. It is lost with this process, with LiteFS on
    this node, and with another primary. Where it is cancelled while it waits, the lock is released as soon as it is granted.

    Raises `HaltTimeout` (a `TimeoutError`) when it is not granted in time, and `HaltError` where there can be none: an
    ordinary directory (nothing is created there), no such database, no primary in reach. At the end it raises `HaltExpired`
    when the lock was gone before: later writes failed, or went nowhere. An error from inside passes, with that as a note.
    """
    name, client = _prepare(database, litefs_dir, timeout, watcher)
    if client is None:
        yield Halt(name, forwarded=False, ends=0)
        return
    thread = CallThread("litefs_watch halt")
    try:
        try:
            held = await thread.run(client.acquire)
        except BaseException:
            # Cancelled, the call goes on in its thread, and may be granted the lock at this very moment: so it is waited
            # for, shortly, that a lock which nobody has wants is given back before anybody else goes on.
            client.abandon()
            with anyio.move_on_after(PARTING, shield=True):
                await thread.run(client.settle)
            raise
        if held.forwarded:
            note_halted()
        try:
            yield held
        except BaseException as error:
            client.ask()
            if client.is_ours:
                try:
                    with anyio.move_on_after(RELEASE_LIMIT, shield=True):
                        await thread.run(partial(client.note, error))
                except RuntimeError as fault:  # no more threads: what has happened inside matters more
                    error.add_note(f"whether the HALT lock on {name} still stood then is not known: {fault}")
            raise
        client.ask()
        if client.is_ours:  # a forked child has no such thread, and would wait for it for ever
            with anyio.CancelScope(shield=True):  # bounded by itself
                await thread.run(client.finish)
    finally:
        client.drop()  # whatever went wrong above


@contextmanager
def halted(
    database: str | None = None,
    *,
    litefs_dir: str | Path | None = None,
    timeout: float = ACQUIRE_LIMIT,
    watcher: Watcher | BlockingWatcher | None = None,
) -> Iterator[Halt]:
    """`halt` for synchronous code: ``with halted("app.db"): ...``. The same limits, and the same errors."""
    name, client = _prepare(database, litefs_dir, timeout, watcher)
    if client is None:
        yield Halt(name, forwarded=False, ends=0)
        return
    try:
        held = client.acquire()
        if held.forwarded:
            note_halted()
        try:
            yield held
        except BaseException as error:
            client.ask()
            client.note(error)
            raise
        client.ask()
        client.finish()
    finally:
        client.drop()  # whatever went wrong above


def _prepare(
    database: str | None, litefs_dir: str | Path | None, timeout: float, watcher: Watcher | BlockingWatcher | None
) -> tuple[str, HolderClient | None]:
    """The database, and the client of what will hold the lock; None where no lock is needed."""
    check_timeout(timeout)
    if watcher is not None:
        settings = watcher.settings
    else:
        settings = Settings.from_env() if litefs_dir is None else Settings.from_env(litefs_dir=litefs_dir)
    name = settings.database_or_default(database)
    if settings.standalone or settings.litefs_dir is None or (watcher is not None and watcher.is_primary):
        return name, None
    return name, HolderClient(settings.litefs_dir, name, timeout)
