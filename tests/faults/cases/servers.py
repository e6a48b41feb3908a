"""What can happen to a PostgreSQL server, and on the way to it: immediate stops, and lines cut around COMMIT."""

from __future__ import annotations

import time
from pathlib import Path

from faults.backends import PostgreSQL
from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.cases.deaths import acknowledged
from faults.cases.replies import LostReplies
from faults.places import judged
from faults.plants import EARLY, UNRECOGNISED
from faults.proxy import proxy

STOPS = 5
"""Of one round."""


class Restarts(Case):
    """`pg_ctl stop -m immediate`, which is as a crash, while four writers write; the server is started again."""

    name = "restarts"
    promise = "an acknowledged commit survives a crash of the server"
    backends = ("PostgreSQL",)
    unit = "immediate stops under four writers"
    amounts = Amounts(sample=0, full=25, soak=1_000)
    plants = {EARLY: 3}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        backend = workshop.backend
        assert isinstance(backend, PostgreSQL)
        dice = dice_of(self, number)
        with workshop.place() as place:
            orders = [workshop.orders(place, dice.getrandbits(32), plant=plant, padding=2000) for _ in range(4)]
            with at_work(workshop, *orders) as writers:
                for writer in writers:
                    acknowledged(writer.notes)
                for _ in range(STOPS):
                    time.sleep(0.2 + dice.random() * 0.3)
                    backend.server.stop("immediate")
                    backend.server.start()
                for writer in writers:
                    size = writer.notes.stat().st_size
                    wait_for_more(writer.notes, size)
                    writer.kill()
            found, count = judged(place, ["s"], [writer.notes for writer in writers])
        return Round(STOPS, found, {"acknowledged": count})


def wait_for_more(notes: Path, size: int, patience: float = 30.0) -> None:
    """Wait until a writer gets on after the last restart."""
    deadline = time.monotonic() + patience
    while notes.stat().st_size <= size and b"trouble" not in notes.read_bytes():
        assert time.monotonic() < deadline, "a writer does not get on after a restart"
        time.sleep(0.01)


class CutLines(Case):
    """A proxy on TCP cuts the line before a COMMIT reached the server, or before its answer reached the client."""

    name = "replies-over-tcp"
    promise = LostReplies.promise
    backends = ("PostgreSQL",)
    unit = "COMMITs around which the line was cut"
    amounts = Amounts(sample=15, full=200, soak=50_000)
    plants = {UNRECOGNISED: 5}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        backend = workshop.backend
        assert isinstance(backend, PostgreSQL)
        dice = dice_of(self, number)
        with workshop.place() as direct, proxy(backend.server.port, dice, 0.3) as between:
            place = direct._replace(url=backend.server.tcp_url_at(between.port))
            orders = [
                workshop.orders(place, dice.getrandbits(32), mode=mode, count=20, plant=plant, pauses=0.02)
                for mode in ("storage", "storage", "append")
            ]
            with at_work(workshop, *orders) as writers:
                for writer in writers:
                    writer.wait()
            found, count = judged(direct, ["s"], [writer.notes for writer in writers])
            return Round(between.dropped, found, {"acknowledged": count})
