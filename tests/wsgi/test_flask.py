"""Flask on a simulated cluster: read your own writes, replays, refused writes; and gunicorn, forked, over a real socket."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import flask
import pytest
from werkzeug.test import Client as WerkzeugClient
from werkzeug.test import TestResponse, create_environ, run_wsgi_app

from litefs_watch import BlockingWatcher, ConfigError, NotPrimary, Position, Role, Settings
from litefs_watch.consistency import mark_failed, mark_written
from litefs_watch.replay import Redirect
from litefs_watch.testing import SimulatedCluster, SimulatedNode
from litefs_watch.wsgi import LiteFSMiddleware, lost_transaction

SOON = 10.0


def Client(app: Any) -> WerkzeugClient:  # noqa: N802 - a client without a cookie jar: the tests carry cookies by hand
    return WerkzeugClient(app, use_cookies=False)


def make_app(connect: Any) -> flask.Flask:
    """An application with a table of notes; ``connect()`` opens its database."""
    app = flask.Flask(__name__)

    @app.post("/notes/<int:number>")
    def write(number: int) -> str:
        with connect() as database:
            database.execute("INSERT INTO notes VALUES (?)", (number,))
        return "written"

    @app.get("/notes/<int:number>")
    def read(number: int) -> dict[str, bool]:
        row = connect().execute("SELECT 1 FROM notes WHERE id = ?", (number,)).fetchone()
        return {"seen": row is not None}

    @app.get("/touch/<int:number>")
    def write_on_get(number: int) -> str:
        with connect() as database:
            database.execute("INSERT INTO notes VALUES (?)", (number,))
        mark_written(flask.request)
        return "written"

    @app.get("/broken")
    def broken() -> str:
        raise KeyError("a bug of the application")

    @app.post("/nothing")
    def nothing() -> str:
        return "nothing written"

    return app


class Cluster:
    """Three nodes, each with its application, and a client that keeps cookies and follows replays as Fly's edge does."""

    def __init__(self, lag: float, **options: Any) -> None:
        self.cluster = SimulatedCluster(size=3, lag=0.001)
        self.cluster.start()
        self.cluster.execute("CREATE TABLE notes (id INTEGER)")
        self.cluster.wait_until_replicated()
        self.cluster.lag = lag
        self.watchers = {node.hostname: BlockingWatcher(node.settings()) for node in self.cluster.nodes}
        self.bare = {name: make_app(lambda name=name: self.cluster.connect(name)) for name in self.watchers}
        options.setdefault("secure", False)
        self.apps = {
            name: Client(LiteFSMiddleware(app.wsgi_app, self.watchers[name], **options)) for name, app in self.bare.items()
        }
        self.replays = 0

    def close(self) -> None:
        for watcher in self.watchers.values():
            watcher.stop()
        self.cluster.stop()

    def ask(self, hostname: str, method: str, path: str, cookie: str | None = None, **headers: str) -> TestResponse:
        sent = {key.replace("_", "-"): value for key, value in headers.items()} | ({"cookie": cookie} if cookie else {})
        response = self.apps[hostname].open(path, method=method, headers=sent)
        if (to := response.headers.get("fly-replay")) and "fly-replay-src" not in sent:
            self.replays += 1
            to, state, given = to.removeprefix("instance=").partition(";state=")
            sent["fly-replay-src"] = f"instance={hostname};region=ams;t=1{state}{given}"
            response = self.apps[to].open(path, method=method, headers=sent)
        return response


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(lag=0.05)
    yield cluster
    cluster.close()


def cookie_of(response: TestResponse) -> str | None:
    match = re.match(r"(litefs_pos=[^;]+); ", response.headers.get("set-cookie", ""))
    return match[1] if match else None


def test_writes_are_each_read_on_a_random_replica() -> None:
    """And without the middleware they are not."""
    cluster = Cluster(lag=0.002)
    try:
        replicas = [node.hostname for node in cluster.cluster.replicas]
        missed = 0
        for number in range(300):
            written = cluster.ask(random.choice(replicas), "POST", f"/notes/{number}")
            assert (written.status_code, written.text) == (200, "written")
            where = random.choice(replicas)
            missed += b"true" not in cluster.bare[where].test_client().get(f"/notes/{number}").data
            assert cluster.ask(where, "GET", f"/notes/{number}", cookie_of(written)).json == {"seen": True}
        assert cluster.replays >= 300
        assert missed
    finally:
        cluster.close()


