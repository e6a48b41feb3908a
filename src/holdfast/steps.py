"""Steps: what a workflow pays for once, in a run, in a session, or wherever else it is asked for.

Rules that must stay true:
- a decorated function is called as before, returns what it returned, yields what it yielded, and is awaited if it was;
- what identifies a result is known before anything is spent, or an error says what has no identity;
- outside of a run a step of the run's own scope is a plain call: there is nothing to record it with.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

from holdfast import frames, step_flow
from holdfast.agent import Agent
from holdfast.arguments import Parameters
from holdfast.caching import Cache, Scope, cache_of
from holdfast.canonical import digest
from holdfast.declared import Types, hints_of
from holdfast.drivers import Flow, Kind, aperform, astream, begin, stream
from holdfast.errors import InvalidInput
from holdfast.frames import Question
from holdfast.messages import messages_from
from holdfast.parallel import all_at_once
from holdfast.records import Place
from holdfast.response import RunEvent, RunResponse
from holdfast.running import ActiveRun, current
from holdfast.step_flow import Asked
from holdfast.step_keys import key_of, parts_for_others, variables_of

if TYPE_CHECKING:
    from holdfast.session import Session
    from holdfast.step_keys import Known

__all__ = ["Step", "Stepping", "step"]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")

MOST_AT_ONCE: Final = 8
"""How many steps `parallel` runs at the same time."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is said of a step beside its function."""

    name: str
    cache: Cache | None = None
    version: str | int | None = None
    key: Callable[..., Any] | None = None
    ignore: frozenset[str] = frozenset()
    uses: tuple[Any, ...] = ()
    depends: Callable[[Any], Any] | None = None
    store_if: Callable[[Any], Any] | None = None
    retries: int = 0
    timeout: float | None = None


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
        name: the name of the step; the function's when absent.
        cache: a `Cache`, or the name of a scope such as `"session"`, to keep the result for later runs.
        version: with a `cache`: stands for the code, which is not looked at then.
        key: called with the arguments (without `self`); what it returns stands for them.
        ignore: names of parameters that do not change the result, and of attributes of `self` that a step with a
            `cache` reads although they are not in its key.
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
            name=name or str(getattr(function, "__name__", type(function).__name__)),
            cache=cache_of(cache),
            version=version,
            key=key,
            ignore=frozenset([ignore] if isinstance(ignore, str) else ignore),
            uses=tuple(uses),
            depends=depends,
            store_if=store_if,
            retries=retries,
            timeout=timeout,
        )
        return Step(function, options).wrapper()

    return decorate if function is None else decorate(function)


