"""Applications as they come from the registry, on nodes of a simulated cluster: behind our middleware, and as they are.

Each is looked for in a virtual environment of its own, since they disagree about versions: in the directory that
``APPLICATIONS`` names, under the package's name; without that, where the tests run. How they are put behind it is what
docs/howto/applications.md says.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from litefs_watch.testing import SimulatedNode
from tests.docs.pages import files

ROOT = Path(__file__).parents[2]
SOON = 60.0
"""Seconds that an application may take to start, or to answer, on a machine that is busy."""


def python_with(package: str) -> str | None:
    """An interpreter that has the package; None where there is none."""
    if (directory := os.environ.get("APPLICATIONS")) is not None:
        python = Path(directory) / package / "bin/python"
        return str(python) if python.exists() else None
    return sys.executable if importlib.util.find_spec(package) is not None else None


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    text: str


@dataclass
class Visitor:
    """A browser behind Fly's edge: it keeps cookies, and is sent on to where ``fly-replay`` says."""

    ports: Mapping[str, int]
    cookies: dict[str, str] = field(default_factory=dict)
    replays: int = 0

    def ask(self, hostname: str, method: str, path: str, body: str = "", kind: str = "", source: str = "") -> Reply:
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}
        headers |= {"content-type": kind} if kind else {}
        headers |= {"fly-replay-src": source} if source else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[hostname], timeout=SOON)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read().decode())
        finally:
            connection.close()
        for header in reply.headers.get_all("set-cookie", []):
            if (match := re.match("([^=;]+)=([^;]*)", header)) is not None:
                self.cookies[match[1]] = match[2]
        to, state, given = reply.headers.get("fly-replay", "").removeprefix("instance=").partition(";state=")
        if not to:
            return reply
        self.replays += 1
        return self.ask(to, method, path, body, kind, f"instance={hostname};region=ams;t=1{state}{given}")

    def post_json(self, hostname: str, path: str, **fields: object) -> Reply:
        return self.ask(hostname, "POST", path, json.dumps(fields), "application/json")

    def post_form(self, hostname: str, path: str, **fields: object) -> Reply:
        return self.ask(hostname, "POST", path, urlencode(fields), "application/x-www-form-urlencoded")


class Application:
    """What the rounds need to know of one. Its working directory is ``directory``."""

    package: str
    ready: str
    """A path that answers 200 once it has started."""
    log: str
    """The query for the ids of all writes, in their order."""

    def __init__(self, python: str, directory: Path) -> None:
        self.python = python
        self.directory = directory
        for name, code in files("howto/applications.md").items():
            (directory / name).write_text(code)

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Make the database, on the primary."""
        raise NotImplementedError

    def command(self, port: int, mount: str, *, bare: bool) -> Sequence[str]:
        """The module that serves it, and its arguments. ``bare``: without the middleware."""
        raise NotImplementedError

    def enter(self, visitor: Visitor, hostname: str) -> None:
        """What a visitor does first."""

    def write(self, visitor: Visitor, hostname: str, name: str) -> Reply:
        """Write an id."""
        raise NotImplementedError

    def read(self, visitor: Visitor, hostname: str) -> list[str]:
        """The newest ids, or the newest. Raises `AssertionError` for a wrong answer."""
        raise NotImplementedError

    def run(self, environment: Mapping[str, str], *words: str) -> None:
        """A command of the application's own, as a module."""
        command = [self.python, "-m", *words]
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def environment(self, node: SimulatedNode) -> dict[str, str]:
        return os.environ | {
            "LITEFS_DIR": str(node.litefs_dir),
            "LITEFS_API_URL": node.api_url or "none",
            "FLY_MACHINE_ID": node.hostname,
            "DATABASE_FILENAME": "app.db",
            "PYTHONPATH": os.pathsep.join((str(self.directory), str(ROOT))),
            "HOME": str(self.directory),
        }

    @contextmanager
    def served(self, node: SimulatedNode, *, bare: bool = False) -> Iterator[int]:
        """On a port that is returned, in a process of its own, once it has started."""
        with socket.socket() as free, tempfile.TemporaryFile("w+") as log:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
            free.close()
            command = [self.python, "-m", *self.command(port, str(node.litefs_dir), bare=bare)]
            process = subprocess.Popen(
                command, cwd=self.directory, env=self.environment(node), stdout=log, stderr=subprocess.STDOUT
            )
            try:
                self._wait(process, port)
                yield port
            except BaseException:
                log.seek(0)
                sys.stderr.write(log.read()[-20_000:])
                raise
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _wait(self, process: subprocess.Popen[bytes], port: int) -> None:
        until, visitor = time.monotonic() + SOON, Visitor({"": port})
        while time.monotonic() < until and process.poll() is None:
            try:
                if visitor.ask("", "GET", self.ready).status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError(f"{self.package} did not start")


