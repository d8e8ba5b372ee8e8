"""litefs-js's calls by their names, for who ports an application. Thin: what they do is done elsewhere.

Each works without a running watcher: then it starts one, for as long as the call takes (some 30 ms). Pass ``watcher=`` to
use the application's. ``litefs_dir`` and ``database_filename`` are ``LITEFS_DIR`` and ``DATABASE_FILENAME`` without them;
times are in seconds where litefs-js has milliseconds. New code is better off with `litefs_watch.asgi.LiteFSMiddleware`.

Better than there: a node that is cut off, or amid a fail-over, is not taken for the primary; a wait ends when the
transaction is here, in the directory and database that it was asked for; TXIDs are exact to 64 bits; a cookie stays until it
expires, or can never be met.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from litefs_watch.changes import Role
from litefs_watch.consistency import (
    PIN,
    RUN,
    SAFE_METHODS,
    Answer,
    Cookie,
    Options,
    Replay,
    Tokens,
    Verdict,
)
from litefs_watch.consistency.tokens import txid_of
from litefs_watch.errors import NoPrimary, NotPrimary, WaitTimeout
from litefs_watch.fly import get_all_instances, get_internal_instance_domain
from litefs_watch.replay import FlyReplay
from litefs_watch.settings import Settings
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.watcher import Watcher
from litefs_watch.web.waiting import AsyncGate

__all__ = [
    "TX_NUM_COOKIE_NAME",
    "Consistency",
    "InstanceInfo",
    "append_tx_number_cookie",
    "check_cookie_for_transactional_consistency",
    "ensure_instance",
    "ensure_primary",
    "get_all_instances",
    "get_instance_info",
    "get_instance_info_sync",
    "get_internal_instance_domain",
    "get_replay_response",
    "get_tx_number",
    "get_tx_set_cookie_header",
    "handle_transactional_consistency",
    "wait_for_up_to_date_tx_number",
]

TX_NUM_COOKIE_NAME = "txnum"
TIMEOUT = 0.5
"""Seconds: litefs-js's 500 ms."""

_TOKENS = Tokens(TX_NUM_COOKIE_NAME, "decimal")


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """Who is who. ``primary_instance`` is None where no primary is known, or it has no name."""

    primary_instance: str | None
    current_instance: str
    current_is_primary: bool


@dataclass(frozen=True, slots=True)
class Consistency:
    """What to do with a request, by the transaction that its client has seen.

    ``ok``: go on. ``delete-cookie``: go on, and delete it, since it can never be met. ``replay``: to ``primary_instance``.
    ``unavailable``: the transaction did not come, and no primary is known to replay to: answer 503.
    """

    type: Literal["ok", "delete-cookie", "replay", "unavailable"]
    primary_instance: str | None = None


async def get_instance_info(litefs_dir: str | Path | None = None, *, watcher: Watcher | None = None) -> InstanceInfo:
    """Who is the primary, and whether this instance is it. Raises `ConfigError`."""
    async with _watching(watcher, litefs_dir) as using:
        return _info(using)


def get_instance_info_sync(litefs_dir: str | Path | None = None, *, watcher: BlockingWatcher | None = None) -> InstanceInfo:
    """`get_instance_info` without an event loop. Raises `ConfigError`."""
    if watcher is not None:
        return _info(watcher)
    with BlockingWatcher(_settings(litefs_dir, None)) as own:
        return _info(own)


async def get_tx_number(
    litefs_dir: str | Path | None = None, database_filename: str | None = None, *, watcher: Watcher | None = None
) -> int:
    """The TXID in the ``-pos`` file, 0 where there is none. Raises `ConfigError`, and `OSError` where it is unreadable."""
    async with _watching(watcher, litefs_dir, database_filename) as using:
        position = await using.read_position(database_filename)
    return 0 if position is None else position.txid


async def wait_for_up_to_date_tx_number(
    tx_number: int,
    *,
    timeout: float = TIMEOUT,
    litefs_dir: str | Path | None = None,
    database_filename: str | None = None,
    watcher: Watcher | None = None,
) -> bool:
    """Wait until the database has that transaction. True when it has, False after ``timeout`` seconds.

    Raises `ConfigError`, and `ValueError` for what is no TXID.
    """
    async with _watching(watcher, litefs_dir, database_filename) as using:
        try:
            await using.wait_for_tx(tx_number, database=database_filename, timeout=timeout)
        except WaitTimeout:
            return False
    return True


def get_tx_set_cookie_header(tx_number: int) -> str:
    """The value of ``Set-Cookie`` for that TXID, with litefs-js's attributes."""
    return f"{TX_NUM_COOKIE_NAME}={_TOKENS.encode(tx_number)}; Path=/; HttpOnly; SameSite=Lax; Secure"


