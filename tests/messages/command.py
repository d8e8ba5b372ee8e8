"""What `litefs-watch` and Django's ``litefs_status`` say on stderr where they can't go on."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import django.conf
import pytest
from django.core.management import CommandError

import litefs_watch.cli
from litefs_watch import Role, Watcher
from litefs_watch.cli.app import run
from litefs_watch.django.management.commands.litefs_status import Command
from litefs_watch.testing import SimulatedNode
from tests.django.configured import configure
from tests.environment import environment_of
from tests.messages.provoking import Case, as_printed, case


def said(words: str) -> Callable[[], str]:
    """The last line of a call without any settings but those that it has."""

    def provoke() -> str:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("LITEFS_DIR", "DATABASE_FILENAME", "LITEFS_API_URL", "LITEFS_STANDALONE"):
                patch.delenv(name, raising=False)
            return _run(patch, words)

    return provoke


def said_of(words: str, prepare: Callable[[SimulatedNode, Any], object]) -> Callable[[], str]:
    """That of a call on a simulated node, which is prepared for it."""

    def provoke() -> str:
        with SimulatedNode() as node, pytest.MonkeyPatch.context() as patch:
            for name, value in environment_of(node).items():
                patch.setenv(name, value)
            prepare(node, patch)
            return _run(patch, words)

    return provoke


def _run(patch: pytest.MonkeyPatch, words: str) -> str:
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        assert run(words.split()) != 0
    return err.getvalue().splitlines()[-1]


def no_candidate(node: SimulatedNode, patch: Any) -> None:
    node.set_primary("node-z")
    node.candidate = False


def taken() -> str:
    with SimulatedNode() as node:
        return said(f"serve --dir /x --port {node.api_url.rpartition(':')[2]}")()


def never_handed_over(node: SimulatedNode, patch: Any) -> None:
    node.set_primary("node-z")
    node.on_promote = lambda: None


def lost_again(node: SimulatedNode, patch: Any) -> None:
    patch.setattr(Watcher, "role", property(lambda watcher: Role.UNKNOWN))


def without(missing: str, ours: str, words: str) -> Callable[[], str]:
    """Of a call that imports ours, which needs what is not installed."""

    def provoke() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.__import__", _without(missing, ours))
            return _run(patch, words)

    return provoke


def without_click() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.__import__", _without("click", "litefs_watch.cli.app"))
        try:
            litefs_watch.cli.main()
        except SystemExit as end:
            return str(end)
    return ""


def _without(missing: str, ours: str) -> Callable[..., Any]:
    real = __import__

    def importing(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == ours:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *arguments, **keywords)

    return importing


def of_django(**given: str | None) -> Callable[[], str]:
    def provoke() -> str:
        configure()
        with SimulatedNode() as node, pytest.MonkeyPatch.context() as patch:
            node.lose_primary()
            given.setdefault("litefs_dir", str(node.litefs_dir))
            patch.setattr(django.conf.settings, "LITEFS_WATCH", given, raising=False)
            try:
                Command(stdout=io.StringIO()).handle(json=True)
            except CommandError as error:
                return as_printed(error)
        return ""

    return provoke


CASES: list[Case] = [
    case(taken, "--host 127.0.0.1", "--port"),
    case(said("statsu"), "'statsu'", "'status'"),
    case(said("xyzzy"), "'xyzzy'"),
    case(said("status --databse x --dir /x"), "--databse", "--database"),
    case(said("run --dir /x"), "COMMAND"),
    case(said("status"), "LITEFS_DIR", "--dir"),
    case(said("wait 9 --dir /x"), "DATABASE_FILENAME", "--database"),
    case(said("wait nine --dir /x -d app.db"), "'nine'"),
    case(said("wait 0000000000000012 --dir /x -d app.db"), "0x0000000000000012"),
    case(said("wait 9 --dir /x -d app.db --timeout nan"), "nan"),
    case(said("status --dir /x --api-url ftp://x"), "--api-url", "ftp://x"),
    case(said_of("wait 9 --timeout 0.01", lambda node, patch: None), "app.db", "0.01 s"),
    case(said("run --dir /x -d app.db --halt -- true"), "--halt"),
    case(said("run --dir /x -d app.db --promote --api-url none -- true"), "--promote", "--api-url"),
    case(said_of("run --promote -- true", no_candidate), "lease.candidate", "not eligible"),
    case(said_of("run --promote --timeout 0.3 -- true", never_handed_over), "node-z"),
    case(said_of("run --primary true -- true", lost_again)),
    case(said("while-primary --dir /x -- no-such-command"), "no-such-command"),
    case(without("starlette.routing", "litefs_watch.cli.demo_web.server", "demo --web"), "starlette:", "litefs-watch[demo]"),
    case(without("uvicorn", "litefs_watch.serve.server", "serve --dir /x"), "uvicorn:", "litefs-watch[serve]"),
    case(without_click, "click", "litefs-watch[cli]"),
    case(of_django(database="app.db", api_url=None)),
    case(of_django(litefs_dir="/nowhere", database="app.db", api_url="http://127.0.0.1:1"), "http://127.0.0.1:1"),
]
