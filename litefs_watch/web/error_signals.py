"""How Django, Flask and Quart tell of an exception that they turn into a response, so that it never reaches a middleware.

Each sends a signal. Starlette, FastAPI and Litestar need none: they send their error page while handling the exception.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from litefs_watch.consistency import exchange_of, mark_failed


def listen_for_reports() -> None:
    """Listen to the frameworks that are loaded. Listening twice is listening once."""
    if (django := sys.modules.get("django.core.signals")) is not None:
        django.got_request_exception.connect(_django_failed, dispatch_uid="litefs_watch")
    if (flask := sys.modules.get("flask.signals")) is not None:
        flask.got_request_exception.connect(_flask_failed)
    if (quart := sys.modules.get("quart.signals")) is not None:
        quart.got_request_exception.connect(_quart_failed)
        quart.got_websocket_exception.connect(_quart_websocket_failed)


def _django_failed(sender: Any, request: Any = None, **_: Any) -> None:
    if request is not None and (error := sys.exception()) is not None:
        mark_failed(request, error)


def _flask_failed(sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    from flask import has_request_context, request

    if exception is not None and has_request_context():
        mark_failed(request, exception)
        sender.logger.addFilter(_flask_replays)


async def _quart_failed(sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    from quart import has_request_context, request

    if exception is not None and has_request_context():
        mark_failed(request, exception)
        sender.logger.addFilter(_quart_replays)


async def _quart_websocket_failed(sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    from quart import has_websocket_context, websocket

    if exception is not None and has_websocket_context():
        mark_failed(websocket, exception)


class _Replays(logging.Filter):
    """Withholds the record of an exception that may belong elsewhere, until it is known that it stays an error: a replay is
    none. Of one framework, whose request is the one that is being handled."""

    def __init__(self, framework: str) -> None:
        super().__init__()
        self._framework = framework

    def filter(self, record: logging.LogRecord) -> bool:
        error, framework = record.exc_info[1] if record.exc_info else None, sys.modules[self._framework]
        if error is None or not framework.has_request_context():
            return True
        exchange = exchange_of(framework.request)
        if exchange is None or exchange.started or exchange.spoken:
            return True
        if not exchange.may_belong_elsewhere(exchange.blamed(error)):
            return True
        exchange.withhold(lambda: logging.getLogger(record.name).handle(record))
        return False


_flask_replays = _Replays("flask")
_quart_replays = _Replays("quart")
