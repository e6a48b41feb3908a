"""What changed between two encoded documents, as the operations of a JSON Patch.

Rules that must stay true:
- equality is that of the encoded bytes, so 1, true and 1.0 differ, and what is equal is never decoded further;
- the order of keys is part of the value: a key that lost its place is removed and added at the end;
- a tag object is one atom; a list that only grew is nothing but `add .../-`;
- the work is about proportional to the size of the texts, however much was shuffled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from holdfast.operations import Operation, Path
from holdfast.recursion import with_room

SAVING = 4_096
"""Bytes that replacing a value whole must save over changing it in places. Operations at places merge with those
of another run and a replacement does not, so it must be worth it."""

OPERATION_SIZE = 30
"""Bytes of an operation beside its path and value."""

ROUNDS = 8
"""How often a stretch between two found elements is searched again."""

_TAG = b'{"$hf":'
_list_reader = msgspec.json.Decoder(list[msgspec.Raw])
_dict_reader = msgspec.json.Decoder(dict[str, msgspec.Raw])

Gap = tuple[int, int, int, int]
"""Elements `old[a:b]` gave way to `new[c:d]`."""


def diff(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[Operation]:
    """The operations that turn one document into another, names in order included.

    Args:
        old, new: encoded values by name.

    >>> diff({"n": b"1", "posts": b'["a"]'}, {"n": b"2", "posts": b'["a","b"]'})
    [Operation(op='replace', path=('n',), value=b'2'), Operation(op='add', path=('posts', '-'), value=b'"b"')]
    """
    return with_room(_members, old, new, ())


def displaced(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names to remove, and then those to add at the end, that turn one order of names into another.

    The names that stay are the longest beginning of the new order that is in the old order as well.

    >>> displaced(["a", "b", "c"], ["a", "c", "b", "d"])
    (['b'], ['b', 'd'])
    """
    places = {name: place for place, name in enumerate(old)}
    kept: set[str] = set()
    last = -1
    for name in new:
        place = places.get(name, -1)
        if place <= last:
            break
        kept.add(name)
        last = place
    return [name for name in old if name not in kept], list(new[len(kept) :])


def is_tag(data: bytes) -> bool:
    """Whether an encoded value is a tag object.

    >>> is_tag(b'{"$hf":["set",[1]]}'), is_tag(b'{"a":1}')
    (True, False)
    """
    return data.startswith(_TAG)


def members(data: bytes) -> dict[str, msgspec.Raw]:
    """The encoded members of an encoded object.

    >>> {name: bytes(value) for name, value in members(b'{"a":[1,2]}').items()}
    {'a': b'[1,2]'}
    """
    return _dict_reader.decode(data)


def elements(data: bytes) -> list[msgspec.Raw]:
    """The encoded elements of an encoded list.

    >>> list(map(bytes, elements(b'[1,[2]]')))
    [b'1', b'[2]']
    """
    return _list_reader.decode(data)


def _members(old: Mapping[str, bytes], new: Mapping[str, bytes], path: Path) -> list[Operation]:
    removed, added = displaced(list(old), list(new))
    operations = [Operation("remove", (*path, name)) for name in removed]
    fresh = set(added)
    for name, data in new.items():
        if name not in fresh and old[name] != data:
            operations += changes_between(old[name], data, (*path, name))
    operations += [Operation("add", (*path, name), new[name]) for name in added]
    return operations


def changes_between(old: bytes, new: bytes, path: Path) -> list[Operation]:
    """The operations for two values that differ."""
    whole = [Operation("replace", path, new)]
    kind = new[:1]
    if kind != old[:1] or kind not in (b"[", b"{") or is_tag(old) or is_tag(new):
        return whole
    if kind == b"[":
        grown = _grown(old, new)
        if grown is not None:
            return [Operation("add", (*path, "-"), bytes(item)) for item in grown]
        operations = elements_between(_plain_bytes(elements(old)), _plain_bytes(elements(new)), path)
    else:
        operations = _members(_by_name(old), _by_name(new), path)
    return whole if size_of(operations) > size_of(whole) + SAVING else operations


def _grown(old: bytes, new: bytes) -> list[msgspec.Raw] | None:
    """The elements that were appended to a list, if nothing else was done to it."""
    if old == b"[]":
        return elements(new)
    end = len(old) - 1
    if new[end : end + 1] == b"," and new.startswith(old[:end]):
        return elements(b"[" + new[end + 1 :])
    return None


