"""An acknowledged commit survives the death of its process: `kill -9` in the middle of writing."""

from __future__ import annotations

import time
from pathlib import Path

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.nursery import Child
from faults.places import judged
from faults.plants import EARLY, TAKEN

PROMISE = "an acknowledged commit survives the death of its process"
KILLS = 10
"""In one round, all on one place."""


class _Deaths(Case):
    promise = PROMISE
    backends = ("SQLite", "PostgreSQL")
    writers: int

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        notes: list[Path] = []
        with workshop.place() as place, at_work(workshop) as children:

            def born() -> Child:
                orders = workshop.orders(place, dice.getrandbits(32), plant=plant, padding=2000, repeats=0.05)
                notes.append(Path(orders.notes))
                return workshop.nursery.start(orders)

            children += [born() for _ in range(self.writers)]
            for kill in range(KILLS):
                victim = children[dice.randrange(len(children))]
                acknowledged(victim.notes)
                time.sleep(dice.random() * 0.05)
                victim.kill()
                children.remove(victim)
                if kill < KILLS - self.writers:
                    children.append(born())
            found, count = judged(place, ["s"], notes)
        return Round(KILLS, found, {"acknowledged": count})


def acknowledged(notes: Path, patience: float = 30.0) -> None:
    """Wait until a writer was acknowledged something."""
    deadline = time.monotonic() + patience
    while not notes.exists() or b'["ok"' not in notes.read_bytes():
        assert time.monotonic() < deadline, "a writer does not get on"
        time.sleep(0.001)


class OneWriter(_Deaths):
    """One writer at a time."""

    name = "deaths-of-one"
    unit = "`kill -9` of the only writer"
    amounts = Amounts(sample=10, full=200, soak=20_000)
    elsewhere = {"PostgreSQL": Amounts(sample=0, full=200, soak=5_000)}
    plants = {EARLY: 5}
    writers = 1


class FourWriters(_Deaths):
    """One of four writers to one session, the others go on."""

    name = "deaths-among-four"
    unit = "`kill -9` of one of four writers"
    amounts = Amounts(sample=10, full=60, soak=20_000)
    elsewhere = {"PostgreSQL": Amounts(sample=0, full=60, soak=5_000)}
    plants = {EARLY: 5, TAKEN: 5}
    writers = 4
