"""A live state that moves to what others have stored, fails to, or is used from several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import comparing
from holdfast.errors import (
    OutcomeUnknown,
    SessionDeleted,
    StateConflict,
    StorageBusy,
    UndeclaredType,
    UnstorableValue,
)
from holdfast.records import Commit
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.stored import recent
from holdfast.workflow import Workflow


@dataclass
class Source:
    title: str


class Doing(Workflow):
    def run(self, action: Callable[[Any], Any] = lambda state: None) -> Any:
        return action(self.session_state)


class Declaring(Doing):
    state_types = [Source]


class RollingBack(Doing):
    on_error = "rollback"


def doing(storage: Storage, cls: type[Doing] = Doing, **options: Any) -> Doing:
    return cls(session_id="s", storage=storage, **options)


def stored(storage: Storage, cls: type[Doing] = Doing) -> dict[Any, Any]:
    """What a process that knows nothing yet finds."""
    recent.forget(storage)
    return dict(doing(storage, cls).session_state)


def test_a_snapshot_by_one_object_does_not_bring_back_what_another_has_deleted(storage: Storage) -> None:
    a, b = doing(storage), doing(storage)
    a.run(lambda s: s.update(x=1))
    b.run(lambda s: s.update(k="k" * 40_000))
    a.run()
    a.run(lambda s: (s.pop("k"), s.update(y="y" * 40_000)))
    assert list(a.session_state) == ["x", "y"]
    assert list(stored(storage)) == ["x", "y"]


def test_snapshots_by_several_objects_keep_the_order_of_keys(storage: Storage) -> None:
    a, b = doing(storage), doing(storage)
    a.run(lambda s: s.update(t=1, m=[], b=2))
    b.run()
    a.run(lambda s: s.update(z="z" * 40_000))
    b.run(lambda s: (s.pop("t"), s.update(z="y" * 40_000)))
    a.run(lambda s: s["m"].append("x" * 40_000))
    assert list(a.session_state) == ["m", "b", "z"]
    assert list(stored(storage)) == ["m", "b", "z"]


def test_threads_that_write_at_once_store_each_change_once(storage: Storage) -> None:
    class Tools(Workflow):
        def run(self) -> None:
            self.session_state["queue"] = list(range(100))
            self.session_state["log"] = []
            self.write_to_storage()

            def tool(number: int) -> None:
                for step in range(10):
                    self.session_state["queue"].pop(0)
                    self.session_state["log"].append((number, step))
                    self.write_to_storage()

            threads = [threading.Thread(target=tool, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    Tools(session_id="s", storage=storage).run()
    assert stored(storage)["queue"] == list(range(40, 100))
    assert sorted(stored(storage)["log"]) == [(number, step) for number in range(4) for step in range(10)]


def test_threads_that_touch_the_state_first_lose_nothing(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(old=1))
    for attempt in range(20):
        recent.forget(storage)
        workflow = doing(storage)
        barrier = threading.Barrier(3)

        def touch(number: int, workflow: Doing = workflow, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            workflow.session_state[number] = 1

        threads = [threading.Thread(target=touch, args=(attempt * 3 + number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        workflow.write_to_storage()
    assert stored(storage) == {"old": 1, **dict.fromkeys(range(60), 1)}


class Failing(MemoryStorage):
    """A memory storage that fails as it is told: before a commit, or after it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[BaseException] = []
        self.after: list[BaseException] = []
        self.reading: list[BaseException] = []

    def commit(self, commit: Commit, **given: Any) -> int:
        if commit.patch is None:
            return super().commit(commit, **given)
        if self.before:
            raise self.before.pop(0)
        version = super().commit(commit, **given)
        if self.after:
            raise self.after.pop(0)
        return version

    def read_values(self, *args: Any, **kwargs: Any) -> dict[str, bytes]:
        if self.reading:
            raise self.reading.pop(0)
        return super().read_values(*args, **kwargs)


def unknown() -> OutcomeUnknown:
    return OutcomeUnknown(where="memory", reason="the reply was lost")


@pytest.mark.parametrize("was_applied", [True, False])
def test_after_an_unknown_outcome_each_change_is_stored_once(was_applied: bool) -> None:
    storage = Failing()
    workflow = doing(storage, session_state={"posts": []})
    workflow.write_to_storage()
    (storage.after if was_applied else storage.before).append(unknown())
    with pytest.raises(OutcomeUnknown):
        workflow.run(lambda s: s["posts"].append("X"))
    workflow.session_state["posts"].append("Y")
    storage.before.append(StorageBusy(where="memory", seconds=1))
    with pytest.raises(StorageBusy):
        workflow.write_to_storage()
    workflow.write_to_storage()
    assert stored(storage)["posts"] == ["X", "Y"]


