"""What happens when a step is asked for, as effects for a driver to perform (see `drivers.py`).

Rules that must stay true:
- a step of the run's own scope is recorded, with what it changed in the session state, in one commit, before its value
  is handed on; what was paid for is never dropped because it could not be kept;
- of a step of wider scope nothing but its value counts: it neither reads nor changes the session state;
- only what ended well is kept: not a failure, nor a stream that was not read to its end;
- when the step cache fails, the step is computed, and a warning says so; when the run's record fails, that is raised.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast import clock, recorded
from holdfast.caching import ALL, Cache, allowed
from holdfast.declared import Types
from holdfast.drivers import Abandoned, Advance, Call, Close, Emit, Ended, Flow, Handover, Pause, Store, Wait, kind_of
from holdfast.errors import (
    CacheMiss,
    CorruptData,
    InvalidInput,
    OutcomeUnknown,
    RunError,
    StateError,
    StepBusy,
    StepError,
    StepPersistError,
    StepStateError,
    StorageBusy,
    StorageError,
    StorageUnavailable,
    UnstorableValue,
)
from holdfast.flights import EntryLease, Flight, flights
from holdfast.frames import Frame, agents_of, current_frame, is_parallel
from holdfast.metering import Meter, metering
from holdfast.recorded import Given
from holdfast.records import Entry, Place, StepRecord
from holdfast.response import RunEvent, RunResponse
from holdfast.retracing import Misplaced, StateChange
from holdfast.run_steps import StepWarning
from holdfast.running import ActiveRun, Output
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument
from holdfast.turns import Turns

if TYPE_CHECKING:
    from holdfast.declared_steps import Step
    from holdfast.session import Session
    from holdfast.step_owner import StepOwner

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25
"""Seconds between two looks for what another process computes: at first, and at most."""

LOOK_EVERY = 1.0
"""Seconds after which somebody who waits for another thread looks whether that still makes sense."""

MOST_TOLD = 5
"""Values that cannot be stored which an error names."""

KEEP_TRIES = 3
KEEP_PAUSE = 0.5
"""How often the record of what was paid for is written, and seconds between two tries."""


@dataclass(slots=True)
class Asked:
    """One call of a step. Every hit makes one as well: what only computing needs is made when that begins."""

    step: Step
    workflow: StepOwner
    run: ActiveRun | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    scope: str
    key: bytes
    told: dict[str, bytes]
    """What the key is made of."""
    place: Place
    session: Session
    types: Types
    """What its result may be made of."""
    is_plain: bool
    """Whether only a call tells whether the function streams, or is to be awaited."""
    streams: bool
    """Whether the caller wants what it yields."""
    shows: Callable[[Any], bool] | None = None
    """Which of the recorded pieces its caller wants; None for all."""
    began: float = field(default_factory=clock.now)
    seconds: float = 0.0
    flight: Flight | None = None
    """The execution that this call leads."""
    found: tuple[Entry, Given] | None = None
    """What answers it, if that was found already."""
    has_looked: bool = False
    """Whether it was found just now that nothing answers it."""
    is_down: bool = False
    """Whether the cache failed, so that it is left alone."""
    is_damaged: bool = False
    """Whether what is kept of it cannot be read, and is to be replaced."""
    since: float = 0.0
    """When the newest entry was stored that is not to be used: only a later one answers it. As the storage tells the
    time; this machine's clock may go ahead of that or behind."""
    blocks: bool = True
    """Whether its thread does nothing else while it waits."""
    value: Any = None
    """What came of it."""
    turns: Turns | None = None
    """Who changes the session state while it streams."""
    _meter: Meter | None = None

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.step.options.name

    @property
    def cache(self) -> Cache | None:
        """Where its result is kept for others; None for the scope of the run."""
        return self.step.options.cache

    @property
    def storage(self) -> Storage:
        """That of the workflow."""
        return self.session.storage

    @property
    def meter(self) -> Meter:
        """What computing it has used."""
        if self._meter is None:
            self._meter = Meter()
        return self._meter

    def parts(self) -> bytes:
        """What the key is made of, as it is recorded."""
        return parts_of(self.told)

    @contextmanager
    def scoped(self, frame: Frame) -> Iterator[None]:
        """Around every stretch of the step's code."""
        if self.flight is not None:
            self.flight.thread = threading.get_ident()
        started = time.perf_counter()
        try:
            with frame.entered(), metering(self.meter):
                yield
        finally:
            self.seconds += time.perf_counter() - started

    def tell(self, event: RunEvent, **facts: Any) -> None:
        """Tell who watches the run what happens to the step."""
        if self.run is not None and self.run.tells:
            self.run.told.append(RunResponse(event=event, data={"step": self.name, "scope": self.scope, **facts}))

    def record(self, number: int, occurrence: int, frame: Frame | None, **more: Any) -> StepRecord:
        """The record of the step in its run."""
        return self.record_of(number, occurrence, frame, **more)()

    def record_of(self, number: int, occurrence: int, frame: Frame | None, **more: Any) -> Callable[[], StepRecord]:
        """As `record`, to be made later: it holds no argument of the step."""
        outer = frame.outer if frame is not None else current_frame()
        within = outer.number if outer is not None else 0
        facts = {"name": self.name, "scope": self.scope, "key": self.key, "started_at": self.began, **more}
        return functools.partial(_record, self.told, number=number, occurrence=occurrence, within=within, **facts)


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
    number, occurrence, record = run.steps.begin(asked.key)
    if record is not None:
        given = decoded(asked, record.result)
        if given is not None:
            if record.patch is not None:
                yield Store(functools.partial(_repeat, asked, StateChange.from_bytes(record.patch)))
            run.steps.save(record.seconds, record.usage)
            asked.tell(RunEvent.step_completed, cached=True)
            return (yield from _replayed(asked, given))
        number = run.steps.next_number()
    asked.tell(RunEvent.step_started)
    beside_others = is_parallel()
    frame = Frame(asked.name, number, asked.key, may_use_state=not beside_others)
    mark = yield Store(session.mark)
    asked.turns = Turns(session, mark)
    given = yield from _computed(asked, frame)
    change, is_known, collected = yield from _changed(asked, mark)
    if change is not None and beside_others:
        raise _changed_state(asked)
    if is_known and (asked.step.options.store_if is None or asked.step.options.store_if(given.value)):
        record = asked.record(
            number,
            occurrence,
            frame,
            is_hit=False,
            seconds=asked.seconds,
            usage=asked.meter.usage,
            patch=None if change is None else change.to_bytes(),
            result=_encoded(asked, given),
        )
        yield from _kept(asked, given, functools.partial(run.save_step, record, collected))
    asked.tell(RunEvent.step_completed, cached=False, seconds=asked.seconds)
    asked.value = given.value
    return given.value


