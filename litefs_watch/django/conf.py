"""The setting ``LITEFS_WATCH``: `litefs_watch.Settings` and the middleware's options, in one dictionary.

Its keys are those of `Settings` (``litefs_dir``, ``database``, ``api_url``, ``standalone``, …), of
`litefs_watch.consistency.Options` (``timeout``, ``on_timeout``, ``cookie``, …), ``replay``, and ``databases`` (the names of
several, each with a cookie and a header of its own); in lower or upper case. What it does not say comes from the
environment, with litefs-js's names; the database, if neither says, is the file of ``DATABASES["default"]``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse

from litefs_watch.consistency import OptionKeywords, Options
from litefs_watch.consistency.options import options_of_each
from litefs_watch.errors import ConfigError
from litefs_watch.printable import by_name, did_you_mean
from litefs_watch.replay import Answering, FlyReplay, Forward
from litefs_watch.settings import Settings
from litefs_watch.watchers.blocking import BlockingWatcher
from litefs_watch.watchers.bridge import AwaitableWatcher

NAME = "LITEFS_WATCH"
IN_MEMORY = "in-memory"

Strategy = Callable[[HttpRequest, str], HttpResponse | Awaitable[HttpResponse]]
"""Answers a request that belongs on another node by means of its own: ``(request, hostname)``. It may be a coroutine
function."""

_OPTIONS = frozenset(OptionKeywords.__annotations__)
_KEYS = _OPTIONS | set(Settings.model_fields) | {"replay", "databases"}


@dataclass(frozen=True)
class Configuration:
    """``LITEFS_WATCH``, and what stands in the environment."""

    settings: Settings
    options: Mapping[str, Any]
    """Those of `Options` that are given."""
    replay: Answering | Strategy
    databases: Sequence[str] = ()
    """Several, if there are."""


def load() -> Configuration:
    """The configuration as it is now. Raises `ConfigError`, which names the key."""
    given = getattr(django_settings, NAME, {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"{NAME} is a dictionary, such as {{'litefs_dir': '/litefs'}}, not {by_name(given)}")
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).lower()
        if name in values:
            raise ConfigError(f"{NAME}: {name!r} stands there twice, in lower and in upper case")
        if name not in _KEYS:
            raise ConfigError(f"{NAME}: there is no {key!r}{did_you_mean(name, sorted(_KEYS)) or f'; {_known()}'}")
        values[name] = value
    replay = values.pop("replay", None) or FlyReplay()
    if isinstance(replay, Forward):
        raise ConfigError(
            f"{NAME}: replay: Forward streams, which Django's MIDDLEWARE can't; wrap the application in wsgi.py with "
            "litefs_watch.wsgi.LiteFSMiddleware, or in asgi.py with litefs_watch.asgi.LiteFSMiddleware, and give it there"
        )
    if not isinstance(replay, Answering) and not callable(replay):
        raise ConfigError(f"{NAME}: replay: FlyReplay(), Redirect(...) or a function, not {by_name(replay)}")
    options = {name: values.pop(name) for name in list(values) if name in _OPTIONS}
    Options(**options)
    databases = values.pop("databases", ())
    if "database" not in values and not os.environ.get("DATABASE_FILENAME"):
        if (path := database_path()) is not None:
            values["database"] = path.name
        elif is_in_memory():  # by Django's test runner, before it runs the checks: no name is of any use then
            values["database"] = IN_MEMORY
    found = Settings.from_env(**values)
    found.database_or_default(None)
    if databases != ():
        options_of_each(options, databases, found.database)
    return Configuration(found, options, replay, databases)


def _known() -> str:
    return f"there are {', '.join(sorted(_KEYS))}"


def database_path() -> Path | None:
    """The file of ``DATABASES["default"]``; None where that is no SQLite, or in memory."""
    name = _sqlite_name()
    if not name or is_in_memory():
        return None
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def is_in_memory() -> bool:
    """Whether ``DATABASES["default"]`` is SQLite in memory."""
    name = _sqlite_name()
    return ":memory:" in name or "mode=memory" in name


def _sqlite_name() -> str:
    database = django_settings.DATABASES.get("default", {})
    engine = str(database.get("ENGINE", ""))
    return str(database.get("NAME") or "") if "sqlite" in engine or "spatialite" in engine else ""


def load_or_refuse() -> Configuration:
    """As `load`. Raises Django's `ImproperlyConfigured`."""
    try:
        return load()
    except ConfigError as error:
        raise ImproperlyConfigured(str(error)) from error


_watcher: BlockingWatcher | None = None
_making = threading.Lock()


def get_watcher() -> BlockingWatcher:
    """The watcher of this process, which starts with the first call that asks it for something: after a server has forked.

    Raises `ImproperlyConfigured` where ``LITEFS_WATCH`` and the environment do not say enough.
    """
    global _watcher
    if (made := _watcher) is not None:
        return made
    with _making:
        if _watcher is None:
            _watcher = BlockingWatcher(load_or_refuse().settings)
        return _watcher


def get_awaitable_watcher() -> AwaitableWatcher:
    """The same watcher for async views: ``await get_awaitable_watcher().wait_for_tx(…)``, in any event loop."""
    return AwaitableWatcher(get_watcher())


def _forget(*, setting: str, **_: Any) -> None:
    """A test has overridden the settings: the next call reads them anew."""
    global _watcher
    if setting in (NAME, "DATABASES"):
        with _making:
            watcher, _watcher = _watcher, None
        if watcher is not None:
            watcher.stop()


cast("Any", setting_changed).connect(_forget, dispatch_uid="litefs_watch.django")
