"""Chromium, where it and Playwright can be had, and the demo's page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATH = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)


@contextmanager
def opened(url: str, **context: Any) -> Iterator[Any]:
    """A page that shows ``url``; where it logged an error, or asked for something from elsewhere, that is raised at the
    end. ``context``: the viewport, the colour scheme and the like."""
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
        try:
            page = browser.new_context(**context).new_page()
            page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("request", lambda request: None if request.url.startswith((url, "data:")) else wrong.append(request.url))
            page.goto(url)
            page.locator("#node-syd .role").wait_for()
            yield page
        finally:
            browser.close()
    assert not wrong, wrong
