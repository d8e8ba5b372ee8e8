"""``python -m tests.fuzz TARGET --seconds N``: looks for bytes that break a target, led by the branches that are reached.

Needs the extra ``fuzz``. Ends with the first failure, or when the time is up. What was found stays in ``--out``: new inputs
that reach more, and ``crash-…``, the one that fails (``python -m tests.fuzz TARGET --replay FILE`` runs it alone).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["litefs_watch", "h11", "json", "tests.fuzz"]
):  # a pattern is one step, an oracle's branches lead
    from tests.fuzz.targets import CORPUS, TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, help="a folder; a new temporary one by default")
    parser.add_argument("--replay", type=Path, help="run this one input and nothing else")
    chosen = parser.parse_args()
    if chosen.replay is not None:
        TARGETS[chosen.target](chosen.replay.read_bytes())
        return
    out = chosen.out or Path(tempfile.mkdtemp(prefix=f"fuzz-{chosen.target}-"))
    out.mkdir(parents=True, exist_ok=True)
    words = f"-dict={Path(__file__).with_name('words.dict')}"
    limits = [f"-max_total_time={chosen.seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"]
    atheris.Setup(
        ["fuzz", words, *limits, f"-artifact_prefix={out}/", str(out), str(CORPUS / chosen.target)], TARGETS[chosen.target]
    )
    atheris.Fuzz()


main()
