"""Which step the code is in, and what it may do there.

Rules that must stay true:
- a frame lasts for one computation of one step; what it calls, on other threads too, is inside of it;
- what is called inside of a step is another call than the same outside of it, or in another call of that step;
- a run inside of a step is a run as any other: what the step may not do with its own session, it does not do there
  either, and nothing else is refused;
- what a step may not do is refused when it is done, by whoever is asked for it, with an error that names the step;
- of a step that worked at the same time as other code of its run it is known that it did, and beside what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from holdfast.errors import StepStateError
from holdfast.threads import lock_for_forks

_current: ContextVar[Frame | None] = ContextVar("holdfast_step", default=None)
_is_parallel: ContextVar[bool] = ContextVar("holdfast_parallel", default=False)
_around_run: ContextVar[_AroundRun | None] = ContextVar("holdfast_around_run", default=None)


class Answerer(Protocol):
    """What is known here of an agent."""

    run_response: Any


class _AroundRun:
    """Where the run was called that the code is in."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame | None) -> None:
        self.frame = frame


class Frame:
    """One computation of a step.

    Args:
        step: its name.
        number: its number in the run, 0 outside of runs.
        key: what identifies it.
        occurrence: how many calls with that key came before it where it is called.
        session: that of its workflow.
        may_use_state: whether it may read and change the state of that.
    """

    __slots__ = (
        "agents",
        "beside",
        "call",
        "caller",
        "flight",
        "has_asked",
        "is_apart",
        "key",
        "may_use_state",
        "number",
        "outer",
        "session",
        "step",
    )

    def __init__(
        self, step: str, number: int, key: bytes, *, occurrence: int = 0, session: object, may_use_state: bool
    ) -> None:
        self.step = step
        self.number = number
        self.key = key
        self.call = hashlib.sha256(key_here(key) + occurrence.to_bytes(8)).digest()
        """What tells this call from all others of its run, whatever else the run does."""
        self.session = session
        self.outer: Frame | None = _current.get()
        """The step of the same run that it was called from."""
        self.caller: Frame | None = next(steps_around(), None)
        """The same, or the step that its run was called from."""
        self.may_use_state: bool = may_use_state and (self.outer is None or self.outer.may_use_state)
        self.agents: list[Answerer] = []
        """Agents that it ran, in the order in which they ended."""
        self.beside = ""
        """What else of its run worked at the same time, and may have changed what it seems to have changed."""
        self.has_asked = False
        """Whether its code has asked for a session state, so that it may have changed it."""
        self.is_apart = False
        """Whether `run()` may go on beside it, in another task or thread."""
        self.flight: Any = None
        """The execution that others may wait for, if it is one."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Around every stretch of the step's code."""
        before = _current.get()
        _current.set(self)
        try:
            yield
        finally:
            # Not by a token: whoever closes a coroutine may do it in another context, where nothing is to be undone.
            if _current.get() is self:
                _current.set(before)

    def is_within(self, other: Frame) -> bool:
        """Whether it is that one, or was called from it."""
        frame: Frame | None = self
        while frame is not None and frame is not other:
            frame = frame.caller
        return frame is not None


