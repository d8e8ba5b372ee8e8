"""What is installed works, on a simulated cluster: waits, threads, the middleware, the files that belong to the package."""

import importlib
import sys
from importlib.metadata import metadata
from pathlib import Path

import anyio

import litefs_watch
from litefs_watch import BlockingWatcher, Watcher
from litefs_watch.asgi import Forward, LiteFSMiddleware
from litefs_watch.testing import SimulatedCluster


async def answer(app, method, headers=()):
    """Status and headers of a request."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "raw_path": b"/", "query_string": b"", "headers": list(headers)}
    await app(scope | {"asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "https", "root_path": ""}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def watch(cluster):
    async with Watcher(cluster.replicas[0].settings()) as watcher:
        position = await anyio.to_thread.run_sync(cluster.execute, "INSERT INTO t VALUES (1)")
        assert await watcher.wait_for_tx(position, timeout=10) == position
        status, headers = await answer(LiteFSMiddleware(application, watcher), "POST")
        assert (status, headers[b"fly-replay"]) == (409, b"instance=node-a")
        assert (await answer(LiteFSMiddleware(application, watcher, replay=Forward("http://{hostname}:1")), "GET"))[0] == 200


with SimulatedCluster(2, lag=0.001, fuse=False) as cluster:
    cluster.execute("CREATE TABLE t (x)")
    for backend in ("asyncio", "trio"):
        anyio.run(watch, cluster, backend=backend)
    with BlockingWatcher(cluster.replicas[0].settings()) as watcher:
        position = cluster.execute("INSERT INTO t VALUES (2)")
        assert watcher.wait_for_tx(position, timeout=10) == position

MODULES = {  # of each extra, what needs it
    "cli": "litefs_watch.cli.app",
    "demo": "litefs_watch.cli.demo_web.server",
    "serve": "litefs_watch.serve.server",
    "trio": "trio",
    "forward": "litefs_watch.asgi.websockets",
    "celery": "litefs_watch.jobs.celery",
    "dramatiq": "litefs_watch.jobs.dramatiq",
    "huey": "litefs_watch.jobs.huey",
    "taskiq": "litefs_watch.jobs.taskiq",
    "client": "litefs_watch.client",
    "fly": "dns.asyncresolver",
    "prometheus": "litefs_watch.prometheus",
    "opentelemetry": "litefs_watch.opentelemetry",
}
assert set(MODULES) == set(metadata("litefs-watch").get_all("Provides-Extra")) - {"test", "docs", "fuzz", "dev"}
for name in MODULES.values():
    importlib.import_module(name)

package = Path(litefs_watch.__file__).parent
assert package.is_relative_to(sys.prefix), package
assert (package / "py.typed").is_file()
assert (package / "cli" / "demo_web" / "page" / "demo.js").is_file()
assert metadata("litefs-watch")["License-Expression"] == "MIT"
print("litefs_watch", litefs_watch.__version__, "works in", sys.prefix)
