"""Sessions that somebody who can write the database put there: any bytes, with checksums that are right.

Rules that must stay true:
- the rows are written past the library, so that nothing of it has seen what they hold;
- each session has a snapshot at version 1, and the patches after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from holdfast.records import Change, SessionInfo, StoredValue
from holdfast.storage import rows
from holdfast.storage.sql import SqlWorkflowStorage

TABLE = "t"


def plant(
    file: Path,
    values: Mapping[str, bytes] | None = None,
    patches: Sequence[bytes] = (),
    *,
    listing: bytes | None = None,
    **head: Any,
) -> None:
    """Make a database whose only session, `s`, holds this.

    Args:
        values: encoded values by name, in the snapshot.
        patches: of the versions from 2 on.
        listing: the bytes of the snapshot's listing, instead of the one that names the values.
        head: columns of the head that are not as they should be; `forgotten` as well.
    """
    with closing(SqlWorkflowStorage(TABLE, db_file=file)) as storage:
        storage.find_sessions(None)
    info = SessionInfo("", "s", "0" * 32, 1 + len(patches), 1, "Planted", 1.0, 1.0)
    stored = [StoredValue(name, len(data), data) for name, data in (values or {}).items()]
    snapshot = rows.snapshot_row(info, 1, {value.name: rows.value_entry(value, 1) for value in stored})
    if listing is not None:
        renewed = rows.checksum("snapshot", info.incarnation, 1, rows.digest(listing))
        snapshot = (*snapshot[:3], renewed, listing)
    forgotten = head.pop("forgotten", 0)
    changes = [Change(number, f"commit {number}", "", 1.0, patch) for number, patch in enumerate([b"[]", *patches], 1)]
    with closing(sqlite3.connect(file)) as connection, connection:
        insert(connection, "session", rows.Head(replace(info, **head), forgotten).row())
        insert(connection, "snapshot", snapshot)
        for value in stored:
            insert(connection, "value", rows.value_row(info, value, 1))
        for change in changes:
            insert(connection, "patch", rows.change_row(info, change))


def insert(connection: sqlite3.Connection, table: str, row: Sequence[Any]) -> None:
    """Put a whole row into one of the tables."""
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {TABLE}_{table} VALUES ({marks})", row)
