"""The floor: the same change as one row, written with the raw `sqlite3` module in WAL mode at `synchronous=FULL`."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def opened(path: Path) -> sqlite3.Connection:
    """A database in WAL mode, which is durable at each commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


class RawInserts:
    """One connection, one table, one transaction for each insert."""

    def __init__(self, folder: Path) -> None:
        self.connection = opened(folder / "floor.db")
        self.connection.execute("CREATE TABLE IF NOT EXISTS change (id INTEGER PRIMARY KEY, session TEXT, data BLOB)")

    def insert(self, data: bytes) -> None:
        """Append one change durably."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO change (session, data) VALUES (?, ?)", ("session", data))
        self.connection.execute("COMMIT")

    def close(self) -> None:
        self.connection.close()


class RawRuns:
    """The rows of a run of Holdfast that changes one key, in one transaction: a session, a patch and a record.

    What is in them is made beforehand, and there are no checksums to be found.
    """

    def __init__(self, folder: Path) -> None:
        self.connection = opened(folder / "runs.db")
        self.version = 1
        for table, columns, key in (
            ("session", "session_id, incarnation, version, created_at, updated_at, checksum", "session_id"),
            ("patch", "session_id, version, commit_id, run_id, created_at, checksum, patch", "session_id, version"),
            ("run", "session_id, run_id, workflow, status, began_at, ended_at, process_id, checksum, input, output",
             "session_id, run_id"),
        ):  # fmt: skip
            self.connection.execute(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({key}))")
        self.connection.execute("INSERT INTO session VALUES ('s', ?, 1, 0.5, 0.5, ?)", ("i" * 32, b"c" * 32))

    def insert(self, data: bytes) -> None:
        """Store durably that a run has changed something."""
        before, after, ids = self.version, self.version + 1, f"{self.version:032x}"
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute("UPDATE session SET version = ?, checksum = ? WHERE session_id = 's' AND version = ?",
                (after, b"d" * 32, before))  # fmt: skip
        execute("INSERT INTO patch VALUES ('s', ?, ?, ?, 1.5, ?, ?)", (after, ids, ids, b"c" * 32, data))
        execute("INSERT INTO run VALUES ('s', ?, 'Setting', 'completed', 1.5, 1.5, ?, ?, ?, ?)",
                (ids, "p" * 32, b"c" * 32, b"i" * 25, b"o" * 22))  # fmt: skip
        execute("COMMIT")
        self.version = after
