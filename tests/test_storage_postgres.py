"""PostgreSQL beyond the storage interface: how it is named and reached, races, waits, breaks off and fails."""

from __future__ import annotations

import builtins
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from holdfast import clock, errors
from holdfast.records import Claim, Place, RunStatus
from holdfast.storage import pool as pool_module
from holdfast.storage import registry, schema
from holdfast.storage.postgres import PostgresServer, PostgresStatements, shown, valid_url
from holdfast.storage.queries import Statements
from holdfast.storage.server import ServerEngine
from holdfast.storage.sql import SqlWorkflowStorage, table_names
from holdfast.testing import Writer, adjustable_clock, make_run, rebuilt, run_in_threads
from holdfast.testing_steps import make_entry, make_step, put
from postgres import PASSWORD, Proxy, Server, with_options
from postgres import schema as own_schema

MIGRATIONS = Path(schema.__file__).parent / "migrations"


@pytest.fixture
def storage(pg_url: str) -> Iterator[SqlWorkflowStorage]:
    with closing(SqlWorkflowStorage(db_url=pg_url, lock_timeout=10)) as storage:
        yield storage


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that the tests of this module may stop, kill and start again."""
    with Server() as server:
        yield server


@pytest.fixture
def proxied(server: Server) -> Iterator[tuple[Proxy, str]]:
    """A proxy, and a URL of an empty schema by way of it."""
    with own_schema(server.url) as direct, Proxy(server.port) as proxy:
        options = direct.partition("options=")[2]
        yield proxy, f"{server.tcp_url_at(proxy.port)}?options={options}"


def engine_of(storage: SqlWorkflowStorage) -> ServerEngine:
    storage.find_sessions(None, limit=0)
    engine = registry._engines[storage._key]
    assert isinstance(engine, ServerEngine)
    return engine


def sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


# How a server is named


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgres://ann:s3cret@h:5433/d", "postgresql://ann@h:5433/d"),
        ("postgresql://ann:s3cret@h1:1,h2:2/d?sslmode=require", "postgresql://ann@h1:1,h2:2/d"),
        ("postgresql://:s3cret@h/d", "postgresql://h/d"),
        ("postgresql:///d?host=/tmp/x&user=ann&password=s3cret", "postgresql:///d?host=/tmp/x&user=ann"),
        ("postgresql://ann:s3cret%40@[::1]:5/d", "postgresql://ann@[::1]:5/d"),
    ],
)
def test_a_server_is_shown_without_its_password(url: str, expected: str) -> None:
    storage = SqlWorkflowStorage(db_url=url)
    assert (storage.where, storage.url) == (expected, url)
    assert "s3cret" not in storage.where


@pytest.mark.parametrize("userinfo", ["ann:s3c/ret", "ann:s3c/r@et", "ann:s3c ret", "ann:s3c\0ret"])
def test_a_password_that_is_not_encoded_is_refused_unseen(userinfo: str) -> None:
    for call in (lambda url: SqlWorkflowStorage(db_url=url), table_names):
        with pytest.raises(errors.InvalidInput, match="%2F") as caught:
            call(f"postgresql://{userinfo}@h/d")
        assert "s3c" not in str(caught.value)


def test_the_environment_may_name_a_server(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_DB", pg_url)
    with closing(SqlWorkflowStorage("a")) as one, closing(SqlWorkflowStorage("b")) as other:
        for storage in (one, other):
            Writer(storage).commit({"a": storage.table_name})
        assert rebuilt(one.load("", "s")) == {"a": "a"}
    assert table_names(pg_url) == ("a", "b")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        closing(SqlWorkflowStorage(db_url="postgresql://h/d")) as storage,
        pytest.raises(errors.InvalidInput, match=r"pip install 'holdfast\[postgres\]'"),
    ):
        storage.load("", "s")


def test_the_package_is_loaded_when_a_server_is_used() -> None:
    code = "import sys; from holdfast import SqlWorkflowStorage as S; S(db_url='postgresql://h/d'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "holdfast.storage.postgres" in loaded
    assert "psycopg" not in loaded


# What cannot be reached


def refused(url: str, kind: type[errors.HoldfastError], message: str, timeout: float = 5) -> None:
    """Opening this fails at once with this error, in which no part of a password is seen, nor in what led to it."""
    began = time.monotonic()
    with (
        closing(SqlWorkflowStorage(db_url=url, lock_timeout=timeout)) as storage,
        pytest.raises(kind, match=message) as caught,
    ):
        storage.load("", "s")
    assert time.monotonic() - began < timeout
    whole = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.facts)
    for secret in (PASSWORD, "Canary", "Pa55"):
        assert secret not in whole


def test_a_server_that_is_not_there_is_said_so_at_once() -> None:
    refused("postgresql://ann:Canary-Pa55@127.0.0.1:1/d", errors.StorageUnavailable, "refused")
    refused("postgresql://ann:Canary-Pa55@/d?host=/nowhere", errors.StorageUnavailable, "cannot be reached")


def test_a_wrong_password_user_or_database_is_said_so_at_once(server: Server) -> None:
    refused(server.tcp_url_at(server.port, "Canary-Pa55-wrong"), errors.InvalidInput, "authentication failed")
    refused(server.tcp_url.removesuffix("/postgres") + "/nothing", errors.InvalidInput, "does not exist")
    refused(server.url.replace("postgres@", "nobody@"), errors.InvalidInput, "does not exist")
    refused(f"postgresql://postgres@127.0.0.1:{server.port}/postgres", errors.InvalidInput, "no password supplied")


def test_a_parameter_that_there_is_not_is_wrong_use(server: Server) -> None:
    refused(server.tcp_url + "?nonsense=Canary", errors.InvalidInput, "not a valid")


def test_a_database_that_cannot_keep_every_text_is_refused(server: Server) -> None:
    sql(server.url, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    refused(server.url.replace("@/postgres", "@/latin"), errors.InvalidInput, "LATIN1")


def test_all_connections_taken_by_others_is_waited_for(server: Server) -> None:
    with Server("max_connections=5", "superuser_reserved_connections=0") as small, own_schema(small.url) as url:
        others = [psycopg.connect(small.url) for _ in range(5)]
        with (
            closing(SqlWorkflowStorage(db_url=url, lock_timeout=0.3)) as storage,
            pytest.raises(errors.StorageUnavailable, match="too many"),
        ):
            storage.load("", "s")
        with closing(SqlWorkflowStorage(db_url=url, lock_timeout=10)) as storage:
            threading.Timer(0.3, others[0].close).start()
            Writer(storage).commit({"a": 1})
        for other in others:
            other.close()


# Migrations


def test_ten_processes_that_start_at_once_on_an_empty_database_all_succeed(pg_url: str) -> None:
    source = """