def _changed(asked: Asked, mark: StoredDocument) -> Flow:
    """What the step has changed in the session state, whether that could be told from what its reader has, and what is
    pending."""
    assert asked.run is not None
    assert asked.turns is not None
    turns = asked.turns
    change, collected = yield Store(functools.partial(asked.run.session.changes_since, mark))
    if change is None or not turns.have_begun:
        return change, True, collected
    yield Store(turns.step_has_had_its_turn)
    if not turns.by_reader and turns.is_known:
        return change, True, collected
    if not turns.by_step and turns.is_known:
        return None, True, collected
    _warn(
        f"The result of step {asked.name!r} is not kept, for the session state was changed while its stream was read, "
        "and nobody can tell what the step did and what its reader. Change the state in one of them, or read the whole "
        "stream first."
    )
    return None, False, collected


def _repeat(asked: Asked, change: StateChange) -> None:
    assert asked.run is not None
    try:
        asked.run.session.repeat(change)
    except Misplaced as misplaced:
        raise StepStateError(
            step=asked.name,
            what=f"changed places inside of a list at {misplaced} of the session state, and that list is another now",
            advice="Nobody can tell where its changes belong: run the workflow anew; or let the step return a value, "
            "and change the state in run().",
        ) from None


def _kept(asked: Asked, given: Given, save: Callable[[], None]) -> Flow:
    """Commit the record of a step, trying again while the storage cannot be reached."""
    for tried in range(1, KEEP_TRIES + 1):
        try:
            yield Store(save)
        except (StorageBusy, StorageUnavailable, OutcomeUnknown) as error:
            if tried == KEEP_TRIES:
                raise StepPersistError(step=asked.name, reason=str(error), result=given.value) from error
            yield Pause(KEEP_PAUSE * tried)
        except StorageError as error:
            raise StepPersistError(step=asked.name, reason=str(error), result=given.value) from error
        else:
            assert asked.run is not None
            asked.run.steps.has_results = True
            return


