"""The live state against a model dict: whatever Python does to it, the next process finds the same."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from catalogue import same
from holdfast import comparing
from holdfast import session as session_module
from holdfast.errors import OutcomeUnknown, UnstorableValue, VersionNotKept
from holdfast.patch import graft
from holdfast.records import Commit
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.workflow import Workflow

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.0, 0.0, -0.0, 2**70, "", "a", "$hf", "~/", b"x", (1, [2]), frozenset({1, "a"})]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", 1, (1,)]), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(["a", "b", "c", 1, "$hf", "x/y~z"])


def unshared(value: Any) -> Any:
    """A copy in which no object stands at two places, as after a reload."""
    if type(value) is dict:
        return {key: unshared(inner) for key, inner in value.items()}
    if type(value) is list:
        return [unshared(inner) for inner in value]
    if type(value) is tuple:
        return tuple(unshared(inner) for inner in value)
    return value


def containers(value: Any) -> list[Any]:
    """Every list and dict inside of a value, in a fixed order, tuples' members included."""
    found = [value] if type(value) in (list, dict) else []
    members = value.values() if isinstance(value, dict) else value if type(value) in (list, tuple) else ()
    for member in members:
        found += containers(member)
    return found


def change_list(target: list[Any], value: Any, seed: int) -> None:
    """One of the ways in which a list can be changed, C-level ones included."""
    chance = random.Random(seed)
    position = chance.randrange(len(target) + 1)

    def sort() -> None:
        target.sort(key=repr)

    def heap() -> None:
        target[:] = [item for item in target if type(item) is int]
        heapq.heapify(target)
        heapq.heappush(target, seed % 5)

    def delete() -> None:
        del target[position:]

    def assign_slice() -> None:
        target[position:position] = [value, value]

    def multiply() -> None:
        target.__imul__(2 if len(target) < 8 else 0)

    chance.choice(
        [
            lambda: target.append(value),
            lambda: list.append(target, value),
            lambda: target.insert(position, value),
            lambda: target.extend([value]),
            lambda: target.pop() if target else None,
            target.reverse,
            sort,
            heap,
            delete,
            assign_slice,
            multiply,
        ]
    )()


def change_dict(target: dict[Any, Any], key: Any, value: Any, seed: int) -> None:
    """One of the ways in which a dict can be changed."""
    chance = random.Random(seed)

    def merge() -> None:
        target.__ior__({key: value})

    def move_to_end() -> None:
        if key in target:
            target[key] = target.pop(key)

    def set_default() -> None:
        target.setdefault(key, value)

    chance.choice(
        [
            lambda: target.__setitem__(key, value),
            lambda: dict.__setitem__(target, key, value),
            lambda: target.update({key: value}),
            lambda: target.pop(key, None),
            lambda: target.popitem() if target else None,
            merge,
            move_to_end,
            set_default,
        ]
    )()


class Doing(Workflow):
    """Does to its state whatever it is told."""

    def run(self, action: Callable[[], None]) -> None:
        action()


