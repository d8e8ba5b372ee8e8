"""Transactions that came together: each is counted, but only the newest of each database goes through the state."""

from __future__ import annotations

from collections.abc import Callable

from litefs_watch.core.readings import TxEvent
from litefs_watch.position import Position

RUN_LIMIT = 256
"""Positions in one report. A longer run is reported in parts, so nothing is lost."""


class Burst:
    """Reports each database's first transaction, and its newest with those that were passed.

    The first goes by itself, and so does one whose TXID does not rise: the state sees every place where a history may have
    changed, and the rest of a run only ever rises.
    """

    def __init__(self, report: Callable[[TxEvent], None]) -> None:
        self._report = report
        self._runs: dict[str, list[Position]] = {}  # each begins with what was reported already

    def put(self, received: float, database: str, position: Position) -> None:
        """Take in a transaction, in the order in which they came."""
        run = self._runs.get(database)
        if run is not None:
            if position.txid > run[-1].txid and len(run) <= RUN_LIMIT:
                run.append(position)
                self._runs[database] = self._runs.pop(database)  # the newest last
                return
            self._report_rest(received, database, run)
        self._runs[database] = [position]
        self._report(TxEvent(received, database, position))

    def flush(self, received: float) -> None:
        """Report what has not been reported, in the order of the newest."""
        for database, run in self._runs.items():
            self._report_rest(received, database, run)
        self._runs.clear()

    def _report_rest(self, received: float, database: str, run: list[Position]) -> None:
        if len(run) > 1:
            _, *passed, newest = run
            self._report(TxEvent(received, database, newest, tuple(passed)))