# -- a step of wider scope --------------------------------------------------------------------------------------


def for_others(asked: Asked) -> Flow:
    """A step whose result is kept for other runs to find."""
    if asked.found is not None:
        return (yield from _hit(asked, *asked.found))
    control = allowed()
    if asked.is_down or not (control.reads or control.writes):
        return (yield from _only_computed(asked))
    entry = None if asked.has_looked else (yield Store(functools.partial(_find, asked)))
    if entry is not None:
        if control.reads and (given := decoded(asked, entry.result)) is not None:
            return (yield from _hit(asked, entry, given))
        asked.since = entry.created_at
    if not control.computes:
        raise CacheMiss(step=asked.name)
    if asked.is_down or not control.writes:
        return (yield from _only_computed(asked))
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
        _warn(f"Step {asked.name!r} is computed, for what is kept of it could not be read: {error}")
        return None
    if entry is None or is_good(asked, entry):
        return entry
    asked.since = max(asked.since, entry.created_at)
    return None


def is_good(asked: Asked, entry: Entry) -> bool:
    """Whether an entry has not expired, or had not when the run that asks began."""
    if entry.result is None:
        return False
    if entry.expires_at is None:
        return True
    now = clock.now()
    if asked.run is not None and asked.run.is_resumed:
        now = min(now, asked.run.first_started_at)
    return entry.expires_at > now


def hit(asked: Asked, entry: Entry, given: Given) -> None:
    """Note that a step was answered."""
    run = asked.run
    if run is not None:
        run.steps.found(asked.session.storage, entry)
        if not run.steps.is_noted_whole():
            run.steps.note(
                asked.record_of(run.steps.next_number(), 0, None, is_hit=True, seconds=entry.seconds, usage=entry.usage)
            )
        if run.tells:
            asked.tell(RunEvent.step_completed, cached=True)
    if given.agents or asked.step.agent is not None:
        restore_agents(asked, given)


def _hit(asked: Asked, entry: Entry, given: Given) -> Flow:
    hit(asked, entry, given)
    return (yield from _replayed(asked, given))


def _flown(asked: Asked) -> Flow:
    """Compute it, or wait for whoever does."""
    _require_another(asked)
    which = (asked.place, asked.key)
    began = clock.monotonic()
    while True:
        entry: Entry | None = None
        # Made here, so that whatever interrupts the joining, nobody waits for a flight without a leader.
        own = Flight()
        try:
            flight = flights.join(asked.storage, which, own)
            if flight is own:
                entry, is_computed = yield from _flying(asked, own, began)
        finally:
            flights.land(asked.storage, which, own, entry)
        if flight is own:
            if is_computed:
                return asked.value
            assert entry is not None
            given = decoded(asked, entry.result)
            return (yield from _only_computed(asked) if given is None else _hit(asked, entry, given))
        if asked.blocks and flight.thread == threading.get_ident():
            flights.leave(flight)  # it was left half-way on this thread, and cannot go on before this call returns
            return (yield from _only_computed(asked))
        entry = yield from _waited(asked, flight, began)
        if entry is not None and _is_new(asked, entry) and (given := decoded(asked, entry.result)) is not None:
            return (yield from _hit(asked, entry, given))


def _require_another(asked: Asked) -> None:
    """Refuse a step that waits for itself, be it through another storage object on the same database."""
    frame = current_frame()
    if frame is not None and frame.is_inside(asked.key):
        raise StepStateError(
            step=asked.name,
            what="calls itself with the same arguments, for whose result it would wait for ever",
            advice="Call the function underneath, or something smaller.",
        )


def _is_new(asked: Asked, entry: Entry) -> bool:
    """Whether an entry may answer, by its age; one that was computed just now has no time yet."""
    return not entry.created_at or entry.created_at > asked.since


def _flying(asked: Asked, flight: Flight, began: float) -> Flow:
    """Lead an execution: its entry, if there is one, and whether it was computed here."""
    loop = None if asked.blocks else asyncio.get_running_loop()
    asked.flight = flight
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
        _warn(f"Others will wait for step {asked.name!r} until its lease ends: {error}")


