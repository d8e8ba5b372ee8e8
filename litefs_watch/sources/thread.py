"""Where blocking calls run: daemon threads of our own, shared by all who make such calls.

Not anyio's worker threads, for two reasons. A read of a frozen LiteFS's mount blocks for as long as it is frozen, and the
interpreter waits for those threads when it ends; it does not wait for daemons. And they are the application's (40 of them):
where all of them wait for a transaction, none would be left to see it arrive.

A thread that has nothing to do is lent to whoever comes next, and ends after a while: fifty watchers that look once a second
share one or two. A call that blocks keeps its thread, and nobody waits for it but who made it.

Prior art: trio's thread cache.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token

T = TypeVar("T")

IDLE_LIMIT = 5.0
"""Seconds after which a thread that nobody needs ends."""
IDLE_NAME = "litefs_watch, idle"


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
    """Runs one blocking call after the other for a task, in a thread that bears its name meanwhile."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._serving = False  # whether a thread is at it

    async def run(self, function: Callable[[], T]) -> T:
        """The result of ``function()``. Cancelling abandons the call: it is made all the same, and nobody hears of it.

        Raises `RuntimeError` where no thread can be had.
        """
        token = current_token()
        done = anyio.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the task that asked
                errors.append(error)
            call_soon(token, done.set)

        with self._lock:
            if not self._serving:
                lend(self._name, self._serve)
                self._serving = True
            self._calls.append(call)
        await done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._serving = False
                    return
                call = self._calls.popleft()
            call()


class _Cache:
    """The threads that have nothing to do, the last used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def lend(self, name: str, function: Callable[[], None]) -> None:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is not None:
            worker.tasks.put((name, function))
            return
        worker = _Worker(self)
        worker.tasks.put((name, function))  # first: a Ctrl-C in the start leaves no thread that waits for it for ever
        threading.Thread(target=worker.work, name=name, daemon=True).start()

    def put_back(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def take_out(self, worker: _Worker) -> bool:
        """False where it has just been lent."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True


class _Worker:
    """One thread."""

    def __init__(self, cache: _Cache) -> None:
        self._cache = cache
        self.tasks: SimpleQueue[tuple[str, Callable[[], None]]] = SimpleQueue()

    def work(self) -> None:
        thread = threading.current_thread()
        while True:
            try:
                thread.name, function = self.tasks.get(timeout=IDLE_LIMIT)
            except Empty:
                if self._cache.take_out(self):
                    return
                continue
            function()
            thread.name = IDLE_NAME
            self._cache.put_back(self)


_cache = _Cache()


def lend(name: str, function: Callable[[], None]) -> None:
    """Run ``function``, which must not raise, in a thread of that name. Raises `RuntimeError` where none can be had."""
    _cache.lend(name, function)


def _after_fork() -> None:
    """The child has none of the parent's threads, and one of them may have held the lock."""
    global _cache
    _cache = _Cache()


os.register_at_fork(after_in_child=_after_fork)
