"""A write's response that waits until other nodes have it, in Django."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings

from litefs_watch.django import LiteFSMiddleware, get_watcher
from tests.django.configured import configure
from tests.replicated import PATIENCE, insert, settings, stopped, three, wait_until_connected

configure()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_write_waits(kind: str) -> None:
    """Both ways: it says how many have it, and is refused where that is asked for."""
    with three() as cluster:

        def view(request: HttpRequest) -> HttpResponse:
            insert(cluster)
            return HttpResponse("done")

        async def async_view(request: HttpRequest) -> HttpResponse:
            response: HttpResponse = await sync_to_async(view)(request)
            return response

        def post() -> HttpResponse:
            response: HttpResponse
            if kind == "sync":
                response = LiteFSMiddleware(view)(RequestFactory().post("/"))
            else:
                made = AsyncRequestFactory().post("/")
                made.scope["headers"].remove((b"cookie", b""))  # of the factory
                response = async_to_sync(LiteFSMiddleware(async_view))(made)
            return response

        node = settings(cluster)
        common: dict[str, Any] = {
            name: getattr(node, name) for name in ("litefs_dir", "database", "api_url", "hostname", "peers")
        }
        common["replicated_to"] = 2
        with override_settings(LITEFS_WATCH=common | {"replication_timeout": PATIENCE}):
            wait_until_connected(get_watcher())
            assert post().headers["litefs-replicated"] == "2"
        with override_settings(LITEFS_WATCH=common | {"replication_timeout": 0.01, "on_unreplicated": "error"}):
            wait_until_connected(get_watcher())
            with stopped(cluster, "node-b", "node-c"):
                refused = post()
            assert (refused.status_code, refused.headers["litefs-replicated"]) == (503, "0")
            assert b"stands on this node, and nowhere else yet" in refused.content
