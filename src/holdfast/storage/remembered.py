"""What a storage object has lately read and verified, or written, so that it need not be verified again.

Rules that must stay true:
- nothing here is believed of itself: a listing is found by the checksum that the database has for it now, an entry
  of the step cache counts only where it has that checksum, or nothing was committed since it had, and a head only
  where it has exactly that row;
- so that what a transaction wrote may be remembered before it is committed, and after it was rolled back;
- each step is atomic, for many threads read at the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from holdfast.records import Entry
from holdfast.storage.listing import Listing
from holdfast.storage.rows import Column, Head, Row

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The few values that were put last.

    >>> recent = Recent[str, int](2)
    >>> for number, name in enumerate("abc"):
    ...     recent.put(name, number)
    >>> recent.get("a"), recent.get("c")
    (None, 2)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of a key, None when it is not remembered."""
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value, and forget the one that was put first."""
        self._values[key] = value
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)


class Remembered:
    """The memory of one storage object."""

    def __init__(self) -> None:
        self.listings: Recent[bytes, Listing] = Recent(4)
        """By the checksum of the snapshot's row, which covers all that the listing says."""
        self.heads: Recent[tuple[str, str], tuple[Head, Row]] = Recent(1000)
        """By owner and session id: what the head says, and the row that says it."""
        self.entries: Recent[tuple[Column, ...], tuple[Row, Entry, object | None]] = Recent(256)
        """By the key of the row: small entries of the step cache, each with its checksum and its count of hits, and
        with the mark of the database in which these were seen last."""
