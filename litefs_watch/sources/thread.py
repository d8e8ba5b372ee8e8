"""Where blocking calls run: daemon threads of our own.

Not anyio's worker threads, for two reasons. A read of a frozen LiteFS's mount blocks for as long as it is frozen, and the
interpreter waits for those threads when it ends; it does not wait for daemons. And they are the application's (40 of them):
where all of them wait for a transaction, none would be left to see it arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token

T = TypeVar("T")


def call_soon(token: EventLoopToken, function: Callable[[], object]) -> bool:
    """From any thread, have ``function`` run in the loop of ``token``, and don't wait for it. False where that loop is gone.

    anyio's own way (`anyio.from_thread.run_sync`) waits for the result: who wakes others would wait for their loops.
    """
    loop: Any = token.native_token
    post = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon  # asyncio, trio
    try:
        post(function)
    except RuntimeError:  # trio.RunFinishedError is one, too
        return False
    return True


class CallThread:
    """One daemon thread that runs one blocking call after the other for a task."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = False

    async def run(self, function: Callable[[], T]) -> T:
        """The result of ``function()``. Cancelling abandons the call: it goes on, and nobody hears of it."""
        token = current_token()
        done = anyio.Event()
        results: list[T] = []
        errors: list[Exception] = []

        def call() -> None:
            try:
                results.append(function())
            except Exception as error:  # noqa: BLE001 - handed to the task that asked
                errors.append(error)
            call_soon(token, done.set)

        if not self._started:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            self._started = True
        self._calls.put(call)
        await done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Let the thread end, when its call has returned."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
