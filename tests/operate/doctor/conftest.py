"""The commands, as in tests/cli."""

from tests.cli.conftest import node, run

__all__ = ["node", "run"]
