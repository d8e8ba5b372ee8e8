"""What ``litefs.yml`` and ``fly.toml`` say. A file that can't be understood is a fact, too."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

from litefs_watch.operate.doctor.facts import Config

USUAL = (Path("litefs.yml"), Path("/etc/litefs.yml"))
"""Where LiteFS looks for its own."""
FLY = Path("fly.toml")
LARGEST = 1 << 20
"""Bytes."""
_VARIABLE = re.compile(r"\$\{[^}\n]*\}|\$[A-Za-z_]\w*")


def litefs_yml(path: Path | None) -> Config | None:
    """The file that is given, else the one that LiteFS would take; None where there is none."""
    found = path or next((each for each in USUAL if each.is_file()), None)
    if found is None:
        return None
    text = _read(found)
    if isinstance(text, Config):
        return text
    try:
        import yaml
    except ModuleNotFoundError:
        return Config(found, "it can't be read without PyYAML: pip install 'litefs-watch[cli]'")
    try:
        values = yaml.safe_load(_VARIABLE.sub("x", text))  # LiteFS puts the environment in before it reads the YAML
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML raises all of them: '!!bool x', '!!int ""', '!!timestamp x'
        return Config(found, f"no YAML: {' '.join(str(error).split())[:200]}")
    return Config(found, values=values) if isinstance(values, dict) else Config(found, "it has no sections")


def fly_toml(path: Path | None) -> Config | None:
    """The file that is given, else the one in this directory; None where there is none."""
    found = path or (FLY if FLY.is_file() else None)
    if found is None:
        return None
    text = _read(found)
    if isinstance(text, Config):
        return text
    try:
        return Config(found, values=tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        return Config(found, f"no TOML: {error}")


def _read(path: Path) -> str | Config:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open one may wait for its other end, or set something going
            return Config(path, "it is a pipe, a device or a directory, and no file")
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        return Config(path, error.strerror or str(error))
    if len(raw) > LARGEST:
        return Config(path, f"it is larger than {LARGEST:,} bytes")
    return raw.decode(errors="replace")
