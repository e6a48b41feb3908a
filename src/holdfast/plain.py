"""Values made of plain containers and of leaves that can never change: looked at, copied and compared level by level.

Rules that must stay true:
- a copy shares nothing that can change with what it was made of;
- two values are the same if they would be encoded alike: by type, order and bits. What is one object is the same as
  itself; of two objects that says their type and value, or else their encoded text;
- no code of the user's runs: of containers and keys only the exact built-in types are taken;
- a level is handled in C as a whole; only where something differs values are looked at one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate, chain, compress, islice, repeat
from itertools import count as count_from
from operator import is_, is_not, itemgetter
from types import NoneType
from typing import Any, Final
from uuid import UUID

from holdfast import codec
from holdfast.encoding import MAX_DEPTH, MAX_KEY
from holdfast.errors import UnstorableValue
from holdfast.scalars import TAG, is_encodable

__all__ = [
    "CONTAINERS",
    "LEAVES",
    "NotPlain",
    "Values",
    "are_same",
    "are_same_names",
    "require_names",
]

LEAVES: Final = frozenset(
    {NoneType, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, complex}
)
CONTAINERS: Final = frozenset({list, dict, tuple})
MOST: Final = 5_000_000
"""Values that are looked at: one object may stand in so many places that there is no end to them."""
SORTS: Final = 16
"""Sets of names, in their order, up to which dicts are looked at by their names."""
_BY_VALUE: Final = frozenset({NoneType, bool, int, str, bytes})
"""What is encoded alike if it is of one type and equal."""

_values = dict.values
_run: Final = deque[Any](maxlen=0).extend
"""Goes through an iterator for what that does."""


class NotPlain(Exception):
    """Raised inside this package for values that are something else, are too many, or lie too deep."""


class Values:
    """Plain values, with everything in them laid out so that comparing others with them takes little time.

    Args:
        values: they, and what they hold, are not changed any more.
        depth: how many containers they may be made of, one in another.
        most: how many values there may be in all.
        are_others: whether somebody may be changing them all the same; then each container is copied in one step
            before anything else is asked of it, and the copies are what is laid out.

    Raises:
        NotPlain: they are not plain.

    >>> values = Values([1, [2], {"a": 3}])
    >>> values.are([1, [2], {"a": 3}]), values.are([1, [2], {"a": True}]), values.count
    (True, False, 5)
    """

    __slots__ = ("_below", "_columns", "_groups", "_kind", "_lengths", "_names", "_values", "count")

    def __init__(
        self, values: list[Any], depth: int = MAX_DEPTH, most: int = MOST, *, are_others: bool = False
    ) -> None:
        self._values = values
        self._kind: type | None = None
        """What all of them are; None for leaves, or where they are of several kinds."""
        self._groups: list[tuple[list[int], Callable[[Sequence[Any]], tuple[Any, ...]], Values]] = []
        """Where they are of several kinds: of each kind the places, what picks these out, and the values there."""
        self._below: Values | None = None
        """What the containers hold, one after the other."""
        self._columns: list[tuple[str, Values]] = []
        """Instead of that, of dicts with the same names that hold containers: what they all have under one name."""
        self.count = len(values)
        """How many there are, with all that they hold."""
        kinds = set(map(type, values))
        if self.count > most:
            raise NotPlain
        if kinds <= LEAVES:
            return
        if not depth or not kinds <= LEAVES | CONTAINERS:
            raise NotPlain
        if len(kinds) > 1:
            some = (kinds & LEAVES, *({kind} for kind in kinds & CONTAINERS))
            sorts = [list(map(kind.__contains__, map(type, values))) for kind in some]
            self._group(sorts, depth, most, are_others=are_others)
            return
        (self._kind,) = kinds
        if are_others and self._kind is not tuple:
            values = self._values = list(map(self._kind.copy, values))  # type: ignore[attr-defined]
        self._lengths = list(map(len, values))
        members = list(chain.from_iterable(map(_values, values) if self._kind is dict else values))
        if self._kind is dict:
            self._names = list(chain.from_iterable(values))
            require_names(self._names)
            if self._are_by_name(members, depth, most, are_others=are_others):
                return
        self._below = Values(members, depth - 1, most - self.count, are_others=are_others)
        self.count += self._below.count

    def _are_by_name(self, members: list[Any], depth: int, most: int, *, are_others: bool) -> bool:
        """Lay out what dicts hold by their names, if they have the same ones, and containers under some."""
        values = self._values
        if len(values) == 1 or set(map(type, members)).isdisjoint(CONTAINERS):
            return False
        names = list(values[0])
        if self._names != names * len(values):
            named = list(map(tuple, values))
            sorts = set(named)
            if len(sorts) > SORTS:
                return False
            self._kind = None
            self._group([list(map(sort.__eq__, named)) for sort in sorts], depth, most, are_others=are_others)
            return True
        for place, name in enumerate(names):
            column = Values(members[place :: len(names)], depth - 1, most - self.count, are_others=are_others)
            self._columns.append((name, column))
            self.count += column.count
        return True

    def _group(self, sorts: list[list[bool]], depth: int, most: int, *, are_others: bool) -> None:
        """Lay out values in groups.

        Args:
            sorts: of each group, whether it has the value in this place.
            depth, most, are_others: as for all of them.
        """
        count = 0
        for is_here in sorts:
            places = list(compress(count_from(0), is_here))
            if places:
                pick = itemgetter(*places, places[0])  # of a single place it would give no tuple
                group = Values(list(compress(self._values, is_here)), depth, most - count, are_others=are_others)
                self._groups.append((places, pick, group))
                count += group.count
        self.count = count

    def copies(self) -> list[Any]:
        """Each of the values again, in containers of its own."""
        if self._groups:
            copies = self._values.copy()
            for places, _, group in self._groups:
                if not group._are_leaves:
                    _run(map(copies.__setitem__, places, group.copies()))
            return copies
        if self._columns:
            copies = list(map(dict.copy, self._values))
            for name, column in self._columns:
                if not column._are_leaves:
                    _run(map(dict.__setitem__, copies, repeat(name), column.copies()))
            return copies
        if self._below is None or self._kind is None:  # they are leaves
            return self._values.copy()
        if self._kind is not tuple and self._below._are_leaves:
            return list(map(self._kind.copy, self._values))  # type: ignore[attr-defined]  # a list or a dict
        members = iter(self._below.copies())
        if self._kind is dict:
            return [dict(zip(value, islice(members, len(value)), strict=True)) for value in self._values]
        return [self._kind(islice(members, length)) for length in self._lengths]

    @property
    def _are_leaves(self) -> bool:
        return self._kind is None and not self._groups

    def are(self, others: Sequence[Any]) -> bool:
        """Whether as many other values are the same, pair by pair."""
        if self._groups:
            return all(group.are(pick(others)[:-1]) for _, pick, group in self._groups)
        if self._are_leaves:
            return _are_same_leaves(self._values, others)
        members = self._members_in(others)
        if members is None:
            return False
        if self._below is not None:
            return self._below.are(members)
        each = len(self._columns)
        return all(column.are(members[place::each]) for place, (_, column) in enumerate(self._columns))

    def suspects(self, others: Sequence[Any]) -> list[int] | None:
        """Where as many other values may differ, for some is another object there; None if all may.

        >>> values = Values([{"a": [1], "b": 2}, {"a": [3], "b": 4}])
        >>> values.suspects([{"a": [1], "b": 2}, {"a": [3], "b": 5}]), values.suspects([{"a": [1], "b": 2}, []])
        ([1], None)
        """
        if self._groups:
            found = [(places, group.suspects(pick(others)[:-1])) for places, pick, group in self._groups]
            if any(inside is None for _, inside in found):
                return None
            return sorted(places[place] for places, inside in found for place in inside or ())
        if self._are_leaves:
            return list(compress(count_from(0), map(is_not, self._values, others)))
        members = self._members_in(others)
        return None if members is None else self._holders(members)

    def _holders(self, members: list[Any]) -> list[int] | None:
        """What `suspects` gives for containers that hold these members, one after the other."""
        if self._below is None:
            each = len(self._columns)
            columns = [column.suspects(members[place::each]) for place, (_, column) in enumerate(self._columns)]
            if None in columns:
                return None
            return sorted({place for inside in columns for place in inside or ()})
        below = self._below.suspects(members)
        if below is None:
            return None
        ends = list(accumulate(self._lengths))
        return sorted({bisect_right(ends, place) for place in below})

    def _members_in(self, others: Sequence[Any]) -> list[Any] | None:
        """What other containers hold, one after the other; None if they differ in kinds, lengths or names, or if
        another thread was there meanwhile."""
        if set(map(type, others)) != {self._kind} or list(map(len, others)) != self._lengths:
            return None
        holders: Iterable[Any] = others
        if self._kind is dict:
            if not are_same_names(self._names, list(chain.from_iterable(others))):
                return None
            holders = map(_values, others)
        members = list(chain.from_iterable(holders))
        return members if len(members) == sum(self._lengths) else None


def require_names(keys: Sequence[Any]) -> None:
    """Look whether keys are text that stands for itself when it is encoded.

    Raises:
        NotPlain: one of them is not.

    >>> require_names(["title", "text"])
    """
    if not set(map(type, keys)) <= {str} or any(map(_is_odd, set(keys))):
        raise NotPlain


def _is_odd(key: str) -> bool:
    return key.startswith(TAG) or len(key) > MAX_KEY or not is_encodable(key)


def are_same(old: Any, new: Any) -> bool:
    """Whether a plain value is the same as another one.

    >>> are_same([1], [1]), are_same([1], [1.0]), are_same([1], (1,))
    (True, False, False)
    """
    return old is new or Values([old]).are([new])


def _are_same_leaves(old: Sequence[Any], new: Sequence[Any]) -> bool:
    return all(map(is_, old, new)) or all(map(_is_same_leaf, old, new))


def are_same_names(old: Sequence[str], new: Sequence[Any]) -> bool:
    """Whether names are the same as as many keys, pair by pair.

    >>> are_same_names(["a", "b"], ["a", "c"])
    False
    """
    return all(map(is_, old, new)) or all(map(_is_same_name, old, new))


def _is_same_name(old: str, new: Any) -> bool:
    return old is new or (type(new) is str and old == new)


def _is_same_leaf(old: Any, new: Any) -> bool:
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if type(old) in _BY_VALUE:
        return bool(old == new)
    try:
        return codec.encode(old) == codec.encode(new)
    except UnstorableValue:  # such as a time with a zone of the user's own
        return False