def test_a_write_on_a_replica_is_replayed_before_its_body_is_read(cluster: Cluster) -> None:
    """409, fly-replay, nothing else, and no cache keeps it."""
    environ = create_environ("/notes/1", method="POST") | {"wsgi.input": _Unreadable()}
    body, status, headers = run_wsgi_app(cluster.apps["node-b"].application, environ)
    assert (status, list(body)) == ("409 Conflict", [])
    assert headers["fly-replay"] == "instance=node-a"
    assert headers["cache-control"] == "no-store"


class _Unreadable:
    def read(self, *_: Any) -> bytes:
        raise AssertionError("the body was read")


def test_the_cookie_is_set_after_a_write_only(cluster: Cluster) -> None:
    """On the primary, with the position that has what the handler committed."""
    written = cluster.ask("node-a", "POST", "/notes/1")
    assert cookie_of(written) == f"litefs_pos={cluster.cluster.primary.position()}"
    assert written.headers["litefs-txid"] == str(cluster.cluster.primary.position())
    assert written.headers["cache-control"] == "private"
    assert "set-cookie" not in cluster.ask("node-a", "GET", "/notes/1").headers
    cluster.watchers["node-a"].wait_for_tx(cluster.cluster.primary.position().txid, timeout=SOON)
    assert cookie_of(cluster.ask("node-a", "POST", "/nothing")) == "litefs_pos=pin"  # it may yet commit
    assert cookie_of(cluster.ask("node-a", "GET", "/touch/2"))


@pytest.mark.parametrize(
    ("name", "pin"), [("txnum", "txnum=18446744073709551615"), ("__txid", None)], ids=["litefs-js", "the proxy"]
)
def test_the_cookies_of_others(name: str, pin: str | None) -> None:
    """A TXID alone, as they write it, while the header is the whole position. The proxy's knows of no pin."""
    cluster = Cluster(lag=0.01, cookie=name)
    try:
        written = cluster.ask("node-a", "POST", "/notes/1")
        position = cluster.cluster.primary.position()
        text = f"{position.txid:016x}" if name == "__txid" else str(position.txid)
        assert written.headers["set-cookie"].startswith(f"{name}={text}; ")
        assert written.headers["litefs-txid"] == str(position)
        cluster.watchers["node-a"].wait_for_tx(position.txid, timeout=SOON)
        assert cluster.ask("node-b", "GET", "/notes/1", f"{name}={text}").json == {"seen": True}
        nothing = cluster.ask("node-a", "POST", "/nothing").headers
        assert nothing.get("set-cookie", "").partition("; ")[0] == (pin or "")
    finally:
        cluster.close()


def test_a_write_that_commits_after_its_response() -> None:
    """Pins its client: the next read goes to the primary without a wait, and is there told of the position."""
    cluster = Cluster(lag=0.01, timeout=1, max_ahead=2**64)
    try:
        cookie = cookie_of(cluster.ask("node-a", "POST", "/nothing"))
        assert cookie == "litefs_pos=pin"
        position = cluster.cluster.execute("INSERT INTO notes VALUES (1)")
        read = cluster.ask("node-b", "GET", "/notes/1", cookie)
        assert (read.json, cluster.replays) == ({"seen": True}, 1)
        assert cluster.watchers["node-b"].statistics().timeouts == 0
        assert cookie_of(read) == f"litefs_pos={position}"
        assert cluster.ask("node-b", "GET", "/notes/1", cookie_of(read)).json == {"seen": True}
        assert cluster.replays == 1
    finally:
        cluster.close()


def test_a_cookie_of_an_older_deployment() -> None:
    """Is read where there is none of ours, and waited for; ours comes in addition, at the next write."""
    cluster = Cluster(lag=0.2, accept=["txnum"], timeout=SOON)
    try:
        txid = cluster.cluster.execute("INSERT INTO notes VALUES (1)").txid
        read = cluster.ask("node-b", "GET", "/notes/1", f"txnum={txid}")
        assert (read.json, cluster.replays) == ({"seen": True}, 0)
        assert "set-cookie" not in read.headers
        assert cookie_of(cluster.ask("node-a", "POST", "/notes/2", f"txnum={txid}")) == (
            f"litefs_pos={cluster.cluster.primary.position()}"
        )
    finally:
        cluster.close()


