"""The floor: the same change as one row, written with the raw `sqlite3` module in WAL mode at `synchronous=FULL`."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class RawInserts:
    """One connection, one table, one transaction for each insert."""

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE IF NOT EXISTS change (id INTEGER PRIMARY KEY, session TEXT, data BLOB)")

    def insert(self, data: bytes) -> None:
        """Append one change durably."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO change (session, data) VALUES (?, ?)", ("session", data))
        self.connection.execute("COMMIT")

    def close(self) -> None:
        self.connection.close()
