"""When a step cache is swept, and how much at once.

Rules that must stay true:
- whoever stores results sweeps, so that a cache that grows is swept, and one that does not costs nothing;
- a cache is never larger than its maximum and what all processes have stored since they swept last.
"""

from __future__ import annotations

from holdfast.errors import InvalidInput

MAX_CACHE_SIZE = 1_073_741_824
"""Bytes of results that a step cache keeps, unless it is told otherwise."""

EVERY = 64
"""After so many results that a process has stored the cache is swept."""

PART = 16
"""After so many bytes that a process has stored it is swept as well: the maximum divided by this."""

BATCH = 100
"""Entries that are deleted in one transaction at most."""


class Sweeping:
    """Tells when the step cache is to be swept, by what was stored through one storage object.

    Args:
        max_size: bytes of results that the cache keeps.

    Raises:
        InvalidInput: that is not a number from 0.

    >>> sweeping = Sweeping(1600)
    >>> [sweeping.is_due(size) for size in (60, 40, 1, 1)]
    [False, False, True, False]
    """

    def __init__(self, max_size: int) -> None:
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 0:
            raise InvalidInput("max_cache_size must be a number of bytes from 0.")
        self.max_size = max_size
        self._count = 0
        self._size = 0

    def is_due(self, size: int) -> bool:
        """Note that a result of so many bytes was stored, and say whether it is time to sweep.

        Threads that are here at the same time may miss each other's count, which puts the sweep off a little.
        """
        self._count += 1
        self._size += size
        is_due = self._count >= EVERY or self._size > self.max_size // PART
        if is_due:
            self._count = self._size = 0
        return is_due
