"""What the watcher needs to know, from arguments or from the environment with litefs-js's names."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from litefs_watch.errors import ConfigError
from litefs_watch.position import check_database_name
from litefs_watch.printable import did_you_mean

# LiteFS's own default for `http.addr` is ":20202", and its data directory's is this (cmd/litefs/config.go).
DEFAULT_API_URL = "http://localhost:20202"
DEFAULT_DATA_DIR = Path("/var/lib/litefs")
MOST_PEERS = 32

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Where LiteFS is and who this node is. Frozen; wrong values raise `ConfigError`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", defer_build=True
    )  # built at first use, not at import

    litefs_dir: Path | None = None
    """LiteFS's mount (``fuse.dir``), or an ordinary directory with files of the same names."""

    database: str | None = None
    """The database that calls without ``database=`` mean: a file name in ``litefs_dir``, such as ``app.db``."""

    api_url: str | None = DEFAULT_API_URL
    """LiteFS's HTTP API on this machine (``http.addr``). None: no event stream."""

    hostname: str | None = None
    """This node's name, as LiteFS knows it (``lease.hostname``). None: ``FLY_MACHINE_ID``, else the machine's own."""

    standalone: bool = False
    """Development without LiteFS: this node is the primary, every wait is met, and nothing is watched."""

    data_dir: Path | None = None
    """LiteFS's data directory (``data.dir``). None: what ``GET /info`` says, else ``/var/lib/litefs`` if it matches."""

    start_timeout: Seconds = Field(default=3.0, le=5.0)
    """Seconds that starting waits for the first answer of LiteFS before the application starts without it (at most 5)."""

    settle: Seconds = 0.025
    """Seconds that a new primary must stay before it counts. A replica that can't reach its primary names it for about
    1 ms, once a second, for as long as that lasts."""

    idle_interval: Seconds = 1.0
    """Seconds between two re-reads while the sources are well: the safety net. At most half of ``silence`` is used; while
    the event stream is open twice as much, up to that half and a quarter of ``lease_ttl``."""

    blind_interval: Seconds = 0.005
    """Seconds between two re-reads while somebody waits and no source sees replication (a mount without its stream)."""

    silence: Seconds = 3.0
    """Seconds without an answer from any source after which the role is UNKNOWN (a frozen LiteFS). At least
    ``idle_interval``: nobody answers who is not asked. For as long as the event loop was blocked they don't count."""

    lease_ttl: Seconds = 10.0
    """Seconds that a primary's lease lasts (``lease.consul.ttl``), and is renewed at half of it. After a standstill of more
    than that half, a node that says it is the primary is not believed for as long again: another one may be."""

    peers: tuple[str, ...] | Literal["fly"] = ()
    """The other nodes' HTTP APIs (``LITEFS_PEERS``, separated by commas or spaces): their event streams are watched, too.
    This node may be among them: it is recognised. ``fly``: those of `app_name`'s machines, found through Fly.io's DNS. At
    most 32. Empty: nobody else is asked."""

    app_name: str | None = None
    """The Fly.io application (``FLY_APP_NAME``), for internal domains."""

    region: str | None = None
    """The Fly.io region of this machine (``FLY_REGION``)."""

    internal_port: int | None = Field(default=None, ge=1, le=65535)
    """The port on which this application's machines reach each other (``INTERNAL_PORT``, else ``PORT``)."""

    def __init__(self, litefs_dir: str | Path | None = None, database: str | None = None, **options: Any) -> None:
        try:
            super().__init__(litefs_dir=litefs_dir, database=database, **options)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """The settings from the environment; a keyword wins over its variable, and an empty variable counts as unset.

        ``LITEFS_DIR``, ``DATABASE_FILENAME``, ``LITEFS_API_URL`` (``none``: no event stream), ``LITEFS_DATA_DIR``,
        ``LITEFS_STANDALONE``, ``LITEFS_PEERS``, ``FLY_MACHINE_ID``, ``INTERNAL_PORT`` else ``PORT``, ``FLY_APP_NAME``,
        ``FLY_REGION``.

        Where ``environ`` is given, nothing else is read: without a ``FLY_MACHINE_ID`` in it the node has the machine's name.

        Raises `ConfigError` when ``LITEFS_DIR`` is missing and ``standalone`` is not asked for, or a value is wrong.
        """
        variables = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for field, *names in (
            ("litefs_dir", "LITEFS_DIR"),
            ("database", "DATABASE_FILENAME"),
            ("api_url", "LITEFS_API_URL"),
            ("data_dir", "LITEFS_DATA_DIR"),
            ("standalone", "LITEFS_STANDALONE"),
            ("peers", "LITEFS_PEERS"),
            ("hostname", "FLY_MACHINE_ID"),
            ("app_name", "FLY_APP_NAME"),
            ("region", "FLY_REGION"),
            ("internal_port", "INTERNAL_PORT", "PORT"),
        ):
            value = next((variables[name] for name in names if variables.get(name)), None)
            if value is not None:
                found[field] = value
        if str(found.get("api_url", "")).lower() in ("none", "off"):
            found["api_url"] = None
        found |= overrides
        if environ is not None and not found.get("hostname"):
            found["hostname"] = os.uname().nodename  # else `node_name` would look into os.environ
        return cls(**found)

    @field_validator("litefs_dir", "data_dir", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path if path is None or path.is_absolute() else Path.cwd() / path

    @field_validator("database", mode="after")
    @classmethod
    def _check_database(cls, name: str | None) -> str | None:
        return None if name is None else check_database_name(name)

    @field_validator("api_url", mode="after")
    @classmethod
    def _check_api_url(cls, url: str | None) -> str | None:
        return None if url is None else _checked_url(url, "; None turns it off")

    @field_validator("peers", mode="before")
    @classmethod
    def _split_peers(cls, peers: object) -> object:
        if isinstance(peers, str) and peers.strip() != "fly":
            return tuple(peers.replace(",", " ").split())
        return peers.strip() if isinstance(peers, str) else () if peers is None else peers

    @field_validator("peers", mode="after")
    @classmethod
    def _check_peers(cls, peers: tuple[str, ...] | Literal["fly"]) -> tuple[str, ...] | Literal["fly"]:
        if peers == "fly":
            return peers
        urls = tuple(_checked_url(url, ", or 'fly'") for url in peers)
        if len(urls) > MOST_PEERS or len(set(urls)) < len(urls):
            given = ", ".join(urls)[:200]
            raise ValueError(f"at most {MOST_PEERS} addresses, and each once; these are {len(urls)}: {given}")
        return urls

    @model_validator(mode="after")
    def _check_directory(self) -> Settings:
        if self.litefs_dir is None and not self.standalone:
            raise ValueError(
                "LITEFS_DIR is not set: set it (or litefs_dir=) to the directory where LiteFS is mounted, 'fuse.dir' in "
                "litefs.yml; to develop without LiteFS, use standalone=True (LITEFS_STANDALONE=1)"
            )
        return self

    @model_validator(mode="after")
    def _check_silence(self) -> Settings:
        if self.silence < self.idle_interval:
            raise ValueError(
                f"silence={self.silence:g} is below idle_interval={self.idle_interval:g}: a quiet node would be taken for a "
                f"frozen one between two re-reads; set silence= to {3 * self.idle_interval:g} or more, or a shorter "
                "idle_interval="
            )
        return self

    @model_validator(mode="after")
    def _check_what_peers_need(self) -> Settings:
        if self.peers and self.api_url is None and not self.standalone:
            raise ValueError("peers need api_url, too: LiteFS's own stream tells which of the nodes this one is")
        if self.peers == "fly" and not self.app_name and not self.standalone:
            raise ValueError("peers='fly' needs the application's name: set FLY_APP_NAME (or app_name=)")
        return self

    @cached_property
    def node_name(self) -> str:
        """This node's hostname: ``hostname``, else ``FLY_MACHINE_ID``, else the machine's (LiteFS's own default)."""
        return self.hostname or os.environ.get("FLY_MACHINE_ID") or os.uname().nodename

    def database_or_default(self, database: str | None) -> str:
        """The database that a call means; standalone, none has to be named.

        Raises `ConfigError` when none is, or the name can't be one.
        """
        name = self.database if database is None else database
        if name is None and self.standalone:
            return "standalone.db"  # nothing is watched: any name will do
        if name is None:
            raise ConfigError("which database? set DATABASE_FILENAME (or database=), or name it in the call")
        if name == self.database:
            return name
        try:
            return check_database_name(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def settings_or_env(settings: Settings | None, kind: str) -> Settings:
    """What a watcher of that kind was given; without any, the environment's. Raises `ConfigError` where it is none."""
    if settings is None:
        return Settings.from_env()
    if isinstance(settings, Settings):
        return settings
    given = f"{str(settings)[:80]!r}, database='app.db'" if isinstance(settings, str | Path) else "..."
    raise ConfigError(
        f"{kind}(...) takes settings, not {type(settings).__name__}: write {kind}(Settings({given})), or {kind}() for those "
        "of the environment (LITEFS_DIR, DATABASE_FILENAME)"
    )


def _checked_url(url: str, otherwise: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        usable = False
    if not usable or " " in url:
        raise ValueError(f"{url!r} is not an address like {DEFAULT_API_URL} (LiteFS speaks plain HTTP){otherwise}")
    return url.rstrip("/")


def check_timeout(timeout: float | None) -> float | None:
    """A timeout in seconds: None for ever, zero or less for 'now or never'. Raises `ValueError` when it is no number."""
    if timeout is not None and math.isnan(timeout):
        raise ValueError("a timeout is a number of seconds, or None; not nan")
    return timeout


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        message = str(problem["msg"]).removeprefix("Value error, ")
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"there is no setting {field!r}{did_you_mean(field, Settings.model_fields)}")
            continue
        seen = "" if not field or problem["type"] == "value_error" else f" (got {str(problem['input'])[:80]!r})"
        lines.append(f"{field}: {message}{seen}" if field else message)
    return "; ".join(lines)