import sys
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer
storage = SqlWorkflowStorage(db_url=sys.argv[1])
sys.stdin.readline()
Writer(storage, "", sys.argv[2]).commit({"a": 1})
storage.close()
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", source, pg_url, str(number)], stdin=subprocess.PIPE, text=True)
        for number in range(10)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 10
    with closing(SqlWorkflowStorage(db_url=pg_url)) as storage:
        assert len(storage.find_sessions(None)) == 10
        assert storage.check() == ()


def test_threads_of_many_engines_migrate_at_once(pg_url: str) -> None:
    def prepare() -> None:
        engine = ServerEngine(PostgresServer(pg_url))
        try:
            engine.read(lambda _: None, table="t", timeout=20)
        finally:
            engine.stop(wait=5)

    run_in_threads(prepare, 6)
    assert table_names(pg_url) == ("t",)


def test_each_prefix_is_migrated_and_recorded_once(pg_url: str) -> None:
    for name in ("a", "b", "a"):
        with closing(SqlWorkflowStorage(name, db_url=pg_url)) as storage:
            records = storage._read(schema.applied)
    numbers = set(schema._migrations("postgres"))
    assert records == {("", 1)} | {(name, number) for name in ("a", "b") for number in numbers - {1}}


def test_a_table_of_somebody_else_is_never_used(pg_url: str) -> None:
    sql(pg_url, "CREATE TABLE t_patch (a INTEGER)")
    with (
        closing(SqlWorkflowStorage("t", db_url=pg_url)) as storage,
        pytest.raises(errors.ForeignDatabase, match="t_patch"),
    ):
        storage.load("", "s")
    with pytest.raises(errors.ForeignDatabase, match="holdfast_catalogue"):
        table_names(pg_url)
    sql(pg_url, "CREATE TABLE holdfast_migration (a INTEGER)")
    with (
        closing(SqlWorkflowStorage("u", db_url=pg_url)) as storage,
        pytest.raises(errors.ForeignDatabase, match="holdfast_migration"),
    ):
        storage.load("", "s")
    assert sql(pg_url, "SELECT * FROM holdfast_migration") == []


def test_tables_of_another_schema_are_not_ours(pg_url: str) -> None:
    with own_schema() as other, closing(SqlWorkflowStorage(db_url=other)) as theirs:
        Writer(theirs).commit({"a": 1})
        with closing(SqlWorkflowStorage(db_url=pg_url)) as storage:
            assert storage.load("", "s") is None


