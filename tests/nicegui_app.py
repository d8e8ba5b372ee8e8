"""A NiceGUI application on a node: a button whose every click is a row, and a label that says how many there are."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from fastapi import FastAPI
from nicegui import ui  # type: ignore[import-not-found, unused-ignore]

from litefs_watch import Settings, Watcher
from litefs_watch.asgi import Forward, LiteFSMiddleware

settings = Settings.from_env()
watcher = Watcher(settings)
inner = FastAPI(lifespan=watcher.lifespan)


def count(write: bool) -> str:
    with closing(sqlite3.connect(f"{settings.litefs_dir}/{settings.database}", timeout=5)) as connection, connection:
        if write:
            connection.execute("INSERT INTO clicks DEFAULT VALUES")
        return f"clicks={connection.execute('SELECT count(*) FROM clicks').fetchone()[0]};"


@ui.page("/")  # type: ignore[untyped-decorator, unused-ignore]
def page() -> None:
    label = ui.label(count(write=False))
    ui.button("click", on_click=lambda: label.set_text(count(write=True)))


ui.run_with(inner)
app = LiteFSMiddleware(inner, watcher, replay=Forward(os.environ["FORWARD_TO"]), primary_paths=["/*"])
