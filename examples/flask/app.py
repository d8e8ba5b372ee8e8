"""A guest book on each node of a LiteFS cluster: read anywhere, write on the primary, see your own entry at once."""

import sqlite3
from contextlib import closing, suppress
from typing import Any

from flask import Flask, redirect, render_template_string, request
from werkzeug.wrappers import Response

from litefs_watch import BlockingWatcher
from litefs_watch.wsgi import LiteFSMiddleware

watcher = BlockingWatcher()  # from LITEFS_DIR and DATABASE_FILENAME; starts in each of gunicorn's workers
app = Flask(__name__)
app.wsgi_app = LiteFSMiddleware(app.wsgi_app, watcher, passthrough_paths=["/healthz"])  # type: ignore[method-assign]


def connect() -> sqlite3.Connection:
    return sqlite3.connect(f"{watcher.settings.litefs_dir}/{watcher.settings.database}")


def look() -> dict[str, Any]:
    """Which node answers, and what it has."""
    position = watcher.read_position()
    txid = position.txid if position else 0
    return {"node": watcher.hostname, "role": watcher.role, "primary": watcher.primary, "txid": txid}


# The middleware waits before these start, and they connect after that: on a replica, a transaction that is open already
# would stop the replication that is waited for.


@app.get("/entries")
def entries() -> dict[str, Any]:
    """The newest ones."""
    node = look()
    with closing(connect()) as database:
        rows = database.execute("SELECT name, text FROM entries ORDER BY id DESC LIMIT 50").fetchall()
    return node | {"entries": [{"name": name, "text": text} for name, text in rows]}


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, **entries())


@app.post("/entries")
def write() -> Response:
    """Runs on the primary only. The answer's cookie says which transaction the next page waits for, on whichever node."""
    entry = (request.form["name"][:80], request.form["text"][:500])
    with closing(connect()) as database, database:
        database.execute("INSERT INTO entries (name, text) VALUES (?, ?)", entry)
    return redirect("/", 303)


@app.get("/healthz")
def healthz() -> tuple[dict[str, Any], int]:
    """200 where pages can be read: amid a fail-over, too, when nobody can write. 503 where LiteFS is down, or the first
    replication is not done."""
    position = None
    with suppress(OSError):
        position = watcher.read_position()
    replicated = watcher.status.replicated
    ready = position is not None and replicated is not False
    return {"role": watcher.role, "position": position and str(position), "replicated": replicated}, 200 if ready else 503


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Guest book</title>
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 2rem auto; padding: 0 1rem }
  form { display: flex; gap: .5rem; flex-wrap: wrap }
  input { font: inherit; padding: .25rem .5rem; flex: 1 1 8rem }
  button { font: inherit; padding: .25rem 1rem }
  li { overflow-wrap: anywhere }
  footer { color: #666; border-top: 1px solid #ddd; margin-top: 2rem }
</style>
<h1>Guest book</h1>
<form method="post" action="/entries">
  <input name="name" placeholder="Your name" aria-label="Your name" maxlength="80" required>
  <input name="text" placeholder="A few words" aria-label="A few words" maxlength="500" required>
  <button>Write</button>
</form>
<ul>{% for entry in entries %}<li><b>{{ entry.name }}</b> {{ entry.text }}</li>{% endfor %}</ul>
<footer>{{ node }}, {{ role }}, transaction {{ txid }}</footer>
"""
