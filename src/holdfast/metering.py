"""Adds up what the model calls of a run used, without the agents knowing who asks.

Rules that must stay true:
- an agent reports with `add_usage`, in the context of the code that called the agent, once per agent run, failed and
  cancelled runs included;
- a meter inside another adds to both; without an open meter a report goes nowhere;
- one meter may be added to from many threads at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from holdfast.records import Usage

__all__ = ["Meter", "add_usage", "metering"]


_NOTHING = Usage()


class Meter:
    """The sum of the usage that was reported while it was open.

    >>> meter = Meter()
    >>> meter.add(Usage(requests=1, input_tokens=20))
    >>> meter.usage.input_tokens
    20
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage = _NOTHING

    @property
    def usage(self) -> Usage:
        """What was added so far."""
        return self._usage

    def add(self, usage: Usage) -> None:
        """Add the usage of one agent run."""
        with self._lock:
            self._usage = self._usage + usage


_open: ContextVar[tuple[Meter, ...]] = ContextVar("holdfast_meters", default=())


@contextmanager
def metering(meter: Meter | None = None) -> Iterator[Meter]:
    """Collect what agents report inside the block, tools on other threads included.

    Args:
        meter: a meter to continue with, for a caller that leaves and enters the block many times, as a generator
            does at each `yield`; a new one when absent.

    >>> with metering() as meter:
    ...     add_usage(Usage(requests=2, cost=0.5))
    >>> meter.usage.requests, meter.usage.cost
    (2, 0.5)
    """
    meter = meter or Meter()
    before = _open.get()
    if meter not in before:
        _open.set((*before, meter))
    try:
        yield meter
    finally:
        # Set back rather than reset with a token: a generator may be closed in another context than it began in.
        _open.set(before)


def add_usage(usage: Usage) -> None:
    """Report usage to every meter that is open in the current context.

    >>> add_usage(Usage(requests=1))
    """
    for meter in _open.get():
        meter.add(usage)
