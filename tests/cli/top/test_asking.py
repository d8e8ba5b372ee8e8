"""What ``litefs-watch top`` asks beside its watcher: the application, and doctor."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litefs_watch import Cluster, Settings, Watcher
from litefs_watch.asgi import status_routes
from litefs_watch.cli.top import asking
from litefs_watch.cli.top.asking import Application, Examined, ask_application, check_app, examine_node, understand
from litefs_watch.cli.top.command import Top
from litefs_watch.cli.top.history import History
from litefs_watch.cli.top.screen import Page, lines
from litefs_watch.operate.doctor.facts import Facts
from litefs_watch.operate.doctor.findings import Finding, Severity
from litefs_watch.operate.doctor.gathering import still_looking
from litefs_watch.sources.thread import lend
from litefs_watch.testing import SimulatedNode
from tests.asgi.serving import serve
from tests.cli.top.test_top import NOW, status
from tests.contract.real import until

URL = "http://localhost:8080/litefs"
FOUND = tuple(Finding(f"code-{number}", Severity.WARNING, "It was seen.", "Mend it.") for number in range(5))


async def test_the_application_says_who_waits_there() -> None:
    """And for how long; by the routes for load balancers."""
    with SimulatedNode() as node:
        async with Watcher(node.settings()) as watcher:
            with serve(status_routes(watcher), lifespan="off") as url:
                idle = await ask_application(url)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watcher.wait_for_tx, 99)
                    await anyio.wait_all_tasks_blocked()
                    busy = await ask_application(url)
                    tasks.cancel_scope.cancel()
            gone = await ask_application(url)
    assert (idle.fault, idle.waiters, idle.oldest) == (None, 0, None)
    assert (busy.waiters, busy.process) == (1, idle.process)
    assert busy.oldest is not None
    assert busy.oldest >= 0
    assert (gone.process, gone.fault) == (None, "no connection to it: Connection refused")


def answered(**record: Any) -> Application:
    return understand(URL, 503, json.dumps({"ok": False, "reason": None, **record}).encode())


def test_what_it_may_answer() -> None:
    """A watcher that does not run has no waiters; an older version tells none; anything else is said to be no such thing."""
    waits = {"process": 7, "waiters": 3, "oldestWait": 0.25}
    assert answered(**waits).text == "3 wait, the oldest for 0.250 s"
    assert answered(**waits, reason="the lag is 11 s\x1b").fault == "the lag is 11 s\\x1b"
    assert answered(reason="the watcher was stopped").fault == "the watcher was stopped"
    assert "older litefs_watch" in str(answered().fault)
    for wrong in (understand(URL, 404, b"{}"), understand(URL, 200, b"<html>"), understand(URL, 200, b"[1]")):
        assert "is no status_routes of litefs_watch" in str(wrong.fault)


@given(
    record=st.dictionaries(
        st.sampled_from(["ok", "reason", "process", "waiters", "oldestWait"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.just(10**400)
        | st.floats()
        | st.text(max_size=9)
        | st.lists(st.none(), max_size=1),
    )
)
def test_whatever_it_answers_is_shown(record: dict[str, object]) -> None:
    """Plain text of what was understood, and no exception."""
    history = History(application=understand(URL, 200, json.dumps(record).encode()))
    history.sample(0.0, status(), Cluster())
    assert any(line.plain.startswith("application  http") for line in lines(history, Page(80, 24, NOW)))


@pytest.mark.parametrize(
    "value", ["https://x/litefs", "localhost:8080", "http://", "http://x:0", "http://x/?a=b", "http://x/ y"]
)
def test_an_address_that_can_not_be(value: str) -> None:
    """Is said to be none."""
    context, parameter = click.Context(click.Command("top")), click.Option(["--app"])
    assert check_app(context, parameter, f"{URL}/") == URL
    with pytest.raises(click.BadParameter, match="is no address like http://localhost:8080/litefs"):
        check_app(context, parameter, value)


async def test_a_doctor_that_stumbles_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown that it could not look."""

    async def gather(*_: object) -> None:
        raise OSError("no\x1bspace")

    monkeypatch.setattr(asking, "gather", gather)
    found = await examine_node(Settings(standalone=True))
    assert (found.fault, found.findings) == ("OSError: no\\x1bspace", ())


async def test_a_look_that_hangs_is_not_made_again() -> None:
    """Each would leave one more thread behind, for as long as LiteFS is frozen."""
    before, began, end = Examined(NOW), threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        end.wait()

    lend("litefs_watch doctor", hang)
    try:
        assert await anyio.to_thread.run_sync(began.wait, 20)
        assert await examine_node(Settings(standalone=True), before) is before
    finally:
        end.set()
    await anyio.to_thread.run_sync(until, lambda: not still_looking(), "the look has ended")
    after = await examine_node(Settings(standalone=True), before)
    assert [finding.code for finding in after.findings] == ["standalone"]


def shown(width: int = 80, height: int = 24, **known: Any) -> list[str]:
    history = History(**known)
    for at in range(3):
        history.sample(float(at), status(), Cluster())
    return [line.plain for line in lines(history, Page(width, height, NOW))]


def test_what_was_found_is_shown() -> None:
    """The worst as far as there is room; when it was, and where there is more. Nothing of it where nobody asked."""
    text = shown(examined=Examined(NOW, FOUND), height=16)
    assert "doctor  (1 more)  at 03:04:05Z; litefs-watch doctor tells what to do" in text
    assert "  warning  code-3  It was seen." in text
    assert "  nothing wrong" in shown(examined=Examined(NOW))
    assert "  it could not look: it stumbled" in shown(examined=Examined(NOW, fault="it stumbled"))
    assert not [line for line in shown() if line.startswith(("doctor", "application"))]


def test_who_waits_is_shown() -> None:
    """With its past; or why nothing is known of it, or why it is not ready."""
    text = shown(application=Application(URL, None, 4242, 3, 0.4126))
    assert f"application  {URL}" in text
    (line,) = (line for line in text if line.startswith("  process"))
    assert (line.rstrip(), line[-3:]) == (line, "███")
    assert line.startswith("  process 4242     3 wait, the oldest for 0.413 s ")
    assert "  refused" in shown(application=Application(URL, "refused"))
    assert any("not ready: lags" in line for line in shown(application=Application(URL, "lags", 1, 0)))


async def test_once_asks_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before it shows anything; as JSON, too, and in a pipe's lines."""

    async def gather(settings: Settings, patience: float) -> Facts:
        return Facts(Path(), None, patience, standalone=True)

    monkeypatch.setattr(asking, "gather", gather)
    with SimulatedNode() as node:
        async with Watcher(node.settings()) as watcher:
            top = Top(watcher, 1.0, "http://127.0.0.1:1", 30.0)
            for as_json in (False, True):
                assert await top.once(as_json=as_json) == 0
            line = top._line()
    text, record = capsys.readouterr().out.rsplit("\n{", 1)
    assert "no connection to it: Connection refused" in text
    assert "standalone" in text
    told = json.loads("{" + record)
    assert told["application"] == {"url": "http://127.0.0.1:1", "reason": "no connection to it: Connection refused"}
    assert [finding["code"] for finding in told["doctor"]["findings"]] == ["standalone"]
    assert datetime.fromisoformat(told["doctor"]["time"]) <= datetime.now(UTC)
    assert "   application: no connection to it: Connection refused   doctor: standalone" in line
