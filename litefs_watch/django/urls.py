"""What load balancers ask for, in a Django project::

    path("litefs/", include("litefs_watch.django.urls"))

As `litefs_watch.asgi.status_routes`. ``CHECKS`` and probes come without a session or a login, and are answered from memory.
"""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from litefs_watch.django.conf import get_watcher
from litefs_watch.operate.health import CHECKS, METHODS, answer, status_of


@csrf_exempt  # what posts here is told 405
def status(request: HttpRequest) -> JsonResponse:
    """One of the paths."""
    watcher = get_watcher()
    method, query, database = request.method or "", request.META.get("QUERY_STRING", ""), watcher.settings.database
    code, record = answer(method, request.path, query, lambda: status_of(watcher), watcher.statistics, database)
    response = JsonResponse(record, status=code, headers={"cache-control": "no-store"})
    if code == 405:
        response.headers["allow"] = ", ".join(METHODS)
    return response


urlpatterns = [path(name, status, name=f"litefs-{name}") for name in CHECKS]
