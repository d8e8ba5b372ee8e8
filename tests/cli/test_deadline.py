"""One limit for all that a command does."""

from __future__ import annotations

from typing import Any

import pytest

from litefs_watch import WaitTimeout
from litefs_watch.cli.deadline import Deadline


async def test_what_was_asked_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what was left of it when the start had taken its time; that is what is waited."""
    deadline = Deadline(5.0)
    monkeypatch.setattr(deadline, "_ends", 0.0)  # all of it is spent
    asked: list[Any] = []

    async def wait(txid: int, *, timeout: float) -> None:
        asked.append((txid, timeout))
        raise WaitTimeout(f"app.db did not reach transaction {txid} within {timeout:g} s: it is at 1")

    with pytest.raises(WaitTimeout, match=r"^app\.db did not reach transaction 9 within 5 s: it is at 1$"):
        await deadline.bound(wait, 9)
    assert asked == [(9, 0.0)]
