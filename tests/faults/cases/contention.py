"""No update is lost or doubled, and every read is a prefix: writers that contend for a few sessions while they are
killed, and stopped for longer than any lease lasts."""

from __future__ import annotations

import random
import time
from pathlib import Path

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.nursery import Child
from faults.places import Place, judged
from faults.plants import BLIND, TAKEN, UNFENCED, UNRECOGNISED
from faults.worker import Orders

PROMISE = "no update is lost or doubled, and every read is a prefix"
SECONDS = 3
"""Of one round."""
ENOUGH = 150
"""Commits acknowledged after which a planted bug can be judged, however slow the machine is."""
PATIENCE = 10
"""Seconds after which it is judged anyway."""
STOPPED = 0.25
"""Seconds for which a writer is stopped."""
SESSIONS = ("a", "b", "c")
WRITERS = 6


def acknowledgements(notes: list[Path]) -> int:
    """How many commits the writers were acknowledged so far."""
    return sum(path.read_bytes().count(b'["ok"') for path in notes if path.exists())


class _Contention(Case):
    promise = PROMISE
    backends = ("SQLite", "PostgreSQL")
    mode: str
    pauses = 0.01

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        notes: list[Path] = []
        happened = {"kills": 0, "stops": 0}
        with workshop.place() as place, at_work(workshop) as children:

            def born() -> Child:
                child = workshop.nursery.start(self.orders(workshop, place, dice, plant))
                notes.append(child.notes)
                return child

            children += [born() for _ in range(WRITERS)]
            end = time.monotonic() + (SECONDS if plant is None else PATIENCE)
            while time.monotonic() < end and (plant is None or acknowledgements(notes) < ENOUGH):
                time.sleep(0.1)
                victim = dice.choice(children)
                if dice.random() < 0.5:
                    victim.kill()
                    children[children.index(victim)] = born()
                    happened["kills"] += 1
                else:
                    victim.stop()
                    time.sleep(STOPPED)
                    victim.go_on()
                    happened["stops"] += 1
            for child in children:
                child.kill()
            found, count = judged(place, SESSIONS, notes)
            lines = sum(path.read_bytes().count(b"\n") for path in notes if path.exists())
        return Round(SECONDS, found, {"acknowledged": count, "events": lines, **happened})

    def orders(self, workshop: Workshop, place: Place, dice: random.Random, plant: str | None) -> Orders:
        return workshop.orders(
            place,
            dice.getrandbits(32),
            mode=self.mode,
            sessions=list(SESSIONS),
            plant=plant,
            repeats=0.1,
            pauses=self.pauses,
        )


class ByHand(_Contention):
    """Commits against the storage interface."""

    name = "contention"
    amounts = Amounts(sample=3, full=30, soak=3_000)
    plants = {BLIND: 5, TAKEN: 5, UNRECOGNISED: 5}
    unit = "seconds of six writers that commit by hand, killed and stopped"
    mode = "storage"


class Runs(_Contention):
    """Runs of a workflow that append."""

    name = "contention-of-runs"
    amounts = Amounts(sample=3, full=6, soak=1_000)
    elsewhere = {"PostgreSQL": Amounts(sample=0, full=6, soak=1_000)}
    plants = {BLIND: 5, TAKEN: 5}
    unit = "seconds of six writers with runs, killed and stopped"
    mode = "append"


class Transactions(_Contention):
    """Transactions of a workflow that append."""

    name = "contention-of-transactions"
    amounts = Amounts(sample=3, full=6, soak=1_000)
    plants = {UNFENCED: 5}
    unit = "seconds of six writers with transactions or runs, killed and stopped"
    mode = "transaction"
    pauses = 0.1

    def orders(self, workshop: Workshop, place: Place, dice: random.Random, plant: str | None) -> Orders:
        """Two of six only append, which must not come between a transaction and its commit."""
        orders = super().orders(workshop, place, dice, plant)
        orders.mode = dice.choice([self.mode, self.mode, "append"])
        return orders
