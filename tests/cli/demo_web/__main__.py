"""``python -m tests.cli.demo_web docs/demo.png``: the demo's picture, as Chromium shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.demo_web.browser import opened

SIZE = {"width": 1080, "height": 1090}


def main(path: Path) -> None:
    command = [sys.executable, "-m", "litefs_watch", "demo", "--web", "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with opened(process.stdout.readline().split()[4], viewport=SIZE, color_scheme="light") as page:
                page.get_by_label("Visitors write twice a second").check()
                page.locator("#node-syd .txid", has_text="2 behind").wait_for()
                page.locator("button.main").click()
                page.locator("#with.good").wait_for()
                page.screenshot(path=path)
        finally:
            process.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
