"""The floor: the raw driver inserts each item as a row of its own, durably, and reads nothing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from contestants import Target

TIMEOUT = 60.0
"""Seconds to wait for other writers; long, so that the floor never fails."""


class SqliteInserts:
    """One connection in write-ahead mode, one `BEGIN IMMEDIATE` for each item; SQLite's own waiting."""

    def __init__(self, target: Target) -> None:
        self.connection = sqlite3.connect(target.where, timeout=TIMEOUT, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(f"PRAGMA synchronous={target.synchronous}")
        self.connection.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, session TEXT, data TEXT)")

    def append(self, session: str, item: dict[str, Any]) -> None:
        data = json.dumps(item)
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO item (session, data) VALUES (?, ?)", (session, data))
        self.connection.execute("COMMIT")

    def kept(self, session: str) -> list[str]:
        found = self.connection.execute("SELECT data FROM item WHERE session = ?", (session,))
        return [json.loads(data)["id"] for (data,) in found]

    def close(self) -> None:
        self.connection.close()


class GatedSqliteInserts(SqliteInserts):
    """The same, where writers queue up at a lock of the kernel before they ask SQLite."""

    def __init__(self, target: Target) -> None:
        import fcntl

        super().__init__(target)
        self.gate = Path(f"{target.where}-lock").open("w")  # noqa: SIM115  (as long as the contestant)
        self.lock = fcntl.flock
        self.held, self.free = fcntl.LOCK_EX, fcntl.LOCK_UN

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.lock(self.gate, self.held)
        try:
            super().append(session, item)
        finally:
            self.lock(self.gate, self.free)

    def close(self) -> None:
        with closing(self.gate):
            super().close()


class PostgresInserts:
    """One connection; an insert and a commit for each item, as psycopg does it unless it is told otherwise."""

    autocommit = False

    def __init__(self, target: Target) -> None:
        import psycopg

        self.connection = psycopg.connect(target.where, autocommit=self.autocommit)
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS item (id bigserial PRIMARY KEY, session text NOT NULL, data text NOT NULL)"
        )
        self.connection.commit()

    def append(self, session: str, item: dict[str, Any]) -> None:
        self.connection.execute("INSERT INTO item (session, data) VALUES (%s, %s)", (session, json.dumps(item)))
        self.connection.commit()

    def kept(self, session: str) -> list[str]:
        found = self.connection.execute("SELECT data FROM item WHERE session = %s", (session,))
        return [json.loads(data)["id"] for (data,) in found]

    def close(self) -> None:
        self.connection.close()


class AutocommittedPostgresInserts(PostgresInserts):
    """The same with autocommit: one round trip for each item, where the other takes three."""

    autocommit = True
