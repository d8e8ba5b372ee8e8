"""What is said of a middleware's options, of `Forward` and its like, and of what marks a request."""

from __future__ import annotations

from typing import Any

from litefs_watch import BlockingWatcher, Settings, Watcher
from litefs_watch.asgi import FlyReplay, Forward, LiteFSMiddleware, Redirect, mark_failed, mark_written
from litefs_watch.wsgi import LiteFSMiddleware as ForThreads
from tests.asgi.fakes import FakeWatcher
from tests.messages.provoking import Case, Provoke, calling, case

PEERS = ("http://node-b:20202",)


def made(watcher: Any = None, **options: Any) -> Provoke:
    return calling(LiteFSMiddleware, None, watcher or FakeWatcher().watcher, **options)


CASES: list[Case] = [
    case(made(timout=1), "'timout'", "'timeout'"),
    case(made(timeout="soon"), "timeout", "'soon'"),
    case(made(cookie="a b"), "cookie", "'a b'"),
    case(made(on_timeout="retry"), "on_timeout", "'retry'"),
    case(made(max_age=0), "max_age", "'0'"),
    case(made(domain="a;b"), "domain", "'a;b'"),
    case(made(accept="txnum"), "accept", "'txnum'"),
    case(made(cookie=None, header=None), "cookie=None", "header=None"),
    case(made(same_site="none", secure=False), "same_site='none'"),
    case(made(secret=""), "secret"),
    case(made(primary_paths="/live"), "primary_paths", "'/live'"),
    case(made(read_paths=["search"]), "read_paths", "'search'"),
    case(made(databases="app.db"), "'app.db'"),
    case(made(databases=["a.db", "b.db"], cookie="x"), "cookie"),
    case(made(database="a.db", databases=["b.db"]), "databases"),
    case(made(database="a/b.db"), "'a/b.db'"),
    case(made(replay="http://x"), "'http://x'"),
    case(calling(ForThreads, None, BlockingWatcher(Settings("/nowhere", "app.db")), replay=5), "not 5"),
    case(made(replicated_to=1), "LITEFS_PEERS"),
    case(made(Watcher(Settings("/nowhere", "app.db", peers=PEERS)), replicated_to=2), "2 other nodes", "names 1"),
    case(calling(Forward, "node-b:8080"), "'node-b:8080'"),
    case(calling(Redirect, "https://{host}.example.com"), "{host}"),
    case(calling(Forward, "http://{hostname}:8080", timeout=0), "timeout"),
    case(calling(FlyReplay, timeout=0.5), "0.5"),
    case(calling(FlyReplay, fallback="any"), "'any'"),
    case(calling(mark_written, 5), "int"),
    case(calling(mark_failed, 5), "int"),
]
