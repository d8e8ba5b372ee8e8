"""The group: options that all commands share, exit statuses, and errors as one line.

Exit status: 0 yes, 1 no or failed, 2 usage, 124 timed out, 130 interrupted, 141 whoever read stdout is gone.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import click

from litefs_watch import ConfigError, LiteFSWatchError, Settings, WaitTimeout, __version__

TIMED_OUT, INTERRUPTED, BROKEN_PIPE = 124, 130, 141


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="litefs-watch")
def app() -> None:
    """Watch a LiteFS node: its role, its primary, and the position of each database.

    Exit status: 0 yes, 1 no or failed, 2 usage, 124 timed out, 130 interrupted.
    """


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json`` and ``--verbose``."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
    @click.option("-v", "--verbose", count=True, help="Log to stderr; twice: everything.")
    @functools.wraps(command)
    def configured(verbose: int, **options: Any) -> Any:
        level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        return command(**options)

    return configured


def node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that tell which node; the command gets ``settings``."""

    @click.option("--dir", "litefs_dir", metavar="DIR", help="LiteFS's mount.  [env: LITEFS_DIR]")
    @click.option("-d", "--database", metavar="NAME", help="The database's file name.  [env: DATABASE_FILENAME]")
    @click.option("--api-url", metavar="URL", help="LiteFS's HTTP API, or none.  [env: LITEFS_API_URL]")
    @click.option("--hostname", metavar="NAME", help="This node's name.  [env: FLY_MACHINE_ID]")
    @click.option("--data-dir", metavar="DIR", help="LiteFS's data directory.  [env: LITEFS_DATA_DIR]")
    @output_options
    @functools.wraps(command)
    def configured(**options: Any) -> Any:
        given = {}
        for name in ("litefs_dir", "database", "api_url", "hostname", "data_dir"):
            if (value := options.pop(name)) is not None:
                given[name] = value
        if given.get("api_url", "").lower() in ("none", "off"):
            given["api_url"] = None
        return command(settings=Settings.from_env(**given), **options)

    return configured


def asynchronous(command: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., int]:
    """Run an async command; its result is the exit status."""

    @functools.wraps(command)
    def run_it(**options: Any) -> int:
        try:
            try:
                status = anyio.run(functools.partial(command, **options))
                sys.stdout.flush()
            except BaseExceptionGroup as group:
                raise _first(group) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
            return BROKEN_PIPE
        return status

    return run_it


def run(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    from litefs_watch.cli import demo, primary, status, wait, watch

    for module in (status, watch, wait, primary, demo):
        app.add_command(module.command)
    try:
        result = app.main(arguments, prog_name="litefs-watch", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ConfigError as error:
        return _complain(error, 2)
    except WaitTimeout as error:
        return _complain(error, TIMED_OUT)
    except (LiteFSWatchError, OSError, RuntimeError) as error:
        return _complain(error, 1)
    return result if isinstance(result, int) else 0


def _complain(error: Exception, status: int) -> int:
    click.echo(f"litefs-watch: {' '.join(str(error).split()) or type(error).__name__}", err=True)
    return status


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
