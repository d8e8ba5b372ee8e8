"""What is asked now and then: the application, who waits there; doctor, what is wrong. Each answer stands until the next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import anyio
import click

from litefs_watch.cli.doctor import record
from litefs_watch.operate.doctor.findings import Finding, examine
from litefs_watch.operate.doctor.gathering import gather, still_looking
from litefs_watch.operate.words import timestamp
from litefs_watch.printable import safe
from litefs_watch.settings import Settings
from litefs_watch.sources.http import HTTP_ERRORS, request

ANSWER_TIMEOUT = 2.0
"""Seconds that the application has for its answer."""
PATIENCE = 1.0
"""Seconds, as doctor's ``--patience``."""
_MOST = 1 << 53  # of anything: what is more has no place in a float
_LIMIT = 4 << 20  # bytes: a status names each database, and a node may have ten thousand


@dataclass(frozen=True, slots=True)
class Application:
    """What the application said last, by its `status_routes`."""

    url: str
    fault: str | None = None
    """Why it says nothing, or why it is not ready."""
    process: int | None = None
    """Whose waiters these are: a server may have several. None where it does not say."""
    waiters: int = 0
    oldest: float | None = None
    """Seconds."""

    @property
    def text(self) -> str:
        """Who waits, where it says so."""
        return f"{self.waiters:,} wait" + (f", the oldest for {self.oldest:.3f} s" if self.oldest is not None else "")

    def record(self) -> dict[str, Any]:
        """For JSON; as the application has it, with the address."""
        told = {"process": self.process, "waiters": self.waiters, "oldestWait": self.oldest}
        return {"url": self.url, "reason": self.fault, **(told if self.process is not None else {})}


@dataclass(frozen=True, slots=True)
class Examined:
    """What doctor found, and when that was."""

    when: datetime
    findings: tuple[Finding, ...] = ()
    fault: str | None = None
    """Why it found nothing out."""

    @property
    def text(self) -> str:
        """The codes of what was found; empty where nothing was."""
        return self.fault or ", ".join(dict.fromkeys(finding.code for finding in self.findings))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"time": timestamp(self.when), "reason": self.fault, "findings": [record(each) for each in self.findings]}


def check_app(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The callback of ``--app``."""
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and not parts.query + parts.fragment
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise click.BadParameter(f"{value[:200]!r} is no address like http://localhost:8080/litefs", context, parameter)
    return value.rstrip("/")


async def ask_application(url: str) -> Application:
    """Who waits there now. It may not answer, or be something else: that is said."""
    address = f"{url}/readyz?verbose"
    try:
        with anyio.fail_after(ANSWER_TIMEOUT):
            async with request("GET", address, timeout=ANSWER_TIMEOUT) as response:
                return understand(url, response.status, await response.read(_LIMIT))
    except HTTP_ERRORS as error:
        return Application(url, fault=safe(str(error).replace(address, "it")))
    except TimeoutError:
        return Application(url, fault=f"no answer within {ANSWER_TIMEOUT:g} s")


def understand(url: str, status: int, body: bytes) -> Application:
    """Of an answer of whoever listens there."""
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        record = None
    if status not in (200, 503) or not isinstance(record, Mapping) or "ok" not in record:
        return Application(url, fault=f"it answers {status}, and is no status_routes of litefs_watch")
    reason = record.get("reason")
    fault = safe(str(reason)) if reason is not None else None
    process, waiters, oldest = (record.get(name) for name in ("process", "waiters", "oldestWait"))
    if not _is_count(process) or not _is_count(waiters):
        return Application(url, fault=fault or "it does not say who waits: it has an older litefs_watch")
    return Application(url, fault, process, waiters, oldest if _is_time(oldest) else None)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < _MOST


async def examine_node(settings: Settings, before: Examined | None = None) -> Examined:
    """What doctor finds. Nothing new while a look of ``before`` still hangs: there would be one more with each."""
    if before is not None and still_looking():
        return before
    now = datetime.now(UTC)
    try:
        return Examined(now, tuple(examine(await gather(settings, PATIENCE))))
    except Exception as error:  # noqa: BLE001 - whatever it stumbles over, the screen goes on
        return Examined(now, fault=safe(f"{type(error).__name__}: {error}"))
