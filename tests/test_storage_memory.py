"""The memory storage beyond the interface: finalizers that the garbage collector runs in the middle of a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from holdfast import clock
from holdfast.errors import StateConflict
from holdfast.storage.memory import MemoryStorage
from holdfast.testing import Writer, make_run, rebuilt


@contextmanager
def in_the_middle_of_a_commit(call: Callable[[], object]) -> Iterator[None]:
    """Run `call` where the storage reads the clock, as the garbage collector can run a finalizer anywhere."""
    before = clock.current
    calls = [call]

    class Interrupting(clock.Clock):
        def now(self) -> float:
            if calls:
                calls.pop()()
            return before.now()

    clock.current = Interrupting()
    try:
        yield
    finally:
        clock.current = before


def test_a_commit_in_the_middle_of_another_is_made_after_it() -> None:
    storage = MemoryStorage()
    outer, inner = Writer(storage), Writer(storage, "", "t")
    commit = inner.prepared({"b": 1}, run=make_run("", "t"))
    answers: list[object] = []
    with in_the_middle_of_a_commit(lambda: answers.append((storage.commit(commit), storage.load("", "t")))):
        outer.commit({"a": 1})
    assert answers == [(1, None)]
    assert rebuilt(storage.load("", "s")) == {"a": 1}
    assert rebuilt(storage.load("", "t")) == {"b": 1}


def test_its_failure_is_raised_by_the_next_call() -> None:
    storage = MemoryStorage()
    writer = Writer(storage)
    late = Writer(storage).prepared({"b": 1})
    with in_the_middle_of_a_commit(lambda: storage.commit(late)):
        writer.commit({"a": 1})
    with pytest.raises(StateConflict):
        storage.load("", "s")
    assert rebuilt(storage.load("", "s")) == {"a": 1}
