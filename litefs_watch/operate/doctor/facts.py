"""What `gathering` has seen, as plain values. None: it was not looked at, or nothing tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from litefs_watch.core.readings import DirectoryRead
from litefs_watch.position import Position
from litefs_watch.sources.wire import Info


class Holder(NamedTuple):
    """A process that has a database open."""

    pid: int
    command: str


@dataclass(frozen=True)
class Api:
    """LiteFS's HTTP API."""

    url: str
    info: Info | None = None
    """What it says of itself."""
    fault: str | None = None
    """Why it says nothing, …"""
    foreign: bool = False
    """… and whether something else answers there."""
    stream_fault: str | None = None
    """Why the event stream can't be read, though ``/info`` can."""
    elsewhere: str | None = None
    """Where LiteFS answers, where it does not here."""


@dataclass(frozen=True)
class Config:
    """A configuration file, as far as it was understood."""

    path: Path
    fault: str | None = None
    """Why it can't be read."""
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    directory: Path
    database: str | None
    patience: float
    """Seconds that anything was waited for, and that lie between the two looks."""
    hostname: str = ""
    """This node's own name, by its settings."""
    thread_fault: str | None = None
    """Why no thread can be had: then nothing was looked at."""
    standalone: bool = False
    exists: bool = True
    """Whether there is anything at ``directory``."""
    first: DirectoryRead | None = None
    """The directory; None where it did not answer within `patience` …"""
    second: DirectoryRead | None = None
    """… and once more, that much later."""
    mounts: tuple[str, ...] = ()
    """Where LiteFS is mounted on this machine."""
    api: Api | None = None
    data_dir: Path | None = None
    data_fault: str | None = None
    """Why LiteFS's data directory can't be read."""
    on_disk: Mapping[str, int] = field(default_factory=dict)
    """By database: the newest TXID of its transaction files, at the first look."""
    holders: Mapping[str, tuple[Holder, ...]] = field(default_factory=dict)
    """By database: who has it open."""
    read_locked: frozenset[str] = frozenset()
    """The databases on which LiteFS saw a read transaction at both looks."""
    inotify_fault: str | None = None
    """Why inotify can't be used: its limits."""
    litefs_yml: Config | None = None
    fly_toml: Config | None = None

    def positions(self, *, second: bool = False) -> Mapping[str, Position]:
        read = self.second if second else self.first
        return read.positions if read is not None else {}
