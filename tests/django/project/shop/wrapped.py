"""For gunicorn: the whole application in the middleware for WSGI, and none of ours in ``MIDDLEWARE``."""

from __future__ import annotations

from django.core.wsgi import get_wsgi_application

from litefs_watch import BlockingWatcher, Settings
from litefs_watch.wsgi import LiteFSMiddleware

application = LiteFSMiddleware(
    get_wsgi_application(),
    BlockingWatcher(Settings.from_env(database="app.db")),
    secure=False,
    timeout=15,
    on_timeout="error",
    max_waiting=4,
)
