"""The group of commands, exit statuses, and errors as one line.

Exit status: 0 yes, 1 no or failed, 2 usage, 124 timed out (as timeout(1) has it), 128 and a signal's number where that ended
it (130 for Ctrl-C), 141 where whoever read stdout has gone (as a shell sees it for other commands: 128 and SIGPIPE).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from typing import cast

import click

from litefs_watch import ConfigError, WaitTimeout, __version__
from litefs_watch.printable import did_you_mean, safe

COMMANDS = ("status", "doctor", "watch", "wait", "primary", "wait-ready", "run", "while-primary", "serve", "top", "demo")

FAILED, USAGE, TIMED_OUT, INTERRUPTED, READER_GONE = 1, 2, 124, 130, 141

logger: logging.Logger = logging.getLogger("litefs_watch")


class Commands(click.Group):
    """Each command is imported when it is used: ``wait`` needs neither rich nor the demo's cluster."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"No such command {safe(args[0])!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"litefs_watch.cli.{cmd_name.replace('-', '_')}")
        return cast("click.Command", module.command)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="litefs-watch")
def app() -> None:
    """Watch a LiteFS node: its role, its primary, and the position of each database.

    Exit status: 0 yes, 1 no or failed, 2 usage, 124 timed out, 130 interrupted.
    """


def run(arguments: list[str] | None = None) -> int:
    """Run the command line (None: the process's own). Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 still gets the rest
    try:
        status = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return READER_GONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except WaitTimeout as error:
        return _complain(str(error), TIMED_OUT)
    except ConfigError as error:
        from litefs_watch.cli.options import in_options

        return _complain(in_options(str(error)), USAGE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", FAILED)
    except ModuleNotFoundError:
        raise  # `main` says what to install
    except Exception as error:  # an operator gets one line, and the traceback on request
        logger.debug("failed", exc_info=True)
        return _complain(str(error) or type(error).__name__, FAILED)
    return status


def _run(arguments: list[str]) -> int:
    if "_LITEFS_WATCH_COMPLETE" in os.environ:
        app.main(prog_name="litefs-watch")  # the shell completes a command line: click answers, and exits
    try:
        if not arguments:
            click.echo(click.Context(app, info_name="litefs-watch", **app.context_settings).get_help(), err=True)
            return USAGE
        with app.make_context("litefs-watch", list(arguments)) as context:
            return int(app.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "litefs-watch"
        return _complain(f"{error.format_message().rstrip('.')} (see {where} --help)", USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)


def _complain(message: str, status: int) -> int:
    from litefs_watch.cli.options import options_for_keywords

    with contextlib.suppress(OSError):
        message = options_for_keywords(message)
        click.echo(f"litefs-watch: {safe(' '.join(message.split()))}", err=True)
    return status
