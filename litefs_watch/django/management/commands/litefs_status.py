"""``manage.py litefs_status``: role, primary, positions, and the three sources, as the project's settings have them."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from litefs_watch.changes import Role
from litefs_watch.django.conf import load_or_refuse
from litefs_watch.operate.words import status_lines, status_record
from litefs_watch.status import reasons
from litefs_watch.watchers.blocking import BlockingWatcher


class Command(BaseCommand):
    """As ``litefs-watch status``. Fails (exit status 1) where no primary is known."""

    help = "Show this LiteFS node's role, its primary, the positions, and the sources. Status 1 where no primary is known."
    requires_system_checks: ClassVar[list[str]] = []  # it is wanted when something is wrong

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="One JSON object on stdout.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            settings = load_or_refuse().settings
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        with BlockingWatcher(settings) as watcher:
            status = watcher.status
        if options["json"]:
            self.stdout.write(json.dumps(status_record(status)))
        else:
            colours = {"bold green": self.style.SUCCESS, "green": self.style.SUCCESS, "bold red": self.style.ERROR}
            colours |= {"red": self.style.ERROR, "yellow": self.style.WARNING, "bold yellow": self.style.WARNING}
            for line in status_lines(status, settings.database):
                self.stdout.write("".join(colours.get(style, str)(text) for text, style in line))
        if status.role is Role.UNKNOWN:
            why = "; ".join(reasons(status.sources))
            why = f" ({why})" if why else ": a fail-over is under way, or LiteFS is down"
            raise CommandError(f"no primary is known{why}")
