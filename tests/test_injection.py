"""No text becomes SQL: whatever ids, names and numbers hold, the database does only what it is known to do."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from holdfast.errors import HoldfastError, InvalidInput
from holdfast.records import Place
from holdfast.storage import base, queries
from holdfast.storage.queries import Statements, valid_table_name
from holdfast.storage.sql import SqlWorkflowStorage, table_names
from holdfast.storage.sqlite import SQLiteFile
from holdfast.testing import HOSTILE_TEXTS, Writer, make_run, rebuilt
from holdfast.testing_steps import key_of, make_entry, make_step, put
from holdfast.workflow import Workflow
from storage_calls import OPERATIONS, Caller

FOLDER = Path(base.__file__).parent
OURS = re.compile(
    r"t_(session|lease|patch|snapshot|value|run|step)|holdfast_(process|catalogue|migration|step_entry)|sqlite_master"
)
ON_TABLES = {sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
PRAGMAS = {
    *("synchronous", "integrity_check", "journal_mode", "table_info", "page_size", "wal_autocheckpoint", "fullfsync"),
    *("secure_delete", "query_only"),
}
FUNCTIONS = {"count", "max", "min", "length", "coalesce", "sum"}

ATTACKS = (
    *HOSTILE_TEXTS,
    "'; DROP TABLE t_session; --",
    "x' UNION SELECT name, sql FROM sqlite_master --",
    "x\"; ATTACH DATABASE 'stolen.db' AS stolen; --",
    "') OR 1=1; PRAGMA writable_schema = ON; --",
    "load_extension('x')",
    ":owner",
    "?1",
    "$owner @owner %s {table} {0.__class__}",
    "* LIMIT 1 OFFSET 0",
    "\u02bc OR \u02bc1\u02bc=\u02bc1",
)


def is_known(action: int, first: str | None, second: str | None, database: str | None) -> bool:
    """Whether an action that SQLite is about to prepare is one that Holdfast needs once its tables are made."""
    if database not in (None, "main"):
        return False
    if action in ON_TABLES:
        return bool(OURS.fullmatch(first or "")) and (first != "sqlite_master" or action == sqlite3.SQLITE_READ)
    if action == sqlite3.SQLITE_PRAGMA:
        return first in PRAGMAS
    if action == sqlite3.SQLITE_FUNCTION:
        return second in FUNCTIONS
    return action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT)


class Watch:
    """Refuses what is not known, on every connection that is opened; what was refused is in `refused`."""

    def __init__(self) -> None:
        self.refused: list[tuple[Any, ...]] = []
        self.asked = 0

    def __call__(self, action: int, first: str | None, second: str | None, database: str | None, inside: Any) -> int:
        self.asked += 1
        if is_known(action, first, second, database):
            return sqlite3.SQLITE_OK
        self.refused.append((action, first, second, database, inside))
        return sqlite3.SQLITE_DENY


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches every connection to a database file."""
    watch = Watch()
    connected = SQLiteFile._connected

    def watched(self: SQLiteFile, timeout: float) -> sqlite3.Connection:
        connection = connected(self, timeout)
        connection.set_authorizer(watch)
        return connection

    monkeypatch.setattr(SQLiteFile, "_connected", watched)
    return watch


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqlWorkflowStorage]:
    """A storage that is closed, its tables made; to be asked for before `watch`, which would not know that."""
    with closing(SqlWorkflowStorage("t", db_file=tmp_path / "t.db")) as storage:
        storage.find_sessions(None)
    with closing(SqlWorkflowStorage("t", db_file=tmp_path / "t.db")) as storage:
        yield storage


