"""Makes the tables where they are missing. `litefs-watch run` has it run before the application, on the primary only."""

import os
import sqlite3
from contextlib import closing


def migrate(database: sqlite3.Connection) -> None:
    with database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL)"
        )


if __name__ == "__main__":
    with closing(sqlite3.connect(f"{os.environ['LITEFS_DIR']}/{os.environ['DATABASE_FILENAME']}")) as connection:
        migrate(connection)
