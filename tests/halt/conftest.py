"""A mount to try the lock on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from litefs_watch.testing import SimulatedNode, fuse_available


@pytest.fixture
def mounted() -> Iterator[SimulatedNode]:
    """A mount that looks like LiteFS's. Locks on it are the kernel's own: exclusive, and nothing more."""
    if reason := fuse_available():
        pytest.skip(reason)
    with SimulatedNode(primary="node-z", fuse=True) as node:
        yield node
