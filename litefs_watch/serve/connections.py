"""A connection on which nothing is asked is closed: uvicorn waits for ever for a request that does not become whole.

Whoever has no token could keep all connections that there are.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

ASK_WITHIN = 10.0
"""Seconds; at most twice as many go by."""


class Connection(H11Protocol):
    """One request after the other, each of which begins soon."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._next_look = self.loop.call_later(ASK_WITHIN, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def _look(self, seen: object) -> None:
        """``seen`` is the request that was the last one at the look before."""
        cycle = self.cycle
        if cycle is seen and (cycle is None or cycle.response_complete):
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(ASK_WITHIN, self._look, cycle)
