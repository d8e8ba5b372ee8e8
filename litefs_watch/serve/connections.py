"""Connections that would keep others out are closed.

uvicorn waits for ever for a request that does not become whole, and for a client that takes nothing of its answers; and what
comes over its limit stays open for as long as it asks nothing.

Whoever has no token could keep all connections that there are, and the descriptors that the watcher reads with.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds that a client has to ask, or to take some of what is on its way to it; at most twice as many go by."""
TURNED_AWAY = 64
"""Connections over the limit that may still ask, and are told 503. The next is closed at once."""


class Connection(H11Protocol):
    """One request after the other, each of which begins soon, and whose answer is taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._untaken: int | None = None  # bytes, at the last look, if nothing was taken since
        self._next_look = self.loop.call_later(PATIENCE, self._look, None)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency + TURNED_AWAY:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._untaken = None
        super().resume_writing()

    def _look(self, seen: object) -> None:
        """``seen`` is the request that was the last one at the look before."""
        cycle = self.cycle
        asks_nothing = cycle is seen and (cycle is None or cycle.response_complete)
        if asks_nothing or self._takes_nothing():
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(PATIENCE, self._look, cycle)

    def _takes_nothing(self) -> bool:
        """Whether it did not since the look before. While writing is paused, what is on its way can only become less."""
        before = self._untaken
        self._untaken = self.transport.get_write_buffer_size() if self.flow.write_paused else None
        return before is not None and before == self._untaken
