"""The walk that turns a value into what a JSON writer takes, with a tag wherever plain JSON would not be exact.

Rules that must stay true:
- the value is never changed: a container is copied before anything in it is replaced, each copy in one step, so
  that another thread cannot tear it;
- every problem is collected with its path; a mark stands in its place, so that the walk goes on;
- no recursion goes deeper than `MAX_DEPTH` containers, and no more values are visited than can be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import isfinite
from types import NoneType
from typing import Any

import msgspec

from holdfast.declared import Types
from holdfast.paths import Field, Member, Path, path_text, type_name
from holdfast.refusals import Refused, reason_for, undeclared
from holdfast.scalars import ENCODERS, HIGHEST, LOWEST, MARK, TAG, is_encodable, tag
from holdfast.shapes import Shape, shape_of

MAX_DEPTH = 100
"""Containers that a top-level value may hold one in another, itself included."""
MAX_KEY = 1_024
"""Characters of a key's name."""
MAX_BYTES = 64_000_000
"""Of one top-level value, encoded."""
MANY = 1_000
"""Containers from which on a walk looks whether they are the same few over and over."""

_json = msgspec.json.Encoder()


class TooLarge(Exception):
    """Raised inside the codec by a value that would be larger than `MAX_BYTES`."""


def least_size(value: Any) -> int:
    """Bytes that the text of a value has at least, found without walking any container twice.

    An object that stands in many places is written in each of them, so that a few kilobytes in memory can stand for
    more text than any memory holds.

    Raises:
        TooLarge: more than `MAX_BYTES`.

    >>> inner = ["x"] * 10
    >>> least_size([inner] * 10)
    320
    """
    return _least_size(value, {}, 0) if type(value) in _CONTAINERS else 0


def _least_size(value: Any, known: dict[int, tuple[Any, int]], depth: int) -> int:
    if id(value) in known:
        return known[id(value)][1]
    known[id(value)] = (value, 0)  # what a cycle adds; kept, because an id stays taken only while its object lives
    items = [*value, *value.values()] if type(value) is dict else list(value)
    kinds = set(map(type, items))
    size = 2 * len(items)
    if not kinds.isdisjoint(_TEXTS):
        size += sum([len(item) for item in items if type(item) in _TEXTS])
    if depth < MAX_DEPTH and not kinds.isdisjoint(_CONTAINERS):
        for item in items:
            if type(item) in _CONTAINERS:
                size += _least_size(item, known, depth + 1)
    if size > MAX_BYTES:
        raise TooLarge
    known[id(value)] = (value, size)
    return size


