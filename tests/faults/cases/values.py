"""What goes in comes back: the state against a plain dict, and the catalogue of hostile values.

The machine, the programs and the catalogue are those of the ordinary tests; here they run longer, and are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

import test_catalogue
import test_codec
import test_programs
import test_session
from catalogue import CATALOGUE, same
from faults.case import Amounts, Case, Round, Workshop
from faults.places import Place
from faults.plants import SORTED, UNMOVED, UNSIGNED, planted
from holdfast.errors import HoldfastError, UnstorableValue
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage

QUIET = settings(
    deadline=None,
    database=None,
    print_blob=False,
    verbosity=Verbosity.quiet,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # the seed repeats what is found; making it smaller would take minutes
)


@contextmanager
def storage_at(place: Place, backend: str) -> Iterator[Storage]:
    """An empty storage of a backend."""
    if backend == "memory":
        with closing(MemoryStorage()) as storage:
            yield storage
    else:
        with place.storage() as storage:
            yield storage


def failure(work: Callable[[], None]) -> list[str]:
    """What a test complains of."""
    try:
        work()
    except (AssertionError, HoldfastError, LookupError, TypeError, ValueError) as error:
        return [f"{type(error).__name__}: {error}".partition("\n")[0]]
    return []


class Machine(Case):
    """Hypothesis chooses changes of every kind, aliases included, to a session state and to a dict."""

    name = "model"
    promise = "the state is what a plain dict would be"
    backends = ("memory",)
    unit = "operations chosen by Hypothesis"
    amounts = Amounts(sample=0, full=10_000, soak=5_000_000)
    plants = {UNMOVED: 10}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        class Counted(test_session.StateAgainstModel):
            steps: ClassVar[int] = 0

            @invariant()
            def count(self) -> None:
                type(self).steps += 1

        machine = seed(number)(Counted)
        chosen = settings(QUIET, max_examples=25, stateful_step_count=40)
        with planted(plant):
            found = failure(lambda: run_state_machine_as_test(machine, settings=chosen))
        return Round(Counted.steps, found)


class Programs(Case):
    """Random programs of several workflow objects on one session, checked against a dict and against the history."""

    name = "programs"
    promise = Machine.promise
    backends = ("memory", "SQLite", "PostgreSQL")
    unit = "operations of random programs"
    amounts = Amounts(sample=0, full=2_500, soak=1_000_000)
    elsewhere = {"PostgreSQL": Amounts(sample=0, full=300, soak=100_000)}
    plants = {SORTED: 20}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        seeds = range(10_000 + number * 4, 10_004 + number * 4)
        with workshop.place() as place, storage_at(place, workshop.backend.name) as storage, planted(plant):
            found = [
                f"program {each}: {wrong}"
                for each in seeds
                for wrong in failure(partial(test_programs.run_program, storage, each))
            ]
            found += [f"damage: {finding.what}" for finding in storage.check()]
        return Round(len(seeds) * test_programs.STEPS, found)


class Catalogue(Case):
    """The catalogue of hostile values, each kept by a workflow and read by a new one; then values from Hypothesis."""

    name = "catalogue"
    promise = "a value comes back exactly, or is refused"
    backends = ("memory", "SQLite", "PostgreSQL")
    unit = "hostile values"
    amounts = Amounts(sample=0, full=len(CATALOGUE) + 1_000, soak=1_000_000)
    elsewhere = {name: Amounts(sample=0, full=len(CATALOGUE), soak=100_000) for name in ("SQLite", "PostgreSQL")}
    plants = {UNSIGNED: 1}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        if number:
            return self.generated(workshop, number)
        found: list[str] = []
        checks = {
            "R": test_catalogue.test_a_hostile_value_comes_back_exactly,
            "E": test_catalogue.test_a_value_that_cannot_be_kept_is_refused_by_path_and_costs_only_its_key,
        }
        entries = CATALOGUE if plant is None else CATALOGUE[:40]
        for entry in entries:
            with workshop.place() as place, storage_at(place, workshop.backend.name) as storage, planted(plant):
                wrong = failure(partial(checks[entry.verdict], entry, storage))
                found += [f"{entry.number} {entry.name}: {each}" for each in wrong]
        return Round(len(entries), found)

    def generated(self, workshop: Workshop, number: int) -> Round:
        count = 0
        with workshop.place() as place, storage_at(place, workshop.backend.name) as storage:

            @seed(number)
            @settings(QUIET, max_examples=250)
            @given(test_codec.VALUES)
            def comes_back(value: Any) -> None:
                nonlocal count
                count += 1
                workflow = test_catalogue.keeping(storage)
                try:
                    workflow.run(value)
                except UnstorableValue as refused:
                    assert "stored alike" in str(refused)  # noqa: PT017
                    return
                assert same(test_catalogue.keeping(storage).session_state["value"], value)

            found = failure(comes_back)
        return Round(count, found)
