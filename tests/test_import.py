"""What importing the package does: next to nothing, until one of its names is used."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import litefs_watch
from litefs_watch import ConfigError, NotPrimary, Position, PrimaryChange, Role, TxChange, Watcher

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


def test_a_watcher_loads_no_source_and_no_event_loop() -> None:
    """Those come with the first watcher that is made, and with the loop that it runs in; threads cost who has them."""
    modules = loaded("from litefs_watch import Settings, Watcher")
    assert not modules & (HEAVY - {"anyio", "pydantic", "pydantic_core"})
    assert {name for name in modules if name.startswith(("litefs_watch.core.", "litefs_watch.watchers."))} == {
        "litefs_watch.core.waiters",
        "litefs_watch.watchers.faces",
        "litefs_watch.watchers.glances",
        "litefs_watch.watchers.parking",
        "litefs_watch.watchers.peering",
        "litefs_watch.watchers.proof",
        "litefs_watch.watchers.watcher",
        "litefs_watch.watchers.while_primary",
    }


def test_each_name_can_be_the_first() -> None:
    """In an interpreter that has nothing of ours: no circle of imports hides behind another name's."""
    loaded(
        f"""
import importlib, sys
for name in {litefs_watch.__all__}:
    exec(f"from litefs_watch import {{name}}")
    for module in [each for each in sys.modules if each.startswith("litefs_watch")]:
        del sys.modules[module]
"""
    )


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


@pytest.mark.parametrize("name", ["changes", "errors", "position", "settings", "status"])
def test_a_module_of_public_names_is_an_attribute(name: str) -> None:
    """``litefs_watch.errors.WireError``, whether the module was imported or the package alone."""
    for statement in ("import litefs_watch", f"import litefs_watch.{name}", f"from litefs_watch import {name}"):
        loaded(f"{statement}\nimport litefs_watch; assert litefs_watch.{name}.__name__ == 'litefs_watch.{name}'")


def test_a_star_brings_the_public_names_and_nothing_else() -> None:
    """``from litefs_watch import *``."""
    names: dict[str, object] = {}
    exec("from litefs_watch import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == litefs_watch.__all__
    assert names["Watcher"] is Watcher


def test_a_name_can_be_replaced_before_its_first_use() -> None:
    """A test's mock comes and goes as with any attribute."""
    loaded("""
from unittest import mock
import litefs_watch
with mock.patch("litefs_watch.Position", 1):
    assert litefs_watch.Position == 1
assert litefs_watch.Position.__module__ == "litefs_watch.position"
""")


@pytest.mark.parametrize(
    "value",
    [
        Watcher,
        Position(7, 9),
        Role.REPLICA,
        TxChange("app.db", Position(2), None),
        PrimaryChange(Role.PRIMARY, None, Role.REPLICA, "a"),
    ],
)
def test_what_is_public_can_be_pickled_and_copied(value: object) -> None:
    """Between processes, by the module that it lives in."""
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


def test_a_pickle_is_read_where_nothing_is_imported_yet() -> None:
    """An error that comes back from a worker's process, say."""
    raw = pickle.dumps([NotPrimary("a"), ConfigError("x"), Position(3)])
    loaded(f"import pickle; read = pickle.loads({raw!r}); assert read[0].primary == 'a' and read[2].txid == 3")
