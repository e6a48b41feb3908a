"""The floor: the raw driver writes each change as a row of its own, durably, and reads nothing that it need not."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from contestants import SMALL, Sessions, Steps, StoredAtOnce, Target, computed

TIMEOUT = 60.0
"""Seconds to wait for other writers; long, so that the floor never fails."""


class SqliteInserts(Sessions):
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


class PostgresInserts(Sessions):
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


class Rows(StoredAtOnce):
    """Tables as somebody would lay them out by hand for exactly this: a row for each item and each small key."""

    tables = (
        "CREATE TABLE IF NOT EXISTS item (id {serial} PRIMARY KEY, session text, name text, data text)",
        "CREATE INDEX IF NOT EXISTS item_name ON item (session, name)",
        "CREATE TABLE IF NOT EXISTS entry (session text, key text, data text, PRIMARY KEY (session, key))",
    )

    def __init__(self, target: Target) -> None:
        if target.database == "postgres":
            import psycopg

            self.connection: Any = psycopg.connect(target.where, autocommit=True)
            self.mark, serial = "%s", "bigserial"
        else:
            self.connection = sqlite3.connect(target.where, timeout=TIMEOUT, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute(f"PRAGMA synchronous={target.synchronous}")
            self.mark, serial = "?", "INTEGER"
        for table in self.tables:
            self.connection.execute(table.format(serial=serial))

    def append(self, session: str, item: dict[str, Any]) -> None:
        self._do("INSERT INTO item (session, name, data) VALUES (?, ?, ?)", session, item["id"], json.dumps(item))

    def set(self, session: str, key: str, value: Any) -> None:
        self._do("SELECT data FROM entry WHERE session = ? AND key = 'owner'", session).fetchone()
        self._do(
            "INSERT INTO entry VALUES (?, ?, ?) ON CONFLICT (session, key) DO UPDATE SET data = excluded.data",
            session,
            key,
            json.dumps(value),
        )

    def find(self, session: str, name: str) -> str:
        (data,) = self._do("SELECT data FROM item WHERE session = ? AND name = ?", session, name).fetchone()
        text: str = json.loads(data)["text"]
        return text

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        self.connection.execute("BEGIN")
        for item in items:
            self.append(session, item)
        for key, value in SMALL.items():
            self.set(session, key, value)
        self.connection.execute("COMMIT")

    def read(self, session: str) -> Mapping[str, Any]:
        items = self._do("SELECT data FROM item WHERE session = ? ORDER BY id", session)
        entries = self._do("SELECT key, data FROM entry WHERE session = ?", session)
        state: dict[str, Any] = {key: json.loads(data) for key, data in entries}
        return state | {"items": [json.loads(data) for (data,) in items]}

    def close(self) -> None:
        self.connection.close()

    def _do(self, query: str, *values: Any) -> Any:
        return self.connection.execute(query.replace("?", self.mark), values)


class Remembered(Steps):
    """`functools.lru_cache`: in this process only, and gone with it."""

    def __init__(self, target: Target) -> None:  # noqa: ARG002  (nothing is stored)
        self.function: Callable[[str], str] = functools.lru_cache(maxsize=None)(computed)

    def seconds(self, topics: list[str]) -> float:
        began = time.perf_counter()
        for topic in topics:
            self.function(topic)
        return time.perf_counter() - began


class Selected(Remembered):
    """The raw `sqlite3` module: one SELECT by the argument, and a durable insert if nothing was found."""

    def __init__(self, target: Target) -> None:
        self.connection = sqlite3.connect(target.where, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, data TEXT) WITHOUT ROWID")
        self.function = self._found

    def _found(self, topic: str) -> str:
        row = self.connection.execute("SELECT data FROM entry WHERE key = ?", (topic,)).fetchone()
        if row:
            found: str = json.loads(row[0])
            return found
        made = computed(topic)
        self.connection.execute("INSERT INTO entry VALUES (?, ?)", (topic, json.dumps(made)))
        return made

    def close(self) -> None:
        self.connection.close()
