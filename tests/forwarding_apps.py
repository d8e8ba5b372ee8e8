"""A replica that forwards, for servers that import their application. ``FORWARD_TO`` names the primary's address, and
``FORWARD_OPTIONS`` has the strategy's options, as JSON."""

from __future__ import annotations

import json
import os
from typing import Any

from litefs_watch import BlockingWatcher, Settings, asgi, wsgi
from litefs_watch.replay import Forward
from tests.asgi.fakes import Handler, replica

strategy = Forward(os.environ["FORWARD_TO"], **json.loads(os.environ.get("FORWARD_OPTIONS", "{}")))


def asgi_app() -> Any:
    return asgi.LiteFSMiddleware(Handler(), replica().watcher, replay=strategy, primary_paths=["/live*"])


def wsgi_app() -> Any:
    """On the simulated node that the environment names."""

    def unreached(environ: Any, start_response: Any) -> Any:
        raise AssertionError("the application ran on the replica")

    return wsgi.LiteFSMiddleware(unreached, BlockingWatcher(Settings.from_env()), replay=strategy)


app = {"asgi": asgi_app, "wsgi": wsgi_app}[os.environ["FORWARD_APP"]]()
