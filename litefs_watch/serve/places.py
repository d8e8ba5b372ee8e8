"""How many may wait, or follow, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from litefs_watch.serve.endpoints import Refusal

SOON = {"retry-after": "1"}
"""Seconds, for whoever is turned away."""


class Places:
    """``most`` of them. ``what`` are those that have one, in words."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self.taken: int = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Taken until the end. Raises `Refusal` (429) where there is none."""
        if self.taken >= self._most:
            raise Refusal(429, f"{self._most} {self._what} already: come back in a second", SOON)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
