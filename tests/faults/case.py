"""What a case is: one promise, one way to try it, and the bugs that it must find.

Rules that must stay true:
- the number of a round is the seed of all that is chosen in it;
- a round leaves nothing behind: no process, no mount, no open storage.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from faults.nursery import Child, Nursery
from faults.places import Backend, Place
from faults.worker import Orders


class Round(NamedTuple):
    """What one round did and found."""

    tried: int
    found: list[str]
    facts: Mapping[str, int] = {}
    """What else is worth counting, by name."""


class Amounts(NamedTuple):
    """How much is tried, in the unit of the case."""

    sample: int
    """With the ordinary tests; 0 where these have tests of their own."""
    full: int
    """With `make faults`."""
    soak: int


class Case:
    """One way to try one promise."""

    name: ClassVar[str]
    promise: ClassVar[str]
    backends: ClassVar[tuple[str, ...]] = ("SQLite",)
    unit: ClassVar[str]
    """What is counted, in the plural."""
    amounts: ClassVar[Amounts]
    elsewhere: ClassVar[Mapping[str, Amounts]] = {}
    """Other amounts, for backends on which everything takes longer."""
    plants: ClassVar[Mapping[str, int]]
    """The bugs that it must find, each with the number of rounds after which it counts as not found."""

    def amounts_on(self, backend: str) -> Amounts:
        """How much is tried on a backend."""
        return self.elsewhere.get(backend, self.amounts)

    def missing(self, workshop: Workshop) -> str | None:
        """Why it cannot be tried here; None when it can."""
        return None

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        """Try once more, with a bug planted or without."""
        raise NotImplementedError


@dataclass
class Workshop:
    """What a round works with: a backend, folders, a nursery."""

    backend: Backend
    folder: Path
    _opened: list[Nursery] = field(default_factory=list)
    _made: Counter[str] = field(default_factory=Counter)

    @cached_property
    def nursery(self) -> Nursery:
        """Makes writers; started when it is first asked for."""
        self._opened.append(Nursery())
        return self._opened[-1]

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A new, empty place in a new folder, which is removed at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield self.backend.place(folder)
        finally:
            shutil.rmtree(folder)

    def orders(self, place: Place, seed: int, **options: object) -> Orders:
        """Orders for a new writer, whose name no other writer of this workshop has."""
        self._made["writers"] += 1
        name = f"w{self._made['writers']}"
        options = {"sessions": ["s"], **options}
        return Orders(place.url, place.table, str(place.folder / f"{name}.notes"), name, seed, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        """End the nursery."""
        for opened in self._opened:
            opened.close()


@contextmanager
def at_work(workshop: Workshop, *orders: Orders) -> Iterator[list[Child]]:
    """Writers, of which none is left in the end; the list may be changed meanwhile."""
    children: list[Child] = []
    try:
        for each in orders:
            children.append(workshop.nursery.start(each))
        yield children
    finally:
        for child in children:
            child.kill()


def dice_of(case: Case, number: int) -> random.Random:
    """The dice of one round."""
    return random.Random(f"{case.name} {number}")
