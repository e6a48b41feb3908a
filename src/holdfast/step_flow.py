"""What happens when a step is asked for, as effects for a driver to perform (see `drivers.py`).

Rules that must stay true:
- a step of the run's own scope is recorded, with what it changed in the session state, in one commit, before its value
  is handed on; what was paid for is never dropped because it could not be kept;
- of a step of wider scope nothing but its value counts: it neither reads nor changes the session state;
- only what ended well is kept: not a failure, nor a stream that was not read to its end;
- when the step cache fails, the step is computed, and a warning says so; when the run's record fails, that is raised.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from holdfast import clock
from holdfast.asked import Asked, decoded, encoded, replayed, restore_agents, warn
from holdfast.caching import ALL, allowed
from holdfast.computing import computed, look_at_arguments, own_change
from holdfast.effects import Flow, Pause, Store, Wait
from holdfast.errors import (
    CacheMiss,
    CorruptData,
    OutcomeUnknown,
    StepBusy,
    StepPersistError,
    StepStateError,
    StorageBusy,
    StorageError,
    StorageUnavailable,
)
from holdfast.flights import Crossed, EntryLease, Flight, flights, flights_around
from holdfast.frames import Frame, is_parallel, key_here, steps_around
from holdfast.recorded import Given
from holdfast.records import Entry
from holdfast.response import RunEvent
from holdfast.retracing import Misplaced, StateChange
from holdfast.turns import Turns

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25
"""Seconds between two looks for what another process computes: at first, and at most."""

LOOK_EVERY = 1.0
"""Seconds after which somebody who waits for another thread looks whether that still makes sense."""

KEEP_TRIES = 3
KEEP_PAUSE = 0.5
"""How often the record of what was paid for is written, and seconds between two tries."""

_PASSING: Final = (StorageBusy, StorageUnavailable, OutcomeUnknown)
"""Why a commit may be tried again."""

Unsaved: TypeAlias = tuple[Callable[[], None], StorageError]
"""What is to be done once more, and why it was not done."""


# -- a step of the run's own scope ----------------------------------------------------------------------------------


def in_run(asked: Asked) -> Flow:
    """A step that is recorded with its run."""
    run = asked.run
    assert run is not None
    session = run.session
    if session.is_exclusive:
        raise StepStateError(
            step=asked.name,
            what="was called inside of a transaction, which is committed as a whole or not at all",
            advice="Call it before the transaction and use its value there.",
        )
    key = key_here(asked.key)
    number, occurrence, record = run.steps.begin(key)
    if record is not None:
        given = decoded(asked, record.result)
        if given is not None:
            if record.patch is not None:
                yield Store(functools.partial(_repeat, asked, StateChange.from_bytes(record.patch)))
            run.steps.save(record.seconds, record.usage)
            asked.tell(RunEvent.step_completed, cached=True)
            restore_agents(asked, given)
            return (yield from replayed(asked, given))
        number = run.steps.next_number()
    asked.tell(RunEvent.step_started)
    frame = asked.frame(number, occurrence, may_use_state=not is_parallel())
    given, unsaved = yield from _in_turns(asked, frame, functools.partial(_recorded, asked, frame, key, occurrence))
    if unsaved is not None:
        yield from _kept(asked, given, *unsaved)
    asked.tell(RunEvent.step_completed, cached=False, seconds=asked.seconds)
    asked.value = given.value
    return given.value


def _in_turns(asked: Asked, frame: Frame, settle: Callable[[Given], Any], lease: EntryLease | None = None) -> Flow:
    """Compute it in a run, and settle what it has changed: what it gave, and what `settle` returned.

    That is one piece of work, which is done whole: a task that is cancelled at this moment has kept what it computed.
    """
    assert asked.run is not None
    turns = asked.turns = Turns(asked.session, asked.run.steps.at_work, frame)
    frame.is_apart = asked.run.is_apart
    try:
        yield Store(turns.begin)
        given = yield from computed(asked, frame, lease)
        settled = yield Store(functools.partial(settle, given))
    finally:
        turns.end()
    return given, settled


def _recorded(asked: Asked, frame: Frame, key: bytes, occurrence: int, given: Given) -> Unsaved | None:
    """Record a step of the run's own scope; what is to be tried again if the storage cannot be reached now."""
    assert asked.run is not None
    change, is_known, collected = own_change(asked, frame)
    if not is_known or not asked.step.keeps(given.value):
        return None
    if change is None:  # else it may be a part of the session state, whose changes are made again
        look_at_arguments(asked)
    record = asked.record(
        frame.number,
        occurrence,
        frame,
        key=key,
        is_hit=False,
        seconds=asked.seconds,
        usage=asked.meter.usage,
        patch=None if change is None else change.to_bytes(),
        result=encoded(asked, given),
    )
    save = functools.partial(asked.run.save_step, record, collected)
    try:
        save()
    except _PASSING as error:
        return save, error
    except StorageError as error:
        raise StepPersistError(step=asked.name, reason=str(error), result=given.value) from error
    return None


