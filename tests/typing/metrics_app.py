"""Metrics and traces, of either watcher."""

from __future__ import annotations

from typing import assert_type

from opentelemetry.trace import get_tracer_provider
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from litefs_watch import BlockingWatcher, Settings, Watcher, opentelemetry, prometheus
from litefs_watch.asgi import LiteFSMiddleware

watcher = Watcher(Settings(standalone=True))
blocking = BlockingWatcher(Settings(standalone=True))
registry = assert_type(prometheus.instrument(watcher, registry=CollectorRegistry()), CollectorRegistry)
prometheus.instrument(blocking, registry=CollectorRegistry())
opentelemetry.instrument(watcher, tracer_provider=get_tracer_provider())
opentelemetry.instrument(blocking)


async def metrics(request: Request) -> Response:
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


site = Starlette(routes=[Route("/metrics", metrics)], lifespan=watcher.lifespan)
app = LiteFSMiddleware(site, watcher, passthrough_paths=["/metrics"])
