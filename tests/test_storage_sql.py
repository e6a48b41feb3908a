"""The SQL storage beyond the interface: how it is named and opened, shares its writer, waits and fails."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast import errors
from holdfast.storage import engine as engine_module
from holdfast.storage import registry, schema
from holdfast.storage.engine import Engine
from holdfast.storage.gate import Gate
from holdfast.storage.queries import Statements
from holdfast.storage.requests import Request
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.storage.sqlite import SQLiteFile, translated
from holdfast.storage.writer import busy_threads
from holdfast.testing import Writer, make_run, raises, rebuilt, run_in_threads


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "sessions.db"


@pytest.fixture
def storage(file: Path) -> Iterator[SqlWorkflowStorage]:
    with closing(SqlWorkflowStorage(db_file=file, lock_timeout=10)) as storage:
        yield storage


def engine_of(storage: SqlWorkflowStorage) -> Engine:
    storage.find_sessions(None, limit=0)
    return registry._engines[storage._key]


# How a database is named


def test_a_database_is_named_by_file_or_url_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path.resolve()
    monkeypatch.chdir(folder)
    expected = str(folder / "a.db")
    for options in (
        {"db_file": "a.db"},
        {"db_file": folder / "a.db"},
        {"db_url": "sqlite:///a.db"},
        {"db_url": f"sqlite:///{folder}/a.db"},
    ):
        named = SqlWorkflowStorage(**options)  # type: ignore[arg-type]
        assert (named.where, named.url) == (expected, f"sqlite:///{expected}")
    for value in ("a.db", "sqlite:///a.db"):
        monkeypatch.setenv("HOLDFAST_DB", value)
        assert SqlWorkflowStorage().where == expected
    monkeypatch.setenv("HOLDFAST_DB", "sqlite://")
    assert SqlWorkflowStorage().url == "sqlite://"
    assert SqlWorkflowStorage(db_file="b.db").where == str(folder / "b.db")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "HOLDFAST_DB"),
        ({"db_file": "a.db", "db_url": "sqlite://"}, "not both"),
        ({"db_url": "mysql://localhost/x"}, "db_url must be"),
        ({"db_url": "sqlite:a.db"}, "db_url must be"),
        ({"db_url": "sqlite://host/a.db"}, "db_url must be"),
        ({"db_file": ""}, "db_file must be"),
        ({"db_file": "a\0b"}, "db_file must be"),
        ({"db_file": b"a.db"}, "db_file must be"),
        ({"db_file": "a.db", "keep_history": 0}, "keep_history"),
        ({"db_file": "a.db", "synchronous": "OFF"}, "synchronous"),
        ({"db_file": "a.db", "lock_timeout": -1}, "lock_timeout"),
        ({"db_file": "a.db", "lock_timeout": True}, "lock_timeout"),
        ({"db_file": "a.db", "lock_timeout": float("nan")}, "lock_timeout"),
        ({"db_file": "a.db", "lock_timeout": "1"}, "lock_timeout"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOLDFAST_DB", raising=False)
    with pytest.raises(errors.InvalidInput, match=message):
        SqlWorkflowStorage(**options)


@pytest.mark.parametrize(
    "name", ["", "1a", "a b", "a;b", 'a"b', "a.b", "ü", "a" * 49, "a\n", "sqlite_x", "SQLite", None, 1]
)
def test_a_table_name_that_is_no_identifier_is_refused(name: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="table_name"):
        SqlWorkflowStorage(table_name=name, db_url="sqlite://")


@pytest.mark.parametrize("name", ["a", "_", "select", "Blog_Posts", "holdfast", "x" * 48])
def test_any_identifier_is_a_table_name(name: str) -> None:
    with closing(SqlWorkflowStorage(table_name=name, db_url="sqlite://")) as storage:
        assert storage.table_name == name.lower()
        Writer(storage).commit({"a": 1}, snapshot=True, run=make_run())
        assert rebuilt(storage.load("", "s")) == {"a": 1}
        assert storage.check() == ()


def test_only_known_statements_are_run_and_no_value_becomes_part_of_one(storage: SqlWorkflowStorage) -> None:
    engine = engine_of(storage)
    assert engine._writer.connection is not None
    seen: list[str] = []
    engine._writer.connection.set_trace_callback(seen.append)
    hostile = "'; DROP TABLE workflow_sessions_session; --"
    Writer(storage, hostile, hostile).commit({hostile: hostile}, snapshot=True, run=make_run(hostile, hostile))
    storage.rename_session(hostile, hostile, hostile + "2")
    storage.delete_session(hostile, hostile + "2")
    engine._writer.connection.set_trace_callback(None)
    # SQLite shows bound values as quoted literals, in which a quote is doubled.
    assert all("DROP" not in statement.replace("''; DROP", "") for statement in seen)
    assert storage.check() == ()


# One writer for all


def run_while_the_gate_is_held(engine: Engine, file: Path, works: list[Callable[[], object]]) -> None:
    """Run writes in threads of their own, which all wait for the writer before it can begin."""
    queued: list[None] = []
    serve = engine._serve_queue
    engine._serve_queue = lambda: (queued.append(None), serve())[1]  # type: ignore[method-assign]
    gate = Gate(str(file))
    assert gate.acquire()
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    while len(queued) < len(works):
        time.sleep(0.001)
    gate.release()
    for thread in threads:
        thread.join()
    gate.close()


def test_writes_that_wait_together_become_one_transaction_and_one_failure_harms_no_other(
    storage: SqlWorkflowStorage, file: Path
) -> None:
    engine = engine_of(storage)
    assert engine._writer.connection is not None
    begun: list[str] = []
    conflicts: list[errors.HoldfastError] = []
    writers = [Writer(storage, "", f"s{number}") for number in range(9)]
    writers[0].commit({"a": "first"})
    late = Writer(storage, "", "s0").prepared({"a": "late"})

    def conflict() -> None:
        with raises(errors.StateConflict) as caught:
            storage.commit(late)
        conflicts.extend(caught)

    works: list[Callable[[], object]] = [conflict]
    works += [lambda writer=writer: writer.commit({"a": 1}) for writer in writers[1:]]  # type: ignore[misc]
    engine._writer.connection.set_trace_callback(begun.append)
    run_while_the_gate_is_held(engine, file, works)
    engine._writer.connection.set_trace_callback(None)
    assert begun.count("BEGIN IMMEDIATE") == 1
    assert begun.count("COMMIT") == 1
    assert len(conflicts) == 1
    assert rebuilt(storage.load("", "s0")) == {"a": "first"}
    assert all(rebuilt(storage.load("", f"s{number}")) == {"a": 1} for number in range(1, 9))


def test_when_a_transaction_fails_as_a_whole_each_request_gets_one_of_its_own(
    storage: SqlWorkflowStorage, file: Path
) -> None:
    engine = engine_of(storage)
    outcomes: list[object] = []

    def harmless(number: int) -> None:
        storage._write(lambda db: db.put("put_beat", (f"p{number}", 1.0, b"")))
        outcomes.append(number)

    def harmful() -> None:
        def work(db: Statements) -> None:
            db.connection.execute("ROLLBACK")
            raise sqlite3.OperationalError

        with raises(errors.StorageError):
            storage._write(work)
        outcomes.append("failed")

    works: list[Callable[[], object]] = [lambda number=number: harmless(number) for number in range(3)]  # type: ignore[misc]
    run_while_the_gate_is_held(engine, file, [works[0], harmful, *works[1:]])
    assert set(outcomes) == {0, 1, 2, "failed"}
    assert storage._read(lambda db: len(db.all("beats"))) == 3


def test_a_bug_in_a_request_reaches_its_caller_and_the_writer_goes_on(storage: SqlWorkflowStorage) -> None:
    def work(_: Statements) -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            storage._write(work)
        with pytest.raises(ZeroDivisionError):
            storage._read(work)
    Writer(storage).commit({"a": 1})


def test_the_strictest_of_the_waiting_commits_decides_whether_the_disk_is_waited_for(file: Path) -> None:
    with (
        closing(SqlWorkflowStorage("a", db_file=file)) as strict,
        closing(SqlWorkflowStorage("b", db_file=file, synchronous="NORMAL")) as lax,
    ):
        levels = []
        for storage in (strict, lax, strict):
            Writer(storage, "", str(len(levels))).commit({"a": 1})
            levels.append(storage._write(lambda db: db.connection.execute("PRAGMA synchronous").fetchone()[0]))
        assert levels == [2, 1, 2]


# A finalizer that the garbage collector runs on the writer's thread


def call_on_the_writer(storage: SqlWorkflowStorage, call: Callable[[], object]) -> None:
    """What happens when the garbage collector finalizes a run in the middle of a commit."""
    storage._write(lambda _: call())


@pytest.mark.parametrize("url", [None, "sqlite://"])
def test_a_commit_on_the_thread_of_the_writer_does_not_wait_for_itself(file: Path, url: str | None) -> None:
    with closing(SqlWorkflowStorage(db_file=None if url else file, db_url=url)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        commit = writer.prepared({"a": 2})
        answers: list[object] = []

        def finalize() -> None:
            answers.append(rebuilt(storage.load("", "s")))
            answers.append(storage.commit(commit))

        call_on_the_writer(storage, finalize)
        assert answers == [{"a": 1}, 2]
        storage._write(lambda _: None)  # what was queued before this is done
        assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_its_failure_is_raised_by_the_next_call(storage: SqlWorkflowStorage) -> None:
    writer = Writer(storage)
    late = writer.prepared({"b": 1})
    writer.commit({"a": 1})
    call_on_the_writer(storage, lambda: storage.commit(late))
    registry._engines[storage._key].write(lambda _: None, table=None, timeout=5, is_durable=False, failures=[])
    with pytest.raises(errors.StateConflict):
        storage.load("", "s")
    assert rebuilt(storage.load("", "s")) == {"a": 1}


def test_a_storage_may_be_closed_on_the_thread_of_the_writer(file: Path) -> None:
    storage, other = SqlWorkflowStorage(db_file=file), SqlWorkflowStorage(db_file=file)
    other.find_sessions(None)
    engine = engine_of(storage)
    call_on_the_writer(storage, lambda: (storage.close(), other.close()))
    assert engine._thread is not None
    engine._thread.join(30)
    assert not engine._thread.is_alive()
    assert not file.with_name("sessions.db-wal").exists()


def test_a_storage_that_is_gone_lets_go_of_its_database(file: Path) -> None:
    storage = SqlWorkflowStorage(db_file=file)
    engine = engine_of(storage)
    del storage
    assert engine._thread is not None
    engine._thread.join(30)
    assert not engine._thread.is_alive()
    assert str(file) not in registry._engines


# Waiting


@contextmanager
def foreign_lock(file: Path) -> Iterator[sqlite3.Connection]:
    """A program that does not know of gates holds the write lock."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def test_a_commit_that_could_not_begin_in_time_is_withdrawn(file: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=file, lock_timeout=0.2)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        with foreign_lock(file):
            with pytest.raises(errors.StorageBusy, match=r"busy for 0\.2 s"):
                storage.commit(writer.prepared({"a": 2}))
            assert rebuilt(storage.load("", "s")) == {"a": 1}
        writer.commit({"a": 3})
        assert rebuilt(storage.load("", "s")) == {"a": 3}


