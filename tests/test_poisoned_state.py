"""State cannot reach what Holdfast keeps for itself: a key is a key, and a value a value, whatever they are called."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from catalogue import same
from holdfast.cli.database import Located
from holdfast.cli.transfer import exported, parse
from holdfast.encoding import Encoding
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.stored import StoredDocument, recent
from holdfast.workflow import Workflow

TABLES = ["session", "patch", "snapshot", "value", "run", "migration", "catalogue", "process"]
KEYS: list[Any] = [
    *(f"{prefix}_{table}" for prefix in ("workflow_sessions", "holdfast") for table in TABLES),
    *("sqlite_master", "sqlite_sequence", "rowid", "owner", "session_id", "version", "incarnation", "checksum"),
    *("$hf", "$hf:", "$hf:1", '$hf:"a"', '$hf:{"$hf":["tuple",[]]}', "$hfx", "$class", "$omitted"),
    *("__class__", "__dict__", "__init__", "__reduce__", "__proto__", "_state", "_session", "constructor"),
    *("", "/", "-", "~", "~0", "~1", "a/b", "0", "..", "op", "path", "value", "\0", "\ud800"),
    *("clear", "update", "get", "items", "keys", "pop", "touch_all", "is_viewed"),
    *(0, 1, True, None, -1, (), ("$hf",), b"$hf", frozenset({"$hf"})),
]
VALUES: list[Any] = [
    {"$hf": ["tuple", [1]]},
    {"$hf": ["omitted", "object"]},
    {"$hf": ["model", "Poisoned", {}]},
    {"$class": "Poisoned"},
    {"op": "remove", "path": "/", "value": None},
    [{"op": "remove", "path": "/beside"}],
    {"__class__": "Poisoned", "__dict__": {"session_id": "other"}},
    '{"$hf":["set",[]]}',
    "DELETE FROM workflow_sessions_session",
]


class Poisoned(Workflow):
    secret = "declared"

    def run(self, state: dict[Any, Any]) -> None:
        self.session_state.update(state)


def distinct(keys: list[Any]) -> list[Any]:
    """The keys of which a dict can hold all; 1 and True are one."""
    return list(dict.fromkeys(keys))


@pytest.fixture
def poisoned(storage: Storage) -> dict[Any, Any]:
    """A session with all of it, beside a harmless one."""
    state = {key: VALUES[number % len(VALUES)] for number, key in enumerate(distinct(KEYS))}
    Poisoned(session_id="beside", storage=storage).run({"beside": 1})
    Poisoned(session_id="s", storage=storage).run(state)
    return state


def test_every_key_and_value_comes_back_as_what_it_is(storage: Storage, poisoned: dict[Any, Any]) -> None:
    recent.forget(storage)
    assert same(dict(Poisoned(session_id="s", storage=storage).session_state), poisoned)
    workflow = Poisoned(session_id="s", storage=storage)
    for key in poisoned:  # changed inside, so that patches have all the paths
        workflow.session_state[key] = {key: [workflow.session_state[key]]}
    workflow.write_to_storage()
    for key in poisoned:
        workflow.session_state[key][key].append(1)
    workflow.write_to_storage()
    recent.forget(storage)
    expected = {key: {key: [value, 1]} for key, value in poisoned.items()}
    assert same(dict(Poisoned(session_id="s", storage=storage).session_state), expected)
    assert storage.check() == ()


def test_nothing_but_the_session_itself_is_changed(storage: Storage, poisoned: dict[Any, Any]) -> None:
    recent.forget(storage)
    beside = Poisoned(session_id="beside", storage=storage)
    assert beside.session_state == {"beside": 1}
    assert sorted(info.session_id for info in storage.find_sessions(None)) == ["beside", "s"]
    assert {(run.session_id, run.status) for run in storage.find_runs(None)} == {
        ("beside", "completed"),
        ("s", "completed"),
    }
    workflow = Poisoned(session_id="s", storage=storage)
    workflow.run({"secret": "of the state", "session_id": "beside", "user_id": "alice"})
    assert (workflow.secret, workflow.session_id, workflow.user_id) == ("declared", "s", None)
    assert type(workflow.session_state).__name__ == "SessionState"


def test_keys_are_only_ever_in_the_columns_for_names_and_data(tmp_path: Path) -> None:
    file = tmp_path / "t.db"
    with closing(SqlWorkflowStorage("t", db_file=file)) as storage:
        before = tables(storage, file)
        Poisoned(session_id="s", storage=storage).run(dict.fromkeys(distinct(KEYS), "canary" * 5_000))
        assert tables(storage, file) == before
        with closing(sqlite3.connect(file)) as connection:
            for table in sorted(before):
                for row in connection.execute(f"SELECT * FROM {table}"):
                    columns = dict(zip(before[table], row, strict=True))
                    found = {name for name, value in columns.items() if "canary" in str(value)}
                    assert found <= {"data", "patch", "input"}


def tables(storage: SqlWorkflowStorage, file: Path) -> dict[str, list[str]]:
    """The tables of a database with their columns."""
    storage.find_sessions(None)
    with closing(sqlite3.connect(file)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}


def test_an_export_carries_it_as_data(tmp_path: Path) -> None:
    with closing(SqlWorkflowStorage("t", db_file=tmp_path / "t.db")) as storage:
        state = dict.fromkeys(distinct(KEYS), VALUES)
        Poisoned(session_id="s", storage=storage).run(state)
        (info,) = storage.find_sessions(None)
        text = exported(Located(storage, info), with_history=True)
        package = parse(text.encode())
        stored = storage.load("", "s")
        assert stored is not None
        document = StoredDocument.of(stored)
        read = {name: document.encoded(name, lambda wanted: b"").decode() for name in document.names()}
        assert dict(package.values) == read
        assert (package.session_id, package.user_id) == ("s", "")


def test_a_codec_that_takes_a_tag_of_the_state_for_its_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoding, "_has_ordinary_keys", lambda self, nodes: True)
    storage = MemoryStorage()
    Poisoned(session_id="s", storage=storage).run({"tag": VALUES[0]})
    recent.forget(storage)
    assert not same(dict(Poisoned(session_id="s", storage=storage).session_state), {"tag": VALUES[0]})
