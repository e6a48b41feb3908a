"""A step that is awaited: its caller can be cancelled, and others may be waiting for what it computes.

Rules that must stay true:
- while others wait for it, an execution goes on when its own caller is gone;
- this module is loaded when a step is first awaited, because it needs asyncio.
"""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.asked import Asked
from holdfast.drivers import aperform
from holdfast.effects import Flow


async def outcome(asked: Asked, flow: Flow) -> Any:
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