def test_a_commit_waits_for_a_foreign_lock_holder(storage: SqlWorkflowStorage, file: Path) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    with foreign_lock(file) as connection:
        thread = threading.Thread(target=writer.commit, args=({"a": 2},))
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        connection.execute("COMMIT")
        thread.join()
    assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_a_database_that_another_program_locks_for_itself_is_busy(file: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=file, lock_timeout=0.2)) as storage:
        Writer(storage).commit({"a": 1})
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        late = SqlWorkflowStorage(db_file=file, lock_timeout=0.2)
        for _ in range(2):
            with pytest.raises(errors.StorageBusy):
                late.load("", "s")
        connection.execute("ROLLBACK")
    with closing(late):
        assert rebuilt(late.load("", "s")) == {"a": 1}


def test_a_reader_that_meets_a_lock_says_so_after_its_time(file: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=file, lock_timeout=0.2)) as storage:
        Writer(storage).commit({"a": 1})

        def locked(_: Statements) -> None:
            raise busy_error()

        with pytest.raises(errors.StorageBusy, match=r"0\.2 s"):
            storage._read(locked)
        assert rebuilt(storage.load("", "s")) == {"a": 1}


def busy_error() -> sqlite3.OperationalError:
    with closing(sqlite3.connect("file:x?mode=memory&cache=shared", uri=True, isolation_level=None)) as one:
        one.execute("CREATE TABLE IF NOT EXISTS t (a)")
        one.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect("file:x?mode=memory&cache=shared", uri=True, timeout=0)) as two:
            try:
                two.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                return error
    raise AssertionError


