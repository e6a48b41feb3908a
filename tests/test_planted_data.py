"""What somebody planted in the database, checksums and all, is refused as damage: it never fails otherwise, never
hangs, and decides nothing."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import codec
from holdfast.errors import CorruptData, HoldfastError, MalformedData, StateError
from holdfast.records import Place
from holdfast.scalars import DECODERS
from holdfast.storage import listing, rows, step_rows
from holdfast.storage.listing import Entry
from holdfast.storage.queries import texts
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.storage.sqlite import SQLiteStatements
from holdfast.testing import Writer, make_run
from holdfast.testing_steps import key_of, make_entry, make_step, put
from holdfast.workflow import Workflow
from planted import TABLE, insert, plant

DEEP = 100_000


class Reading(Workflow):
    def run(self) -> None:
        self.session_state["run"] = True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "planted.db"


@pytest.fixture
def storage(file: Path) -> Iterator[SqlWorkflowStorage]:
    with closing(SqlWorkflowStorage(TABLE, db_file=file)) as storage:
        yield storage


def uses(storage: SqlWorkflowStorage) -> Iterator[Callable[[], Any]]:
    """Everything that meets the values of a session."""
    yield lambda: dict(Reading(session_id="s", storage=storage).session_state)
    yield lambda: repr(Reading(session_id="s", storage=storage).session_state)
    yield lambda: Reading(session_id="s", storage=storage).run()
    yield storage.check


VALUES: dict[str, dict[str, bytes]] = {
    "a pickle": {"a": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."},
    "deep JSON": {"a": b"[" * DEEP + b"]" * DEEP},
    "deep tags": {"a": b'{"$hf":["tuple",[' * DEEP + b"]]}" * DEEP},
    "a deep key": {"a": json.dumps({"$hf:" + "[" * DEEP: 1}).encode()},
    "digits without end": {"a": b"9" * 10**6},
    "a number without end": {"a": b"1e400"},
    "no digits": {"a": b'{"$hf":["int","0x"]}'},
    "a name that is no key": {"$hf:[]": b"1"},
    "a name with an unhashable part": {'$hf:{"$hf":["tuple",[[]]]}': b"1"},
    "two names of one key": {"$hf:1": b"1", "$hf:1.0": b"2"},
    "another name of a plain key": {'$hf:"a"': b"1"},
    "a name with an unknown mark": {"$hfx": b"1"},
    "bits that are too few": {"a": b'{"$hf":["float","00"]}'},
    "two halves of a character": {"a": b'"\xed\xa0\x80"'},
    "no value at all": {"a": b""},
}

PATCHES = [
    b"",
    b"[" * DEEP,
    b'[{"op":"add","path":"/no/such","value":1}]',
    b'[{"op":"add","path":"","value":1}]',
    b'[{"op":"add","path":"/list/99999999999999999999","value":1}]',
    b'[{"op":"add","path":"/$hf:[]","value":1}]',
    b'[{"op":"add","path":"/list' + b"/0" * DEEP + b'","value":1}]',
    b'[{"op":"add","path":"/list/-","value":' + b"[" * DEEP + b"]" * DEEP + b"}]",
    b'[{"op":"move","from":"/list","path":"/a"}]',
    b'[{"op":"test","path":"/list","value":[]}]',
]


@pytest.mark.parametrize("name", VALUES)
def test_a_planted_value_is_refused_as_damage(name: str, file: Path, storage: SqlWorkflowStorage) -> None:
    plant(file, VALUES[name])
    with pytest.raises(MalformedData):
        dict(Reading(session_id="s", storage=storage).session_state)
    only_errors_of_ours(storage)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: str(patch[:40]))
def test_a_planted_patch_is_refused_as_damage(patch: bytes, file: Path, storage: SqlWorkflowStorage) -> None:
    plant(file, {"list": b"[]"}, [patch])
    with pytest.raises(MalformedData):
        dict(Reading(session_id="s", storage=storage).session_state)
    only_errors_of_ours(storage)


def only_errors_of_ours(storage: SqlWorkflowStorage) -> None:
    for use in uses(storage):
        with suppress(HoldfastError):
            use()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04K\x01.",
        b"",
        b"\xdd\xff\xff\xff\xff",
        listing.encoded({"a": Entry("a", 1, 2**62, b"x" * 32)}),
        listing.encoded({"a": Entry("a", -1, -1, b"")}),
        b"\x91" * DEEP,
    ],
    ids=["a pickle", "nothing", "a length without end", "a size without end", "numbers below nought", "deep"],
)
def test_a_planted_listing_is_refused_as_damage(data: bytes, file: Path, storage: SqlWorkflowStorage) -> None:
    plant(file, {}, listing=data)
    with pytest.raises(HoldfastError, match=r"It was not written like that|does not match its checksum"):
        dict(Reading(session_id="s", storage=storage).session_state)
    only_errors_of_ours(storage)


@pytest.mark.parametrize(
    "head", [{"version": 2**62}, {"forgotten": -(2**62)}, {"version": 2**62, "snapshot_version": 2**61}]
)
def test_a_planted_head_with_versions_without_end_makes_nothing_endless(
    head: dict[str, Any], file: Path, storage: SqlWorkflowStorage
) -> None:
    plant(file, {"a": b"1"}, [b"[]"], **head)
    only_errors_of_ours(storage)
    assert 0 < len(storage.check()) < 10


def test_a_gap_in_the_history_is_one_finding_and_what_follows_is_looked_at_all_the_same(
    file: Path, storage: SqlWorkflowStorage
) -> None:
    plant(file, {"a": b"1"}, [b"[]"] * 9)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"DELETE FROM {TABLE}_patch WHERE version IN (2, 5, 6, 7)")
        connection.execute(f"UPDATE {TABLE}_patch SET patch = X'00' WHERE version = 8")
    found = [finding.what for finding in storage.check()]
    assert found == ["change 2 of session 's'", "changes 5 to 7 of session 's'", "change 8 of session 's'"]


@pytest.mark.parametrize("column", ["version", "created_at", "workflow"])
def test_a_planted_head_of_other_types_is_refused_as_damage(
    column: str, file: Path, storage: SqlWorkflowStorage
) -> None:
    plant(file, {"a": b"1"}, **{column: b"planted"})
    with pytest.raises(MalformedData):
        storage.find_sessions(None)
    only_errors_of_ours(storage)


@pytest.mark.parametrize(
    ("status", "error"),
    [("planted", None), ("failed", "[1]"), ("failed", "not JSON"), ("failed", "[" * DEEP), ("failed", "{}")],
)
def test_a_planted_run_is_refused_as_damage(
    status: str, error: str | None, file: Path, storage: SqlWorkflowStorage
) -> None:
    plant(file)
    row = list(rows.run_row(make_run())[:-1])
    row[5], row[17] = status, error
    ordered = [*row[:17], rows.checksum("run", *row), *row[17:]]
    with closing(sqlite3.connect(file)) as connection, connection:
        insert(connection, "run", ordered)
    with pytest.raises(MalformedData):
        storage.find_runs("")
    assert len(storage.check()) == 1


@pytest.mark.parametrize(
    "savings",
    ["1", "[]", "[1,2.0,3,4,5,6.0,7]", '["1",2.0,3,4,5,6.0]', "[1,2.0,3,4,5,[]]", "not JSON", "[" * DEEP, "{}"],
)
def test_planted_savings_are_refused_as_damage(savings: str, file: Path, storage: SqlWorkflowStorage) -> None:
    plant(file)
    row = list(rows.run_row(make_run())[:-1])
    row[16] = savings
    with closing(sqlite3.connect(file)) as connection, connection:
        insert(connection, "run", [*row[:17], rows.checksum("run", *row), *row[17:]])
    with pytest.raises(MalformedData):
        storage.find_runs("")
    assert len(storage.check()) == 1


@pytest.mark.parametrize(
    ("place", "planted"),
    [(4, b"x"), (6, "x"), (8, b"x"), (9, "x"), (11, 1.5), (14, "x"), (15, "x"), (18, "x"), (19, "x"), (20, "x")],
)
def test_a_planted_step_of_other_types_is_refused_as_damage(
    place: int, planted: Any, file: Path, storage: SqlWorkflowStorage
) -> None:
    run = make_run()
    storage.commit(Writer(storage).prepared({}, run=run))
    row: list[Any] = list(step_rows.step_row("", "s", run.run_id, make_step(), keeps_result=True))
    row[place] = planted
    row[17] = step_rows._step_checksum(row[:17], row[18], row[19])
    with closing(sqlite3.connect(file)) as connection, connection:
        insert(connection, "step", row)
    with pytest.raises(CorruptData):
        storage.find_steps("", "s", run.run_id, with_results=True)
    assert len(storage.check()) == 1


@pytest.mark.parametrize(
    ("column", "planted"),
    [
        *[("scope", b"x"), ("is_shared", "x"), ("step", b"x"), ("seconds", "x"), ("cost", "x"), ("created_at", "x")],
        *[("expires_at", "x"), ("size", "x"), ("parts", "x"), ("result", "x"), ("hits", "x"), ("used_at", "x")],
    ],
)
def test_a_planted_entry_of_other_types_is_refused_as_damage(
    column: str, planted: Any, file: Path, storage: SqlWorkflowStorage
) -> None:
    cache, place, key = storage.step_cache, Place(""), key_of("a")
    put(cache, make_entry())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"UPDATE holdfast_step_entry SET {column} = ?", (planted,))
        query = texts(TABLE, SQLiteStatements.written)["find_entry"]
        row = connection.execute(query, ("", "", "", key)).fetchone()
        renewed = step_rows._entry_checksum(row[:18], row[19])
        connection.execute("UPDATE holdfast_step_entry SET checksum = ?", (renewed,))
    with pytest.raises(CorruptData):
        cache.read(place, key)
    assert len(storage.check()) == 1
    with suppress(HoldfastError):
        cache.sweep()
    put(cache, make_entry(result=b"computed again"))
    assert storage.check() == ()


# Whatever stands in a tag

PARTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "Europe",
            "leapseconds",
            "../../etc/passwd",
            "2026-01-01T00:00:00",
            "00",
            "7ff8",
            "1e999999999",
            "builtins.eval",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["zone", "offset", "fold", "name", "$hf", "$hf:1", "lc"]), inner, max_size=3)
    ),
    max_leaves=8,
)
KINDS = st.sampled_from([*DECODERS, "tuple", "set", "frozenset", "model", "enum", "flag", "omitted", "constructor"])


def decoded_or_refused(value: Any) -> None:
    with suppress(MalformedData, StateError):
        codec.decode(json.dumps(value).encode())


@settings(max_examples=1500)
@given(KINDS | st.text(max_size=10), st.lists(PARTS, max_size=4))
def test_a_tag_of_whatever_form_is_a_value_or_an_error_of_ours(kind: str, parts: list[Any]) -> None:
    tag = {"$hf": [kind, *parts]}
    decoded_or_refused([tag])
    decoded_or_refused({"$hf:" + json.dumps(tag): 1})


def test_a_decoder_that_raises_an_error_of_its_own_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, "float", lambda text: struct.unpack(">d", bytes.fromhex(text))[0])
    with pytest.raises(struct.error):
        decoded_or_refused({"$hf": ["float", "00"]})
