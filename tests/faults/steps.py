"""A workflow that pays for steps of every kind, and notes what it pays for before it does and when it has it.

Rules that must stay true:
- each step has a name that no other has, so that executions and records can be told apart by name alone;
- what a step gives and changes depends on its name only, so that every run that completes ends in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from holdfast import step
from holdfast.workflow import Workflow

if TYPE_CHECKING:
    from faults.worker import Writer

SESSION = "s"
LEASE = 0.05
"""Seconds for which a dead process keeps others from computing what it was computing."""

# In lower case: as a constant it would be a part of the code of the steps.
noting: list[Callable[[str, str], None]] = []


def note(kind: str, name: str) -> None:
    """Note what happens to a step: "step" before it is paid for, "ok" when it has been handed on."""
    for each in noting:
        each(kind, name)


def paid(name: str) -> str:
    """Pay for something."""
    note("step", name)
    return name.upper()


class Paying(Workflow):
    """Pays for steps of the run that change the state or do not, one inside of another, beside each other, in pieces,
    and for steps that are kept for others."""

    @step
    def gather(self, name: str) -> str:
        self.session_state.setdefault("gathered", []).append(name)
        return paid(name)

    @step
    def fetch(self, name: str) -> str:
        return paid(name)

    @step
    def write(self, name: str) -> Iterator[str]:
        paid(name)
        for place in range(3):
            self.session_state[f"piece {place}"] = name
            yield f"{name} {place}"

    @step
    def outer(self, name: str) -> str:
        self.session_state["outer"] = name
        return paid(name) + str(self.told(f"{name}, inside", self.gather))

    @step(cache="workflow", version=1)
    def price(self, name: str) -> dict[str, Any]:
        return {"of": paid(name)}

    @step(cache="session", version=1)
    def tell(self, name: str) -> Iterator[str]:
        paid(name)
        yield "once "
        yield name

    def told(self, name: str, function: Callable[[str], Any]) -> Any:
        """Ask for a step and note when its value is there."""
        value = self.step(name, function, name)
        if isinstance(value, Iterator):
            value = list(value)
        note("ok", name)
        return value

    def run(self) -> Any:
        state = self.session_state
        state["runs"] = state.get("runs", 0) + 1
        results = [self.told("gather 1", self.gather), self.told("price 1", self.price)]
        state["gathered"].append("by the run")
        results += [self.told("write 1", self.write), self.told("outer 1", self.outer)]
        self.write_to_storage()
        state["half"] = len(state["gathered"])
        results += self.parallel(*(partial(self.told, f"fetch {n}", self.fetch) for n in range(2)), limit=2)
        results += [self.told("tell 1", self.tell), self.told("gather 2", self.gather)]
        state["runs"] += len(results)
        return results


def paying(storage: Any) -> Paying:
    """The workflow on a storage. Its name is that of the tables: other tables of a database share the step cache."""
    return Paying(session_id=SESSION, name=getattr(storage, "table_name", "t"), storage=storage)


RUN_STEPS = frozenset(("gather 1", "write 1", "outer 1", "outer 1, inside", "fetch 0", "fetch 1", "gather 2"))
"""Those that are recorded with the run."""


def with_steps(writer: Writer) -> None:
    """Run it; or, where a process died over it, go on with its run, without waiting until that counts as dead."""
    storage = writer.storage
    noting[:] = [lambda kind, name: writer.note(kind, SESSION, name)]
    with mock.patch("holdfast.flights.LEASE_SECONDS", LEASE), mock.patch("holdfast.storage.liveness.STALE_AFTER", 0.0):
        workflow = paying(storage)
        runs = storage.find_runs("", session_id=SESSION)
        response = workflow.resume(runs[0].run_id) if runs else workflow.run()
    writer.note("end", SESSION, json.dumps(response.content))
