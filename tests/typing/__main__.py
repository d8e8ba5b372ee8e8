"""``python -m tests.typing``: pyright on the applications here, and no public name whose type others may infer differently.

mypy checks them with all else. Django has no types of its own: that its classes are unknown is no fault of ours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

_CAUSE = re.compile("missing type annotation|Ambiguous base class override")


def pyright(*arguments: str) -> subprocess.Popen[str]:
    """It looks for packages where the first ``python`` finds them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"PATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # nor does it ask for a newer one
    return subprocess.Popen(
        [sys.executable, "-m", "pyright", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def main() -> int:
    """The exit status."""
    running = pyright("--verifytypes", "litefs_watch", "--ignoreexternal", "--outputjson"), pyright()
    verified, checked = (process.communicate()[0] for process in running)
    found = json.loads(verified)["typeCompleteness"]
    known = found["exportedSymbolCounts"]["withKnownType"]
    ambiguous = [symbol for symbol in found["symbols"] if symbol["isTypeAmbiguous"]]
    for symbol in ambiguous:  # those whose own declaration says none; the others mention one of them
        if any(_CAUSE.search(each["message"]) for each in symbol["diagnostics"]):
            print(f"{symbol['name']}: say its type where it is first set")
    print(f"{known} public names have a type, {len(ambiguous)} an ambiguous one")
    print(checked)
    return running[1].returncode or int(bool(ambiguous) or not known)


if __name__ == "__main__":
    sys.exit(main())
