"""The driver that performs what a run's flow asks for on an event loop.

Rules that must stay true:
- storage work is done on a thread and never left half done: a cancellation waits for its outcome;
- this module is loaded when a coroutine or an asynchronous iterator is first driven, because it needs asyncio.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  # asyncio would import it when it first needs a thread
import contextlib
import contextvars
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from holdfast.effects import Abandoned, Call, Close, Effect, Emit, Ended, Flow, Pause, Store, Wait

if TYPE_CHECKING:
    from concurrent.futures import Future


async def driven(flow: Flow) -> AsyncGenerator[Any, Any]:
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
