"""The calls by hand: a token for what is sent, a wait for who gets it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio.lowlevel import current_token as current_loop

from litefs_watch.changes import Role
from litefs_watch.consistency import PIN, Token
from litefs_watch.consistency.options import Secret
from litefs_watch.core.waiters import RoleWaiter, TxWaiter
from litefs_watch.jobs.around import AnyWatcher, Around, around, run_of, run_of_async
from litefs_watch.jobs.tokens import NOTHING, decode, encode, newest
from litefs_watch.position import Position
from litefs_watch.settings import check_timeout
from litefs_watch.watchers import bridge, threads
from litefs_watch.watchers.faces import NO_PRIMARY
from litefs_watch.watchers.parking import cancellation_point, spot_in
from litefs_watch.watchers.run import Run

logger: logging.Logger = logging.getLogger("litefs_watch")

TIMEOUT = 5.0
"""Seconds that a job waits: ten times as long as a request, and no user sits before it. Many fail-overs are over by then."""

Roles = frozenset[Role]

READ_TIMEOUT = 1.0
"""Seconds for the read of ``-pos``: a frozen LiteFS blocks it for as long as it is frozen."""
MOST_HANGING = 8
"""Reads that may hang at once, each in its thread: where so many do, one more tells nothing."""

_LATE = "it was not read within %g s"
_GONE = "there is none here, and LiteFS may be down"
_PINNED = "what the token stands for is on the primary alone, and this node did not become it"


def current_token(
    database: str | None = None,
    *,
    watcher: AnyWatcher | None = None,
    secret: Secret | Sequence[Secret] | None = None,
) -> str:
    """What this request, or this job, has written or seen, as a token; without any around it, where this node is.

    In a thread. Call it after the commit, which is then in it: the position is read anew, for 1 s at most. The text is
    that of the middleware's header ``litefs-txid``, signed where the middleware or ``secret`` says so. Without ``watcher``
    it is the middleware's, the job's, or the one that runs in this process. Where the position can't be read, as while
    LiteFS is frozen or down, the token is ``pin``: what the primary alone meets.

    Raises `ConfigError` where nothing tells which watcher, or which database, `WatcherClosed`, and `RuntimeError` in an
    event loop, where `acurrent_token` is to be awaited.
    """
    _refuse_loop("current_token()", "acurrent_token()")
    where = around(watcher, database, secret)
    run = run_of(where.watcher)
    return encode(within(READ_TIMEOUT, where.database, partial(token_of, where, run)), where.database, where.secrets)


async def acurrent_token(
    database: str | None = None,
    *,
    watcher: AnyWatcher | None = None,
    secret: Secret | Sequence[Secret] | None = None,
) -> str:
    """As `current_token`, in any event loop."""
    where = around(watcher, database, secret)
    run = await run_of_async(where.watcher)
    return encode(await token_of_async(where, run), where.database, where.secrets)


def wait_for_token(
    token: str,
    *,
    database: str | None = None,
    timeout: float | None = TIMEOUT,
    watcher: AnyWatcher | None = None,
    secret: Secret | Sequence[Secret] | None = None,
) -> None:
    """Wait until what a token stands for is here, for at most ``timeout`` seconds; None: for ever. In a thread.

    Call it before the first query: an open transaction on a replica stops its replication. A token is of one ``database``;
    without, it is the watcher's. One that is older than what this node remembers is met while it follows a primary.

    Raises `WaitTimeout`, `TransactionLost` where the primary says that it is in no history any more, `TokenError` for what
    is no token, or signed by nobody whom this process believes, `WatcherClosed`, `ConfigError` as `current_token` does, and
    `RuntimeError` in an event loop, where `await_token` is to be awaited.
    """
    _refuse_loop("wait_for_token()", "await_token()")
    where = around(watcher, database, secret)
    wanted = decode(token, where.database, where.secrets)
    wait_for(run_of(where.watcher), where.database, wanted, check_timeout(timeout))


async def await_token(
    token: str,
    *,
    database: str | None = None,
    timeout: float | None = TIMEOUT,
    watcher: AnyWatcher | None = None,
    secret: Secret | Sequence[Secret] | None = None,
) -> None:
    """As `wait_for_token`, in any event loop; a cancellation point."""
    where = around(watcher, database, secret)
    wanted = decode(token, where.database, where.secrets)
    await wait_for_async(await run_of_async(where.watcher), where.database, wanted, check_timeout(timeout))


# What the queues do, too.


def token_of(where: Around, run: Run) -> Token:
    """Reads the position in this thread."""
    try:
        position = threads.read_position(run, where.database)
    except OSError as error:
        return pin(where.database, error)
    return _newest(where, run, position)


def _newest(where: Around, run: Run, position: Position | None) -> Token:
    """With no such database there is nothing to have written; but none is seen where LiteFS has gone, either."""
    role = run.standing.role
    if position is None and (role is Role.UNKNOWN or where.database in run.board.state.positions):
        return pin(where.database, _GONE)
    return newest(where.seen(run), position, role)


_hanging: set[threading.Thread] = set()  # in a forked child, none of them is alive


def within(seconds: float, database: str, read: Callable[[], Token]) -> Token:
    """What ``read()`` gives or raises, in a thread of its own; a pin where it takes longer, as while LiteFS is frozen."""
    told: list[Token] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            told.append(read())
        except BaseException as error:  # noqa: BLE001 - handed to who asked
            errors.append(error)

    _hanging.difference_update([thread for thread in list(_hanging) if not thread.is_alive()])
    if len(_hanging) >= MOST_HANGING:
        return pin(database, f"{MOST_HANGING} reads of it hang")
    thread = threading.Thread(target=run, name="litefs_watch job", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if told:
        return told[0]
    _hanging.add(thread)
    return pin(database, _LATE % seconds)


async def token_of_async(where: Around, run: Run) -> Token:
    """Reads the position off the event loop."""
    try:
        with anyio.fail_after(READ_TIMEOUT):
            position = await bridge.read_position(run, where.database)
    except OSError as error:  # TimeoutError is one
        return pin(where.database, str(error) or _LATE % READ_TIMEOUT)
    return _newest(where, run, position)


def pin(database: str, why: object) -> Token:
    """The token of who can't tell where the database is."""
    logger.warning("a job's token can't tell the position of %s: it waits for the primary itself; %s", database, why)
    return PIN


def wait_for(run: Run, database: str, wanted: Token | Roles, timeout: float | None) -> None:
    """Waits in this thread."""
    if wanted != NOTHING:
        woken = threads.Wake()
        threads.wait(run, _waiter(database, wanted, woken.set), woken, timeout)


async def wait_for_async(run: Run, database: str, wanted: Token | Roles, timeout: float | None) -> None:
    """Waits in this event loop, whichever it is."""
    await cancellation_point(None)
    if wanted != NOTHING:
        spot = spot_in(current_loop())
        await bridge.wait(run, _waiter(database, wanted, spot.wake), spot, timeout)


def _waiter(database: str, wanted: Token | Roles, wake: Callable[[object], object]) -> TxWaiter | RoleWaiter:
    if isinstance(wanted, frozenset):
        return RoleWaiter(wanted, NO_PRIMARY, wake)
    if wanted == PIN:
        return RoleWaiter(frozenset((Role.PRIMARY,)), _PINNED, wake)
    return TxWaiter(database, wanted, wake)


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        current_loop()
    except RuntimeError:
        return False
    return True


def _refuse_loop(call: str, instead: str) -> None:
    if in_event_loop():
        raise RuntimeError(f"{call} blocks this thread, which runs an event loop: write await {instead} there")
