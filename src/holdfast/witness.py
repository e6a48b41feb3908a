"""What was read to find something out, so that it need not be found out again while all of it is the same.

Rules that must stay true:
- only what can never change inside is known by its identity; of anything else the content is looked at each time;
- what was read is kept alive, so that no other object can take its place and pass for it;
- a doubt counts as a change: then it is found out anew, which costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import repeat
from operator import is_
from types import EllipsisType, NoneType
from typing import Any, Final, TypeVar
from uuid import UUID

from holdfast.canonical import digest_or_none

__all__ = ["ABSENT", "Witness", "is_fixed"]

T = TypeVar("T")

ABSENT: Final = object()
"""Stands for what is not there."""

_FIXED: Final = frozenset(
    {NoneType, bool, int, float, complex, str, bytes, EllipsisType, range, date, timedelta, Decimal, UUID}
)


def is_fixed(value: Any, levels: int = 4) -> bool:
    """Whether a value can never change inside; of one that is nested more deeply than so many levels, nobody knows.

    >>> is_fixed(("a", 1)), is_fixed(("a", []))
    (True, False)
    """
    kind = type(value)
    if kind in _FIXED:
        return True
    if kind is tuple or kind is frozenset:
        return levels > 0 and all(is_fixed(item, levels - 1) for item in value)
    return (kind is datetime and value.tzinfo is None) or isinstance(value, Enum)


class Witness:
    """Everything that was read through it.

    >>> settings, witness = {"limit": 3}, Witness()
    >>> witness.item(settings, "limit")
    3
    >>> witness.holds()
    True
    >>> settings["limit"] = 4
    >>> witness.holds()
    False
    """

    __slots__ = ("_attributes", "_finds", "_found", "_holders", "_is_open", "_items", "_values")

    def __init__(self) -> None:
        # In columns, so that comparing them is one call in C.
        self._holders: list[Any] = []
        self._attributes: list[str] = []
        self._values: list[Any] = []
        self._items: list[tuple[Callable[..., Any], str, Any]] = []
        self._finds: list[Callable[[], Any]] = []
        self._found: list[Any] = []
        self._is_open = False

    def attribute(self, holder: Any, name: str) -> Any:
        """Read an attribute; `ABSENT` where there is none."""
        value = getattr(holder, name, ABSENT)
        self._holders.append(holder)
        self._attributes.append(name)
        self._values.append(value)
        return value

    def item(self, holder: Mapping[str, Any], name: str) -> Any:
        """Read what a mapping has under a name; `ABSENT` where there is nothing."""
        value = holder.get(name, ABSENT)
        self._items.append((holder.get, name, value))
        return value

    def again(self, find: Callable[[], T]) -> T:
        """Find out something that is to be found out each time; what it gives is compared by value."""
        found = find()
        self._finds.append(find)
        self._found.append(found)
        return found

    def digest(self, value: Any) -> bytes | None:
        """The identity of a value; None if it has none."""
        return digest_or_none(value) if is_fixed(value) else self.again(lambda: digest_or_none(value))

    def namespace(self, cls: type) -> None:
        """Look at all that stands in a class."""
        for name in list(vars(cls)):
            self.item(vars(cls), name)
        self.again(lambda: len(vars(cls)))

    def leave_open(self) -> None:
        """It depends on something else as well: it must be found out each time."""
        self._is_open = True

    def holds(self) -> bool:
        """Whether all of it is still the same."""
        if self._is_open:
            return False
        try:
            if not all(map(is_, map(getattr, self._holders, self._attributes, repeat(ABSENT)), self._values)):
                return False
        except ValueError:  # a variable of a function around it has no value any more
            return False
        for get, name, value in self._items:
            if get(name, ABSENT) is not value:
                return False
        return all(find() == found for find, found in zip(self._finds, self._found, strict=True))
