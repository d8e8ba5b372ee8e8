"""What the tests ask for."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from litefs_watch.django import get_awaitable_watcher, get_watcher, mark_written

from .models import Note


@csrf_exempt
def note(request: HttpRequest, number: int) -> HttpResponse:
    """Write a note and remember it in the session, or look whether both are here."""
    if request.method == "POST":
        Note.objects.create(number=number)
        request.session["written"] = number
        return HttpResponse("written")
    seen = Note.objects.filter(number=number).exists()
    return JsonResponse({"seen": seen, "session": request.session.get("written"), "node": get_watcher().hostname})


@csrf_exempt
@transaction.non_atomic_requests
async def async_note(request: HttpRequest, number: int) -> HttpResponse:
    """The same, asynchronously."""
    if request.method == "POST":
        await Note.objects.acreate(number=number)
        await request.session.aset("written", number)
        return HttpResponse("written")
    seen: Any = await Note.objects.filter(number=number).aexists()
    session = await request.session.aget("written")
    return JsonResponse({"seen": seen, "session": session, "node": get_watcher().hostname})


def touch(request: HttpRequest, number: int) -> HttpResponse:
    """A GET that writes, and says so."""
    Note.objects.create(number=number)
    mark_written(request)
    return HttpResponse("written")


def visit(request: HttpRequest) -> HttpResponse:
    """A GET that writes the session, and nothing else."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@csrf_exempt
def nothing(request: HttpRequest) -> HttpResponse:
    """A POST that writes nothing."""
    return HttpResponse("nothing")


def primary(request: HttpRequest) -> HttpResponse:
    """A page that only the primary answers."""
    get_watcher().ensure_primary()
    return JsonResponse(get_watcher().hostname, safe=False)


@transaction.non_atomic_requests
async def here(request: HttpRequest, txid: int) -> HttpResponse:
    """A view that waits by itself."""
    position = await get_awaitable_watcher().wait_for_tx(txid, timeout=10)
    return JsonResponse(position.txid, safe=False)


def broken(request: HttpRequest) -> HttpResponse:
    """A bug."""
    raise KeyError("a bug of the application")


def bad(request: HttpRequest) -> HttpResponse:
    """A request that it can't make sense of."""
    return HttpResponse(status=400)
