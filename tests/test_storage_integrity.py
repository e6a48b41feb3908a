"""Damage to a database is found: every changed column and every missing row. Flipped bits are a case in `faults/`."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faults.cases.damage import findings, make_sound
from holdfast.errors import CorruptData
from holdfast.storage.queries import Statements
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.storage.sqlite import translated
from holdfast.testing import Writer, rebuilt


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sound") / "sound.db"
    make_sound(file)
    return file


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "copy.db"))


def damage(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(statement).rowcount > 0, "the damage must hit something"


TABLES = (
    *("t_session", "t_lease", "t_patch", "t_snapshot", "t_value", "t_run", "t_step"),
    *("holdfast_process", "holdfast_step_entry"),
)
UNGUARDED = {"lease_id", "lease_until", "used_at", "hits"}
"""Of the step cache: who computes an entry, and how often it was found."""


def columns(file: Path) -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(file)) as connection:
        for table in TABLES:
            for row in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if table != "holdfast_step_entry" or row[1] not in UNGUARDED:
                    yield table, row[1]


def test_a_change_to_any_column_is_found(sound: Path, tmp_path: Path) -> None:
    for table, column in columns(sound):
        file = Path(shutil.copy(sound, tmp_path / f"{table}-{column}.db"))
        rowid = "(SELECT MAX(rowid) FROM " + table + ")"
        for change in (f"{column} || 'x'", f"{column} + 1", "X'00'"):
            with closing(sqlite3.connect(file)) as connection:
                look = f"SELECT CAST({column} AS BLOB), typeof({column}) FROM {table} WHERE rowid = {rowid}"
                before = connection.execute(look).fetchone()
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {change} WHERE rowid = {rowid}")
                after = connection.execute(look).fetchone()
                connection.commit()
            if before != after:
                break
        else:
            pytest.fail(f"{table}.{column} was not changed")
        assert findings(file), f"a change of {table}.{column} was not found"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM t_patch WHERE owner = 'ann' AND version = 24",
        "DELETE FROM t_patch WHERE owner = 'ann' AND version = 25",
        "DELETE FROM t_value WHERE owner = 'ann' AND version = (SELECT MAX(version) FROM t_value)",
        "DELETE FROM t_value WHERE owner = 'ann' AND name = X'73616d65'",
        "DELETE FROM t_snapshot WHERE owner = 'ann' AND version = (SELECT MAX(version) FROM t_snapshot)",
        "DELETE FROM t_session WHERE owner = 'ann'",
        "UPDATE t_patch SET session_id = 'elsewhere' WHERE owner = 'ann' AND version = 24",
        "UPDATE t_value SET data = CAST(substr(data, 2) || 'z' AS BLOB) WHERE owner = 'ann' AND name = X'73616d65'",
        "UPDATE t_value SET data = X'' WHERE owner = 'ann' AND name = X'73616d65'",
        "UPDATE t_value SET data = zeroblob(70000) WHERE owner = 'ann' AND name = X'73616d65'",
        "UPDATE t_value SET name = CAST('other' AS BLOB) WHERE owner = 'ann' AND name = X'73616d65'",
        "UPDATE t_value SET name = X'ff' WHERE owner = 'ann' AND name = X'73616d65'",
        "UPDATE t_snapshot SET listing = X'90' WHERE owner = 'ann' AND version = (SELECT MAX(version) FROM t_snapshot)",
        "UPDATE t_snapshot SET listing = (SELECT MIN(listing) FROM t_snapshot) WHERE owner = 'ann' AND version >= 19",
        "UPDATE t_patch SET patch = CAST(X'ff' AS TEXT) WHERE owner = 'ann' AND version = 25",
        "UPDATE t_session SET workflow = CAST(X'ff' AS TEXT) WHERE owner = 'ann'",
        "UPDATE t_session SET version = 24 WHERE owner = 'ann'",
    ],
)
@pytest.mark.parametrize("damaged", ["ann", ""])
def test_a_missing_or_moved_row_is_an_error_for_its_session_alone(copy: Path, statement: str, damaged: str) -> None:
    """Of a large session, whose values are read when they are wanted, and of a small one."""
    damage(copy, statement.replace("'ann'", f"'{damaged}'"))
    with closing(SqlWorkflowStorage(db_file=copy, table_name="t")) as storage:
        with pytest.raises(CorruptData) as caught:
            rebuilt(storage.load(damaged, "s"), storage)
        assert "checksum" in str(caught.value)
        assert storage.load("" if damaged else "ann", "s") is not None
        assert storage.check()


def test_a_value_that_no_snapshot_has_is_found(copy: Path) -> None:
    damage(
        copy,
        "INSERT INTO t_value SELECT owner, session_id, version, X'ab', data FROM t_value WHERE name = X'73616d65'",
    )
    assert sum("that no snapshot has" in finding for finding in findings(copy)) == 2


def test_what_is_remembered_of_a_listing_does_not_hide_damage_from_a_check(copy: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=copy, table_name="t")) as storage:
        before = rebuilt(storage.load("ann", "s"), storage)
        damage(copy, "UPDATE t_snapshot SET listing = X'90' WHERE owner = 'ann'")
        assert rebuilt(storage.load("ann", "s"), storage) == before
        assert storage.check()


def test_nothing_is_written_on_top_of_damage(copy: Path) -> None:
    damage(copy, "DELETE FROM t_session WHERE owner = ''")
    with closing(SqlWorkflowStorage(db_file=copy, table_name="t")) as storage:
        with pytest.raises(CorruptData):
            Writer(storage, "", "s").commit({"a": 1})
        storage.delete_session("", "s")
        Writer(storage, "", "s").commit({"a": 1})
        assert storage.check() == ()


def test_all_damage_is_listed_not_only_the_first(copy: Path) -> None:
    for statement in (
        "UPDATE t_session SET workflow = 'other' WHERE owner = 'ann'",
        "UPDATE t_patch SET patch = X'00' WHERE owner = '' AND version IN (3, 4)",
        "UPDATE t_value SET data = X'00' WHERE owner = '' AND name = X'73616d65'",
        "DELETE FROM t_snapshot WHERE owner = '' AND version = (SELECT MAX(version) FROM t_snapshot)",
        "UPDATE t_run SET status = 'completed' WHERE owner = '' AND run_id = 'r5'",
        "UPDATE holdfast_process SET beat_at = 0",
        "UPDATE t_step SET result = X'00' WHERE owner = '' AND number = 1",
        "UPDATE t_step SET run_id = 'orphan' WHERE owner = '' AND number = 2",
        "UPDATE holdfast_step_entry SET result = X'00' WHERE owner = 'ann' AND result IS NOT NULL",
        "UPDATE holdfast_step_entry SET step = 'x' WHERE owner = '' AND result IS NOT NULL",
        "UPDATE t_patch SET session_id = 'orphan' WHERE owner = 'ann' AND version = 20",
    ):
        damage(copy, statement)
    found = "\n".join(findings(copy))
    for expected in (
        "session 's' of owner 'ann': session 's'",
        "session 's' of owner '': change 3",
        "session 's' of owner '': change 4",
        "session 's' of owner '': a value",
        "session 's' of owner '': a snapshot that its head names is missing",
        "session 's' of owner '': run 'r5'",
        "copy.db: a heartbeat",
        "session 's' of owner '': step 1 of run 'r20'",
        "session 's' of owner '': the record of run 'orphan' is missing",
        "session 's' of owner '': step 2 of run 'orphan'",
        "session 's' of owner 'ann': an entry of the step cache for step 'write'",
        "session 's' of owner '': an entry of the step cache for step 'x'",
        "session 'orphan' of owner 'ann': its head is missing",
    ):
        assert expected in found


def test_damage_to_the_structure_of_the_file_is_listed(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'ended_at REAL', 'ended_at REAL NOT NULL')")
        connection.commit()
    assert any("t_run.ended_at" in finding for finding in findings(copy))


def test_a_value_that_is_listed_but_cannot_be_looked_up_is_an_error(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a flipped bit misleads the search in an index, but not a walk along it."""
    with closing(SqlWorkflowStorage(db_file=copy, table_name="t")) as storage:
        stored = storage.load("ann", "s")
        assert stored is not None
        info = stored.info
        one = Statements.one
        monkeypatch.setattr(
            Statements, "one", lambda db, query, **v: None if query == "find_value" else one(db, query, **v)
        )
        with pytest.raises(CorruptData):
            storage.read_values("ann", "s", ["big"], incarnation=info.incarnation, at=info.snapshot_version)


def test_an_undecodable_name_in_the_schema_is_damage() -> None:
    assert type(translated(UnicodeDecodeError("utf-8", b"x", 0, 1, ""), "a.db")) is CorruptData
