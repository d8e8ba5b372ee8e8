"""``/metrics``: what Prometheus scrapes, where its client is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from litefs_watch.asgi.types import App
from litefs_watch.serve.endpoints import Handler, Refusal

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    from litefs_watch.prometheus import instrument

    INSTALLED = True
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] != "prometheus_client":
        raise
    INSTALLED = False

if TYPE_CHECKING:
    from litefs_watch.watchers.watcher import Watcher


def metrics_handler(watcher: Watcher) -> Handler:
    """Of GET."""
    if not INSTALLED:
        return _none
    registry = instrument(watcher, registry=CollectorRegistry())

    async def scrape(request: Request) -> App:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": kind, "cache-control": "no-store"})

    return scrape


async def _none(request: Request) -> App:
    raise Refusal(501, "metrics need prometheus-client: pip install 'litefs-watch[prometheus]'")
