"""The settings: where LiteFS is comes from the environment, as on a real node."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

from litefs_watch.testing.commits import publishing_connection

SECRET_KEY = "tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "litefs_watch.django",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "shop",
]
MIDDLEWARE = [
    "litefs_watch.django.LiteFSMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
# Four clients, each of which may wait at the same replica: without a secret only two may, unless told otherwise.
LITEFS_WATCH = {"secure": False, "timeout": 15, "on_timeout": "error", "hold_writes": 0.1, "max_waiting": 4}

_local = threading.local()


def publish() -> None:
    """Have the simulated cluster, in another process, see a commit before it returns: as LiteFS, whose file system it is."""
    if not hasattr(_local, "connection"):
        _local.connection = socket.create_connection(("127.0.0.1", int(os.environ["TEST_PUBLISH_PORT"])))
    _local.connection.sendall(b"?")
    _local.connection.recv(1)


DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["LITEFS_DIR"]) / "app.db",
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
if "TEST_PUBLISH_PORT" in os.environ:
    DATABASES["default"]["OPTIONS"]["factory"] = publishing_connection(publish)

globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))
