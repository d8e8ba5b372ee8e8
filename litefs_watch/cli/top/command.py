"""What keeps them together: a watcher, a sample each second, a screen, the keys."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import click
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from litefs_watch import Role, Settings, Watcher
from litefs_watch.cli.options import check_seconds, cluster_options
from litefs_watch.cli.output import emit
from litefs_watch.cli.process import asynchronous
from litefs_watch.cli.top.asking import ask_application, check_app, examine_node
from litefs_watch.cli.top.history import History
from litefs_watch.cli.top.keys import pressed, unbuffered
from litefs_watch.cli.top.screen import Page, lines
from litefs_watch.operate.words import cluster_record, role_text, status_record, timestamp

Ask = Callable[[], Coroutine[Any, Any, None]]
ONCE_LINES = 60
"""Lines of a screen that nobody's terminal limits."""


@click.command("top", short_help="Show this node, its neighbours and its databases, live.")
@click.option("--once", is_flag=True, help="One screen, and no more.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    callback=check_seconds,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two samples.",
)
@click.option(
    "--app",
    callback=check_app,
    metavar="URL",
    help="Where the application has its status_routes: who waits there. http://localhost:8080/litefs, say.",
)
@click.option(
    "--doctor",
    type=click.FloatRange(min=0, max=86400),
    callback=check_seconds,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two examinations of this node, of which each takes a second; 0: none.",
)
@cluster_options
@asynchronous
async def command(settings: Settings, as_json: bool, once: bool, interval: float, app: str | None, doctor: float) -> int:
    """Roles, lags, transactions a second, what doctor finds, sources, and the last changes of the primary; of the other
    nodes, too, where LITEFS_PEERS names them; who waits in the application, where --app says who that is.

    In a pipe, and with --json, a line each interval. Keys: q ends it, space holds the screen, c clears the changes. With
    --once: status 0 where the role is known, else 1.
    """
    async with Watcher(settings) as watcher:
        top = Top(watcher, interval, app, doctor)
        if once:
            return await top.once(as_json=as_json)
        console = Console(highlight=False)
        live = not as_json and sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(top.follow)
            for ask, pause in top.questions:
                tasks.start_soon(top.keep_asking, ask, pause)
            await (top.show(console) if live else top.print(as_json=as_json))
            tasks.cancel_scope.cancel()
    return 0


