"""What must not grow with what else is stored: counted in steps of SQLite's machine, statements, rows and memory."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import ok
from holdfast.cli import database
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.storage.sqlite import SQLiteFile
from holdfast.testing import Writer, make_run

FEW, MANY = 20, 400

Make = Callable[[SqlWorkflowStorage, int], None]
Call = Callable[[SqlWorkflowStorage], Any]


class Counted:
    """Counts what all connections that are opened from now on do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.statements = 0
        connected = SQLiteFile._connected

        def counting(file: SQLiteFile, timeout: float) -> sqlite3.Connection:
            connection = connected(file, timeout)
            connection.set_progress_handler(self._step, 1)
            connection.set_trace_callback(self._statement)
            return connection

        monkeypatch.setattr(SQLiteFile, "_connected", counting)

    def _step(self) -> None:
        self.steps += 1

    def _statement(self, _: str) -> None:
        self.statements += 1

    def of(self, call: Callable[[], Any]) -> tuple[int, int]:
        """The steps and the statements of one call."""
        self.steps = self.statements = 0
        call()
        return self.steps, self.statements


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def sessions(storage: SqlWorkflowStorage, count: int) -> None:
    for number in range(count):
        Writer(storage, "u", f"s{number}").commit({"a": 1}, run=make_run("u", f"s{number}", run_id=f"r{number}"))


def versions(storage: SqlWorkflowStorage, count: int) -> None:
    writer = Writer(storage, "u", "s0")
    for number in range(count):
        writer.commit({"a": number}, run=make_run("u", "s0", run_id=f"r{number}"))


def committed_with_a_snapshot(storage: SqlWorkflowStorage) -> None:
    stored = storage.load("u", "s0")
    assert stored is not None
    writer = Writer(storage, "u", "s0")
    writer.incarnation, writer.version = stored.info.incarnation, stored.info.version
    writer.states = [{}] * (writer.version + 1)
    writer.commit({"a": -1}, snapshot=True)


GROWING: dict[str, tuple[Make, Call]] = {
    "a session by its key": (sessions, lambda storage: storage.find_sessions("u", session_id="s3")),
    "a run by its key": (sessions, lambda storage: storage.find_runs("u", session_id="s3", run_id="r3")),
    "a run of a long session": (versions, lambda storage: storage.find_runs("u", session_id="s0", run_id="r3")),
    "the newest changes": (versions, lambda storage: storage.changes("u", "s0", after=storage_version(storage) - 5)),
    "the oldest changes": (versions, lambda storage: storage.changes("u", "s0", limit=5)),
    "a snapshot with history by age": (versions, committed_with_a_snapshot),
}


def storage_version(storage: SqlWorkflowStorage) -> int:
    (info,) = storage.find_sessions("u", session_id="s0")
    return info.version


@pytest.mark.parametrize("what", GROWING)
def test_it_takes_no_longer_beside_twenty_times_as_much(counted: Counted, tmp_path: Path, what: str) -> None:
    make, call = GROWING[what]
    steps = []
    for count in (FEW, MANY):
        file = tmp_path / f"{count}.db"
        with closing(SqlWorkflowStorage(db_file=file, keep_history=timedelta(days=1))) as storage:
            make(storage, count)
            call(storage)  # opens what is opened once
            steps.append(counted.of(lambda storage=storage: call(storage))[0])
    assert 0 < steps[1] < 1.5 * steps[0], steps


def test_history_by_age_forgets_what_is_older_and_nothing_after_it(tmp_path: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage:
        writer = Writer(storage)
        for number in range(6):
            writer.commit({"a": number}, snapshot=True)
        ages = [40.0, 30.0, 20.0, 10.0, 5.0, 0.0]
        newest = max(change.created_at for change in storage.changes("", "s"))
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        moved = [(newest - 86_400 * age, version) for version, age in enumerate(ages, 1)]
        connection.executemany("UPDATE workflow_sessions_patch SET created_at = ? WHERE version = ?", moved)
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage:
        storage.prune_session("", "s", timedelta(days=15))
        assert storage.load("", "s", at=3) is not None


def test_a_long_history_is_verified_with_few_statements(counted: Counted, tmp_path: Path) -> None:
    statements = []
    for count in (FEW, MANY):
        with closing(SqlWorkflowStorage(db_file=tmp_path / f"{count}.db")) as storage:
            versions(storage, count)
            statements.append(counted.of(storage.check)[1])
    assert statements[1] < statements[0] + 10, statements


def test_outputs_of_runs_are_verified_without_having_all_of_them_in_memory(tmp_path: Path) -> None:
    size, count = 100_000, 100
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage:
        writer = Writer(storage)
        for number in range(count):
            writer.commit({"a": number}, run=make_run(output=b'"' + b"x" * size + b'"'))
        tracemalloc.start()
        try:
            assert storage.check() == ()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < size * count / 4


def test_a_list_of_sessions_reads_no_more_than_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    find = database.Database.sessions

    def finding(self: database.Database, session_id: str | None = None, limit: int | None = None) -> Any:
        limits.append(limit)
        return find(self, session_id, limit)

    monkeypatch.setattr(database.Database, "sessions", finding)
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage:
        sessions(storage, 4)
    ok("sessions", "list", "--limit", "3", "--db", str(tmp_path / "a.db"))
    assert limits == [4]
