"""Exactly one commit under a lost answer: COMMITs that were made, or not made, and failed without saying which."""

from __future__ import annotations

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.history import events
from faults.places import judged
from faults.plants import UNRECOGNISED

TOKENS = 15
"""Of each writer in one round."""


class LostReplies(Case):
    """Two clients of the storage interface and one workflow contend for a session while answers get lost."""

    name = "replies"
    promise = "a commit whose answer was lost is made exactly once"
    unit = "COMMITs whose outcome was hidden"
    amounts = Amounts(sample=20, full=200, soak=50_000)
    plants = {UNRECOGNISED: 5}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        with workshop.place() as place:
            orders = [
                workshop.orders(
                    place, dice.getrandbits(32), mode=mode, count=TOKENS, drops=0.4, plant=plant, pauses=0.02
                )
                for mode in ("storage", "storage", "append")
            ]
            with at_work(workshop, *orders) as writers:
                for writer in writers:
                    writer.wait()
                notes = [writer.notes for writer in writers]
            found, count = judged(place, ["s"], notes)
            lost = sum(event.kind == "fault" for path in notes for event in events(path))
        return Round(lost, found, {"acknowledged": count})
