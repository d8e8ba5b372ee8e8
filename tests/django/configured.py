"""Django has one set of settings in a process: these, for all tests that run it in this one."""

from __future__ import annotations

from django.conf import settings


def configure() -> None:
    """Once, whoever comes first. A test overrides what it needs."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DATABASES={},
            SECRET_KEY="tests",
            LOGGING_CONFIG=None,
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        )
