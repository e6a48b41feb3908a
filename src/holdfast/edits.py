"""What was changed in a document, as a tree beside it: made of operations, applied to encoded and to live values.

Rules that must stay true:
- an edit is relative to one base. Where the base has to be looked at, a `Place` of it is handed along, so that only
  what lies on the way to a change is ever decoded;
- an element of the base list is known by its distance from the end, -1 for the last: appends need no length, and
  what they are appended to is not even counted;
- elements of the base keep their order; there is no move. A key that is moved to the end is removed and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import msgspec

from holdfast import patch
from holdfast.difference import elements, is_tag, members
from holdfast.errors import MalformedData
from holdfast.operations import Operation, Path

_writer = msgspec.json.Encoder()


class Place:
    """An encoded value of the base, opened when its members are asked for.

    >>> Place(b'{"a":[1,2]}').child("a").child(-1).data
    b'2'
    """

    __slots__ = ("_opened", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._opened: Any = None

    @property
    def is_list(self) -> bool:
        """Whether it is a list; else it must be an object that is no tag.

        Raises:
            MalformedData: it is neither.
        """
        if self.data.startswith(b"["):
            return True
        if is_container(self.data):
            return False
        raise MalformedData(where="a patch", what="it changes something inside a value that has no inside")

    def size(self) -> int:
        """How many members it has."""
        return len(self._open())

    def child(self, step: str | int) -> Place:
        """The member of a name, or the element at an index.

        Raises:
            MalformedData: there is none.
        """
        try:
            return Place(bytes(self._open()[step]))
        except (KeyError, IndexError, TypeError):
            raise MalformedData(where="a patch", what="the document has no such place") from None

    def _open(self) -> Any:
        if self._opened is None:
            self._opened = elements(self.data) if self.is_list else members(self.data)
        return self._opened


class Document(Place):
    """The base as a whole: top-level values by name, each read when it is asked for."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[str], bytes]) -> None:
        super().__init__(b"{}")
        self._read = read

    def child(self, step: str | int) -> Place:
        """The top-level value of a name."""
        try:
            return Place(self._read(str(step)))
        except KeyError:
            raise MalformedData(where="a patch", what="the document has no such place") from None


