"""One message, as whoever meets it sees it: ``ConfigError: which database? …``, ``503 The primary can't be reached…``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio

Provoke = Callable[[], Any]


class Case(NamedTuple):
    """What provokes a message, by raising it, or by returning it; and what of it the message must name."""

    provoke: Provoke
    seen: tuple[str, ...]


def case(provoke: Provoke, *seen: str) -> Case:
    """With the values that it is given wrongly, or the places that it is about."""
    return Case(provoke, seen)


def calling(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Provoke:
    """The call itself provokes it; what it gives is no message."""

    def provoke() -> None:
        call(*arguments, **keywords)

    async def provoke_async() -> None:
        await call(*arguments, **keywords)

    return provoke_async if inspect.iscoroutinefunction(call) else provoke


def met(provoke: Provoke) -> str | None:
    """The message. None where none came."""
    try:
        told = anyio.run(provoke) if inspect.iscoroutinefunction(provoke) else provoke()
    except Exception as error:  # noqa: BLE001 - it is what this is about
        return as_printed(error)
    return told if isinstance(told, str) else None


def as_printed(error: BaseException) -> str:
    """A traceback's last line, without the module; of a task group, its task's."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