def _plain_bytes(raws: Iterable[Any]) -> list[bytes]:
    return list(map(bytes, raws))


def _by_name(data: bytes) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in members(data).items()}


def size_of(operations: list[Operation]) -> int:
    """About how many bytes the operations take. An append counts as its value: it is never worth replacing."""
    size = 0
    for operation in operations:
        size += len(operation.value or b"")
        if operation.path[-1] != "-":
            size += OPERATION_SIZE + sum(map(len, operation.path)) + len(operation.path)
    return size


def elements_between(
    old: list[bytes], new: list[bytes], path: Path, *, first: int = 0, is_last: bool = True
) -> list[Operation]:
    """The operations that turn a stretch of an encoded list into another one.

    Args:
        old, new: the encoded elements.
        path: that of the list.
        first: the place of the stretch.
        is_last: whether it reaches to the end.

    >>> elements_between([b"1"], [b"1", b"2"], ("n",), first=5, is_last=False)
    [Operation(op='add', path=('n', '6'), value=b'2')]
    """
    operations: list[Operation] = []
    for start, end, to_start, to_end in gaps(old, new):
        # Everything to the left is in its new form already, so an index is one of the new list.
        paired = min(end - start, to_end - to_start)
        for offset in range(paired):
            before, after = old[start + offset], new[to_start + offset]
            if before != after:
                operations += changes_between(before, after, (*path, str(first + to_start + offset)))
        here = (*path, str(first + to_start + paired))
        operations += [Operation("remove", here) for _ in range(end - start - paired)]
        for index in range(to_start + paired, to_end):
            segment = "-" if is_last and end == len(old) else str(first + index)
            operations.append(Operation("add", (*path, segment), new[index]))
    return operations


def gaps(old: Sequence[bytes], new: Sequence[bytes]) -> list[Gap]:
    """The stretches in which two lists differ, from left to right.

    Equal beginnings and ends are left out; between them, elements that occur once in either list and keep their
    order hold the lists together (patience diff).

    >>> gaps([b"a", b"b", b"c", b"d"], [b"a", b"c", b"x", b"d"])
    [(1, 2, 1, 1), (3, 3, 2, 3)]
    """
    found: list[Gap] = []
    pending = [(0, len(old), 0, len(new), 0)]
    while pending:
        start, end, to_start, to_end, done = pending.pop()
        head = _common(old[start:end], new[to_start:to_end])
        start, to_start = start + head, to_start + head
        tail = _common(old[start:end][::-1], new[to_start:to_end][::-1])
        end, to_end = end - tail, to_end - tail
        if start == end and to_start == to_end:
            continue
        anchors = _anchors(old[start:end], new[to_start:to_end]) if done < ROUNDS else []
        if not anchors:
            found.append((start, end, to_start, to_end))
            continue
        between: list[tuple[int, int, int, int, int]] = []
        left, to_left = start, to_start
        for place, to_place in anchors:
            between.append((left, start + place, to_left, to_start + to_place, done + 1))
            left, to_left = start + place + 1, to_start + to_place + 1
        between.append((left, end, to_left, to_end, done + 1))
        pending += reversed(between)
    return found


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many elements two lists begin with alike."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _anchors(old: Sequence[bytes], new: Sequence[bytes]) -> list[tuple[int, int]]:
    """The longest run of pairs, rising in both lists, of elements that occur once in each."""
    places, to_places = _single(old), _single(new)
    pairs = [(place, to_places[item]) for item, place in places.items() if item in to_places]
    ends: list[int] = []  # for each length, the smallest last place of a rising run that long
    last: list[int] = []  # the pair that run ends with
    before: list[int] = []  # for each pair, the one before it in the run that it ended
    for index, (_, to_place) in enumerate(pairs):
        length = bisect_left(ends, to_place)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [to_place]
        last[length : length + 1] = [index]
    run: list[tuple[int, int]] = []
    index = last[-1] if last else -1
    while index >= 0:
        run.append(pairs[index])
        index = before[index]
    return run[::-1]


def _single(items: Sequence[bytes]) -> dict[bytes, int]:
    """The places of the elements that occur once, in order."""
    places: dict[bytes, int] = {}
    repeated: set[bytes] = set()
    for place, item in enumerate(items):
        if item in places:
            repeated.add(item)
        places[item] = place
    return {item: place for item, place in places.items() if item not in repeated}
