"""The house stays one in which a stranger finds his way."""

from __future__ import annotations

from pathlib import Path

import litefs_watch

LIMIT = 350
"""Lines of a file: it is one idea."""


def test_no_file_of_the_package_is_too_long() -> None:
    """Whatever grows past the limit is two ideas, and becomes two files."""
    package = Path(litefs_watch.__file__).parent
    lengths = {path.relative_to(package): path.read_bytes().count(b"\n") for path in package.rglob("*.py")}
    assert Path("core/state.py") in lengths
    assert {path: length for path, length in lengths.items() if length > LIMIT} == {}
