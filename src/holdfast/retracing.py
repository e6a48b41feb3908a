"""The changes of one run, undone and made again.

Rules that must stay true:
- what one run changed is undone on top of everything that others have committed since, or not at all: where they
  changed the same places, nobody decides;
- a change is made again only on what it was made on: where that is another value now, what was counted on top of it
  would be lost; and inside of a list that is another one, its place would be a guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import eq
from typing import Any

import msgspec

from holdfast import clock
from holdfast.declared import NO_TYPES
from holdfast.difference import diff, displaced, elements, is_tag, members
from holdfast.edits import Members, operations_of
from holdfast.errors import RunNotResumable, VersionNotKept
from holdfast.merging import Overlap
from holdfast.operations import Operation, Path, decode_patch, encode_patch, pointer_of
from holdfast.records import Change, Run
from holdfast.standing import Pending, Standing
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument
from holdfast.values import StoredValues


class Misplaced(Exception):
    """What a change was made on is something else now; its argument is the path of the value that has it."""


class StateChange(msgspec.Struct, frozen=True):
    """What a step changed in the session state."""

    patch: msgspec.Raw
    bases: dict[str, str]
    """By name: the digest of what was changed in its value, as it was before."""

    @classmethod
    def of(cls, operations: Sequence[Operation], before: Callable[[str], bytes | None]) -> StateChange:
        """Note operations.

        Args:
            before: finds the encoded value of a name, as it was before them; None if there was none.
        """
        inside = _by_name(operations)
        return cls(msgspec.Raw(encode_patch(operations)), {name: _base(inside[name], before(name)) for name in inside})

    @classmethod
    def from_bytes(cls, data: bytes) -> StateChange:
        """What `to_bytes` gave."""
        return msgspec.json.decode(data, type=cls)

    def to_bytes(self) -> bytes:
        """The change as it is recorded."""
        return msgspec.json.encode(self)

    def operations(self) -> list[Operation]:
        """What was done."""
        return decode_patch(bytes(self.patch))

    def require_places(self, values: Mapping[str, bytes]) -> None:
        """Check that everything that was changed is what it was before.

        Raises:
            Misplaced: something is not.
        """
        for name, operations in _by_name(self.operations()).items():
            if _base(operations, values.get(name)) != self.bases.get(name):
                raise Misplaced(pointer_of((name,)))


def _by_name(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.path[0], []).append(operation)
    return found


def _base(operations: Sequence[Operation], value: bytes | None) -> str:
    """The digest of what operations find at their places in one value; of a list that they change inside, but for
    additions at its end, that is the whole value."""
    opened: dict[Path, Any] = {(): {} if value is None else {operations[0].path[0]: value}}
    found: list[tuple[str, str]] = []
    seen: set[Path] = set()
    for operation in operations:
        path = operation.path
        if any(path[:length] in seen for length in range(1, len(path) + 1)):
            continue  # what was put there by one of them
        seen.add(path)
        holder = _container(opened, path[:-1])
        if type(holder) is list and path[-1] == "-":
            found.append((pointer_of(path), "end"))
        elif type(holder) is dict:
            there = holder.get(path[-1])
            found.append((pointer_of(path), "none" if there is None else _digest(there)))
        else:
            return _digest(value or b"")
    return _digest(msgspec.json.encode(found))


def _container(opened: dict[Path, Any], path: Path) -> Any:
    """The members of the container at a path, which leads through none but objects; else None."""
    if path not in opened:
        holder = _container(opened, path[:-1])
        data = holder.get(path[-1], b"") if type(holder) is dict else b""
        start = bytes(memoryview(data)[:1])
        if start == b"[":
            opened[path] = elements(data)
        else:
            opened[path] = members(data) if start == b"{" and not is_tag(bytes(data)) else None
    return opened[path]


def _digest(data: bytes | msgspec.Raw) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


class Undoing:
    """What undoes, on top of what is stored now, everything that a run has committed since its start.

    Args:
        storage: where its session is.
        run: its record.

    Raises:
        RunNotResumable: others have changed what it changed, or its changes are not kept.
    """

    def __init__(self, storage: Storage, run: Run) -> None:
        self._storage = storage
        self._run = run
        self._values = StoredValues(storage, run.owner, run.session_id)
        stored = storage.load(run.owner, run.session_id)
        if stored is None and run.base_version:
            raise self._not_resumable("its session was deleted")
        self.document = StoredDocument.unsaved() if stored is None else StoredDocument.of(stored)
        """What is stored now, and then what will be when `operations` are committed on top of it."""
        self.version = self.document.version
        self.operations: list[Operation] = []
        changes = () if stored is None else storage.changes(run.owner, run.session_id, after=run.base_version)
        if len(changes) != self.version - run.base_version:
            raise self._not_resumable("not all changes of its session since its start are kept (keep_history)")
        self._changes = changes
        if any(change.run_id == run.run_id for change in changes):
            self._undo(changes)

    def _undo(self, changes: Sequence[Change]) -> None:
        later: list[Operation] = []
        for change in reversed(changes):
            operations = decode_patch(change.patch)
            if change.run_id != self._run.run_id:
                later = [*operations, *later]
                continue
            before, after = self._at(change.version - 1), self._at(change.version)
            touched = {operation.path[0] for operation in operations}
            inverse = self._inverse(before, after, touched, moves_others=not later)
            if not later:
                self._take(inverse.operations)
                continue
            standing = Standing(after, self.document, Members({}), tuple(later))
            merged = standing.merged(inverse, self._values, self._refuse, NO_TYPES)
            later = [*operations_of(merged.others), *merged.later]
            self._take(merged.operations)

    def _take(self, operations: list[Operation]) -> None:
        if operations:
            encoded = encode_patch(operations)
            self.document = self.document.after_changes([Change(self.version + 1, "", "", clock.now(), encoded)])
            self.operations += operations

    def _at(self, version: int) -> StoredDocument:
        if version == 0:
            return StoredDocument.unsaved()
        try:
            stored = self._storage.load(self._run.owner, self._run.session_id, at=version)
        except VersionNotKept:
            raise self._not_resumable("what it started from is not kept any more (keep_history)") from None
        if stored is None:
            raise self._not_resumable("its session was deleted")
        return StoredDocument.of(stored)

    def _inverse(
        self, before: StoredDocument, after: StoredDocument, names: Collection[str], *, moves_others: bool
    ) -> Pending:
        """What makes a document what it was before one change.

        Args:
            names: those that were changed.
            moves_others: whether a name that comes back may come to its old place, for which others are put after it:
                they are changed by that, and others may have changed them since.
        """
        if moves_others:
            removed, added = displaced(after.names(), before.names())
        else:
            removed = [name for name in after.names() if name in names and name not in before]
            added = [name for name in before.names() if name in names and name not in after]
        kept = [name for name in names if name in before and name in after and name not in added]
        new = {name: self._values.encoded(before, name) for name in kept}
        old = {name: self._values.encoded(after, name) for name in kept}
        operations = [Operation("remove", (name,), None) for name in removed]
        operations += diff(old, new)
        for name in added:
            new[name] = self._values.encoded(before, name)
            operations.append(Operation("add", (name,), new[name]))
        return Pending(operations, new, ())

    def _refuse(self, overlap: Overlap) -> bytes | None:
        path = tuple(map(str, overlap.path))
        raise self._not_resumable(
            f"{self._changed_by(path)} changed {pointer_of(path)} since, which it had changed as well"
        )

    def _changed_by(self, path: tuple[str, ...]) -> str:
        """Who has changed a place last."""
        for change in reversed(self._changes):
            if change.run_id != self._run.run_id:
                for operation in decode_patch(change.patch):
                    if all(map(eq, operation.path, path)):  # at the place, around it or inside of it
                        who = f"run {change.run_id!r}" if change.run_id else "code outside of runs"
                        return f"{who} (version {change.version})"
        return "somebody else"

    def _not_resumable(self, reason: str) -> RunNotResumable:
        return RunNotResumable(run_id=self._run.run_id, session_id=self._run.session_id, reason=reason)
