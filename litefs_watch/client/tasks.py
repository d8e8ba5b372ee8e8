"""The clients of an event loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import httpx2

from litefs_watch.changes import Role
from litefs_watch.client.session import (
    PRIMARY,
    Address,
    Services,
    Session,
    Way,
    check_address,
    check_limits,
    late,
    transport_options,
    wanted_here,
)
from litefs_watch.consistency.options import Secret
from litefs_watch.errors import WaitTimeout, WatcherClosed
from litefs_watch.watchers.watcher import Watcher


class PrimaryClient(httpx2.AsyncClient):
    """An `httpx2.AsyncClient` whose requests, ``await client.post("/orders", json=…)``, go to the primary.

    ``address`` is that of the application on a node: ``http://{hostname}:8080``, as `Forward` has it, or a function of the
    hostname. One client is one session: it carries ``litefs-txid`` both ways (`token`), and an answer is returned when what
    it tells of is here, within ``wait`` seconds (None: it is not waited for).

    A fail-over is followed for ``patience`` seconds: where no connection could be made, or a node has answered that another
    one is the primary. What may have run is never sent twice. ``secret`` and ``database`` are the middleware's. A
    ``transport`` that is given is used below, and stays open. All other options are httpx2's, but ``base_url``, ``proxy``
    and ``mounts``.

    Raises, beside httpx2's errors: `WaitTimeout` where no primary was known (nothing was sent), `NotPrimary` where none took
    it (nothing was done), `NotHereYet` where it was answered and is not here in time (don't send it again: its ``response``
    is the answer), `TransactionLost`, and `WatcherClosed` where the watcher does not run (nothing was sent).
    """

    def __init__(
        self,
        watcher: Watcher,
        address: Address,
        *,
        wait: float | None = 5.0,
        patience: float = 10.0,
        database: str | None = None,
        secret: Secret | Sequence[Secret] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        check_address("PrimaryClient", address)
        check_limits(patience, wait)
        below = transport_options("PrimaryClient", options, given=transport is not None)
        self._session = Session(watcher.settings, database, secret)
        ours = _PrimaryTransport(watcher, address, self._session, wait, patience, database, transport, below)
        super().__init__(base_url=PRIMARY, transport=ours, trust_env=False, **options)

    @property
    def token(self) -> str | None:
        """What this session has written or seen: to hand to a job, or from `acurrent_token`. None before its first answer.

        Setting it raises `ValueError` for what is no token.
        """
        return self._session.text

    @token.setter
    def token(self, text: str | None) -> None:
        self._session.set(text)


class _PrimaryTransport(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        watcher: Watcher,
        address: Address,
        session: Session,
        wait: float | None,
        patience: float,
        database: str | None,
        transport: httpx2.AsyncBaseTransport | None,
        options: dict[str, Any],
    ) -> None:
        self._watcher, self._address, self._session = watcher, address, session
        self._wait, self._patience, self._database = wait, patience, database
        self._owned = transport is None
        self._below = transport or httpx2.AsyncHTTPTransport(**options)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        carried, headers = self._session.carried(request)
        way = Way(request, headers, self._watcher.settings, self._address, self._patience)
        response = await self._send(way)
        try:
            token = self._session.take(response, carried)
            if self._wait is not None and (wanted := wanted_here(token, response)) is not None:
                try:
                    await self._watcher.wait_for_tx(wanted, database=self._database, timeout=self._wait)
                except (WaitTimeout, WatcherClosed) as error:
                    raise late(response, error) from error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            raise
        return response

    async def _send(self, way: Way) -> httpx2.Response:
        while True:
            with self._watcher.primary_changes() as changes:
                await self._watcher.wait_for_primary(timeout=way.left)
                standing = self._watcher.standing
                if standing.role is Role.UNKNOWN:  # again, meanwhile
                    continue
                try:
                    response = await self._below.handle_async_request(way.to(standing))
                except httpx2.TransportError as error:
                    if not way.may_go_on(error):
                        raise
                except BaseException:  # cancelled, in the midst of it
                    way.has_run()
                    raise
                else:
                    if not way.is_replay(response):
                        way.answered(response)
                        return response
                    await response.aclose()
                    way.refuse(standing)
                with suppress(WaitTimeout):
                    await changes.take(way.pause)

    async def aclose(self) -> None:
        if self._owned:
            await self._below.aclose()


class TokenTransport(httpx2.AsyncBaseTransport):
    """Carries ``litefs-txid`` for `httpx2.AsyncClient`: each service gets back what it said last, and no other's.

    For calls from one service to another that has the middleware: it reads there what it has written there. ``transport`` is
    used below. A request that has the header already keeps its own.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._below = transport or httpx2.AsyncHTTPTransport()
        self._services = Services()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it on, with the token."""
        sent = self._services.carry(request)
        response = await self._below.handle_async_request(sent)
        self._services.take(sent, response)
        return response

    async def aclose(self) -> None:
        """Close what is below."""
        await self._below.aclose()
