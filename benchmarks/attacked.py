"""What `benchmarks.attack` has served: an application that takes a while, behind each middleware."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import anyio

from litefs_watch import BlockingWatcher, Watcher
from litefs_watch.asgi import LifespanMiddleware
from litefs_watch.asgi import LiteFSMiddleware as ASGIMiddleware
from litefs_watch.consistency import OptionKeywords
from litefs_watch.wsgi import LiteFSMiddleware as WSGIMiddleware

WORK = float(os.environ["WORK"])
OPTIONS: OptionKeywords = {"secret": os.environ["SECRET"]} if os.environ["SECRET"] else {}
HEADERS = [("content-length", "2")]


def application(environ: Any, start_response: Any) -> Iterable[bytes]:
    time.sleep(WORK)
    start_response("200 OK", HEADERS)
    return [b"ok"]


async def async_application(scope: Any, receive: Any, send: Any) -> None:
    await anyio.sleep(WORK)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


watcher = Watcher()
wsgi = WSGIMiddleware(application, BlockingWatcher(), **OPTIONS)
asgi = LifespanMiddleware(ASGIMiddleware(async_application, watcher, **OPTIONS), watcher)
