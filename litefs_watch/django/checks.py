"""What is wrong with a project's settings: ``manage.py check``, and ``check --deploy``.

========  =========================================================================================================
id        what
========  =========================================================================================================
E001      ``LITEFS_WATCH`` and the environment do not say enough, or something impossible
E002      the directory is not there, or is none
E003      a middleware that reads the session, or a cached page, comes before `LiteFSMiddleware`
W004      another middleware comes before it, of which this is not known
W005      the application is installed, and `LiteFSMiddleware` is not in ``MIDDLEWARE``; E006: it is there twice
W007      the database of ``DATABASES["default"]`` is not in LiteFS's directory, or is not the one that is waited for
W008      every request writes: ``SESSION_SAVE_EVERY_REQUEST`` with sessions in the database
W009      ``check --deploy``: ``standalone`` is on, so that every node would be a primary
W010      ``check --deploy``: no LiteFS is mounted on the directory
W011      ``check --deploy``: the cookie is ``Secure``, and nothing makes clients use HTTPS
W012      ``check --deploy``: what `litefs-watch doctor` finds in ``litefs.yml`` and ``fly.toml`` here
W013      sessions are kept in a cache that each process, or each node, has for itself
========  =========================================================================================================
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's own name
from django.utils.module_loading import import_string

from litefs_watch.core.readings import Mount
from litefs_watch.django.conf import NAME, database_path, is_in_memory, load
from litefs_watch.errors import ConfigError
from litefs_watch.settings import Settings
from litefs_watch.sources.directory import current_mount_kind

OURS = "litefs_watch.django.LiteFSMiddleware"

# They read the session (a row of the database), or answer from a cache, before the TXID has been waited for.
_SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
_READERS = {
    _SESSIONS,
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.RemoteUserMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.contrib.flatpages.middleware.FlatpageFallbackMiddleware",
    "django.contrib.redirects.middleware.RedirectFallbackMiddleware",
    "django.contrib.sites.middleware.CurrentSiteMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
    "django.middleware.cache.CacheMiddleware",
}
_HARMLESS = (
    "django.middleware.",
    "corsheaders.middleware.",
    "whitenoise.middleware.",
)
_OWN_CACHES = (".LocMemCache", ".FileBasedCache")
"""Of a process, or of a machine."""


def _error(number: int, message: str, hint: str) -> CheckMessage:
    return Error(message, hint=hint, id=f"litefs_watch.E{number:03}")


def _warning(number: int, message: str, hint: str) -> CheckMessage:
    return Warning(message, hint=hint, id=f"litefs_watch.W{number:03}")


def _settings() -> Settings | None:
    """None where `check_settings` complains."""
    try:
        return load().settings
    except ConfigError:
        return None


def check_settings(**_: Any) -> list[CheckMessage]:
    """E001, E002, W007."""
    try:
        settings = load().settings
    except ConfigError as error:
        return [_error(1, str(error), f"Set it in {NAME}, or in the environment of this process.")]
    if settings.standalone or settings.litefs_dir is None:
        return []
    directory = settings.litefs_dir
    if (fault := _fault(directory)) is not None:
        hint = "It is 'fuse.dir' in litefs.yml, and LiteFS mounts it before it starts the application. To develop without "
        return [_error(2, f"{NAME}: litefs_dir: {directory}: {fault}.", hint + f"LiteFS: {NAME} = {{'standalone': DEBUG}}.")]
    path = database_path()
    if path is None or _is_same(path, directory / (settings.database or "")):
        return []
    if path.parent.resolve() != directory.resolve():
        hint = f'DATABASES["default"]["NAME"] = "{directory / path.name}"'
        return [_warning(7, f"The database {path} is not in {directory}, so LiteFS does not replicate it.", hint)]
    if path.name != settings.database:
        message = f"{settings.database} is waited for, and the database is {path}."
        return [_warning(7, message, f"Leave out the database in {NAME}, and DATABASE_FILENAME.")]
    return []


def check_middleware(**_: Any) -> list[CheckMessage]:
    """E003, W004, W005, E006."""
    classes = [(path, _import(path)) for path in django_settings.MIDDLEWARE]
    ours = _import(OURS)
    places = [index for index, (_, found) in enumerate(classes) if isinstance(found, type) and issubclass(found, ours)]
    if not places:
        hint = f'MIDDLEWARE = ["{OURS}", ...]. Also where the whole application is wrapped: it tells of sessions.'
        return [_warning(5, "LiteFSMiddleware is not in MIDDLEWARE: nobody waits for anything.", hint)]
    if len(places) > 1:
        return [_error(6, "LiteFSMiddleware is in MIDDLEWARE more than once.", "Leave the first one.")]
    found: list[CheckMessage] = []
    for path, other in classes[: places[0]]:
        if _names(other) & _READERS:
            message = f"{path} comes before LiteFSMiddleware, and reads what a replica may not have yet."
            found.append(_error(3, message, f"Put {OURS} before it."))
        elif not path.startswith(_HARMLESS):
            message = f"{path} comes before LiteFSMiddleware, and runs before the client's transaction has been waited for."
            hint = f"If it reads the database, or begins a transaction (which stops a replica), put {OURS} before it."
            found.append(_warning(4, message, hint + " Otherwise silence this."))
    return found


def check_writes(**_: Any) -> list[CheckMessage]:
    """W008."""
    found: list[CheckMessage] = []
    in_database = django_settings.SESSION_ENGINE.endswith((".db", ".cached_db"))
    if django_settings.SESSION_SAVE_EVERY_REQUEST and in_database and _has_sessions():
        message = "SESSION_SAVE_EVERY_REQUEST makes each request with a session a write, which only the primary can do."
        found.append(_warning(8, message, "Turn it off, or keep sessions in signed cookies."))
    return found


def check_sessions(**_: Any) -> list[CheckMessage]:
    """W013."""
    settings = _settings()
    alone = settings is None or settings.standalone
    if alone or not django_settings.SESSION_ENGINE.endswith((".cached_db", ".cache")) or not _has_sessions():
        return []
    alias = django_settings.SESSION_CACHE_ALIAS
    backend = str(django_settings.CACHES.get(alias, {}).get("BACKEND") or "")
    if not backend.endswith(_OWN_CACHES):
        return []
    message = f"Sessions are kept in CACHES[{alias!r}], {backend}: other nodes go on with what they have kept themselves."
    hint = "A cache that all nodes share; or sessions in the database alone (django.contrib.sessions.backends.db)."
    return [_warning(13, message, hint)]


def _has_sessions() -> bool:
    return any(_SESSIONS in _names(_import(path)) for path in django_settings.MIDDLEWARE)


def check_deployment(**_: Any) -> list[CheckMessage]:
    """W007, W009 to W012."""
    settings = _settings()
    if settings is None:
        return []
    return [*_check_node(settings), *_check_cookie(), *_check_files()]


def _check_cookie() -> list[CheckMessage]:
    secure = load().options.get("secure", True)
    if not secure or django_settings.SECURE_SSL_REDIRECT or django_settings.SECURE_PROXY_SSL_HEADER:
        return []
    message = "The middleware's cookie is Secure, and nothing here makes clients use HTTPS: over http none sends it back."
    hint = f"SECURE_SSL_REDIRECT or SECURE_PROXY_SSL_HEADER; without HTTPS {NAME} = {{'secure': False}}."
    return [_warning(11, message, hint + " Where the edge redirects (Fly.io's force_https), silence this.")]


def _check_files() -> list[CheckMessage]:
    from litefs_watch.operate.doctor.configs import fly_toml, litefs_yml
    from litefs_watch.operate.doctor.facts import Facts
    from litefs_watch.operate.doctor.findings import examine_files

    facts = Facts(Path(), None, 0.0, litefs_yml=litefs_yml(None), fly_toml=fly_toml(None))
    return [_warning(12, f"{found.seen} ({found.code})", found.remedy) for found in examine_files(facts)]


def _check_node(settings: Settings) -> list[CheckMessage]:
    if settings.standalone:
        message = f"{NAME}: standalone is on: each node takes itself for the primary, and what it writes is lost."
        return [_warning(9, message, "It is for development without LiteFS: leave it out, and LITEFS_STANDALONE too.")]
    found: list[CheckMessage] = []
    if is_in_memory():  # not for the test runner, which puts it there, and checks no deployment
        message = 'DATABASES["default"] is in memory, so LiteFS does not replicate it.'
        found.append(_warning(7, message, "Name a file in LiteFS's directory."))
    directory = settings.litefs_dir
    if directory is not None and _fault(directory) is None and current_mount_kind(directory) is not Mount.LITEFS:
        message = f"No LiteFS is mounted on {directory}."
        found.append(_warning(10, message, "Run this where the application runs, started by 'litefs mount'."))
    return found


def _fault(directory: Path) -> str | None:
    """What the system says about it, where it is no directory that can be read."""
    try:
        os.scandir(directory).close()
    except OSError as error:  # also ENOTCONN: a mount whose LiteFS has died
        return error.strerror or str(error)
    return None


def _is_same(path: Path, other: Path) -> bool:
    """Whether both are one file, by way of links."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def _import(path: str) -> Any:
    """What stands at a dotted path; None where nothing does (Django says so itself when it starts)."""
    try:
        return import_string(path)
    except ImportError:
        return None


def _names(found: Any) -> set[str]:
    """The dotted names of a class and of its bases: what is compared need not be imported."""
    return {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__} if isinstance(found, type) else set()
