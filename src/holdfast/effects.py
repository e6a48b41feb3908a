"""What a run's flow asks for, and how the function that it runs gives what it gives.

Rules that must stay true:
- a flow is a generator of effects and does no I/O; everything about a run's life is decided in the flow, once;
- whatever happens while an effect is performed, a closed iterator and a cancelled task included, is thrown into the
  flow, so that the flow can commit before it passes on.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from concurrent.futures import Future

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
