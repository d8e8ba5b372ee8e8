"""Middlewares that should come after `litefs_watch.django.LiteFSMiddleware`; and one that is it."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.sessions.middleware import SessionMiddleware
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from litefs_watch.django import LiteFSMiddleware


class Sessions(SessionMiddleware):
    """Django's own by another name."""


class Ours(LiteFSMiddleware):
    """The same."""


def atomic(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A transaction around everything."""

    def call(request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            return get_response(request)

    return call


def remember(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Writes the session of a request that it answers by itself."""

    def call(request: HttpRequest) -> HttpResponse:
        if request.path == "/remember":
            request.session["remembered"] = True
            return HttpResponse(status=204)
        return get_response(request)

    return call
