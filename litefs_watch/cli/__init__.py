"""The command ``litefs-watch``. Needs the extra ``cli``.

===================  =============================================================================================
`app`                the group, exit statuses, and errors as one line
`options`            the options that commands share, and what they may say
`process`            async commands as processes: signals, and a pipe whose reader has gone
`output`             JSON, and text that is safe for a terminal
the others           a command each, imported when it is used
===================  =============================================================================================

A new command is a file with a click command named ``command``, and its name in `app.COMMANDS`.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; ends the process with its exit status."""
    try:
        from litefs_watch.cli.app import run

        status = run()
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("click", "rich"):
            raise
        sys.exit(f"litefs-watch: the command needs {library}: pip install 'litefs-watch[cli]'")
    except KeyboardInterrupt:  # during the imports
        status = 130
    sys.exit(status)
