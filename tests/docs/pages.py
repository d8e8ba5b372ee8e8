"""The documents: their text, and their blocks of code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}


def blocks(page: str, language: str = "python") -> list[str]:
    """A page's blocks of code, in order."""
    return [str(code) for code in re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)]


def files(*pages: str) -> dict[str, str]:
    """The files that the pages have one make, by the name in their first line."""
    return {
        str(name[1]): code for page in pages for code in blocks(page) if (name := re.match(r"# (\w+\.py)", code)) is not None
    }


def execute(code: str, page: str) -> dict[str, Any]:
    """Run a block as a module of its own; what it then holds."""
    module = ModuleType(f"a block of {page}")
    sys.modules[module.__name__] = module  # where frameworks look types up
    exec(compile(code, page, "exec", dont_inherit=True), vars(module))
    return vars(module)
