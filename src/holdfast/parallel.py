"""Several calls at the same time, on threads or as tasks.

Rules that must stay true:
- what has begun goes on to its end, because it is paid for; after a failure nothing else is begun;
- nothing is left running when the call returns or raises;
- each call runs in a copy of the caller's context, marked as running beside others.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from holdfast.effects import kind_of
from holdfast.errors import InvalidInput
from holdfast.frames import in_parallel


def all_at_once(calls: Sequence[Callable[[], Any]], limit: int) -> Any:
    """Make all calls, so many of them at the same time, and return what they return, in order; for coroutine functions
    an awaitable of that.

    Raises:
        InvalidInput: the calls or the limit cannot be used.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput("limit must be a number from 1.")
    for call in calls:
        if not callable(call):
            raise InvalidInput(
                f"parallel() takes functions to be called, not a {type(call).__name__}: "
                "functools.partial(self.fetch, url) instead of self.fetch(url)."
            )
    kinds = {_is_awaited(call) for call in calls}
    if len(kinds) > 1:
        raise InvalidInput("parallel() takes plain functions or coroutine functions, not both in one call.")
    return _as_tasks(calls, limit) if kinds == {True} else _on_threads(calls, limit)


def _is_awaited(call: Callable[..., Any]) -> bool:
    while isinstance(call, functools.partial):
        call = call.func
    return inspect.iscoroutinefunction(call)


def _value(call: Callable[[], Any]) -> Any:
    value = call()
    if (kind := kind_of(value)) == "value":
        return value
    with contextlib.suppress(AttributeError):
        value.close()
    told = "a stream" if kind in ("stream", "astream") else "an awaitable"
    raise InvalidInput(f"A call of parallel() gave {told}; give it functions that return a value, stream=False say.")


def _on_threads(calls: Sequence[Callable[[], Any]], limit: int) -> list[Any]:
    if not calls:
        return []
    failed = threading.Event()
    skipped = object()

    def make(call: Callable[[], Any]) -> Any:
        if failed.is_set():
            return skipped
        try:
            with in_parallel():
                return _value(call)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(min(limit, len(calls)), thread_name_prefix="holdfast-parallel") as pool:
        made: list[Future[Any]] = [pool.submit(copy_context().run, make, call) for call in calls]
        try:
            for future in made:
                future.exception()
        except BaseException:  # an interrupt of this thread: begin no other, and let the pool end what has begun
            failed.set()
            raise
    _raise_first([future.exception() for future in made])
    return [future.result() for future in made]


async def _as_tasks(calls: Sequence[Callable[[], Awaitable[Any]]], limit: int) -> list[Any]:
    places = asyncio.Semaphore(limit)
    failed = False

    async def make(call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal failed
        async with places:
            if failed:
                return None
            try:
                with in_parallel():
                    return await call()
            except BaseException:
                failed = True
                raise

    tasks = [asyncio.ensure_future(make(call)) for call in calls]
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    _raise_first([_failure(task) for task in tasks])
    return [task.result() for task in tasks]


def _failure(task: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _raise_first(failures: Sequence[BaseException | None]) -> None:
    """Raise the first failure, with a note of the others."""
    raised = [failure for failure in failures if failure is not None]
    if not raised:
        return
    first, *others = raised
    for other in others:
        first.add_note(f"Beside it failed, in the same call of parallel(): {type(other).__name__}")
    raise first
