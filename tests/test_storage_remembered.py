"""What a storage object remembers is never believed against what the database says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.errors import CorruptData, InvalidInput, StateConflict
from holdfast.records import Known
from holdfast.storage.remembered import Recent
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, make_run, rebuilt


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def storage(file: Path) -> Iterator[SqlWorkflowStorage]:
    with closing(SqlWorkflowStorage("t", db_file=file)) as storage:
        yield storage


def change_from_outside(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


@pytest.mark.parametrize("column", ["workflow = 'x'", "created_at = 1", "snapshot_version = 1", "checksum = X'00'"])
def test_nothing_is_committed_on_a_head_that_was_damaged_since_it_was_remembered(
    storage: SqlWorkflowStorage, file: Path, column: str
) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    writer.commit({"a": 2})
    change_from_outside(file, f"UPDATE t_session SET {column}")
    with pytest.raises(CorruptData):
        storage.load("", "s", known=Known(writer.incarnation, 2))
    with pytest.raises(CorruptData):
        writer.commit({"a": 3})
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM t_patch").fetchone() == (2,)


def test_a_commit_that_was_rolled_back_is_not_remembered_as_made(storage: SqlWorkflowStorage) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    unstorable = make_run(workflow_id="\ud800")
    for snapshot in (False, True):
        with pytest.raises(InvalidInput):
            storage.commit(writer.prepared({"a": 2}, snapshot=snapshot, run=unstorable))
        stored = storage.load("", "s", known=Known(writer.incarnation, 1))
        assert stored is not None
        assert (stored.info.version, stored.changes) == (1, ())
    writer.commit({"a": 3}, snapshot=True)
    assert rebuilt(storage.load("", "s")) == {"a": 3}
    assert storage.check() == ()


def test_what_another_object_did_to_a_session_counts(storage: SqlWorkflowStorage, file: Path) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1}, snapshot=True)
    writer.commit({"a": 2}, snapshot=True)
    with closing(SqlWorkflowStorage("t", db_file=file)) as other:
        assert other.prune_session("", "s", 1) == 2
        writer.commit({"a": 3})
        assert [change.version for change in storage.changes("", "s")] == [3]
        late = writer.prepared({"a": 4})
        writer.storage = other
        writer.commit({"a": 5})
    with pytest.raises(StateConflict):
        storage.commit(late)
    assert storage.check() == ()


def test_the_value_that_was_put_first_is_forgotten_first() -> None:
    recent = Recent[int, str](3)
    for number in range(5):
        recent.put(number, str(number))
    recent.put(2, "again")
    recent.put(5, "5")
    assert [recent.get(number) for number in range(6)] == [None, None, None, "3", "4", "5"]
