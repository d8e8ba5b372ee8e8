"""Each example's own litefs.yml on two real nodes, where LiteFS itself starts the application.

Nothing in the files is changed but directories, ports and hosts. What plays Consul's part is here. Needs root, FUSE and
LITEFS_BIN.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from examples.conftest import EXAMPLES, SOON, Deployed, ask_url, deployed, deployed_command
from tests.contract.consul import Consul
from tests.contract.real import free_port, reason_against_real, until

pytestmark = pytest.mark.litefs

NAMED = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']
"""Run a command on a machine of another name, as far as that command can tell. It is the same process."""


@pytest.fixture(autouse=True)
def real_nodes() -> None:
    if reason := reason_against_real():
        pytest.skip(reason)
    if shutil.which("unshare") is None or shutil.which("hostname") is None:
        pytest.skip("there is no unshare, or no hostname")


@dataclass
class Machines:
    """Where an example is deployed: a directory for each machine, the application's folder, one Consul."""

    folder: str
    app: str
    directory: Path
    consul: Consul

    def config(self, mount: Path, data: Path, api_port: int, port: int) -> str:
        """The example's litefs.yml, for this machine."""
        text = (EXAMPLES / self.folder / "litefs.yml").read_text()
        command = text.split('- cmd: "')[1].split('"\n')[0]
        changes = {
            '"/litefs"': f'"{mount}"',
            '"/var/lib/litefs"': f'"{data}"',
            command: deployed_command(self.folder, port),
            ":20202": f":{api_port}",
        }
        if self.folder == "compose":
            changes["http://consul:8500"] = self.consul.url
        else:
            changes[".vm.${FLY_APP_NAME}.internal"] = ""  # no such name resolves here
        for old, new in changes.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text + f'\nhttp:\n  addr: "127.0.0.1:{api_port}"\n'

    @contextmanager
    def start(self, hostname: str, port: int, **environment: str) -> Iterator[Deployed]:
        """A machine that has the name ``hostname``, until it is healthy."""
        here = self.directory / hostname
        mount, data, config, api_port = here / "litefs", here / "data", here / "litefs.yml", free_port()
        here.mkdir()
        config.write_text(self.config(mount, data, api_port, port))
        known = {
            "HOSTNAME": "127.0.0.1",  # in the URL where others find it
            "LITEFS_DIR": str(mount),
            "DATABASE_FILENAME": "app.db",
            "LITEFS_API_URL": f"http://127.0.0.1:{api_port}",
        }
        words = [*NAMED, hostname, os.environ["LITEFS_BIN"], "mount", "-config", str(config)]
        try:
            with deployed(words, EXAMPLES / self.app, known | environment, port, here / "log", patience=10) as machine:
                until(machine.is_up, f"{hostname} is healthy", SOON)
                yield machine
        finally:
            if f" {mount} " in Path("/proc/self/mountinfo").read_text():  # os.path.ismount says no where LiteFS was killed
                subprocess.run(["umount", "-l", str(mount)], check=True)
                pytest.fail(f"LiteFS left its mount behind: {(here / 'log').read_text()}")


def write_and_read(write_on: str, read_on: str, number: int) -> None:
    """A guest who writes on one node sees it on the other."""
    written = ask_url(f"{write_on}/entries", {"name": "A guest", "text": f"entry {number}."})
    assert written.status == 303, written
    cookie = written.headers["set-cookie"].split(";")[0]
    page = ask_url(read_on, headers={"cookie": cookie})
    assert page.status == 200, page
    assert f"entry {number}." in page.text


def role_of(machine: Deployed) -> str:
    return str(json.loads(ask_url(f"{machine.url}/healthz").text)["role"])


def check_logs(primary: Deployed, replica: Deployed, name: str) -> None:
    """The migration ran on the primary, and there only; nothing went wrong."""
    on_primary, on_replica = primary.log.read_text(), replica.log.read_text()
    assert "litefs-watch: running on the primary: python migrate.py\n" in on_primary
    assert f"litefs-watch: replica of {name}\n" in on_replica
    assert "migrate.py\n" not in on_replica
    for log in (on_primary, on_replica):
        assert "Traceback" not in log, log
        assert "litefs shut down complete" in log


@pytest.mark.parametrize("folder", ["fastapi", "flask"])
def test_on_two_machines_of_fly(folder: str, tmp_path: Path) -> None:
    """The one in PRIMARY_REGION is the primary, the other one never: a write there is for Fly.io's edge to replay."""
    with ExitStack() as stack:
        consul = stack.enter_context(Consul().running())
        machines = Machines(folder, folder, tmp_path, consul)
        fly = {"FLY_APP_NAME": "guest-book", "FLY_CONSUL_URL": consul.url, "PRIMARY_REGION": "ams"}
        primary = stack.enter_context(machines.start("machine-a", free_port(), FLY_REGION="ams", **fly))
        replica = stack.enter_context(machines.start("machine-b", free_port(), FLY_REGION="fra", **fly))
        assert json.loads(consul.keys["guest-book/primary"][0])["hostname"] == "machine-a"
        assert (role_of(primary), role_of(replica)) == ("primary", "replica")

        refused = ask_url(f"{replica.url}/entries", {"name": "A guest", "text": "Hello."})
        assert (refused.status, refused.headers["fly-replay"]) == (409, "instance=machine-a")
        for number in range(20):
            write_and_read(primary.url, replica.url, number)
        assert "machine-b, replica, transaction " in ask_url(replica.url).text

        assert (replica.stop(), primary.stop()) == (0, 0)
        check_logs(primary, replica, "machine-a")
        assert "node is a candidate, automatically promoting" in primary.log.read_text()
        assert "node is not a candidate" in replica.log.read_text()


def test_compose_on_two_machines(tmp_path: Path) -> None:
    """A replica sends writes on; when the primary stops, the other takes over with all that was written."""
    with ExitStack() as stack:
        machines = Machines("compose", "fastapi", tmp_path, stack.enter_context(Consul().running()))
        port = free_port()
        start = partial(machines.start, FORWARD_TO=f"http://{{hostname}}:{port}", SECURE_COOKIES="0")
        primary = stack.enter_context(start("127.0.0.1", port))  # a name that resolves here, as node-a does with Compose
        replica = stack.enter_context(start("node-b", free_port()))
        assert (role_of(primary), role_of(replica)) == ("primary", "replica")
        for number in range(20):
            write_and_read(replica.url, replica.url, number)

        assert primary.stop() == 0
        until(lambda: role_of(replica) == "primary", "the other takes over", SOON)
        write_and_read(replica.url, replica.url, 20)
        assert "entry 19." in ask_url(replica.url).text
        assert replica.stop() == 0
        check_logs(primary, replica, "127.0.0.1")
