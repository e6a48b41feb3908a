"""One call of a step: what identifies it, what is recorded of it, and handing out what was recorded.

Rules that must stay true:
- every hit makes one of these as well, so what only computing needs is made when that begins;
- what is handed out again is what was given, and the agents that the step ran say again what they said then;
- what cannot be read any more is computed again, with a warning; what cannot be kept is with the error.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast import clock, recorded
from holdfast.caching import Cache
from holdfast.declared import Types
from holdfast.effects import Emit, Flow, Handover
from holdfast.errors import (
    CorruptData,
    InvalidInput,
    StateError,
    StepPersistError,
    UnstorableValue,
)
from holdfast.flights import Flight
from holdfast.frames import Frame, current_frame
from holdfast.metering import Meter, metering
from holdfast.recorded import Given
from holdfast.records import Entry, Place, StepRecord
from holdfast.response import RunEvent, RunResponse
from holdfast.run_steps import StepWarning
from holdfast.running import ActiveRun
from holdfast.step_keys import parts_of
from holdfast.storage.base import Storage
from holdfast.turns import Turns

if TYPE_CHECKING:
    from holdfast.declared_steps import Step
    from holdfast.session import Session
    from holdfast.step_owner import StepOwner

MOST_TOLD = 5
"""Values that cannot be stored which an error names."""


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
    is_method: bool
    """Whether its first argument is the workflow."""
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
    refreshed_at: float | None = None
    """When it was asked for that it be computed anew, in monotonic seconds: no execution that had begun before answers
    it. None if any does."""
    passes_over: bool = False
    """Whether the next entry that another process stores is not to be used: who knows when that had begun."""
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

    def arguments(self) -> dict[str, Any]:
        """What it is given, by name, but for what does not count."""
        return self.step.arguments(self.args, self.kwargs, is_method=self.is_method)

    def frame(self, number: int, occurrence: int, *, may_use_state: bool) -> Frame:
        """What tells its code that it is in this step."""
        return Frame(
            self.name, number, self.key, occurrence=occurrence, session=self.session, may_use_state=may_use_state
        )

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


def _record(told: dict[str, bytes], **facts: Any) -> StepRecord:
    return StepRecord(parts=parts_of(told), **facts)


def replayed(asked: Asked, given: Given) -> Flow:
    """Hand out again what was recorded."""
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
        warn(f"Step {asked.name!r} is computed again, for its recorded result cannot be read: {error}")
        return None


def encoded(asked: Asked, given: Given) -> bytes:
    """What is recorded of what a step gave.

    Raises:
        StepPersistError: something in it cannot be stored.
    """
    try:
        return recorded.encode(given, asked.types)
    except UnstorableValue as error:
        problems = [f"{recorded.path_told(path)}: {reason}" for path, reason in error.problems[:MOST_TOLD]]
        raise StepPersistError(step=asked.name, reason="; ".join(problems), result=given.value) from error
    except InvalidInput as error:  # of messages that are none
        raise StepPersistError(step=asked.name, reason=str(error), result=given.value) from error


def warn(text: str) -> None:
    """Tell the user what did not stop a step."""
    warnings.warn(text, StepWarning, stacklevel=2)
