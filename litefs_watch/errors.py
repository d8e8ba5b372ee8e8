"""Every error that litefs_watch raises on purpose.

::

    LiteFSWatchError
    ├── ConfigError     (ValueError)    the settings can't work; says what to set
    ├── WireError       (ValueError)    LiteFS, or what stands in its place, said something unreadable
    ├── WaitTimeout     (TimeoutError)  what was waited for did not happen in time
    ├── NotHereYet                      the primary has answered this node's own request, and this node is behind it
    ├── TokenError      (ValueError)    a token is none, or is signed by nobody whom this process believes
    ├── TransactionLost                 a fail-over has dropped the transaction that was waited for
    ├── WatcherClosed                   you stopped the watcher, or have not started it
    ├── NotPrimary                      this must run on another node, whose name it carries
    │   └── WrongInstance               … on an instance that the caller chose
    ├── NoPrimary                       this must run on the primary, and none is known
    └── HaltError                       LiteFS's HALT lock can't be had; says why
        ├── HaltTimeout (WaitTimeout)   … was not granted in time
        └── HaltExpired                 … was gone before its block ended: later writes failed

*Closed* means that you closed it. What LiteFS does (freezing, dying, handing over) is no exception: it shows in
``watcher.status`` and heals by itself.
"""

from __future__ import annotations

from typing import Any


class LiteFSWatchError(Exception):
    """The root of all errors of this package."""


class ConfigError(LiteFSWatchError, ValueError):
    """The settings can't work. The message says which one, what was seen, and what to set."""


class WireError(LiteFSWatchError, ValueError):
    """A file of the mount, or a line of the event stream, is not what LiteFS writes."""


class WaitTimeout(LiteFSWatchError, TimeoutError):
    """What was waited for did not happen in time."""


class NotHereYet(LiteFSWatchError):
    """The primary has answered a request of this node's own, and what it wrote is not known to be here: don't send it again.

    No `WaitTimeout`: who catches one tries again, and the middleware sends a handler's own on to the primary, where it would
    all be done twice. ``response`` is the answer, without its body.
    """

    def __init__(self, message: str, response: object = None) -> None:
        self.response: Any = response
        super().__init__(message)

    def __reduce__(self) -> tuple[type[NotHereYet], tuple[str]]:
        return type(self), (str(self),)


class TokenError(LiteFSWatchError, ValueError):
    """What came as a token is none, or is signed by nobody whom this process believes."""


class TransactionLost(LiteFSWatchError):
    """The primary says that a position is in no history any more: a fail-over has dropped its transaction."""


class WatcherClosed(LiteFSWatchError):
    """The watcher is not running: it was stopped, or never started."""


class NotPrimary(LiteFSWatchError):
    """This node is a replica, and what was asked for must run on the primary.

    ``primary`` is the hostname to go to, None where the primary has no name (a static lease without a hostname).
    """

    def __init__(self, primary: str | None, message: str | None = None) -> None:
        self.primary = primary
        where = f"; the primary is {primary!r}: run this there"
        if primary is None:
            where = " of a primary without a hostname: run this there, and set lease.hostname in its litefs.yml"
        super().__init__(message or f"this node is a replica{where}")

    def __reduce__(self) -> tuple[type[NotPrimary], tuple[str | None, str]]:
        return type(self), (self.primary, str(self))


class WrongInstance(NotPrimary):
    """What was asked for must run on a given instance, and this is another one; ``primary`` is the one wanted."""


class NoPrimary(LiteFSWatchError):
    """No primary is known at this moment (a fail-over, LiteFS down, or nothing read yet): try again shortly."""


class HaltError(LiteFSWatchError):
    """The HALT lock can't be had: no mount of LiteFS, no such database, or no primary in reach."""


class HaltTimeout(HaltError, WaitTimeout):
    """LiteFS did not grant the HALT lock in time: another node holds it, or a transaction is open on the primary."""


class HaltExpired(HaltError):
    """The HALT lock was gone before its block ended (30 s, a restart of LiteFS, another primary): later writes failed."""