class Datasette(Application):
    package = "datasette"
    ready = "/-/versions.json"
    log = "SELECT name FROM notes ORDER BY id"

    def prepare(self, environment: Mapping[str, str]) -> None:
        (self.directory / "plugins").mkdir()
        (self.directory / "litefs.py").rename(self.directory / "plugins/litefs.py")
        add = {"sql": "INSERT INTO notes (name) VALUES (:name)", "write": True}
        self._metadata.write_text(json.dumps({"databases": {"app": {"queries": {"add": add}}}}))
        with closing(sqlite3.connect(f"{environment['LITEFS_DIR']}/app.db")) as connection:
            connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, name)")

    @property
    def _metadata(self) -> Path:
        return self.directory / "metadata.json"

    def command(self, port: int, mount: str, *, bare: bool) -> Sequence[str]:
        command = ["datasette", f"{mount}/app.db", "--port", str(port), "--metadata", str(self._metadata)]
        return [*command, "--setting", "default_cache_ttl", "0", *([] if bare else ["--plugins-dir", "plugins"])]

    def environment(self, node: SimulatedNode) -> dict[str, str]:
        return super().environment(node) | {"DATASETTE_SECRET": "of no consequence"}

    def enter(self, visitor: Visitor, hostname: str) -> None:
        """The form, with its token."""
        assert visitor.ask(hostname, "GET", "/app/add").status == 200

    def write(self, visitor: Visitor, hostname: str, name: str) -> Reply:
        token = visitor.cookies["ds_csrftoken"]
        return visitor.post_form(hostname, "/app/add", name=name, csrftoken=token, _json=1)

    def read(self, visitor: Visitor, hostname: str) -> list[str]:
        reply = visitor.ask(hostname, "GET", "/app/notes.json?_shape=array&_sort_desc=id&_size=5")
        assert reply.status == 200, reply.text
        return [row["name"] for row in json.loads(reply.text)]


class MLflow(Application):
    package = "mlflow"
    ready = "/health"
    log = "SELECT name FROM runs ORDER BY start_time"

    def environment(self, node: SimulatedNode) -> dict[str, str]:
        return super().environment(node) | {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{node.litefs_dir}/app.db",
            "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # what the simulator opens on a replica stays read-only
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def prepare(self, environment: Mapping[str, str]) -> None:
        self.run(environment, "mlflow", "db", "upgrade", environment["_MLFLOW_SERVER_FILE_STORE"])

    def command(self, port: int, mount: str, *, bare: bool) -> Sequence[str]:
        application = "mlflow.server.fastapi_app:app" if bare else "behind:app"
        return ["uvicorn", "--log-level", "warning", "--port", str(port), application]

    def write(self, visitor: Visitor, hostname: str, name: str) -> Reply:
        now = time.time_ns() // 1_000_000
        return visitor.post_json(
            hostname, "/ajax-api/2.0/mlflow/runs/create", experiment_id="0", run_name=name, start_time=now
        )

    def read(self, visitor: Visitor, hostname: str) -> list[str]:
        """As the pages do, and, behind the middleware, as MLflow's own client does, which keeps no cookies."""
        seen = self._search(visitor, hostname, "/ajax-api")
        if hostname:
            assert self._search(Visitor(visitor.ports), hostname, "/api") == seen
        return seen

    def _search(self, visitor: Visitor, hostname: str, at: str) -> list[str]:
        reply = visitor.post_json(
            hostname,
            f"{at}/2.0/mlflow/runs/search",
            experiment_ids=["0"],
            max_results=5,
            order_by=["attributes.start_time DESC"],
        )
        assert reply.status == 200, reply.text
        return [run["info"]["run_name"] for run in json.loads(reply.text).get("runs", [])]


class Wagtail(Application):
    package = "wagtail"
    ready = "/"
    log = "SELECT json_extract(content, '$.title') FROM wagtailcore_revision ORDER BY id"

    def environment(self, node: SimulatedNode) -> dict[str, str]:
        return super().environment(node) | {
            "DJANGO_SETTINGS_MODULE": "litefs_settings",
            "DJANGO_SUPERUSER_PASSWORD": "of no consequence",
        }

    def prepare(self, environment: Mapping[str, str]) -> None:
        without = {name: value for name, value in environment.items() if name != "DJANGO_SETTINGS_MODULE"}
        self.run(without, "wagtail.bin.wagtail", "start", "mysite", ".")
        (self.directory / "bare.py").write_text("from litefs_settings import *\nMIDDLEWARE = MIDDLEWARE[1:]\n")
        self.run(environment, "django", "migrate", "--verbosity", "0")
        self.run(environment, "django", "createsuperuser", "--noinput", "--username", "editor", "--email", "e@example.com")

    def command(self, port: int, mount: str, *, bare: bool) -> Sequence[str]:
        command = ["gunicorn", "-k", "gthread", "--threads", "8", "-b", f"127.0.0.1:{port}", "mysite.wsgi"]
        return [*command, "-e", "DJANGO_SETTINGS_MODULE=bare"] if bare else command

    def enter(self, visitor: Visitor, hostname: str) -> None:
        """The editor logs in."""
        assert visitor.ask(hostname, "GET", "/admin/login/").status == 200
        reply = visitor.post_form(
            hostname,
            "/admin/login/",
            username="editor",
            password="of no consequence",
            csrfmiddlewaretoken=visitor.cookies["csrftoken"],
        )
        assert reply.status == 302, reply.text

    def write(self, visitor: Visitor, hostname: str, name: str) -> Reply:
        """Publish the home page with another title."""
        fields = {
            "title": name,
            "slug": "home",
            "action-publish": "yes",
            "csrfmiddlewaretoken": visitor.cookies["csrftoken"],
        }
        for form in ("comments",):
            fields |= {f"{form}-TOTAL_FORMS": "0", f"{form}-INITIAL_FORMS": "0"}
        return visitor.post_form(hostname, "/admin/pages/3/edit/", **fields)

    def read(self, visitor: Visitor, hostname: str) -> list[str]:
        reply = visitor.ask(hostname, "GET", "/")
        assert reply.status == 200, reply.text
        title = re.search(r"<title>\s*(.*?)\s*</title>", reply.text, re.DOTALL)
        assert title is not None
        return [title[1]]
