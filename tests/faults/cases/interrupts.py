"""Interrupts and cancelling: nothing is half done, and what was acknowledged or left in the state is kept."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from faults.case import Amounts, Case, Round, Workshop, at_work, dice_of
from faults.history import events
from faults.places import Place, judged
from faults.plants import ABANDONED, UNTIDY, planted
from holdfast.errors import StorageBusy
from holdfast.records import RunStatus
from holdfast.storage.base import Storage
from holdfast.storage.gate import Gate
from holdfast.stored import recent
from holdfast.workflow import Workflow

PROMISE = "an interrupted or cancelled call leaves nothing half done"


class Interrupts(Case):
    """Real SIGINTs at any moment of a commit or a run."""

    name = "interrupts"
    promise = PROMISE
    backends = ("SQLite", "PostgreSQL")
    unit = "SIGINTs"
    amounts = Amounts(sample=20, full=150, soak=20_000)
    elsewhere = {"PostgreSQL": Amounts(sample=0, full=150, soak=20_000)}
    plants = {UNTIDY: 40}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        dice = dice_of(self, number)
        with workshop.place() as place:
            orders = workshop.orders(place, dice.getrandbits(32), mode="interrupted", count=60, plant=plant)
            with at_work(workshop, orders) as (writer,):
                writer.wait()
            found, count = judged(place, ["s"], [writer.notes])
            interrupts = sum(event.kind == "fault" for event in events(writer.notes))
        return Round(interrupts, found, {"acknowledged": count})


class Plain(Workflow):
    def run(self, tokens: list[str]) -> Iterator[str]:
        log = self.session_state.setdefault("log", [])
        for token in tokens:
            log.append(token)
            if len(log) % 3 == 0:
                self.write_to_storage()
            yield token


class Async(Workflow):
    async def run(self, tokens: list[str]) -> AsyncIterator[str]:
        log = self.session_state.setdefault("log", [])
        for token in tokens:
            log.append(token)
            if len(log) % 3 == 0:
                self.write_to_storage()
            await asyncio.sleep(0)
            yield token


class Awaited(Workflow):
    async def run(self, tokens: list[str]) -> None:
        log = self.session_state.setdefault("log", [])
        for token in tokens:
            log.append(token)
            await asyncio.sleep(0.0003)


async def cancelled(storage: Storage, tokens: list[str], dice: random.Random) -> Workflow:
    workflow = Awaited(session_id="s", storage=storage)
    task = asyncio.ensure_future(workflow.run(tokens))
    await asyncio.sleep(dice.random() * 0.008)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return workflow


async def timed_out(storage: Storage, tokens: list[str], dice: random.Random) -> Workflow:
    workflow = Awaited(session_id="s", storage=storage)
    with suppress(TimeoutError):
        async with asyncio.timeout(dice.random() * 0.008):
            await workflow.run(tokens)
    return workflow


async def aclosed(storage: Storage, tokens: list[str], dice: random.Random) -> Workflow:
    workflow = Async(session_id="s", storage=storage)
    responses = workflow.run(tokens)
    for _ in range(dice.randrange(len(tokens))):
        await anext(responses)
    await responses.aclose()
    return workflow


async def closed(storage: Storage, tokens: list[str], dice: random.Random) -> Workflow:
    workflow = Plain(session_id="s", storage=storage)
    responses: Any = workflow.run(tokens)
    for _ in range(dice.randrange(len(tokens))):
        next(responses)
    responses.close()
    return workflow


async def dropped(storage: Storage, tokens: list[str], dice: random.Random) -> Workflow:
    workflow = Plain(session_id="s", storage=storage)
    for _, _ in zip(range(dice.randrange(len(tokens))), workflow.run(tokens), strict=False):
        pass
    gc.collect()
    return workflow


async def kept_waiting(storage: Storage, tokens: list[str], dice: random.Random) -> Workflow:
    """Another holds the gate for as long as this one is ready to wait, more or less."""
    before = stored(storage)
    workflow = Plain(session_id="s", storage=storage)
    log = workflow.session_state.setdefault("log", [])
    gate = Gate(storage.where)  # type: ignore[attr-defined]
    assert gate.acquire(10)
    asyncio.get_running_loop().call_later(0.08 + dice.random() * 0.04, gate.close)
    log.append(tokens[0])
    try:
        await asyncio.to_thread(workflow.write_to_storage)
    except StorageBusy:
        gate.close()
        await asyncio.sleep(0.01)
        assert stored(storage) == before, "written after it was refused as busy"
        workflow.write_to_storage()
    return workflow


ENDS: tuple[Callable[[Storage, list[str], random.Random], Awaitable[Workflow]], ...] = (
    cancelled,
    timed_out,
    aclosed,
    closed,
    dropped,
    cancelled,
    kept_waiting,
)


def stored(storage: Storage) -> list[str]:
    """The tokens that a new process would find."""
    recent.forget(storage)
    return list(Workflow(session_id="s", storage=storage).session_state.get("log", ()))


class Cancels(Case):
    """Runs that are cancelled, timed out, closed, dropped or kept waiting."""

    name = "cancels"
    promise = PROMISE
    unit = "cancels, timeouts, `close()`, `aclose()`, and waits for a held database"
    amounts = Amounts(sample=21, full=210, soak=20_000)
    plants = {ABANDONED: 3}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        with workshop.place() as place, planted(plant):
            return Round(3 * len(ENDS), asyncio.run(self.ends(place, dice_of(self, number))))

    async def ends(self, place: Place, dice: random.Random) -> list[str]:
        found: list[str] = []
        with place.storage() as storage:
            stored(storage)  # makes the tables, for which a busy disk may need longer than what follows may wait
        with place.storage(lock_timeout=0.1) as storage:
            for number in range(3 * len(ENDS)):
                end = ENDS[number % len(ENDS)]
                tokens = [f"{number}.{place}" for place in range(12)]
                before = stored(storage)
                try:
                    workflow = await end(storage, tokens, dice)
                except AssertionError as error:
                    found.append(f"{end.__name__}: {error}")
                    continue
                found += map(partial("{}: {}".format, end.__name__), wrong(storage, workflow, before, tokens))
            found += [f"damage: {finding.what}" for finding in storage.check()]
        return found


def wrong(storage: Storage, workflow: Workflow, before: list[str], tokens: list[str]) -> Iterator[str]:
    """What is wrong with what a run left that was ended from outside."""
    after = stored(storage)
    if after != list(workflow.session_state.get("log", ())):
        yield "what is stored is not what the run left"
    if after[: len(before)] != before or after[len(before) :] != tokens[: len(after) - len(before)]:
        yield "what is stored is no prefix of what the run did"
    if any(run.status is RunStatus.running for run in storage.find_runs(None)):
        yield "a run that has ended is recorded as running"
    if workflow.write_to_storage() and stored(storage) != after:
        yield "something was still pending"
