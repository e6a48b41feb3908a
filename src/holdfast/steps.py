"""Steps: what a workflow pays for once, in a run, in a session, or wherever else it is asked for.

Rules that must stay true:
- a decorated function is called as before, returns what it returned, yields what it yielded, and is awaited if it was;
- what identifies a result is known before anything is spent, or an error says what has no identity;
- outside of a run a step of the run's own scope is a plain call: there is nothing to record it with.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

from holdfast import step_flow
from holdfast.agent import Agent
from holdfast.asked import Asked, decoded
from holdfast.caching import Cache, Scope, cache_of
from holdfast.declared_steps import Options, Step
from holdfast.drivers import astream, begin, stream
from holdfast.effects import Flow, Kind
from holdfast.errors import InvalidInput
from holdfast.frames import Question
from holdfast.records import Place
from holdfast.response import RunEvent, RunResponse
from holdfast.running import ActiveRun, current
from holdfast.step_keys import key_of, parts_for_others, variables_of
from holdfast.step_owner import StepOwner
from holdfast.threads import importing

if TYPE_CHECKING:
    from holdfast.session import Session

__all__ = ["step"]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")

MOST_AT_ONCE: Final = 8
"""How many steps `parallel` runs at the same time."""


@overload
def step(function: F, /) -> F: ...
@overload
def step(
    function: F,
    /,
    *,
    name: str | None = None,
    cache: Cache | Scope | None = None,
    version: str | int | None = None,
    key: Callable[..., Any] | None = None,
    ignore: Iterable[str] = (),
    uses: Iterable[Any] = (),
    depends: Callable[[Any], Any] | None = None,
    store_if: Callable[[Any], Any] | None = None,
    retries: int = 0,
    timeout: float | None = None,
) -> F: ...
@overload
def step(
    *,
    name: str | None = None,
    cache: Cache | Scope | None = None,
    version: str | int | None = None,
    key: Callable[..., Any] | None = None,
    ignore: Iterable[str] = (),
    uses: Iterable[Any] = (),
    depends: Callable[[Any], Any] | None = None,
    store_if: Callable[[Any], Any] | None = None,
    retries: int = 0,
    timeout: float | None = None,
) -> Callable[[F], F]: ...
def step(  # noqa: PLR0913  # each is an option that may be left out
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    cache: Cache | Scope | None = None,
    version: str | int | None = None,
    key: Callable[..., Any] | None = None,
    ignore: Iterable[str] = (),
    uses: Iterable[Any] = (),
    depends: Callable[[Any], Any] | None = None,
    store_if: Callable[[Any], Any] | None = None,
    retries: int = 0,
    timeout: float | None = None,
) -> Any:
    """Make a step of a function or method: what it gives is recorded, and not computed again.

    Without `cache` it is recorded with its run: when that fails or is killed, `resume()` goes on after it. The function
    may be plain, a generator, a coroutine function or an async generator. In a method, `self` is no argument.

    Args:
        name: the name of the step; the function's when absent, of one that is no method with its module's in the run.
        cache: a `Cache`, or the name of a scope such as `"session"`, to keep the result for later runs.
        version: with a `cache`: stands for the code, which is not looked at then.
        key: called with the arguments (without `self`); what it returns stands for them.
        ignore: names of parameters that do not change the result, of variables that a nested function closes over, and
            of attributes of `self` that a step with a `cache` reads although they are not in its key.
        uses: with a `cache`: functions and classes whose code counts as well, beside those that the code names.
        depends: with a `cache`: called with the workflow; what it returns counts as an argument, and its code may
            read any attribute of `self`.
        store_if: called with the result; it is kept if that is true.
        retries: how often it is tried again after an exception, with growing pauses.
        timeout: seconds, for a coroutine function, or `run` of an agent; the step then raises `TimeoutError`.

    Raises:
        InvalidInput: options that cannot be used or do not fit together.

    >>> from holdfast.workflow import Workflow
    >>> class Greeting(Workflow):
    ...     @step(cache="session")
    ...     def greet(self, name: str) -> str:
    ...         print("greeting ...")
    ...         return f"Hello, {name}"
    ...     def run(self, name: str) -> str:
    ...         return self.greet(name)
    >>> greeting = Greeting()
    >>> greeting.run("Ada").content
    greeting ...
    'Hello, Ada'
    >>> greeting.run("Ada").content
    'Hello, Ada'
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function) or isinstance(function, type | staticmethod | classmethod):
            raise InvalidInput(
                f"@step decorates a function or method, not a {type(function).__name__}; put it closest."
            )
        options = Options(
            name=str(getattr(function, "__name__", type(function).__name__)) if name is None else name,
            cache=cache_of(cache),
            version=version,
            key=key,
            ignore=frozenset([ignore] if isinstance(ignore, str) else ignore),
            uses=tuple(uses),
            depends=depends,
            store_if=store_if,
            retries=retries,
            timeout=timeout,
            is_named=name is not None,
        )
        declared = Step(function, options)
        if options.ignore:
            declared.look_for_ignored()
        if declared.takes:
            variables_of(declared)  # which sees them before any call can change them
        return wrapped(declared)

    return decorate if function is None else decorate(function)


