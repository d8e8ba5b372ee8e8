"""A guest book on each node of a LiteFS cluster: read anywhere, write on the primary, see your own entry at once."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from html import escape
from string import Template
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Form, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from litefs_watch import Watcher
from litefs_watch.asgi import FlyReplay, Forward, LiteFSMiddleware

# Off Fly.io nobody heeds fly-replay: FORWARD_TO="http://{hostname}:8080" has each node send writes on by itself.
FORWARD_TO = os.environ.get("FORWARD_TO")

watcher = Watcher()  # from LITEFS_DIR and DATABASE_FILENAME
app = FastAPI(title="Guest book", lifespan=watcher.lifespan)
app.add_middleware(
    LiteFSMiddleware,
    watcher=watcher,
    passthrough_paths=["/healthz"],
    replay=Forward(FORWARD_TO) if FORWARD_TO else FlyReplay(),
    secure=os.environ.get("SECURE_COOKIES", "1") != "0",
)


def connect() -> sqlite3.Connection:
    return sqlite3.connect(f"{watcher.settings.litefs_dir}/{watcher.settings.database}")


async def look() -> dict[str, Any]:
    """Which node answers, and what it has. `async`: the watcher belongs to the event loop."""
    position = await watcher.read_position()
    txid = position.txid if position else 0
    return {"node": watcher.hostname, "role": watcher.role, "primary": watcher.primary, "txid": txid}


Node = Annotated[dict[str, Any], Depends(look)]

# SQLite blocks: these are `def`, so that they run in threads. The middleware waits before they start, and they connect after
# that: on a replica, a transaction that is open already would stop the replication that is waited for.


@app.get("/entries")
def entries(node: Node) -> dict[str, Any]:
    """The newest ones."""
    with closing(connect()) as database:
        rows = database.execute("SELECT name, text FROM entries ORDER BY id DESC LIMIT 50").fetchall()
    return node | {"entries": [{"name": name, "text": text} for name, text in rows]}


@app.get("/")
def page(node: Node) -> HTMLResponse:
    items = [f"<li><b>{escape(entry['name'])}</b> {escape(entry['text'])}</li>" for entry in entries(node)["entries"]]
    who = f"{node['node']}, {node['role']}, transaction {node['txid']}"
    return HTMLResponse(PAGE.substitute(items="".join(items), who=escape(who)))


@app.post("/entries")
def write(name: Annotated[str, Form(max_length=80)], text: Annotated[str, Form(max_length=500)]) -> RedirectResponse:
    """Runs on the primary only. The answer's cookie says which transaction the next page waits for, on whichever node."""
    with closing(connect()) as database, database:
        database.execute("INSERT INTO entries (name, text) VALUES (?, ?)", (name, text))
    return RedirectResponse("/", status_code=303)


@app.get("/changes")
async def changes() -> StreamingResponse:
    """Server-sent events: the TXID, the moment that it changes here."""

    async def events() -> AsyncIterator[str]:
        with watcher.changes() as subscription:
            yield ": subscribed\n\n"
            async for _ in subscription:
                yield f"data: {watcher.tx_number()}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@app.get("/healthz")
async def healthz(response: Response) -> dict[str, Any]:
    """200 where pages can be read: amid a fail-over, too, when nobody can write. 503 where LiteFS is down or frozen, or the
    first replication is not done."""
    position = None
    with anyio.move_on_after(1), suppress(OSError):
        position = await watcher.read_position()
    replicated = watcher.status.replicated
    if position is None or replicated is False:
        response.status_code = 503
    return {"role": watcher.role, "position": position and str(position), "replicated": replicated}


PAGE = Template("""<!doctype html>
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
<main>
  <ul>$items</ul>
  <footer>$who</footer>
</main>
<script>
  new EventSource("/changes").onmessage = async () => {
    const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html")
    document.querySelector("main").replaceWith(page.querySelector("main"))
  }
</script>
""")
