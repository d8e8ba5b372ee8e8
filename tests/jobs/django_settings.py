"""A Django project whose database is on whatever node the environment says; its tasks are in a file of their own."""

from __future__ import annotations

import os

SECRET_KEY = "tests"
USE_TZ = True
LOGGING_CONFIG = None
INSTALLED_APPS = ["django_tasks_db", "litefs_watch.django"]
_SQLITE = "django.db.backends.sqlite3"
_PATIENT = {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode = wal"}
DATABASES = {
    "default": {"ENGINE": _SQLITE, "NAME": os.path.join(os.environ["LITEFS_DIR"], "app.db")},
    "tasks": {"ENGINE": _SQLITE, "NAME": os.environ["BROKER"], "OPTIONS": _PATIENT},
}
DATABASE_ROUTERS = ["tests.jobs.django_app.Router"]
TASKS = {
    "default": {"BACKEND": "tests.jobs.django_app.Backend", "OPTIONS": {"litefs": {"timeout": 60.0}}},
    "immediate": {"BACKEND": "tests.jobs.django_app.Immediate"},
}
