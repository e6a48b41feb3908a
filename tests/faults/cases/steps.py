"""A step that has finished is neither lost nor paid for again, wherever its process dies and is replaced."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.history import Event, events
from faults.places import Place
from faults.plants import HASTY, LOST, PREMATURE, STANDING, UNCHANGED
from faults.steps import RUN_STEPS, SESSION, paying
from faults.worker import Orders
from holdfast.caching import cache_control
from holdfast.errors import CacheMiss
from holdfast.records import RunStatus
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.stored import recent

DEATHS = 2
"""In one run at most: it is resumed by one process after the other, and by one that lives in the end."""

MOMENTS = 181
"""One more than a whole run has on SQLite, where the first process dies once at each of them in as many rounds."""

STRIDE = 71
"""From one round to the next; has no divisor in common with `MOMENTS`."""


class Steps(Case):
    """One run with steps of every kind, whose processes die at every moment."""

    name = "deaths-between-steps"
    promise = "a finished step survives the death of its process, and is not paid for again"
    backends = ("SQLite", "PostgreSQL")
    unit = "`kill -9` of a run, which another process resumed"
    amounts = Amounts(sample=8, full=270, soak=20_000)
    elsewhere = {"PostgreSQL": Amounts(sample=0, full=60, soak=5_000)}
    plants = {HASTY: 30, PREMATURE: 30, UNCHANGED: 30, STANDING: 30, LOST: 30}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        lives = Lives()
        with workshop.place() as place:
            with place.storage() as storage:
                storage.find_runs(None)  # makes the tables, which is tried elsewhere
            for attempt, each in enumerate(self.orders(workshop, place, number, dice, plant)):
                # Anywhere, also between two statements.
                is_by_hand = attempt > 0 and each.dies_at is not None and dice.random() < 0.5
                has_ended = self.live(workshop, each, dice.random() * 0.12 if is_by_hand else None)
                with place.storage() as storage:
                    lives.over(events(Path(each.notes)), recorded(storage), has_ended=has_ended)
                    if has_ended:
                        break
            with place.storage() as storage:
                lives.found += wrong(storage)
        return Round(lives.deaths, lives.found, lives.facts)

    def orders(
        self, workshop: Workshop, place: Place, number: int, dice: Random, plant: str | None
    ) -> Iterator[Orders]:
        """For one process after the other: the first dies at a moment of its own, the last does not."""
        moments: list[int | None] = [1 + number * STRIDE % MOMENTS]
        moments += [1 + dice.randrange(MOMENTS * 2 // 3)] * dice.randrange(DEATHS)
        for moment in (*moments, None):
            yield workshop.orders(place, dice.getrandbits(32), mode="steps", plant=plant, dies_at=moment)

    def live(self, workshop: Workshop, orders: Orders, kill_after: float | None) -> bool:
        """Let a process do its work until it has done it or dies; whether it has."""
        if kill_after is None:
            with at_work(workshop, orders) as (writer,):
                return writer.wait() != -signal.SIGKILL
        orders.dies_at = None
        with at_work(workshop, orders) as (writer,):
            time.sleep(kill_after)
        return any(event.kind == "end" for event in events(Path(orders.notes)))


class Lives:
    """What the processes that worked on one run did, one after the other."""

    def __init__(self) -> None:
        self.deaths = 0
        self.found: list[str] = []
        self.facts: Counter[str] = Counter({"executions": 0})
        self._recorded: frozenset[str] = frozenset()
        self._executed: set[str] = set()

    def over(self, history: list[Event], recorded: frozenset[str], *, has_ended: bool) -> None:
        """Judge one process that is gone, by its notes and by what is recorded now."""
        executed = [event.token for event in history if event.kind == "step"]
        told = {event.token for event in history if event.kind == "ok"}
        self._executed.update(executed)
        self.found += [f"trouble: {event.token}" for event in history if event.kind == "trouble"]
        self.found += [f"paid for again: {name}" for name in executed if name in self._recorded]
        self.found += [f"paid for twice: {name}" for name, count in Counter(executed).items() if count > 1]
        self.found += [f"recorded, but never done: {name}" for name in sorted(recorded - self._executed)]
        self.found += [f"finished, but lost: {name}" for name in sorted((told | self._recorded) - recorded)]
        if has_ended and not any(event.kind == "end" for event in history):
            self.found.append("it did not come to its end")
        if has_ended:
            ends = [json.loads(event.token) for event in history if event.kind == "end"]
            self.found += [f"its result is another: {end}" for end in ends if end != expected().result]
        self._recorded = recorded
        self.deaths += not has_ended
        self.facts["executions"] += len(executed)


def recorded(storage: SqlWorkflowStorage) -> frozenset[str]:
    """The names of the steps that need not be done any more."""
    kept = {entry.step for entry in storage.step_cache.find(None, workflow=storage.table_name)}
    for run in storage.find_runs(""):
        if run.status is RunStatus.completed:
            return frozenset(kept | RUN_STEPS)
        steps = storage.find_steps("", SESSION, run.run_id, with_results=True)
        kept |= {record.name for record in steps if record.result is not None}
    return frozenset(kept)


class Whole(NamedTuple):
    """What comes of a run that nobody interrupts."""

    result: list[Any]
    state: list[tuple[str, Any]]


@cache
def expected() -> Whole:
    """What is to come of every run."""
    workflow = paying(MemoryStorage())
    return Whole(workflow.run().content, list(workflow.session_state.items()))


def wrong(storage: SqlWorkflowStorage) -> Iterator[str]:
    """What is wrong with what is left in the end."""
    recent.forget(storage)
    state = list(paying(storage).session_state.items())
    if state != expected().state:
        yield f"the state is another: {state}"
    if [run.status for run in storage.find_runs("")] != [RunStatus.completed]:
        yield "there is more than one run, or it has not completed"
    yield from (f"damage: {finding.where}: {finding.what}" for finding in storage.check())
    workflow = paying(storage)
    for name, function in (("price 1", workflow.price), ("tell 1", workflow.tell)):
        try:
            with cache_control(only_if_cached=True):
                kept = workflow.told(name, function)
        except CacheMiss:
            yield f"not kept for others: {name}"
        else:
            if kept not in expected().result:
                yield f"kept for others is another: {kept}"