def _is_known(asked: Asked, frame: Frame, _: Given) -> bool:
    """Whether it is known of a step of wider scope that it has changed nothing."""
    return own_change(asked, frame)[1]


def _repeat(asked: Asked, change: StateChange) -> None:
    assert asked.run is not None
    asked.run.steps.at_work.state_is_used(is_known=True)
    try:
        asked.run.session.repeat(change)
    except Misplaced as misplaced:
        raise StepStateError(
            step=asked.name,
            what=f"changed something at {misplaced} of the session state, which is not what it was then",
            advice="Made again, its change could undo another: run the workflow anew. Let the step return a value, and "
            "change the state in run(); or ask for steps that change the same place in the same order.",
        ) from None


def _kept(asked: Asked, given: Given, save: Callable[[], None], error: StorageError) -> Flow:
    """Commit the record of a step that could not be committed at once."""
    for tried in range(1, KEEP_TRIES):
        yield Pause(KEEP_PAUSE * tried)
        try:
            yield Store(save)
        except _PASSING as again:
            error = again
        except StorageError as failure:
            raise StepPersistError(step=asked.name, reason=str(failure), result=given.value) from failure
        else:
            return
    raise StepPersistError(step=asked.name, reason=str(error), result=given.value) from error


# -- a step of wider scope ------------------------------------------------------------------------------------------


def for_others(asked: Asked) -> Flow:
    """A step whose result is kept for other runs to find."""
    if asked.found is not None:
        return (yield from _hit(asked, *asked.found))
    control = allowed()
    if not (control.reads or control.computes):
        raise CacheMiss(step=asked.name, arguments=asked.arguments())
    if asked.is_down or not (control.reads or control.writes):
        return (yield from _only_computed(asked))
    entry = None if asked.has_looked else (yield Store(functools.partial(_find, asked)))
    if entry is not None:
        if control.reads and (given := decoded(asked, entry.result)) is not None:
            return (yield from _hit(asked, entry, given))
        asked.since = entry.created_at
    if not control.computes:
        raise CacheMiss(step=asked.name, arguments=asked.arguments())
    if asked.is_down or not control.writes:
        return (yield from _only_computed(asked))
    if not control.reads:
        run = asked.run
        # A run that refreshes says so when it begins; a block, or the environment, for each step anew.
        asked.refreshed_at = clock.monotonic() if run is None or run.control.reads else run.opened
        asked.passes_over = True
    return (yield from _flown(asked))


def peek(asked: Asked) -> Entry | None:
    """The entry that answers a step at once, if it is there and may be used."""
    control = allowed()
    if control is not ALL and control != ALL:
        return None
    entry = _find(asked)
    asked.has_looked = entry is None
    return entry


def _find(asked: Asked) -> Entry | None:
    try:
        entry = asked.session.step_cache.read(asked.place, asked.key)
    except StorageError as error:
        asked.is_damaged = isinstance(error, CorruptData)
        asked.is_down = not asked.is_damaged
        warn(f"Step {asked.name!r} is computed, for what is kept of it could not be read: {error}")
        return None
    if entry is None or _is_good(asked, entry):
        return entry
    asked.since = max(asked.since, entry.created_at)
    return None