class Step:
    """A function that is a step, and what was said of it.

    Raises:
        InvalidInput: options that cannot be used or do not fit together.
    """

    def __init__(self, function: Callable[..., Any], options: Options, *, is_inline: bool = False) -> None:
        self.function = function
        self.is_inline = is_inline
        """Whether it was made where it is called, so that what it takes from the code around it differs by call."""
        self.options = options
        self.agent = _agent_of(function)
        self.kind: Kind | None = kind_of_function(function)
        """How it gives what it gives; None where only a call tells."""
        self.is_stream = self.kind in ("stream", "astream")
        self._check()
        self._parameters: dict[int, Parameters] = {}
        self.known: dict[type | None, Known] = {}
        """What was found out about its code, by the class of the workflow if it is a method."""
        self.types: WeakKeyDictionary[type, Types] = WeakKeyDictionary()
        """What its result may be made of, by the class of the workflow."""

    def _check(self) -> None:
        options = self.options
        if isinstance(options.retries, bool) or not isinstance(options.retries, int) or options.retries < 0:
            raise InvalidInput("retries must be a number from 0.")
        if options.timeout is not None:
            if not isinstance(options.timeout, int | float) or not options.timeout > 0:
                raise InvalidInput("timeout must be a number of seconds above 0.")
            if self.kind != "awaited" and self.agent is None:
                raise InvalidInput(
                    f"Step {options.name!r} cannot have a timeout: a function that runs cannot be stopped, only a "
                    "coroutine function or the run of an agent. Give the timeout to what it calls, or make it async."
                )
        if options.cache is None and (options.version is not None or options.uses or options.depends is not None):
            raise InvalidInput(
                f"Step {options.name!r} is kept for its run only, where its code does not count: version, uses and "
                "depends need a cache=."
            )

    def wrapper(self) -> Callable[..., Any]:
        """What takes the place of the function."""
        call: Callable[..., Any]
        if self.kind == "awaited":

            @functools.wraps(self.function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                return await self.called(args, kwargs)

        elif self.kind == "astream":

            @functools.wraps(self.function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                responses = self.called(args, kwargs)
                try:
                    async for response in responses:
                        yield response
                finally:
                    await responses.aclose()

        elif self.kind == "stream":

            @functools.wraps(self.function)
            def call(*args: Any, **kwargs: Any) -> Any:
                return (yield from self.called(args, kwargs))

        else:

            @functools.wraps(self.function)
            def call(*args: Any, **kwargs: Any) -> Any:
                return self.called(args, kwargs)

        call.__holdfast_step__ = self  # type: ignore[attr-defined]
        return call

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any], workflow: Stepping | None = None) -> Any:
        """Call it as a step, if there is a run to record it with or a cache to keep it in."""
        is_method = workflow is None and bool(args) and isinstance(args[0], Stepping)
        if is_method:
            workflow = args[0]
        run = _run_of(workflow)
        if workflow is None and run is not None:
            workflow = run.workflow()
        if workflow is None or (run is None and self.options.cache is None):
            return self._plainly(args, kwargs)
        asked = self.asked(workflow, run, args, kwargs, is_method=is_method)
        return _driven(asked, self.kind)

    def _plainly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.options.timeout is None:
            return self.function(*args, **kwargs)
        return self._timely(args, kwargs)()

    def asked(
        self,
        workflow: Stepping,
        run: ActiveRun | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_method: bool,
    ) -> Asked:
        """One call, with everything that identifies it.

        Raises:
            StepKeyError: something in it has no identity.
            TypeError: the arguments do not fit.
        """
        options = self.options
        cache = options.cache
        parts = self._argument_parts(args, kwargs, is_method=is_method)
        session: Session = workflow._session
        place = Place("")
        scope = "run"
        if cache is None:
            if self.is_inline:
                parts |= variables_of(self)
            key = key_of((scope, options.name), parts)
        else:
            scope = cache.scope
            parts |= parts_for_others(self, workflow, is_method=is_method)
            owner = "" if cache.shared else session.owner
            place = Place(owner, session.session_id if scope == "session" else "")
            whose = self.identity if scope == "global" else workflow.name
            shared = "shared" if cache.shared else ""
            key = key_of((scope, shared, owner, place.session_id, whose, options.name), parts)
        return Asked(
            self,
            workflow,
            run,
            args,
            kwargs,
            scope,
            key,
            parts,
            place,
            session,
            self.types_in(workflow),
            is_plain=self.kind is None,
            streams=self.is_stream,
        )

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """What computes it."""
        return self._timely(args, kwargs) if self.options.timeout else functools.partial(self.function, *args, **kwargs)

    def types_in(self, workflow: Stepping) -> Types:
        """What its result may be made of: what the workflow declares, and what the function's annotations name."""
        types = self.types.get(type(workflow))
        if types is None:
            hints = list(hints_of(self.function))
            if self.agent is not None:
                hints.append(self.agent.output_type)
            declared = workflow._types
            types = declared if not Types(hints).classes else Types([*declared.classes, *hints])
            self.types[type(workflow)] = types
        return types

    @property
    def identity(self) -> str:
        """The name of the function, with that of the class or function that it stands in."""
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)

    def _argument_parts(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_method: bool) -> dict[str, bytes]:
        name, key, ignore = self.options.name, self.options.key, self.options.ignore
        if key is not None:
            told = key(*(args[1:] if is_method else args), **kwargs)
            return {"key": digest(told, "what key= returned", name)}
        skipped = int(is_method)
        parameters = self._parameters.get(skipped)
        if parameters is None:
            parameters = self._parameters[skipped] = Parameters(self.function, skipped=skipped)
        given = parameters.given(args[skipped:], kwargs)
        if self.agent is not None and given.get("history") is not None:
            given["history"] = messages_from(given["history"])  # of a response only the content would count
        parts = {}
        for parameter, value in given.items():
            if parameter not in ignore:
                label = "argument " + parameter
                parts[label] = digest(value, label, name)
        return parts

    def _timely(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        function, timeout = self.function, self.options.timeout
        if self.agent is not None and self.kind is None:
            assert timeout is not None
            return functools.partial(self.agent.run_within, timeout, *args, **kwargs)

        async def timely() -> Any:
            async with asyncio.timeout(timeout):
                return await function(*args, **kwargs)

        return timely


def kind_of_function(function: Callable[..., Any]) -> Kind | None:
    """How a function gives what it gives; None where only a call tells.

    >>> async def fetch(): ...
    >>> kind_of_function(fetch), kind_of_function(len)
    ('awaited', None)
    """
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isgeneratorfunction(function):
        return "stream"
    if inspect.isasyncgenfunction(function):
        return "astream"
    return "awaited" if inspect.iscoroutinefunction(function) else None


def _agent_of(function: Callable[..., Any]) -> Agent | None:
    """The agent whose `run` or `arun` it is."""
    agent = getattr(function, "__self__", None)
    return agent if isinstance(agent, Agent) and function.__name__ in _ASKS else None


_ASKS: Final = frozenset({"run", "arun", "_run", "_arun"})


def _answered(agent: Agent, question: Question, is_async: bool) -> Any:
    """What the run that the code is in gives for an agent's answer; NotImplemented outside of runs."""
    run = current.get()
    workflow = None if run is None or run.ended else run.workflow()
    if workflow is None or agent.cache is None:
        return NotImplemented
    streams = question.stream or question.stream_events
    kind: Kind = ("astream" if streams else "awaited") if is_async else ("stream" if streams else "value")
    how = {"stream": question.stream, "stream_events": question.stream_events}
    function = agent._arun if is_async else agent._run
    of = Step(function, Options(agent.name or "agent", cache_of(agent.cache), ignore=frozenset(how)))
    given = (question.message,), {"history": question.history, **how}
    asked = of.asked(workflow, run, *given, is_method=False)
    asked.is_plain, asked.streams = False, streams
    if streams and not question.stream_events:
        asked.shows = _is_content
    return _driven(asked, kind)


def _is_content(response: Any) -> bool:
    return not isinstance(response, RunResponse) or response.event is RunEvent.run_response


frames.answering[:] = [_answered]


def _run_of(workflow: Stepping | None) -> ActiveRun | None:
    """The run that the code is in, if it is one of this workflow."""
    run = current.get()
    if run is None or run.ended:
        return None
    return run if workflow is None or run.session is workflow._session else None


class Stepping:
    """What a workflow does with steps; the base of `Workflow`."""

    if TYPE_CHECKING:
        name: str
        _session: Session
        _types: Types

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function as a step of the run: any callable, also an agent's `run`.

        Args:
            name: the name of the step.
            function: plain, a generator, a coroutine function or an async generator. One that was made a step with
                options, `step(fetch, cache="session")` say, keeps them.
            args, kwargs: its arguments. They identify the step, with the values of variables around a lambda, so that
                each of them must have an identity.

        Returns:
            what the function gives: its value, an iterator, an awaitable or an async iterator.

        Raises:
            StepKeyError: an argument has no identity.
            StepPersistError: the result could not be kept; the error has it.

        >>> from holdfast.workflow import Workflow
        >>> class Searching(Workflow):
        ...     def run(self, topic: str) -> list[str]:
        ...         return self.step("search", sorted, topic)
        >>> Searching().run("cab").content
        ['a', 'b', 'c']
        """
        known: Step | None = getattr(function, "__holdfast_step__", None)
        workflow = getattr(function, "__self__", None)
        is_method = known is not None and isinstance(workflow, Stepping)  # a step of a workflow already
        given = (workflow, *args) if is_method else args
        of = (
            Step(function, Options(name), is_inline=True)
            if known is None
            else Step(known.function, replace(known.options, name=name))
        )
        result: T = of.called(given, kwargs, None if is_method else self)
        return result

    @overload
    def parallel(  # type: ignore[overload-overlap]  # an awaitable is a value as well
        self, *calls: Callable[[], Awaitable[T]], limit: int = MOST_AT_ONCE
    ) -> Awaitable[list[T]]: ...
    @overload
    def parallel(self, *calls: Callable[[], T], limit: int = MOST_AT_ONCE) -> list[T]: ...
    def parallel(self, *calls: Callable[[], Any], limit: int = MOST_AT_ONCE) -> Any:
        """Run several steps at the same time: on threads, or as tasks if they are coroutine functions.

        Steps that run so return values and leave the session state alone. When one fails, those that have begun go on
        to their end and are recorded, no other is begun, and the failure of the first in order is raised.

        Args:
            calls: functions without arguments, such as `functools.partial(self.fetch, url)`; all of them coroutine
                functions, or none.
            limit: how many run at the same time at most.

        Returns:
            their values in order; for coroutine functions an awaitable of that.

        Raises:
            InvalidInput: the calls or the limit cannot be used.

        >>> from functools import partial
        >>> from holdfast.workflow import Workflow
        >>> class Fetching(Workflow):
        ...     @step
        ...     def fetch(self, url: str) -> int:
        ...         return len(url)
        ...     def run(self, *urls: str) -> list[int]:
        ...         return self.parallel(*(partial(self.fetch, url) for url in urls), limit=4)
        >>> Fetching().run("a", "bb").content
        [1, 2]
        """
        return all_at_once(calls, limit)


# -- driving --------------------------------------------------------------------------------------------------------


def _driven(asked: Asked, kind: Kind | None) -> Any:
    """Perform a call of a step in the way in which its function would give its result."""
    if asked.cache is not None and kind not in ("awaited", "astream"):
        entry = step_flow.peek(asked)
        given = None if entry is None else step_flow.decoded(asked, entry.result)
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


async def _awaited(asked: Asked, flow: Flow) -> Any:
    """Await a step. While others wait for what it computes, its own caller may be cancelled without harm to them."""
    if asked.cache is None:
        await aperform(flow)
        return asked.value
    task = asyncio.ensure_future(aperform(flow))
    try:
        await asyncio.shield(task)
    except (asyncio.CancelledError, GeneratorExit) as error:
        if task.done() or task.get_loop().is_closed():
            raise
        _going_on.add(task)
        task.add_done_callback(_ended)
        if asked.flight is None or not asked.flight.waiting:
            task.cancel()
            if isinstance(error, asyncio.CancelledError):
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()  # as if it had been awaited itself, it may have failed, or ended all the same
                    return asked.value
        raise
    return asked.value


_going_on: set[asyncio.Future[Any]] = set()
"""Executions whose caller is gone, which are for others only or about to end."""


def _ended(task: asyncio.Future[Any]) -> None:
    _going_on.discard(task)
    if not task.cancelled():
        task.exception()  # those who waited try themselves, and meet it there
