"""Enqueues what it reads: a line of JSON each, with the way (past ours, or at once), the task, and its arguments."""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from django.core.management import call_command
from django.utils.module_loading import import_string
from django_tasks_db import DatabaseBackend


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    django.setup()
    call_command("migrate", database="tasks", verbosity=0)
    say("ready")
    sent: Any
    for line in sys.stdin:
        way, name, arguments, keywords = json.loads(line)
        task = import_string(f"tests.jobs.django_app.{name}")
        if way == "bare":  # past ours: as if it were not there
            sent = DatabaseBackend.enqueue(task.get_backend(), task, arguments, keywords)
        else:
            sent = (task.using(backend=way) if way else task).enqueue(*arguments, **keywords)
        say(sent.errors[0].exception_class_path if sent.errors else sent.status)


if __name__ == "__main__":
    main()
