"""What the package can say to a user, as it stands in its code: each error it makes, each answer's text.

A text is the code's own, with … for what varies.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import litefs_watch

PACKAGE = Path(litefs_watch.__file__).parent
NODES: dict[str, list[ast.AST]] = {
    path.relative_to(PACKAGE).as_posix(): list(ast.walk(ast.parse(path.read_text())))
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""All that is in each file."""

ANSWERS = {"Refuse": 0, "refusal": 0, "Answer": 1}
"""What makes an answer, and which of its arguments is the text."""

TELLERS = {
    "operate/health.py": ("unready", "_behind", "_primary", "_replica", "_read"),
    "watchers/why.py": ("idle",),
    "status.py": ("missing_database", "unseen"),
}
"""Functions that return what a message or an answer says."""


class Said(NamedTuple):
    """One place in the code that says something."""

    where: str
    kind: str
    """The error's class, or what makes the answer."""
    text: str
    code: str
    """The call itself, which tells it from others of the same file."""


@functools.cache
def said() -> tuple[Said, ...]:
    """All of them, in order."""
    return tuple(each for where in NODES for each in _said_in(where))


def _said_in(where: str) -> Iterator[Said]:
    errors = error_names()
    for node in NODES[where]:
        if isinstance(node, ast.FunctionDef) and node.name in TELLERS.get(where, ()):
            for part in ast.walk(node):
                if isinstance(part, ast.Return) and (text := _text(part.value, where)) is not None:
                    yield Said(where, node.name, text, ast.unparse(part))
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            made = _name(node.exc.func)
            if made not in errors:  # what a function makes
                yield Said(where, made, "…", ast.unparse(node.exc))
        elif isinstance(node, ast.Dict):
            keys = (key.value if isinstance(key, ast.Constant) else None for key in node.keys)
            given = dict(zip(keys, node.values, strict=True))
            if _text(given.get("type")) == "websocket.close" and "reason" in given:
                yield Said(where, "websocket.close", _text(given["reason"], where) or "…", ast.unparse(node))
        elif isinstance(node, ast.Call):
            made = _name(node.func)
            if made in errors:
                if made.startswith("_"):  # its own file catches it
                    continue
                yield Said(where, made, _of_error(node, where), ast.unparse(node))
            elif (found := _of_answer(node, made, where)) is not None:
                yield Said(where, made, found, ast.unparse(node))


def _name(node: ast.AST | None) -> str:
    """Of what is called, or assigned to, without what stands before its last point."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@functools.cache
def error_names() -> frozenset[str]:
    """Every class of errors: Python's, and those that the package makes, or takes from others."""
    found = {name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, BaseException)}
    classes = [node for nodes in NODES.values() for node in nodes if isinstance(node, ast.ClassDef)]
    found |= {"CommandError", "ImproperlyConfigured", "HTTPException", "ClickException", "UsageError", "BadParameter"}
    found |= {"SkipMessage", "RetryTask", "CancelExecution", "UnsupportedProtocol", "NoResultError"}
    while True:
        more = {each.name for each in classes if {_name(base) for base in each.bases} & found}
        if more <= found:
            return frozenset(found)
        found |= more


def _of_error(call: ast.Call, where: str) -> str:
    """The longest of its arguments that are texts: beside it may stand a hostname, a status."""
    texts = [_text(argument, where) or "…" for argument in call.args if not isinstance(argument, ast.Starred)]
    return max(texts, key=len, default="…")


def _of_answer(call: ast.Call, made: str, where: str) -> str | None:
    if made == "of" and (given := {each.arg: each.value for each in call.keywords}.get("text")) is not None:
        return (_text(given, where) or "…").strip()
    if made == "replace":  # of a refusal
        return _text(next((each.value for each in call.keywords if each.arg == "reason"), None), where)
    if made == "exit" and call.args and isinstance(call.args[0], ast.JoinedStr):
        return (_text(call.args[0]) or "…").removeprefix("litefs-watch: ")
    if made not in ANSWERS or (made == "Answer" and where != "operate/health.py"):
        return None
    argument = call.args[min(ANSWERS[made], len(call.args) - 1)]
    if isinstance(argument, ast.Starred):
        return _text(argument.value, where) or "…"
    if isinstance(argument, ast.Dict):
        return _text(argument.values[-1 if len(argument.values) == 2 and "ok" in ast.unparse(argument) else 0], where) or "…"
    return _text(argument, where) or "…"


def _text(node: ast.AST | None, where: str = "") -> str | None:
    """None where it is no text at all. ``where``: in which file names are looked up; empty: they vary."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(_text(part) or "…" for part in node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left, where) or "…") + (_text(node.right, where) or "…")
    if isinstance(node, ast.BoolOp):
        return next((text for each in reversed(node.values) if (text := _text(each, where)) is not None), None)
    if isinstance(node, ast.Tuple):
        return _text(node.elts[0], where) if node.elts else None
    if where and isinstance(node, ast.Name | ast.Attribute):
        name = _name(node)
        before = [text for line, text in _named(where).get(name, ()) if line < node.lineno]
        return before[-1] if before else _shared().get(name)
    return None


@functools.cache
def _named(where: str) -> dict[str, list[tuple[int, str]]]:
    """The texts that have a name there, a module's or a function's, with the line."""
    found: dict[str, list[tuple[int, str]]] = {}
    for node in NODES[where]:
        if isinstance(node, ast.Assign) and (text := _text(node.value)):
            found.setdefault(_name(node.targets[0]), []).append((node.lineno, text))
    return {name: sorted(texts) for name, texts in found.items()}


@functools.cache
def _shared() -> dict[str, str]:
    """Those in capitals, which others import."""
    return {name: texts[-1][1] for where in NODES for name, texts in _named(where).items() if name.isupper()}
