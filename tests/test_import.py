"""What importing the package does: next to nothing, until one of its names is used."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import litefs_watch

HEAVY = {"anyio", "asyncio", "h11", "pydantic", "pydantic_core", "watchfiles", "trio"}


def loaded(statement: str) -> set[str]:
    """The modules that a new interpreter has after it."""
    program = f"{statement}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    package = str(Path(litefs_watch.__file__).parents[1])
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ, timeout=60
    )
    return set(json.loads(run.stdout))


def test_the_package_alone_loads_nothing_of_what_it_needs() -> None:
    """``import litefs_watch`` brings itself only, of ours and of others'."""
    modules = loaded("import litefs_watch")
    assert {name for name in modules if name.startswith("litefs_watch")} == {"litefs_watch"}
    assert not modules & HEAVY


@pytest.mark.parametrize("name", ["NotPrimary", "Position", "Role", "Status"])
def test_a_plain_value_loads_no_library(name: str) -> None:
    """Errors, positions and statuses are the standard library's."""
    assert not loaded(f"from litefs_watch import {name}") & HEAVY


def test_settings_load_no_event_loop() -> None:
    """Of the libraries, they need pydantic alone."""
    assert not loaded("from litefs_watch import Settings") & (HEAVY - {"pydantic", "pydantic_core"})


@pytest.mark.parametrize("name", litefs_watch.__all__)
def test_each_public_name_is_there(name: str) -> None:
    """It is what it is called, the same each time, and the second time a plain attribute."""
    value = getattr(litefs_watch, name)
    assert value.__name__ == name
    assert getattr(litefs_watch, name) is value
    assert vars(litefs_watch)[name] is value


def test_the_list_of_names_is_sorted_and_whole() -> None:
    """What type checkers see, what is exported, and what can be loaded are the same names."""
    tree = ast.parse(Path(litefs_watch.__file__).read_text())
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert litefs_watch.__all__ == sorted(typed)
    assert typed == litefs_watch._HOMES


def test_dir_shows_the_public_names() -> None:
    """Before their first use as well, for whoever explores at a prompt."""
    shown = "import litefs_watch; assert {*litefs_watch.__all__, '__version__', '__name__'} <= set(dir(litefs_watch))"
    assert "litefs_watch.settings" not in loaded(shown)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """With the usual words, and an ImportError where it is imported."""
    package: Any = litefs_watch
    with pytest.raises(AttributeError, match=r"^module 'litefs_watch' has no attribute 'Wacher'$"):
        _ = package.Wacher
    with pytest.raises(ImportError, match="cannot import name 'Wacher'"):
        exec("from litefs_watch import Wacher")


def test_a_module_is_an_attribute_once_imported() -> None:
    """As of any package."""
    loaded("import litefs_watch.errors; litefs_watch.errors.WireError")
    loaded("from litefs_watch import errors; errors.WireError")
