"""The options that commands share, and what they may say."""

from __future__ import annotations

import functools
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from litefs_watch import Settings
from litefs_watch.position import parse_txid
from litefs_watch.printable import safe


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``, which the command gets as ``as_json``, and ``--verbose``."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
    @click.option("-v", "--verbose", count=True, help="Log to stderr; twice: everything.")
    @functools.wraps(command)
    def configured(verbose: int, **options: Any) -> Any:
        log_to_stderr((logging.ERROR, logging.INFO, logging.DEBUG)[min(verbose, 2)])
        return command(**options)

    return configured


def node_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that tell which node, which the command gets as ``settings``. One that is empty counts as not given."""
    return _node_options(command, peers=False)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command that shows other nodes: LITEFS_PEERS is for nobody else."""
    return _node_options(command, peers=True)


def _node_options(command: Callable[..., Any], *, peers: bool) -> Callable[..., Any]:
    @click.option("--dir", "litefs_dir", metavar="DIR", help="LiteFS's mount.  [env: LITEFS_DIR]")
    @click.option("-d", "--database", metavar="NAME", help="The database's file name.  [env: DATABASE_FILENAME]")
    @click.option("--api-url", metavar="URL", help="LiteFS's HTTP API, or none.  [env: LITEFS_API_URL]")
    @click.option("--hostname", metavar="NAME", help="This node's name.  [env: FLY_MACHINE_ID]")
    @click.option("--data-dir", metavar="DIR", help="LiteFS's data directory.  [env: LITEFS_DATA_DIR]")
    @output_options
    @functools.wraps(command)
    def configured(**options: Any) -> Any:
        given: dict[str, Any] = {}
        for name in ("litefs_dir", "database", "api_url", "hostname", "data_dir"):
            if value := options.pop(name):
                given[name] = value
        if given.get("api_url", "").lower() in ("none", "off"):
            given["api_url"] = None
        if not peers:
            given["peers"] = ()
        return command(settings=Settings.from_env(**given), **options)

    return configured


_OPTIONS = {
    "litefs_dir": "--dir",
    "database": "--database",
    "api_url": "--api-url",
    "hostname": "--hostname",
    "data_dir": "--data-dir",
}
_KEYWORD = re.compile(r" \((?P<or>(?:or )?)(?P<name>[a-z_]+)=\)")


def in_options(message: str) -> str:
    """What `Settings` says is wrong, in the words of who has typed a command."""
    name, colon, rest = message.partition(": ")
    if colon and name in _OPTIONS:
        message = f"{_OPTIONS[name]}: {rest}"
    message = options_for_keywords(message).replace("standalone=True (LITEFS_STANDALONE=1)", "LITEFS_STANDALONE=1")
    message = message.replace("(or --database), or name it in the call", "(or --database)")
    message = message.replace("peers need api_url, too", "peers need --api-url, too")
    return message.replace("; None turns it off", "; 'none' turns it off")


def options_for_keywords(message: str) -> str:
    """A message that names a variable and its keyword, ``LITEFS_DIR (or litefs_dir=)``, with the option in its place."""
    return _KEYWORD.sub(_in_option, message)


def _in_option(found: re.Match[str]) -> str:
    option = _OPTIONS.get(found["name"])
    return f" ({found['or']}{option})" if option else ""  # those that are no options have the variable before them


def check_seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """The callback of options that take seconds: no nan, and no infinity."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds", context, parameter)
    return value


def check_txid_argument(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """The callback of an argument that is a TXID."""
    try:
        return parse_txid(value)
    except ValueError:
        what = "a whole number from 0 to 2^64-1, decimal or hexadecimal (0x2a), or LiteFS's text of a position"
        if re.fullmatch("[0-9a-fA-F]{16}", value):
            what = f"write 0x{value} for LiteFS's hexadecimal"
        raise click.BadParameter(f"{value[:60]!r} is no TXID: {what}", context, parameter) from None


def log_to_stderr(level: int) -> None:
    """The package's log on stderr, in UTC; tracebacks only at `logging.DEBUG`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(tracebacks=level <= logging.DEBUG))
    logger = logging.getLogger("litefs_watch")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


class LogFormatter(logging.Formatter):
    """One line a record, in which names from outside are escaped."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format: str | None = "%s.%03dZ"

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._tracebacks = tracebacks

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        return time.gmtime(seconds)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = options_for_keywords(safe(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return super().formatException(ei) if self._tracebacks else ""
