"""Examines a case: rounds until enough was tried, then each planted bug until it is found.

Rules that must stay true:
- an examination says where it ended, so that another can go on there;
- a planted bug that is not found is a failure, like an anomaly that is.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.case import Case, Workshop
from faults.places import Backend


@dataclass(frozen=True)
class Hunt:
    """What became of one planted bug."""

    plant: str
    rounds: int
    """How many it took to find it; of a bug that was not found, how many were tried."""
    found: str | None
    """The first thing that gave it away; None when nothing did."""


@dataclass
class Result:
    """What an examination of one case on one backend came to."""

    case: Case
    backend: str
    tried: int = 0
    facts: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    hunts: list[Hunt] = field(default_factory=list)
    seconds: float = 0.0
    following: int = 0
    """The number of the round with which another examination would go on."""
    skipped: str | None = None

    @property
    def is_sound(self) -> bool:
        """Nothing was found that should not be, and all that should."""
        return not self.found and all(hunt.found for hunt in self.hunts)


def examine(
    case: Case,
    backend: Backend,
    amount: float,
    *,
    seconds: float = math.inf,
    first: int = 0,
    with_plants: bool = True,
) -> Result:
    """Try a case until `amount` units or so many seconds are over, and hunt its bugs.

    It ends at the first round in which something is found.
    """
    result = Result(case, backend.name, following=first)
    began = time.monotonic()
    with workshop_of(backend) as workshop:
        result.skipped = case.missing(workshop)
        if result.skipped:
            return result
        while result.tried < amount and time.monotonic() - began < seconds and not result.found:
            tried, found, facts = case.round(workshop, result.following, None)
            result.tried += tried
            result.facts.update(facts)
            result.found += [f"round {result.following}: {each}" for each in found]
            result.following += 1
        if with_plants:
            result.hunts = [hunt(case, workshop, plant) for plant in case.plants]
    result.seconds = time.monotonic() - began
    return result


def hunt(case: Case, workshop: Workshop, plant: str) -> Hunt:
    """Try a case with a bug planted until that is found."""
    most = case.plants[plant]
    for number in range(most):
        found = case.round(workshop, number, plant).found
        if found:
            return Hunt(plant, number + 1, found[0])
    return Hunt(plant, most, None)


@contextmanager
def workshop_of(backend: Backend) -> Iterator[Workshop]:
    """A workshop with a folder of its own, both gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-faults-"))
    try:
        with closing(Workshop(backend, folder)) as workshop:
            yield workshop
    finally:
        shutil.rmtree(folder)
