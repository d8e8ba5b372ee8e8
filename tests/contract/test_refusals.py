"""What SQLite says on real LiteFS of a refused write, and over a connection from before; and what becomes of both."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.test import Client

from litefs_watch import BlockingWatcher, Role
from litefs_watch.refusals import watch_engine
from litefs_watch.web import notes
from litefs_watch.wsgi import LiteFSMiddleware
from tests.contract.real import RealPair, reason_against_real, until

pytestmark = [pytest.mark.litefs, pytest.mark.skipif(reason_against_real() is not None, reason=str(reason_against_real()))]
SOON = 15.0


def site(engine: sqlalchemy.Engine) -> Any:
    """It answers 500 for whatever the database says: ``/write`` within a transaction, ``/read``."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            with engine.begin() as connection:
                if environ["PATH_INFO"] == "/write":
                    connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))
                connection.execute(sqlalchemy.text("SELECT * FROM t")).all()
        except SQLAlchemyError as error:
            start_response("500 Internal Server Error", [])
            return [str(error).encode()]
        start_response("200 OK", [])
        return [b"done"]

    return app


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_refused_write_and_a_dead_connection(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One becomes the replay, in both modes; the other stays an error, once, and the pool connects anew. Not with a WAL,
    where a process that reads may die of SIGBUS with its LiteFS."""
    monkeypatch.setattr(notes, "dead_connections", notes.DeadConnections())  # said once by a process
    with RealPair(tmp_path) as pair:
        with closing(sqlite3.connect(pair.primary.litefs_dir / "app.db")) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
        pair.commit()
        until(lambda: pair.replica.position() == pair.primary.position(), "the replica follows")
        engine = watch_engine(sqlalchemy.create_engine(f"sqlite:///{pair.replica.litefs_dir}/app.db"))
        with BlockingWatcher(pair.replica.settings()) as watcher:
            watcher.wait_for_role(Role.REPLICA, timeout=SOON)
            client = Client(LiteFSMiddleware(site(engine), watcher))
            assert client.get("/read").text == "done"
            response = client.get("/write")
            assert (response.status_code, response.headers["fly-replay"]) == (409, "instance=node-a")
            assert client.get("/read").text == "done"
            if mode == "DELETE":
                pair.replica.stop()
                subprocess.run(["umount", "-l", str(pair.replica.litefs_dir)], check=True)  # busy: it is connected to
                pair.restart(pair.replica)
                watcher.wait_for_role(Role.REPLICA, timeout=SOON)
                until(lambda: (pair.replica.litefs_dir / "app.db").exists(), "the replica's database")
                response = client.get("/read")
                assert response.status_code == 500
                assert "disk I/O error" in response.text
                assert "fly-replay" not in response.headers
                assert [client.get("/read").text for _ in range(3)] == ["done"] * 3
                assert client.get("/write").status_code == 409
                assert len([message for message in caplog.messages if "LiteFS was started anew" in message]) == 1
            engine.dispose()
