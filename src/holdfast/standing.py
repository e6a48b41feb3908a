"""Where a session in use stands: what its live state was compared with last, and what is stored meanwhile.

Rules that must stay true:
- a standing never changes; a commit, or a change by others, makes another one. So one that was computed inside of a
  transaction which is rolled back is simply dropped;
- `view` and `later edits of others` together are `stored`, whatever has been committed by whom in between;
- of what others changed only that is looked into which this session changes, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from holdfast import clock
from holdfast.declared import Types
from holdfast.difference import diff
from holdfast.edits import GONE, Document, Members, Whole, edits_of, extend, operations_of
from holdfast.merging import Settle, merge
from holdfast.operations import Operation, decode_patch, encode_patch
from holdfast.originals import Original
from holdfast.records import Change, SessionInfo
from holdfast.scalars import MARK
from holdfast.stored import StoredDocument
from holdfast.values import StoredValues

Problems = tuple[tuple[str, str], ...]
"""Paths of values that cannot be stored, each with the reason."""


class Pending(msgspec.Struct, frozen=True):
    """What the live state has that is not stored: a patch, the new values, and what cannot be stored and why."""

    operations: list[Operation]
    """What makes the live state of the view."""
    values: Mapping[str, bytes]
    """The encoded live values of all names that changed, but for those that have an original."""
    problems: Problems
    seeds: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    """Of new names: what their values were before they were changed, see `Whole.seed`."""
    originals: Mapping[str, Original] = msgspec.field(default_factory=dict)
    """The live values of names that changed inside only."""


class Standing(msgspec.Struct, frozen=True):
    """What a live state was compared with, and what is stored."""

    view: StoredDocument
    """What the live state was when it was loaded, or committed last."""
    stored: StoredDocument
    """The newest version that is known."""
    others: Members = msgspec.field(default_factory=Members)
    """What others changed, as edits of the view."""
    later: tuple[Operation, ...] = ()
    """What others changed after that, at names that this session has not changed since: operations, still to be
    made edits when they are needed."""

    @classmethod
    def level(cls, document: StoredDocument) -> Standing:
        """A live state that is what is stored."""
        return cls(document, document)

    @property
    def is_level(self) -> bool:
        """Whether nobody else has changed anything."""
        return self.view is self.stored

    def moved(self, info: SessionInfo, changes: Sequence[Change]) -> Standing:
        """Where the session stands after others have committed."""
        if not changes:
            return self
        stored = self.stored
        if stored.incarnation != info.incarnation:  # others have stored it first
            stored = StoredDocument(info.incarnation, 0, 0)
        operations = [operation for change in changes for operation in decode_patch(change.patch)]
        return Standing(self.view, stored.after_changes(changes), self.others, (*self.later, *operations))

    def edits_at(self, names: Iterable[str], values: StoredValues) -> Members:
        """What others changed at some names, as edits of the view."""
        wanted = set(names)
        later: dict[str, list[Operation]] = {}
        for operation in self.later:
            if operation.path[0] in wanted:
                later.setdefault(operation.path[0], []).append(operation)
        edits = Members({})
        for name in wanted & self.others.entries.keys():
            edit = self.others.entries[name]
            edits.entries[name] = copy.deepcopy(edit) if name in later else edit  # what follows changes it in place
        base = self._base(values)
        for name, operations in later.items():
            if name in self.view and values.encoded_if_kept(self.view, name) is None:
                # With what was there before, nobody can tell what was changed inside of it.
                edits.entries[name] = Whole(values.encoded(self.stored, name)) if name in self.stored else GONE
            else:
                extend(edits, operations, base)
        return edits

    def _base(self, values: StoredValues) -> Document:
        return Document(lambda name: values.encoded(self.view, name))

    def merged(self, pending: Pending, values: StoredValues, settle: Settle, types: Types) -> Merged:
        """What is pending on top of what is stored.

        Raises:
            Exception: what `settle` raises.
        """
        base = self._base(values)
        ours = edits_of(pending.operations, base)
        for name, seed in pending.seeds.items():
            edit = ours.entries.get(name)
            if isinstance(edit, Whole):
                edit.seed = seed
        names = set(ours.entries)
        if any(name.startswith(MARK) for name in names):
            names |= {operation.path[0] for operation in self.later} | self.others.entries.keys()
        theirs = self.edits_at(names, values)
        on_theirs, on_ours = merge(ours, theirs, base, settle, types)
        kept = {name: edit for name, edit in self.others.entries.items() if name not in names}
        return Merged(
            operations_of(on_theirs),
            Members({**kept, **on_ours.entries}),
            tuple(operation for operation in self.later if operation.path[0] not in names),
            frozenset(theirs.entries),
        )

    def committed(self, pending: Pending, merged: Merged | None) -> tuple[bytes | None, Standing]:
        """The patch to commit, and where the session stands once that is done; without one if nothing is left of it."""
        stored = self.stored
        if merged is None:
            encoded = encode_patch(pending.operations)
            after = stored.after_commit(pending.operations, pending.values, len(encoded), pending.originals)
            return encoded, Standing.level(after)
        view = self.view.edited(pending.operations, pending.values, pending.originals)
        if not merged.operations:
            return None, Standing(view, stored, merged.others, merged.later)
        encoded = encode_patch(merged.operations)
        after = stored.after_changes([Change(stored.version + 1, "", "", clock.now(), encoded)])
        for name, data in pending.values.items():
            if name in after and name not in merged.contested:
                after.settle(name, data)
        return encoded, Standing(view, after, merged.others, merged.later)


def with_seeds(operations: Iterable[Operation], seeds: Mapping[str, bytes]) -> list[Operation]:
    """The same operations, each new value made of its seed, so that the patch tells of it.

    That a container was made empty need not be told: it is what everybody assumes.

    >>> with_seeds([Operation("add", ("n",), b"[1,2]")], {"n": b"[1]"})
    [Operation(op='add', path=('n',), value=b'[1]'), Operation(op='add', path=('n', '-'), value=b'2')]
    """
    spelled: list[Operation] = []
    for operation in operations:
        name, value = operation.path[0], operation.value
        seed = seeds.get(name)
        is_new = operation.op == "add" and len(operation.path) == 1
        if value is None or seed is None or not is_new or (seed in (b"[]", b"{}") and seed[:1] == value[:1]):
            spelled.append(operation)
            continue
        spelled.append(Operation("add", (name,), seed))
        spelled += diff({name: seed}, {name: value}) or [Operation("replace", (name,), value)]
    return spelled


def seeds_in(operations: Iterable[Operation]) -> dict[str, bytes]:
    """Of new names: the value that they began with, where operations change it further.

    >>> seeds_in([Operation("add", ("n",), b"[1]"), Operation("add", ("n", "-"), b"2"), Operation("add", ("m",), b"0")])
    {'n': b'[1]'}
    """
    first: dict[str, bytes] = {}
    seeds: dict[str, bytes] = {}
    for operation in operations:
        name = operation.path[0]
        if operation.op == "add" and len(operation.path) == 1:
            first[name] = operation.value or b""
        elif name in first:
            seeds[name] = first[name]
    return seeds


class Merged(msgspec.Struct, frozen=True):
    """What was pending, brought together with what others changed."""

    operations: list[Operation]
    """On top of what is stored."""
    others: Members
    """What others changed, as edits of the live state."""
    later: tuple[Operation, ...]
    contested: frozenset[str]
    """Names of values that both changed."""