def test_an_interrupted_commit_that_was_made_is_no_conflict_with_oneself() -> None:
    storage = Failing()

    def interrupted(state: Any) -> None:
        try:
            state["items"] = ["paid"]
            storage.after.append(KeyboardInterrupt())
            workflow.write_to_storage()
        finally:
            state["cleanup"] = 1

    workflow = doing(storage)
    with pytest.raises(KeyboardInterrupt):
        workflow.run(interrupted)
    assert stored(storage) == {"items": ["paid"], "cleanup": 1}
    workflow.session_state["more"] = 1
    workflow.write_to_storage()
    assert stored(storage)["more"] == 1


def test_a_value_of_an_undeclared_type_stored_by_another_class_is_not_overwritten(storage: Storage) -> None:
    a = doing(storage)
    a.run(lambda s: s.update(items=["one"], n=0))
    doing(storage, Declaring).run(lambda s: (s["items"].append(Source("paid")), s.update(n=1)))
    for _ in range(2):
        a.run()
        with pytest.raises(UndeclaredType):
            a.session_state["items"]
    assert a.session_state["n"] == 1
    assert stored(storage, Declaring) == {"items": ["one", Source("paid")], "n": 1}


@pytest.mark.parametrize("where", ["at two keys", "inside of one value"])
def test_a_shared_object_that_another_changed_at_both_places_is_right_at_both(storage: Storage, where: str) -> None:
    a, row = doing(storage), [1]
    a.run(lambda s: s.update({"a": row, "b": row} if where == "at two keys" else {"a": [row, row]}, c=5))

    def change(state: Any) -> None:
        for place in [state["a"], state["b"]] if where == "at two keys" else state["a"]:
            place.pop()
        state["c"] = 6

    doing(storage).run(change)
    for _ in range(2):
        a.run()
    expected = {"a": [], "b": [], "c": 6} if where == "at two keys" else {"a": [[], []], "c": 6}
    assert a.session_state == expected
    assert stored(storage) == expected


def test_a_rollback_that_meets_a_value_it_cannot_decode_still_rolls_back(storage: Storage) -> None:
    doing(storage, Declaring).run(lambda s: s.update(a=1, m=Source("x"), z=[1], zz=2))
    workflow = doing(storage, RollingBack)

    def bad(state: Any) -> None:
        state["m"] = "replaced"
        state["z"].append(2)
        raise LookupError("as raised")

    with pytest.raises(LookupError, match="as raised"):
        workflow.run(bad)
    workflow.run()
    assert stored(storage, Declaring) == {"a": 1, "m": Source("x"), "z": [1], "zz": 2}


def test_a_read_that_fails_while_the_state_moves_changes_nothing() -> None:
    storage = Failing()
    a = doing(storage)
    a.run(lambda s: s.update(a=1, big=["b" * 80_000], z=1))
    recent.forget(storage)
    a = doing(storage)
    assert a.session_state["big"]
    recent.forget(storage)
    doing(storage).run(lambda s: (s["big"].append("c" * 80_000), s.update(z=2)))
    storage.prune_session("", "s", 1)
    recent.forget(storage)
    storage.reading.append(StorageBusy(where="memory", seconds=1))
    with pytest.raises(StorageBusy):
        a.run()
    a.run()
    assert stored(storage) == {"a": 1, "big": ["b" * 80_000, "c" * 80_000], "z": 2}
    assert a.session_state == stored(storage)


def test_changes_made_after_a_refused_commit_are_refused_too_and_kept(storage: Storage) -> None:
    a = doing(storage)
    a.session_state["x"] = 1
    doing(storage).run(lambda s: s.update(x=0, y=1))
    with pytest.raises(StateConflict):
        a.run()
    a.session_state["after"] = "important"
    with pytest.raises(StateConflict) as caught:
        a.run()
    assert b"important" in (caught.value.patch or b"")
    assert any(b"important" in (run.refused_patch or b"") for run in storage.find_runs(""))
    a.run(lambda s: s.update(z=1))
    assert stored(storage) == {"x": 0, "y": 1, "z": 1}


def test_two_keys_that_are_stored_alike_are_refused(storage: Storage) -> None:
    workflow = doing(storage)
    workflow.session_state.update({float("nan"): 1, "a": 1})
    workflow.session_state[float("nan")] = 2
    with pytest.raises(UnstorableValue, match="two keys that are stored alike"):
        workflow.write_to_storage()
    assert stored(storage) == {"a": 1}


