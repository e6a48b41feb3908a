"""Containers that a run leaves behind, and that nobody holds, are those that the next run is given."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast import plain
from holdfast.errors import UnstorableValue
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.workflow import Workflow

POSTS = [{"n": n, "text": "text " * 100} for n in range(50)]
NESTED = {"posts": POSTS, "notes": [{"tags": ["a", "b"], "text": "note " * 100} for _ in range(80)], "at": (1, [2])}

held: list[Any] = []


class Doing(Workflow):
    def run(self, action: Callable[[Any], Any] = lambda state: None) -> Any:
        return action(self.session_state)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program of one thread, whatever threads tests before this one have left."""
    monkeypatch.setattr("holdfast.session.others_may_change_values", lambda: False)


@pytest.fixture(name="storage")
def storage_with_a_value() -> Iterator[Storage]:
    held.clear()
    storage = MemoryStorage()
    Doing(session_id="s", storage=storage).run(lambda state: state.update(copy.deepcopy({"v": NESTED})))
    yield storage
    held.clear()
    storage.close()


def seen(storage: Storage, action: Callable[[Any], Any] = lambda value: None) -> tuple[Doing, int]:
    """Run an action on the value and hold what it returns; tell which object the value was."""
    workflow = Doing(session_id="s", storage=storage)
    which: list[int] = []

    def act(state: Any) -> None:
        which.append(id(state["v"]))
        held.append(action(state["v"]))

    workflow.run(act)
    return workflow, which[0]


HOLDING: dict[str, Callable[[Any], Any]] = {
    "the value": lambda value: value,
    "a list": lambda value: value["posts"],
    "a dict": lambda value: value["posts"][7],
    "something deep": lambda value: value["notes"][3]["tags"],
    "what a tuple holds": lambda value: value["at"][1],
    "an iterator": lambda value: iter(value["posts"]),
    "a view": lambda value: value["notes"][4].values(),
    "a bound method": lambda value: value["posts"].append,
    "a closure": lambda value: lambda: value,
}


@pytest.mark.usefixtures("alone")
def test_a_value_that_nobody_holds_is_given_to_the_next_run(storage: Storage) -> None:
    _, first = seen(storage)
    for change in (lambda value: None, lambda value: value["posts"].append({"n": 1})):
        _, following = seen(storage, change)
        assert following == first


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("what", HOLDING)
def test_a_value_of_which_anything_is_held_stays_with_its_holder(storage: Storage, what: str) -> None:
    owner, first = seen(storage, HOLDING[what])
    _, following = seen(storage)
    assert following != first
    assert seen(storage)[1] == following
    assert id(owner.session_state["v"]) == first


@pytest.mark.usefixtures("alone")
def test_what_is_done_to_kept_parts_reaches_no_other_run(storage: Storage) -> None:
    for take in HOLDING.values():
        workflow, _ = seen(storage, take)
        del workflow
        if type(held[-1]) is list:
            held[-1].append("mine")
        elif type(held[-1]) is dict:
            held[-1]["mine"] = 1
    assert Doing(session_id="s", storage=storage).session_state["v"] == NESTED


@pytest.mark.usefixtures("alone")
def test_the_object_itself_is_given_its_value_again(storage: Storage) -> None:
    workflow, first = seen(storage)
    assert id(workflow.session_state["v"]) == first
    workflow.session_state["v"]["posts"].clear()
    workflow.run()
    assert Doing(session_id="s", storage=storage).session_state["v"]["posts"] == []


@pytest.mark.usefixtures("alone")
def test_two_live_objects_are_never_given_the_same_value(storage: Storage) -> None:
    seen(storage)
    one, other = (Doing(session_id="s", storage=storage) for _ in range(2))
    assert one.session_state["v"] is not other.session_state["v"]
    assert one.session_state["v"] == other.session_state["v"] == NESTED


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("hold", [lambda state: state, lambda state: state.values()])
def test_a_state_that_is_held_or_viewed_keeps_its_values(storage: Storage, hold: Callable[[Any], Any]) -> None:
    workflow = Doing(session_id="s", storage=storage)
    workflow.run(lambda state: held.append((len(state["v"]), hold(state))))
    assert "undecoded" not in str(list(dict.values(workflow.session_state)))
    assert workflow.session_state["v"] == NESTED


@pytest.mark.usefixtures("alone")
def test_what_could_not_be_stored_stays_where_it_is(storage: Storage) -> None:
    workflow = Doing(session_id="s", storage=storage)
    with pytest.raises(UnstorableValue):
        workflow.run(lambda state: state["v"]["posts"].append(object()))
    assert len(workflow.session_state["v"]["posts"]) == len(POSTS) + 1


def test_beside_another_thread_nothing_is_given_back(storage: Storage) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        workflow, _ = seen(storage)
        assert dict.get(workflow.session_state, "v") == NESTED
    finally:
        stop.set()
        thread.join()


def test_nothing_is_found_to_be_held_once_where_references_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_references", id)
    assert not plain.is_only_in([[]])
    assert not plain.are_only_there([[]])


def test_a_cycle_is_no_value_that_is_held_once() -> None:
    around: list[Any] = []
    around.append(around)
    assert not plain.are_only_there(around.copy())
