"""Traces for OpenTelemetry (extra ``opentelemetry``, which is its API alone): a span around what a request waited for."""

from __future__ import annotations

from opentelemetry.trace import Tracer, TracerProvider, get_tracer

from litefs_watch.operate.observers import Ended, observe
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.watcher import Watcher

__all__ = ["instrument"]


def instrument(watcher: Watcher | BlockingWatcher, *, tracer_provider: TracerProvider | None = None) -> None:
    """From now on, a span in a request's own trace for each time that it waits in a middleware of ``watcher``.

    ``litefs_watch wait`` is for a transaction, ``litefs_watch hold`` for a primary; the attribute ``litefs_watch.outcome``
    is ``met``, ``unmet``, or ``cancelled``. A request that waits for nothing has none. ``tracer_provider`` is the global one
    without it. Once for each watcher: twice is two spans.
    """
    observe(watcher, _Spans(get_tracer("litefs_watch", tracer_provider=tracer_provider)))


class _Spans:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def began(self, kind: str) -> Ended:
        span = self._tracer.start_span(f"litefs_watch {kind}")

        def ended(outcome: str, _: float) -> None:
            span.set_attribute("litefs_watch.outcome", outcome)
            span.end()

        return ended

    def replayed(self, reason: str) -> None:
        """No span: it took no time."""

    def refused(self, reason: str) -> None:
        """As above."""

    def lost(self) -> None:
        """As above."""
