"""Where time, randomness and identifiers come from.

Rules that must stay true:
- nothing else in the package reads a clock or a source of randomness for something that is stored or decided
  on, so that a test that replaces `current` owns both;
- `now()` is seconds since 1970 in UTC, for records; `monotonic()` is for measuring how long something took;
  `server_now()` is for what several machines compare.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable


class Clock:
    """The clock of the machine and the randomness of the operating system.

    >>> clock = Clock()
    >>> len(clock.new_id())
    32
    """

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()

    def server_now(self, ask: Callable[[], float]) -> float:
        """Seconds since 1970-01-01 UTC by the clock of a database server, which many machines share.

        Args:
            ask: asks the server.
        """
        return ask()

    def new_id(self) -> str:
        """A random 128-bit identifier as 32 hexadecimal digits."""
        return os.urandom(16).hex()


current = Clock()


def now() -> float:
    """Seconds since 1970-01-01 UTC, of the current clock."""
    return current.now()


def monotonic() -> float:
    """Seconds for measuring a duration, of the current clock."""
    return current.monotonic()


def new_id() -> str:
    """A random 128-bit identifier as 32 hexadecimal digits."""
    return current.new_id()
