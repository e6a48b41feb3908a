"""Another owner's session does not exist: not for a storage operation, a query, a workflow or a command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import click
import pytest
from msgspec.structs import replace

from cli import holdfast, keep, packaged
from holdfast.cli import command
from holdfast.errors import (
    HoldfastError,
    LeaseLost,
    RunNotFound,
    RunTakenOver,
    SessionDeleted,
    SessionNotFound,
    StateConflict,
    StorageError,
    VersionNotKept,
)
from holdfast.records import Claim, Commit, Entry, Place, RunStatus, SessionInfo
from holdfast.storage import base
from holdfast.storage.base import StepCache, Storage
from holdfast.storage.queries import parsed
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import NOTHING, Writer, everything, make_run, run_in_threads
from holdfast.testing_steps import key_of, make_entry, make_step, put
from holdfast.workflow import Workflow
from storage_calls import OPERATIONS, Caller, forgotten

FOLDER = Path(base.__file__).parent
READ = {"heads_of_all_owners", "runs_of_all_owners"}
CHECKED = {
    "each_head_of_all_owners",
    "each_run_of_all_owners",
    "leases_of_all_owners",
    "sessions_without_head_of_all_owners",
    "steps_of_all_owners",
    "steps_without_run_of_all_owners",
}
SPANNING = READ | CHECKED
SWEEPING = {
    "delete_dead_claims_of_all_owners",
    "delete_expired_of_all_owners",
    "delete_longest_unused_of_all_owners",
    "longest_unused_of_all_owners",
    "size_of_all_owners",
}
OF_THE_CACHE = {"entries_of_all_owners", *SWEEPING}


class Leaking:
    """A storage that forgets the owner in one operation, or in all of them: what these tests must notice."""

    def __init__(self, inner: Storage, victim: str, operation: str | None = None) -> None:
        self._inner = inner
        self._victim = victim
        self._operation = operation

    @property
    def step_cache(self) -> Any:
        return LeakingCache(self._inner.step_cache, self._victim, self._operation)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._inner, name)
        if not callable(operation) or name in ("beat", "check", "close") or self._operation not in (None, name):
            return operation

        def leaking(first: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(first, Claim | SessionInfo):
                return operation(replace(first, owner=self._victim), *args)
            if not isinstance(first, Commit):
                return operation(self._victim, *args, **kwargs)
            run = first.run and replace(first.run, owner=self._victim)
            return operation(replace(first, owner=self._victim, run=run))

        return leaking


class LeakingCache:
    """As `Leaking`, for the step cache."""

    def __init__(self, inner: StepCache, victim: str, operation: str | None) -> None:
        self._inner = inner
        self._victim = victim
        self._operation = operation

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._inner, name)
        if name == "sweep" or self._operation not in (None, f"step_cache.{name}"):
            return operation

        def leaking(first: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(first, Entry):
                first = replace(first, place=self._stolen(first.place))
            elif isinstance(first, Place):
                first = self._stolen(first)
            elif isinstance(first, dict):
                first = {(self._stolen(place), key): count for (place, key), count in first.items()}
            elif isinstance(first, list):
                first = [(self._stolen(place), key) for place, key in first]
            else:
                first = self._victim
            return operation(first, *args, **kwargs)

        return leaking

    def _stolen(self, place: Place) -> Place:
        return place._replace(owner=self._victim)


def is_held(storage: Storage, owner: str) -> bool:
    """Whether the victim still holds its session, and still computes what it did."""
    cache, place = storage.step_cache, Place(owner, "s")
    try:
        is_computing = cache.renew(place, key_of("computed"), "held", 60.0)
        return is_computing and storage.claim_lease(Claim(owner, "s", "held", 60.0, is_held=True)) == 0
    except LeaseLost:
        return False


def thefts(storage: Storage, attacked: Storage, operation: str, thief: str, victim: str) -> Iterator[str]:
    """What a thief gets from, or does to, a session of the victim by one operation, called in every way."""
    writer = Writer(storage, victim, "s")
    run = make_run(victim, "s", RunStatus.running, run_id="run of the victim")
    writer.commit({"a": "secret"}, snapshot=True, run=run)
    second = writer.prepared({"a": "newer secret"})
    storage.commit(replace(second, run_id=run.run_id, steps=(make_step(result=b"secret"),)))
    for place in (Place(victim), Place(victim, "s")):
        put(storage.step_cache, make_entry("kept", place))
        storage.step_cache.claim(place, key_of("computed"), "held", 60.0, unless=None)
    caller = Caller(attacked, thief, "s", writer.incarnation, 2, second.commit_id, run.run_id, "held")
    storage.claim_lease(Claim(victim, "s", "held", 60.0))
    for number, call in enumerate(OPERATIONS[operation].calls):
        before = everything(storage, victim)
        try:
            seen = call(caller)
        except (SessionNotFound, SessionDeleted, VersionNotKept, LeaseLost, RunNotFound, RunTakenOver):
            seen = None
        if seen not in (None, (), 0):  # nobody is ahead of a thief in the queue for a session of its own
            yield f"call {number} of {operation} returned {type(seen).__name__}"
        if not is_held(storage, victim):
            yield f"call {number} of {operation} took the lease of the victim"
        if everything(storage, victim) != before:
            yield f"call {number} of {operation} changed something of the victim"
        if everything(storage, thief) != NOTHING:
            yield f"call {number} of {operation} gave something to the thief"


def test_every_operation_of_the_protocol_is_tried() -> None:
    assert list(forgotten()) == []


def test_an_operation_that_is_not_in_the_table_is_noticed() -> None:
    class Wider(Storage, Protocol):
        def lease(self, owner: str, session_id: str) -> None: ...

        def changes(self, owner: str, session_id: str, *, after: int = 0, like: str = "") -> Any: ...

    messages = "\n".join(forgotten(Wider))
    assert "the operation `lease` is not tried as another owner" in messages
    assert "the parameter `like` of `changes`" in messages


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("thief", "victim"), [("mallory", "alice"), ("mallory", ""), ("", "alice"), ("Alice", "alice")]
)
def test_no_operation_reaches_the_session_of_another_owner(
    operation: str, thief: str, victim: str, storage: Storage
) -> None:
    assert list(thefts(storage, storage, operation, thief, victim)) == []


@pytest.mark.parametrize("operation", [name for name, entry in OPERATIONS.items() if not entry.spans])
def test_an_operation_that_forgets_the_owner_is_noticed(operation: str, storage: Storage) -> None:
    leaking: Any = Leaking(storage, "alice", operation)
    try:
        found = list(thefts(storage, leaking, operation, "mallory", "alice"))
    except (
        AssertionError,
        HoldfastError,
    ):  # the victim's session is gone or broken, so that it cannot even be looked at
        found = ["broken"]
    assert found


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if "find" not in name and name != "commit"])
def test_none_is_no_owner_that_spans_all(operation: str, storage: Storage) -> None:
    nobody: Any = None
    Writer(storage, "alice", "s").commit({"a": "secret"}, snapshot=True)
    before = everything(storage, "alice")
    caller = Caller(storage, nobody, "s", storage.find_sessions("alice")[0].incarnation, 1, "", "", "lease")
    for call in OPERATIONS[operation].calls:
        try:
            seen = call(caller)
        except StorageError:  # not found, or nothing that a database takes for an owner
            seen = None
        assert seen in (None, (), 0)
        assert everything(storage, "alice") == before


def test_a_first_commit_under_an_id_that_another_owner_has_makes_a_session_of_its_own(storage: Storage) -> None:
    victim = Writer(storage, "alice", "s")
    victim.commit({"a": "secret"}, snapshot=True)
    before = everything(storage, "alice")
    thief = Writer(storage, "mallory", "s")
    thief.incarnation = victim.incarnation  # even if it should ever be learned
    thief.commit({"a": "mine"}, snapshot=True)
    found = storage.read_values("mallory", "s", ["a"], incarnation=victim.incarnation, at=1)
    assert found == {"a": b'"mine"'}
    storage.rename_session("mallory", "s", "t")
    storage.delete_session("mallory", "t")
    assert everything(storage, "alice") == before


# The text of the queries and of the tables


def unowned(queries: dict[str, str]) -> list[str]:
    """The queries that reach into a table of sessions, or into the step cache, without naming the owner for it."""
    found = []
    for name, written in queries.items():
        is_spanning = name in SPANNING | OF_THE_CACHE
        # The step cache is one of the tables; a table before a column only says whose that is.
        text = re.sub(r"\{table\}_\w+\.", "", written.replace("holdfast_step_entry", "{table}_step_entry"))
        tables = len(re.findall(r"(?:FROM|UPDATE|INTO) \{table\}_", text))
        owners = len(re.findall(r"(?:WHERE|AND) owner = (?::owner|\?)|INTO \{table\}_\w+\s*\(owner, \w+", text))
        if text.count("{table}_") != tables or (not is_spanning and tables != owners):
            found.append(name)
        # An OR beside the owner would open what the owner closes; inside of brackets it only narrows.
        condition = text.partition("WHERE")[2]
        while (inner := re.sub(r"\([^()]*\)", "", condition)) != condition:
            condition = inner
        if not is_spanning and " OR " in condition:
            found.append(name)
    return found


def test_every_query_names_the_owner_unless_its_name_says_that_it_spans_them() -> None:
    queries = parsed((FOLDER / "queries.sql").read_text(encoding="utf-8"))
    assert unowned(queries) == []
    assert {name for name in queries if name.endswith("of_all_owners")} == SPANNING | OF_THE_CACHE


@pytest.mark.parametrize(
    "text",
    [
        "SELECT data FROM {table}_value WHERE session_id = :session_id",
        "SELECT data FROM {table}_value WHERE owner = :owner OR session_id = :session_id",
        "SELECT data FROM {table}_value JOIN {table}_run WHERE owner = :owner",
        "DELETE FROM {table}_value WHERE owner LIKE :owner",
        "INSERT INTO {table}_value (session_id, owner) VALUES (?, ?)",
        "UPDATE {table}_value SET owner = :owner",
        "SELECT result FROM holdfast_step_entry WHERE key = :key",
    ],
)
def test_a_query_without_the_owner_is_noticed(text: str) -> None:
    assert unowned({"planted": text}) == ["planted"]


def test_only_what_may_span_owners_uses_the_queries_that_do() -> None:
    using = {
        file.stem: sorted(name for name in SPANNING | OF_THE_CACHE if f'"{name}"' in file.read_text(encoding="utf-8"))
        for file in FOLDER.glob("*.py")
    }
    assert {name: found for name, found in using.items() if found} == {
        "reading": sorted(READ),
        "checking": sorted({*CHECKED, "entries_of_all_owners"}),
        "step_cache": sorted(OF_THE_CACHE),
    }


def keys_without_owner(text: str) -> list[str]:
    """The tables and unique indexes of sessions in which the owner is not the first column of the key."""
    found = []
    named = r"CREATE TABLE (\{table\}_\w+|holdfast_step_entry) \((.*?)^\)"
    for table, body in re.findall(named, text, flags=re.MULTILINE | re.DOTALL):
        if not re.search(r"PRIMARY KEY \(owner, (table_name, )?session_id\b", body) or "UNIQUE" in body:
            found.append(table)
    found += re.findall(r"CREATE UNIQUE INDEX \S+ ON (\{table\}_\w+)\s*\((?!owner\b)", text)
    return found


def test_the_owner_comes_first_in_every_key_of_every_table() -> None:
    migrations = sorted(FOLDER.glob("migrations/*/*.sql"))
    assert migrations
    for file in migrations:
        text = file.read_text(encoding="utf-8")
        assert keys_without_owner(text) == [], file
        assert len(re.findall(r"CREATE TABLE \{table\}_", text)) == text.count("PRIMARY KEY (owner, session_id")
    planted = "CREATE TABLE {table}_note (\n owner TEXT,\n PRIMARY KEY (session_id)\n);"
    assert keys_without_owner(planted) == ["{table}_note"]


# Workflows and commands


class Diary(Workflow):
    def run(self, entry: str) -> str:
        kept = self.session_state.setdefault("entries", [])
        kept.append(f"{self.user_id}: {entry}")
        self.session_state["last"] = self.user_id
        return str(self.user_id)


USERS = ("alice", "bob", None)


def diaries_of_each(storage: Storage, rounds: int = 15) -> None:
    """Several users write into sessions of one id on one storage, at the same time, and look at all they get."""
    waiting = list(USERS)

    def write() -> None:
        user = waiting.pop()
        for number in range(rounds):
            diary = Diary(session_id="diary", storage=storage, user_id=user)
            assert diary.run(str(number)).content == str(user)
            assert diary.session_state["entries"] == [f"{user}: {n}" for n in range(number + 1)]
            assert diary.session_state["last"] == user
            (info,) = storage.find_sessions(user or "")
            assert info.version == number + 1

    run_in_threads(write, len(USERS))


def test_users_with_one_session_id_never_see_each_other(storage: Storage) -> None:
    diaries_of_each(storage)
    for user in USERS:
        runs = storage.find_runs(user or "", session_id="diary")
        assert {json.loads(run.output or b"") for run in runs} == {str(user)}


def test_a_storage_that_mixes_users_up_is_noticed(storage: Storage) -> None:
    leaking: Any = Leaking(storage, "everybody")
    with pytest.raises((AssertionError, StateConflict)):
        diaries_of_each(leaking)


def test_what_one_user_remembers_is_not_used_for_another(storage: Storage) -> None:
    for number in range(5):
        for user in USERS:
            Diary(session_id="diary", storage=storage, user_id=user).run(str(number))
    storage.delete_session("bob", "diary")
    assert Diary(session_id="diary", storage=storage, user_id="bob").session_state == {}
    Diary(session_id="diary", storage=storage, user_id="bob").run("anew")
    for user, count in (("alice", 5), ("bob", 1), (None, 5)):
        state = Diary(session_id="diary", storage=storage, user_id=user).session_state
        assert len(state["entries"]) == count
        assert state["last"] == user


COMMANDS: dict[str, str] = {
    "sessions list": "",
    "sessions show": "SESSION",
    "sessions history": "SESSION",
    "sessions diff": "SESSION 0 1",
    "sessions export": "SESSION exported.json",
    "sessions import": "package.json --session-id SESSION",
    "sessions prune": "SESSION --keep 1 --yes",
    "sessions rename": "SESSION renamed",
    "sessions apply": "SESSION RUN --ours --yes",
    "sessions copy": "SESSION --from holdfast.db --to copied.db",
    "sessions delete": "SESSION --yes",
    "runs list": "",
    "runs show": "RUN",
    "runs resume": "RUN work.py:Notes",
    "cache list": "",
    "cache show": "KEY",
    "cache why": "RUN",
    "cache clear": "--all --yes",
}
"""Every command that narrows by owner, with arguments that aim at a session or a run."""


def narrowing(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands that narrow by owner what is stored."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            inner = group.get_command(context, name)
            assert inner is not None
            yield from narrowing(inner, (*words, name))
    elif words != ("run",) and any("--user-id" in option.opts for option in group.params):
        yield " ".join(words)


def test_every_command_that_narrows_by_owner_is_tried() -> None:
    assert set(narrowing(command)) == set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("session_id", ["diary", "only bob's"])
def test_a_command_for_one_user_neither_shows_nor_changes_what_another_has(
    words: str, session_id: str, default_storage: SqlWorkflowStorage
) -> None:
    keep(default_storage, "diary", {"mine": "of alice"}, user_id="alice")
    runs = [keep(default_storage, each, {"secret": "of bob"}, user_id="bob") for each in ("diary", "only bob's")]
    Path("package.json").write_text(json.dumps(packaged(values=[["imported", "1"]])), encoding="utf-8")
    entry = make_entry("secret", Place("bob"), step="secret step", result=b'{"v":"of bob"}')
    put(default_storage.step_cache, entry)
    before = everything(default_storage, "bob")
    kept = default_storage.step_cache.find("bob")
    named = {"SESSION": session_id, "RUN": runs[0], "KEY": entry.key.hex()}
    arguments = [named.get(word, word) for word in COMMANDS[words].split()]
    result = holdfast(*words.split(), *arguments, "--user-id", "alice")
    said = result.stdout + result.stderr + "".join(file.read_text("utf-8") for file in Path().glob("exported.json"))
    # A run or a key is then repeated in the answer that there is none.
    takes_a_run = words in ("runs show", "runs resume", "sessions apply", "cache show", "cache why")
    for secret in ("secret", "of bob", runs[1], *([] if takes_a_run else [runs[0]])):
        assert secret not in said
    reaches = words.endswith(("list", "import", "clear")) or (not takes_a_run and session_id == "diary")
    # To import over a session that one has already is refused for another reason.
    assert (result.exit_code == 0) == (reaches and (words, session_id) != ("sessions import", "diary")), said
    assert everything(default_storage, "bob") == before
    assert default_storage.step_cache.find("bob") == kept != ()


def test_a_command_for_all_users_does_show_it(default_storage: SqlWorkflowStorage) -> None:
    run = keep(default_storage, "only bob's", {"secret": "of bob"}, user_id="bob")
    assert "of bob" in holdfast("sessions", "show", "only bob's").stdout
    assert run in holdfast("runs", "show", run).stdout
