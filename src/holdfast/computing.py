"""Computing a step: calling its function, handing out what it yields, and telling what it did to the session state.

Rules that must stay true:
- what a step hands out is noted as it is then, for whoever gets it may change it;
- a step that has handed out a piece of a stream, or has changed the session state, is not tried again;
- what the reader of a stream changed in the session state is not taken for what the step did.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from holdfast.asked import Asked, warn
from holdfast.canonical import digest_or_none
from holdfast.effects import (
    Abandoned,
    Advance,
    Call,
    Close,
    Emit,
    Ended,
    Flow,
    Handover,
    Pause,
    Store,
    awaiting,
    kind_of,
)
from holdfast.errors import (
    RunError,
    StateError,
    StepError,
    StepStateError,
    StorageError,
)
from holdfast.flights import EntryLease
from holdfast.frames import Frame, agents_of, is_parallel
from holdfast.recorded import Given
from holdfast.response import RunResponse
from holdfast.retracing import StateChange
from holdfast.running import Output
from holdfast.session import Collected


def computed(asked: Asked, frame: Frame, lease: EntryLease | None = None) -> Flow:
    """Call the step's function until it ends well or has failed as often as it may."""
    turns = asked.turns
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
            if turns is not None and (yield Store(functools.partial(asked.session.changed_since, turns.mark)))[1]:
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
    turns = asked.turns
    result = yield Call(asked.step.bound(asked.args, asked.kwargs), scope)
    kind = kind_of(result)
    if asked.is_plain and kind != "value":
        if turns is not None:
            turns.step_pauses()
        with _suspended(lease):
            yield Emit(Handover(kind))
        if turns is not None:
            turns.step_goes_on()
        if kind == "awaited":
            result = yield awaiting(result, scope)
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
            turns.step_pauses()  # not on a thread: what there is to read was read for the first mark
        try:
            with _suspended(lease):
                advance = Advance(iterator, scope, (yield Emit(item)))
        except (Abandoned, GeneratorExit):
            raise
        except BaseException as thrown:  # noqa: BLE001  # the consumer's, for the user's code to handle
            advance = Advance(iterator, scope, thrown, throws=True)
        if turns is not None:
            turns.step_goes_on()
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


def own_change(asked: Asked, frame: Frame) -> tuple[StateChange | None, bool, Collected]:
    """What the step has changed in the session state, whether that could be told from what its reader has, and what is
    pending.

    Raises:
        StepStateError: it is a change that a record could not repeat, or not tell whose it is.
    """
    change, is_known, collected = _changed(asked)
    if change is not None:
        _require_own(asked, frame)
    return change, is_known, collected


def _changed(asked: Asked) -> tuple[StateChange | None, bool, Collected]:
    turns = asked.turns
    assert turns is not None
    change, collected = asked.session.changes_since(turns.mark)
    if change is None or not turns.have_begun:
        return change, True, collected
    turns.step_has_ended()
    if not turns.by_reader and turns.is_known:
        return change, True, collected
    if not turns.by_step and turns.is_known:
        return None, True, collected
    warn(
        f"The result of step {asked.name!r} is not kept, for the session state was changed while its stream was read, "
        "and nobody can tell what the step did and what its reader. Change the state in one of them, or read the whole "
        "stream first."
    )
    return None, False, collected


def look_at_arguments(asked: Asked) -> None:
    """Warn of an argument that was changed while the step worked, for that is not made again when it is answered."""
    if asked.step.agent is not None or (asked.turns is not None and asked.turns.have_begun):
        return  # an agent changes none, and during a stream its reader may have
    for name in _changed_arguments(asked):
        warn(
            f"Step {asked.name!r} has changed its argument {name!r}. When the run is resumed and the step is answered, "
            "that is not done again: let it return what it collects."
        )


def _changed_arguments(asked: Asked) -> Iterator[str]:
    """The containers among its arguments that are not what they were when it was called."""
    for name, value in asked.arguments().items():
        told = asked.told.get(f"argument {name}") if type(value) in (list, dict, set) else None
        if told is not None and digest_or_none(value) != told:
            yield name


def _require_own(asked: Asked, frame: Frame) -> None:
    # A container that it was given may be a part of the state.
    is_foreign = frame.is_apart and not frame.has_asked and not any(_changed_arguments(asked))
    if asked.cache is None and not is_parallel() and not frame.beside and not is_foreign:
        return
    if frame.beside:
        what = f"worked beside {frame.beside} while the session state was changed, and nobody can tell by whom"
    elif is_foreign:
        what = (
            "worked beside run() while the session state was changed, and has not asked for it: nobody can tell by whom"
        )
    else:
        how = "in self.parallel()" if is_parallel() else f"and is kept in scope {asked.scope!r}"
        what = f"changed the session state, {how}: a recorded result could not repeat that"
    raise StepStateError(
        step=asked.name,
        what=what,
        advice="Let what runs at the same time return values, and change the state in run(), once it has them. The "
        "result of the step was not kept.",
    )