def attack(storage: SqlWorkflowStorage, owner: str, text: str) -> None:
    """Every operation, with this text wherever text can stand."""
    writer = Writer(storage, owner, text)
    writer.commit({text: text, "a": 1}, snapshot=True, run=make_run(owner, text, run_id=text, workflow_id=text))
    writer.commit({text: [text], "a": 2}, run=make_run(owner, text, run_id=text, process_id=text))
    assert rebuilt(storage.load(owner, text)) == {text: [text], "a": 2}
    assert storage.read_values(owner, text, [text], incarnation=writer.incarnation, at=1)
    steps = (make_step(name=text, scope=text), make_step(2, result=text.encode("utf-8", "surrogatepass")))
    storage.commit(replace(writer.prepared({}), patch=None, run_id=text, steps=steps))
    assert storage.find_steps(owner, text, text, with_results=True) == steps
    put(storage.step_cache, make_entry(text, Place(owner, text), step=text, workflow=text, run_id=text))
    assert len(storage.step_cache.find(owner, session_id=text, step=text, workflow=text)) == 1
    caller = Caller(storage, owner, text, text, 2, text, text, text)
    for operation in OPERATIONS.values():
        for call in operation.calls:
            with suppress(HoldfastError):
                call(caller)
    storage.beat(text)
    storage.beat(text, stopped=True)


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_no_text_makes_the_database_do_what_it_is_not_known_to_do(
    text: str, storage: SqlWorkflowStorage, watch: Watch
) -> None:
    bystander = Writer(storage, "bystander", "s")
    bystander.commit({"a": 1}, snapshot=True)
    for owner in ("", text):
        attack(storage, owner, text)
    assert watch.asked > 100
    assert watch.refused == []
    assert rebuilt(storage.load("bystander", "s")) == {"a": 1}
    assert storage.check() == ()


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_a_workflow_takes_the_same_texts(text: str, storage: SqlWorkflowStorage, watch: Watch) -> None:
    class Noting(Workflow):
        def run(self, note: str) -> str:
            self.session_state[note] = {note: [note]}
            return note

    Noting(session_id=text, user_id=text, workflow_id=text, name=text, storage=storage).run(text)
    again = Noting(session_id=text, user_id=text, storage=storage)
    assert again.session_state == {text: {text: [text]}}
    assert watch.refused == []


def test_a_statement_with_a_text_in_it_is_noticed(
    storage: SqlWorkflowStorage, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def careless(self: Statements, query: str, **values: Any) -> Any:
        text = self._texts[query].replace("= :session_id", f"= '{values.get('session_id')}'")
        return self.connection.execute(text, values).fetchall()

    with closing(sqlite3.connect(tmp_path / "t.db")) as connection, connection:
        connection.execute("CREATE TABLE another (a)")
    monkeypatch.setattr(Statements, "all", careless)
    with suppress(HoldfastError):
        storage.load("", "' UNION SELECT a, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 FROM another --")
    assert [refused for refused in watch.refused if "another" in refused]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE t_session",
        "ALTER TABLE t_session RENAME TO x",
        "CREATE TRIGGER x AFTER INSERT ON t_session BEGIN DELETE FROM t_run; END",
        "ATTACH DATABASE ':memory:' AS x",
        "PRAGMA writable_schema = ON",
        "SELECT load_extension('x')",
        "SELECT * FROM another",
        "VACUUM INTO 'x.db'",
    ],
)
def test_what_the_watch_does_not_know_is_refused(statement: str, tmp_path: Path) -> None:
    with closing(SqlWorkflowStorage("t", db_file=tmp_path / "t.db")) as storage:
        storage.find_sessions(None)
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        connection.execute("CREATE TABLE another (a)")
        watch = Watch()
        connection.set_authorizer(watch)
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute(statement)
        assert watch.refused


TEXTS = st.sampled_from(ATTACKS) | st.text(max_size=40)
NUMBERS = st.integers(-(2**70), 2**70)
ANYTHING = st.none() | st.booleans() | NUMBERS | st.floats() | TEXTS | st.binary(max_size=9) | st.lists(NUMBERS)


@settings(max_examples=150)
@given(owner=TEXTS, session_id=TEXTS, name=TEXTS, limit=ANYTHING, at=ANYTHING, after=ANYTHING)
def test_whatever_arguments_hold_every_operation_ends_in_order_and_harms_nothing(
    owner: str, session_id: str, name: str, limit: Any, at: Any, after: Any
) -> None:
    with closing(SqlWorkflowStorage("t", db_url="sqlite://")) as storage:
        bystander = Writer(storage, "bystander", "s")
        bystander.commit({"a": 1}, snapshot=True)
        storage._opened()._writer.connection.set_authorizer(watch := Watch())  # type: ignore[attr-defined, union-attr]
        calls: list[Callable[[], Any]] = [
            lambda: storage.load(owner, session_id, at=at),
            lambda: storage.load("bystander", "s", at=at),
            lambda: storage.read_values("bystander", "s", [name], incarnation=bystander.incarnation, at=at),
            lambda: storage.changes("bystander", "s", after=after, limit=limit),
            lambda: storage.find_sessions(owner, session_id=session_id, limit=limit),
            lambda: storage.find_runs(owner, session_id=session_id, run_id=name, limit=limit),
            lambda: storage.find_steps(owner, session_id, name, with_results=True),
            lambda: storage.step_cache.find(owner, session_id=session_id, step=name, limit=limit),
            lambda: storage.step_cache.claim(Place(owner, session_id), key_of(name), name, at, unless=after),
            lambda: put(storage.step_cache, make_entry(name, Place(owner, session_id), step=name), ttl=at),
            lambda: storage.step_cache.delete([(Place(owner, session_id), key_of(name))]),
            lambda: storage.prune_session("bystander", "s", limit),
            lambda: storage.rename_session(owner, session_id, name),
            lambda: storage.delete_session(owner, session_id),
            lambda: storage.beat(name),
        ]
        for call in calls:
            with suppress(
                HoldfastError, TypeError, AssertionError
            ):  # it is claimed already; an argument of another type than is asked for
                call()
        assert watch.refused == []
        assert rebuilt(storage.load("bystander", "s")) == {"a": 1}
        assert storage.check() == ()


