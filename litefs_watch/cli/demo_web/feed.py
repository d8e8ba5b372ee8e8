"""What happens, to every page that is open, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import anyio
from anyio.streams.memory import MemoryObjectSendStream

SUBSCRIBERS = 32
BEHIND = 256
"""Events that a page may be behind. One that is further is cut off; it comes back, and is told all anew."""
ALIVE = 10.0
"""Seconds after which a stream says something, if only that it lives: it finds out that its page was closed."""


class Feed:
    """``opening`` gives the event that a new subscriber begins with."""

    def __init__(self, opening: Callable[[], str]) -> None:
        self._opening = opening
        self._streams: set[MemoryObjectSendStream[str]] = set()
        self._closed = False

    @property
    def full(self) -> bool:
        return self._closed or len(self._streams) >= SUBSCRIBERS

    def publish(self, event: str) -> None:
        """On the event loop's thread."""
        for stream in list(self._streams):
            try:
                stream.send_nowait(event)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._streams.discard(stream)
                stream.close()

    async def subscribe(self) -> AsyncIterator[str]:
        send, receive = anyio.create_memory_object_stream[str](BEHIND)
        if self._closed:
            send.close()
        else:
            self._streams.add(send)
        try:
            with receive:
                yield self._opening()
                while True:
                    event = ": still here\n\n"
                    with anyio.move_on_after(ALIVE):
                        event = await receive.receive()
                    yield event
        except anyio.EndOfStream:
            pass
        finally:
            self._streams.discard(send)
            send.close()

    def close(self) -> None:
        """End all streams: a server waits for its connections before it ends."""
        self._closed = True
        for stream in self._streams:
            stream.close()
        self._streams.clear()


def event(kind: str, **data: object) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
