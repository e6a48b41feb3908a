"""A value as it was stored last, decoded and kept beside what a workflow has in its hands, to tell what was changed.

A value of many texts is compared with its original several times faster than it is decoded, encoded and compared as
text, and where it differs only that is encoded.

Rules that must stay true:
- an original is never handed out and never changed: what a workflow gets is a copy, and a change makes another
  original, which shares the parts that stayed. So documents, sessions and threads may use one at the same time;
- the operations that are found are those that comparing the texts finds (see `difference.py`);
- what holds anything but plain values, or cannot be stored, is left to the comparison of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, TypeAlias

from holdfast import codec
from holdfast.difference import SAVING, changes_between, displaced, elements_between, size_of
from holdfast.encoding import MAX_DEPTH
from holdfast.operations import Operation, Path
from holdfast.plain import (
    CONTAINERS,
    NotPlain,
    Values,
    are_same,
    are_same_names,
    require_names,
)

__all__ = ["Original", "original_of"]

LEAST_SIZE: Final = 4_096
"""Bytes of encoded text from which on an original is worth its memory."""
LEAST_EACH: Final = 40
"""Bytes of text for each value in it: what has less, such as many numbers, is encoded faster than it is compared."""
TOGETHER: Final = 256
"""How many members of a container are compared in one go, and looked at anew when one of them changes."""
LATEST: Final = 32
"""Of these, how many that were added last are kept apart: of a list that grows they are looked at anew each time."""
BIG: Final = 64
"""Members from which on a container inside of another one is compared by itself."""
FEW: Final = 16
"""Members of a list up to which those that differ may be taken to have been changed where they are."""

_values = dict.values


def original_of(value: Any, data: bytes) -> Original | None:
    """An original, if one is worth it.

    Args:
        value: decoded from `data`, and nobody else's.
    """
    if len(data) < LEAST_SIZE or type(value) not in (list, dict):
        return None
    original = Original(value, _parts_of(_members(value)))
    try:
        is_worth_it = len(data) >= LEAST_EACH * original.weight
    except NotPlain:
        return None
    return original if is_worth_it else None


class Original:
    """A list or dict as it was stored.

    Args:
        value: the container; it belongs to the original from now on.
        parts: its members.
    """

    __slots__ = ("_parts", "_value")

    def __init__(self, value: Any, parts: list[_Part]) -> None:
        self._value = value
        self._parts = parts

    @property
    def weight(self) -> int:
        """How many values it holds, with all that these hold.

        Raises:
            NotPlain: it holds something else.
        """
        if type(self._value) is dict:
            require_names(list(self._value))
        return sum(part.weight for part in self._parts)

    def copy(self) -> Any:
        """The value, in containers of its own.

        Raises:
            NotPlain: it has come to hold more than is looked at.
        """
        members = list(chain.from_iterable([part.copies() for part in self._parts]))
        return members if type(self._value) is list else dict(zip(self._value, members, strict=True))

    def changes(self, new: Any, path: Path) -> tuple[list[Operation], Original]:
        """What makes the value another one, and the original of that.

        Args:
            new: a value that anybody may have a hand in.
            path: where it stands, for the operations.

        Raises:
            NotPlain: it is not of the same kind, or holds what is left to the comparison of texts.
            UnstorableValue: something in it cannot be stored; not all of that is named.

        >>> original = original_of({"n": 1, "text": "a" * 4_096}, b" " * 4_111)
        >>> original.changes({"n": 2, "text": "a" * 4_096}, ("story",))[0]
        [Operation(op='replace', path=('story', 'n'), value=b'2')]
        """
        if type(new) is not type(self._value):
            raise NotPlain
        return self._list_changes(new.copy(), path) if type(new) is list else self._dict_changes(new.copy(), path)

    def is_same(self, new: Any) -> bool:
        """Whether another value would be encoded alike."""
        if type(new) is not type(self._value) or len(new) != len(self._value):
            return False
        if type(new) is dict:
            new = new.copy()
            if not are_same_names(list(self._value), list(new)):
                return False
        return not self._places(_members(new))

    def text(self) -> bytes:
        """The value, encoded.

        Raises:
            UnstorableValue: it has become too large.
        """
        return codec.encode(self._value)

    def changes_to(self, later: Original, path: Path) -> list[Operation]:
        """What makes the value that of another original.

        Raises:
            NotPlain: that is not of the same kind.
        """
        return self.changes(later._value, path)[0] if later is not self else []

    def _list_changes(self, new: list[Any], path: Path) -> tuple[list[Operation], Original]:
        old: list[Any] = self._value
        if len(new) >= len(old):
            places = self._places(new)
            added = _plain(new[len(old) :], path)
            appends = [Operation("add", (*path, "-"), codec.encode(item)) for item in added]
            if not places:
                return appends, self._and(added, [*old, *added]) if added else self
            if len(places) <= FEW:
                before = {codec.encode(old[place]) for place in places}
                after = [codec.encode(item) for item in _plain([new[place] for place in places], path)]
                if before.isdisjoint([*after, *(operation.value for operation in appends)]):
                    operations, changed = self._with(places, new, path)
                    changed = changed._and(added, [*changed._value, *added])
                    return _or_whole([*operations, *appends], changed, path)
                # Else one of them may have moved, which is not for this comparison to say.
        head = _common(old, new)
        longest = min(len(old), len(new)) - head
        tail = _common(old[len(old) - longest :][::-1], new[len(new) - longest :][::-1]) if longest else 0
        between = _plain(new[head : len(new) - tail], path)
        operations = elements_between(
            [codec.encode(item) for item in old[head : len(old) - tail]],
            [codec.encode(item) for item in between],
            path,
            first=head,
            is_last=not tail,
        )
        value = [*old[:head], *between, *old[len(old) - tail :]]
        return _or_whole(operations, Original(value, _parts_of(value)), path)

    def _dict_changes(self, new: dict[Any, Any], path: Path) -> tuple[list[Operation], Original]:
        old: dict[str, Any] = self._value
        names, keys = list(old), _names(new)
        if len(keys) >= len(names) and are_same_names(names, keys[: len(names)]):
            members = list(_values(new))
            operations, changed = self._with(self._places(members), members, path)
            added = keys[len(names) :]
            if not operations and not added:
                return [], self
        else:
            removed, added = displaced(names, keys)
            operations = [Operation("remove", (*path, name)) for name in removed]
            kept: dict[str, Any] = {}
            for name in keys[: len(keys) - len(added)]:
                kept[name] = old[name]
                if not are_same(old[name], new[name]):
                    inner, kept[name] = _member_changes(old[name], new[name], (*path, name))
                    operations += inner
            changed = Original(kept, _parts_of(_members(kept)))
        copies = dict(zip(added, _plain([new[name] for name in added], path), strict=True))
        operations += [Operation("add", (*path, name), codec.encode(item)) for name, item in copies.items()]
        return _or_whole(operations, changed._and(list(copies.values()), {**changed._value, **copies}), path)

    def _places(self, new: Sequence[Any]) -> list[int]:
        """Where members differ from others, of which there may be more."""
        places: list[int] = []
        start = 0
        for part in self._parts:
            members = new[start : start + part.count]
            if not part.is_same(members):
                places += [start + place for place in part.places(members)]
            start += part.count
        return places

    def _with(self, places: Sequence[int], new: Sequence[Any], path: Path) -> tuple[list[Operation], Original]:
        """The operations for members that differ, and the original with those."""
        if not places:
            return [], self
        names = list(self._value) if type(self._value) is dict else None
        members = _members(self._value)
        operations: list[Operation] = []
        parts: list[_Part] = []
        start = 0
        for part in self._parts:
            end = start + part.count
            here = [place for place in places if start <= place < end]
            for place in here:
                at = (*path, str(place) if names is None else names[place])
                if isinstance(part, _Inner) and type(new[place]) is type(members[place]):
                    inner, changed = part.original.changes(new[place], at)
                    members[place] = changed._value
                    parts.append(_Inner(changed))
                else:
                    inner, members[place] = _member_changes(members[place], new[place], at)
                    if isinstance(part, _Inner):
                        parts += _parts_of([members[place]])
                operations += inner
            if not here:
                parts.append(part)
            elif isinstance(part, _Together):
                parts += _parts_of(members[start:end])
            start = end
        return operations, Original(members if names is None else dict(zip(names, members, strict=True)), parts)

    def _and(self, added: list[Any], value: Any) -> Original:
        """The original of a container that has more members at its end."""
        parts, new = self._parts.copy(), _parts_of(added)
        last = parts[-1] if parts else None
        if isinstance(last, _Together) and new and isinstance(new[0], _Together):
            if last.count + new[0].count <= LATEST:
                new[0] = _Together(parts.pop().members + new[0].members)
            elif len(parts) > 1 and isinstance(parts[-2], _Together) and parts[-2].count + last.count <= TOGETHER:
                parts[-2:] = [_Together(parts[-2].members + last.members)]
        return Original(value, [*parts, *new])


class _Together:
    """Members that are compared in one go."""

    __slots__ = ("_values", "count", "members")

    def __init__(self, members: list[Any]) -> None:
        self.count = len(members)
        self.members = members
        self._values: Values | None = None

    @property
    def weight(self) -> int:
        """How many values there are, with all that they hold."""
        return self.values.count

    @property
    def values(self) -> Values:
        """The members, laid out to be compared."""
        if self._values is None:
            self._values = Values(self.members)
        return self._values

    def copies(self) -> list[Any]:
        return self.values.copies()

    def is_same(self, new: Sequence[Any]) -> bool:
        return self.values.are(new)

    def places(self, new: Sequence[Any]) -> list[int]:
        suspects = self.values.suspects(new) if len(new) == self.count else None
        if suspects is not None and len(suspects) <= FEW:
            return [place for place in suspects if not are_same(self.members[place], new[place])]
        return _differing(self.members, new, 0)


def _differing(old: list[Any], new: Sequence[Any], start: int) -> list[int]:
    if Values(old).are(new):
        return []
    if len(old) == 1:
        return [start]
    half = len(old) // 2
    return _differing(old[:half], new[:half], start) + _differing(old[half:], new[half:], start + half)


class _Inner:
    """A member that is a big container."""

    __slots__ = ("original",)

    count = 1

    def __init__(self, original: Original) -> None:
        self.original = original

    @property
    def weight(self) -> int:
        return 1 + self.original.weight

    @property
    def members(self) -> list[Any]:
        return [self.original._value]

    def copies(self) -> list[Any]:
        return [self.original.copy()]

    def is_same(self, new: Sequence[Any]) -> bool:
        return self.original.is_same(new[0])

    def places(self, new: Sequence[Any]) -> list[int]:  # noqa: ARG002  # it is the only one
        return [0]


_Part: TypeAlias = _Together | _Inner


def _parts_of(members: list[Any]) -> list[_Part]:
    parts: list[_Part] = []
    start = 0
    for place in [*_places_of_big(members), len(members)]:
        parts += [_Together(members[first : min(first + TOGETHER, place)]) for first in range(start, place, TOGETHER)]
        if place < len(members):
            parts.append(_Inner(Original(members[place], _parts_of(_members(members[place])))))
        start = place + 1
    return parts


def _places_of_big(members: list[Any]) -> list[int]:
    kinds = set(map(type, members))
    if kinds.isdisjoint((list, dict)) or (kinds <= CONTAINERS and max(map(len, members)) < BIG):
        return []
    return [place for place, item in enumerate(members) if type(item) in (list, dict) and len(item) >= BIG]


def _members(value: Any) -> list[Any]:
    return list(_values(value)) if type(value) is dict else list(value)


def _names(value: dict[Any, Any]) -> list[str]:
    keys = list(value)
    require_names(keys)
    return keys


def _plain(values: list[Any], path: Path) -> list[Any]:
    """Copies of the members of a container, of which nobody else has one."""
    return Values(values, MAX_DEPTH - len(path), are_others=True).copies()


def _member_changes(old: Any, new: Any, path: Path) -> tuple[list[Operation], Any]:
    copy = _plain([new], path)[0]
    before, after = codec.encode(old), codec.encode(copy)
    return changes_between(before, after, path) if before != after else [], copy


def _common(old: list[Any], new: list[Any]) -> int:
    """How many members two lists begin with alike."""
    count, end = 0, min(len(old), len(new))
    while count < end:
        until = min(count + TOGETHER, end)
        if not Values(old[count:until]).are(new[count:until]):
            break
        count = until
    while count < end and are_same(old[count], new[count]):
        count += 1
    return count


def _or_whole(operations: list[Operation], changed: Original, path: Path) -> tuple[list[Operation], Original]:
    """One operation that replaces the container, if that is so much shorter that it is worth it."""
    saved = size_of(operations) - SAVING - size_of([Operation("replace", path, b"")])
    value = changed._value
    if saved > 0 and not _is_text_of(saved, value):
        operations = [Operation("replace", path, codec.encode(value))]
    return operations, changed


def _is_text_of(size: int, value: Any) -> bool:
    """Whether the text of a container has so many bytes at least."""
    total = 1
    names = list(value) if type(value) is dict else []
    for place, item in enumerate(_members(value)):
        total += len(codec.encode(item)) + 1 + (len(codec.encode(names[place])) + 1 if names else 0)
        if total >= size:
            return True
    return max(total, 2) >= size
