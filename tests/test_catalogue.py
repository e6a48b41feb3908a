"""The catalogue of hostile values, through a whole workflow and a new object, on every backend."""

from __future__ import annotations

from typing import Any

import pytest

from catalogue import CATALOGUE, DECLARED, Hostile, hostile_id, same
from holdfast.errors import UnstorableValue
from holdfast.records import RunStatus
from holdfast.storage.base import Storage
from holdfast.stored import recent
from holdfast.workflow import Workflow


class Keeping(Workflow):
    state_types = DECLARED

    def run(self, value: Any) -> None:
        self.session_state["value"] = value
        self.session_state["sibling"] = 1


def keeping(storage: Storage) -> Keeping:
    """A new object that knows nothing but what is stored."""
    recent.forget(storage)
    return Keeping(session_id="s", storage=storage)


@pytest.mark.parametrize("entry", [entry for entry in CATALOGUE if entry.verdict == "R"], ids=hostile_id)
def test_a_hostile_value_comes_back_exactly(entry: Hostile, storage: Storage) -> None:
    keeping(storage).run(entry.make())
    assert same(keeping(storage).session_state["value"], entry.make())
    # And once more over itself: what was read is stored as what it was.
    workflow = keeping(storage)
    workflow.run(workflow.session_state["value"])
    assert len(storage.changes("", "s")) == 1


@pytest.mark.parametrize("entry", [entry for entry in CATALOGUE if entry.verdict == "E"], ids=hostile_id)
def test_a_value_that_cannot_be_kept_is_refused_by_path_and_costs_only_its_key(
    entry: Hostile, storage: Storage
) -> None:
    keeping(storage).run("earlier")
    with pytest.raises(UnstorableValue) as caught:
        keeping(storage).run(entry.make())
    assert entry.said in str(caught.value)
    assert "secret-canary" not in str(caught.value)
    assert "session_state['value']" in str(caught.value)
    assert keeping(storage).session_state == {"value": "earlier", "sibling": 1}
    assert storage.find_runs("", limit=1)[0].status is RunStatus.failed


@pytest.mark.parametrize(
    "entry",
    [entry for entry in CATALOGUE if entry.number in (18, 19, 20, 21, 22, 24, 25, 26, 29, 30, 31, 36, 39)],
    ids=hostile_id,
)
def test_hostile_keys_are_kept_at_the_top_level_as_well(entry: Hostile, storage: Storage) -> None:
    value = entry.make()
    if type(value) is not dict:
        value = {key: index for index, key in enumerate(value)}
    workflow = keeping(storage)
    workflow.session_state = value
    workflow.write_to_storage()
    assert same(dict(keeping(storage).session_state), value)
    workflow = keeping(storage)
    for key in value:
        workflow.session_state[key] = [workflow.session_state[key]]
    workflow.write_to_storage()
    assert same(dict(keeping(storage).session_state), {key: [inner] for key, inner in value.items()})
