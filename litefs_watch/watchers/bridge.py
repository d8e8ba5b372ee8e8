"""The watcher of a thread, awaited: for async code that has no event loop of its own to run a `Watcher` in.

Django has async views, and no lifespan: under WSGI and in its test client each call runs in another event loop, and under
ASGI no code of the application runs at the start. One `BlockingWatcher` serves them all.
"""

from __future__ import annotations

import anyio
from anyio.lowlevel import current_token

from litefs_watch.changes import Role
from litefs_watch.core.conditions import RoleWaiter, TxWaiter
from litefs_watch.errors import WatcherClosed
from litefs_watch.position import Position, check_txid
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.sources.thread import CallThread, call_soon
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.inner import InnerWatcher
from litefs_watch.watchers.watcher import KNOWN_PRIMARY, spawn, wait


class AwaitableWatcher:
    """The calls of `Watcher` that wait, over a `BlockingWatcher`, in any event loop and in any number of them.

    A wait is one entry in the queue of the thread's watcher: no thread waits with it. What does not wait (``role``,
    ``position`` and the others) is to be asked of ``watcher`` itself, once `start` has been awaited.
    """

    def __init__(self, watcher: BlockingWatcher) -> None:
        self.watcher = watcher

    @property
    def settings(self) -> Settings:
        """The watcher's."""
        return self.watcher.settings

    async def start(self) -> None:
        """Start the watcher if it is not running, without blocking the event loop.

        Raises what `BlockingWatcher.start` raises, and `WatcherClosed` where it was stopped.
        """
        await self._running()

    async def _running(self) -> InnerWatcher:
        if not self.watcher.running:
            starter = CallThread("litefs_watch start")
            try:
                await starter.run(self.watcher.inner)
            finally:
                starter.close()
        return self.watcher.inner()

    async def wait_for_tx(self, txid: int, *, database: str | None = None, timeout: float | None = None) -> Position:
        """As `Watcher.wait_for_tx`, with the same errors."""
        name = self.settings.database_or_default(database)
        txid = check_txid(txid)
        check_timeout(timeout)
        inner = await self._running()
        if self.settings.standalone:
            return Position(txid)
        token, woken = current_token(), anyio.Event()
        waiter = TxWaiter(name, txid, lambda: call_soon(token, woken.set))
        with inner.awaited_tx(waiter, timeout) as waits:
            if waits:
                await wait(woken, timeout)
        return inner.outcome_of_tx(waiter, timeout)

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        """As `Watcher.wait_for_primary`, with the same errors."""
        return await self._wait_for_role(KNOWN_PRIMARY, timeout, "no primary is known")

    async def wait_for_role(self, role: Role | str, *, timeout: float | None = None) -> None:
        """As `Watcher.wait_for_role`, with the same errors."""
        await self._wait_for_role(frozenset((Role(role),)), timeout, f"this node did not become {Role(role)}")

    async def _wait_for_role(self, wanted: frozenset[Role], timeout: float | None, what: str) -> str | None:
        check_timeout(timeout)
        inner = await self._running()
        token, woken = current_token(), anyio.Event()
        waiter = RoleWaiter(wanted, lambda: call_soon(token, woken.set))
        with inner.awaited_role(waiter, timeout) as waits:
            if waits:
                await wait(woken, timeout)
        return inner.outcome_of_role(waiter, timeout, what)

    async def read_position(self, database: str | None = None) -> Position | None:
        """As `Watcher.read_position`, with the same errors. The read is the watcher's, and shared with all who ask then."""
        name = self.settings.database_or_default(database)
        inner = await self._running()
        token, done = current_token(), anyio.Event()
        results: list[Position | None] = []
        errors: list[Exception] = []

        async def read() -> None:
            try:
                results.append(await inner.read_position(name))
            except Exception as error:  # noqa: BLE001 - handed to the task that asked
                errors.append(error)
            finally:
                call_soon(token, done.set)

        if inner.token is not None and call_soon(inner.token, lambda: spawn(read)):
            await done.wait()
        if errors:
            raise errors[0]
        if not results:
            raise WatcherClosed("the watcher was stopped during a read")
        return results[0]
