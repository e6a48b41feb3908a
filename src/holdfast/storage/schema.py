"""The tables of a SQL database: made by numbered migrations, each recorded in the transaction that applies it.

Rules that must stay true:
- a table that somebody else made is never used or changed, whatever its name;
- a database that a newer release migrated is refused before anything is changed;
- a migration whose text has `{table}` is applied once for each table prefix, any other once for the database.
"""

from __future__ import annotations

import re
import sqlite3
from functools import cache
from pathlib import Path

from holdfast import clock
from holdfast.errors import ForeignDatabase, SchemaTooNew
from holdfast.storage.queries import Statements

_RECORDS = """CREATE TABLE holdfast_migration (
    table_name TEXT NOT NULL,
    number INTEGER NOT NULL,
    applied_at REAL NOT NULL,
    PRIMARY KEY (table_name, number)
)"""


@cache
def _migrations(dialect: str) -> dict[int, str]:
    folder = Path(__file__).parent / "migrations" / dialect
    return {int(file.name[:4]): file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql"))}


@cache
def _made_by(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"^CREATE (?:TABLE|INDEX) (\S+)", text, flags=re.MULTILINE))


def applied(connection: sqlite3.Connection, where: str) -> set[tuple[str, int]]:
    """Which migrations were applied, as (table prefix or "", number); empty for a database without Holdfast.

    Raises:
        ForeignDatabase: somebody else's table has the name of the record of migrations.
        SchemaTooNew: a newer release was here.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'holdfast_migration'").fetchone():
        return set()
    columns = [row[1] for row in connection.execute("PRAGMA table_info(holdfast_migration)")]
    if columns != ["table_name", "number", "applied_at"]:
        raise ForeignDatabase(where=where, reason="its table holdfast_migration was made by something else")
    records = {
        (str(name), int(number))
        for name, number in connection.execute("SELECT table_name, number FROM holdfast_migration")
    }
    found = max((number for _, number in records), default=0)
    known = max(_migrations("sqlite"))
    if found > known:
        raise SchemaTooNew(where=where, found=found, known=known)
    return records


def missing(connection: sqlite3.Connection, where: str, table: str) -> list[tuple[str, int, str]]:
    """The migrations that a prefix still needs, as (table prefix or "", number, text).

    Raises:
        ForeignDatabase: somebody else's table has the name of one that is to be made.
        SchemaTooNew: as for `applied`.
    """
    done = applied(connection, where)
    taken = {str(row[0]).lower() for row in connection.execute("SELECT name FROM sqlite_master")}
    wanted = []
    for number, text in _migrations("sqlite").items():
        scope = table if "{table}" in text else ""
        if (scope, number) in done:
            continue
        for name in _made_by(text):
            if name.replace("{table}", table) in taken:
                made = name.replace("{table}", table)
                raise ForeignDatabase(where=where, reason=f"its table {made} was made by something else")
        wanted.append((scope, number, text.replace("{table}", table)))
    return wanted


def prepare(connection: sqlite3.Connection, where: str, table: str) -> None:
    """Bring the tables of a prefix up to date, in the transaction that is open.

    Raises:
        ForeignDatabase, SchemaTooNew: as for `missing`.
    """
    wanted = missing(connection, where, table)
    if not wanted:
        return
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'holdfast_migration'").fetchone():
        connection.execute(_RECORDS)
    for scope, number, text in wanted:
        for statement in text.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(
            "INSERT INTO holdfast_migration (table_name, number, applied_at) VALUES (?, ?, ?)",
            (scope, number, clock.now()),
        )
    db = Statements(connection, table, where)
    if (table,) not in db.all("catalogue"):
        db.change("add_to_catalogue", table_name=table, created_at=clock.now())


def table_names(connection: sqlite3.Connection, where: str) -> tuple[str, ...]:
    """All table prefixes that a database has.

    Raises:
        ForeignDatabase: Holdfast never stored anything in it.
        SchemaTooNew: as for `applied`.
    """
    if not applied(connection, where):
        raise ForeignDatabase(where=where, reason="it has no table holdfast_catalogue")
    return tuple(row[0] for row in Statements(connection, "", where).all("catalogue"))
