"""The tables of a SQL database: made by numbered migrations, each recorded in the transaction that applies it.

Rules that must stay true:
- a table that somebody else made is never used or changed, whatever its name;
- a database that a newer release migrated is refused before anything is changed;
- a migration whose text has `{table}` is applied once for each table prefix, any other once for the database.
"""

from __future__ import annotations

import os
import re
from functools import cache

from holdfast import clock
from holdfast.errors import ForeignDatabase, SchemaTooNew
from holdfast.storage.queries import Statements

_RECORDS = """CREATE TABLE holdfast_migration (
    table_name TEXT NOT NULL,
    number INTEGER NOT NULL,
    applied_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (table_name, number)
)"""


@cache
def _migrations(dialect: str) -> dict[int, str]:
    folder = os.path.join(os.path.dirname(__file__), "migrations", dialect)
    texts = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".sql"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                texts[int(name[:4])] = file.read()
    return texts


@cache
def _made_by(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"^CREATE (?:TABLE|INDEX) (\S+)", text, flags=re.MULTILINE))


def applied(db: Statements) -> set[tuple[str, int]]:
    """Which migrations were applied, as (table prefix or "", number); empty for a database without Holdfast.

    Raises:
        ForeignDatabase: somebody else's table has the name of the record of migrations.
        SchemaTooNew: a newer release was here.
    """
    if "holdfast_migration" not in db.names():
        return set()
    if db.columns("holdfast_migration") != ["table_name", "number", "applied_at"]:
        raise ForeignDatabase(where=db.where, reason="its table holdfast_migration was made by something else")
    records = {(str(name), int(number)) for name, number in db.each("migrations")}
    found = max((number for _, number in records), default=0)
    known = max(_migrations(db.dialect))
    if found > known:
        raise SchemaTooNew(where=db.where, found=found, known=known)
    return records


def missing(db: Statements) -> list[tuple[str, int, str]]:
    """The migrations that the prefix still needs, as (table prefix or "", number, text).

    Raises:
        ForeignDatabase: somebody else's table has the name of one that is to be made.
        SchemaTooNew: as for `applied`.
    """
    done = applied(db)
    taken = db.names()
    wanted = []
    for number, text in _migrations(db.dialect).items():
        scope = db.table if "{table}" in text else ""
        if (scope, number) in done:
            continue
        for name in _made_by(text):
            made = name.replace("{table}", db.table)
            if made in taken:
                raise ForeignDatabase(where=db.where, reason=f"its table {made} was made by something else")
        wanted.append((scope, number, text.replace("{table}", db.table)))
    return wanted


def prepare(db: Statements) -> None:
    """Bring the tables of the prefix up to date, in the transaction that is open.

    Raises:
        ForeignDatabase, SchemaTooNew: as for `missing`.
    """
    wanted = missing(db)
    if not wanted:
        return
    if "holdfast_migration" not in db.names():
        db.connection.execute(_RECORDS)
    for scope, number, text in wanted:
        for statement in text.split(";"):
            if statement.strip():
                db.connection.execute(statement)
        db.change("add_migration", table_name=scope, number=number, applied_at=clock.now())
    if (db.table,) not in db.all("catalogue"):
        db.change("add_to_catalogue", table_name=db.table, created_at=clock.now())


def table_names(db: Statements) -> tuple[str, ...]:
    """All table prefixes that a database has.

    Raises:
        ForeignDatabase: Holdfast never stored anything in it.
        SchemaTooNew: as for `applied`.
    """
    if not applied(db):
        raise ForeignDatabase(where=db.where, reason="it has no table holdfast_catalogue")
    return tuple(row[0] for row in db.all("catalogue"))
