"""The code of the README and of the documents is run, and their promises are kept in step with the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from litefs_watch import Settings
from litefs_watch.testing import SimulatedNode
from litefs_watch.watchers import blocking

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
BLOCKS = {
    code
    for text in (README, DOCS["watcher.md"], DOCS["middleware.md"], DOCS["testing.md"])
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
}


def block(words: str) -> str:
    (found,) = [code for code in BLOCKS if words in code and "def test_" not in code]
    return str(found)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNode]:
    """A node, and the environment variables that tell where it is."""
    with SimulatedNode() as node:
        monkeypatch.setenv("LITEFS_DIR", str(node.litefs_dir))
        monkeypatch.setenv("DATABASE_FILENAME", "app.db")
        monkeypatch.setenv("LITEFS_API_URL", node.api_url)
        yield node


def run(code: str, environment: dict[str, str]) -> str:
    """In an interpreter of its own, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fastapi_example_runs(environment: SimulatedNode) -> None:
    """As it stands, under its lifespan."""
    module: dict[str, Any] = {"__name__": __name__}
    exec(compile(block("/fail-over"), "README.md", "exec", dont_inherit=True), module)
    environment.commit()
    with TestClient(module["app"]) as client, ThreadPoolExecutor(1) as pool:
        assert client.get("/orders?after=2").json() == {"at": 2, "primary": None}
        answer = pool.submit(client.get, "/fail-over")
        while not module["watcher"].statistics().subscriptions:
            assert not answer.done()
        environment.set_primary("node-b")
        assert answer.result().json() == {
            "role": "replica",
            "primary": "node-b",
            "previous_role": "primary",
            "previous_primary": None,
        }


def test_the_example_is_short() -> None:
    """Twelve lines of code, blank ones aside."""
    assert len([line for line in block("/fail-over").splitlines() if line.strip()]) <= 12


def test_the_second_example_runs(environment: SimulatedNode) -> None:
    """On a node whose directory stands for /litefs."""
    code = block("anyio.run(main)")
    settings = f'Settings({str(environment.litefs_dir)!r}, "app.db", api_url={environment.api_url!r})'
    assert 'Settings("/litefs", "app.db")' in code
    output = run(code.replace('Settings("/litefs", "app.db")', settings), {})
    assert "primary 1 0000000000000001/" in output
    assert "did not reach transaction 2 within 0.1 s" in output


def test_the_middleware_is_added_as_shown(environment: SimulatedNode) -> None:
    """A write on a replica is replayed, by FastAPI and by Flask."""
    environment.set_primary("node-b")
    module: dict[str, Any] = {"__name__": __name__}
    exec(compile(block("app.add_middleware"), "README.md", "exec", dont_inherit=True), module)
    with TestClient(module["app"]) as client:
        assert client.post("/").headers["fly-replay"] == "instance=node-b"
    exec(compile(block("app.wsgi_app ="), "README.md", "exec", dont_inherit=True), module)
    try:
        assert module["app"].test_client().post("/").headers["fly-replay"] == "instance=node-b"
    finally:
        for watcher in list(blocking._all):
            watcher.stop()


def test_the_example_for_threads_runs(environment: SimulatedNode, capsys: pytest.CaptureFixture[str]) -> None:
    """Its function waits, and its callback hears of the primary."""
    module: dict[str, Any] = {"__name__": __name__}
    exec(compile(block("def latest_orders"), "README.md", "exec", dont_inherit=True), module)
    try:
        environment.commit()
        assert module["latest_orders"](2) == (2, None)
        environment.set_primary("node-b")
        environment.heartbeat()  # until node-b is heard, nothing vouches for what is here
        module["watcher"].wait_for_role("replica", timeout=10)
        assert module["latest_orders"](1) == (2, "node-b")
    finally:
        module["watcher"].stop()
    assert "PrimaryChange(role=<Role.REPLICA" in capsys.readouterr().out


def test_django_is_configured_as_shown(environment: SimulatedNode) -> None:
    """With a project's own applications and middlewares in the place of the dots, nothing is to be complained about."""
    code = block("# settings.py").replace(", ...]", "]").replace("/litefs", str(environment.litefs_dir))
    code += f"""
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{environment.litefs_dir}/app.db"}}}}
import django
from django.conf import settings
from django.core.management import call_command
settings.configure(**{{name: value for name, value in globals().items() if name.isupper()}})
django.setup()
call_command("check", fail_level="WARNING")
call_command("litefs_status")
"""
    assert re.search("^role +primary$", run(code, {"LITEFS_API_URL": environment.api_url or ""}), re.MULTILINE)


def test_the_cluster_example_runs() -> None:
    """A row written on the primary is read on the replica."""
    assert run(block("SimulatedCluster(size=2, lag"), {}) == "(1,)\n"


def test_every_python_block_of_the_readme_is_run_here() -> None:
    """A new example needs a test of its own; those of the documents have theirs in tests/docs."""
    assert len(re.findall("```python", README + DOCS["watcher.md"] + DOCS["middleware.md"])) == 3 + 3 + 2


def test_the_settings_table_has_every_setting() -> None:
    """And no other."""
    table = DOCS["settings.md"]
    rows = {
        name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert rows == set(Settings.model_fields)


def test_the_two_commands_open_the_readme() -> None:
    """Word by word, before anything else that one could type."""
    commands = re.findall(r"```console\n(.*?)\n```", README, re.DOTALL)
    assert commands[:2] == [
        "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/litefs-watch demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
    ]


def test_importing_the_package_imports_nothing_optional() -> None:
    """Neither a framework nor the command's libraries nor the parts that watch: those come with the first watcher."""
    code = "import sys, litefs_watch; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    names = set(run(code, {}).split())
    assert not names & {"click", "rich", "pytest", "starlette", "fastapi", "django", "flask", "trio", "watchfiles", "h11"}


def test_the_core_has_four_dependencies() -> None:
    """All else is an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=~ ]", name)[0] for name in project["dependencies"]} == {"anyio", "watchfiles", "pydantic", "h11"}


def test_the_table_of_litefs_js_calls_is_whole() -> None:
    """Every call of `litefs_watch.litefs_js` stands in it, and nothing that does not exist."""
    from litefs_watch import litefs_js

    table = DOCS["howto/litefs-js.md"]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(?:litefs_js\.)?(\w+)\(", row)}
    assert named == {name for name in litefs_js.__all__ if name[0].islower()}
