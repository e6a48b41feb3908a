"""Errors, logs and warnings name paths, types and sizes, and never a value, which may be a secret.

A canary stands wherever a value can stand, and a long list of things goes wrong. Exempt are:
- what user code raises, with whatever it says; it is recorded with its run as it is;
- names: plain keys, ids, files and classes are shown, for an error that does not say where is of no use;
- the attribute `patch` of `StateConflict` and `SessionDeleted`, which holds what was refused;
- the attribute `arguments` of `CacheMiss`, which holds what the step was given.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import sqlite3
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli import holdfast, packaged
from holdfast import Agent, step
from holdfast.cli.transfer import parse
from holdfast.encoding import Encoding
from holdfast.errors import CacheMiss, HoldfastError, SessionDeleted, StateConflict
from holdfast.session import Session
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage, table_names
from holdfast.stored import recent
from holdfast.testing import Writer, make_run
from holdfast.workflow import Workflow
from planted import plant

CANARY = "sk-canary-5bd1"


class Told:
    """Whatever shows its value when it is printed, or asked for anything."""

    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__


class Text(str):
    __slots__ = ()


@dataclasses.dataclass
class Strict:
    secret: str = ""


class Keeping(Workflow):
    def run(self, value: Any = None) -> None:
        self.session_state["beside"] = CANARY
        self.session_state["value"] = value


class Knowing(Keeping):
    state_types = [Strict]


def with_attribute() -> Strict:
    made = Strict("x")
    made.other = CANARY  # type: ignore[attr-defined]
    return made


def cycle() -> Any:
    inner: list[Any] = [CANARY]
    inner.append({"back": inner})
    return inner


UNSTORABLE: dict[str, Callable[[], Any]] = {
    "an object": Told,
    "objects all over": lambda: [Told(), (Told(),), {CANARY.encode(): Told()}, {(CANARY, 1): Told()}, {Told(): 1}],
    "an exception": lambda: ValueError(CANARY),
    "a class": lambda: type("Short", (), {"__doc__": CANARY}),
    "bytearray": lambda: bytearray(CANARY.encode()),
    "a text of a subclass": lambda: Text(CANARY),
    "a path": lambda: Path(CANARY),
    "an undeclared dataclass": lambda: Strict("x" + CANARY),
    "a declared one with more": with_attribute,
    "a set of them": lambda: {Told(), CANARY},
    "a long key of another kind": lambda: {(CANARY * 1_000,): 1},
    "half a character": lambda: CANARY + "\ud83d\ude00",
    "a long text": lambda: CANARY * 10_000_000,
    "a cycle": cycle,
    "a generator": lambda: (CANARY for _ in range(1)),
    "a partial": lambda: __import__("functools").partial(print, CANARY),
    "digits": lambda: int.from_bytes(CANARY.encode() * 100, "big"),
}

PLANTED: dict[str, bytes] = {
    name: text.replace("CANARY", CANARY).encode()
    for name, text in {
        "no JSON": '["CANARY"',
        "a word": "CANARY",
        "a decimal": '{"$hf":["decimal","CANARY"]}',
        "a date": '[{"$hf":["datetime","CANARY"]}]',
        "a zone": '{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"CANARY"}]}',
        "a wrong zone": '{"$hf":["datetime","2026-01-31T00:00:00",{"zone":"No/CANARY"}]}',
        "bytes": '{"$hf":["bytes","CANARY"]}',
        "an id": '{"$hf":["uuid","CANARY"]}',
        "an unknown tag": '{"$hf":["CANARY","CANARY"]}',
        "no tag": '{"$hf":"CANARY"}',
        "equal members": '{"$hf":["set",["CANARY","CANARY"]]}',
        "an unhashable member": '{"$hf":["set",[["CANARY"]]]}',
        "a key": '{"$hf:CANARY":1}',
        "another key": '{"$hf:{\\"$hf\\":[\\"tuple\\",[\\"CANARY\\"]]}":{"$hf":["decimal","CANARY"]}}',
        "below another key": '{"$hf:[\\"CANARY\\"]":[{"$hf":["model","Other",{"secret":"CANARY"}]}]}',
        "a field that is none": '{"$hf":["dataclass","Strict",{"other":"CANARY"}]}',
        "an undeclared class": '{"a":{"$hf":["model","Other",{"secret":"CANARY"}]}}',
        "left out": '{"$hf":["omitted","CANARY"]}',
    }.items()
}

PATCHES = [
    patch.replace("CANARY", CANARY).encode()
    for patch in (
        '[{"op":"add","path":"/no/such","value":"CANARY"}]',
        '[{"op":"replace","path":"/list/5","value":"CANARY"}]',
        '[{"op":"add","path":"/list/$hf:\\"CANARY\\"/x","value":"CANARY"}]',
        '[{"op":"CANARY","path":"CANARY","value":"CANARY"}]',
        '["CANARY',
        "CANARY",
    )
]


class Raised:
    """The errors of a block of failing calls, with everything that was logged and warned of meanwhile."""

    def __init__(self) -> None:
        self.errors: list[HoldfastError] = []
        self.said: list[str] = []

    def call(self, work: Callable[[], Any]) -> None:
        """Call what must fail with an error of ours."""
        with pytest.raises(HoldfastError) as caught:
            work()
        self.errors.append(caught.value)

    def leaks(self) -> list[str]:
        """Where the canary is."""
        found = [f"said: {text}" for text in self.said if CANARY in text]
        for error in self.errors:
            told = "".join(chained(error))
            # What was refused, and both sides of a conflict, are told there and nowhere else.
            told_there = {"patch", "facts", "base", "ours", "theirs"} if isinstance(error, StateConflict) else {"patch"}
            told_there |= {"arguments", "facts"} if isinstance(error, CacheMiss) else set()
            attributes = {name: value for name, value in vars(error).items() if name not in told_there}
            for text in (told, repr(error), repr(error.args), repr(attributes), str(pickle.dumps((told, attributes)))):
                if CANARY in text:
                    found.append(f"{type(error).__name__}: {text[:300]}")
        return found


def chained(error: BaseException | None) -> Iterator[str]:
    """What a traceback says of an error and of all that led to it, without the lines of source."""
    while error is not None:
        yield from traceback.format_exception_only(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.fixture
def raised() -> Iterator[Raised]:
    raised = Raised()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raised.said.append(f"{record.name}: {record.getMessage()} {record.__dict__}")

    listener, root = Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield raised
    finally:
        root.removeHandler(listener)
        root.setLevel(level)
    assert [str(warning.message) for warning in warned] == []


@pytest.mark.parametrize("name", UNSTORABLE)
def test_a_value_that_cannot_be_stored_is_not_told(name: str, raised: Raised, storage: Storage) -> None:
    value = UNSTORABLE[name]()
    Knowing(session_id="s", storage=storage).run("earlier")
    raised.call(lambda: (Knowing if "declared one" in name else Keeping)(session_id="s", storage=storage).run(value))
    workflow = Keeping(session_id="t", storage=storage)
    workflow.session_state["value"] = value
    raised.call(workflow.write_to_storage)
    assert raised.leaks() == []
    assert CANARY not in repr(workflow)


@pytest.mark.parametrize("name", PLANTED)
def test_a_value_that_cannot_be_read_is_not_told(name: str, raised: Raised, tmp_path: Path) -> None:
    plant(tmp_path / "t.db", {"value": PLANTED[name], "beside": json.dumps(CANARY).encode()})
    with closing(SqlWorkflowStorage("t", db_file=tmp_path / "t.db")) as storage:
        raised.call(lambda: Knowing(session_id="s", storage=storage).session_state["value"])
        raised.said += [str(finding) for finding in storage.check()]
    assert raised.leaks() == []


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: str(patch[:30]))
def test_a_patch_that_cannot_be_read_is_not_told(patch: bytes, raised: Raised, tmp_path: Path) -> None:
    plant(tmp_path / "t.db", {"list": json.dumps([CANARY]).encode()}, [patch])
    with closing(SqlWorkflowStorage("t", db_file=tmp_path / "t.db")) as storage:
        raised.call(lambda: dict(Keeping(session_id="s", storage=storage).session_state))
    assert raised.leaks() == []


def test_a_conflict_tells_only_in_its_patch_what_was_refused(raised: Raised, storage: Storage) -> None:
    def meet(other: Callable[[], Any]) -> HoldfastError:
        workflow = Keeping(session_id="s", storage=storage)
        workflow.session_state["value"] = [CANARY]
        other()
        raised.call(workflow.write_to_storage)
        return raised.errors[-1]

    Keeping(session_id="s", storage=storage).run("earlier")
    conflict = meet(lambda: Keeping(session_id="s", storage=storage).run({"other": CANARY}))
    deleted = meet(lambda: storage.delete_session("", "s"))
    assert isinstance(conflict, StateConflict)
    assert isinstance(deleted, SessionDeleted)
    assert CANARY.encode() in (conflict.patch or b"")
    assert CANARY.encode() in (deleted.patch or b"")
    assert raised.leaks() == []


def test_a_result_that_is_not_kept_is_told_without_what_it_is_of(raised: Raised, storage: Storage) -> None:
    class Asking(Workflow):
        @step(cache="session")
        def ask(self, question: str, more: dict[str, str]) -> None: ...

        def run(self, question: str) -> None:
            self.ask(question, {question: question})

    raised.call(lambda: Asking(session_id="s", storage=storage).run(CANARY, only_if_cached=True))
    (error,) = raised.errors
    assert isinstance(error, CacheMiss)
    assert error.arguments == {"question": CANARY, "more": {CANARY: CANARY}}
    assert raised.leaks() == []


def test_what_a_damaged_database_holds_is_not_told(raised: Raised, tmp_path: Path) -> None:
    file = tmp_path / "t.db"
    tables = ("session", "patch", "snapshot", "value", "run")
    for number, table in enumerate(tables):
        with closing(SqlWorkflowStorage(table, db_file=file)) as storage:
            run = make_run(input=CANARY.encode(), output=CANARY.encode())
            Writer(storage).commit({"a": CANARY * 1_000}, snapshot=True, run=run)
        with closing(sqlite3.connect(file)) as connection, connection:
            column = ["workflow", "patch", "listing", "data", "input"][number]
            assert connection.execute(f"UPDATE {table}_{table} SET {column} = ?", [CANARY]).rowcount
        recent.forget(storage)
        with closing(SqlWorkflowStorage(table, db_file=file)) as storage:
            uses: dict[str, Callable[[], Any]] = {
                "session": lambda: storage.find_sessions(None),
                "patch": lambda: storage.changes("", "s"),
                "run": lambda: storage.find_runs(None),
            }
            raised.call(uses.get(table, lambda: storage.load("", "s")))
            findings = storage.check()
            assert findings
            raised.said += [str(finding) for finding in findings]
    assert raised.leaks() == []


def test_a_record_that_cannot_be_written_is_not_told(raised: Raised, storage: Storage) -> None:
    with closing(SqlWorkflowStorage("t", db_url="sqlite://")) as sql:
        for text in (CANARY + "\ud800", 2**70):
            wrong = Writer(sql).prepared({"a": CANARY}, run=make_run(workflow_id=text))
            raised.call(lambda wrong=wrong: sql.commit(wrong))
    raised.call(lambda: storage.commit(Writer(storage).prepared({"a": CANARY}, run=make_run("other", CANARY))))
    storage.close()
    raised.call(lambda: Keeping(session_id="s", storage=storage).run(CANARY))
    assert raised.leaks() == []


def test_what_is_given_to_a_constructor_is_not_told(raised: Raised, monkeypatch: pytest.MonkeyPatch) -> None:
    any_value: Any = CANARY
    for work in (
        lambda: Keeping(secret=any_value),
        lambda: Keeping(session_state=any_value),
        lambda: Keeping(storage=any_value),
        lambda: Keeping(session_id=any_value * 100),
        lambda: Keeping(user_id=any_value + "\0"),
        lambda: Keeping(on_error=any_value),
        lambda: SqlWorkflowStorage(any_value),
        lambda: SqlWorkflowStorage(db_file="a", db_url=any_value),
        lambda: SqlWorkflowStorage(db_url=f"mysql://me:{any_value}@host/db"),
        lambda: SqlWorkflowStorage(db_url=f"sqlite://me:{any_value}@host"),
        lambda: SqlWorkflowStorage(db_file=any_value + "\0"),
        lambda: SqlWorkflowStorage(db_url="sqlite://", synchronous=any_value),
        lambda: SqlWorkflowStorage(db_url="sqlite://", lock_timeout=any_value),
        lambda: SqlWorkflowStorage(db_url="sqlite://", keep_history=any_value),
        lambda: MemoryStorage(keep_history=any_value),
        lambda: MemoryStorage().find_sessions("", limit=any_value),
        lambda: table_names(f"mysql://me:{any_value}@host/db"),
    ):
        raised.call(work)
    monkeypatch.setenv("HOLDFAST_DB", f"mysql://me:{CANARY}@host/db")
    raised.call(SqlWorkflowStorage)
    assert raised.leaks() == []


def test_what_goes_to_and_from_a_model_is_not_told(raised: Raised, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    any_value: Any = CANARY

    def search(query: str) -> list[str]:
        """Find."""
        return [CANARY, query]

    for work in (
        lambda: Agent("offline").run({"text": any_value}),
        lambda: Agent("offline").run("x", history=[any_value]),
        lambda: Agent("offline").run("x", history={"kind": any_value}),
        lambda: Agent("offline", output_type=Strict, tools=[search], instructions=CANARY).run(CANARY),
        lambda: Agent("offline", base_url=f"http://me:{any_value}@host/v1").run(CANARY),
        lambda: Agent("google:x", base_url=f"http://me:{any_value}@host/v1").run(CANARY),
        lambda: Agent(Told()),
    ):
        try:
            work()
        except HoldfastError as error:
            raised.errors.append(error)
        except Exception as error:  # of a package of a provider: it keeps its class and text, and our notes say nothing
            raised.said += getattr(error, "__notes__", [])
    assert len(raised.errors) >= 4
    assert raised.leaks() == []


def test_a_damaged_export_is_not_told(raised: Raised) -> None:
    package = packaged(values=[["a", json.dumps(CANARY)]], session_id="s")
    for change in (
        {"sha256": CANARY},
        {"values": [["a", CANARY]]},
        {"history": [CANARY]},
        {"holdfast_session": CANARY},
        {"more": CANARY},
    ):
        raised.call(lambda change=change: parse(json.dumps(package | change).encode()))
    for values in ([["a", CANARY]], [["a", '"x"'], ["a", json.dumps(CANARY)]]):
        raised.call(lambda values=values: parse(json.dumps(packaged(values=values)).encode()))
    assert raised.leaks() == []


@pytest.mark.parametrize(
    "url", ["mysql://me:CANARY@host/db", "postgresql://me:x@CANARY@host/db", "postgresql://host/db?password=CANARY"]
)
@pytest.mark.parametrize("words", [("sessions", "list"), ("sessions", "show", "s"), ("doctor",), ("runs", "show", "r")])
def test_the_command_does_not_tell_the_password_in_a_url(
    words: tuple[str, ...], url: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url.replace("CANARY", CANARY)
    for arguments, variable in ((("--db", url), ""), ((), url)):
        monkeypatch.setenv("HOLDFAST_DB", variable)
        result = holdfast(*words, *arguments)
        assert result.exit_code != 0
        assert CANARY not in result.stdout + result.stderr


@pytest.mark.parametrize("url", ["mysql://me:CANARY@host/db", "postgresql://me:CANARY@127.0.0.1:1/db"])
def test_a_copy_does_not_tell_the_password_of_where_it_goes(url: str, default_storage: SqlWorkflowStorage) -> None:
    Keeping(session_id="s", storage=default_storage).run("x")
    result = holdfast("sessions", "copy", "--from", "holdfast.db", "--to", url.replace("CANARY", CANARY))
    assert result.exit_code != 0
    assert "copying to: " in result.stderr
    assert CANARY not in result.stdout + result.stderr


# What must be noticed


def test_an_error_that_shows_a_value_is_noticed(raised: Raised, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Encoding._refuse
    monkeypatch.setattr(
        Encoding, "_refuse", lambda self, value, path, _: refuse(self, value, path, f"{value!r} is bad")
    )
    raised.call(lambda: Keeping(session_id="s").run(Told()))
    assert raised.leaks()


def test_a_cause_or_a_note_that_shows_a_value_is_noticed(raised: Raised) -> None:
    def caused() -> None:
        try:
            raise ValueError(CANARY)
        except ValueError:
            raise HoldfastError("something is bad")  # noqa: B904

    def noted() -> None:
        error = HoldfastError("something is bad")
        error.add_note(CANARY)
        raise error

    def with_a_fact() -> None:
        raise HoldfastError("something is bad", value=CANARY)

    for work in (caused, noted, with_a_fact):
        raised.errors.clear()
        raised.call(work)
        assert raised.leaks()


def test_a_value_that_is_logged_is_noticed(raised: Raised, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Session._commit

    def logging_commit(self: Session, pending: Any, *rest: Any, **options: Any) -> Any:
        logging.getLogger("holdfast.session").debug("committing %r", pending.values)
        return commit(self, pending, *rest, **options)

    monkeypatch.setattr(Session, "_commit", logging_commit)
    Keeping(session_id="s").run("x")
    assert raised.leaks()


def test_nothing_is_logged_or_printed_at_all(
    raised: Raised, capfd: pytest.CaptureFixture[str], storage: Storage
) -> None:
    Keeping(session_id="s", storage=storage).run(CANARY)
    raised.call(lambda: Keeping(session_id="s", storage=storage).run(Told()))
    storage.delete_session("", "s")
    assert [text for text in raised.said if text.startswith("holdfast")] == []
    assert capfd.readouterr() == ("", "")
