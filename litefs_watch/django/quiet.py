"""Keeps errors that become the replay out of Django's log, and so out of the mails to ``ADMINS``."""

from __future__ import annotations

import logging

from litefs_watch.consistency import exchange_of

_logger = logging.getLogger("django.request")


class _Replays(logging.Filter):
    """Withholds the record of an exception that may belong elsewhere, until it is known that it stays an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        request, error = getattr(record, "request", None), record.exc_info[1] if record.exc_info else None
        if error is None or not hasattr(request, "META"):
            return True
        exchange = exchange_of(request)
        if exchange is None or exchange.started or exchange.spoken:
            return True
        if not exchange.may_belong_elsewhere(exchange.blamed(error)):
            return True
        exchange.withhold(lambda: _logger.handle(record))
        return False


_replays = _Replays()


def keep_replays_quiet() -> None:
    """From now on. Twice is once."""
    _logger.addFilter(_replays)