class StateAgainstModel(RuleBasedStateMachine):
    """The same changes to a session state and to a plain dict; the stored state equals the dict after each run."""

    @initialize()
    def begin(self) -> None:
        self.storage = MemoryStorage()
        self.model: dict[Any, Any] = {}
        self.reload()

    def apply(self, change: Callable[[Any], None], on_live: Any, on_model: Any, in_run: bool) -> None:
        if in_run:
            self.workflow.run(lambda: change(on_live))
        else:
            change(on_live)
            self.workflow.write_to_storage()
        change(on_model)

    @rule(key=keys, value=values, seed=st.integers(0, 10**6), in_run=st.booleans())
    def change_top(self, key: Any, value: Any, seed: int, in_run: bool) -> None:
        live_value, model_value = unshared(value), unshared(value)
        state = self.workflow.session_state
        if in_run:
            self.workflow.run(lambda: change_dict(self.workflow.session_state, key, live_value, seed))
        else:
            change_dict(state, key, live_value, seed)
            self.workflow.write_to_storage()
        change_dict(self.model, key, model_value, seed)

    @rule(pick=st.integers(0, 100), key=keys, value=values, seed=st.integers(0, 10**6), in_run=st.booleans())
    def change_nested(self, pick: int, key: Any, value: Any, seed: int, in_run: bool) -> None:
        live, model = containers(dict(self.workflow.session_state))[1:], containers(self.model)[1:]
        assert len(live) == len(model)
        if live:
            self.change(live[pick % len(live)], model[pick % len(model)], key, value, seed, in_run)

    @rule(pick=st.integers(0, 100))
    def keep_alias(self, pick: int) -> None:
        live, model = containers(dict(self.workflow.session_state))[1:], containers(self.model)[1:]
        if live:
            self.aliases.append((live[pick % len(live)], model[pick % len(model)]))

    @rule(pick=st.integers(0, 100), key=keys, value=values, seed=st.integers(0, 10**6), in_run=st.booleans())
    def change_through_an_alias(self, pick: int, key: Any, value: Any, seed: int, in_run: bool) -> None:
        if self.aliases:
            live, model = self.aliases[pick % len(self.aliases)]
            self.change(live, model, key, value, seed, in_run)

    @rule(pick=st.integers(0, 100), key=keys)
    def assign_an_alias_to_a_second_place(self, pick: int, key: Any) -> None:
        if self.aliases:
            live, model = self.aliases[pick % len(self.aliases)]
            self.workflow.session_state[key] = [live]
            self.model[key] = [model]
            self.workflow.write_to_storage()

    def change(self, live: Any, model: Any, key: Any, value: Any, seed: int, in_run: bool) -> None:
        live_value, model_value = unshared(value), unshared(value)

        def act() -> None:
            if type(live) is list:
                change_list(live, live_value, seed)
            else:
                change_dict(live, key, live_value, seed)

        if in_run:
            self.workflow.run(act)
        else:
            act()
            self.workflow.write_to_storage()
        if type(model) is list:
            change_list(model, model_value, seed)
        else:
            change_dict(model, key, model_value, seed)

    @rule(state=st.dictionaries(keys, values, max_size=3))
    def replace_the_state(self, state: dict[Any, Any]) -> None:
        self.workflow.session_state = unshared(state)
        self.workflow.write_to_storage()
        self.model = unshared(state)
        self.aliases.clear()

    @rule()
    def reload(self) -> None:
        self.workflow = Doing(session_id="s", storage=self.storage)
        self.model = unshared(self.model)
        self.aliases: list[tuple[Any, Any]] = []

    @rule(key=keys, value=values, seed=st.integers(0, 10**6))
    def another_object_changes_it(self, key: Any, value: Any, seed: int) -> None:
        other = Doing(session_id="s", storage=self.storage)
        live_value = unshared(value)
        other.run(lambda: change_dict(other.session_state, key, live_value, seed))
        self.model = unshared(self.model)
        change_dict(self.model, key, unshared(value), seed)
        self.workflow.run(lambda: None)
        assert same(dict(self.workflow.session_state), self.model)
        self.reload()

    @invariant()
    def what_is_stored_equals_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        assert same(dict(self.workflow.session_state), self.model)
        fresh = Doing(session_id="s", storage=self.storage)
        session_module.recent.forget(self.storage)
        assert same(dict(fresh.session_state), unshared(self.model))


StateAgainstModel.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestStateAgainstModel = StateAgainstModel.TestCase


def test_a_reference_kept_from_an_earlier_run_follows_changes_at_its_element(storage: Storage) -> None:
    first = Doing(session_id="s", storage=storage, session_state={"posts": [{"t": 1}, {"t": 2}], "by": {"a": [1]}})
    first.run(lambda: None)
    posts, second, by = first.session_state["posts"], first.session_state["posts"][1], first.session_state["by"]
    numbers = by["a"]
    other = Doing(session_id="s", storage=storage)

    def change() -> None:
        other.session_state["posts"].insert(0, {"t": 0})
        other.session_state["posts"][2]["n"] = 5
        other.session_state["by"] = {"a": [1, 2], "b": []}

    other.run(change)
    first.run(lambda: None)
    assert first.session_state["posts"] is posts
    assert posts[2] is second
    assert second == {"t": 2, "n": 5}
    assert first.session_state["by"] is by
    assert by == {"a": [1, 2], "b": []}
    assert by["a"] is numbers


