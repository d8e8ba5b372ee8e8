"""The documents as a whole: links that lead somewhere, public names that stand somewhere, a site that has each page."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(DOCS / page for page in PAGES)]
PUBLIC = (
    "",
    ".asgi",
    ".wsgi",
    ".django",
    ".refusals",
    ".prometheus",
    ".opentelemetry",
    ".jobs",
    ".halt",
    ".litefs_js",
    ".testing",
)


def anchors(text: str) -> set[str]:
    """The headings of a page, as they are linked to."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """To a file that is there, and to a heading in it."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target
        if path.is_relative_to(DOCS):
            assert there.is_relative_to(DOCS), f"{target} is not in the site"


@pytest.mark.parametrize("module", PUBLIC)
def test_each_public_name_stands_in_the_reference(module: str) -> None:
    """And the reference names nothing that is not there."""
    public = importlib.import_module(f"litefs_watch{module}")
    named = re.findall(r"^::: ([\w.]+)$", PAGES["reference.md"], re.MULTILINE)
    words = {name.rpartition(".")[2] for name in named} | set(re.findall(r"`(\w+)`", PAGES["reference.md"]))
    assert set(public.__all__) - words == set()
    for name in named:
        if name.rpartition(".")[0] == f"litefs_watch{module}":
            assert hasattr(public, name.rpartition(".")[2])


def test_the_site_has_each_page() -> None:
    """In its navigation, once."""
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = re.findall(r"'([\w/-]+\.md)'", str(site["nav"]))
    assert sorted(listed) == sorted(PAGES)


def test_the_readme_is_short() -> None:
    """It leads to the documents, and is not one of them."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_readme_leads_to_each_page() -> None:
    """But for those that the site begins with."""
    readme = (ROOT / "README.md").read_text()
    assert [page for page in PAGES if f"(docs/{page})" not in readme] == ["index.md", "start/index.md"]


def test_the_readme_names_the_extras() -> None:
    """All that a user may want."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    for extra in set(project["optional-dependencies"]) - {"test", "dev", "fuzz", "docs"}:
        assert f"[{extra}]" in readme


def test_what_troubleshooting_quotes_is_said() -> None:
    """Each message in its first column, by the package, word by word."""
    code = "".join(path.read_text() for path in sorted((ROOT / "litefs_watch").rglob("*.py")))
    rows = [line.split("|")[1] for line in PAGES["operate/troubleshooting.md"].splitlines() if line.startswith("| ")]
    quoted = [words for row in rows for words in re.findall(r"`([^`]* [^`]*[.?)])`", row)]
    assert len(quoted) >= 8
    assert [words for words in quoted if words not in code] == []
