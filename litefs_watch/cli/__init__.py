"""The command ``litefs-watch``. Needs the extra ``cli``.

`app` is the group with the options that all share and the exit statuses; each command has a file of its own; `output` is
what may be shown to a terminal.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; ends the process with its exit status."""
    try:
        from litefs_watch.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"litefs-watch: the command needs {error.name}: pip install 'litefs-watch[cli]'")
    sys.exit(run())
