"""``litefs-watch serve``: the watcher as a sidecar, for applications in any language."""

from __future__ import annotations

from pathlib import Path

import anyio
import click

from litefs_watch import Settings
from litefs_watch.cli.options import check_seconds, node_options
from litefs_watch.cli.output import emit
from litefs_watch.cli.process import first_error

PORT = 20203
"""The one after LiteFS's own."""


@click.command("serve", short_help="A sidecar: applications in any language ask it over HTTP.")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What clients have to know, unless only this machine can ask.  [env: LITEFS_WATCH_TOKEN, the token itself]",
)
@click.option("--max-waiting", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Waits at once.")
@click.option("--max-subscribers", type=click.IntRange(0, 10_000), default=100, show_default=True, help="Streams at once.")
@click.option(
    "--max-timeout",
    type=click.FloatRange(0, 3600),
    callback=check_seconds,
    default=60.0,
    show_default=True,
    help="Seconds that a wait may take.",
)
@click.option(
    "--kept", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Events for those who come back."
)
@node_options
def command(
    settings: Settings,
    as_json: bool,
    host: str,
    port: int,
    token_file: Path | None,
    max_waiting: int,
    max_subscribers: int,
    max_timeout: float,
    kept: int,
) -> int:
    """Serve what the watcher knows over HTTP, to applications in any language: wait for a transaction before a read, follow
    changes, health checks, metrics. The page at its address tells of every path.

    It listens on loopback. On another address it asks for a token: Authorization: Bearer TOKEN.

    SIGTERM ends it, with status 0: who waits gets 503, streams get a last event. systemd is told when it is ready
    (Type=notify), and that it lives (WatchdogSec=).
    """
    try:
        from litefs_watch.serve.options import Options, find_token
        from litefs_watch.serve.server import listen, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("litefs_watch"):
            raise
        library = (error.name or "").partition(".")[0]
        raise click.ClickException(f"serve needs {library}: pip install 'litefs-watch[serve]'") from error
    token = find_token(token_file)
    options = Options(token, max_waiting, max_subscribers, max_timeout, kept)
    with listen(host, port, token) as listener:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listener.getsockname()[1]}/"

        def ready() -> None:
            emit({"type": "serving", "url": url}) if as_json else click.echo(f"Serving at {url}  (Ctrl-C ends it)")

        try:
            return 0 if anyio.run(serve, settings, options, listener, ready, name) else 1
        except BaseExceptionGroup as group:
            raise first_error(group) from None
