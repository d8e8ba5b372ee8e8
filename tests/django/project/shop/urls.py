"""The addresses."""

from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("notes/<int:number>", views.note),
    path("async/notes/<int:number>", views.async_note),
    path("touch/<int:number>", views.touch),
    path("visit", views.visit),
    path("nothing", views.nothing),
    path("primary", views.primary),
    path("here/<int:txid>", views.here),
    path("broken", views.broken),
    path("bad", views.bad),
]
