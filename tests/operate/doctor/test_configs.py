"""What litefs.yml and fly.toml say, and that nothing in them ends the doctor."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litefs_watch import Settings
from litefs_watch.operate.doctor.configs import fly_toml, litefs_yml
from litefs_watch.operate.doctor.findings import CODES, examine
from tests.operate.doctor.looking import codes, facts

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
