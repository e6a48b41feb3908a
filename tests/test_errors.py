"""The tree of errors: what they say, what they carry, and that they survive the way to another process."""

from __future__ import annotations

import inspect
import pickle

import pytest

from holdfast import errors
from holdfast.conflicts import MISSING

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.HoldfastError)]


def test_the_page_draws_the_whole_tree() -> None:
    drawn = errors.__doc__ or ""
    for kind in ALL:
        assert kind.__name__ in drawn


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_the_one_base_and_a_message(kind: type[errors.HoldfastError]) -> None:
    assert issubclass(kind, errors.HoldfastError)
    assert kind.__doc__


def test_the_facts_of_an_error_are_its_attributes_also_after_pickling() -> None:
    error = errors.VersionConflict(session_id="s", base_version=1, current_version=3, run_id="r")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.VersionConflict
    assert (again.session_id, again.base_version, again.current_version) == ("s", 1, 3)
    assert str(again) == str(error)
    assert "Session 's' is at version 3, but this commit was made from version 1" in str(error)


def test_a_conflict_has_what_both_sides_wrote_and_tells_only_where() -> None:
    error = errors.StateConflict(
        session_id="s", path="session_state['n']", base=MISSING, ours=[1], theirs="x", base_version=1, current_version=2
    )
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.base, again.ours, again.theirs) == ("session_state['n']", MISSING, [1], "x")
    assert again.base is MISSING
    assert "session_state['n'] was changed by another run since version 1" in str(again)


def test_a_message_may_hold_braces() -> None:
    assert str(errors.InvalidInput("to empty it: {}")) == "to empty it: {}"


def test_many_problems_are_counted_and_the_first_are_listed() -> None:
    problems = tuple((f"session_state[{number}]", "object cannot be stored") for number in range(25))
    error = errors.UnstorableValue(problems)
    assert "25 values" in str(error)
    assert "session_state[19]" in str(error)
    assert "session_state[20]" not in str(error)
    assert "and 5 more" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == problems
    assert str(again) == str(error)


def test_errors_of_input_and_values_are_also_what_python_programs_expect() -> None:
    assert issubclass(errors.InvalidInput, ValueError)
    assert issubclass(errors.UnstorableValue, TypeError)