def _waited(asked: Asked, flight: Flight, began: float) -> Flow:
    """Wait for another thread or task of this process; None when it came to nothing."""
    try:
        while not flight.landed.done() and not flight.is_stalled:
            yield Wait(flight.landed, min(LOOK_EVERY, _time_left(asked, began)))
    finally:
        flights.leave(flight)
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
            _warn(f"Step {asked.name!r} is computed, and others may compute it as well: {error}")
            return None
        entry = yield Store(functools.partial(_find, asked))
        if entry is not None and _is_new(asked, entry):
            return entry
        yield Pause(min(pause, _time_left(asked, began)))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _led(asked: Asked, lease: EntryLease) -> Flow:
    """Compute it and store what came of it."""
    given, frame, is_known = yield from _alone(asked, lease)
    entry = None
    is_stored = False
    if is_known and (asked.step.options.store_if is None or asked.step.options.store_if(given.value)):
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
            result=_encoded(asked, given),
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
        _warn(f"The result of step {asked.name!r} is not kept for other runs: {error}")
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
        run.steps.note(
            asked.record_of(frame.number, 0, frame, is_hit=False, seconds=asked.seconds, usage=asked.meter.usage)
        )


def _alone(asked: Asked, lease: EntryLease | None) -> Flow:
    """Compute it without the session state."""
    run = asked.run
    asked.tell(RunEvent.step_started)
    frame = Frame(asked.name, run.steps.next_number() if run is not None else 0, asked.key, may_use_state=False)
    if run is None:
        return (yield from _computed(asked, frame, lease)), frame, True
    mark = yield Store(run.session.mark)
    asked.turns = Turns(run.session, mark)
    given = yield from _computed(asked, frame, lease)
    change, is_known, _ = yield from _changed(asked, mark)
    if change is not None:
        raise _changed_state(asked)
    return given, frame, is_known


def _changed_state(asked: Asked) -> StepStateError:
    beside = "beside others" if is_parallel() else f"and is kept in scope {asked.scope!r}"
    return StepStateError(
        step=asked.name,
        what=f"changed the session state, {beside}: a recorded result could not repeat that",
        advice="Let it return a value, and change the state in run(). Its result was not kept.",
    )


# -- computing ----------------------------------------------------------------------------------------------------


def _computed(asked: Asked, frame: Frame, lease: EntryLease | None = None) -> Flow:
    """Call the step's function until it ends well or has failed as often as it may."""
    if not asked.step.options.retries:
        return (yield from _called(asked, frame, lease))
    import tenacity

    pauses: list[float] = []
    tries = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(asked.step.options.retries + 1),
        wait=tenacity.wait_exponential(multiplier=0.5, max=30) + tenacity.wait_random(0, 0.5),
        sleep=pauses.append,
        reraise=True,
    )
    run = asked.run
    mark: Any = None if run is None else (yield Store(run.session.mark))
    for tried in tries:
        if pauses:
            yield Pause(pauses.pop())
        handed_out = _Count()
        try:
            given = yield from _called(asked, frame, lease, handed_out)
        except (StateError, StorageError, StepError, RunError):
            raise  # of the library itself, where another try would only meet the same
        except Exception as error:
            if handed_out.number:
                error.add_note(f"Step {asked.name!r} was not tried again: it had handed out a part of its stream.")
                raise
            if run is not None and (yield Store(functools.partial(run.session.changed_since, mark)))[1]:
                error.add_note(f"Step {asked.name!r} was not tried again: it had changed the session state.")
                raise
            with tried:
                raise
        else:
            return given
    raise AssertionError("the last try returns or raises")  # pragma: no cover


@dataclass(slots=True)
class _Count:
    number: int = 0


def _called(asked: Asked, frame: Frame, lease: EntryLease | None, handed_out: _Count | None = None) -> Flow:
    """Call the step's function once; hand out what it yields."""
    scope = functools.partial(asked.scoped, frame)
    result = yield Call(asked.step.bound(asked.args, asked.kwargs), scope)
    kind = kind_of(result)
    if asked.is_plain and kind != "value":
        with _suspended(lease):
            yield Emit(Handover(kind))
        if kind == "awaited":
            result = yield Call(functools.partial(_itself, result), scope)  # the async driver awaits it
    if kind not in ("stream", "astream"):
        return Given(result, None, _last_responses(asked, frame), kind)
    events: list[Any] = []
    try:
        value = yield from _streamed(asked, result, events, scope, lease, handed_out)
    except GeneratorExit:
        if kind == "stream":
            result.close()
        raise
    except BaseException:
        yield Close(result, scope)
        raise
    if value is None:
        value = asked.step.agent.run_response if asked.step.agent is not None else _whole(events)
    return Given(value, events, _last_responses(asked, frame), kind)


