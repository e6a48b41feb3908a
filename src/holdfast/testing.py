"""`StorageConformance`: the storage interface as tests, to which any backend can be held.

A backend's test module subclasses it, and what is in `testing_steps.py`, and gives it two fixtures, here for one that
keeps files:

    class TestMyStorage(StorageConformance):
        @pytest.fixture
        def make_storage(self, tmp_path):
            return lambda keep_history=None: MyStorage(tmp_path / secrets.token_hex(4), keep_history)

        @pytest.fixture
        def storage(self, make_storage):
            return make_storage()

Rules that must stay true:
- each storage that `make_storage` makes is new and empty;
- the suite asks nothing that `holdfast.storage.base` does not promise, and needs neither pytest plugins nor mocks;
- time is `holdfast.clock`: a backend must read it there.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from holdfast import clock, errors
from holdfast.records import (
    Change,
    Claim,
    Commit,
    Failure,
    Known,
    Run,
    RunStatus,
    SessionInfo,
    Snapshot,
    StoredSession,
    StoredValue,
    Usage,
)
from holdfast.storage.base import INLINE_SIZE, STALE_AFTER, Storage

MakeStorage = Callable[..., Storage]
State = dict[str, Any]

HOSTILE_TEXTS = (
    "a' OR 1=1 --",
    'quote " semicolon ; drop table',
    "%_",
    "Straße",
    "STRASSE",
    "e\u0301",
    "\u00e9",
    "\uff21",
    "A",
    "a",
    " a",
    "a ",
    "\u2028\ufeff\u202e\uffff",
    "\U0001f600",
    "x" * 255,
)
"""Ids and owners that careless storage confuses with each other or with SQL."""


class AdjustableClock(clock.Clock):
    """A clock that stands still until a test moves it.

    >>> hands = AdjustableClock(100.0)
    >>> hands.time += 5
    >>> hands.now()
    105.0
    """

    def __init__(self, time: float = 1_700_000_000.0) -> None:
        self.time = time

    def now(self) -> float:
        """The time that the test set."""
        return self.time

    def server_now(self, ask: Callable[[], float]) -> float:  # noqa: ARG002  (it does not ask)
        """The time that the test set, on servers as well."""
        return self.time


@contextmanager
def adjustable_clock() -> Iterator[AdjustableClock]:
    """Put an `AdjustableClock` in the place of the clock.

    >>> with adjustable_clock() as hands:
    ...     hands.time = 7.0
    ...     clock.now()
    7.0
    """
    before, hands = clock.current, AdjustableClock()
    clock.current = hands
    try:
        yield hands
    finally:
        clock.current = before


class Writer:
    """Commits states of one session and remembers each version, as a session object would.

    Values are JSON, names are keys as they are. The patch of a commit has one operation for each changed key.

    >>> from holdfast.storage.memory import MemoryStorage
    >>> writer = Writer(MemoryStorage(), "", "s")
    >>> writer.commit({"a": 1}), writer.commit({"a": 1, "b": [2]}, snapshot=True)
    (1, 2)
    >>> rebuilt(writer.storage.load("", "s", at=1))
    {'a': 1}
    """

    def __init__(self, storage: Storage, owner: str = "", session_id: str = "s") -> None:
        self.storage = storage
        self.owner = owner
        self.session_id = session_id
        self.incarnation = secrets.token_hex(16)
        self.states: list[State] = [{}]
        """What each version is, from version 0."""
        self.version = 0
        self._touched: set[str] = set()
        """Names that were added, changed or removed since the last snapshot of this writer."""

    def prepared(self, state: State, *, snapshot: bool = False, run: Run | None = None) -> Commit:
        """The commit that makes this the next state."""
        removed, added = self._difference(state)
        operations: list[State] = [{"op": "remove", "path": name} for name in removed]
        operations += [{"op": "add", "path": name, "value": state[name]} for name in added]
        return Commit(
            owner=self.owner,
            session_id=self.session_id,
            commit_id=secrets.token_hex(16),
            base=self.version,
            incarnation=self.incarnation,
            workflow="Conformance",
            patch=json.dumps(operations).encode(),
            snapshot=self._snapshot(state) if snapshot else None,
            run=run,
            run_id=run.run_id if run else "",
        )

    def commit(self, state: State, *, snapshot: bool = False, run: Run | None = None) -> int:
        """Commit a state and return its version."""
        version = self.storage.commit(self.prepared(state, snapshot=snapshot, run=run))
        self.applied(state, snapshot=snapshot)
        assert version == self.version
        return version

    def applied(self, state: State, *, snapshot: bool = False) -> None:
        """Note that a prepared commit was applied."""
        if snapshot:
            self._touched = set()
        else:
            self._touched.update(*self._difference(state))
        self.states.append(dict(state))
        self.version += 1

    def follow(self, other: Writer) -> None:
        """Go on from where another writer of the same session is."""
        self.incarnation, self.version = other.incarnation, other.version
        self.states, self._touched = list(other.states), set(other._touched)

    def _difference(self, state: State) -> tuple[list[str], list[str]]:
        """The names to remove, and those to add at the end: a name that is out of order is removed and added."""
        before = self.states[self.version]
        stay: set[str] = set()
        following = iter(before)
        for name in state:
            if name not in following:
                break
            stay.add(name)
        removed = [name for name in before if name not in stay]
        return removed, [name for name in state if name not in stay or before[name] != state[name]]

    def _snapshot(self, state: State) -> Snapshot:
        touched = self._touched.union(*self._difference(state))
        encoded = {name: json.dumps(value).encode() for name, value in state.items() if name in touched}
        return Snapshot(tuple(state), tuple(StoredValue(name, len(data), data) for name, data in encoded.items()))


def rebuilt(stored: StoredSession | None, storage: Storage | None = None) -> State:
    """The state that a loaded session of a `Writer` holds; values that were left out are read from `storage`."""
    assert stored is not None
    assert stored.values is not None
    left_out = [value.name for value in stored.values if value.data is None]
    info = stored.info
    whole = {}
    if left_out:
        assert storage is not None
        whole = storage.read_values(
            info.owner, info.session_id, left_out, incarnation=info.incarnation, at=info.snapshot_version
        )
    state = {value.name: json.loads(value.data or whole[value.name]) for value in stored.values}
    for change in stored.changes:
        for operation in json.loads(change.patch):
            if operation["op"] == "remove":
                del state[operation["path"]]
            else:
                state[operation["path"]] = operation["value"]
    return state


def make_run(owner: str = "", session_id: str = "s", status: RunStatus = RunStatus.completed, **fields: Any) -> Run:
    """A run record with everything that is required filled in.

    >>> make_run(status=RunStatus.failed).status
    <RunStatus.failed: 'failed'>
    """
    required: dict[str, Any] = {
        "run_id": secrets.token_hex(16),
        "workflow_id": "Conformance",
        "workflow": "Conformance",
        "started_at": clock.now(),
        "process_id": "process-1",
    }
    return Run(owner=owner, session_id=session_id, status=status, **(required | fields))


def claim_of(lease_id: str, session_id: str = "s", **fields: Any) -> Claim:
    """A claim of ten seconds.

    >>> claim_of("a").is_exclusive
    False
    """
    return Claim("", session_id, lease_id, **({"seconds": 10.0} | fields))


def never(info: SessionInfo, changes: tuple[Change, ...]) -> Commit:
    """A rebase that fails the test when it is called."""
    raise AssertionError(f"rebased at version {info.version}, over {len(changes)} changes")


@contextmanager
def raises(kind: type[errors.HoldfastError]) -> Iterator[list[errors.HoldfastError]]:
    """Fail unless the block raises this error; the error is put into the list.

    >>> with raises(errors.InvalidInput) as caught:
    ...     raise errors.InvalidInput("no")
    >>> str(caught[0])
    'no'
    """
    caught: list[errors.HoldfastError] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    assert caught, f"{kind.__name__} was not raised"


def everything(storage: Storage, owner: str) -> tuple[Any, ...]:
    """All that a storage tells about an owner, to compare before and after."""
    sessions = sorted(storage.find_sessions(owner), key=lambda info: info.session_id)
    runs = sorted(storage.find_runs(owner), key=lambda run: run.run_id)
    cache = storage.step_cache
    return (
        sessions,
        [storage.load(owner, info.session_id) for info in sessions],
        [storage.changes(owner, info.session_id) for info in sessions],
        runs,
        [storage.find_steps(owner, run.session_id, run.run_id, with_results=True) for run in runs],
        [cache.read(entry.place, entry.key) for entry in cache.find(owner)],
    )


NOTHING: tuple[Any, ...] = ([], [], [], [], [], [])
"""What `everything` returns for an owner of whom nothing is stored."""


def foreign_calls(storage: Storage, owner: str, session_id: str, incarnation: str) -> dict[str, Any]:
    """For each operation of the interface, a call by `owner` that aims at a session which is not theirs."""
    commit = Writer(storage, owner, session_id).prepared({"stolen": True}, run=make_run(owner, session_id))
    stolen = replace(commit, base=1, incarnation=incarnation)
    return {
        "load": lambda: storage.load(owner, session_id),
        "read_values": lambda: storage.read_values(owner, session_id, ["a"], incarnation=incarnation, at=1),
        "commit": lambda: storage.commit(stolen),
        "begin_session": lambda: _begin_and_delete(storage, _head(owner, session_id, incarnation)),
        "claim_lease": lambda: storage.claim_lease(Claim(owner, session_id, "stolen", 10.0, is_exclusive=True)),
        "release_lease": lambda: storage.release_lease(owner, session_id, "stolen"),
        "beat": lambda: storage.beat(f"process of {owner}", stopped=True),
        "changes": lambda: storage.changes(owner, session_id),
        "find_sessions": lambda: storage.find_sessions(owner, session_id=session_id),
        "find_runs": lambda: storage.find_runs(owner, session_id=session_id),
        "find_steps": lambda: storage.find_steps(owner, session_id, "run", with_results=True),
        "rename_session": lambda: storage.rename_session(owner, session_id, "mine now"),
        "delete_session": lambda: storage.delete_session(owner, session_id),
        "prune_session": lambda: storage.prune_session(owner, session_id, 1),
        "check": storage.check,
    }


def _head(owner: str, session_id: str, incarnation: str, version: int = 1) -> SessionInfo:
    return SessionInfo(owner, session_id, incarnation, version, 0, "Conformance", 1.5, 2.5)


def _begin_and_delete(storage: Storage, info: SessionInfo) -> None:
    storage.begin_session(info, Snapshot((), ()))
    storage.delete_session(info.owner, info.session_id)


class StorageConformance:
    """Tests of the storage interface; see the module for how to apply them to a backend."""

    # Sessions and their versions

    def test_a_session_that_was_never_stored_is_none(self, storage: Storage) -> None:
        assert storage.load("", "s") is None

    def test_the_first_commit_creates_the_session(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            writer = Writer(storage, "ann", "s")
            assert writer.commit({"a": 1}) == 1
            stored = storage.load("ann", "s")
        assert stored is not None
        info = stored.info
        assert (info.owner, info.session_id, info.incarnation) == ("ann", "s", writer.incarnation)
        assert (info.version, info.snapshot_version, info.workflow) == (1, 0, "Conformance")
        assert (info.created_at, info.updated_at) == (hands.time, hands.time)
        assert stored.values == ()
        assert rebuilt(stored) == {"a": 1}

    def test_every_commit_is_one_change_with_its_time_and_run(self, storage: Storage) -> None:
        writer = Writer(storage)
        with adjustable_clock() as hands:
            writer.commit({"a": 1})
            hands.time += 60
            run = make_run()
            commit = writer.prepared({"a": 2}, run=run)
            assert storage.commit(commit) == 2
            stored = storage.load("", "s")
        assert stored is not None
        change = stored.changes[1]
        assert (change.version, change.commit_id, change.run_id) == (2, commit.commit_id, run.run_id)
        assert (change.created_at, change.patch) == (hands.time, commit.patch)
        assert stored.info.updated_at == stored.info.created_at + 60
        assert stored.changes[0].run_id == ""

    def test_a_snapshot_stores_whole_values_in_order(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"b": 1, "a": [2, 3], "": None}, snapshot=True)
        writer.commit({"b": 1, "a": [2, 3], "": None, "c": "new"})
        stored = storage.load("", "s")
        assert stored is not None
        assert stored.values is not None
        assert [value.name for value in stored.values] == ["b", "a", ""]
        assert [value.size for value in stored.values] == [1, 6, 4]
        assert list(rebuilt(stored).items()) == [("b", 1), ("a", [2, 3]), ("", None), ("c", "new")]

    def test_a_later_snapshot_has_what_it_stores_and_what_was_stored_before(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1, "b": 2, "c": 3}, snapshot=True)
        second = writer.prepared({"a": 1, "b": 20}, snapshot=True)
        assert second.snapshot is not None
        assert [value.name for value in second.snapshot.values] == ["b"]
        writer.commit({"a": 1, "b": 20}, snapshot=True)
        writer.commit({"a": 1, "b": 20, "c": 30}, snapshot=True)
        stored = storage.load("", "s")
        assert list(rebuilt(stored).items()) == [("a", 1), ("b", 20), ("c", 30)]
        assert stored is not None
        assert stored.changes == ()

    def test_a_snapshot_holds_although_another_made_one_that_its_committer_does_not_know(
        self, storage: Storage
    ) -> None:
        first, second = Writer(storage), Writer(storage)
        second.incarnation = first.incarnation
        states: list[State] = [
            {"same": 0, "gone": 1, "moved": 2, "theirs": 3},
            {"same": 0, "theirs": 30, "moved": 2},
            {"same": 0, "theirs": 30, "moved": 2, "ours": 4},
        ]
        first.commit(states[0], snapshot=True)
        second.applied(states[0], snapshot=True)
        first.commit(states[1], snapshot=True)
        second.applied(states[1])
        second.commit(states[2], snapshot=True)
        for version, state in enumerate(states, start=1):
            assert list(rebuilt(storage.load("", "s", at=version)).items()) == list(state.items())
        stored = storage.load("", "s")
        assert stored is not None
        assert stored.changes == ()
        assert storage.check() == ()

    def test_a_snapshot_that_does_not_add_up_is_refused(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1, "b": 2}, snapshot=True)
        before = everything(storage, "")
        value, bare = StoredValue("a", 1, b"3"), StoredValue("a", 1, None)
        for snapshot in (
            Snapshot(("a", "never stored"), (value,)),
            Snapshot(("b",), (value,)),
            Snapshot(("a", "b", "a"), (value,)),
            Snapshot(("a", "b"), (value, value)),
            Snapshot(("a", "b"), (bare,)),
        ):
            with raises(errors.InvalidInput):
                storage.commit(replace(writer.prepared({"a": 3, "b": 2}, run=make_run()), snapshot=snapshot))
            assert everything(storage, "") == before
        assert storage.check() == ()
        writer.commit({"a": 3}, snapshot=True)
        assert rebuilt(storage.load("", "s")) == {"a": 3}

    def test_a_first_snapshot_that_does_not_add_up_makes_no_session(self, storage: Storage) -> None:
        commit = replace(Writer(storage).prepared({"a": 1}), snapshot=Snapshot(("a",), ()))
        with raises(errors.InvalidInput):
            storage.commit(commit)
        assert storage.load("", "s") is None
        Writer(storage).commit({"a": 1})

    def test_values_come_with_the_session_when_they_are_little_together(self, storage: Storage) -> None:
        writer = Writer(storage)
        # As JSON, two quotes are added to each text.
        half = "x" * (INLINE_SIZE // 2 - 2)
        limit = {"a": half, "b": half}
        writer.commit(limit, snapshot=True)
        writer.commit(limit | {"c": 1}, snapshot=True)
        for at, is_inline in ((1, True), (2, False)):
            stored = storage.load("", "s", at=at)
            assert stored is not None
            assert stored.values is not None
            assert [value.data is not None for value in stored.values] == [is_inline] * len(stored.values)
            assert [value.size for value in stored.values] == [INLINE_SIZE // 2, INLINE_SIZE // 2, 1][: at + 1]
            assert rebuilt(stored, storage) == writer.states[at]
        wanted = storage.read_values("", "s", ["c", "no such"], incarnation=writer.incarnation, at=2)
        assert wanted == {"c": b"1"}
        assert storage.read_values("", "s", [], incarnation=writer.incarnation, at=2) == {}
        assert storage.read_values("", "s", ["c"], incarnation=writer.incarnation, at=0) == {}

    def test_values_can_be_read_as_long_as_they_are_what_they_were(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(1, 40):
            writer.commit({"same": "s", "new": number}, snapshot=True)
        for at in range(1, 40):
            read = storage.read_values("", "s", ["same"], incarnation=writer.incarnation, at=at)
            assert read == {"same": b'"s"'}
        answers: set[bytes | str] = set()
        for at in range(1, 40):
            try:
                read = storage.read_values("", "s", ["new"], incarnation=writer.incarnation, at=at)
            except errors.VersionNotKept:
                answers.add("not kept")
            else:
                assert read == {"new": str(at).encode()}
        assert answers == {"not kept"}
        with raises(errors.VersionNotKept):
            storage.read_values("", "s", ["same"], incarnation=writer.incarnation, at=40)

    # Committing

    def test_a_commit_on_an_old_base_is_a_conflict_and_writes_nothing(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1})
        late = writer.prepared({"a": 1, "late": 1}, snapshot=True, run=make_run())
        writer.commit({"a": 2})
        before = everything(storage, "")
        with raises(errors.VersionConflict) as caught:
            storage.commit(late)
        assert caught[0].facts["base_version"] == 1
        assert caught[0].facts["current_version"] == 2
        assert late.run is not None
        assert caught[0].facts["run_id"] == late.run.run_id
        assert everything(storage, "") == before

    def test_of_two_first_commits_one_is_a_conflict(self, storage: Storage) -> None:
        Writer(storage).commit({"a": 1})
        with raises(errors.VersionConflict) as caught:
            Writer(storage).commit({"b": 1})
        assert (caught[0].facts["base_version"], caught[0].facts["current_version"]) == (0, 1)
        assert rebuilt(storage.load("", "s")) == {"a": 1}

    def test_a_base_in_the_future_is_a_conflict(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1})
        late = replace(writer.prepared({"a": 2}), base=5)
        with raises(errors.VersionConflict):
            storage.commit(late)
        with raises(errors.VersionConflict):
            storage.commit(late, rebase=never)

    def test_a_commit_on_an_old_base_is_rebased_on_what_others_committed(self, storage: Storage) -> None:
        writer, other = Writer(storage), Writer(storage)
        writer.commit({"a": 1})
        other.follow(writer)
        other.commit({"a": 1, "b": 2})
        other.commit({"a": 1, "b": 2, "c": 3})
        late = writer.prepared({"a": 1, "late": 1}, run=make_run())
        told: list[object] = []

        def rebase(info: SessionInfo, changes: tuple[Change, ...]) -> Commit:
            told.extend([info.version, [change.version for change in changes]])
            return replace(late, base=info.version, incarnation=info.incarnation)

        assert storage.commit(late, rebase=rebase) == 4
        assert told == [3, [2, 3]]
        assert rebuilt(storage.load("", "s")) == {"a": 1, "b": 2, "c": 3, "late": 1}
        assert storage.commit(late, rebase=never) == 4, "repeated, it is recognised"

    def test_the_first_commit_of_one_who_came_second_is_rebased(self, storage: Storage) -> None:
        Writer(storage).commit({"a": 1})
        first = Writer(storage).prepared({"b": 2})

        def rebase(info: SessionInfo, changes: tuple[Change, ...]) -> Commit:
            assert [change.version for change in changes] == [1]
            return replace(first, base=info.version, incarnation=info.incarnation)

        assert storage.commit(first, rebase=rebase) == 2
        assert storage.commit(first, rebase=never) == 2, "repeated, it is recognised"
        assert rebuilt(storage.load("", "s")) == {"a": 1, "b": 2}

    def test_what_a_rebase_raises_ends_the_commit_and_nothing_is_written(self, storage: Storage) -> None:
        Writer(storage).commit({"a": 1})
        first = Writer(storage).prepared({"b": 2}, run=make_run())
        before = everything(storage, "")

        def refuse(info: SessionInfo, changes: tuple[Change, ...]) -> Commit:
            raise errors.InvalidInput(f"{info.version} {len(changes)}")

        with raises(errors.InvalidInput) as caught:
            storage.commit(first, rebase=refuse)
        assert str(caught[0]) == "1 1"
        assert everything(storage, "") == before
        Writer(storage, session_id="other").commit({"b": 2})

    def test_a_rebase_that_leaves_nothing_writes_the_run_only(self, storage: Storage) -> None:
        Writer(storage).commit({"a": 1})
        first = Writer(storage).prepared({"a": 1}, run=make_run())

        def rebase(info: SessionInfo, _: tuple[Change, ...]) -> Commit:
            return replace(first, base=info.version, incarnation=info.incarnation, patch=None)

        assert storage.commit(first, rebase=rebase) == 1
        assert len(storage.changes("", "s")) == 1
        assert len(storage.find_runs("")) == 1

    def test_what_is_forgotten_cannot_be_rebased_on(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(6):
            writer.commit({"a": number}, snapshot=True)
        late = replace(writer.prepared({"late": 1}), base=1)
        storage.prune_session("", "s", 1)
        with raises(errors.VersionConflict):
            storage.commit(late, rebase=never)

    # Copies

    def test_a_copied_change_keeps_the_time_at_which_it_was_made(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number, time in enumerate((5.5, 7.25)):
            storage.commit(replace(writer.prepared({"a": number}, snapshot=number == 1), created_at=time))
            writer.applied({"a": number}, snapshot=number == 1)
        assert [change.created_at for change in storage.changes("", "s")] == [5.5, 7.25]
        (info,) = storage.find_sessions("")
        assert (info.created_at, info.updated_at) == (5.5, 7.25)
        writer.commit({"a": 2})
        assert storage.changes("", "s", after=2)[0].created_at > 1e9
        assert storage.check() == ()

    def test_a_copied_run_marks_no_process_alive(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.running)
        storage.commit(replace(writer.prepared({"a": 1}, run=run), created_at=1.0))
        assert storage.find_runs("") == (replace(run, status=RunStatus.interrupted),)
        storage.beat(run.process_id)
        assert storage.find_runs("") == (run,)

    def test_a_session_can_begin_at_a_version_above_0(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(3):
            writer.applied({"a": number, "b": None})
        values = (StoredValue("a", 1, b"2"), StoredValue("b", 4, b"null"))
        head = _head("", "s", writer.incarnation, version=3)
        storage.begin_session(head, Snapshot(("a", "b"), values))
        assert storage.find_sessions("") == (replace(head, snapshot_version=3),)
        assert storage.changes("", "s") == ()
        assert list(rebuilt(storage.load("", "s")).items()) == [("a", 2), ("b", None)]
        assert storage.load("", "s", known=Known(writer.incarnation, 2)) == storage.load("", "s")
        _assert_kept(storage, writer, oldest=3)
        for number in range(3, 40):
            writer.commit({"a": number, "b": None, f"k{number % 3}": 1}, snapshot=number % 5 == 0)
        _assert_kept(storage, writer, oldest=3)
        assert storage.check() == ()
        assert storage.prune_session("", "s", 3) > 30
        assert rebuilt(storage.load("", "s")) == writer.states[-1]
        storage.delete_session("", "s")
        assert storage.check() == ()

    def test_a_session_can_begin_empty(self, storage: Storage) -> None:
        storage.begin_session(_head("ann", "s", "i", version=7), Snapshot((), ()))
        assert rebuilt(storage.load("ann", "s")) == {}
        commit = Commit("ann", "s", "c", 7, "i", "C", b'[{"op":"add","path":"a","value":1}]')
        assert storage.commit(commit) == 8
        assert storage.commit(commit) == 8, "repeated, it is recognised"
        assert rebuilt(storage.load("ann", "s")) == {"a": 1}
        assert storage.check() == ()

    def test_a_session_does_not_begin_where_one_is_nor_without_its_values(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1}, snapshot=True)
        before = everything(storage, "")
        with raises(errors.SessionExists):
            storage.begin_session(_head("", "s", writer.incarnation, version=5), Snapshot((), ()))
        with raises(errors.InvalidInput):
            storage.begin_session(_head("", "t", "i", version=0), Snapshot((), ()))
        with raises(errors.InvalidInput):
            storage.begin_session(_head("", "t", "i"), Snapshot(("a",), ()))
        assert everything(storage, "") == before
        assert storage.check() == ()

    def test_a_session_does_not_begin_while_somebody_holds_it(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            storage.claim_lease(claim_of("x", is_exclusive=True))
            with raises(errors.SessionBusy):
                storage.begin_session(_head("", "s", "i"), Snapshot((), ()))
            hands.time += 10.1
            storage.begin_session(_head("", "s", "i"), Snapshot((), ()))
            with raises(errors.LeaseLost):
                storage.commit(Commit("", "s", "c", 1, "i", "C", b"[]", lease_id="x"))
        assert storage.check() == ()

    # Leases

    def test_the_first_claim_holds_and_the_others_queue_in_order(self, storage: Storage) -> None:
        assert [storage.claim_lease(claim_of(name)) for name in "abc"] == [0, 1, 2]
        assert [storage.claim_lease(claim_of(name)) for name in "cb"] == [2, 1]
        storage.release_lease("", "s", "b")
        assert storage.claim_lease(claim_of("c")) == 1
        storage.release_lease("", "s", "a")
        assert storage.claim_lease(claim_of("b")) == 1
        assert storage.claim_lease(claim_of("c")) == 0
        storage.release_lease("", "s", "nobody's")

    def test_whoever_does_not_wait_takes_no_place(self, storage: Storage) -> None:
        assert storage.claim_lease(claim_of("a", waits=False)) == 0
        assert storage.claim_lease(claim_of("b", waits=False)) == 1
        storage.release_lease("", "s", "a")
        assert storage.claim_lease(claim_of("c")) == 0

    def test_a_place_that_is_not_claimed_again_in_time_goes_when_somebody_comes(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            assert [storage.claim_lease(claim_of(name)) for name in "ab"] == [0, 1]
            hands.time += 8
            assert storage.claim_lease(claim_of("a", is_held=True)) == 0
            assert storage.claim_lease(claim_of("b")) == 1
            hands.time += 8
            assert storage.claim_lease(claim_of("b")) == 1, "a has renewed its place"
            hands.time += 8
            assert storage.claim_lease(claim_of("b")) == 0, "a was not heard of"
            with raises(errors.LeaseLost):
                storage.claim_lease(claim_of("a", is_held=True))
            hands.time += 60
            assert storage.claim_lease(claim_of("b", is_held=True)) == 0, "nobody came"

    def test_only_the_holder_of_an_exclusive_lease_commits(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1})
        storage.claim_lease(claim_of("x", is_exclusive=True))
        ours = writer.prepared({"a": 2}, run=make_run())
        with raises(errors.SessionBusy):
            storage.commit(ours)
        with raises(errors.LeaseLost):
            storage.commit(replace(ours, lease_id="y"))
        Writer(storage, "ann").commit({"a": 1})
        assert storage.commit(replace(ours, lease_id="x")) == 2
        writer.applied({"a": 2})
        with raises(errors.SessionBusy):
            writer.commit({"a": 3})
        assert storage.commit(replace(writer.prepared({"a": 3}), lease_id="x", releases=True)) == 3
        writer.applied({"a": 3})
        assert writer.commit({"a": 4}) == 4
        assert storage.claim_lease(claim_of("z")) == 0

    def test_a_lease_that_is_not_exclusive_keeps_out_other_holders_only(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1})
        storage.claim_lease(claim_of("x"))
        assert writer.commit({"a": 2}) == 2
        assert storage.claim_lease(claim_of("x", is_exclusive=True)) == 0
        with raises(errors.SessionBusy):
            writer.commit({"a": 3})
        assert storage.claim_lease(claim_of("x")) == 0
        assert writer.commit({"a": 3}) == 3
        storage.commit(replace(writer.prepared({"a": 4}), lease_id="x"))

    def test_a_session_can_be_held_before_it_is_stored(self, storage: Storage) -> None:
        storage.claim_lease(claim_of("x", is_exclusive=True))
        assert storage.load("", "s") is None
        assert storage.find_sessions(None) == ()
        writer = Writer(storage)
        with raises(errors.SessionBusy):
            writer.commit({"a": 1})
        assert storage.commit(replace(writer.prepared({"a": 1}), lease_id="x", releases=True)) == 1
        writer.applied({"a": 1})
        assert writer.commit({"a": 2}) == 2
        assert rebuilt(storage.load("", "s")) == {"a": 2}
        assert storage.check() == ()

    def test_a_dead_holder_of_a_session_that_is_not_stored_does_not_keep_its_id(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            storage.claim_lease(claim_of("x", session_id="t", is_exclusive=True))
            Writer(storage).commit({"a": 1})
            hands.time += 10.1
            storage.rename_session("", "s", "t")
            assert rebuilt(storage.load("", "t")) == {"a": 1}

    def test_a_session_that_is_held_and_not_stored_cannot_be_deleted(self, storage: Storage) -> None:
        storage.claim_lease(claim_of("x", is_exclusive=True))
        with raises(errors.SessionNotFound):
            storage.delete_session("", "s")
        with raises(errors.SessionBusy):
            Writer(storage).commit({"a": 1})

    def test_a_session_that_was_held_and_never_stored_leaves_nothing(self, storage: Storage) -> None:
        storage.claim_lease(claim_of("x", is_exclusive=True))
        storage.release_lease("", "s", "x")
        with raises(errors.SessionNotFound):
            storage.delete_session("", "s")
        assert Writer(storage).commit({"a": 1}) == 1

    def test_a_dead_holder_holds_nobody_up_for_longer_than_its_lease(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            writer = Writer(storage)
            writer.commit({"a": 1})
            storage.claim_lease(claim_of("x", is_exclusive=True))
            zombie = replace(writer.prepared({"a": "zombie"}), lease_id="x")
            hands.time += 10.1
            assert writer.commit({"a": 2}) == 2
            with raises(errors.LeaseLost):
                storage.commit(replace(zombie, base=2))

    def test_a_zombie_cannot_commit_although_nothing_was_committed_meanwhile(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            writer = Writer(storage)
            writer.commit({"a": 1})
            storage.claim_lease(claim_of("x", is_exclusive=True))
            zombie = replace(writer.prepared({"a": "zombie"}), lease_id="x")
            hands.time += 10.1
            assert storage.claim_lease(claim_of("y", is_exclusive=True)) == 0
            with raises(errors.LeaseLost):
                storage.commit(zombie)
            assert storage.commit(replace(writer.prepared({"a": 2}), lease_id="y")) == 2

    def test_a_repeated_commit_is_recognised_and_not_applied_twice(self, storage: Storage) -> None:
        writer = Writer(storage)
        first = writer.prepared({"a": 1}, run=make_run())
        assert storage.commit(first) == 1
        assert storage.commit(first) == 1
        writer.applied({"a": 1})
        second = writer.prepared({"a": 2}, snapshot=True)
        assert storage.commit(second) == 2
        writer.applied({"a": 2}, snapshot=True)
        writer.commit({"a": 3})
        before = everything(storage, "")
        assert storage.commit(second) == 2
        assert storage.commit(first) == 1
        assert everything(storage, "") == before

    def test_a_commit_without_a_patch_writes_only_the_run(self, storage: Storage) -> None:
        writer = Writer(storage)
        alone = replace(writer.prepared({}), patch=None, run=make_run())
        assert storage.commit(alone) == 0
        assert storage.load("", "s") is None
        writer.commit({"a": 1})
        before = storage.load("", "s")
        run = make_run(refused_patch=b"[]")
        assert storage.commit(replace(alone, run=run)) == 1
        assert storage.load("", "s") == before
        assert storage.find_runs("", run_id=run.run_id) == (run,)

    def test_a_run_that_ends_after_its_session_was_deleted_leaves_no_record(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1}, snapshot=True)
        ended = replace(writer.prepared({"a": 1}), patch=None, run=make_run())
        assert storage.commit(ended) == 1
        storage.delete_session("", "s")
        with raises(errors.SessionDeleted):
            storage.commit(ended)
        Writer(storage).commit({"b": "of the same name"})
        with raises(errors.SessionDeleted):
            storage.commit(ended)
        assert storage.find_runs(None) == ()
        first = replace(Writer(storage).prepared({}), patch=None, run=make_run())
        assert (first.base, storage.commit(first)) == (0, 1)
        assert storage.find_runs("") == (first.run,)

    def test_the_run_of_another_session_is_refused(self, storage: Storage) -> None:
        for run in (make_run("ann", "s"), make_run("", "t")):
            with raises(errors.InvalidInput):
                storage.commit(Writer(storage).prepared({"a": 1}, run=run))
        assert storage.find_runs(None) == ()
        assert storage.find_sessions(None) == ()

    def test_threads_that_hammer_one_session_lose_and_double_nothing(self, storage: Storage) -> None:
        threads, each = 8, 12
        first = Writer(storage)
        first.commit({"count": 0})
        made: list[int] = []

        def work() -> None:
            for _ in range(each):
                while True:
                    stored = storage.load("", "s")
                    assert stored is not None
                    patch = b"%d" % (len(stored.changes) + 1)
                    commit = Commit("", "s", secrets.token_hex(16), stored.info.version, first.incarnation, "C", patch)
                    try:
                        made.append(storage.commit(commit))
                    except errors.StateConflict:
                        continue
                    break

        run_in_threads(work, threads)
        assert sorted(made) == list(range(2, threads * each + 2))
        stored = storage.load("", "s")
        assert stored is not None
        assert [change.patch for change in stored.changes[1:]] == [
            b"%d" % number for number in range(2, threads * each + 2)
        ]

    def test_threads_on_sessions_of_their_own_do_not_disturb_each_other(self, storage: Storage) -> None:
        def work() -> None:
            writer = Writer(storage, "", secrets.token_hex(8))
            for number in range(15):
                writer.commit({"number": number, "id": writer.session_id}, snapshot=number % 4 == 0)
                assert rebuilt(storage.load("", writer.session_id)) == writer.states[-1]

        run_in_threads(work, 8)
        assert len(storage.find_sessions("")) == 8
        assert storage.check() == ()

    # Loading

    def test_what_is_known_is_not_loaded_again(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(5):
            writer.commit({"a": number}, snapshot=number == 2)
        for known in range(6):
            stored = storage.load("", "s", known=Known(writer.incarnation, known))
            assert stored is not None
            assert stored.values is None
            assert [change.version for change in stored.changes] == list(range(known + 1, 6))
            assert stored.info.version == 5

    def test_what_cannot_be_continued_is_loaded_whole(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(5):
            writer.commit({"a": number}, snapshot=True)
        assert storage.prune_session("", "s", 2) == 4
        for known in (
            Known("another", 5),
            Known(writer.incarnation, 6),
            Known(writer.incarnation, 3),
        ):
            assert rebuilt(storage.load("", "s", known=known)) == {"a": 4}
        assert storage.load("", "no such", known=Known(writer.incarnation, 5)) is None
        stored = storage.load("", "s", known=Known(writer.incarnation, 4))
        assert stored is not None
        assert stored.values is None

    def test_every_version_can_be_loaded(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(12):
            writer.commit({"a": number, f"k{number % 3}": number}, snapshot=number % 5 == 3)
        for version in range(1, 13):
            stored = storage.load("", "s", at=version)
            assert stored is not None
            assert stored.info.version == version
            assert stored.info.snapshot_version <= version
            assert list(rebuilt(stored).items()) == list(writer.states[version].items())
        for version in (-1, 0, 13):
            with raises(errors.VersionNotKept) as caught:
                storage.load("", "s", at=version)
            assert (caught[0].facts["oldest"], caught[0].facts["newest"]) == (1, 12)
        assert storage.load("", "no such", at=1) is None

    def test_changes_are_listed_from_any_version(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(6):
            writer.commit({"a": number}, snapshot=number == 3)
        assert [change.version for change in storage.changes("", "s")] == [1, 2, 3, 4, 5, 6]
        assert [change.version for change in storage.changes("", "s", after=4)] == [5, 6]
        assert [change.version for change in storage.changes("", "s", after=1, limit=2)] == [2, 3]
        assert storage.changes("", "s", after=6) == ()
        assert storage.changes("", "s", after=60) == ()
        assert storage.changes("", "s", limit=0) == ()
        with raises(errors.SessionNotFound):
            storage.changes("", "no such")

    # History

    def test_random_histories_stay_rebuildable(self, storage: Storage) -> None:
        for seed in range(12):
            dice = random.Random(seed)
            writer = Writer(storage, "", f"s{seed}")
            oldest = 1
            for _ in range(dice.randrange(5, 60)):
                state = dict(writer.states[-1])
                for _ in range(dice.randrange(3)):
                    state.pop(dice.choice("abcde"), None)
                for _ in range(dice.randrange(3)):
                    state[dice.choice("abcde")] = dice.random()
                writer.commit(state, snapshot=dice.random() < 0.4)
                if dice.random() < 0.05:
                    keep = dice.randrange(1, 20)
                    storage.prune_session("", writer.session_id, keep)
                    oldest = max(oldest, writer.version - keep + 1)
            for version in range(oldest, writer.version + 1):
                stored = storage.load("", writer.session_id, at=version)
                assert list(rebuilt(stored).items()) == list(writer.states[version].items())
            newest = storage.load("", writer.session_id)
            assert list(rebuilt(newest).items()) == list(writer.states[-1].items())
        assert storage.check() == ()

    def test_old_snapshots_are_thinned_to_widening_distances(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(200):
            writer.commit({"a": number, f"k{number % 7}": number}, snapshot=True)
        used = set()
        for version in range(1, 201):
            stored = storage.load("", "s", at=version)
            assert stored is not None
            used.add(stored.info.snapshot_version)
            assert list(rebuilt(stored).items()) == list(writer.states[version].items())
        assert {199, 200} <= used
        assert len(used) <= 20

    def test_history_is_pruned_by_number_with_a_snapshot(self, make_storage: MakeStorage) -> None:
        storage = make_storage(keep_history=5)
        writer = Writer(storage)
        for number in range(30):
            writer.commit({"a": number}, snapshot=number % 3 == 0)
        # The last snapshot made version 28, so that 24 must be readable, for which version 22 is needed.
        assert [change.version for change in storage.changes("", "s")] == list(range(23, 31))
        _assert_kept(storage, writer, oldest=22)

    def test_history_is_pruned_by_age_with_a_snapshot(self, make_storage: MakeStorage) -> None:
        storage = make_storage(keep_history=timedelta(minutes=10))
        writer = Writer(storage)
        with adjustable_clock() as hands:
            for number in range(30):
                hands.time += 60
                writer.commit({"a": number}, snapshot=number % 7 == 5)
            # Ten minutes before the last snapshot, 27, version 17 was current, which needs the snapshot 13.
            _assert_kept(storage, writer, oldest=13)
            hands.time += 3600
            writer.commit({"a": "later"}, snapshot=True)
        # Until a moment ago, version 30 was the current one, which needs the snapshot of version 27.
        _assert_kept(storage, writer, oldest=27)

    def test_pruning_says_how_much_it_forgot_and_keeps_what_newer_versions_need(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(10):
            writer.commit({"a": number, "gone" if number < 5 else "kept": 1}, snapshot=number in (3, 6))
        assert storage.prune_session("", "s", None) == 0
        assert storage.prune_session("", "s", 100) == 0
        assert storage.prune_session("", "s", timedelta(days=1)) == 0
        assert storage.prune_session("", "s", 5) == 4
        _assert_kept(storage, writer, oldest=4)
        assert storage.prune_session("", "s", 1) == 3
        assert storage.prune_session("", "s", 1) == 0
        _assert_kept(storage, writer, oldest=7)
        assert storage.check() == ()
        writer.commit({"a": "on"}, snapshot=True)
        assert rebuilt(storage.load("", "s")) == {"a": "on"}
        with raises(errors.SessionNotFound):
            storage.prune_session("", "no such", 1)

    def test_only_sensible_amounts_of_history_are_accepted(self, make_storage: MakeStorage) -> None:
        amounts: list[Any] = [0, -1, True, 1.5, "all", timedelta(0)]
        for keep in amounts:
            with raises(errors.InvalidInput):
                make_storage(keep_history=keep)
            with raises(errors.InvalidInput):
                make_storage().prune_session("", "s", keep)

    # Runs

    def test_a_run_comes_back_as_it_was_recorded_and_is_replaced_by_its_id(self, storage: Storage) -> None:
        run = make_run(
            status=RunStatus.running,
            started_at=1.5,
            input=b'{"topic":"x"}',
            usage=Usage(1, 2, 3, None),
            base_version=7,
        )
        writer = Writer(storage)
        storage.beat("process-1")
        writer.commit({"a": 1}, run=run)
        assert storage.find_runs("") == (run,)
        ended = replace(
            run,
            status=RunStatus.failed,
            ended_at=2.5,
            output=b'"\x00"',
            error=Failure("ValueError", "a \ud800 'message'\0", "Traceback\n  ..."),
            usage=Usage(2**40, 0, 5, 0.1 + 0.2),
            refused_patch=b"[]",
        )
        writer.commit({"a": 2}, run=ended)
        assert storage.find_runs("") == (ended,)

    def test_runs_are_found_by_owner_session_and_id_the_last_started_first(self, storage: Storage) -> None:
        runs = [
            make_run(owner, session_id, run_id=f"{owner}-{session_id}-{number}", started_at=float(start))
            for start, (owner, session_id, number) in enumerate(
                [("", "s", 1), ("", "t", 2), ("ann", "s", 3), ("", "s", 4), ("ann", "t", 5)]
            )
        ]
        for run in runs:
            writer = Writer(storage, run.owner, run.session_id)
            storage.commit(replace(writer.prepared({}), patch=None, run=run))

        def found(*arguments: Any, **options: Any) -> list[str]:
            return [run.run_id[-1] for run in storage.find_runs(*arguments, **options)]

        assert found(None) == ["5", "4", "3", "2", "1"]
        assert found("") == ["4", "2", "1"]
        assert found("ann", session_id="s") == ["3"]
        assert found(None, session_id="s") == ["4", "3", "1"]
        assert found("", session_id="s", limit=1) == ["4"]
        assert found(None, run_id="-t-2") == ["2"]
        assert found("ann", run_id="-t-2") == []
        assert found("", session_id="s", run_id="-t-2") == []
        assert found("nobody") == []
        assert found(None, limit=0) == []

    def test_a_running_run_is_interrupted_when_its_process_is_not_heard_of(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            run = make_run(status=RunStatus.running)
            done = make_run(status=RunStatus.completed)
            writer = Writer(storage)
            writer.commit({"a": 1}, run=run)
            writer.commit({"a": 2}, run=done)

            def statuses() -> set[RunStatus]:
                return {found.status for found in storage.find_runs("", session_id="s")}

            alive = {RunStatus.running, RunStatus.completed}
            dead = {RunStatus.interrupted, RunStatus.completed}
            assert statuses() == alive
            hands.time += STALE_AFTER - 1
            assert statuses() == alive
            storage.beat("process-1")
            storage.beat("process-2")
            hands.time += STALE_AFTER
            assert statuses() == alive
            hands.time += 1
            assert statuses() == dead
            storage.beat("process-1")
            assert statuses() == alive
            storage.beat("process-2", stopped=True)
            assert statuses() == alive
            storage.beat("process-1", stopped=True)
            assert statuses() == dead
            writer.commit({"a": 3}, run=run)
            assert statuses() == alive

    def test_a_commit_with_a_run_keeps_its_process_alive(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            run = make_run(status=RunStatus.running)
            writer = Writer(storage)
            for number in range(20):
                hands.time += 4
                writer.commit({"a": number}, run=run)
            assert [found.status for found in storage.find_runs("")] == [RunStatus.running]

    # Finding, renaming, deleting

    def test_a_limit_is_a_number_from_nought(self, storage: Storage) -> None:
        Writer(storage).commit({"a": 1}, run=make_run())
        hostile: list[Any] = [-1, -(2**70), True, 1.5, "1", "1; DROP TABLE x"]
        for limit in hostile:
            for find in (storage.find_sessions, storage.find_runs):
                with raises(errors.InvalidInput):
                    find(None, limit=limit)
            with raises(errors.InvalidInput):
                storage.changes("", "s", limit=limit)
        for limit, count in ((0, 0), (1, 1), (2**70, 1)):
            assert len(storage.find_sessions("", limit=limit)) == count
            assert len(storage.find_runs("", limit=limit)) == count
            assert len(storage.changes("", "s", limit=limit)) == count

    def test_sessions_are_found_the_last_updated_first(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            writers = [Writer(storage, owner, name) for owner in ("", "ann") for name in ("s", "t")]
            for writer in writers:
                hands.time += 1
                writer.commit({"a": 1})
            hands.time += 1
            writers[0].commit({"a": 2})

        def found(*arguments: Any, **options: Any) -> list[tuple[str, str]]:
            return [(info.owner, info.session_id) for info in storage.find_sessions(*arguments, **options)]

        assert found(None) == [("", "s"), ("ann", "t"), ("ann", "s"), ("", "t")]
        assert found("") == [("", "s"), ("", "t")]
        assert found("ann", session_id="s") == [("ann", "s")]
        assert found(None, session_id="s") == [("", "s"), ("ann", "s")]
        assert found(None, limit=2) == [("", "s"), ("ann", "t")]
        assert found("nobody") == []
        assert found(None, limit=0) == []

    def test_a_renamed_session_keeps_its_history_and_runs(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(6):
            writer.commit({"a": number}, snapshot=number == 3, run=make_run(started_at=float(number)))
        runs = storage.find_runs("")
        storage.rename_session("", "s", "renamed")
        assert storage.load("", "s") is None
        assert storage.find_runs("", session_id="s") == ()
        assert storage.find_runs("") == tuple(replace(run, session_id="renamed") for run in runs)
        for version in range(1, 7):
            assert rebuilt(storage.load("", "renamed", at=version)) == writer.states[version]
        writer.session_id = "renamed"
        writer.commit({"a": "on"}, snapshot=True)
        assert rebuilt(storage.load("", "renamed")) == {"a": "on"}
        assert storage.check() == ()
        Writer(storage).commit({"a": "a new one of the old name"})

    def test_a_session_cannot_take_the_id_of_another(self, storage: Storage) -> None:
        Writer(storage, "", "s").commit({"a": "s"})
        Writer(storage, "", "t").commit({"a": "t"})
        only_run = Writer(storage, "", "u")
        storage.commit(replace(only_run.prepared({}), patch=None, run=make_run("", "u")))
        before = everything(storage, "")
        for taken in ("t", "u", "s"):
            with raises(errors.SessionExists):
                storage.rename_session("", "s", taken)
        with raises(errors.SessionNotFound):
            storage.rename_session("", "no such", "new")
        assert everything(storage, "") == before

    def test_deleting_leaves_nothing_behind(self, storage: Storage) -> None:
        writer = Writer(storage)
        for number in range(5):
            writer.commit({"a": number}, snapshot=number == 2, run=make_run())
        storage.delete_session("", "s")
        assert storage.load("", "s") is None
        assert storage.find_sessions(None) == ()
        assert storage.find_runs(None) == ()
        for call in (
            lambda: storage.changes("", "s"),
            lambda: storage.delete_session("", "s"),
        ):
            with raises(errors.SessionNotFound):
                call()
        assert storage.check() == ()
        again = Writer(storage)
        again.commit({"b": 1})
        assert rebuilt(storage.load("", "s")) == {"b": 1}
        assert [change.version for change in storage.changes("", "s")] == [1]

    def test_runs_without_a_session_are_deleted_like_one(self, storage: Storage) -> None:
        storage.commit(replace(Writer(storage).prepared({}), patch=None, run=make_run()))
        storage.delete_session("", "s")
        assert storage.find_runs(None) == ()

    def test_a_deleted_session_refuses_the_commits_of_its_runs(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1}, snapshot=True)
        late = writer.prepared({"a": 2}, run=make_run())
        storage.delete_session("", "s")
        with raises(errors.SessionDeleted):
            storage.commit(late)
        assert storage.find_runs(None) == ()
        again = Writer(storage)
        again.commit({"b": 1}, snapshot=True)
        with raises(errors.SessionDeleted):
            storage.commit(late)
        with raises(errors.SessionDeleted):
            storage.read_values("", "s", ["a"], incarnation=writer.incarnation, at=1)
        with raises(errors.SessionDeleted):
            storage.read_values("", "no such", ["a"], incarnation=writer.incarnation, at=1)
        assert rebuilt(storage.load("", "s", known=Known(writer.incarnation, 1))) == {"b": 1}

    # Owners and hostile texts

    def test_an_owner_neither_sees_nor_changes_what_belongs_to_another(self, storage: Storage) -> None:
        calls = foreign_calls(storage, "mallory", "s", "")
        operations = {name for name in vars(Storage) if not name.startswith("_")} - {"close", "step_cache"}
        assert set(calls) == operations, "each operation of the interface must be tried here"
        for victim in ("", "alice"):
            writer = Writer(storage, victim, "s")
            with adjustable_clock():
                writer.commit({"a": 1}, snapshot=True, run=make_run(victim, "s", RunStatus.running))
                writer.commit({"a": 2})
                storage.claim_lease(replace(claim_of("held"), owner=victim))
            for thief in {"", "mallory"} - {victim}:
                before = everything(storage, victim)
                for call in foreign_calls(storage, thief, "s", writer.incarnation).values():
                    try:
                        seen = call()
                    except (errors.SessionNotFound, errors.SessionDeleted):
                        continue
                    assert seen in (None, (), 0), "a lease is not seen to be held, either"
                    assert everything(storage, victim) == before
                assert everything(storage, thief) == NOTHING
            storage.delete_session(victim, "s")

    def test_hostile_ids_and_owners_are_kept_apart_and_exact(self, storage: Storage) -> None:
        writers = [Writer(storage, owner, text) for text in HOSTILE_TEXTS for owner in ("", text)]
        for number, writer in enumerate(writers):
            run = make_run(writer.owner, writer.session_id, run_id=writer.session_id, workflow_id=writer.owner)
            writer.commit({"number": number}, snapshot=number % 2 == 0, run=run)
        for number, writer in enumerate(writers):
            assert rebuilt(storage.load(writer.owner, writer.session_id)) == {"number": number}
            (run,) = storage.find_runs(writer.owner, session_id=writer.session_id)
            assert (run.run_id, run.workflow_id) == (writer.session_id, writer.owner)
        expected = {(writer.owner, writer.session_id) for writer in writers}
        assert {(info.owner, info.session_id) for info in storage.find_sessions(None)} == expected
        assert storage.check() == ()

    def test_hostile_names_and_bytes_come_back_exactly(self, storage: Storage) -> None:
        names = (*HOSTILE_TEXTS, "", "\0", "a\0b", "a\0c", "~1", "/", "__class__", "n" * 5000)
        writer = Writer(storage)
        writer.commit({name: name for name in names}, snapshot=True)
        writer.commit({name: name for name in names[1:]}, snapshot=True)
        assert list(rebuilt(storage.load("", "s")).items()) == [(name, name) for name in names[1:]]
        raw = bytes(range(256))
        commit = replace(writer.prepared({}), patch=raw, snapshot=None)
        storage.commit(commit)
        assert storage.changes("", "s", after=2)[0].patch == raw

    # Closing

    def test_a_closed_storage_refuses_every_operation(self, storage: Storage) -> None:
        writer = Writer(storage)
        writer.commit({"a": 1})
        storage.close()
        storage.close()
        for call in foreign_calls(storage, "", "s", writer.incarnation).values():
            with raises(errors.StorageClosed):
                call()

    def test_a_storage_can_be_closed_before_it_was_used(self, storage: Storage) -> None:
        storage.close()
        with raises(errors.StorageClosed):
            storage.load("", "s")


def run_in_threads(work: Callable[[], object], count: int) -> None:
    """Run `work` in several threads at once; raise what the first one raised.

    >>> done = []
    >>> run_in_threads(lambda: done.append(1), 3)
    >>> done
    [1, 1, 1]
    """
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def guarded() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised below, on the thread of the test)
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _assert_kept(storage: Storage, writer: Writer, *, oldest: int) -> None:
    """Versions from `oldest` are as they were committed, and none before is kept."""
    for version in range(oldest, writer.version + 1):
        state = rebuilt(storage.load(writer.owner, writer.session_id, at=version))
        assert list(state.items()) == list(writer.states[version].items())
    with raises(errors.VersionNotKept) as caught:
        storage.load(writer.owner, writer.session_id, at=oldest - 1)
    assert caught[0].facts["oldest"] == oldest