def test_a_change_by_another_at_one_place_changes_no_other_place_of_a_shared_object(storage: Storage) -> None:
    first = Doing(session_id="s", storage=storage)
    shared: list[int] = []
    first.run(lambda: first.session_state.update(a=shared, b=[shared]))
    other = Doing(session_id="s", storage=storage)
    other.run(lambda: other.session_state["a"].append(1))
    first.run(lambda: None)
    assert first.session_state == {"a": [1], "b": [[]]}
    assert Doing(session_id="s", storage=storage).session_state == {"a": [1], "b": [[]]}


def test_an_unstorable_value_gives_way_when_another_changes_its_key(storage: Storage) -> None:
    first = Doing(session_id="s", storage=storage, session_state={"mine": [1], "theirs": [1]})
    first.run(lambda: None)
    with pytest.raises(UnstorableValue, match=r"mine.*\n.*theirs"):
        first.run(lambda: [first.session_state[key].append(object()) for key in ("mine", "theirs")])
    other = Doing(session_id="s", storage=storage)
    other.run(lambda: other.session_state["theirs"].append(2))
    with pytest.raises(UnstorableValue) as caught:
        first.run(lambda: None)
    assert [path for path, _ in caught.value.problems] == ["session_state['mine'][1]"]
    assert first.session_state["theirs"] == [1, 2]


