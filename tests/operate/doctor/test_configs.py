"""What litefs.yml and fly.toml say, and that nothing in them ends the doctor."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litefs_watch import Settings
from litefs_watch.operate.doctor import gathering
from litefs_watch.operate.doctor.configs import fly_toml, litefs_yml
from litefs_watch.operate.doctor.findings import CODES, examine
from litefs_watch.operate.doctor.gathering import gather
from litefs_watch.testing import SimulatedNode
from tests.operate.doctor.looking import PATIENCE, codes, facts

GOOD_YML = "fuse: {dir: /litefs}\nlease: {type: static, hostname: a, candidate: '${FLY_REGION == PRIMARY_REGION}'}\n"


@pytest.mark.parametrize(
    ("yml", "toml", "expected"),
    [
        (GOOD_YML, 'app = "x"\n[http_service]\nauto_stop_machines = "off"\n', []),
        ("lease:\n  type: static\n", "[http_service]\nauto_stop_machines = false\n", ["lease-hostname"]),
        ("lease:\n  type: consul\n  candidate: ${FLY_REGION == PRIMARY_REGION}\n", "", []),
        ('proxy:\n  addr: ":8080"\n', "[http_service]\nauto_stop_machines = true\n", ["auto-stop", "proxy"]),
        (GOOD_YML, '[[services]]\nauto_stop_machines = "suspend"\n', ["auto-stop"]),
        (GOOD_YML, "[http_service]\nforce_https = false\n", ["http"]),
        ("lease: [", "x = [", ["bad-config", "bad-config"]),
        ("- a list\n", "services = 3\nhttp_service = 4\n", ["bad-config"]),
        ("a: !!bool x\n", "", ["bad-config"]),
        ("a: !!int ''\n", "", ["bad-config"]),
        ("a: !!timestamp x\n", "", ["bad-config"]),
    ],
)
async def test_configurations(tmp_path: Path, yml: str, toml: str, expected: list[str]) -> None:
    """Also where the node is standalone, and nothing else is looked at."""
    (tmp_path / "litefs.yml").write_text(yml)
    (tmp_path / "fly.toml").write_text(toml)
    found = await codes(Settings(tmp_path, standalone=True))
    assert sorted(found) == sorted([*expected, "standalone"])


@pytest.mark.parametrize("kind", ["pipe", "device"])
async def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    """Nobody writes into the pipe: it is said, in a sentence, and all else is looked at."""
    path = tmp_path / "pipe" if kind == "pipe" else Path("/dev/full")
    if kind == "pipe":
        os.mkfifo(path)
    with SimulatedNode() as node:
        found = examine(await gather(node.settings(hostname="x", database="ap.db"), PATIENCE, config=path, fly=path))
    assert [finding.code for finding in found] == ["bad-config", "bad-config", "no-database"]
    assert found[0].seen == f"{path}: it is a pipe, a device or a directory, and no file."


async def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was given is said; the node is not passed over for that."""
    hangs = threading.Event()
    monkeypatch.setattr(gathering, "litefs_yml", lambda path: hangs.wait(30))
    try:
        found = examine(await gather(Settings(tmp_path / "nowhere", api_url=None), PATIENCE, fly=tmp_path / "fly.toml"))
    finally:
        hangs.set()
    assert [finding.code for finding in found] == ["bad-config", "no-directory"]
    assert "did not answer within" in found[0].seen


CONFIG = st.text("[]{}:=\"'\n- &*!|>${}x1", max_size=80).map(str.encode)
TAGS = st.sampled_from(
    ["bool", "int", "float", "timestamp", "binary", "set", "omap", "pairs", "merge", "null", "map", "python/none"]
)
TAGGED = st.builds("a: !!{} {}\n".format, TAGS, st.text("x_:0-'\"[]{}", max_size=6)).map(str.encode)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.one_of(st.binary(max_size=200), CONFIG, TAGGED))
def test_whatever_is_in_a_configuration(tmp_path: Path, raw: bytes) -> None:
    """It is a finding at worst."""
    path = tmp_path / "file"
    path.write_bytes(raw)
    for config in (litefs_yml(path), fly_toml(path)):
        assert config is not None
        assert all(finding.code in CODES for finding in examine(facts(litefs_yml=config, fly_toml=config)))
