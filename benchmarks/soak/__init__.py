"""``python -m benchmarks soak``: a long run under load and faults, and whether anything grows. See `command`.

The files, from the top: `command` (what is run), `machines` (the process that is measured, from outside), `serving` (the
same from inside: watchers, middlewares, the application) and `leaks`, `load` (clients, and the pace of the faults),
`recording` (samples), `flat` (whether they grow), `plot` (SVG).
"""

from benchmarks.soak.command import main

__all__ = ["main"]