def test_a_database_of_a_newer_release_is_refused(storage: SqlWorkflowStorage, pg_url: str) -> None:
    Writer(storage).commit({"a": 1})
    sql(pg_url, "INSERT INTO holdfast_migration VALUES ('', 99, 0)")
    with (
        closing(SqlWorkflowStorage("other", db_url=pg_url)) as later,
        pytest.raises(errors.SchemaTooNew, match="schema 99"),
    ):
        later.load("", "s")


def test_both_databases_have_the_same_tables_with_the_same_columns_in_the_same_order() -> None:
    types = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "BLOB": "BYTEA", "TEXT": 'TEXT COLLATE "C"'}
    sqlite = {file.name: file.read_text(encoding="utf-8") for file in (MIGRATIONS / "sqlite").iterdir()}
    for name, text in sqlite.items():
        expected = text
        for ours, theirs in types.items():
            expected = expected.replace(f" {ours}", f" {theirs}")
        assert (MIGRATIONS / "postgres" / name).read_text(encoding="utf-8") == expected
    assert len(sqlite) == len(list((MIGRATIONS / "postgres").iterdir()))


def test_a_user_who_may_only_read_can_read_what_is_there(storage: SqlWorkflowStorage, pg_url: str) -> None:
    Writer(storage).commit({"a": 1}, snapshot=True)
    with closing(SqlWorkflowStorage(db_url=with_options(pg_url, "-c default_transaction_read_only=on"))) as reader:
        assert rebuilt(reader.load("", "s")) == {"a": 1}
        with pytest.raises(errors.StorageReadOnly, match="25006"):
            Writer(reader, "", "t").commit({"a": 1})
    with (
        closing(SqlWorkflowStorage("u", db_url=with_options(pg_url, "-c default_transaction_read_only=on"))) as reader,
        pytest.raises(errors.StorageReadOnly),
    ):
        reader.load("", "s")