@pytest.mark.parametrize("token", [Position(1, 7), Position(9, 7)], ids=["of another history", "ahead"])
def test_what_is_lost(token: Position) -> None:
    """Is told to the application before it answers, and to the client, whose token is replaced."""
    app = flask.Flask(__name__)

    @app.get("/")
    def tell() -> list[int | None]:
        return [lost_transaction(flask.request), flask.request.environ.get("litefs_watch.lost")]

    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher:
        at = node.position()
        watcher.wait_for_tx(at, timeout=SOON)
        client = Client(LiteFSMiddleware(app.wsgi_app, watcher, timeout=0.01))
        response = client.get("/", headers={"cookie": f"litefs_pos={token}"})
        assert response.json == [token.txid, token.txid]
        assert response.headers["litefs-lost"] == f"{token.txid:016x}"
        assert cookie_of(response) == f"litefs_pos={at}"
        assert watcher.statistics().lost == 1
        response = client.get("/", headers={"cookie": f"litefs_pos={at}"})
        assert response.json == [None, None]
        assert "litefs-lost" not in response.headers


def test_a_refused_write_is_replayed(cluster: Cluster) -> None:
    """A GET that writes, on a replica: SQLite's error becomes the replay; on the primary an error stays one."""
    response = cluster.apps["node-b"].get("/touch/3")
    assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
    assert cluster.ask("node-b", "GET", "/touch/4").text == "written"
    for name in ("node-a", "node-b"):
        assert cluster.apps[name].get("/broken").status_code == 500


def test_a_refused_write_that_reaches_the_middleware_is_replayed(cluster: Cluster) -> None:
    """Where the framework lets exceptions through."""
    cluster.bare["node-b"].config["PROPAGATE_EXCEPTIONS"] = True
    assert cluster.apps["node-b"].get("/touch/3").status_code == 409
    with pytest.raises(KeyError):
        cluster.apps["node-b"].get("/broken")


@pytest.mark.parametrize("kind", [Exception, sqlite3.OperationalError])
def test_an_error_handler_of_the_application_s_own(cluster: Cluster, kind: type[Exception]) -> None:
    """Flask tells nobody what it is given: it has to say so itself."""

    def tell(error: Exception) -> tuple[dict[str, str], int]:
        mark_failed(flask.request, error)
        return {"error": type(error).__name__}, 418

    for name in ("node-a", "node-b"):
        cluster.bare[name].register_error_handler(kind, tell)
    response = cluster.apps["node-b"].get("/touch/3")
    assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
    assert cluster.apps["node-a"].get("/touch/3").text == "written"
    if kind is Exception:
        assert cluster.apps["node-b"].get("/broken").json == {"error": "KeyError"}


def chunks_of(error: Exception | None, *, page: bool) -> tuple[Any, list[bool]]:
    """An application that is a generator: nothing of it runs before it is asked for the first chunk."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        try:
            if error is not None:
                raise error
        except Exception:
            if not page:
                raise
            start_response("500 Internal Server Error", [("content-type", "text/plain")])
            yield b"error page"
        else:
            start_response("200 OK", [("content-type", "text/plain")])
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    closed: list[bool] = []
    return app, closed


@pytest.mark.parametrize("page", [True, False])
def test_an_application_that_is_a_generator(cluster: Cluster, page: bool) -> None:
    """Also werkzeug's debugger, around Flask: refused writes become the replay, whatever it does with them."""
    refused = sqlite3.OperationalError("attempt to write a readonly database")
    for error in (refused, NotPrimary("node-a")):
        app, closed = chunks_of(error, page=page)
        response = Client(LiteFSMiddleware(validator(app), cluster.watchers["node-b"])).get("/")
        assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
        assert closed == [True]
    app, closed = chunks_of(None, page=page)
    response = Client(validator(LiteFSMiddleware(app, cluster.watchers["node-b"]))).get("/", buffered=True)
    assert (response.status_code, response.data, closed) == (200, b"onetwo", [True])
    app, closed = chunks_of(KeyError("a bug"), page=True)
    assert Client(LiteFSMiddleware(app, cluster.watchers["node-b"])).get("/").data == b"error page"