def test_the_current_state_stays_readable_whatever_history_is_kept(tmp_path: Any) -> None:
    from holdfast.storage.sql import SqlWorkflowStorage

    for storage in (MemoryStorage(keep_history=3), SqlWorkflowStorage(db_file=tmp_path / "w.db", keep_history=3)):
        doing(storage).run(lambda s: s.update(big=["b" * 80_000], other=0))
        recent.forget(storage)
        a = doing(storage)
        assert a.session_state["other"] == 0
        recent.forget(storage)
        b = doing(storage)
        for _ in range(8):
            b.run(lambda s: s["big"].append("c" * 60_000))
            a.run()
        assert len(a.session_state["big"]) == 9
        storage.close()


def test_estimated_sizes_do_not_add_up(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MAX_STATE_SIZE", 500_000)
    a, b = doing(storage), doing(storage)
    a.run(lambda s: s.update(v={}))
    for number in range(8):
        for workflow in (a, b):
            workflow.run(lambda s: s["v"].update(t=f"{number:06d}" * 20_000))  # noqa: B023
    assert len(stored(storage)["v"]["t"]) == 120_000


def test_a_view_that_was_kept_shows_values_only(storage: Storage) -> None:
    a = doing(storage, session_state={"a": 1})
    a.run()
    values, items = a.session_state.values(), a.session_state.items()
    doing(storage).run(lambda s: s.update(b=[2]))
    a.run()
    assert list(values) == [1, [2]]
    assert list(items) == [("a", 1), ("b", [2])]


def test_defaults_are_copied_when_the_object_is_made(storage: Storage) -> None:
    defaults = {"n": [1]}
    workflow = doing(storage, session_state=defaults)
    defaults["n"].append(2)
    assert workflow.session_state == {"n": [1]}


def test_defaults_that_cannot_be_compared_do_no_harm(storage: Storage) -> None:
    class Ambiguous:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    workflow = doing(storage)
    workflow.session_state["odd"] = Ambiguous()
    with pytest.raises(UnstorableValue, match="odd"):
        workflow.run(lambda s: s.update(n=1))
    assert stored(storage) == {"n": 1}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_overwriting_an_unread_value_that_is_pruned_meanwhile_is_one_conflict(tmp_path: Any, kind: str) -> None:
    from holdfast.storage.sql import SqlWorkflowStorage

    storage: Storage = (
        MemoryStorage(keep_history=1)
        if kind == "memory"
        else SqlWorkflowStorage(db_file=tmp_path / "w.db", keep_history=1)
    )
    doing(storage).run(lambda s: s.update(big="b" * 70_000, n=0))
    recent.forget(storage)
    a = doing(storage)
    assert a.session_state["n"] == 0
    recent.forget(storage)
    doing(storage).run(lambda s: s.update(big="c" * 70_000))
    recent.forget(storage)
    a.session_state["big"] = "mine"
    with pytest.raises(StateConflict):
        a.run(lambda s: s.update(n=1))
    assert any(b"mine" in (run.refused_patch or b"") for run in storage.find_runs(""))
    a.run(lambda s: s.update(n=1))
    assert stored(storage) == {"big": "c" * 70_000, "n": 1}
    storage.close()


def test_overwriting_an_unread_value_of_a_deleted_session_is_refused_once(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(big="b" * 70_000, n=0))
    recent.forget(storage)
    a = doing(storage)
    assert a.session_state["n"] == 0
    storage.delete_session("", "s")
    a.session_state["big"] = "mine"
    with pytest.raises(SessionDeleted):
        a.run()
    a.run(lambda s: s.update(new=1))
    assert stored(storage) == {"new": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), unknown()])
@pytest.mark.parametrize("was_applied", [True, False])
def test_a_rollback_after_a_commit_of_unknown_outcome_does_not_take_it_back(
    error: BaseException, was_applied: bool
) -> None:
    storage = Failing()
    workflow = doing(storage, RollingBack)
    workflow.run(lambda s: s.update(n=0))

    def bad(state: Any) -> None:
        state["paid"] = True
        (storage.after if was_applied else storage.before).append(error)
        try:
            workflow.write_to_storage()
        finally:
            state["half"] = True

    with pytest.raises(type(error)):
        workflow.run(bad)
    assert workflow.session_state == {"n": 0, "paid": True}
    workflow.run()
    assert stored(storage) == {"n": 0, "paid": True}
    assert len(storage.changes("", "s")) == 2
