"""What a handler, or what it calls, says of its request while that runs; and asks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, overload

from litefs_watch.consistency.exchange import SCOPE_KEY, Exchange

current_exchange: ContextVar[Exchange | None] = ContextVar("litefs_watch.exchange", default=None)
"""That of the request which is being handled here. A thread that copies its context, as Starlette's, asyncio's and asgiref's
do, has it too. After a request it is that of the one around it, if any, else it stays: who is told then is one that is over,
which changes nothing."""


def note_refused(error: BaseException) -> None:
    """A driver has raised ``error``, a write that SQLite refused, for the request that is being handled here, if any is.

    Where its response is one of 400 and above, the replay takes its place, whatever the application made of the error.
    """
    exchange = current_exchange.get()
    while exchange is not None:
        exchange.refuse(error)
        exchange = exchange.outer


def note_halted() -> None:
    """The request that is being handled here, if any is, holds the HALT lock: what it writes may commit, on a node that is
    no primary. A write that was refused before is taken to be tried again."""
    exchange = current_exchange.get()
    while exchange is not None:
        exchange.halt()
        exchange = exchange.outer


def exchange_of(request: Any) -> Exchange | None:
    """The exchange of a request, an ASGI scope or a WSGI environ; None where no middleware is around it.

    Knows the requests of Starlette, FastAPI, Litestar, Quart (``scope``), Flask (``environ``) and Django (``META``).
    Raises `TypeError` for anything else.
    """
    holders = [request, *(getattr(request, name, None) for name in ("scope", "environ", "META"))]
    mappings = [holder for holder in holders if isinstance(holder, Mapping)]
    if not mappings:
        raise TypeError(f"a request, its ASGI scope or its WSGI environ is marked, and not {type(request).__name__}")
    return next((found for mapping in mappings if isinstance(found := mapping.get(SCOPE_KEY), Exchange)), None)


def mark_written(request: Any) -> None:
    """Say that this request has written, so that its response carries the position: for a GET that writes.

    Call it before the response starts, on the node that wrote; after a write method it is not needed. A write that was
    refused before is taken to have been tried again, and is forgotten. ``request`` is the framework's, or an ASGI scope, or
    a WSGI environ. Where no middleware of ours is around the handler, nothing happens. Raises `TypeError` for what is no
    request.
    """
    for exchange in _nested(request):
        exchange.written, exchange.refused = True, None


def lost_transaction(request: Any) -> int | None:
    """The TXID of what this request's client has written or seen, and a fail-over has lost; None where nothing is.

    Only the primary knows, and only of tokens that are whole positions before the response starts. ``request`` as for
    `mark_written`; raises `TypeError` for what is none.
    """
    return next((exchange.lost for exchange in _nested(request) if exchange.lost is not None), None)


@overload
def mark_failed(error: BaseException, /) -> None: ...
@overload
def mark_failed(request: Any, error: BaseException) -> None: ...
def mark_failed(request: Any, error: BaseException | None = None) -> None:
    """Say that ``error`` is what this request fails with: for an error handler that answers instead of the framework.

    Where it means that the request belongs on the primary (`NotPrimary`, a write that SQLite refused), the replay takes the
    place of the response that follows, if that is one of 400 and above. Frameworks tell of what they answer themselves, but
    Flask does not of what an application's ``@app.errorhandler(Exception)`` answers; drivers tell of refused writes where
    `litefs_watch.refusals` is switched on. ``request`` as for `mark_written`; raises `TypeError` for what is none.
    ``mark_failed(error)`` is of the request that is being handled in this context; outside of any, nothing happens.
    """
    if error is not None:
        for exchange in _nested(request):
            exchange.error = error
        return
    if not isinstance(request, BaseException):
        raise TypeError(f"mark_failed takes an error, or a request and an error, not {type(request).__name__} alone")
    current = current_exchange.get()
    while current is not None:
        current.error = request
        current = current.outer


def _nested(request: Any) -> Iterator[Exchange]:
    """The exchange of each middleware around the handler."""
    exchange = exchange_of(request)
    while exchange is not None:
        yield exchange
        exchange = exchange.outer
