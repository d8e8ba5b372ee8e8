"""The demo's page, in a real browser."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.demo_web.browser import PATH, opened

Start = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
Run = Callable[..., subprocess.CompletedProcess[str]]

in_a_browser = pytest.mark.skipif(
    PATH is None or importlib.util.find_spec("playwright") is None, reason="Chromium or Playwright is not here"
)


@pytest.fixture
def url(start: Start, tmp_path: Path) -> Iterator[str]:
    """Of a demo of its own, that a signal ends, and that leaves nothing behind."""
    with start(None, "demo", "--web", "--port", "0", "--no-open", env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process.stdout.readline().split()[4]
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


@in_a_browser
def test_it_shows_what_litefs_watch_does(url: str) -> None:
    """Side by side: stale without, fresh with. By keyboard alone. Transactions move. A loss is said. Dark, narrow."""
    with opened(url, viewport={"width": 360, "height": 800}, color_scheme="dark") as page:
        for _ in range(5):  # on a busy machine the browser may ask later than the replica lags
            page.locator("#text").focus()
            page.keyboard.press("Enter")
            page.locator("#with.good").wait_for()
            if "Stale" in page.locator("#without .verdict").inner_text():
                break
        assert page.locator("#without .verdict").inner_text() == "Stale: your note is missing"
        assert page.locator("#with .verdict").inner_text() == "Your note is there"
        assert "iad sent it on to ams" in page.locator("#wrote").inner_text()
        assert page.evaluate_handle("document.documentElement").evaluate("e => e.scrollWidth <= innerWidth")
        assert page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(20, 22, 26)"
        page.get_by_label("Visitors write twice a second").check()
        page.locator("#dots circle").first.wait_for(state="attached")
        page.get_by_label("Visitors write twice a second").uncheck()
        page.get_by_role("button", name="Lose a write").click()
        page.locator("#with .verdict", has_text="is lost").wait_for()
        assert page.locator("#without .verdict").inner_text() == "Stale: your note is missing"
        page.locator("#node-iad.primary").wait_for()
        page.locator("#node-ams.replica").wait_for()


@in_a_browser
def test_the_buttons_and_those_who_want_no_motion(url: str) -> None:
    """Each has a name of its own; the map says in words what it shows; without motion no dot moves."""
    with opened(url, reduced_motion="reduce") as page:
        page.get_by_role("button", name="Make primary: Sydney").click()
        page.locator("#node-syd.primary").wait_for()
        assert "Sydney: primary" in page.locator("#map").get_attribute("aria-label")
        page.get_by_role("button", name="Kill: Washington").click()
        page.get_by_role("button", name="Start: Washington").click()
        page.get_by_role("button", name="Kill: Washington").wait_for()
        slider = page.get_by_role("slider", name="Lag of Washington, in seconds")
        slider.focus()
        page.keyboard.press("End")
        page.locator("#node-iad output", has_text="5.00 s").wait_for()
        page.get_by_label("Visitors write twice a second").check()
        page.locator("#node-iad .txid", has_text="behind").wait_for()
        assert page.locator("#dots circle").count() == 0
        assert page.get_by_role("log").locator("li", has_text="visitors write").count() == 1


def test_a_port_that_is_taken(run: Run) -> None:
    """One line, and status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(None, "demo", "--web", "--no-open", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "in use" in done.stderr


def test_a_page_is_open_when_it_ends(start: Start) -> None:
    """An event stream that is open does not keep it alive."""
    with start(None, "demo", "--web", "--port", "0", "--no-open", "--json") as process:
        assert process.stdout is not None
        address: Any = process.stdout.readline().split("127.0.0.1:")[1].partition("/")[0]
        with socket.create_connection(("127.0.0.1", int(address)), 20) as page:
            page.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"event: state" in page.recv(65536) + page.recv(65536)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