def test_a_commit_that_nobody_waits_for_is_not_dropped_in_silence(file: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=file, lock_timeout=0.3)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        with foreign_lock(file):
            busy_threads.add(threading.get_ident())  # as in the middle of another write of this thread
            try:
                storage.commit(writer.prepared({"a": 2}))
            finally:
                busy_threads.discard(threading.get_ident())
            while not storage._failures:
                time.sleep(0.01)
        with pytest.raises(errors.StorageBusy):
            storage.load("", "s")
        assert rebuilt(storage.load("", "s")) == {"a": 1}


def test_closing_while_another_process_holds_the_gate_says_so_and_happens_later(file: Path) -> None:
    storage = SqlWorkflowStorage(db_file=file, lock_timeout=0.2)
    engine = engine_of(storage)
    gate = Gate(str(file))
    assert gate.acquire()
    assert not Gate(str(file)).acquire(timeout=0.02)
    with pytest.raises(errors.StorageBusy):
        storage.close()
    storage.close()
    gate.release()
    gate.close()
    assert engine._thread is not None
    engine._thread.join(30)
    assert not file.with_name("sessions.db-wal").exists()


def test_a_request_that_comes_too_late_for_the_writer_is_refused(storage: SqlWorkflowStorage) -> None:
    engine = engine_of(storage)
    engine.stop(wait=30)
    engine._is_closing = False  # as seen by a caller that checked just before
    with pytest.raises(errors.StorageClosed):
        storage._write(lambda _: None)
    with pytest.raises(errors.StorageClosed):
        storage._read(lambda _: None)


