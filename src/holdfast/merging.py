"""Brings together what two runs changed, both starting from one base.

Rules that must stay true:
- every change of either side is in the result once, or nothing is: what overlaps is settled by whoever called, or
  raises. Equal scalars written by both overlap as well, for two increments look like that;
- both results are made in one walk: our edits on top of theirs, to be stored, and theirs on top of ours, for the
  state that is in use; either way the same document comes out, but for the order of keys;
- where both insert at one place of a list, what was committed first stands first;
- nothing is read but what both sides changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from holdfast import codec
from holdfast.declared import NO_TYPES, Types
from holdfast.difference import diff
from holdfast.edits import (
    GONE,
    Document,
    Edit,
    Edited,
    Elements,
    Members,
    New,
    Place,
    Whole,
    applied,
    edits_of,
    is_container,
)
from holdfast.errors import HoldfastError, VersionNotKept
from holdfast.operations import Disputed, Operation, path_of, pointer_of
from holdfast.scalars import MARK

Where = tuple[str | int, ...]

START = 0
"""The place before the first element that the slots of a list account for."""


class Overlap(msgspec.Struct, frozen=True):
    """A place that both sides changed; of each value the encoded text, None where there is none."""

    path: Where
    """The names, and the indexes in the base."""
    base: bytes | None
    ours: bytes | None
    theirs: bytes | None


Settle = Callable[[Overlap], bytes | None]
"""Says what an overlapping place is to hold, None for nothing; or raises."""

Pair = tuple[Edit | None, Edit | None]
"""Our edit on top of theirs, and theirs on top of ours; None where nothing is left to do."""


def merge(
    ours: Members, theirs: Members, base: Place, settle: Settle, types: Types = NO_TYPES
) -> tuple[Members, Members]:
    """Bring two edits of one base together.

    Args:
        ours: what is about to be committed.
        theirs: what was committed first.
        base: what both start from.
        settle: decides what overlaps.
        types: the types that keys may be of.

    Returns:
        Our edits, with theirs as their base; and theirs, with ours as their base.

    >>> base = Document({"n": b"[1]"}.__getitem__)
    >>> ours, theirs = Members({"n": Elements([New(b"2")])}), Members({"n": Elements([New(b"3")])})
    >>> on_theirs, on_ours = merge(ours, theirs, base, last_write)
    >>> applied(on_theirs.entries["n"], b"[1,3]"), applied(on_ours.entries["n"], b"[1,2]")
    (b'[1,3,2]', b'[1,3,2]')
    """
    return _Merging(settle, types).members(ours, theirs, base, ())


def last_write(overlap: Overlap) -> bytes | None:
    """Settle an overlap in favour of what is committed last."""
    return overlap.ours


def disputed(operations: list[Operation], overlaps: Iterable[Overlap]) -> list[Operation]:
    """Operations that were made over what others have changed, marked with the places where that is so.

    >>> marked = disputed([Operation("replace", ("n",), b"1")], [Overlap(("n",), b"0", b"1", b"2")])
    >>> overlaps_in(marked)
    [Overlap(path=('n',), base=b'0', ours=b'1', theirs=b'2')]
    """
    places = tuple(
        Disputed(pointer_of(tuple(map(str, overlap.path))), *map(_raw, (overlap.base, overlap.ours, overlap.theirs)))
        for overlap in overlaps
    )
    if not operations or not places:
        return operations
    first = operations[0]
    return [Operation(first.op, first.path, first.value, first.atom, places), *operations[1:]]


def overlaps_in(operations: Iterable[Operation]) -> list[Overlap]:
    """The places at which operations were made over what others had changed, see `disputed`."""
    return [
        Overlap(path_of(place.path), *map(_bytes, (place.base, place.ours, place.theirs)))
        for operation in operations
        for place in operation.disputed
    ]


def _raw(data: bytes | None) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.UNSET if data is None else msgspec.Raw(data)


def _bytes(raw: msgspec.Raw | msgspec.UnsetType) -> bytes | None:
    return None if isinstance(raw, msgspec.UnsetType) else bytes(raw)


class _Merging:
    def __init__(self, settle: Settle, types: Types) -> None:
        self._settle = settle
        self._types = types

    def members(self, ours: Members, theirs: Members, place: Place, path: Where) -> tuple[Members, Members]:
        pairs: dict[str, Pair] = {}
        for name, edit in ours.entries.items():
            other = theirs.entries.get(name)
            pairs[name] = (
                (edit, None) if other is None else self._pair(edit, other, (*path, name), partial(place.child, name))
            )
        for name, edit in theirs.entries.items():
            if name not in pairs:
                pairs[name] = (None, edit)
        self._settle_equal_keys(ours, theirs, pairs, path)
        return (
            Members({name: mine for name, (mine, _) in pairs.items() if mine is not None}),
            Members({name: other for name, (_, other) in pairs.items() if other is not None}),
        )

    def _settle_equal_keys(self, ours: Members, theirs: Members, pairs: dict[str, Pair], path: Where) -> None:
        """Two names can stand for keys that are equal, such as 1 and True; no dict can hold both."""
        mine, other = _new_odd_names(ours), _new_odd_names(theirs)
        if not mine and not other:
            return
        self._drop_equal_to_brought_back(ours, theirs, (mine, other), pairs)
        if not mine or not other:
            return
        keys = {name: self._key_or_name(name) for name in {*mine, *other}}
        for name in mine:
            for their_name in other:
                if name != their_name and keys[name] == keys[their_name]:
                    overlap = Overlap((*path, name), None, mine[name].value, other[their_name].value)
                    self._place_one(pairs, name, their_name, overlap)

    def _drop_equal_to_brought_back(
        self, ours: Members, theirs: Members, new: tuple[dict[str, Whole], dict[str, Whole]], pairs: dict[str, Pair]
    ) -> None:
        """One side put an equal key in the place of one that was settled to stay: that decides about both."""
        for name in ours.entries.keys() & theirs.entries.keys():
            on_ours = pairs[name][1]
            is_gone = (ours.entries[name] if on_ours is None else on_ours) is GONE
            if not name.startswith(MARK) or is_gone or (name in new[0] and name in new[1]):
                continue
            key = self._key_or_name(name)
            for side, nothing in ((0, (None, GONE)), (1, (GONE, None))):
                for equal in new[side]:
                    if equal != name and self._key_or_name(equal) == key:
                        pairs[equal] = nothing

    def _place_one(self, pairs: dict[str, Pair], name: str, their_name: str, overlap: Overlap) -> None:
        settled = self._settle(overlap)
        if settled is None or settled == overlap.theirs:
            pairs[name] = (None, GONE)
            return
        pairs[their_name] = (GONE, None)
        pairs[name] = (Whole(settled, is_new=True), None if settled == overlap.ours else Whole(settled))

    def _key_or_name(self, name: str) -> object:
        try:
            return codec.key_of(name, self._types)
        except HoldfastError:
            return name

    def _pair(self, mine: Edit, other: Edit, here: Where, base: Callable[[], Place]) -> Pair:
        """What is left to do on either side at a place that both changed."""
        if mine is GONE and other is GONE and isinstance(here[-1], str):
            return None, None
        if isinstance(mine, Members) and isinstance(other, Members) and not (mine.atom or other.atom):
            return self.members(mine, other, base(), here)
        if isinstance(mine, Elements) and isinstance(other, Elements) and not (mine.atom or other.atom):
            return self.elements(mine, other, base(), here)
        if isinstance(mine, Whole) and isinstance(other, Whole) and mine.is_new and other.is_new:
            pair = self._pair_of_new(mine, other, here)
            if pair is not None:
                return pair
        is_new = isinstance(mine, Whole) and mine.is_new
        before = None if is_new else _data_of(base)
        return self._settled(Overlap(here, before, applied(mine, before), applied(other, before)))

    def _pair_of_new(self, mine: Whole, other: Whole, here: Where) -> Pair | None:
        """If both made the same value there, a default or an empty container, and went on from it: as for any other
        value that was there before. None if they did not."""
        seed = _seed(mine, other)
        if seed is None:
            return None
        base = Document(lambda _: seed)
        ours, theirs = (edits_of(diff({"": seed}, {"": whole.value}), base).entries.get("") for whole in (mine, other))
        if ours is None or theirs is None:
            return ours, theirs
        return None if mine.atom or other.atom else self._pair(ours, theirs, here, lambda: Place(seed))

    def _settled(self, overlap: Overlap) -> Pair:
        settled = self._settle(overlap)
        return _towards(settled, overlap.theirs), _towards(settled, overlap.ours)

    def elements(self, ours: Elements, theirs: Elements, place: Place, path: Where) -> tuple[Elements, Elements]:
        is_full = ours.is_full or theirs.is_full
        reach = max(ours.reach, theirs.reach)
        mine, other = _Laid(ours, reach), _Laid(theirs, reach)
        on_theirs, on_ours = Elements([], len(other.slots), is_full), Elements([], len(mine.slots), is_full)
        for anchor in range(-reach - 1, 0):
            if anchor >= -reach:
                self._element(anchor, (mine, other), (on_theirs, on_ours), (place, path))
            after = START if anchor < -reach else anchor
            for at, new in other.inserted.get(after, ()):
                on_theirs.slots.append(at)
                on_ours.slots.append(new)
            for at, new in mine.inserted.get(after, ()):
                on_theirs.slots.append(new)
                on_ours.slots.append(at)
        return on_theirs, on_ours

    def _element(
        self,
        anchor: int,
        laid: tuple[_Laid, _Laid],
        results: tuple[Elements, Elements],
        where: tuple[Place, Where],
    ) -> None:
        """What becomes of one element of the base."""
        mine, other = laid
        my_edit, other_edit = mine.changed.get(anchor), other.changed.get(anchor)
        pair: Pair
        if my_edit is None or other_edit is None:
            pair = my_edit, other_edit
        else:
            place, path = where
            here = (*path, place.size() + anchor)
            pair = self._pair(my_edit, other_edit, here, partial(place.child, anchor))
        for edit, theirs, result in ((pair[0], other, results[0]), (pair[1], mine, results[1])):
            at = theirs.kept.get(anchor)
            if at is None:  # removed there: only a whole value can bring it back
                if isinstance(edit, Whole):
                    result.slots.append(New(edit.value))
            elif edit is None:
                result.slots.append(at)
            elif edit is not GONE:
                result.slots.append(Edited(at, edit))


class _Laid:
    """The slots of one side, found by the element of the base that they are, or come after."""

    def __init__(self, elements: Elements, reach: int) -> None:
        self.slots = [*range(-reach, -elements.reach), *elements.slots]
        self.kept: dict[int, int] = {}
        """Where each element of the base that stayed stands now, from the end."""
        self.changed: dict[int, Edit] = {}
        self.inserted: dict[int, list[tuple[int, New]]] = {}
        after = START
        for at, slot in enumerate(self.slots, -len(self.slots)):
            if isinstance(slot, New):
                self.inserted.setdefault(after, []).append((at, slot))
                continue
            after = slot if isinstance(slot, int) else slot.place
            self.kept[after] = at
            if isinstance(slot, Edited):
                self.changed[after] = slot.edit
        for place in range(-reach, 0):
            if place not in self.kept:
                self.changed[place] = GONE


def _new_odd_names(edits: Members) -> dict[str, Whole]:
    return {
        name: edit
        for name, edit in edits.entries.items()
        if name.startswith(MARK) and isinstance(edit, Whole) and edit.is_new
    }


def _seed(mine: Whole, other: Whole) -> bytes | None:
    """What two new values of one place were before they were changed, as far as that can be known.

    Ours is known at the top level. Deeper, where nobody sees assignments, two containers of one kind count as made
    empty, which is how most of them are made.
    """
    if mine.seed is not None or mine.atom or other.atom:
        return mine.seed
    is_alike = is_container(mine.value) and is_container(other.value) and mine.value[:1] == other.value[:1]
    return {b"[": b"[]", b"{": b"{}"}[mine.value[:1]] if is_alike else None


def _data_of(base: Callable[[], Place]) -> bytes | None:
    """What was there before; None if that is not kept any more. Then both sides hold something whole."""
    try:
        return base().data
    except VersionNotKept:
        return None


def _towards(wanted: bytes | None, present: bytes | None) -> Edit | None:
    """The edit that makes a place hold what is wanted."""
    if wanted == present:
        return None
    if wanted is None:
        return GONE
    return Whole(wanted, is_new=present is None)
