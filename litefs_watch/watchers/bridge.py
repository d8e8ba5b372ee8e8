"""The watcher of a thread, awaited: for async code that has no event loop of its own to run a `Watcher` in.

Django has async views, and no lifespan: under WSGI and in its test client each call runs in another event loop, and under
ASGI no code of the application runs at the start. One `BlockingWatcher` serves them all.
"""

from __future__ import annotations

from contextvars import Context
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import current_token

from litefs_watch.changes import Role, Standing
from litefs_watch.core.waiters import PrimaryCheck, RoleWaiter, TxWaiter, Waiter
from litefs_watch.errors import WatcherClosed
from litefs_watch.position import Position, check_wanted
from litefs_watch.settings import Settings, check_timeout
from litefs_watch.sources.thread import CallThread, call_soon
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.faces import KNOWN_PRIMARY, NO_PRIMARY, no_role
from litefs_watch.watchers.parking import Spot, cancellation_point, park, spot_in
from litefs_watch.watchers.peering import ReplicaWait
from litefs_watch.watchers.proof import needs_proof, prove_off_loop
from litefs_watch.watchers.run import Run
from litefs_watch.watchers.watcher import spawn


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

    async def _running(self) -> Run:
        if not self.watcher.running:
            await CallThread("litefs_watch start").run(self.watcher._live)
        return self.watcher._live()

    async def _wait(self, waiter: Waiter[Any], spot: Spot, timeout: float | None) -> Any:
        return await wait(await self._running(), waiter, spot, timeout)

    async def wait_for_tx(
        self, txid: int | Position, *, database: str | None = None, timeout: float | None = None
    ) -> Position:
        """As `Watcher.wait_for_tx`, with the same errors."""
        await cancellation_point(None)
        spot = spot_in(current_token())
        waiter = TxWaiter(self.settings.database_or_default(database), check_wanted(txid), spot.wake)
        run = await self._running()
        position: Position = await wait(run, waiter, spot, check_timeout(timeout))
        if waiter.position is not None and needs_proof(run, waiter.database, waiter.position):
            await prove_off_loop(run, waiter.database, waiter.position)
        return position

    async def wait_for_primary(self, *, timeout: float | None = None) -> str | None:
        """As `Watcher.wait_for_primary`, with the same errors."""
        return (await self._wait_for_role(KNOWN_PRIMARY, timeout, NO_PRIMARY)).primary

    async def wait_for_role(self, role: Role | str, *, timeout: float | None = None) -> None:
        """As `Watcher.wait_for_role`, with the same errors."""
        await self._wait_for_role(frozenset((Role(role),)), timeout, no_role(Role(role)))

    async def confirm_primary(self, *, database: str | None = None, timeout: float | None = None) -> bool:
        """As `Watcher.confirm_primary`, with the same errors."""
        await cancellation_point(None)
        spot = spot_in(current_token())
        check = PrimaryCheck(self.settings.database_or_default(database), spot.wake)
        standing: Standing = await self._wait(check, spot, check_timeout(timeout))
        return standing.role is Role.PRIMARY

    async def _wait_for_role(self, wanted: frozenset[Role], timeout: float | None, late: str) -> Standing:
        await cancellation_point(None)
        spot = spot_in(current_token())
        standing: Standing = await self._wait(RoleWaiter(wanted, late, spot.wake), spot, check_timeout(timeout))
        return standing

    async def wait_for_replicas(
        self, position: Position, count: int = 1, *, database: str | None = None, timeout: float | None = None
    ) -> int:
        """As `Watcher.wait_for_replicas`, with the same errors."""
        await cancellation_point(None)
        wait = ReplicaWait(self.settings, await self._running(), position, count, database, timeout)
        while not wait.over:
            spot = spot_in(current_token())
            await self._wait(wait.waiter(spot.wake), spot, wait.left)
            wait.recount()
        return wait.having

    async def read_position(self, database: str | None = None) -> Position | None:
        """As `Watcher.read_position`, with the same errors. The read is the watcher's, and shared with all who ask then."""
        name = self.settings.database_or_default(database)
        return await read_position(await self._running(), name)


async def read_position(run: Run, database: str) -> Position | None:
    """As `Watcher.read_position`, of any run, in any event loop. The read is the run's."""
    if run.supervisor is None:
        return run.position(database)
    supervisor = run.supervisor
    token, done = current_token(), anyio.Event()
    results: list[Position | None] = []
    errors: list[Exception] = []
    scopes: list[anyio.CancelScope] = []
    left = False

    async def read() -> None:
        try:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                if not left:
                    results.append(await supervisor.read_position(database))
        except Exception as error:  # noqa: BLE001 - handed to the task that asked
            errors.append(error)
        finally:
            call_soon(token, done.set)

    def leave() -> None:  # in the run's loop, where the read may not have begun
        nonlocal left
        left = True
        for scope in scopes:
            scope.cancel()

    def begin() -> None:
        Context().run(spawn, read)  # ours says which kind of event loop this is: the run's may be of the other

    if run.token is not None and call_soon(run.token, begin):
        try:
            await done.wait()
        except BaseException:
            call_soon(run.token, leave)  # a frozen LiteFS would keep one task for each that has left
            raise
    if errors:
        raise errors[0]
    if not results:
        raise WatcherClosed("the watcher was stopped during a read")
    return results[0]


async def wait(run: Run, waiter: Waiter[Any], spot: Spot, timeout: float | None) -> Any:
    """What ``waiter`` waited for, at ``spot``: of any run, in any event loop. Raises what `Watcher.wait_for_tx` raises."""
    token = current_token()
    waiter.wake = lambda result: call_soon(token, partial(spot.wake, result))
    return await park(run, waiter, spot, timeout)