def test_a_user_without_rights_is_told_so(storage: SqlWorkflowStorage, pg_url: str) -> None:
    Writer(storage).commit({"a": 1})
    role = f"weak_{os.urandom(4).hex()}"
    ((space,),) = sql(pg_url, "SELECT current_schema()")
    sql(pg_url, f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {space} TO {role}")
    sql(pg_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA {space} TO {role}")
    try:
        with closing(SqlWorkflowStorage(db_url=with_options(pg_url, f"-c role={role}"))) as weak:
            assert rebuilt(weak.load("", "s")) == {"a": 1}
            with pytest.raises(errors.StorageReadOnly, match=r"(?s)42501.*database\s+user"):
                Writer(weak, "", "t").commit({"a": 1})
    finally:
        sql(pg_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_tables_that_are_dropped_under_a_running_program_are_missed(storage: SqlWorkflowStorage, pg_url: str) -> None:
    Writer(storage).commit({"a": 1})
    sql(pg_url, "DROP TABLE workflow_sessions_session")
    with pytest.raises(errors.DatabaseReplaced):
        storage.load("", "s")


# Statements


def test_only_what_the_file_of_queries_says_is_run_and_no_value_becomes_part_of_it(
    storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of(storage)
    seen: list[str] = []
    execute = psycopg.Connection.execute

    def watched(connection: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(str(query))
        return execute(connection, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", watched)
    hostile = "'; DROP TABLE workflow_sessions_session; --"
    Writer(storage, hostile, hostile).commit({hostile: hostile}, snapshot=True, run=make_run(hostile, hostile))
    storage.rename_session(hostile, hostile, hostile + "2")
    storage.delete_session(hostile, hostile + "2")
    assert seen
    assert not any("DROP" in statement for statement in seen)
    assert storage.check() == ()


def test_long_names_and_ids_that_fill_an_index_are_kept_apart(storage: SqlWorkflowStorage) -> None:
    owner, session_id = "\U0001f600" * 255, "\U0001f601" * 255
    noise = "".join(chr(0x10000 + os.urandom(1)[0] * 99) for _ in range(1000))
    names = [noise, noise + "a", "b" + noise, "c" * 512, "c" * 513]
    writer = Writer(storage, owner, session_id)
    writer.commit(dict.fromkeys(names, 1), snapshot=True)
    writer.commit({name: number for number, name in enumerate(names)}, snapshot=True)
    assert list(rebuilt(storage.load(owner, session_id)).items()) == [(name, n) for n, name in enumerate(names)]
    info = storage.find_sessions(owner)[0]
    found = storage.read_values(owner, session_id, names, incarnation=info.incarnation, at=info.snapshot_version)
    assert set(found) == set(names)
    assert storage.check() == ()


def test_what_cannot_be_stored_is_refused_without_being_shown(storage: SqlWorkflowStorage) -> None:
    for run in (make_run(base_version=2**70), make_run(workflow_id="secret \ud800"), make_run(workflow_id="secret \0")):
        with pytest.raises(errors.InvalidInput) as caught:
            Writer(storage).commit({"a": 1}, run=run)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert storage.load("", "s") is None


def test_no_error_shows_a_value(storage: SqlWorkflowStorage, pg_url: str) -> None:
    canary = "canary-value"
    Writer(storage, canary, canary).commit({"a": canary}, snapshot=True, run=make_run(canary, canary))
    works: list[Callable[[Statements], object]] = [
        lambda db: db.put("insert_snapshot", (canary, canary, 1, b"", canary.encode())),  # a unique violation
        lambda db: db.put("insert_patch", (canary,) * 8),  # invalid text for a number
    ]
    for work in works:
        with pytest.raises(errors.StorageError) as caught:
            storage._write(work)
        assert canary not in "".join(traceback.format_exception(caught.value))


def test_a_bug_in_a_request_reaches_its_caller_and_leaves_nothing_open(storage: SqlWorkflowStorage) -> None:
    def work(_: Statements) -> None:
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            storage._write(work)
        with pytest.raises(ZeroDivisionError):
            storage._read(work)
    assert len(engine_of(storage)._pool._idle) == 1


def test_the_clock_of_the_server_decides_who_lives(
    storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(clock.Clock):
        def now(self) -> float:
            return 1_000.0

    monkeypatch.setattr(clock, "current", Wrong())
    Writer(storage).commit({"a": 1}, run=make_run(status=RunStatus.running))
    (run,) = storage.find_runs("")
    assert (run.status, run.started_at) == (RunStatus.running, 1_000.0)
    ((beat,),) = storage._read(lambda db: [(row[1],) for row in db.all("beats")])
    assert abs(beat - time.time()) < 5
    with adjustable_clock() as hands:
        assert storage._read(lambda db: db.now()) == hands.time


def test_the_level_of_synchronisation_is_set_for_the_transaction_only(pg_url: str) -> None:
    level = "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout')"
    with closing(SqlWorkflowStorage(db_url=pg_url, synchronous="NORMAL")) as storage:
        inside = storage._write(lambda db: db.connection.execute(level).fetchone())
        assert inside is not None
        assert inside[0] == "off"
        assert 29_000 < int(inside[1].removesuffix("ms")) <= 30_000
        outside = storage._read(lambda db: db.connection.execute(level).fetchone(), is_one_statement=True)
        assert outside == ("on", "0")


# Writers at the same time


def test_many_first_commits_of_one_session_make_one(pg_url: str) -> None:
    outcomes: list[object] = []
    storages = [SqlWorkflowStorage(db_url=f"{pg_url}&application_name=a{number}") for number in range(6)]
    for storage in storages:
        storage.find_sessions(None)
    rest = list(storages)

    def first() -> None:
        storage = rest.pop()
        for number in range(20):
            try:
                outcomes.append(storage.commit(Writer(storage, "", f"s{number}").prepared({"a": 1})))
            except errors.VersionConflict:
                outcomes.append("conflict")

    run_in_threads(first, 6)
    assert outcomes.count(1) == 20
    assert outcomes.count("conflict") == 100
    assert storages[0].check() == ()
    for storage in storages:
        storage.close()


def test_no_update_of_a_hot_session_is_lost(pg_url: str) -> None:
    storages = [SqlWorkflowStorage(db_url=f"{pg_url}&application_name=a{number}") for number in range(4)]
    first = Writer(storages[0])
    first.commit({"n": 0})
    rest = list(storages)

    def count() -> None:
        storage = rest.pop()
        done = 0
        while done < 15:
            stored = storage.load("", "s")
            assert stored is not None
            writer = Writer(storage)
            writer.incarnation, writer.version = first.incarnation, stored.info.version
            writer.states = [rebuilt(stored)] * (writer.version + 1)
            try:
                storage.commit(writer.prepared({"n": rebuilt(stored)["n"] + 1}, snapshot=done % 4 == 0))
            except (errors.VersionConflict, errors.InvalidInput):
                continue
            done += 1

    run_in_threads(count, 4)
    assert rebuilt(storages[0].load("", "s"), storages[0]) == {"n": 60}
    assert storages[0].check() == ()
    for storage in storages:
        storage.close()


def test_deleting_renaming_and_committing_at_once_leave_no_orphans(pg_url: str) -> None:
    storages = [SqlWorkflowStorage(db_url=f"{pg_url}&application_name=a{number}") for number in range(4)]
    end = time.monotonic() + 4
    rest = list(range(4))
    expected = (errors.VersionConflict, errors.SessionDeleted, errors.SessionNotFound, errors.SessionExists)

    def attempt(call: Callable[..., object], *arguments: object) -> None:
        with suppress(*expected):
            call(*arguments)

    def work() -> None:
        storage = storages[rest.pop()]
        while time.monotonic() < end:
            writer = Writer(storage)
            attempt(storage.commit, writer.prepared({"a": 1}, snapshot=True, run=make_run()))
            writer.applied({"a": 1}, snapshot=True)
            attempt(storage.commit, writer.prepared({"a": 2}, run=make_run()))
            attempt(storage.commit, replace(writer.prepared({}), patch=None, run=make_run()))
            attempt(storage.rename_session, "", "s", "t")
            attempt(storage.delete_session, "", "t")
            attempt(storage.delete_session, "", "s")

    run_in_threads(work, 4)
    assert storages[0].check() == ()
    heads = {info.session_id for info in storages[0].find_sessions("")}
    assert {run.session_id for run in storages[0].find_runs("")} <= heads
    for storage in storages:
        storage.close()


def test_a_deadlock_and_a_serialization_failure_are_repeated(storage: SqlWorkflowStorage) -> None:
    engine_of(storage)
    failures: list[type[Exception]] = [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure]

    def work(db: Statements) -> int:
        db.put("put_beat", ("p", 1.0, b""))
        if failures:
            raise failures.pop()
        return len(db.all("beats"))

    assert storage._write(work) == 1
    assert not failures


def test_a_real_deadlock_is_resolved(storage: SqlWorkflowStorage) -> None:
    for name in ("a", "b"):
        Writer(storage, "", name).commit({"x": 1})
    barrier = threading.Barrier(2, timeout=20)
    orders = [("a", "b"), ("b", "a")]
    met: list[None] = []

    def work() -> None:
        first, second = orders.pop()

        def lock(db: Statements) -> None:
            db.all("find_head_to_change", owner="", session_id=first)
            if len(met) < 2:
                met.append(None)
                barrier.wait()
            db.all("find_head_to_change", owner="", session_id=second)

        storage._write(lock)

    run_in_threads(work, 2)


# Waiting


def test_a_commit_that_meets_a_locked_row_waits_so_long_and_says_so(pg_url: str) -> None:
    with closing(SqlWorkflowStorage(db_url=pg_url, lock_timeout=0.3)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        with psycopg.connect(pg_url) as other:
            other.execute("SELECT * FROM workflow_sessions_session FOR UPDATE")
            began = time.monotonic()
            with pytest.raises(errors.StorageBusy, match=r"busy for 0\.3 s"):
                storage.commit(writer.prepared({"a": 2}))
            assert 0.2 < time.monotonic() - began < 5
            assert rebuilt(storage.load("", "s")) == {"a": 1}
        writer.commit({"a": 3})
        assert rebuilt(storage.load("", "s")) == {"a": 3}


def test_a_process_has_few_connections_and_a_thread_waits_for_one(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(SqlWorkflowStorage(db_url=pg_url, lock_timeout=20)) as storage:
        engine = engine_of(storage)
        most: list[int] = []

        def work() -> None:
            for _ in range(5):
                storage._read(lambda _: (most.append(len(engine._pool._loans)), time.sleep(0.01)))

        run_in_threads(work, 20)
        assert 1 < max(most) <= pool_module.MAX_CONNECTIONS
        assert len(engine._pool._idle) <= pool_module.MAX_CONNECTIONS
        assert not engine._pool._loans
    ((count,),) = sql(
        pg_url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdfast' AND query LIKE '%hf%'"
    )
    assert count == 0


def test_who_gets_no_connection_in_time_is_told_that_the_database_is_busy(pg_url: str) -> None:
    with closing(SqlWorkflowStorage(db_url=pg_url, lock_timeout=0.2)) as storage:
        engine = engine_of(storage)
        engine._pool._limit = 1
        entered, leave = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: storage._read(lambda _: (entered.set(), leave.wait(10))))
        thread.start()
        assert entered.wait(10)
        with pytest.raises(errors.StorageBusy, match=r"0\.2 s"):
            storage.load("", "s")
        leave.set()
        thread.join()
        assert storage.load("", "s") is None


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(storage)
    ((before, _),) = engine._pool._idle
    monkeypatch.setattr(pool_module, "_MAX_IDLE", -1.0)
    storage.load("", "s")
    assert before.closed


# A finalizer that the garbage collector runs in the middle of another write


def test_a_commit_in_the_middle_of_another_is_done_after_that(storage: SqlWorkflowStorage) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    commit = writer.prepared({"a": 2})
    answers: list[object] = []

    def finalize(db: Statements) -> None:
        db.all("find_head_to_change", owner="", session_id="s")  # the commit would wait for this for ever
        answers.append(rebuilt(storage.load("", "s")))
        answers.append(storage.commit(commit))

    engine_of(storage)._pool._limit = 1
    storage._write(finalize)
    assert answers == [{"a": 1}, 2]
    assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_its_failure_is_raised_by_the_next_call(storage: SqlWorkflowStorage) -> None:
    writer = Writer(storage)
    late = writer.prepared({"b": 1})
    writer.commit({"a": 1})
    storage._write(lambda _: storage.commit(late))
    with pytest.raises(errors.VersionConflict):
        storage.load("", "s")
    assert rebuilt(storage.load("", "s")) == {"a": 1}


def test_it_is_done_even_if_the_other_fails(storage: SqlWorkflowStorage) -> None:
    writer = Writer(storage)
    commit = writer.prepared({"a": 1})

    def finalize(_: Statements) -> None:
        storage.commit(commit)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage._write(finalize)
    assert rebuilt(storage.load("", "s")) == {"a": 1}


@pytest.fixture
def untraced() -> Iterator[None]:
    """Nothing traces this thread: what measures coverage waits for ever for a lock that an interrupt left closed."""
    tracing = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracing)


@pytest.mark.usefixtures("untraced")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of POSIX")
@pytest.mark.parametrize("over_tcp", [False, True])
def test_an_interrupt_at_any_moment_loses_neither_a_commit_nor_a_connection(server: Server, over_tcp: bool) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    dice = random.Random(7)
    before = signal.signal(signal.SIGALRM, interrupt)
    with own_schema(server.url) as url, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a connection that an interrupt kept from reaching the pool
        tcp_url = f"{server.tcp_url}?options={url.partition('options=')[2]}"
        storage = SqlWorkflowStorage(db_url=tcp_url if over_tcp else url, lock_timeout=5)
        engine = engine_of(storage)
        writer, hits = Writer(storage), 0
        while hits < 150:
            is_whole = writer.version % 7 == 3
            commit = writer.prepared({"n": writer.version}, snapshot=is_whole)
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00005, 0.002))
                storage.commit(commit)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hits += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                storage.commit(commit)  # made exactly once, whether the interrupted one was made or not
            writer.applied({"n": writer.version}, snapshot=is_whole)
        signal.signal(signal.SIGALRM, before)
        stored = storage.load("", "s")
        assert stored is not None
        assert (stored.info.version, rebuilt(stored, storage)) == (writer.version, {"n": writer.version - 1})
        assert not engine._pool._loans
        assert not engine._writing
        assert storage.check() == ()
        storage.close()


# Broken lines


def test_a_restart_of_the_server_between_two_commits_is_survived(server: Server) -> None:
    for mode in ("fast", "immediate"):
        with own_schema(server.url) as url, closing(SqlWorkflowStorage(db_url=url)) as storage:
            writer = Writer(storage)
            writer.commit({"a": 1})
            server.stop(mode)  # type: ignore[arg-type]
            server.start()
            writer.commit({"a": 2})
            assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_a_server_that_comes_back_in_time_is_waited_for(server: Server) -> None:
    with own_schema(server.url) as url, closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        server.kill()
        threading.Timer(0.5, server.start).start()
        writer.commit({"a": 2})
        assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_a_server_that_does_not_come_back_is_unavailable_and_nothing_was_written(server: Server) -> None:
    with own_schema(server.url) as url, closing(SqlWorkflowStorage(db_url=url, lock_timeout=0.5)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        server.stop()
        try:
            for call in (lambda: storage.commit(writer.prepared({"a": 2})), lambda: storage.load("", "s")):
                with pytest.raises(errors.StorageUnavailable, match="Nothing was written"):
                    call()
        finally:
            server.start()
        assert rebuilt(storage.load("", "s")) == {"a": 1}


def test_a_connection_that_is_terminated_in_the_middle_of_a_commit_is_replaced(
    storage: SqlWorkflowStorage, pg_url: str
) -> None:
    writer = Writer(storage)
    writer.commit({"a": 1})
    killed: list[int] = []
    put = PostgresStatements.put

    def interrupted(db: PostgresStatements, query: str, row: Any) -> int:
        done = put(db, query, row)
        if query == "advance_head" and not killed:
            killed.append(db.connection.info.backend_pid)
            sql(pg_url, f"SELECT pg_terminate_backend({killed[0]}, 5000)")
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresStatements, "put", interrupted)
        writer.commit({"a": 2})
    assert killed
    assert rebuilt(storage.load("", "s")) == {"a": 2}
    assert [change.version for change in storage.changes("", "s")] == [1, 2]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_answer_is_lost_is_made_exactly_once(proxied: tuple[Proxy, str], when: Any) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        writer = Writer(storage)
        for number in range(12):
            proxy.drops = [when] if number % 2 else []
            writer.commit({"n": number}, snapshot=number % 5 == 4, run=make_run() if number % 3 == 0 else None)
            assert not proxy.drops
        proxy.drops = [when, when]
        writer.commit({"n": "last"})
        assert [change.version for change in storage.changes("", "s")] == list(range(1, 14))
        assert rebuilt(storage.load("", "s")) == {"n": "last"}
        assert storage.check() == ()


def test_without_the_commit_id_it_would_be_made_twice(
    proxied: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        writer = Writer(storage)
        writer.commit({"n": 0})
        one = Statements.one
        monkeypatch.setattr(
            Statements, "one", lambda db, query, **v: None if query == "find_commit" else one(db, query, **v)
        )
        proxy.drops = ["after"]
        with pytest.raises(errors.VersionConflict):  # it takes its own commit for that of somebody else
            storage.commit(writer.prepared({"n": 1}))
        assert rebuilt(storage.load("", "s")) == {"n": 1}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_does_not_recognise_itself_is_not_repeated(proxied: tuple[Proxy, str], when: Any) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url)) as storage:
        Writer(storage).commit({"a": 1})
        proxy.drops = [when]
        with pytest.raises(errors.OutcomeUnknown, match="did not say"):
            storage.delete_session("", "s")
        assert (storage.load("", "s") is None) is (when == "after")


def test_an_outcome_that_cannot_be_found_out_in_time_is_unknown(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=0.6)) as storage:
        writer = Writer(storage)
        writer.commit({"a": 1})
        commit = writer.prepared({"a": 2})
        proxy.drops, proxy.refuses = ["after"], True
        with pytest.raises(errors.OutcomeUnknown):
            storage.commit(commit)
        proxy.refuses = False
        assert storage.commit(commit) == 2
        assert rebuilt(storage.load("", "s")) == {"a": 2}


def test_a_line_that_breaks_in_the_middle_of_a_read_is_replaced(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        Writer(storage).commit({"a": 1}, snapshot=True)
        cuts = [proxy.cut, lambda: None]

        def work(db: Statements) -> int:
            cuts.pop(0)()
            return len(db.all("heads_of_all_owners", session_id=None, limit=9, least=0))

        assert storage._read(work) == 1
        proxy.cut()
        assert rebuilt(storage.load("", "s")) == {"a": 1}


# Forks and the end of the process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_and_its_parent_go_on_with_connections_of_their_own(
    pg_url: str, run_python: Callable[[str], str]
) -> None:
    said = run_python(f"""
import os, threading
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.storage import registry
from holdfast.testing import Writer, rebuilt
storage = SqlWorkflowStorage(db_url={pg_url!r})
mine = Writer(storage, "", "parent")
mine.commit({{"a": 1}})
entered, leave = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: storage._write(lambda db: (
    db.put("put_beat", ("p", 1.0, b"")), entered.set(), leave.wait(30), print(len(db.all("beats"))))))
thread.start()
entered.wait()
child = os.fork()
if not child:
    engine = registry._engines[storage._key]
    assert not engine._pool._idle and not engine._pool._loans
    Writer(storage, "", "child").commit({{"b": 2}})
    assert rebuilt(storage.load("", "parent")) == {{"a": 1}}
    storage.close()
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
leave.set()
thread.join()
mine.commit({{"a": 2}})
print(rebuilt(storage.load("", "child")), rebuilt(storage.load("", "parent")))
""")
    assert said.splitlines() == ["1", "{'b': 2} {'a': 2}"]


def test_a_process_ends_in_silence_with_its_connections_closed(pg_url: str, tmp_path: Path) -> None:
    source = f"""
from holdfast import SqlWorkflowStorage, Workflow
class Notes(Workflow):
    def run(self):
        self.session_state["n"] = 1
        yield "x"
storage = SqlWorkflowStorage(db_url={pg_url!r})
open_run = Notes(session_id="s", storage=storage).run()
next(open_run)
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with closing(SqlWorkflowStorage(db_url=pg_url)) as storage:
        assert [run.status for run in storage.find_runs("")] == [RunStatus.cancelled]


def test_no_thread_is_started(storage: SqlWorkflowStorage) -> None:
    before = set(threading.enumerate())
    Writer(storage).commit({"a": 1})
    assert set(threading.enumerate()) == before


def test_closing_says_when_another_thread_is_still_writing(pg_url: str) -> None:
    storage = SqlWorkflowStorage(db_url=pg_url, lock_timeout=0.2)
    engine = engine_of(storage)
    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: storage._read(lambda _: (entered.set(), leave.wait(10))))
    thread.start()
    assert entered.wait(10)
    with pytest.raises(errors.StorageBusy):
        storage.close()
    leave.set()
    thread.join()
    assert not engine._pool._loans
    assert not engine._pool._idle


# Damage


@pytest.fixture(scope="module")
def damaged_url(server: Server) -> Iterator[str]:
    with own_schema(server.url) as url:
        with closing(SqlWorkflowStorage("t", db_url=url)) as storage:
            for owner in ("", "ann"):
                writer = Writer(storage, owner, "s")
                for number in range(12):
                    state = {"same": "x" * 700, "number": number, f"k{number % 4}": number}
                    run = make_run(owner, "s", RunStatus.running, run_id=f"r{number}", input=b"{}", output=b"1")
                    writer.commit(state, snapshot=number % 4 == 2, run=run)
                steps = (make_step(1), make_step(2, patch=b"[]"))
                storage.commit(replace(writer.prepared({}), patch=None, run_id="r3", steps=steps))
                put(storage.step_cache, make_entry("a", Place(owner, "s")), ttl=1e9)
            storage.prune_session("ann", "s", 5)
            storage.claim_lease(Claim("ann", "s", "held", seconds=1e9, is_exclusive=True))
            storage.claim_lease(Claim("ann", "s", "waiting", seconds=1e9))
        yield url


def test_a_change_to_any_column_of_any_row_is_found(damaged_url: str) -> None:
    columns = sql(
        damaged_url,
        "SELECT relname, attname, format_type(atttypid, -1) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND attnum > 0 "
        "AND (relname LIKE 't\\_%' OR relname IN ('holdfast_process', 'holdfast_step_entry')) "
        "AND NOT (relname = 'holdfast_step_entry' AND attname IN ('lease_id', 'lease_until', 'used_at', 'hits')) "
        "ORDER BY relname, attnum",
    )
    changes = {
        "text": "COALESCE({0}, '') || 'x'",
        "bigint": "COALESCE({0}, 0) + 1",
        "double precision": "COALESCE({0}, 0) + 1",
        "bytea": "COALESCE({0}, '') || 'x'",
        "boolean": "NOT {0}",
    }
    with closing(SqlWorkflowStorage("t", db_url=damaged_url)) as storage:
        assert storage.check() == ()
        found = 0
        for table, column, kind in columns:
            row = f"ctid = (SELECT MAX(ctid) FROM {table})"
            changed = changes[kind].format(column)

            def look(table: str = table, column: str = column, row: str = row, changed: str = changed) -> bool:
                """Whether a check finds it; the transaction that damages is never committed."""
                engine = engine_of(storage)

                def work(connection: Any) -> bool:
                    change = f"UPDATE {table} SET {column} = {changed} WHERE {row} RETURNING 1"
                    assert connection.execute(change).fetchall(), f"there is nothing in {table}"
                    from holdfast.storage.checking import check

                    is_found = bool(check(PostgresStatements(connection, "t", "x")))
                    raise Undone(is_found)

                try:
                    return bool(engine.write(work, table="t", timeout=5, is_durable=False, failures=[]))
                except Undone as undone:
                    return undone.is_found

            assert look(), f"a change of {table}.{column} was not found"
            found += 1
        assert found > 40
        assert storage.check() == ()


class Undone(Exception):
    def __init__(self, is_found: bool) -> None:
        self.is_found = is_found


def test_a_valid_url_is_returned_and_shown_alike() -> None:
    url = "postgresql://ann@h:5432/d"
    assert valid_url(url) == shown(url) == url