def test_a_state_above_the_limit_keeps_what_fits(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MAX_STATE_SIZE", 1000)
    workflow = Doing(session_id="s", storage=storage)
    workflow.session_state.update(small="x" * 300, large="y" * 900)
    with pytest.raises(UnstorableValue, match=r"session_state\['large'\].*more than the limit of 1,000"):
        workflow.write_to_storage()
    fresh = Doing(session_id="s", storage=storage)
    assert fresh.session_state == {"small": "x" * 300}
    workflow.session_state["large"] = "y" * 600
    workflow.session_state["small"] = "x" * 200
    workflow.write_to_storage()
    fresh = Doing(session_id="s", storage=storage)
    assert fresh.session_state == {"small": "x" * 200, "large": "y" * 600}


def test_a_large_value_that_is_not_looked_at_is_neither_read_nor_written(storage: Storage) -> None:
    reads: list[str] = []
    Doing(session_id="s", storage=storage, session_state={"large": "x" * 100_000, "n": 0}).run(lambda: None)
    session_module.recent.forget(storage)
    original = storage.read_values

    def recording(owner: str, session_id: str, names: Any, **version: Any) -> dict[str, bytes]:
        reads.extend(names)
        return original(owner, session_id, names, **version)

    storage.read_values = recording  # type: ignore[method-assign]
    workflow = Doing(session_id="s", storage=storage)
    workflow.run(lambda: workflow.session_state.__setitem__("n", 1))
    assert "large" not in reads
    assert workflow.session_state["large"] == "x" * 100_000
    assert "large" in reads
    assert len(storage.changes("", "s")[-1].patch) < 100


def test_many_small_commits_and_snapshots_rebuild_the_same_state(storage: Storage) -> None:
    workflow = Doing(session_id="s", storage=storage)
    expected: dict[str, Any] = {"log": [], "big": "b" * 50_000}
    workflow.session_state = unshared(expected)
    for number in range(300):
        chance = random.Random(number)
        action = chance.choice(["append", "leaf", "key", "drop", "move"])
        text = "t" * chance.randrange(300)
        for state in (workflow.session_state, expected):
            if action == "append":
                state["log"].append({"number": number, "text": text})
            elif action == "leaf" and state["log"]:
                state["log"][number % len(state["log"])]["number"] = -number
            elif action == "key":
                state[f"k{number % 7}"] = number
            elif action == "drop":
                state.pop(f"k{number % 5}", None)
            elif action == "move":
                state["big"] = state.pop("big")
        workflow.write_to_storage()
        if number % 25 == 0:
            session_module.recent.forget(storage)
            assert same(dict(Doing(session_id="s", storage=storage).session_state), expected)
    assert storage.find_sessions("")[0].snapshot_version > 0


def test_grafting_keeps_containers_of_one_type_and_replaces_others() -> None:
    inner: list[Any] = [1]
    live = {"a": inner, "b": {1}, "c": (1,), "d": {"x": 1}}
    members, nested = live["b"], live["d"]
    assert graft(live, {"d": {"y": 2}, "a": [2, 3], "b": {2}, "c": [1], "e": 1}) is live
    assert live == {"d": {"y": 2}, "a": [2, 3], "b": {2}, "c": [1], "e": 1}
    assert list(live) == ["d", "a", "b", "c", "e"]
    assert live["a"] is inner
    assert live["b"] is members
    assert live["d"] is nested
    assert graft([1, 2], (1, 2)) == (1, 2)


def test_a_commit_of_unknown_outcome_is_settled_before_the_next_one() -> None:
    class LosesReplies(MemoryStorage):
        lost = 0

        def commit(self, commit: Commit, **given: Any) -> int:
            version = super().commit(commit, **given)
            if self.lost:
                self.lost -= 1
                raise OutcomeUnknown(where="memory", reason="the reply was lost")
            return version

    storage = LosesReplies()
    workflow = Doing(session_id="s", storage=storage)
    workflow.session_state["n"] = 1
    storage.lost = 2
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            workflow.write_to_storage()
    workflow.session_state["n"] = 2
    assert workflow.write_to_storage() == 2
    assert [change.version for change in storage.changes("", "s")] == [1, 2]
    assert Doing(session_id="s", storage=storage).session_state == {"n": 2}


@pytest.mark.parametrize("keep_history", [None, 1])
def test_a_large_value_is_found_or_refused_after_others_have_moved_its_snapshot(
    tmp_path: Path, keep_history: int | None
) -> None:
    storage = SqlWorkflowStorage(db_file=tmp_path / "w.db", keep_history=keep_history)
    Doing(session_id="s", storage=storage, session_state={"large": ["x" * 80_000], "n": 0}).run(lambda: None)
    session_module.recent.forget(storage)
    reader = Doing(session_id="s", storage=storage)
    assert reader.session_state["n"] == 0
    session_module.recent.forget(storage)
    writer = Doing(session_id="s", storage=storage)
    for number in range(12):
        writer.run(lambda: writer.session_state.update(large=[chr(97 + number) * 80_000]))  # noqa: B023
    if keep_history is None:
        assert reader.session_state["large"] == ["x" * 80_000]
    else:
        with pytest.raises(VersionNotKept):
            reader.session_state["large"]
    storage.close()


def test_a_large_value_is_read_as_of_the_runs_own_version(storage: Storage) -> None:
    seed = Doing(session_id="s", storage=storage, session_state={"log": [["x" * 80_000]]})
    for number in range(5):
        seed.run(lambda: seed.session_state["log"].append(number))  # noqa: B023
    session_module.recent.forget(storage)
    workflow = Doing(session_id="s", storage=storage)
    workflow.run(lambda: None)
    seed.run(lambda: seed.session_state["log"].append("later"))
    assert workflow.session_state["log"] == [["x" * 80_000], 0, 1, 2, 3, 4]


def test_values_that_are_asked_for_together_are_read_together(storage: Storage) -> None:
    values = {f"k{number}": ["x" * 2_000, number] for number in range(100)}
    Doing(session_id="s", storage=storage, session_state=values).run(lambda: None)
    session_module.recent.forget(storage)
    reads: list[list[str]] = []
    original = storage.read_values

    def recording(owner: str, session_id: str, names: Any, **version: Any) -> dict[str, bytes]:
        reads.append(list(names))
        return original(owner, session_id, names, **version)

    storage.read_values = recording  # type: ignore[method-assign]
    workflow = Doing(session_id="s", storage=storage)
    assert workflow.session_state["k7"] == values["k7"]
    assert dict(workflow.session_state) == values
    assert list(workflow.session_state.items()) == list(values.items())
    assert len(reads) <= 101
    session_module.recent.forget(storage)
    reads.clear()
    assert list(Doing(session_id="s", storage=storage).session_state.values()) == list(values.values())
    assert [len(names) for names in reads] == [100]
