"""``/wait``: until a transaction is here. ``/position``: where a database is, by its file: what a write is marked with."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from litefs_watch.asgi.types import App, Receive
from litefs_watch.changes import Role
from litefs_watch.errors import LiteFSWatchError, TransactionLost, WaitTimeout, WatcherClosed
from litefs_watch.operate.observers import CANCELLED, MET, UNMET, WAIT, observers_of
from litefs_watch.operate.words import position_record
from litefs_watch.position import Position, Where
from litefs_watch.printable import safe
from litefs_watch.serve.endpoints import Refusal, answer
from litefs_watch.serve.options import Options
from litefs_watch.serve.places import SOON, Places
from litefs_watch.serve.questions import PositionQuestion, WaitQuestion, in_body, in_query
from litefs_watch.sources.ltx import where_on_disk
from litefs_watch.status import unseen
from litefs_watch.watchers import why
from litefs_watch.watchers.watcher import Watcher

T = TypeVar("T")

_PAST = (Where.UNTOLD, Where.DOUBTED)


class Waiting:
    """What the two paths do."""

    def __init__(self, watcher: Watcher, options: Options) -> None:
        self._watcher = watcher
        self._longest = options.max_timeout
        self.waiting: Places = Places(options.max_waiting, "requests wait")
        self._reading = Places(options.max_waiting, "requests read a position")  # a write is marked however many wait

    async def get(self, request: Request) -> App:
        return await self._wait(request, in_query(WaitQuestion, request))

    async def post(self, request: Request) -> App:
        return await self._wait(request, await in_body(WaitQuestion, request))

    async def _wait(self, request: Request, asked: WaitQuestion) -> App:
        database = self._database(asked.db)
        timeout = min(asked.timeout, self._longest)
        if timeout <= 0 or self._watcher.has_tx(asked.wanted, database):
            return await self._met(asked, database, timeout)
        with self.waiting.one():
            met = await while_it_is_there(request.receive, lambda: self._observed(asked, database, timeout))
        return met if met is not None else Response(status_code=499)  # nobody reads it

    async def _observed(self, asked: WaitQuestion, database: str, timeout: float) -> Response:
        """The same; metrics tell of it."""
        observers, began, outcome = observers_of(self._watcher), time.monotonic(), CANCELLED
        ends = observers.began(WAIT)
        try:
            response = await self._met(asked, database, timeout)
            outcome = MET
        except (LiteFSWatchError, Refusal):
            outcome = UNMET
            raise
        finally:
            observers.ended(ends, outcome, time.monotonic() - began)
        return response

    async def _met(self, asked: WaitQuestion, database: str, timeout: float) -> Response:
        ends = time.monotonic() + timeout
        try:
            position = await self._watcher.wait_for_tx(asked.wanted, database=database, timeout=timeout)
            if asked.position is not None:
                await self._prove(asked.position, database, ends)
        except WaitTimeout as late:
            raise Refusal(408, safe(str(late)), **self._here(database)) from None
        except TransactionLost as lost:
            raise Refusal(410, safe(str(lost)), **self._here(database)) from None
        except WatcherClosed as closed:
            raise Refusal(503, str(closed), SOON) from None
        return answer({"database": database, **(position_record(position) or {})})

    async def _prove(self, wanted: Position, database: str, ends: float) -> None:
        """On the primary a wait is met, too, for what is from before what the watcher knows: LiteFS's files tell of that.
        Raises `TransactionLost`, and `WaitTimeout` where this is the primary no more."""
        view = self._watcher.run.view(database)
        if view.standing.role is not Role.PRIMARY or view.where(wanted) not in _PAST or view.data_dir is None:
            return
        if await anyio.to_thread.run_sync(where_on_disk, view.data_dir, database, wanted) is Where.ELSEWHERE:
            if await self._watcher.confirm_primary(database=database, timeout=max(0.0, ends - time.monotonic())):
                raise TransactionLost(f"position {wanted} of {database} is in no history any more: a fail-over has lost it")
            raise WaitTimeout(f"position {wanted} of {database} may be lost: what is here has replaced it; ask the primary")

    async def position(self, request: Request) -> App:
        """By a look at the file that begins now: the event stream tells of a commit a moment later."""
        asked = in_query(PositionQuestion, request)
        database = self._database(asked.db)
        timeout = min(asked.timeout, self._longest)
        with self._reading.one():
            read = await while_it_is_there(request.receive, lambda: self._read(database, timeout))
        return read if read is not None else Response(status_code=499)

    async def _read(self, database: str, timeout: float) -> Response:
        position: Position | None = None
        try:
            with anyio.fail_after(timeout):
                position = await self._watcher.read_position(database)
        except TimeoutError:
            raise Refusal(503, f"LiteFS did not let its file be read within {timeout:g} s", SOON) from None
        except OSError as error:
            raise Refusal(503, safe(f"LiteFS's files can't be read: {error}"), SOON) from None
        if position is None and self._watcher.settings.standalone:
            position = Position(0)  # every wait is met
        if position is None:
            seen = unseen(database, self._watcher.status.positions) + why.unknown(self._watcher.run)
            raise Refusal(404, safe(f"there is no {database!r}: {seen}"))
        standing = self._watcher.standing
        where = {"role": standing.role, "primary": standing.primary}
        return answer({"database": database, **(position_record(position) or {}), **where})

    def _here(self, database: str) -> dict[str, Any]:
        """Where it is instead."""
        standing, position = self._watcher.standing, self._watcher.position(database)
        return {
            "database": database,
            **(position_record(position) or {"txid": None, "position": None}),
            **standing._asdict(),
        }

    def _database(self, name: str | None) -> str:
        """Raises `Refusal` where none is named, and where what is here is not LiteFS's."""
        run, settings = self._watcher.run, self._watcher.settings
        if (idle := why.idle(run)) is not None:
            raise WatcherClosed(idle)
        if (misplaced := run.misplaced) is not None:
            raise Refusal(503, safe(misplaced), SOON)
        if name is None and settings.database is None and not settings.standalone:
            raise Refusal(400, f"which database? db=NAME, or start it with --database; {_named(run.status.positions)}")
        return settings.database_or_default(name)


def _named(positions: Any) -> str:
    return f"there are {safe(', '.join(sorted(positions)[:10]))}" if positions else "none has been seen"


async def while_it_is_there(receive: Receive, work: Callable[[], Awaitable[T]]) -> T | None:
    """What ``work()`` returns or raises; None where the client leaves before: the work is cancelled then, at once."""
    result: list[T] = []
    error: list[Exception] = []

    async def watch_it() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch_it)
        try:
            result.append(await work())
        except Exception as raised:  # noqa: BLE001 - a task group would wrap it
            error.append(raised)
        tasks.cancel_scope.cancel()
    if error:
        raise error[0]
    return result[0] if result else None
