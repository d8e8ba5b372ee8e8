"""The application ``litefs_watch.django``, for ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register


class LiteFSWatchConfig(AppConfig):
    """Registers the checks. Its label is ``litefs_watch``."""

    name = "litefs_watch.django"
    label = "litefs_watch"
    verbose_name = "LiteFS"

    def ready(self) -> None:
        from litefs_watch.django import checks
        from litefs_watch.django.connections import watch_connections

        watch_connections()
        register(checks.check_settings)
        register(checks.check_middleware)
        register(checks.check_writes)
        register(checks.check_sessions)
        register(checks.check_deployment, deploy=True)