class AtWork:
    """The steps of one run that may be changing its session state at this moment."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._lock = lock_for_forks()

    def begin(self, frame: Frame) -> None:
        """A step begins, or goes on."""
        with self._lock:
            for other in self._frames:
                if not (frame.is_within(other) or other.is_within(frame)):
                    frame.beside, other.beside = f"step {other.step!r}", f"step {frame.step!r}"
            self._frames.append(frame)

    def pause(self, frame: Frame) -> None:
        """It has ended, or does nothing until the reader of its stream wants more."""
        with self._lock:
            if frame in self._frames:
                self._frames.remove(frame)

    def state_is_used(self, *, is_known: bool) -> None:
        """Code of the run asks for the session state.

        Args:
            is_known: whether its thread knows of the run, and so of the step that it is in.
        """
        if not self._frames:
            return
        around = list(steps_around())
        for each in around:
            each.has_asked = True
        frame = around[0] if around else None
        outside = "run()" if is_known else "a thread without the context of the run"
        with self._lock:
            for other in self._frames:
                if frame is None:
                    other.beside = outside
                elif not frame.is_within(other):
                    other.beside = f"step {frame.step!r}"


def current_frame() -> Frame | None:
    """The step of its run that the code is in; None outside of steps."""
    return _current.get()


def steps_around() -> Iterator[Frame]:
    """The steps that the code is in, from the inside: of its run, then of the runs that this one was called from."""
    frame, around = _current.get(), _around_run.get()
    if frame is None and around is not None:
        frame = around.frame
    while frame is not None:
        yield frame
        frame = frame.caller


@contextmanager
def in_a_run() -> Iterator[None]:
    """Around the code of a run, which is in no step of its own yet and beside none."""
    before, around, was_parallel = _current.get(), _around_run.get(), _is_parallel.get()
    if before is None and not was_parallel:
        yield
        return
    here = _AroundRun(next(steps_around(), None))
    _around_run.set(here)
    _current.set(None)
    _is_parallel.set(False)
    try:
        yield
    finally:
        if _around_run.get() is here:  # else it is closed in another context, where nothing is to be undone
            _around_run.set(around)
            _current.set(before)
            _is_parallel.set(was_parallel)


def key_here(key: bytes) -> bytes:
    """The key of a step as it is counted and recorded where the code is: inside of another step it is that call's own.

    >>> key_here(b"search")
    b'search'
    """
    frame = _current.get()
    return key if frame is None else hashlib.sha256(frame.call + key).digest()


def note_agent(agent: Answerer) -> None:
    """An agent has answered: every step that the code is in ran it."""
    for frame in steps_around():
        frame.agents.append(agent)


class Question(msgspec.Struct, frozen=True):
    """What an agent that is a step is asked."""

    message: Any
    stream: bool
    stream_events: bool
    history: Any


answering: list[Callable[[Any, Question, bool], Any]] = []
"""How runs answer agents that are steps. The module of steps puts itself here: it stands above the agents, and an agent
does without it."""


def ask(agent: Answerer, question: Question, *, is_async: bool = False) -> Any:
    """What the run that the code is in gives for the agent's answer; NotImplemented outside of runs."""
    return answering[0](agent, question, is_async) if answering else NotImplemented


def require_state(what: str, session: object) -> None:
    """Refuse what a step does with the state of a session, if it must not touch that.

    Raises:
        StepStateError: the code is in such a step.
    """
    frame = next((frame for frame in _bound_to(session) if not frame.may_use_state), None)
    if frame is not None:
        if is_parallel():
            raise StepStateError(
                step=frame.step,
                what=f"uses {what} in self.parallel(), where steps run beside each other",
                advice="Give it what it needs as an argument, let it return a value, and change the state in run().",
            )
        raise StepStateError(
            step=frame.step,
            what=f"uses {what}, which neither its key nor its record tells of",
            advice="Give it what it needs as an argument and let it return a value; or, if it is kept beyond its run, "
            "say what it depends on: depends=lambda self: self.session_state[...] with ignore=['session_state'].",
        )


def _bound_to(session: object) -> Iterator[Frame]:
    """The steps that decide whether the code may use a session: the one that it is in, and those of that session that
    its run was called from."""
    inner = _current.get()
    return (frame for frame in steps_around() if frame is inner or frame.session is session)


def require_no_step(what: str, session: object) -> None:
    """Refuse what no step may do with a session.

    Raises:
        StepStateError: the code is in a step.
    """
    frame = next(_bound_to(session), None)
    if frame is not None:
        raise StepStateError(
            step=frame.step,
            what=f"uses {what}, so that its own changes could not be told from those of other runs",
            advice="Do it in run(), outside of the step.",
        )


def is_parallel() -> bool:
    """Whether the code runs beside other steps of the same run."""
    return _is_parallel.get()


@contextmanager
def in_parallel() -> Iterator[None]:
    """Inside, steps run beside others."""
    before = _is_parallel.get()
    _is_parallel.set(True)
    try:
        yield
    finally:
        _is_parallel.set(before)


def agents_of(workflow: Any, ran: list[Answerer]) -> dict[str, Answerer]:
    """Those of a workflow's own agents that were run, by attribute."""
    identities = {id(agent) for agent in ran}
    # A copy, for steps beside this one may use an agent for the first time at this moment.
    return {name: value for name, value in vars(workflow).copy().items() if id(value) in identities}
