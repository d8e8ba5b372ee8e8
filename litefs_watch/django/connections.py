"""Notes on Django's own connections what SQLite refuses, and closes those that are dead.

Not by an ``execute_wrapper``: within a transaction, a WAL database on a replica refuses nothing before the COMMIT, which is
no statement to Django. All that a connection does goes through its ``wrap_database_errors``.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseErrorWrapper

from litefs_watch.web.notes import note


class _Noting(DatabaseErrorWrapper):
    """As Django's; what the driver has raised is noted first."""

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            return
        if note(error, remedy="Django closes each at the end of the request that has met it"):
            self.wrapper.close_at = time.monotonic()  # as if of CONN_MAX_AGE: to Django, one to SQLite is always usable
        super().__exit__(kind, error, traceback)


def watch_connections() -> None:
    """From now on, in every thread. Twice is once."""
    connection_created.connect(_watch, dispatch_uid="litefs_watch.django.connections")
    for connection in connections.all(initialized_only=True):
        _watch(connection)


def _watch(connection: Any, **_: Any) -> None:
    if getattr(connection, "vendor", None) == "sqlite" and not isinstance(connection.wrap_database_errors, _Noting):
        connection.wrap_database_errors = _Noting(connection)