def test_a_watcher_that_is_stopped_meanwhile(cluster: Cluster) -> None:
    """Whoever waits is answered with 503."""
    watcher = cluster.watchers["node-b"]
    app = Client(LiteFSMiddleware(cluster.bare["node-b"].wsgi_app, watcher, timeout=SOON))
    watcher.wait_for_role(Role.REPLICA, timeout=SOON)
    inner = watcher._live().board
    add = inner._tx_waiters.add

    def add_and_stop(waiter: Any) -> None:
        add(waiter)
        threading.Thread(target=watcher.stop).start()

    inner._tx_waiters.add = add_and_stop  # type: ignore[method-assign]
    assert app.get("/notes/1", headers={"cookie": f"litefs_pos={Position(999, 1)}"}).status_code == 503
    assert app.post("/notes/1").status_code == 503


def test_a_path_cannot_write_lines_into_the_log(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """It is the client's."""
    cluster.apps["node-b"].post("/a%0aERROR%20root%20forged%1b[2J", headers={"fly-replay-src": "instance=node-a"})
    (said,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert said.startswith(r"503 for POST /a\nERROR root forged\x1b[2J: ")


@pytest.mark.parametrize(
    ("on_timeout", "status", "header"),
    [("replay", 409, "fly-replay"), ("error", 503, "retry-after"), ("stale", 200, "litefs-stale")],
)
def test_what_becomes_of_a_read_whose_transaction_does_not_come(on_timeout: str, status: int, header: str) -> None:
    """As chosen."""
    cluster = Cluster(lag=60, on_timeout=on_timeout, timeout=0.05)
    try:
        cookie = cookie_of(cluster.ask("node-a", "POST", "/notes/1"))
        response = cluster.apps["node-b"].get("/notes/1", headers={"cookie": cookie or ""})
        assert response.status_code == status
        assert header in response.headers
    finally:
        cluster.close()


def test_a_replayed_write_on_a_replica_is_sent_on_but_not_back(cluster: Cluster) -> None:
    """No loops: it is counted, or 503 at once."""
    response = cluster.apps["node-b"].post("/notes/1", headers={"fly-replay-src": "instance=node-a"})
    assert response.status_code == 503
    assert "fly-replay" not in response.headers
    response = cluster.apps["node-b"].post("/notes/1", headers={"fly-replay-src": "instance=node-c"})
    assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a;state=litefs.2.0")


def test_a_write_is_held_while_no_primary_is_known() -> None:
    """And goes on where one is found."""
    with SimulatedNode() as node, BlockingWatcher(node.settings()) as watcher:
        node.lose_primary()
        watcher.wait_for_role(Role.UNKNOWN, timeout=SOON)
        app = Client(LiteFSMiddleware(make_app(None).wsgi_app, watcher, hold_writes=SOON))
        end = watcher.on_primary_change(lambda _: None)
        watcher._run.board._role_waiters.add = _and_then(watcher._run.board._role_waiters.add, node.become_primary)  # type: ignore[method-assign]
        assert app.post("/nothing").text == "nothing written"
        end()


def _and_then(function: Any, then: Any) -> Any:
    """Call ``then`` from another thread once ``function`` has been called: somebody waits now."""
    import threading

    def both(*arguments: Any) -> None:
        function(*arguments)
        threading.Thread(target=then).start()

    return both


def test_a_redirect_keeps_path_and_query() -> None:
    """Off Fly; 307 keeps method and body. Bytes that are no ASCII are percent-encoded."""
    with SimulatedNode(primary="node-z") as node, BlockingWatcher(node.settings()) as watcher:
        redirect = Redirect("https://{hostname}.example.com")
        app = Client(LiteFSMiddleware(make_app(None).wsgi_app, watcher, replay=redirect))
        response = app.post("/nötes/1?a=%20b&c")
        assert response.status_code == 307
        assert response.headers["location"] == "https://node-z.example.com/n%C3%B6tes/1?a=%20b&c"


def test_a_strategy_of_one_s_own() -> None:
    """A function of environ, start_response, hostname."""

    def send_on(environ: Any, start_response: Any, hostname: str) -> list[bytes]:
        start_response("202 Accepted", [])
        return [hostname.encode()]

    with SimulatedNode(primary="node-z") as node, BlockingWatcher(node.settings()) as watcher:
        assert Client(LiteFSMiddleware(make_app(None).wsgi_app, watcher, replay=send_on)).post("/nothing").text == "node-z"
        app = Client(LiteFSMiddleware(make_app(None).wsgi_app, watcher, replay=send_on))  # which carries no count
        assert app.post("/nothing", headers={"fly-replay-src": "instance=node-x"}).status_code == 503
        with pytest.raises(ConfigError, match="replay"):
            LiteFSMiddleware(make_app(None).wsgi_app, watcher, replay="node-z")  # type: ignore[arg-type]


def test_streams_are_untouched(cluster: Cluster) -> None:
    """The application's own iterable comes back, and is closed by the server."""
    body = iter([b"a", b"b"])

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return body

    wrapped = LiteFSMiddleware(app, cluster.watchers["node-a"])
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    assert wrapped(environ, lambda *_: lambda _: None) is body


def test_standalone_runs_everything() -> None:
    """Development without LiteFS: nobody is pinned."""
    with BlockingWatcher(Settings(standalone=True)) as watcher:
        response = Client(LiteFSMiddleware(make_app(None).wsgi_app, watcher)).post("/nothing")
        assert response.status_code == 200
        assert "set-cookie" not in response.headers


GUNICORN = """
import flask, os
from litefs_watch import BlockingWatcher
from litefs_watch.wsgi import LiteFSMiddleware

app = flask.Flask(__name__)
watcher = BlockingWatcher()

@app.get("/")
def index():
    return {"pid": os.getpid(), "txid": watcher.tx_number(), "role": watcher.role}

@app.post("/")
def write():
    return {"pid": os.getpid()}

app.wsgi_app = LiteFSMiddleware(app.wsgi_app, watcher)
assert watcher.role == "primary"            # started in the parent, with --preload: each worker starts its own
"""


def test_gunicorn_with_threads_and_preload(tmp_path: Path) -> None:
    """gthread workers, forked after the watcher was started, over a real socket."""
    (tmp_path / "application.py").write_text(GUNICORN)
    with SimulatedNode() as node, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.listen()
        environment = os.environ | {
            "LITEFS_DIR": str(node.litefs_dir),
            "DATABASE_FILENAME": "app.db",
            "LITEFS_API_URL": node.api_url,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-m", "gunicorn", "--preload", "-k", "gthread", "-w", "2", "--threads", "4"]
        process = subprocess.Popen(
            [*command, "-b", f"fd://{sock.fileno()}", "application:app"],
            cwd=tmp_path,
            env=environment,
            pass_fds=[sock.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            pids = set()
            for number in range(2, 40):
                position = node.commit()
                request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"cookie": f"litefs_pos={position}"})
                with urllib.request.urlopen(request, timeout=30) as response:
                    seen = flask.json.loads(response.read())
                assert seen["role"] == "primary"
                assert position.txid == number
                pids.add(seen["pid"])
            node.set_primary("node-b")
            write = urllib.request.Request(f"http://127.0.0.1:{port}/", method="POST")
            replays: set[str] = set()
            while replays != {"instance=node-b"}:  # each worker hears of it by itself
                try:
                    urllib.request.urlopen(write, timeout=30).close()
                except urllib.error.HTTPError as error:
                    replays.add(error.headers["fly-replay"])
                    error.close()
            assert process.pid not in pids
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors, errors


def test_sqlite_s_own_error_is_what_it_looks_for() -> None:
    """The simulator's replicas refuse with LiteFS's message."""
    with SimulatedCluster(size=2) as cluster:
        cluster.execute("CREATE TABLE notes (id INTEGER)")
        cluster.wait_until_replicated()
        with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
            cluster.connect("node-b").execute("INSERT INTO notes VALUES (1)")


def test_an_environ_that_the_application_changes(cluster: Cluster) -> None:
    """Django decodes its path: what is answered afterwards is not of that."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["PATH_INFO"] = "/\N{EURO SIGN}"
        raise NotPrimary("node-a")

    redirect = Redirect("https://{hostname}.example.com")
    wrapped = LiteFSMiddleware(app, cluster.watchers["node-b"], replay=redirect)
    environ = create_environ("/%E2%82%AC")
    del environ["RAW_URI"], environ["REQUEST_URI"]  # not every server has them
    _, _, headers = run_wsgi_app(wrapped, environ)
    assert headers["location"] == "https://node-a.example.com/%E2%82%AC"
