"""The user's `run()`, run as a run: the one place where plain, streaming and async workflows part.

Rules that must stay true:
- whoever calls it gets what a call of the function would give: a value, an iterator, an awaitable, an async iterator;
- a run goes on, after a crash, with exactly the arguments that were recorded, or not at all; what it might do with
  results that are kept for other runs, it may do then.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, NoReturn, Protocol, TypeGuard
from weakref import ref

from holdfast import codec
from holdfast.arguments import Parameters
from holdfast.caching import CONTROLS, control_in
from holdfast.declared import Types
from holdfast.drivers import astream, begin, stream
from holdfast.effects import Flow, Kind, kind_of_function
from holdfast.errors import HoldfastError, RunNotResumable
from holdfast.records import Run, RunStatus
from holdfast.response import RunEvent, RunResponse
from holdfast.running import ActiveRun, current, flow

OPTIONS: Final = frozenset({"stream_events", *CONTROLS})
"""What every run takes, unless its `run()` has a parameter of that name."""

_INCOMPLETE: Final = (b'{"$hf":["omitted"', b'{"$class":')
"""How an input begins that could not be recorded as it was."""

_ENDED_BADLY: Final = (RunStatus.failed, RunStatus.cancelled, RunStatus.interrupted)


class Runs(Protocol):
    """What a workflow must be able to do for its `run()` to be run."""

    _active: ActiveRun | None
    _types: Types

    def _new_run(self, given: dict[str, Any]) -> ActiveRun: ...
    def _next_attempt(self, record: Run) -> ActiveRun: ...


class RunFunction:
    """A `run()` and its kind."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.parameters = Parameters(function, skipped=1)
        self.kind: Kind | None = kind_of_function(function)
        """How it gives what it gives; None where only a call tells."""

    def called(self, workflow: Runs, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it."""
        if workflow._active is not None and workflow._active.encloses(current.get()):
            return self.function(workflow, *args, **kwargs)
        names = self.parameters.names
        options = {name: kwargs.pop(name) for name in OPTIONS & kwargs.keys() if name not in names}
        given = self.parameters.given(args, kwargs)
        active = workflow._new_run({**given, **chosen(options)})
        active.control = control_in({**given, **options})
        return self._started(workflow, active, args, kwargs, events=bool(options.get("stream_events", False)))

    def resumed(self, workflow: Runs, record: Run, *, events: bool) -> Any:
        """Go on with a run; or give what it came to, if it has completed.

        Raises:
            RunNotResumable: what was recorded of it does not suffice.
        """
        if record.status is RunStatus.completed:
            return self._recorded(_completed(record, workflow._types), events=events)
        args, kwargs, options = self._arguments(record, workflow._types)
        active = workflow._next_attempt(record)
        active.control = control_in({**self.parameters.given(args, kwargs), **options})
        return self._started(workflow, active, args, kwargs, events=events)

    def _started(
        self, workflow: Runs, active: ActiveRun, args: tuple[Any, ...], kwargs: dict[str, Any], *, events: bool
    ) -> Any:
        call = functools.partial(self.function, workflow, *args, **kwargs)
        effects = flow(active, call, events=events, plain=self.kind is None)
        if self.kind is None:
            return _called(active, effects, events)
        if self.kind == "stream":
            return _streamed(active, effects)
        return astream(effects) if self.kind == "astream" or events else _acomplete(active, effects)

    def _recorded(self, response: RunResponse, *, events: bool) -> Any:
        if self.kind == "stream" or (self.kind is None and events):
            return _iter(response)
        if self.kind is None:
            return response
        return _aiter(response) if self.kind == "astream" or events else _avalue(response)

    def _arguments(self, record: Run, types: Types) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """The arguments that a run was given, and what it may do with results that are kept.

        Raises:
            RunNotResumable: they are not recorded as they were, or `run()` takes others now.
        """
        if not _is_whole(record.input):
            raise _not_resumable(record, "an argument of it could not be recorded as it was, so that it is not known")
        try:
            given, options = parted(codec.decode(record.input, types, "input"), self.parameters)
            return *self.parameters.call_with(given), options
        except HoldfastError as error:
            raise _not_resumable(record, f"its recorded arguments cannot be read: {error}") from error
        except TypeError as error:
            raise _not_resumable(record, f"run() takes other arguments now: {error}") from error


def chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that say what a run may do with results, unless that is what it may do anyway.

    >>> chosen({"stream_events": True, "use_cache": True, "refresh": True})
    {'refresh': True}
    """
    anyway = {"use_cache": True, "refresh": False, "only_if_cached": False}
    return {name: options[name] for name in CONTROLS if name in options and options[name] is not anyway[name]}


def parted(recorded: Mapping[str, Any], parameters: Parameters) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is recorded as the input of a run: its arguments, and the options beside them that `chosen` gave."""
    options = {name: recorded[name] for name in CONTROLS if name in recorded and name not in parameters.names}
    return {name: value for name, value in recorded.items() if name not in options}, options


def may_be_resumed(record: Run) -> bool:
    """Whether a run did not end well and its arguments are recorded; all else is known only when it is tried.

    >>> from holdfast.testing import make_run
    >>> may_be_resumed(make_run(status=RunStatus.failed, input=b'{"topic":"tides"}'))
    True
    >>> may_be_resumed(make_run(status=RunStatus.failed, input=b'{"client":{"$hf":["omitted","Client"]}}'))
    False
    """
    return record.status in _ENDED_BADLY and _is_whole(record.input)


def _is_whole(given: bytes | None) -> TypeGuard[bytes]:
    return given is not None and not any(mark in given for mark in _INCOMPLETE)


def _completed(record: Run, types: Types) -> RunResponse:
    """What a completed run came to.

    Raises:
        RunNotResumable: it was not recorded as it was.
    """
    if record.output is not None and any(mark in record.output for mark in _INCOMPLETE):
        raise _not_resumable(record, "it has completed, and a part of its result could not be recorded as it was")
    return RunResponse(
        content=None if record.output is None else codec.decode(record.output, types, "output"),
        event=RunEvent.workflow_completed,
        run_id=record.run_id,
        session_id=record.session_id,
        workflow_id=record.workflow_id,
        user_id=record.owner or None,
        usage=record.usage,
        cached=True,
    )


def _not_resumable(record: Run, reason: str) -> RunNotResumable:
    return RunNotResumable(run_id=record.run_id, session_id=record.session_id, reason=reason)


def _iter(response: RunResponse) -> Iterator[RunResponse]:
    yield response


async def _aiter(response: RunResponse) -> AsyncIterator[RunResponse]:
    yield response


async def _avalue(response: RunResponse) -> RunResponse:
    return response


def _streamed(active: ActiveRun, steps: Flow) -> Any:
    responses = stream(steps)
    active.generator = ref(responses)
    return responses


def _called(active: ActiveRun, steps: Flow, events: bool) -> Any:
    """Run a plain function. When it returned an iterator or an awaitable, the run goes on in that."""
    try:
        emitted, handover, _ = begin(steps)
    except RuntimeError as error:
        _raise_as_raised(error)
    if handover is None:
        return iter(emitted) if events else active.result
    if handover.kind == "stream":
        return _chained(emitted, _streamed(active, steps)) if events else _streamed(active, steps)
    if handover.kind == "astream" or events:
        return _achained(emitted, astream(steps)) if events else astream(steps)
    return _acomplete(active, steps)


def _chained(emitted: list[RunResponse], rest: Iterator[RunResponse]) -> Iterator[RunResponse]:
    yield from emitted
    yield from rest


async def _achained(emitted: list[RunResponse], rest: AsyncIterator[RunResponse]) -> AsyncIterator[RunResponse]:
    for response in emitted:
        yield response
    async for response in rest:
        yield response


async def _acomplete(active: ActiveRun, steps: Flow) -> Any:
    try:
        async for _ in astream(steps):
            pass
    except RuntimeError as error:
        _raise_as_raised(error)
    return active.result


def _raise_as_raised(error: RuntimeError) -> NoReturn:
    """Raise the user's StopIteration or StopAsyncIteration, which no generator lets through as it is (PEP 479)."""
    if isinstance(error.__cause__, StopIteration | StopAsyncIteration):
        raise error.__cause__ from None
    raise error
