"""What is said of settings, and where something that can't work is made or started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import django.conf
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

import litefs_watch.django.conf
from litefs_watch import BlockingWatcher, Settings, Watcher
from litefs_watch.asgi import Forward, LiteFSMiddleware, status_routes
from litefs_watch.fastapi import get_watcher
from litefs_watch.fly import get_all_instances, get_internal_instance_domain
from litefs_watch.prometheus import instrument
from litefs_watch.watchers.bridge import AwaitableWatcher
from litefs_watch.wsgi import LiteFSMiddleware as ForThreads
from tests.django.configured import configure
from tests.messages.provoking import Case, calling, case

ANY: Any = None


def from_env(**variables: str) -> Settings:
    return Settings.from_env(variables)


def in_django(given: object) -> Callable[[], object]:
    """What a project with these settings is told."""

    def provoke() -> None:
        configure()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(django.conf.settings, "LITEFS_WATCH", given, raising=False)
            litefs_watch.django.conf.load_or_refuse()

    return provoke


def with_gevent() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gevent.monkey", SimpleNamespace(is_module_patched=lambda module: True))
        BlockingWatcher(Settings("/nowhere", "app.db")).start()


async def without_dnspython() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dns.asyncresolver", None)
        await get_all_instances("my-app")


async def peers_without_dnspython() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dns", None)
        patch.setitem(sys.modules, "dns.asyncresolver", None)
        async with Watcher(Settings("/nowhere", "app.db", peers="fly", app_name="my-app")):
            pass


def without_a_port() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("INTERNAL_PORT", "PORT"):
            patch.delenv(name, raising=False)
        get_internal_instance_domain("node-a")


def measured_twice() -> None:
    watcher, registry = Watcher(Settings("/nowhere", "app.db")), CollectorRegistry()
    instrument(watcher, registry=registry)
    instrument(watcher, registry=registry)


def measured_too_late() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", "/tmp")
        instrument(Watcher(Settings("/nowhere", "app.db")), registry=CollectorRegistry())


async def started_twice() -> None:
    async with Watcher(Settings(standalone=True)) as watcher:
        await watcher.start()


async def stopped_while_it_starts() -> None:
    watcher = Watcher(Settings("/nowhere", "app.db"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watcher.stop)  # as soon as this one waits
        await watcher.start()


def thread_that_does_not_start() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litefs_watch.watchers.blocking._START_LIMIT", 0.01)
        patch.setattr("litefs_watch.watchers.blocking._serve", lambda run, began: None)
        BlockingWatcher(Settings("/nowhere", "app.db")).start()


async def without_a_middleware() -> None:
    await get_watcher(HTTPConnection({"type": "http", "headers": [], "state": {}}))


WATCHER, BLOCKING = Watcher(Settings("/nowhere", "app.db")), BlockingWatcher(Settings("/nowhere", "app.db"))
PEERS = ("http://node-b:20202", "http://node-c:20202")

CASES: list[Case] = [
    case(calling(from_env), "LITEFS_DIR", "litefs.yml"),
    case(calling(from_env, LITEFS_DIR="/litefs", DATABASE_FILENAME="data/app.db"), "data/app.db"),
    case(calling(Settings, "/litefs", "../app.db"), "../app.db"),
    case(calling(from_env, LITEFS_DIR="/litefs", LITEFS_API_URL="https://x"), "https://x", "api_url"),
    case(calling(Settings, "/litefs", peers=["node-b:20202"]), "node-b:20202", "peers"),
    case(calling(Settings, "/litefs", peers=[PEERS[0], PEERS[0]]), PEERS[0]),
    case(calling(Settings, "/litefs", peers=PEERS, api_url=None), "peers", "api_url"),
    case(calling(Settings, "/litefs", peers="fly"), "FLY_APP_NAME"),
    case(calling(Settings, "/litefs", silence=0.5), "silence=0.5", "idle_interval=1"),
    case(calling(Settings, "/litefs", databse="app.db"), "'databse'", "'database'"),
    case(calling(Settings, "/litefs", internal_port=70000), "internal_port", "70000"),
    case(calling(Settings, "/litefs", settle="soon"), "settle", "soon"),
    case(calling(BlockingWatcher, "/litefs"), "BlockingWatcher", "'/litefs'"),
    case(calling(Watcher(Settings("/litefs")).position), "DATABASE_FILENAME"),
    case(calling(WATCHER.position, "a/b"), "a/b"),
    case(with_gevent, "gevent"),
    case(without_dnspython, "get_all_instances", "pip install"),
    case(peers_without_dnspython, "peers='fly'", "pip install"),
    case(without_a_port, "INTERNAL_PORT", "fly.toml"),
    case(measured_twice, "registry"),
    case(measured_too_late, "PROMETHEUS_MULTIPROC_DIR"),
    case(calling(get_internal_instance_domain, "node-a", "http"), "'http'"),
    case(started_twice),
    case(stopped_while_it_starts),
    case(thread_that_does_not_start),
    case(calling(LiteFSMiddleware, ANY, BLOCKING), "LiteFSMiddleware", "BlockingWatcher"),
    case(calling(ForThreads, ANY, WATCHER), "LiteFSMiddleware", "Watcher"),
    case(calling(LiteFSMiddleware, ANY, Watcher), "the class Watcher"),
    case(calling(LiteFSMiddleware, ANY, "app.db"), "str"),
    case(calling(status_routes, AwaitableWatcher(BLOCKING)), "AwaitableWatcher"),
    case(without_a_middleware, "FastAPI(lifespan=watcher.lifespan)"),
    case(in_django("/litefs"), "LITEFS_WATCH", "'/litefs'"),
    case(in_django({"timeout": 1, "TIMEOUT": 2}), "'timeout'"),
    case(in_django({"timout": 1}), "'timout'", "'timeout'"),
    case(in_django({"replay": Forward("http://{hostname}:8080")}), "Forward"),
    case(in_django({"replay": 5}), "not 5"),
]
