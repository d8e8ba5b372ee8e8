from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import dns.asyncresolver  # an import reads files: not while a test runs
import pytest

from litefs_watch import ConfigError
from litefs_watch import fly as fly_module
from litefs_watch.fly import get_all_instances, get_internal_instance_domain, resolve_txt


@pytest.fixture(autouse=True)
def off_fly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLY_APP_NAME", "FLY_REGION", "FLY_MACHINE_ID", "INTERNAL_PORT", "PORT"):
        monkeypatch.delenv(name, raising=False)


async def test_the_machines_and_their_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the TXT record of vms.APP.internal; entries that are none are left out."""
    asked = []

    async def resolve(name: str) -> Iterable[bytes]:
        asked.append(name)
        return [b"148e21 ams,9185a6 fra", b",\xff\xfe,3d8d9c syd, bad,a b c"]

    expected = {"148e21": "ams", "9185a6": "fra", "3d8d9c": "syd"}
    assert await get_all_instances("app", resolve=resolve) == expected
    monkeypatch.setenv("FLY_APP_NAME", "other")
    assert await get_all_instances(resolve=resolve) == expected
    assert asked == ["vms.app.internal", "vms.other.internal"]


async def test_chunks_are_joined_before_they_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TXT record is cut every 255 bytes, in the middle of an id, too: litefs-js makes two of it."""

    class Record:
        strings = (b"148e21 ams,91", b"85a6 fra")

    async def resolve(name: str, kind: str) -> list[Record]:
        assert (name, kind) == ("vms.app.internal", "TXT")
        return [Record()]

    monkeypatch.setattr(dns.asyncresolver, "resolve", resolve)
    assert await resolve_txt("vms.app.internal") == [b"148e21 ams,9185a6 fra"]
    assert await get_all_instances("app") == {"148e21": "ams", "9185a6": "fra"}


async def test_off_fly_this_machine_is_all() -> None:
    """Development."""
    assert await get_all_instances() == {os.uname().nodename: "local"}


async def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra ``fly``."""
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(ConfigError, match=r"litefs-watch\[fly\]"):
        await fly_module.resolve_txt("vms.app.internal")


def test_the_internal_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """INTERNAL_PORT, else PORT; localhost where there is no application's name."""
    with pytest.raises(ConfigError, match="INTERNAL_PORT"):
        get_internal_instance_domain("148e21")
    with pytest.raises(ConfigError, match="'x'"):
        get_internal_instance_domain("148e21", "x")
    monkeypatch.setenv("PORT", "8081")
    assert get_internal_instance_domain("148e21") == "http://localhost:8081"
    monkeypatch.setenv("INTERNAL_PORT", "8080")
    monkeypatch.setenv("FLY_APP_NAME", "app")
    assert get_internal_instance_domain("148e21") == "http://148e21.vm.app.internal:8080"
    assert get_internal_instance_domain("148e21", 9000, app_name="b") == "http://148e21.vm.b.internal:9000"
