"""Read your own writes, in a Django project, under WSGI and ASGI::

    INSTALLED_APPS = ["litefs_watch.django", ...]                       # the checks, and manage.py litefs_status
    MIDDLEWARE = ["litefs_watch.django.LiteFSMiddleware", ...]          # first
    LITEFS_WATCH = {"litefs_dir": "/litefs", "timeout": 0.5}            # what the environment does not say

- `conf`: the setting ``LITEFS_WATCH``, and the watcher of this process.
- `middleware`: `LiteFSMiddleware`, a thin shell around `litefs_watch.consistency`.
- `checks`: what is wrong with the settings.

A view has the watcher from `get_watcher`; an async view waits with `get_awaitable_watcher`.
"""

from litefs_watch.consistency import lost_transaction, mark_failed, mark_written
from litefs_watch.django.conf import get_awaitable_watcher, get_watcher
from litefs_watch.django.middleware import LiteFSMiddleware
from litefs_watch.replay import FlyReplay, Redirect

__all__ = [
    "FlyReplay",
    "LiteFSMiddleware",
    "Redirect",
    "get_awaitable_watcher",
    "get_watcher",
    "lost_transaction",
    "mark_failed",
    "mark_written",
]
