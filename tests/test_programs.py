"""Random programs of several live objects on one session, against a plain dict and against the history.

Each program is a seed: `run_program(storage, seed)` repeats it. A few run with the tests, many with `make soak`.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest

from catalogue import same
from holdfast import codec, patch
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
        change_list(state, key, chance.choice(["append", "insert", "leaf", "sort", "slice"]), seed, size)
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
    for step in range(STEPS):
        number = chance.randrange(len(objects))
        step_seed = seed * 1000 + step
        if chance.random() < 0.2:
            recent.forget(storage)
        if chance.random() < 0.15:
            objects[number] = Doing(session_id=session_id, storage=storage)
        workflow = objects[number]
        workflow.run(lambda state, step_seed=step_seed: change(state, step_seed))  # type: ignore[misc]
        model = copy.deepcopy(model)
        change(model, step_seed)
        assert same(dict(workflow.session_state), model), f"live, step {step}"
        versions[workflow.write_to_storage()] = model
    recent.forget(storage)
    assert same(dict(Doing(session_id=session_id, storage=storage).session_state), model), "stored"
    check_history(storage, session_id, versions)


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


@pytest.mark.parametrize("seed", range(12))
def test_a_random_program_leaves_what_a_plain_dict_would_hold(storage: Storage, seed: int) -> None:
    run_program(storage, seed)
    assert storage.check() == ()


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_many_random_programs(storage: Storage, block: int) -> None:
    for seed in range(1_000 + block * 100, 1_100 + block * 100):
        run_program(storage, seed)
    assert storage.check() == ()


def test_a_planted_fault_in_the_snapshots_is_found(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    right = StoredDocument.snapshot

    def sorted_names(document: StoredDocument, encoded: Callable[[str], bytes]) -> Any:
        snapshot = right(document, encoded)
        return snapshot and dataclasses.replace(snapshot, names=tuple(sorted(snapshot.names)))

    monkeypatch.setattr(StoredDocument, "snapshot", sorted_names)
    with pytest.raises(AssertionError):
        for seed in range(12):
            run_program(storage, seed)