def wrapped(declared: Step) -> Callable[..., Any]:
    """What takes the place of the function."""
    call: Callable[..., Any]
    if declared.kind == "awaited":

        @functools.wraps(declared.function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await called(declared, args, kwargs)

    elif declared.kind == "astream":

        @functools.wraps(declared.function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            responses = called(declared, args, kwargs)
            try:
                async for response in responses:
                    yield response
            finally:
                await responses.aclose()

    elif declared.kind == "stream":

        @functools.wraps(declared.function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (yield from called(declared, args, kwargs))

    else:

        @functools.wraps(declared.function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return called(declared, args, kwargs)

    call.__holdfast_step__ = declared  # type: ignore[attr-defined]
    return call


def called(declared: Step, args: tuple[Any, ...], kwargs: dict[str, Any], workflow: StepOwner | None = None) -> Any:
    """Call it as a step, if there is a run to record it with or a cache to keep it in."""
    is_method = workflow is None and bool(args) and isinstance(args[0], StepOwner)
    if is_method:
        workflow = args[0]
    run = _run_of(workflow)
    if workflow is None and run is not None:
        workflow = run.workflow()
    if workflow is None or (run is None and declared.options.cache is None):
        return _plainly(declared, args, kwargs)
    asked = asked_of(declared, workflow, run, args, kwargs, is_method=is_method)
    return _driven(asked, declared.kind)


def _plainly(declared: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if declared.options.timeout is None:
        return declared.function(*args, **kwargs)
    return declared.timely(args, kwargs)()


def asked_of(
    declared: Step,
    workflow: StepOwner,
    run: ActiveRun | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    is_method: bool,
) -> Asked:
    """One call, with everything that identifies it.

    Raises:
        StepKeyError, TypeError: as `identified`.
    """
    scope, place, key, parts = identified(declared, workflow, args, kwargs, is_method=is_method)
    return Asked(
        declared,
        workflow,
        run,
        args,
        kwargs,
        scope,
        key,
        parts,
        place,
        workflow._session,
        declared.types_in(workflow),
        is_plain=declared.kind is None,
        streams=declared.is_stream,
        is_method=is_method,
    )


def identified(
    declared: Step, workflow: StepOwner, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_method: bool
) -> tuple[str, Place, bytes, dict[str, bytes]]:
    """What identifies one call: its scope and place, its key, and what that is made of.

    Raises:
        StepKeyError: something in it has no identity.
        TypeError: the arguments do not fit.
    """
    options = declared.options
    cache = options.cache
    parts = declared.argument_parts(args, kwargs, is_method=is_method)
    session: Session = workflow._session
    place = Place("")
    scope = "run"
    if cache is None:
        if declared.unnamed:
            declared.require_named(dir(args[0]) if args else ())
        if declared.takes:
            parts |= variables_of(declared)
        # Functions of two modules may be called alike. A method may move to another class, and a name that was given,
        # also to an inline step, may be one that was chosen to last.
        is_function = not (is_method or options.is_named or declared.is_inline)
        key = key_of((scope, options.name, declared.identity) if is_function else (scope, options.name), parts)
    else:
        scope = cache.scope
        parts |= parts_for_others(declared, workflow, is_method=is_method)
        owner = "" if cache.shared else session.owner
        place = Place(owner, session.session_id if scope == "session" else "")
        whose = declared.identity if scope == "global" else workflow.name
        shared = "shared" if cache.shared else ""
        key = key_of((scope, shared, owner, place.session_id, whose, options.name), parts)
    return scope, place, key, parts


def answered(agent: Agent, question: Question, is_async: bool) -> Any:
    """What the run that the code is in gives for an agent's answer; NotImplemented outside of runs."""
    run = current.get()
    workflow = None if run is None or run.ended else run.workflow()
    if workflow is None or agent.cache is None:
        return NotImplemented
    streams = question.stream or question.stream_events
    kind: Kind = ("astream" if streams else "awaited") if is_async else ("stream" if streams else "value")
    how = {"stream": question.stream, "stream_events": question.stream_events}
    function = agent._arun if is_async else agent._run
    options = Options(agent.name or "agent", cache_of(agent.cache), ignore=frozenset(how))
    declared = Step(function, options, is_inline=True)
    given = (question.message,), {"history": question.history, **how}
    asked = asked_of(declared, workflow, run, *given, is_method=False)
    asked.is_plain, asked.streams = False, streams
    if streams and not question.stream_events:
        asked.shows = _is_content
    return _driven(asked, kind)


def _is_content(response: Any) -> bool:
    return not isinstance(response, RunResponse) or response.event is RunEvent.run_response


def _run_of(workflow: StepOwner | None) -> ActiveRun | None:
    """The run that the code is in, if it is one of this workflow."""
    run = current.get()
    if run is None or run.ended:
        return None
    return run if workflow is None or run.session is workflow._session else None


def called_inline(workflow: StepOwner, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function as a step of this name; see `Stepping.step`."""
    known: Step | None = getattr(function, "__holdfast_step__", None)
    owner = getattr(function, "__self__", None)
    is_method = known is not None and isinstance(owner, StepOwner)  # a step of a workflow already
    given = (owner, *args) if is_method else args
    options = Options(name) if known is None else replace(known.options, name=name)
    declared = Step(function if known is None else known.function, options, is_inline=not is_method)
    return called(declared, given, kwargs, None if is_method else workflow)


# -- driving --------------------------------------------------------------------------------------------------------


def _driven(asked: Asked, kind: Kind | None) -> Any:
    """Perform a call of a step in the way in which its function would give its result."""
    if asked.cache is not None and kind not in ("awaited", "astream"):
        entry = step_flow.peek(asked)
        given = None if entry is None else decoded(asked, entry.result)
        if entry is not None and given is not None:
            if kind == "value" or (kind is None and given.kind == "value"):
                step_flow.hit(asked, entry, given)
                return given.value
            asked.found = entry, given
    asked.blocks = kind not in ("awaited", "astream")
    flow = step_flow.in_run(asked) if asked.cache is None else step_flow.for_others(asked)
    if kind == "awaited":
        return _awaited(asked, flow)
    if kind == "stream":
        return stream(flow)
    if kind == "astream":
        return astream(flow)
    return _plain(asked, flow)


def _plain(asked: Asked, flow: Flow) -> Any:
    _, handover, value = begin(flow)
    if handover is None:
        return value
    if handover.kind == "stream":
        return stream(flow)
    return astream(flow) if handover.kind == "astream" else _awaited(asked, flow)


def _awaited(asked: Asked, flow: Flow) -> Awaitable[Any]:
    with importing:
        from holdfast.awaited import outcome
    return outcome(asked, flow)