def test_an_engine_that_never_opened_anything_is_stopped_at_once(file: Path) -> None:
    Engine(SQLiteFile(str(file))).stop(wait=1)
    assert not file.exists()


def test_a_gate_that_somebody_removed_is_made_again(storage: SqlWorkflowStorage, file: Path) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    file.with_name("sessions.db-gate").unlink()
    writer.commit({"a": 2})
    assert file.with_name("sessions.db-gate").exists()


def test_without_a_thread_the_caller_writes_itself(
    storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_threads(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_threads)
        Writer(storage).commit({"a": 1})
    assert rebuilt(storage.load("", "s")) == {"a": 1}
    with monkeypatch.context() as patch:
        patch.setattr(engine_module.sys, "is_finalizing", lambda: True)
        Writer(storage, "", "t").commit({"a": 2})
        engine = engine_of(storage)
        with held_by_another_thread(engine._writer.lock), pytest.raises(errors.StorageBusy):
            Writer(storage, "", "u").commit({"a": 3})
    assert rebuilt(storage.load("", "t")) == {"a": 2}
    assert storage.load("", "u") is None


def test_many_readers_do_not_keep_as_many_connections(storage: SqlWorkflowStorage) -> None:
    Writer(storage).commit({"a": 1})
    barrier = threading.Barrier(8)
    run_in_threads(lambda: storage._read(lambda db: (db.all("beats"), barrier.wait())), 8)
    readers = engine_of(storage)._readers
    assert len(readers._idle) == 4
    assert readers._active == set()


def test_a_write_that_has_begun_is_waited_for_however_long_it_takes(file: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=file, lock_timeout=1.0)) as storage:
        begun, go_on = threading.Event(), threading.Event()
        answers: list[object] = []

        def work(_: Statements) -> str:
            begun.set()
            go_on.wait()
            return "done"

        thread = threading.Thread(target=lambda: answers.append(storage._write(work)))
        thread.start()
        assert begun.wait(30)
        thread.join(1.2)
        assert thread.is_alive()
        go_on.set()
        thread.join()
        assert answers == ["done"]


@contextmanager
def held_by_another_thread(lock: Any) -> Iterator[None]:
    has_it, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            has_it.set()
            let_go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    has_it.wait()
    yield
    let_go.set()
    thread.join()


