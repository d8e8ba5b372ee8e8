"""What `Forward` needs from httpcore2, on an event loop and in threads alike: limits, and what becomes of a failure."""

from __future__ import annotations

from litefs_watch.consistency import Answer, refusal
from litefs_watch.errors import ConfigError
from litefs_watch.replay import Forward

try:
    import httpcore2
except ImportError as error:  # pragma: no cover
    raise ConfigError("Forward needs httpcore2: pip install 'litefs-watch[forward]'") from error

__all__ = ["FAILED", "KEEP_ALIVE", "failure_of", "httpcore2", "timeouts_of"]

KEEP_ALIVE = 2.0
"""Seconds that an idle connection is kept. Less than servers do (uvicorn: 5): a write is never sent into one that is just
being closed, since nobody could tell whether it was done."""

FAILED = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError)
"""What httpcore2 raises when the other side is at fault."""

_NOT_SENT = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout)


def timeouts_of(strategy: Forward) -> dict[str, float]:
    """httpcore2's ``timeout`` extension, in seconds."""
    connect = {"connect": strategy.connect_timeout, "pool": strategy.connect_timeout}
    return connect | {"read": strategy.timeout, "write": strategy.timeout}


def failure_of(error: Exception) -> Answer:
    """What the client is told when the primary's answer has not begun."""
    if isinstance(error, _NOT_SENT):
        return refusal("The primary can't be reached at this moment. Try again shortly.")
    if isinstance(error, httpcore2.TimeoutException):
        return Answer.of(504, text="The primary did not answer in time. Whether it has done what was asked is not known.\n")
    return Answer.of(502, text="The primary broke off. Whether it has done what was asked is not known.\n")
