"""The clients of threads: those of an event loop, without it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

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
from litefs_watch.watchers.blocking import BlockingWatcher


class BlockingPrimaryClient(httpx2.Client):
    """`PrimaryClient` for threads: an `httpx2.Client`, with the same options, the same errors, and a `BlockingWatcher`."""

    def __init__(
        self,
        watcher: BlockingWatcher,
        address: Address,
        *,
        wait: float | None = 5.0,
        patience: float = 10.0,
        database: str | None = None,
        secret: Secret | Sequence[Secret] | None = None,
        transport: httpx2.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        check_address("BlockingPrimaryClient", address)
        check_limits(patience, wait)
        below = transport_options("BlockingPrimaryClient", options, given=transport is not None)
        self._session = Session(watcher.settings, database, secret)
        ours = _PrimaryTransport(watcher, address, self._session, wait, patience, database, transport, below)
        super().__init__(base_url=PRIMARY, transport=ours, trust_env=False, **options)

    @property
    def token(self) -> str | None:
        """What this session has written or seen: to hand to a job, or from `current_token`. None before its first answer.

        Setting it raises `ValueError` for what is no token.
        """
        return self._session.text

    @token.setter
    def token(self, text: str | None) -> None:
        self._session.set(text)


class _PrimaryTransport(httpx2.BaseTransport):
    def __init__(
        self,
        watcher: BlockingWatcher,
        address: Address,
        session: Session,
        wait: float | None,
        patience: float,
        database: str | None,
        transport: httpx2.BaseTransport | None,
        options: dict[str, Any],
    ) -> None:
        self._watcher, self._address, self._session = watcher, address, session
        self._wait, self._patience, self._database = wait, patience, database
        self._owned = transport is None
        self._below = transport or httpx2.HTTPTransport(**options)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        carried, headers = self._session.carried(request)
        way = Way(request, headers, self._watcher.settings, self._address, self._patience)
        response = self._send(way)
        try:
            token = self._session.take(response, carried)
            if self._wait is not None and (wanted := wanted_here(token, response)) is not None:
                try:
                    self._watcher.wait_for_tx(wanted, database=self._database, timeout=self._wait)
                except (WaitTimeout, WatcherClosed) as error:
                    raise late(response, error) from error
        except BaseException:
            response.close()
            raise
        return response

    def _send(self, way: Way) -> httpx2.Response:
        while True:
            with self._watcher.primary_changes() as changes:
                self._watcher.wait_for_primary(timeout=way.left)
                standing = self._watcher.standing
                if standing.role is Role.UNKNOWN:  # again, meanwhile
                    continue
                try:
                    response = self._below.handle_request(way.to(standing))
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
                    response.close()
                    way.refuse(standing)
                with suppress(WaitTimeout):
                    changes.take(way.pause)

    def close(self) -> None:
        if self._owned:
            self._below.close()


class BlockingTokenTransport(httpx2.BaseTransport):
    """Carries ``litefs-txid`` for `httpx2.Client`: each service gets back what it said last, and no other's.

    For calls from one service to another that has the middleware: it reads there what it has written there. ``transport`` is
    used below. A request that has the header already keeps its own.
    """

    def __init__(self, transport: httpx2.BaseTransport | None = None) -> None:
        self._below = transport or httpx2.HTTPTransport()
        self._services = Services()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it on, with the token."""
        sent = self._services.carry(request)
        response = self._below.handle_request(sent)
        self._services.take(sent, response)
        return response

    def close(self) -> None:
        """Close what is below."""
        self._below.close()