class Gone:
    """The member was removed; there is one, `GONE`."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Gone:
        return self  # it is known by its identity


GONE = Gone()


class Whole(msgspec.Struct):
    """The place holds another value, which says nothing about what was there before."""

    value: bytes
    is_new: bool = False
    """Whether the base has nothing there."""
    is_moved: bool = False
    """Whether it was removed and added at the end."""
    atom: bool = False
    """Whether a container was put there with what it holds, so that it merges with nothing."""
    seed: bytes | None = None
    """Of a new value: what it was before it was changed, a default or an empty container; None when not known."""


class Members(msgspec.Struct):
    """Some members of an object changed; new ones stand in the order in which they were added."""

    entries: dict[str, Any] = {}
    """Of each name its edit."""
    atom: bool = False
    """Whether the object was assigned whole, and is only described by what differs."""


class Edited(msgspec.Struct):
    """An element of the base, changed."""

    place: int
    edit: Edit


class New(msgspec.Struct):
    """An element that the base does not have."""

    value: bytes


class Elements(msgspec.Struct):
    """The elements of a list, from the first one that is touched to the end: `slots` is what stands there now.

    An int is an element of the base that stayed as it was; one that is not there was removed.
    """

    slots: list[Any] = []
    reach: int = 0
    """How many elements at the end of the base the slots account for; those before them are unchanged."""
    is_full: bool = False
    """Whether that is all of them."""
    atom: bool = False

    def extend(self, reach: int, *, is_full: bool) -> None:
        """Account for at least so many elements of the base."""
        if reach > self.reach:
            self.slots[:0] = range(-reach, -self.reach)
            self.reach = reach
        self.is_full = self.is_full or is_full


Edit: TypeAlias = Gone | Whole | Members | Elements


def is_container(data: bytes) -> bool:
    """Whether an encoded value is a list, or an object that is no tag.

    >>> is_container(b"[1]"), is_container(b'{"$hf":["set",[1]]}')
    (True, False)
    """
    return data.startswith(b"[") or (data.startswith(b"{") and not is_tag(data))


# -- from operations --------------------------------------------------------------------------------------------


def edits_of(operations: Iterable[Operation], base: Place) -> Members:
    """The edits that operations make, one after the other, to a base.

    >>> base = Document({"posts": b'["a","b"]'}.__getitem__)
    >>> edits = edits_of([Operation("remove", ("posts", "0")), Operation("add", ("posts", "-"), b'"c"')], base)
    >>> applied(edits.entries["posts"], b'["a","b"]')
    b'["b","c"]'
    """
    edits = Members({})
    extend(edits, operations, base)
    return edits


def extend(edits: Members, operations: Iterable[Operation], base: Place) -> None:
    """Add operations that were made after the edits, whose base it is.

    Raises:
        MalformedData: an operation does not fit.
    """
    for operation in operations:
        patch.require(bool(operation.path), operation.path)
        try:
            _take(edits, base, operation, 0)
        except MalformedData:
            patch.require(False, operation.path)


def _take(holder: Members | Elements, place: Place, operation: Operation, depth: int) -> None:
    if depth and operation.atom == depth:
        holder.atom = True
    if isinstance(holder, Members):
        _take_member(holder, place, operation, depth)
    else:
        _take_element(holder, place, operation, depth)


def _take_member(holder: Members, place: Place, operation: Operation, depth: int) -> None:
    name = operation.path[depth]
    edit = holder.entries.get(name)
    if depth == len(operation.path) - 1:
        _set_member(holder, name, edit, operation)
        return
    patch.require(edit is not GONE, operation.path)
    if isinstance(edit, Whole):
        _change_inside(edit, operation, depth)
        return
    inner = place.child(name)
    if edit is None:
        edit = holder.entries[name] = _untouched(inner)
    assert isinstance(edit, Members | Elements)
    _take(edit, inner, operation, depth + 1)


def _set_member(holder: Members, name: str, edit: Edit | None, operation: Operation) -> None:
    value, atom = operation.value, operation.atom > 0
    if value is None:
        if isinstance(edit, Whole) and edit.is_new:
            del holder.entries[name]
        else:
            holder.entries[name] = GONE
    elif operation.op == "add" and (edit is None or edit is GONE):
        holder.entries.pop(name, None)  # so that it stands at the end
        holder.entries[name] = Whole(value, is_new=edit is None, is_moved=edit is GONE, atom=atom)
    else:
        patch.require(edit is not GONE, operation.path)
        before = edit if isinstance(edit, Whole) else Whole(b"")
        holder.entries[name] = Whole(value, is_new=before.is_new, is_moved=before.is_moved, atom=atom or before.atom)


def _take_element(holder: Elements, place: Place, operation: Operation, depth: int) -> None:
    segment = operation.path[depth]
    is_last = depth == len(operation.path) - 1
    if is_last and operation.op == "add" and segment == "-":
        holder.slots.append(New(operation.value or b""))
        return
    holder.extend(place.size(), is_full=True)
    at = int(segment) if patch.is_index(segment) else len(holder.slots) + 1
    patch.require(at < len(holder.slots) + (is_last and operation.op == "add"), operation.path)
    if is_last:
        _set_element(holder, at, operation)
        return
    slot = holder.slots[at]
    if isinstance(slot, New):
        _change_inside(slot, operation, depth)
        return
    if isinstance(slot, int):
        slot = holder.slots[at] = Edited(slot, _untouched(place.child(slot)))
    if isinstance(slot.edit, Whole):
        _change_inside(slot.edit, operation, depth)
    else:
        _take(slot.edit, place.child(slot.place), operation, depth + 1)


def _set_element(holder: Elements, at: int, operation: Operation) -> None:
    if operation.value is None:
        del holder.slots[at]
    elif operation.op == "add":
        holder.slots.insert(at, New(operation.value))
    elif isinstance(holder.slots[at], New):
        holder.slots[at] = New(operation.value)
    else:
        place = holder.slots[at] if isinstance(holder.slots[at], int) else holder.slots[at].place
        holder.slots[at] = Edited(place, Whole(operation.value))


def _change_inside(holder: Whole | New, operation: Operation, depth: int) -> None:
    """Change a value that is not of the base in a deeper place."""
    document = {"": holder.value}
    path = ("", *operation.path[depth + 1 :])
    patch.apply(document, [Operation(operation.op, path, operation.value)])
    holder.value = document[""]
    if isinstance(holder, Whole) and 0 < operation.atom <= depth + 1:
        holder.atom = True


def _untouched(place: Place) -> Members | Elements:
    return Elements([]) if place.is_list else Members({})


# -- to operations, and to values -------------------------------------------------------------------------------


def operations_of(edits: Members) -> list[Operation]:
    """The operations that make these edits.

    >>> operations_of(Members({"a": GONE, "posts": Elements([New(b"1")])}))
    [Operation(op='remove', path=('a',)), Operation(op='add', path=('posts', '-'), value=b'1')]
    """
    return list(_written(edits, (), 0))


def _written(edit: Edit, path: Path, atom: int) -> Iterator[Operation]:
    if isinstance(edit, Members):
        yield from _written_members(edit, path, atom or (len(path) if edit.atom else 0))
    elif isinstance(edit, Elements):
        yield from _written_elements(edit, path, atom or (len(path) if edit.atom else 0))
    elif isinstance(edit, Whole):
        atom = atom or (len(path) if edit.atom else 0)
        yield Operation("add" if edit.is_new or edit.is_moved else "replace", path, edit.value, atom)
    else:
        yield Operation("remove", path, None, atom)


def _written_members(edit: Members, path: Path, atom: int) -> Iterator[Operation]:
    for name, inner in edit.entries.items():
        if inner is GONE or (isinstance(inner, Whole) and inner.is_moved):
            yield Operation("remove", (*path, name), None, atom)
    for name, inner in edit.entries.items():
        if inner is not GONE:
            yield from _written(inner, (*path, name), atom)


def _written_elements(edit: Elements, path: Path, atom: int) -> Iterator[Operation]:
    if not edit.is_full:
        added = edit.slots[edit.reach :]
        assert edit.slots[: edit.reach] == list(range(-edit.reach, 0)), "only appends do without a length"
        yield from (Operation("add", (*path, "-"), new.value, atom) for new in added)
        return
    last = max((at for at, slot in enumerate(edit.slots) if not isinstance(slot, New)), default=-1)
    following = -edit.reach
    for at, slot in enumerate(edit.slots):
        place = slot if isinstance(slot, int) else slot.place if isinstance(slot, Edited) else following
        until = 0 if at > last else place
        # Whatever was removed between two elements goes before what was added there, so that an append is one.
        while following < until:
            yield Operation("remove", (*path, str(at)), None, atom)
            following += 1
        if isinstance(slot, New):
            yield Operation("add", (*path, "-" if at > last else str(at)), slot.value, atom)
            continue
        if isinstance(slot, Edited):
            yield from _written(slot.edit, (*path, str(at)), atom)
        following = place + 1
    yield from (Operation("remove", (*path, str(len(edit.slots))), None, atom) for _ in range(-following))


def applied(edit: Edit, data: bytes | None) -> bytes | None:
    """An encoded value after an edit; None when there is none."""
    if edit is GONE:
        return None
    if isinstance(edit, Whole):
        return edit.value
    assert data is not None
    if isinstance(edit, Members):
        return _writer.encode(_members_after(edit, members(data)))
    assert isinstance(edit, Elements)
    return _writer.encode(_elements_after(edit, elements(data)))


def _members_after(edit: Members, before: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    after = dict(before)
    for name, inner in edit.entries.items():
        if inner is GONE or (isinstance(inner, Whole) and inner.is_moved):
            after.pop(name, None)
    for name, inner in edit.entries.items():
        if inner is not GONE:
            old = bytes(before[name]) if name in before else None
            after[name] = msgspec.Raw(applied(inner, old) or b"")
    return after


def _elements_after(edit: Elements, before: list[msgspec.Raw]) -> list[msgspec.Raw]:
    after = before[: len(before) - edit.reach]
    for slot in edit.slots:
        if isinstance(slot, New):
            after.append(msgspec.Raw(slot.value))
        elif isinstance(slot, Edited):
            after.append(msgspec.Raw(applied(slot.edit, bytes(before[slot.place])) or b""))
        else:
            after.append(before[slot])
    return after


def apply_live(edit: Members | Elements, live: Any, decoded: Callable[[bytes], Any], key_of: KeyOf) -> None:
    """Make edits in a live container, in place; what stays keeps its identity.

    Args:
        edit: of the container.
        live: a dict or list.
        decoded: makes a value.
        key_of: finds the key of a name in a dict.
    """
    if isinstance(edit, Members):
        for name, inner in edit.entries.items():
            _apply_live_member(inner, live, key_of(live, name), decoded, key_of)
        return
    start = len(live) - edit.reach
    after = []
    for slot in edit.slots:
        if isinstance(slot, New):
            after.append(decoded(slot.value))
            continue
        old = live[slot if isinstance(slot, int) else slot.place]
        after.append(old if isinstance(slot, int) else _live_after(slot.edit, old, decoded, key_of))
    live[start:] = after


KeyOf: TypeAlias = Callable[[dict[Any, Any], str], Any]


def _apply_live_member(
    edit: Edit, live: dict[Any, Any], key: Any, decoded: Callable[[bytes], Any], key_of: KeyOf
) -> None:
    if edit is GONE:
        del live[key]
        return
    if isinstance(edit, Whole) and edit.is_moved:
        live.pop(key, None)
    live[key] = _live_after(edit, live.get(key), decoded, key_of)


def _live_after(edit: Edit, old: Any, decoded: Callable[[bytes], Any], key_of: KeyOf) -> Any:
    if isinstance(edit, Whole):
        return patch.graft(old, decoded(edit.value))
    assert isinstance(edit, Members | Elements)
    apply_live(edit, old, decoded, key_of)
    return old
