"""A session in use: the live state, the stored version it stands on, and the way from one to the other.

Rules that must stay true:
- to know what changed, every value that was handed out is encoded and compared with what is stored; nothing else
  is trusted, so no change can escape;
- live containers are changed in place whenever the stored version moves, so that references kept from an earlier
  run stay live;
- a commit stands on the version that was loaded; if another commit came between, it is refused, not retried;
- an unstorable value keeps the last stored value of its own top-level key and holds up no other key.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast import clock, codec, patch
from holdfast.declared import Types
from holdfast.errors import OutcomeUnknown, SessionDeleted, StateConflict, UnstorableValue, VersionNotKept
from holdfast.patch import Operation
from holdfast.records import Commit, Run
from holdfast.scalars import MARK
from holdfast.state import SessionState, Undecoded
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument, recent

MAX_STATE_SIZE = 64 * 1024 * 1024
"""Bytes that all values of a session may have together, encoded."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What the live state has that is not stored: a patch, the new values, and what cannot be stored and why."""

    operations: list[Operation]
    values: dict[str, bytes]
    problems: tuple[tuple[str, str], ...]


class Session:
    """One session as one workflow object uses it.

    Args:
        storage: where it is kept.
        owner: the user's id, empty for none.
        session_id: the session's id.
        workflow: the name to record when the session is created.
        types: the types that the workflow declares.
        defaults: the state of a session that is not stored yet; copied, never changed.
    """

    def __init__(
        self, storage: Storage, owner: str, session_id: str, *, workflow: str, types: Types, defaults: Mapping[Any, Any]
    ) -> None:
        self.storage = storage
        self.owner = owner
        self.session_id = session_id
        self.state = SessionState(self._decode)
        self._workflow = workflow
        self._types = types
        self._defaults = defaults
        self._document: StoredDocument | None = None
        self._unresolved: tuple[Commit, StoredDocument] | None = None
        self._refused = False

    @property
    def loaded(self) -> bool:
        return self._document is not None

    @property
    def awaits_commit(self) -> bool:
        """Whether the live state may hold changes that the next run has to commit before it begins: not when it
        was never loaded, is as new, or was refused, so that it must be loaded anew."""
        if self._document is None or self._refused:
            return False
        return self._document.version > 0 or dict(self.state) != self._defaults

    @property
    def document(self) -> StoredDocument:
        """The stored version that the live state stands on; loaded if that has not been done yet."""
        if self._document is None:
            self.refresh()
            assert self._document is not None
        return self._document

    @property
    def version(self) -> int:
        return self.document.version

    def refresh(self) -> None:
        """Bring the live state to what is stored now, in place. What is pending must have been committed before;
        after a refused commit it is dropped here, being kept with the refusal."""
        standing = self._document or recent.get(self.storage, self.owner, self.session_id)
        known = standing.known if standing is not None and standing.version else None
        stored = self.storage.load(self.owner, self.session_id, known=known)
        if stored is None:
            if self._document is None or self._document.version:
                self._become(StoredDocument.unsaved())
                self.state.update(copy.deepcopy(dict(self._defaults)))
        elif stored.values is not None or standing is None:
            self._become(StoredDocument.of(stored))
        elif self._document is None or self._refused:
            self._become(standing.after_changes(stored.changes) if stored.changes else standing)
        elif stored.changes:
            self._document = standing.after_changes(stored.changes)
            for change in stored.changes:
                self._follow(patch.decode_patch(change.patch))
            self._end_aliasing()
        self._refused = False
        if self._document is not None and self._document.version:
            recent.put(self.storage, self.owner, self.session_id, self._document)

    def restore(self) -> None:
        """Undo in the live state, in place, everything that is not committed."""
        document = self.document
        self._become(document)
        if not document.version:
            self.state.update(copy.deepcopy(dict(self._defaults)))

    def collect(self) -> Pending:
        """Compare the live state with the stored version; changes neither."""
        document = self.document
        slots = self.state.slots()
        values: dict[str, bytes] = {}
        problems: list[tuple[str, str]] = []
        refused: set[str | None] = set()
        for key, slot in slots:
            if type(slot) is Undecoded:
                continue
            try:
                path = codec.path_of(key)
                name = codec.name_of(key, self._types, path)
                data = codec.stable_encode(slot, self._types, path)
            except UnstorableValue as error:
                problems += error.problems
                refused.add(self._name_or_none(key))
                continue
            if name not in document or document.encoded(name, self._read) != data:
                values[name] = data
        names = document.names()
        if refused or [key for key, _ in slots] != names:
            named = [slot.name if type(slot) is Undecoded else self._name_or_none(key) for key, slot in slots]
            names = [name for name in named if name is not None and (name not in refused or name in document)]
        self._refuse_too_large(names, values, problems)
        return Pending(self._difference(names, values), values, tuple(problems))

    def commit(self, pending: Pending, run: Run | None = None) -> bytes | None:
        """Write what is pending, and the record of a run with it; returns the patch that was stored, if any.

        Raises:
            StateConflict: with `patch`, the changes that were refused; the next `refresh` drops them.
            SessionDeleted, StorageError: nothing of this commit was stored.
        """
        if not pending.operations:
            if run is not None:
                self.write_run(run)
            return None
        self._resolve()
        document = self.document
        encoded = patch.encode_patch(pending.operations)
        after = document.after_commit(pending.operations, pending.values, len(encoded))
        snapshot = after.snapshot(self._read)
        if snapshot is not None:
            after = after.with_snapshot(snapshot)
        commit = Commit(
            owner=self.owner,
            session_id=self.session_id,
            commit_id=clock.new_id(),
            base=document.version,
            incarnation=document.incarnation,
            workflow=self._workflow,
            patch=encoded,
            snapshot=snapshot,
            run=run,
        )
        self._write(commit, after)
        return encoded

    def write_run(self, run: Run) -> None:
        """Write the record of a run and nothing else."""
        self.storage.commit(
            Commit(
                owner=self.owner,
                session_id=self.session_id,
                commit_id=clock.new_id(),
                base=0,
                incarnation="",
                workflow=self._workflow,
                patch=None,
                run=run,
            )
        )

    def _write(self, commit: Commit, after: StoredDocument) -> None:
        try:
            self.storage.commit(commit)
        except (StateConflict, SessionDeleted) as refusal:
            refusal.patch = commit.patch
            self._refused = True
            raise
        except OutcomeUnknown:
            # Repeating the same commit is the only safe way to learn what became of it; see `_resolve`.
            self._unresolved = (commit, after)
            raise
        if commit.patch is not None:
            self._document = after
            recent.put(self.storage, self.owner, self.session_id, after)

    def _resolve(self) -> None:
        if self._unresolved is not None:
            commit, after = self._unresolved
            self._unresolved = None
            self._write(commit, after)

    # -- encoded values -----------------------------------------------------------------------------------------

    def _read(self, name: str) -> bytes:
        document = self.document
        at = document.snapshot_version
        try:
            return self.storage.read_values(
                self.owner, self.session_id, [name], incarnation=document.incarnation, at=at
            )[name]
        except VersionNotKept:
            # The snapshot was thinned out since; the version itself may still be rebuilt from an older one.
            stored = self.storage.load(self.owner, self.session_id, at=at)
            if stored is None:
                raise
            older = StoredDocument.of(stored)
            return older.encoded(
                name,
                lambda wanted: self.storage.read_values(
                    self.owner, self.session_id, [wanted], incarnation=older.incarnation, at=older.snapshot_version
                )[wanted],
            )

    def _decode(self, name: str) -> Any:
        path = codec.path_of(codec.key_of(name, self._types))
        return codec.decode(self.document.encoded(name, self._read), self._types, path)

    def _name_or_none(self, key: Any) -> str | None:
        try:
            return codec.name_of(key, self._types)
        except UnstorableValue:
            return None

    def _refuse_too_large(self, names: list[str], values: dict[str, bytes], problems: list[tuple[str, str]]) -> None:
        document = self.document
        size = document.size + sum(map(len, values.values()))
        if size <= MAX_STATE_SIZE:
            return
        # Near the limit the sizes of what is replaced and removed matter as well.
        replaced = set(values) | (set(document.names()) - set(names))
        size -= sum(len(document.encoded(name, self._read)) for name in replaced if name in document)
        for name in sorted(values, key=lambda changed: -len(values[changed])):
            if size <= MAX_STATE_SIZE:
                return
            problems.append(
                (
                    codec.path_of(codec.key_of(name, self._types)),
                    (
                        f"with its {len(values[name]):,} bytes the state would have {size:,}, more than the limit of "
                        f"{MAX_STATE_SIZE:,}; keep large material elsewhere and its name here"
                    ),
                )
            )
            size -= len(values.pop(name))
            if name not in document:
                names.remove(name)

    def _difference(self, names: list[str], values: dict[str, bytes]) -> list[Operation]:
        document = self.document
        old_names = document.names()
        removed, added = patch.displaced(old_names, names) if names != old_names else ([], [])
        fresh = set(added)
        operations = [Operation("remove", (name,), None) for name in removed]
        changed = [name for name in values if name not in fresh]
        operations += patch.diff(
            {name: document.encoded(name, self._read) for name in changed}, {name: values[name] for name in changed}
        )
        for name in added:
            value = values[name] if name in values else document.encoded(name, self._read)
            values[name] = value
            operations.append(Operation("add", (name,), value))
        return operations

    # -- live values --------------------------------------------------------------------------------------------

    def _follow(self, operations: list[Operation]) -> None:
        """Apply another's operations to the live state, which stood on the version before them."""
        slots = self.state
        for operation in operations:
            name = operation.path[0]
            key = codec.key_of(name, self._types)
            slot = dict.get(slots, key)
            if type(slot) is not Undecoded and key in slots and self._encoded_or_none(slot) is None:
                slot = Undecoded(name)
                dict.__setitem__(slots, key, slot)
            if len(operation.path) > 1:
                if type(slot) is not Undecoded:
                    patch.apply_live(slots, [operation], self._types)
            elif operation.op == "replace" and type(slot) is not Undecoded:
                assert operation.value is not None
                dict.__setitem__(slots, key, patch.graft(slot, codec.decode(operation.value, self._types)))
            else:
                dict.pop(slots, key, None)
                if operation.op != "remove":
                    dict.__setitem__(slots, key, Undecoded(name))

    def _become(self, document: StoredDocument) -> None:
        """Make the live state equal to a document, keeping every container that can be kept."""
        live = {key: slot for key, slot in self.state.slots() if type(slot) is not Undecoded}
        dict.clear(self.state)
        self._document = document
        marks = document.marks()
        if not live and not any(name.startswith(MARK) for name in marks):
            dict.update(self.state, marks)
            return
        for name, mark in marks.items():
            key = codec.key_of(name, self._types)
            slot: Any = mark
            if key in live:
                stored = document.encoded(name, self._read)
                slot = live[key]
                if self._encoded_or_none(slot) != stored:
                    slot = patch.graft(slot, codec.decode(stored, self._types, codec.path_of(key)))
            dict.__setitem__(self.state, key, slot)
        self._end_aliasing()

    def _end_aliasing(self) -> None:
        """Decode anew what a change meant for one place has changed at another, too, because one object stood at
        both: stored values are separate, so a change that nobody made there would be saved."""
        for key, slot in self.state.slots():
            if type(slot) is Undecoded:
                continue
            encoded = self._encoded_or_none(slot)
            if encoded is not None and encoded != self._stored(key):
                dict.__setitem__(self.state, key, self._decode(codec.name_of(key, self._types)))

    def _stored(self, key: Any) -> bytes:
        return self.document.encoded(codec.name_of(key, self._types), self._read)

    def _encoded_or_none(self, value: Any) -> bytes | None:
        """None for a value that cannot be stored: it was reported when it could not be saved."""
        try:
            return codec.encode(value, self._types)
        except UnstorableValue:
            return None