def _is_good(asked: Asked, entry: Entry) -> bool:
    """Whether an entry has not expired, or had not when the run that asks began."""
    if entry.result is None:
        return False
    ttl = asked.cache.seconds if asked.cache is not None else None
    if entry.expires_at is None and ttl is None:
        return True
    now = clock.now()
    if asked.run is not None and asked.run.is_resumed:
        now = min(now, asked.run.first_started_at)
    # It may have been stored when the step had another ttl.
    return (entry.expires_at is None or entry.expires_at > now) and (ttl is None or entry.created_at + ttl > now)


def hit(asked: Asked, entry: Entry, given: Given) -> None:
    """Note that a step was answered."""
    run = asked.run
    if run is not None:
        run.steps.found(asked.session.storage, entry)
        if not run.steps.is_noted_whole():
            number = run.steps.next_number()
            run.steps.note(asked.record_of(number, 0, None, is_hit=True, seconds=entry.seconds, usage=entry.usage))
        if run.tells:
            asked.tell(RunEvent.step_completed, cached=True)
    if given.agents or asked.step.agent is not None:
        restore_agents(asked, given)


def _hit(asked: Asked, entry: Entry, given: Given) -> Flow:
    hit(asked, entry, given)
    return (yield from replayed(asked, given))


def _flown(asked: Asked) -> Flow:
    """Compute it, or wait for whoever does."""
    _require_another(asked)
    which = (asked.place, asked.key)
    around = flights_around()
    began = clock.monotonic()
    while True:
        entry: Entry | None = None
        # Made here, so that whatever interrupts the joining, nobody waits for a flight without a leader.
        own = Flight()
        try:
            flight = flights.join(asked.storage, which, own, around)
            if flight is own:
                entry, is_computed = yield from _flying(asked, own, began)
        except Crossed:
            raise StepStateError(
                step=asked.name,
                what="is being computed already, by code that waits for the step which this was called from",
                advice="Of steps that call each other, let each call the others with something smaller.",
            ) from None
        finally:
            flights.land(asked.storage, which, own, entry)
        if flight is own:
            if is_computed:
                return asked.value
            assert entry is not None
            given = decoded(asked, entry.result)
            return (yield from _only_computed(asked) if given is None else _hit(asked, entry, given))
        if asked.blocks and flight.thread == threading.get_ident():
            # It was left half-way on this thread, and cannot go on before this call returns.
            flights.leave(flight, around)
            return (yield from _only_computed(asked))
        entry = yield from _waited(asked, flight, around, began)
        if asked.refreshed_at is not None and flight.began < asked.refreshed_at:
            continue  # what it gave is older than what is asked for
        if entry is not None and _is_new(asked, entry) and (given := decoded(asked, entry.result)) is not None:
            return (yield from _hit(asked, entry, given))


def _require_another(asked: Asked) -> None:
    """Refuse a step that waits for itself, be it through another storage object on the same database."""
    if any(frame.key == asked.key for frame in steps_around()):
        raise StepStateError(
            step=asked.name,
            what="calls itself with the same arguments, for whose result it would wait for ever",
            advice="Call the function underneath, or something smaller.",
        )


def _is_new(asked: Asked, entry: Entry) -> bool:
    """Whether an entry may answer, by its age; one that was computed just now has no time yet."""
    return not entry.created_at or entry.created_at > asked.since


def _running_loop() -> AbstractEventLoop:
    import asyncio  # loaded already, by whoever runs the loop

    return asyncio.get_running_loop()


def _flying(asked: Asked, flight: Flight, began: float) -> Flow:
    """Lead an execution: its entry, if there is one, and whether it was computed here."""
    asked.flight = flight
    loop = None if asked.blocks else _running_loop()
    flight.lease = lease = EntryLease(asked.storage, asked.place, asked.key, loop)
    try:
        entry = yield from _claimed(asked, lease, began)
        if entry is not None:
            return entry, False
        given, entry = yield from _led(asked, lease)
    except GeneratorExit:
        lease.forget()  # nobody performs effects any more; its lease ends by itself
        raise
    except BaseException:
        yield Store(functools.partial(_let_go, asked, lease))
        raise
    asked.value = given.value
    return entry, True


def _let_go(asked: Asked, lease: EntryLease) -> None:
    try:
        lease.release()
    except StorageError as error:
        warn(f"Others will wait for step {asked.name!r} until its lease ends: {error}")


