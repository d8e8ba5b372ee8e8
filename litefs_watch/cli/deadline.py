"""``--timeout``: one limit for all that a command does, the watcher's start included."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from litefs_watch import Settings, WaitTimeout, Watcher

T = TypeVar("T")

_FIRST_ANSWER = 0.25  # seconds that the start takes at most where LiteFS is well; a limit of 0 asks for what is true now


class Deadline:
    """``timeout`` seconds from now, and a quarter of one for the start; None: never."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._ends = anyio.current_time() + (timeout or 0.0) + _FIRST_ANSWER

    @property
    def left(self) -> float | None:
        """Seconds, from ``timeout`` down to 0; None: any number."""
        if self._timeout is None:
            return None
        return min(self._timeout, max(0.0, self._ends - anyio.current_time()))

    async def bound(self, wait: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """What ``wait(*arguments, timeout=…)`` returns, with what is left. Its `WaitTimeout` says what was asked for."""
        left = self.left
        try:
            return await wait(*arguments, timeout=left)
        except WaitTimeout as error:
            raise WaitTimeout(str(error).replace(f"within {left:g} s", f"within {self._timeout:g} s", 1)) from None

    def watcher(self, settings: Settings) -> Watcher:
        """One that waits for a frozen LiteFS no longer than that when it starts."""
        if self.left is None:
            return Watcher(settings)
        limit = min(settings.start_timeout, max(self.left, _FIRST_ANSWER))
        return Watcher(settings.model_copy(update={"start_timeout": limit}))
