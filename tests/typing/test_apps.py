"""The applications whose types are checked are ones that can be made: their options are right, and their parts are there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from tests.django.configured import configure


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(__file__).parent.glob("*_app.py")))
def test_they_can_be_made(name: str) -> None:
    """By importing them."""
    configure()
    assert callable(import_module(f"tests.typing.{name}").app)