# Table names


@settings(max_examples=500)
@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,60}", fullmatch=True) | ANYTHING)
def test_a_table_name_is_an_identifier_or_refused(name: Any) -> None:
    try:
        accepted = valid_table_name(name)
    except InvalidInput:
        return
    assert re.fullmatch(r"[a-z_][a-z0-9_]{0,47}", accepted)
    assert not accepted.startswith("sqlite")


HOSTILE_NAMES = [text for text in ATTACKS if not (text.isascii() and text.isidentifier() and len(text) < 49)]
HOSTILE_NAMES += ["", "t\n", "t\0", "t ", "\u017f", "\u212a", "sqlite_x", "SQLITE_", "9", "t" * 49]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_a_hostile_table_name_is_refused_and_opens_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="table_name must"):
        SqlWorkflowStorage(name, db_file=tmp_path / "t.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["select", "table", "holdfast", "t_session", "_", "index"])
def test_a_table_name_that_is_a_word_of_sql_is_as_good_as_any(name: str, tmp_path: Path) -> None:
    with closing(SqlWorkflowStorage(name, db_file=tmp_path / "t.db")) as storage:
        Writer(storage).commit({"a": 1}, snapshot=True, run=make_run())
        assert rebuilt(storage.load("", "s")) == {"a": 1}
        assert storage.check() == ()
    assert table_names(tmp_path / "t.db") == (name,)


# The source


def formatted_statements(source: str) -> list[str]:
    """Where a program puts something into a text that it executes, or that looks like SQL."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_execute = isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("execute")
        if is_execute and not isinstance(node.args[0], ast.Constant | ast.Subscript | ast.Name):
            found.append(ast.unparse(node.args[0]))
        if isinstance(node, ast.JoinedStr | ast.BinOp) or getattr(getattr(node, "func", None), "attr", "") == "format":
            text = ast.unparse(node)
            if re.search(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE|DROP|WHERE)\b", text):
                found.append(text)
    return found


EXCEPTIONS = {
    "f'PRAGMA page_size = {_PAGE_SIZE}'": "a constant",
    "f'PRAGMA wal_autocheckpoint = {_LOG_SIZE // page_size}'": "a number of our own",
    "'; '.join([begin, *(f'SET LOCAL {name} = {value}' for name, value in settings.items())])": "our own words",
    "f'SELECT {words}'": "as many `set_config(%s, %s, true)` as there are settings",
    "f'PRAGMA table_info({table})'": "the name of a table of our own",
    "f\"PRAGMA synchronous = {('FULL' if is_durable else 'NORMAL')}\"": "one of two words",
}


def test_no_statement_is_put_together_from_anything_but_the_validated_prefix() -> None:
    for file in FOLDER.rglob("*.py"):
        assert set(formatted_statements(file.read_text(encoding="utf-8"))) <= set(EXCEPTIONS), file
    replaced = [
        (file.name, *match)
        for file in FOLDER.rglob("*.py")
        for match in re.findall(r"(\w+)\.replace\(\"\{(\w+)\}\", (?:db\.)?(\w+)\)", file.read_text(encoding="utf-8"))
    ]
    assert {(name, what) for name, _, what, _ in replaced} == {("queries.py", "table"), ("schema.py", "table")}
    text = (FOLDER / "queries.sql").read_text(encoding="utf-8")
    assert set(re.findall(r"\{\w*\}", text)) == {"{table}", "{lock}"}
    assert queries.parsed(text)


@pytest.mark.parametrize(
    "source",
    [
        "connection.execute(f'SELECT {name} FROM x')",
        "connection.execute('SELECT 1 FROM ' + name)",
        "connection.executemany('DELETE FROM x WHERE a = %s' % name, rows)",
        "text = 'UPDATE x SET a = {}'.format(name)",
        "connection.executescript(read())",
    ],
)
def test_a_statement_that_is_put_together_is_noticed(source: str) -> None:
    assert formatted_statements(source)