class Encoding:
    """One walk over one value.

    Args:
        types: the classes whose instances may be stored.
        loose: whether instances of other classes become plain data instead of problems.
        check_text: whether every text is looked through for surrogates.
        root: the whole value, whose size is found out as soon as the walk goes in circles.
    """

    def __init__(self, types: Types, *, loose: bool = False, check_text: bool = True, root: Any = None) -> None:
        self.problems: list[tuple[str, str]] = []
        self._shapes = types.by_class
        self._others: dict[type, Shape | None] = {}
        self._types = types
        self._loose = loose
        self._safe = frozenset({NoneType, bool} if check_text else {NoneType, bool, str})
        self._open: set[int] = set()
        self._reasons: dict[type, str] = {}
        self._ordinary: set[str] = set()
        self._root = root
        self._left = MAX_BYTES
        self._visits = 0
        self._visited: set[int] = set()
        self._is_looked_at = root is None

    def node(self, value: Any, path: Path, depth: int) -> Any:
        """What to write for a value: itself if nothing in it needs a tag.

        Raises:
            TooLarge: the value cannot be small enough.
        """
        kind = type(value)
        if kind in self._safe:
            return value
        scalar = ENCODERS.get(kind)
        if scalar is not None:
            try:
                return scalar(value)
            except Refused as refused:
                return self._refuse(value, path, str(refused))
        walk = _CONTAINERS.get(kind) or self._instance_walk(kind)
        if walk is None:
            if kind not in self._reasons:
                self._reasons[kind] = reason_for(kind)
            return self._refuse(value, path, self._reasons[kind])
        return self._inside(walk, value, path, depth)

    def name(self, key: Any, path: Path, depth: int) -> str:
        """The name of a dict's key; `path` is that of the dict."""
        if type(key) is str and not key.startswith(TAG) and is_encodable(key):
            name = key
        else:
            inner = Encoding(self._types, loose=self._loose, root=key)
            tree = inner.node(key, path, depth + 1)
            if inner.problems:
                self._refuse(key, path, f"a key of type {type_name(type(key))}: {inner.problems[0][1]}")
                return MARK
            name = MARK + _json.encode(tree).decode()
        if len(name) > MAX_KEY:
            self._refuse(key, path, f"a key of {len(name):,} characters, more than {MAX_KEY:,}: shorten it")
            return MARK
        return name

    def _refuse(self, value: Any, path: Path, reason: str) -> Any:
        self.problems.append((path_text(path), reason))
        return tag("omitted", type_name(type(value)))

    def _inside(self, walk: Callable[..., Any], value: Any, path: Path, depth: int) -> Any:
        if id(value) in self._open:
            return self._refuse(value, path, "a cycle: the value holds itself; store a name for it instead")
        if depth >= MAX_DEPTH:
            return self._refuse(value, path, f"nested deeper than {MAX_DEPTH} containers: store it flatter")
        self._visits += 1
        self._visited.add(id(value))
        if self._visits > MANY and len(self._visited) * 2 < self._visits:
            self._look()
        self._open.add(id(value))
        try:
            return walk(self, value, path, depth + 1)
        finally:
            self._open.discard(id(value))

    def _items(self, values: Any, path: Path, depth: int) -> list[Any]:
        items = list(values)
        kinds = set(map(type, items))
        self._spend(items, kinds)
        if not kinds <= self._safe:
            self._replace(items, enumerate(items), path, depth)
        return items

    def _replace(self, nodes: Any, pairs: Iterable[tuple[Any, Any]], path: Path, depth: int) -> None:
        """Put into a copied container what is to be written for each of its values."""
        safe = self._safe
        for step, item in pairs:
            kind = type(item)
            # Nearly every number is an ordinary one, and a call for each would double the time.
            if kind in safe or (kind is int and LOWEST <= item <= HIGHEST) or (kind is float and isfinite(item)):
                continue
            nodes[step] = self.node(item, (path, step), depth)

    def _spend(self, values: Collection[Any], kinds: set[type]) -> None:
        self._left -= 2 * len(values)  # every value takes two bytes at least
        if not kinds.isdisjoint(_TEXTS):
            self._left -= sum([len(value) for value in values if type(value) in _TEXTS])
        if self._left < 0:
            raise TooLarge

    def _look(self) -> None:
        """Find out once whether this walk would go on for ever."""
        if not self._is_looked_at:
            self._is_looked_at = True
            least_size(self._root)

    def _tuple(self, value: tuple[Any, ...], path: Path, depth: int) -> Any:
        return tag("tuple", self._items(value, path, depth))

    def _set(self, value: set[Any] | frozenset[Any], path: Path, depth: int) -> Any:
        self._look()  # before anything in it is sorted, which takes a text of each member
        members = list(value)
        self._spend(members, set(map(type, members)))
        nodes = [self.node(member, (path, Member(member)), depth) for member in members]
        return tag(type(value).__name__, sorted(nodes, key=self._order))

    def _order(self, node: Any) -> bytes:
        try:
            return _json.encode(node)
        except UnicodeEncodeError:
            return b""  # the walk is repeated with every text looked through

    def _dict(self, value: dict[Any, Any], path: Path, depth: int) -> Any:
        nodes = dict(value)
        kinds = set(map(type, nodes.values()))
        self._spend(nodes.values(), kinds)
        ordinary = self._has_ordinary_keys(nodes)
        if ordinary:
            self._left -= sum(map(len, nodes))
        if not kinds <= self._safe:
            self._replace(nodes, nodes.items(), path, depth)
        return nodes if ordinary else self._renamed(nodes, value, path, depth)

    def _has_ordinary_keys(self, nodes: dict[Any, Any]) -> bool:
        if not set(map(type, nodes)) <= {str}:
            return False
        if nodes.keys() <= self._ordinary:
            return True
        for key in nodes.keys() - self._ordinary:
            if len(key) > MAX_KEY or key.startswith(TAG) or not is_encodable(key):
                return False
            self._ordinary.add(key)
        return True

    def _renamed(self, nodes: dict[Any, Any], value: object, path: Path, depth: int) -> Any:
        before = len(self.problems)
        named = {self.name(key, path, depth): node for key, node in nodes.items()}
        if len(named) < len(nodes) and len(self.problems) == before:
            return self._refuse(value, path, "two keys that are stored alike, as two NaNs are: keep one of them")
        return named

    def _declared(self, value: Any, path: Path, depth: int) -> Any:
        shape = self._shapes[type(value)]
        try:
            parts = shape.take(value)
        except Refused as refused:
            return self._refuse(value, path, str(refused))
        except Exception as error:  # noqa: BLE001  # code of the class; it becomes a problem with a path
            return self._refuse(value, path, _unreadable(shape.name, error))
        return tag(shape.kind, shape.name, *(self._part(part, path, depth) for part in parts))

    def _undeclared(self, value: Any, path: Path, depth: int) -> Any:
        shape = self._others[type(value)]
        assert shape is not None
        if not self._loose:
            return self._refuse(value, path, undeclared(shape.name, shape.kind))
        try:
            outline = shape.outline(value)
        except Exception as error:  # noqa: BLE001  # as above
            return self._refuse(value, path, _unreadable(shape.name, error))
        return self._dict({"$class": shape.name, **outline}, path, depth)

    def _instance_walk(self, kind: type) -> Callable[..., Any] | None:
        if kind in self._shapes:
            return Encoding._declared
        if kind not in self._others:
            self._others[kind] = shape_of(kind)
        return Encoding._undeclared if self._others[kind] is not None else None

    def _part(self, part: Any, path: Path, depth: int) -> Any:
        if type(part) is not dict:
            return part
        self._spend(part.values(), set(map(type, part.values())))
        return {name: self.node(item, (path, Field(name)), depth) for name, item in part.items()}


def _unreadable(name: str, error: Exception) -> str:
    return f"reading the fields of {name} raised {type_name(type(error))}: mend the object, or store plain data"


_CONTAINERS: dict[type, Callable[..., Any]] = {
    list: Encoding._items,
    dict: Encoding._dict,
    tuple: Encoding._tuple,
    set: Encoding._set,
    frozenset: Encoding._set,
}
_TEXTS = frozenset({str, bytes})