def _waited(asked: Asked, flight: Flight, around: list[Flight], began: float) -> Flow:
    """Wait for another thread or task of this process; None when it came to nothing."""
    try:
        while not flight.landed.done() and not flight.is_stalled:
            yield Wait(flight.landed, min(LOOK_EVERY, _time_left(asked, began)))
    finally:
        flights.leave(flight, around)
    return flight.landed.result() if flight.landed.done() else None


def _time_left(asked: Asked, began: float) -> float:
    """Seconds for which the step may still wait for somebody else.

    Raises:
        StepBusy: it has waited for long enough.
    """
    timeout = asked.cache.wait_timeout if asked.cache is not None else None
    if timeout is None:
        return LOOK_EVERY
    waited = clock.monotonic() - began
    if waited >= timeout:
        raise StepBusy(step=asked.name, seconds=waited)
    return timeout - waited


def _claimed(asked: Asked, lease: EntryLease, began: float) -> Flow:
    """Get the lease of the entry; or, from another process, the entry itself."""
    pause = FIRST_PAUSE
    while True:
        try:
            if (yield Store(functools.partial(lease.ask, None if asked.is_damaged else asked.since))):
                return None
        except StorageError as error:
            warn(f"Step {asked.name!r} is computed, and others may compute it as well: {error}")
            return None
        entry = yield Store(functools.partial(_find, asked))
        if entry is not None and _is_new(asked, entry):
            if not asked.passes_over:
                return entry
            # Whoever computes the next one claims it from now on, and so begins after that was asked for.
            asked.passes_over, asked.since = False, entry.created_at
            continue
        yield Pause(min(pause, _time_left(asked, began)))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _led(asked: Asked, lease: EntryLease) -> Flow:
    """Compute it and store what came of it."""
    given, frame, is_known = yield from _alone(asked, lease)
    entry = None
    is_stored = False
    if is_known and asked.step.keeps(given.value):
        entry = Entry(
            place=asked.place,
            key=asked.key,
            scope=asked.scope,
            is_shared=asked.cache is not None and asked.cache.shared,
            workflow=asked.workflow.name,
            step=asked.name,
            parts=asked.parts(),
            seconds=asked.seconds,
            usage=asked.meter.usage,
            result=encoded(asked, given),
            run_id=asked.run.run_id if asked.run is not None else "",
        )
        is_stored = yield Store(functools.partial(_stored, asked, lease, entry))
    else:
        yield Store(functools.partial(_let_go, asked, lease))
    _note_computed(asked, frame)
    asked.tell(RunEvent.step_completed, cached=False, seconds=asked.seconds, stored=is_stored)
    return given, entry if is_stored else None


def _stored(asked: Asked, lease: EntryLease, entry: Entry) -> bool:
    assert asked.cache is not None
    try:
        if not lease.is_held:
            lease.forget()
            return False
        return lease.store(entry, asked.cache.seconds)
    except StorageError as error:
        lease.forget()
        warn(f"The result of step {asked.name!r} is not kept for other runs: {error}")
        return False


def _only_computed(asked: Asked) -> Flow:
    """Compute it without looking for what others have, and without keeping it for them."""
    given, frame, _ = yield from _alone(asked, None)
    _note_computed(asked, frame)
    asked.tell(RunEvent.step_completed, cached=False, seconds=asked.seconds, stored=False)
    asked.value = given.value
    return given.value


def _note_computed(asked: Asked, frame: Frame) -> None:
    run = asked.run
    if run is not None and not run.steps.is_noted_whole():
        used = asked.meter.usage
        run.steps.note(asked.record_of(frame.number, 0, frame, is_hit=False, seconds=asked.seconds, usage=used))


def _alone(asked: Asked, lease: EntryLease | None) -> Flow:
    """Compute it without the session state."""
    run = asked.run
    asked.tell(RunEvent.step_started)
    number, occurrence = run.steps.begin_wider(key_here(asked.key)) if run is not None else (0, 0)
    frame = asked.frame(number, occurrence, may_use_state=False)
    frame.flight = asked.flight
    if run is None:
        return (yield from computed(asked, frame, lease)), frame, True
    given, is_known = yield from _in_turns(asked, frame, functools.partial(_is_known, asked, frame), lease)
    return given, frame, is_known
