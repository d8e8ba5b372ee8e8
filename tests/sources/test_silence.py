"""What silence is: no answer from LiteFS for long; and what it is not."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from litefs_watch import Settings
from litefs_watch.core.readings import DirectoryRead, Reading, Silence
from litefs_watch.sources import directory as directory_module
from litefs_watch.sources import supervisor as supervisor_module
from litefs_watch.sources.supervisor import Supervisor
from tests.sources.supervisors import SOON, Harness


async def test_a_long_look_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that answers is an answer, long before the look at all of them is done and reported."""
    for number in range(10):
        (tmp_path / f"{number}.db-pos").write_text(f"{5:016x}/{1 << 63:016x}\n")
    clock, listened = [0.0], threading.Event()
    for module in (supervisor_module, directory_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    harness = Harness(tmp_path, silence=60.0)

    async def sleep(_: float) -> None:
        listened.set()
        await anyio.sleep(0.001)

    opened = os.open

    def slowly(*arguments: Any) -> int:
        if str(arguments[0]).startswith(str(tmp_path)) and str(arguments[0]).endswith("-pos"):
            clock[0] += 40.0
            listened.clear()
            listened.wait(SOON)  # it sleeps again, or has heard a silence
        return opened(*arguments)

    def publish(reading: Reading) -> None:
        harness.publish(reading)
        if isinstance(reading, Silence):
            listened.set()

    harness.supervisor._publish = publish
    monkeypatch.setattr(supervisor_module, "sleep", sleep)
    monkeypatch.setattr(os, "open", slowly)
    async with harness.running():
        await harness.until(lambda: any(isinstance(each, DirectoryRead) for each in harness.readings))
    assert clock[0] > 5 * 60.0
    assert not any(isinstance(each, Silence) for each in harness.readings)


class OverError(Exception):
    """The test knows enough."""


async def silent_at(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, answers: list[float], blocked: tuple[float, float] = (99.0, 99.0)
) -> float | None:
    """When the listener says that LiteFS is silent, on a clock of the test's own that ends at 40 s; None: never.

    What is to be done while the event loop is ``blocked``, is done at the end of that.
    """
    now, supervisor = 0.0, harness.supervisor
    supervisor._answered_at = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        await anyio.lowlevel.checkpoint()
        now += seconds
        if blocked[0] < now < blocked[1]:
            now = blocked[1]
        supervisor._answered_at = max(at for at in [0.0, *answers] if at <= now)
        if now > 40.0:
            raise OverError

    def publish(reading: Reading) -> None:
        assert isinstance(reading, Silence)
        raise OverError(now)

    monkeypatch.setattr(supervisor, "_publish", publish)
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(supervisor_module, "sleep", sleep)
    with pytest.raises(OverError) as over, anyio.fail_after(SOON):
        await supervisor._listen_for_silence()
    return next(iter(over.value.args), None)


EACH_SECOND = [float(second) for second in range(1, 11)]


@pytest.mark.parametrize("begins", [0.001, 0.3, 0.999])
@pytest.mark.parametrize("lasts", [2.01, 2.5, 3.1, 6.0, 20.0])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_blocked_event_loop_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: float, lasts: float, in_thread: bool
) -> None:
    """Nobody was asked meanwhile, or nobody heard the answer; LiteFS is asked soon afterwards, and answers."""
    start, end = 10.0 + begins, 10.0 + begins + lasts
    meanwhile = [start + lasts / 2] if in_thread else []
    afterwards = [end + 0.3 + second for second in range(40)]
    answers = EACH_SECOND + meanwhile + afterwards
    assert await silent_at(Harness(tmp_path, silence=3.0), monkeypatch, answers, (start, end)) is None


async def test_a_silence_is_heard_to_the_millisecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long after the last answer as the setting says; later by a block of the loop, which counts a quarter at most."""
    harness = Harness(tmp_path, silence=3.0)
    assert await silent_at(harness, monkeypatch, EACH_SECOND) == pytest.approx(13.0, abs=0.002)
    for begins in (10.2, 11.0, 12.9):
        at = await silent_at(harness, monkeypatch, EACH_SECOND, (begins, begins + 5.0))
        assert at is not None
        assert 13.0 + 5.0 - 0.75 <= at <= 13.0 + 5.0 + 0.002


@pytest.mark.parametrize(
    ("silence", "idle_interval", "lease_ttl", "latest", "streaming"),
    [
        (1.0, 1.0, 10.0, 0.5, 0.5),
        (60.0, 60.0, 10.0, 30.0, 30.0),
        (3.0, 1.0, 10.0, 1.0, 1.5),
        (60.0, 1.0, 10.0, 1.0, 2.0),
        (60.0, 1.0, 5.0, 1.0, 1.25),
    ],
)
def test_a_quiet_node_is_asked_twice_before_it_is_silent(
    tmp_path: Path, silence: float, idle_interval: float, lease_ttl: float, latest: float, streaming: float
) -> None:
    """Also where `silence` is no longer than `idle_interval`: a look that begins as the silence ends would be late. With the
    stream as well, and a primary as often as its lease needs it."""
    supervisor = Supervisor(
        Settings(tmp_path, api_url=None, silence=silence, idle_interval=idle_interval, lease_ttl=lease_ttl),
        tmp_path,
        publish=lambda _: None,
        known=set,
        awaited=frozenset,
    )
    assert supervisor._reread._interval() == latest
    supervisor._stream.health.up("open")
    assert supervisor._reread._interval() == streaming
