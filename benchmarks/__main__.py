"""``python -m benchmarks NAME``; without a name, all of them but ``soak``, which takes ten minutes, and options."""

from __future__ import annotations

import importlib
import logging
import sys

NAMES = ("wake", "burst", "waiters", "blocking", "idle", "http", "imports", "attack", "jobs")


def main() -> int:
    if sys.argv[1:2] == ["soak"]:
        return int(importlib.import_module("benchmarks.soak").main(sys.argv[2:]))
    names = sys.argv[1:] or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        print(f"no such benchmark: {unknown[0]}; there are {', '.join(NAMES)}, and soak alone", file=sys.stderr)
        return 2
    logging.getLogger("litefs_watch").setLevel(logging.ERROR)  # some watch no directory, and say so; failures still show
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
