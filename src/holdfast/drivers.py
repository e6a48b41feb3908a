"""Two small drivers that perform what a run's flow asks for: one for plain code, one for coroutines.

Rules that must stay true:
- a flow is a generator of effects and does no I/O; everything about a run's life is decided in the flow, once;
- whatever happens while an effect is performed, a closed iterator and a cancelled task included, is thrown into the
  flow, so that the flow can commit before it passes on;
- the async driver does storage work on a thread and never leaves it half done: a cancellation waits for its outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeAlias

import msgspec

from holdfast.response import RunResponse

Scope: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Entered around every stretch of the user's code, and left before a response is handed out."""


class Call(msgspec.Struct, frozen=True):
    """Call the user's function; the reply is what it returned (the async driver awaits it)."""

    function: Callable[[], Any]
    scope: Scope


def awaiting(awaitable: Any, scope: Scope) -> Call:
    """What a plain function returned is awaited, by the driver that can."""
    return Call(lambda: awaitable, scope)


class Advance(msgspec.Struct, frozen=True):
    """Go on with the user's iterator; the reply is its next item, or `Ended`."""

    iterator: Any
    scope: Scope
    value: Any = None
    """What the consumer sent, or the exception that it threw."""
    throws: bool = False


class Close(msgspec.Struct, frozen=True):
    """Close the user's iterator, so that its `finally` blocks run."""

    iterator: Any
    scope: Scope


class Store(msgspec.Struct, frozen=True):
    """Do work that may block on the storage."""

    work: Callable[[], Any]


class Pause(msgspec.Struct, frozen=True):
    """Let some time pass."""

    seconds: float


class Wait(msgspec.Struct, frozen=True):
    """Wait for a future, which is never cancelled by that, for so many seconds at most."""

    future: Future[Any]
    seconds: float


class Emit(msgspec.Struct, frozen=True):
    """Hand something to whoever iterates over the run."""

    response: Any
    """A response, anything that a step yields, or a `Handover`."""


Kind: TypeAlias = Literal["value", "stream", "astream", "awaited"]
"""How a function gives what it gives: it returns it, yields it, yields it asynchronously, or is awaited."""


def kind_of(result: Any) -> Kind:
    """How a function that returned this gives what it gives.

    >>> kind_of(1), kind_of(number for number in [1])
    ('value', 'stream')
    """
    if inspect.isgenerator(result):
        return "stream"
    if inspect.isasyncgen(result):
        return "astream"
    return "awaited" if inspect.isawaitable(result) else "value"


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


class Handover(msgspec.Struct, frozen=True):
    """A plain function returned something to go on with, which decides how the rest is to be driven."""

    kind: Kind


class Ended(msgspec.Struct, frozen=True):
    """The user's iterator is exhausted; `value` is what its generator returned."""

    value: Any


Effect: TypeAlias = Call | Advance | Close | Store | Pause | Wait | Emit
Flow: TypeAlias = Generator[Effect, Any, Any]


class Abandoned(BaseException):
    """Thrown into a flow whose consumer closes the iterator. A plain GeneratorExit in a flow means that nobody
    performs its effects any more: the garbage collector, or a coroutine that is closed, ended its driver first."""


def begin(flow: Flow) -> tuple[list[RunResponse], Handover | None, Any]:
    """Perform the beginning of a flow in plain code.

    Returns:
        what it emitted; a `Handover` if `stream` or `astream` is to go on with it, None when it has ended; and what
        it returned then.
    """
    emitted: list[RunResponse] = []
    step: Callable[[Any], Effect] = flow.send
    reply: Any = None
    while True:
        try:
            effect = step(reply)
        except StopIteration as end:
            return emitted, None, end.value
        step, reply = flow.send, None
        if isinstance(effect, Emit):
            if isinstance(effect.response, Handover):
                return emitted, effect.response, None
            emitted.append(effect.response)
            continue
        try:
            reply = _perform(effect)
        except BaseException as error:  # noqa: BLE001  # the flow decides, and raises it again
            step, reply = flow.throw, error


