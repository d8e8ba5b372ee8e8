"""Django: the handler for ASGI, and a view. The middleware itself is named in the settings."""

from __future__ import annotations

from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse

from litefs_watch import Settings, Watcher
from litefs_watch.asgi import LifespanMiddleware, LiteFSMiddleware
from litefs_watch.django import mark_failed, mark_written

watcher = Watcher(Settings(standalone=True))


def view(request: HttpRequest) -> HttpResponse:
    try:
        mark_written(request)
    except OSError as error:
        mark_failed(request, error)
    return HttpResponse()


app = LifespanMiddleware(LiteFSMiddleware(get_asgi_application(), watcher), watcher)