async def check_cookie_for_transactional_consistency(
    tx_number: int | str | bytes | None,
    *,
    timeout: float = TIMEOUT,
    litefs_dir: str | Path | None = None,
    database_filename: str | None = None,
    watcher: Watcher | None = None,
) -> Consistency:
    """What the value of the cookie calls for, after a wait of at most ``timeout`` seconds. None: there is no cookie.

    On the primary nothing is waited for; a pin (2^64-1) goes there at once, and stays. Raises `ConfigError`.
    """
    if tx_number is None:
        return Consistency("ok")
    raw = tx_number if isinstance(tx_number, bytes) else str(tx_number).encode("utf-8", "replace")
    if isinstance(_TOKENS.decode(raw), Verdict):
        return Consistency("delete-cookie")
    options = Options(cookie=TX_NUM_COOKIE_NAME, header=None, timeout=timeout, hold_writes=0)
    async with _watching(watcher, litefs_dir, database_filename) as using:
        gate = AsyncGate(using, database_filename, options)
        exchange = gate.policy.begin("GET", "/", [(b"cookie", b"txnum=" + raw)])
        if exchange is None:
            return Consistency("ok")
        action = await gate.enter(exchange)
        if isinstance(action, Replay):
            return Consistency("replay", action.hostname)
        if action is not RUN:
            return Consistency("unavailable")
        token = txid_of(exchange.token or 0)
        # A pin stays: what its client has written is on no replica for sure, and only the middleware can replace it.
        if using.is_primary and token != PIN and token > await get_tx_number(None, database_filename, watcher=using):
            return Consistency("delete-cookie")
    return Consistency("ok")


async def ensure_primary(*, watcher: Watcher | None = None) -> None:
    """Return on the primary. Raises `NotPrimary`, which carries where to go, and `NoPrimary`.

    Inside `LiteFSMiddleware` these are answered with the replay; elsewhere, answer with `get_replay_response`.
    """
    async with _watching(watcher) as using:
        using.ensure_primary()


async def ensure_instance(instance: str, *, watcher: Watcher | None = None) -> None:
    """Return on that instance. Raises `WrongInstance`, a `NotPrimary` that carries ``instance``, elsewhere."""
    async with _watching(watcher) as using:
        using.ensure_instance(instance)


def get_replay_response(instance: str) -> Answer:
    """409 with ``fly-replay``: a status, headers and a body, for whatever framework."""
    return FlyReplay().answer(instance, "")


async def handle_transactional_consistency(
    request: Any, *, timeout: float = TIMEOUT, watcher: Watcher | None = None
) -> Consistency:
    """Wait for what the request's cookie asks for; ``request`` is an ASGI scope, or has ``headers``.

    Returns ``ok`` or ``delete-cookie``. Raises `NotPrimary` where the request is to be replayed, and `NoPrimary` where it
    can't be, as `ensure_primary` does.
    """
    found = next((raw for raw in map(_COOKIE.find, _cookie_headers(request)) if raw is not None), None)
    result = await check_cookie_for_transactional_consistency(found, timeout=timeout, watcher=watcher)
    if result.type == "replay":
        raise NotPrimary(result.primary_instance)
    if result.type == "unavailable":
        raise NoPrimary("this replica has not got what the client has seen, and no primary is known")
    return result


async def append_tx_number_cookie(request: Any, response_headers: Any, *, watcher: Watcher | None = None) -> None:
    """After a write on the primary: append the cookie to the response's headers. Else nothing.

    ``request`` is an ASGI scope, or has ``method``; ``response_headers`` has ``append(name, value)`` (Starlette) or
    ``add(name, value)`` (Werkzeug), or is a list of pairs. Call it when the handler has committed.
    """
    method = request["method"] if isinstance(request, Mapping) else request.method
    if str(method).upper() in SAFE_METHODS:
        return
    async with _watching(watcher) as using:
        if not using.is_primary:
            return
        value = get_tx_set_cookie_header(await get_tx_number(watcher=using))
    if isinstance(response_headers, list):
        response_headers.append(("set-cookie", value))
    else:
        add = response_headers.add if hasattr(response_headers, "add") else response_headers.append
        add("set-cookie", value)


_COOKIE = Cookie(TX_NUM_COOKIE_NAME, "", 1)


def _cookie_headers(request: Any) -> list[bytes]:
    headers = request["headers"] if isinstance(request, Mapping) else request.headers
    if isinstance(headers, Mapping):
        value = headers.get("cookie") or headers.get("Cookie")
        return [] if value is None else [value if isinstance(value, bytes) else value.encode("latin-1", "replace")]
    return [value for name, value in headers if name.lower() == b"cookie"]


def _info(watcher: Watcher | BlockingWatcher) -> InstanceInfo:
    role, primary = watcher.standing
    is_primary = role is Role.PRIMARY
    return InstanceInfo(watcher.hostname if is_primary else primary, watcher.hostname, is_primary)


def _settings(litefs_dir: str | Path | None, database: str | None) -> Settings:
    given: dict[str, Any] = {"litefs_dir": litefs_dir, "database": database}
    return Settings.from_env(**{name: value for name, value in given.items() if value is not None})


@asynccontextmanager
async def _watching(
    watcher: Watcher | None, litefs_dir: str | Path | None = None, database: str | None = None
) -> AsyncIterator[Watcher]:
    if watcher is not None:
        yield watcher
        return
    async with Watcher(_settings(litefs_dir, database)) as own:
        yield own
