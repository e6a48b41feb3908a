"""The small drivers that perform what a run's flow asks for: for plain code here, for coroutines in `async_driver.py`.

Rules that must stay true:
- both do the same, and wait differently;
- plain code never waits for asyncio to be imported, which costs more than all else that a run needs.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

from holdfast.effects import Abandoned, Call, Close, Effect, Emit, Ended, Flow, Handover, Pause, Store, Wait
from holdfast.threads import importing

if TYPE_CHECKING:
    from holdfast.response import RunResponse


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


def astream(flow: Flow) -> AsyncGenerator[Any, Any]:
    """Perform a flow on the running event loop, handing out what it emits."""
    with importing:
        from holdfast.async_driver import driven
    return driven(flow)


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
        return time.sleep(effect.seconds) if isinstance(effect, Pause) else _wait(effect)
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


def _wait(effect: Wait) -> None:
    from concurrent.futures import wait  # loaded already, by whoever made the future

    wait([effect.future], effect.seconds)