class Top:
    def __init__(self, watcher: Watcher, interval: float, app: str | None, doctor: float) -> None:
        self._watcher = watcher
        self._interval = interval
        self._app = app
        self._doctor = doctor
        self._history = History()
        self._held = False
        self._shown: list[Text] = []
        self._news = anyio.Event()

    def _sample(self) -> None:
        self._history.sample(time.monotonic(), self._watcher.status, self._watcher.cluster)

    async def follow(self) -> None:
        """Keep the changes of the primary, and what is lost."""
        async for change in self._watcher.changes():
            self._history.tell(datetime.now(UTC), change)

    @property
    def questions(self) -> list[tuple[Ask, float]]:
        """What is asked beside the watcher, and how many seconds lie between two times."""
        asked = [(self._ask_application, self._interval if self._app is not None else 0), (self._examine, self._doctor)]
        return [(ask, pause) for ask, pause in asked if pause]

    async def keep_asking(self, ask: Ask, pause: float) -> None:
        while True:
            await ask()
            self._news.set()
            await anyio.sleep(pause)

    async def _ask_application(self) -> None:
        self._history.application = await ask_application(self._app or "")

    async def _examine(self) -> None:
        self._history.examined = await examine_node(self._watcher.settings, self._history.examined)

    async def _settle(self) -> None:
        """Hear the other nodes, as far as they are heard at once."""
        if self._watcher.settings.peers and not self._watcher.settings.standalone:
            with self._watcher.cluster_changes() as changes, anyio.move_on_after(self._watcher.settings.start_timeout):
                while not self._watcher.cluster.settled:
                    await changes.take()

    async def once(self, *, as_json: bool) -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settle)
            for ask, _ in self.questions:
                tasks.start_soon(ask)
        self._sample()
        if as_json:
            self._emit()
        else:
            console = Console(highlight=False)
            page = Page(console.width, ONCE_LINES, datetime.now(UTC), plain=_is_plain(console), keys=False)
            for line in lines(self._history, page):
                console.print(line, soft_wrap=True)
        return 0 if self._watcher.role is not Role.UNKNOWN else 1

    async def print(self, *, as_json: bool) -> None:
        """A line each interval, until it is cancelled."""
        while True:
            self._sample()
            if as_json:
                self._emit()
            else:
                click.echo(self._line())
            await anyio.sleep(self._interval)

    def _emit(self) -> None:
        status, cluster = self._watcher.status, self._watcher.cluster
        rates = {row.name: row.rate for row in self._history.databases()}
        record: dict[str, Any] = {"time": timestamp(datetime.now(UTC)), **status_record(status), "rates": rates}
        if cluster.peers or cluster.fault:
            record["cluster"] = cluster_record(cluster)
        if (told := self._history.application) is not None:
            record["application"] = told.record()
        if (examined := self._history.examined) is not None:
            record["doctor"] = examined.record()
        emit(record)

    def _line(self) -> str:
        status = self._watcher.status
        peers = self._watcher.cluster.peers
        parts = [f"{datetime.now(UTC):%H:%M:%S}Z", role_text(status.role, status.primary)]
        if status.lag is not None:
            parts.append(f"lag {status.lag:.3f} s")
        if peers:
            parts.append(f"{sum(peer.connected for peer in peers)} of {len(peers)} other nodes heard")
        busiest = self._history.databases()[:3]
        parts += [f"{row.name} {row.txid}" + (f" ({row.rate:.1f} tx/s)" if row.rate is not None else "") for row in busiest]
        if (told := self._history.application) is not None:
            parts.append(told.text if told.process is not None else f"application: {told.fault}")
        if (examined := self._history.examined) is not None and (found := examined.text):
            parts.append(f"doctor: {found}")
        return "   ".join(parts)

    # On a terminal.

    async def show(self, console: Console) -> None:
        """Until ``q``, or a signal, ends it. The screen is given back as it was."""
        keys = sys.stdin is not None and sys.stdin.isatty()
        async with AsyncExitStack() as stack:
            if keys:
                stack.enter_context(unbuffered(sys.stdin.fileno()))
            live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False, transient=True))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(self._keep_sampling)
            if keys:
                tasks.start_soon(self._obey, sys.stdin.fileno(), tasks.cancel_scope)
            while True:
                self._draw(live, console, keys=keys)
                self._news = anyio.Event()
                with anyio.move_on_after(min(self._interval, 0.25)):
                    await self._news.wait()

    def _draw(self, live: Live, console: Console, *, keys: bool) -> None:
        with suppress(OSError):  # as it is now: rich would believe COLUMNS and LINES, which a window does not change
            console.size = ConsoleDimensions(*os.get_terminal_size(sys.stdout.fileno()))
        size = console.size
        if not self._held or not self._shown:
            page = Page(size.width, size.height, datetime.now(UTC), _is_plain(console), self._held, keys)
            self._shown = lines(self._history, page)
        live.update(Group(*self._shown), refresh=True)

    async def _keep_sampling(self) -> None:
        while True:
            self._sample()
            await anyio.sleep(self._interval)

    async def _obey(self, descriptor: int, scope: anyio.CancelScope) -> None:
        async for key in pressed(descriptor):
            if key in ("q", "Q", "\x04"):
                break
            if key == " ":
                self._held, self._shown = not self._held, []
            elif key == "c":
                self._history.changes.clear()
            self._news.set()
        scope.cancel()


def _is_plain(console: Console) -> bool:
    return not (console.encoding or "").lower().startswith("utf") or os.environ.get("TERM") == "linux"