def test_a_database_in_memory_is_busy_while_it_is_written(file: Path) -> None:
    with closing(SqlWorkflowStorage(db_url="sqlite://", lock_timeout=0.1)) as storage:
        engine = engine_of(storage)
        with held_by_another_thread(engine._writer.lock), pytest.raises(errors.StorageBusy):
            storage.load("", "s")
        with pytest.raises(errors.StorageError):
            storage._read(lambda db: db.connection.execute("nonsense"))
        assert storage.load("", "s") is None


def test_an_engine_that_is_in_use_cannot_be_suspended_and_goes_on(storage: SqlWorkflowStorage, file: Path) -> None:
    engine = engine_of(storage)
    with held_by_another_thread(engine._writer.lock):
        assert not engine.suspend(0.05)
    gate = Gate(str(file))
    assert gate.acquire()
    assert not engine.suspend(0.05)
    gate.close()
    Writer(storage).commit({"a": 1})
    assert engine.suspend(5)
    assert not file.with_name("sessions.db-wal").exists()
    engine.resume()
    assert rebuilt(storage.load("", "s")) == {"a": 1}


@pytest.mark.parametrize("moment", ["before the transaction", "after the commit"])
def test_an_interrupt_between_two_steps_leaves_nothing_held(
    storage: SqlWorkflowStorage, file: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(storage)
    writer = Writer(storage)
    writer.commit({"a": 1})
    gate = engine._database.gate  # type: ignore[attr-defined]

    @contextmanager
    def interrupted(timeout: float | None = None) -> Iterator[None]:
        assert gate.acquire(timeout)
        if moment == "before the transaction":
            raise KeyboardInterrupt
        yield
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._database, "held", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.commit(writer.prepared({"a": 2}))
    assert engine._writer.connection is not None
    assert not engine._writer.connection.in_transaction
    other = Gate(str(file))
    assert other.acquire(0)
    other.close()
    run_in_threads(lambda: storage.beat("another thread can write"), 1)
    expected = {"a": 1} if moment == "before the transaction" else {"a": 2}
    assert [json.loads(c.patch)[0]["value"] for c in storage.changes("", "s")][-1] == expected["a"]


def test_an_interrupt_after_a_commit_and_before_its_outcome_is_handed_out_is_not_waited_for(
    storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    right = Request.finish
    interrupts = [KeyboardInterrupt()]
    raised: list[BaseException] = []

    def finish(request: Request[Any]) -> None:
        if interrupts:
            raise interrupts.pop()
        right(request)

    def commit() -> None:
        try:
            storage.commit(prepared)
        except BaseException as error:  # looked at below
            raised.append(error)

    prepared = writer.prepared({"a": 2})
    monkeypatch.setattr(Request, "finish", finish)
    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    thread.join(20)
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    assert storage.commit(prepared) == 2  # which had been made
    assert len(storage.changes("", "s")) == 2


def test_a_request_is_answered_once_and_settled_when_it_was(storage: SqlWorkflowStorage) -> None:
    request = Request(lambda _: None, None, 1.0, is_durable=True)
    assert request.begin()
    assert not request.withdraw()
    threading.Timer(0.05, request.finish).start()
    request.settle()
    request.finish()
    request.settle()
    withdrawn = Request(lambda _: None, None, 1.0, is_durable=True)
    withdrawn.settle()
    assert not withdrawn.begin()


def test_a_file_system_without_shared_memory_is_an_error() -> None:
    in_memory = sqlite3.connect(":memory:")  # which has no write-ahead mode either
    with closing(in_memory), pytest.raises(errors.StorageError, match="local disk"):
        SQLiteFile("/a.db").adopt(in_memory, {"t"})


# Errors


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (28, errors.StorageFull),
        (27, errors.StorageFull),
        (13, errors.StorageReadOnly),
        (30, errors.StorageReadOnly),
        (2, errors.DatabaseReplaced),
        (5, errors.StorageError),
    ],
)
def test_errors_of_the_system_have_kinds(number: int, kind: type[errors.StorageError]) -> None:
    assert type(translated(OSError(number, "secret"), "/a.db")) is kind


