"""The top-level dict: every method, every reader, and what happens to a value nobody asked for."""

from __future__ import annotations

import copy
import json
import operator
import pickle
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest
from pydantic_core import PydanticSerializationError

from holdfast.state import UNDECODED, SessionState

CONTENT = {"a": ["a"], "b": ["b"], "c": ["c"]}


class Decoder:
    """Decodes the stored values of CONTENT, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str) -> Any:
        self.asked.append(name)
        return [name]


def stored(decode: Callable[[str], Any] | None = None) -> SessionState:
    state = SessionState(decode or Decoder())
    for key in CONTENT:
        dict.__setitem__(state, key, UNDECODED)
    return state


def keywords(**given: Any) -> dict[str, Any]:
    return given


READERS: list[Callable[[SessionState], Any]] = [
    dict,
    lambda state: {**state},
    lambda state: keywords(**state),
    lambda state: state.copy(),
    copy.copy,
    copy.deepcopy,
    lambda state: pickle.loads(pickle.dumps(state)),
    lambda state: json.loads(json.dumps(state)),
    lambda state: json.loads(json.dumps(state, indent=1)),
    lambda state: dict(state.items()),
    lambda state: dict(zip(state.keys(), state.values(), strict=True)),
    lambda state: {key: state[key] for key in state},
    lambda state: {key: state.get(key) for key in state},
    lambda state: {key: state.setdefault(key, None) for key in state},
    lambda state: {key: state.pop(key) for key in list(state)},
    lambda state: dict([state.popitem(), state.popitem(), state.popitem()][::-1]),
    lambda state: state | {},
    lambda state: {} | state,
    lambda state: operator.ior({}, state),
    lambda state: {key: operator.itemgetter(key)(state) for key in state},
    lambda state: pydantic.TypeAdapter(dict[str, list[str]]).validate_python(state),
    lambda state: eval(repr(state)),
]


@pytest.mark.parametrize("read", READERS)
def test_every_way_to_read_gives_the_decoded_values(read: Callable[[SessionState], Any]) -> None:
    assert read(stored()) == CONTENT


@pytest.mark.parametrize("read", READERS)
def test_every_reader_gives_plain_dicts_in_order(read: Callable[[SessionState], Any]) -> None:
    result = read(stored())
    assert type(result) is dict
    assert list(result) == list(CONTENT)


def test_a_value_is_decoded_once_and_only_when_it_is_asked_for() -> None:
    decoder = Decoder()
    state = stored(decoder)
    assert "a" in state
    assert len(state) == 3
    assert list(state) == ["a", "b", "c"]
    assert decoder.asked == []
    assert state["b"] is state["b"]
    assert decoder.asked == ["b"]


def test_update_and_in_place_or_take_and_give_decoded_values() -> None:
    target: dict[str, Any] = {"z": 0}
    target.update(stored())
    assert target == {"z": 0, **CONTENT}
    state = stored()
    state |= {"a": 1}
    state.update(b=2)
    assert state == {"a": 1, "b": 2, "c": ["c"]}
    other = SessionState()
    other.update(stored())
    assert other == CONTENT


def test_equality_looks_at_the_values_on_both_sides() -> None:
    assert stored() == CONTENT
    assert stored() == CONTENT
    assert stored() == stored()
    assert stored() != {**CONTENT, "a": ["other"]}


def test_a_state_is_matched_as_a_mapping() -> None:
    match stored():
        case {"a": [letter]}:
            assert letter == "a"
        case _:
            pytest.fail("the pattern did not match")


@pytest.mark.parametrize(
    ("encode", "error"),
    [
        (msgspec.json.encode, TypeError),
        (pydantic.TypeAdapter(dict).dump_json, PydanticSerializationError),
    ],
)
def test_an_encoder_that_reads_raw_slots_is_told_to_use_dict(encode: Callable[[Any], Any], error: type) -> None:
    with pytest.raises(error, match=r"pass dict\(session_state\)"):
        encode(stored())
    assert json.loads(encode(dict(stored()))) == CONTENT


def test_a_raw_mark_cannot_be_pickled_either() -> None:
    with pytest.raises(TypeError, match=r"pass dict\(session_state\)"):
        pickle.dumps(dict.get(stored(), "a"))


def test_a_value_that_cannot_be_decoded_raises_each_time_and_stays() -> None:
    def broken(name: str) -> Any:
        raise ValueError(name)

    state = stored(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="a"):
            state["a"]
    assert len(state) == 3
    with pytest.raises(ValueError, match="c"):
        state.popitem()
    assert len(state) == 3


def test_missing_keys_behave_as_in_a_dict() -> None:
    state = stored()
    with pytest.raises(KeyError):
        state["missing"]
    with pytest.raises(KeyError):
        state.pop("missing")
    with pytest.raises(KeyError):
        SessionState().popitem()
    assert state.get("missing") is None
    assert state.pop("missing", 3) == 3
    with pytest.raises(TypeError):
        hash(state)
    with pytest.raises(TypeError):
        state | 3  # type: ignore[operator]


def test_threads_that_touch_a_value_together_get_one_object() -> None:
    barrier = threading.Barrier(8)

    def slow(name: str) -> Any:
        barrier_passed.wait(0.01)
        return [name]

    barrier_passed = threading.Event()
    state = stored(slow)
    got: list[Any] = []

    def touch() -> None:
        barrier.wait()
        got.append(state["a"])

    threads = [threading.Thread(target=touch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(value) for value in got} == {id(state["a"])}


def test_a_snapshot_is_of_one_moment_however_busy_another_thread_is() -> None:
    state = stored()
    state.update({number: [number] for number in range(200)})
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            state["moved"] = state.pop("moved", 0)
            state[0] = state.pop(0)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(300):
            keys, touched = state.snapshot()
            assert len(set(keys)) == len(keys)
            assert {key for key, _ in touched} <= set(keys)
            assert all(value == [key] for key, value in touched if type(key) is int)
            assert not {"a", "b", "c"} & {key for key, _ in touched}
    finally:
        stop.set()
        thread.join()
