"""``python -m benchmarks [--out DIRECTORY] NAME …``; without a name, all of them but ``soak``, which takes ten minutes.

Prints tables; with ``--out`` writes them as ``NAME.json``, and draws the times among them as ``NAME.svg``.
``python -m benchmarks docs DIRECTORY`` puts what lies there into the documents.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

from benchmarks import documents
from benchmarks.table import write

NAMES = ("wake", "burst", "waiters", "blocking", "idle", "http", "imports", "attack", "jobs", "leading", "peers")


def main() -> int:
    if sys.argv[1:2] == ["soak"]:
        return int(importlib.import_module("benchmarks.soak").main(sys.argv[2:]))
    if sys.argv[1:2] == ["docs"]:
        return documents.main(sys.argv[2:])
    arguments = sys.argv[1:]
    out = Path(arguments[1]) if arguments[:1] == ["--out"] and len(arguments) > 1 else None
    names = arguments[2:] if out else arguments
    names = names or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        print(f"no such benchmark: {unknown[0]}; there are {', '.join(NAMES)}, and soak alone", file=sys.stderr)
        return 2
    logging.getLogger("litefs_watch").setLevel(logging.ERROR)  # some watch no directory, and say so; failures still show
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()
        if out is not None:
            write(out, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