@pytest.mark.parametrize(
    ("name", "committing", "kind"),
    [
        ("SQLITE_BUSY_SNAPSHOT", False, errors.StorageBusy),
        ("SQLITE_LOCKED", False, errors.StorageBusy),
        ("SQLITE_FULL", True, errors.StorageFull),
        ("SQLITE_IOERR_FSYNC", True, errors.OutcomeUnknown),
        ("SQLITE_IOERR_FSYNC", False, errors.StorageError),
        ("SQLITE_IOERR_WRITE", False, errors.StorageError),
        ("SQLITE_READONLY_DIRECTORY", False, errors.StorageReadOnly),
        ("SQLITE_CANTOPEN", False, errors.StorageError),
        ("SQLITE_NOTADB", False, errors.ForeignDatabase),
        ("SQLITE_CORRUPT_VTAB", False, errors.CorruptData),
        ("SQLITE_MISMATCH", False, errors.StorageError),
        (None, False, errors.StorageError),
    ],
)
def test_errors_of_sqlite_have_kinds_and_their_text_is_not_repeated(
    tmp_path: Path, name: str | None, committing: bool, kind: type[errors.StorageError]
) -> None:
    error = sqlite3.OperationalError("a secret value")
    if name is not None:
        error.sqlite_errorname = name
    (tmp_path / "a.db").touch()
    found = translated(error, str(tmp_path / "a.db"), committing=committing)
    assert type(found) is kind
    assert "secret" not in str(found)


def test_an_unknown_outcome_of_a_commit_is_reported_and_the_same_commit_may_be_repeated(
    storage: SqlWorkflowStorage,
) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    engine = engine_of(storage)
    assert engine._writer.connection is not None

    class Failing:
        """The connection of a disk that fails once while a commit is being flushed."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection = connection
            self.failures = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

        def execute(self, statement: str, *values: Any) -> Any:
            done = self.connection.execute(statement, *values)
            if statement == "COMMIT" and self.failures:
                self.failures -= 1
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
                error.sqlite_errorcode = 1034
                raise error
            return done

    engine._writer.connection = Failing(engine._writer.connection)  # type: ignore[assignment]
    commit = writer.prepared({"a": 2})
    with pytest.raises(errors.OutcomeUnknown):
        storage.commit(commit)
    assert storage.commit(commit) == 2
    assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_records_that_no_database_can_hold_are_refused_without_their_values(
    storage: SqlWorkflowStorage,
) -> None:
    for run in (make_run(base_version=2**70), make_run(workflow_id="secret \ud800")):
        with pytest.raises(errors.InvalidInput) as caught:
            Writer(storage).commit({"a": 1}, run=run)
        assert "secret" not in str(caught.value)
    assert storage.load("", "s") is None


def test_a_value_never_appears_in_an_error(storage: SqlWorkflowStorage) -> None:
    canary = "canary-value"
    writer = Writer(storage)
    writer.commit({"a": canary}, snapshot=True, run=make_run(input=canary.encode(), output=canary.encode()))
    late = Writer(storage).prepared({"b": canary}, run=make_run(input=canary.encode()))
    seen: list[str] = []
    for call in (
        lambda: storage.commit(late),
        lambda: storage.load("", "s", at=9),
        lambda: storage._write(lambda db: db.change("insert_patch", owner=canary)),
        lambda: storage._write(lambda db: db.change("put_run", owner=[canary])),
    ):
        with pytest.raises(errors.HoldfastError) as caught:
            call()
        seen.append(str(caught.value))
    assert canary not in "".join(seen)


# Migrations


def test_every_migration_is_recorded_once(storage: SqlWorkflowStorage, file: Path) -> None:
    storage.find_sessions(None)
    with closing(SqlWorkflowStorage("other", db_file=file)) as other:
        other.find_sessions(None)
        records = other._read(schema.applied)
    assert records == {("", 1), ("workflow_sessions", 2), ("other", 2)}


def test_a_half_made_prefix_is_completed_by_its_missing_migration(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(schema._RECORDS)
    with closing(SqlWorkflowStorage(db_file=file)) as storage:
        Writer(storage).commit({"a": 1})
        assert storage.check() == ()


def test_pruning_by_age_without_old_changes_keeps_everything(storage: SqlWorkflowStorage) -> None:
    writer = Writer(storage)
    for number in range(4):
        writer.commit({"a": number}, snapshot=True)
    assert storage.prune_session("", "s", timedelta(hours=1)) == 0