def perform(flow: Flow) -> Any:
    """Perform a flow that emits nothing, in plain code; returns what the flow returns."""
    try:
        next(stream(flow))
    except StopIteration as end:
        return end.value
    raise AssertionError("this flow was to emit nothing")


async def aperform(flow: Flow) -> None:
    """Perform a flow that emits nothing, on the running event loop."""
    async for _ in astream(flow):
        raise AssertionError("this flow was to emit nothing")


def stream(flow: Flow) -> Generator[Any, Any, Any]:
    """Perform a flow in plain code, handing out what it emits; returns what the flow returns."""
    step: Callable[[Any], Effect] = flow.send
    reply: Any = None
    while True:
        try:
            effect = step(reply)
        except StopIteration as end:
            return end.value
        except Abandoned:
            return None
        step = flow.send
        try:
            if isinstance(effect, Emit):
                reply = yield effect.response
            else:
                reply = _perform(effect)
        except GeneratorExit as closing:
            step, reply = flow.throw, Abandoned() if isinstance(effect, Emit) else closing
        except BaseException as error:  # noqa: BLE001  # the flow decides, and raises it again
            step, reply = flow.throw, error


def _perform(effect: Effect) -> Any:
    if isinstance(effect, Store):
        return effect.work()
    if isinstance(effect, Pause | Wait):
        return time.sleep(effect.seconds) if isinstance(effect, Pause) else wait([effect.future], effect.seconds)
    assert not isinstance(effect, Emit)
    with effect.scope():
        if isinstance(effect, Call):
            return effect.function()
        if isinstance(effect, Close):
            return effect.iterator.close()
        try:
            return (effect.iterator.throw if effect.throws else effect.iterator.send)(effect.value)
        except StopIteration as end:
            return Ended(end.value)


async def astream(flow: Flow) -> AsyncGenerator[Any, Any]:
    """Perform a flow on the running event loop, handing out what it emits."""
    step: Callable[[Any], Effect] = flow.send
    reply: Any = None
    while True:
        try:
            effect = step(reply)
        except (StopIteration, Abandoned):
            return
        step = flow.send
        try:
            if isinstance(effect, Emit):
                reply = yield effect.response
            else:
                reply = await _aperform(effect)
        except GeneratorExit as closing:
            # Only an iterator that is closed by `aclose()` may await anything more.
            can_await = isinstance(effect, Emit) and _has_running_loop()
            step, reply = flow.throw, Abandoned() if can_await else closing
        except BaseException as error:  # noqa: BLE001  # the flow decides, and raises it again
            step, reply = flow.throw, error


async def _aperform(effect: Effect) -> Any:
    if isinstance(effect, Store):
        return await _on_a_thread(effect.work)
    if isinstance(effect, Pause | Wait):
        passing = asyncio.sleep(effect.seconds) if isinstance(effect, Pause) else _waited(effect)
        return await passing
    assert not isinstance(effect, Emit)
    with effect.scope():
        if isinstance(effect, Close):
            return await effect.iterator.aclose()
        if isinstance(effect, Call):
            result = effect.function()
            return await result if inspect.isawaitable(result) else result
        try:
            return await (effect.iterator.athrow if effect.throws else effect.iterator.asend)(effect.value)
        except StopAsyncIteration:
            return Ended(None)


async def _waited(effect: Wait) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tell(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting
            loop.call_soon_threadsafe(done.set)

    effect.future.add_done_callback(tell)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), effect.seconds)


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _on_a_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work on a thread. When the task is cancelled meanwhile, the work is finished first: a commit
    goes on all the same, and its outcome must be known."""
    # A future, not a task: asyncio.run() cancels every task that is left when it ends.
    done = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, work)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    result = done.result()
    if cancelled is not None:
        raise cancelled
    return result