def _itself(awaitable: Any) -> Any:
    return awaitable


def _streamed(
    asked: Asked, iterator: Any, events: list[Any], scope: Any, lease: EntryLease | None, handed_out: _Count | None
) -> Flow:
    turns = asked.turns
    advance = Advance(iterator, scope)
    while not isinstance(item := (yield advance), Ended):
        # As it is now: whoever gets it may change it.
        events.append(item.copied() if isinstance(item, RunResponse) else item)
        if handed_out is not None:
            handed_out.number += 1
        if turns is not None:
            turns.step_has_had_its_turn()  # not on a thread: what there is to read was read for the first mark
        try:
            with _suspended(lease):
                advance = Advance(iterator, scope, (yield Emit(item)))
        except (Abandoned, GeneratorExit):
            raise
        except BaseException as thrown:  # noqa: BLE001  # the consumer's, for the user's code to handle
            advance = Advance(iterator, scope, thrown, throws=True)
        if turns is not None:
            turns.reader_has_had_its_turn()
    return item.value


def _suspended(lease: EntryLease | None) -> AbstractContextManager[None]:
    """Around what is handed out while others may wait for the result."""
    return nullcontext() if lease is None else lease.suspended()


def _whole(events: list[Any]) -> Any:
    """The last response of a stream, with the content of all."""
    if not events:
        return None
    output = Output()
    for event in events:
        output.add(event if isinstance(event, RunResponse) else RunResponse(content=event))
    if not isinstance(events[-1], RunResponse):
        return output.value
    last = events[-1].copied()
    last.content = output.value
    return last


def _last_responses(asked: Asked, frame: Frame) -> dict[str, RunResponse]:
    if asked.workflow is None or not frame.agents:
        return {}
    return {
        name: agent.run_response
        for name, agent in agents_of(asked.workflow, frame.agents).items()
        if agent.run_response is not None
    }


# -- answering ------------------------------------------------------------------------------------------------------


def _replayed(asked: Asked, given: Given) -> Flow:
    """Hand out again what was recorded."""
    restore_agents(asked, given)
    asked.value = given.value
    if asked.is_plain and given.kind != "value":
        yield Emit(Handover(given.kind))
    if asked.streams or (asked.is_plain and given.events is not None):
        events = given.events if given.events is not None else [given.value]
        for event in events if asked.shows is None else filter(asked.shows, events):
            yield Emit(event)
    return given.value


def restore_agents(asked: Asked, given: Given) -> None:
    """Let the workflow's agents that the step ran say what they said then."""
    for name, response in given.agents.items():
        agent = getattr(asked.workflow, name, None)
        if agent is not None:
            agent.run_response = response
    if asked.step.agent is not None and isinstance(given.value, RunResponse):
        asked.step.agent.run_response = given.value


def decoded(asked: Asked, result: bytes | None) -> Given | None:
    """What was recorded; None, with a warning, if it cannot be read any more."""
    if result is None:
        return None
    try:
        return recorded.decode(result, asked.types)
    except (StateError, CorruptData) as error:
        asked.is_damaged = True
        _warn(f"Step {asked.name!r} is computed again, for its recorded result cannot be read: {error}")
        return None


def _encoded(asked: Asked, given: Given) -> bytes:
    try:
        return recorded.encode(given, asked.types)
    except UnstorableValue as error:
        problems = [f"{recorded.path_told(path)}: {reason}" for path, reason in error.problems[:MOST_TOLD]]
        raise StepPersistError(step=asked.name, reason="; ".join(problems), result=given.value) from error
    except InvalidInput as error:  # of messages that are none
        raise StepPersistError(step=asked.name, reason=str(error), result=given.value) from error


def _warn(text: str) -> None:
    warnings.warn(text, StepWarning, stacklevel=2)


def _record(told: dict[str, bytes], **facts: Any) -> StepRecord:
    return StepRecord(parts=parts_of(told), **facts)


def parts_of(parts: dict[str, bytes]) -> bytes:
    """What a key is made of, as it is recorded."""
    return msgspec.json.encode({label: digest.hex()[:32] for label, digest in sorted(parts.items())})
