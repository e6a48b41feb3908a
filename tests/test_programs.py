"""Random programs of several live objects on one session, against a plain dict and against the history.

Each program is a seed: `run_program(storage, seed)` repeats it. A few run with the tests, many with `make soak`.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from catalogue import same
from holdfast import codec, originals, patch, plain
from holdfast.errors import VersionNotKept
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument, recent
from holdfast.workflow import Workflow

STEPS = 25
KEYS: list[Any] = ["a", "b", "log", "~/", "$hf", 1, (2,)]


class Doing(Workflow):
    def run(self, action: Callable[[Any], Any] = lambda state: None) -> Any:
        return action(self.session_state)


def change(state: Any, seed: int) -> None:
    """One change, small or large, the same for the same seed and state."""
    chance = random.Random(seed)
    key, size = chance.choice(KEYS), chance.choice([1, 10, 300, 40_000])
    if chance.random() < 0.6:
        change_list(state, key, chance.choice(["append", "insert", "leaf", "inside", "sort", "slice"]), seed, size)
        return
    kind = chance.choice(["set", "delete", "move", "replace"])
    if kind == "set":
        state[key] = chance.choice([[], {}, "t" * size, seed, (seed, [size])])
    elif kind == "replace":
        kept = dict(list(state.items())[: seed % 4])
        state.clear()
        state.update(kept)
    elif key in state:
        value = state.pop(key)
        if kind == "move":
            state[key] = value


def change_and_keep(state: Any, seed: int, kept: list[list[Any]]) -> None:
    """Make a change, and keep the lists that are in the state then."""
    change(state, seed)
    kept[:] = [state[key] for key in state if type(state[key]) is list and seed % 3]


def change_list(state: Any, key: Any, kind: str, seed: int, size: int) -> None:
    held = state.get(key)
    if type(held) is not list or not held:
        state[key] = [{"n": seed, "t": "x" * size}]
    elif kind == "append":
        held.append({"n": seed, "t": "y" * size})
    elif kind == "insert":
        held.insert(0, [seed])
    elif kind == "leaf":
        held[seed % len(held)] = {"leaf": seed}
    elif kind == "inside" and type(held[seed % len(held)]) is dict:
        held[seed % len(held)]["inside"] = [seed]
    elif kind == "sort":
        held.sort(key=repr)
    else:
        held[1:2] = [size, size]


def run_program(storage: Storage, seed: int) -> None:
    """One program; raises AssertionError where the library and the plain dict part."""
    chance = random.Random(seed)
    session_id = f"program-{seed}"
    model: dict[Any, Any] = {}
    objects = [Doing(session_id=session_id, storage=storage) for _ in range(chance.randint(1, 3))]
    versions: dict[int, dict[Any, Any]] = {}
    kept: dict[int, list[list[Any]]] = {}
    orphans: list[list[Any]] = []
    for step in range(STEPS):
        number = chance.randrange(len(objects))
        step_seed = seed * 1000 + step
        if chance.random() < 0.2:
            recent.forget(storage)
        if chance.random() < 0.3:
            objects[number] = Doing(session_id=session_id, storage=storage)
            orphans += [holder for holder in kept.pop(number, ()) if chance.random() < 0.5]
        workflow = objects[number]
        for orphan in orphans:  # nobody has them any more but who kept them
            orphan.append({"orphan": step})
        model = copy.deepcopy(model)
        if kept.get(number) and chance.random() < 0.3:
            change_by_reference(workflow, kept[number], model, step)
        workflow.run(functools.partial(change_and_keep, seed=step_seed, kept=kept.setdefault(number, [])))
        change(model, step_seed)
        if chance.random() < 0.5:
            state = workflow.session_state  # looked at key by key: a view of the values would keep all of them
            assert same({key: state[key] for key in state}, model), f"live, step {step}"
        versions[workflow.write_to_storage()] = model
    recent.forget(storage)
    assert same(dict(Doing(session_id=session_id, storage=storage).session_state), model), "stored"
    check_history(storage, session_id, versions)


def change_by_reference(workflow: Doing, kept: list[list[Any]], model: dict[Any, Any], step: int) -> None:
    """Change a list that was taken out of the state in an earlier run, before the next one of the same object."""
    workflow.run()  # so that it has what the other objects have stored
    state = workflow.session_state
    here = [(key, state[key]) for key in state if any(state[key] is one for one in kept)]
    for key, held in here[:1]:
        held.append({"kept": step})
        model[key].append({"kept": step})


def check_history(storage: Storage, session_id: str, versions: dict[int, dict[Any, Any]]) -> None:
    """Every kept version loads as it was, and the changes lead from one to the next."""
    document: dict[str, bytes] = {}
    whole = storage.changes("", session_id)
    for entry in whole:
        if whole[0].version == 1:
            patch.apply(document, patch.decode_patch(entry.patch))
        try:
            stored = storage.load("", session_id, at=entry.version)
        except VersionNotKept:
            continue
        assert stored is not None
        rebuilt = StoredDocument.of(stored)

        def read(name: str, rebuilt: StoredDocument = rebuilt) -> bytes:
            version = {"incarnation": rebuilt.incarnation, "at": rebuilt.snapshot_version}
            return storage.read_values("", session_id, [name], **version)[name]  # type: ignore[arg-type]

        encoded = {name: rebuilt.encoded(name, read) for name in rebuilt.names()}
        value = {codec.key_of(name): codec.decode(data) for name, data in encoded.items()}
        if entry.version in versions:
            assert same(value, versions[entry.version]), f"version {entry.version}"
        if whole[0].version == 1:
            assert list(encoded.items()) == list(document.items()), f"replay, version {entry.version}"


@pytest.fixture(params=["as it is", "small parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small parts, every value is compared with an original, and a few members make several parts of it."""
    if request.param == "small parts":
        for name, value in {"LEAST_SIZE": 0, "LEAST_EACH": 0, "TOGETHER": 3, "LATEST": 2, "BIG": 2}.items():
            monkeypatch.setattr(originals, name, value)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("seed", range(12))
def test_a_random_program_leaves_what_a_plain_dict_would_hold(storage: Storage, seed: int) -> None:
    run_program(storage, seed)
    assert storage.check() == ()


@pytest.mark.soak
@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("block", range(20))
def test_many_random_programs(storage: Storage, block: int) -> None:
    for seed in range(1_000 + block * 100, 1_100 + block * 100):
        run_program(storage, seed)
    assert storage.check() == ()


def test_a_planted_fault_in_the_snapshots_is_found(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    right = StoredDocument.snapshot

    def sorted_names(document: StoredDocument, encoded: Callable[[str], bytes]) -> Any:
        snapshot = right(document, encoded)
        return snapshot and msgspec.structs.replace(snapshot, names=tuple(sorted(snapshot.names)))

    monkeypatch.setattr(StoredDocument, "snapshot", sorted_names)
    with pytest.raises(AssertionError):
        for seed in range(12):
            run_program(storage, seed)


@pytest.mark.parametrize("fault", ["leaves are not compared", "a copy shares what is inside"])
def test_a_planted_fault_in_the_originals_is_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    for name, value in {"LEAST_SIZE": 0, "LEAST_EACH": 0}.items():
        monkeypatch.setattr(originals, name, value)
    if fault == "leaves are not compared":
        monkeypatch.setattr(plain, "_are_same_leaves", lambda old, new: True)
    else:
        monkeypatch.setattr(plain.Values, "copies", lambda values: values._values.copy())
    with pytest.raises(AssertionError):
        for seed in range(12):
            run_program(storage, seed)
