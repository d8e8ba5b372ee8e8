"""Traces: a span where a request really waited, in its own trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from litefs_watch import Position
from litefs_watch.asgi import LiteFSMiddleware
from litefs_watch.opentelemetry import instrument
from tests.asgi.fakes import FakeWatcher, Handler, call, replica, unknown


@pytest.mark.parametrize(
    ("make", "method", "ahead", "spans"),
    [
        (replica, "GET", 1, {"litefs_watch wait": "met"}),
        (replica, "GET", 99, {"litefs_watch wait": "unmet"}),
        (unknown, "POST", 0, {"litefs_watch hold": "unmet"}),
        (replica, "GET", 0, {}),
        (replica, "POST", 0, {}),
    ],
    ids=["a wait that is met", "a wait in vain", "a hold", "a read that is met", "a write"],
)
async def test_a_span_for_each_wait(make: Callable[[], FakeWatcher], method: str, ahead: int, spans: dict[str, str]) -> None:
    """With why it ended; its parent is the request's span. What waits for nothing has none."""
    exporter, provider, watcher = InMemorySpanExporter(), TracerProvider(), make()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(watcher.watcher, tracer_provider=provider)

    def arrives() -> None:
        if ahead == 1:
            watcher.known = Position(11, 1)

    watcher.during = arrives
    app = LiteFSMiddleware(Handler(), watcher.watcher)
    with provider.get_tracer("server").start_as_current_span("request") as request:
        await call(app, method, "/", [("cookie", f"litefs_pos={Position(10 + ahead, 1)}")] if method == "GET" else [])
    ours = [span for span in exporter.get_finished_spans() if span.name != "request"]
    assert {span.name: (span.attributes or {})["litefs_watch.outcome"] for span in ours} == spans
    for span in ours:
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id
