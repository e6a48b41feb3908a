"""A session in use: the live state, the stored version it stands on, and the way from one to the other.

Rules that must stay true:
- to know what changed, every value that was handed out is encoded and compared with what is stored; nothing else
  is trusted, so no change can escape;
- a patch is written on top of the very version that it was made from; if another commit came between, it is refused;
- the live state moves to another version in place, as far as that gives exactly what is stored there, so that
  references kept from an earlier run stay live. What may fail is done before anything is touched;
- an unstorable value keeps the last stored value of its own top-level key and holds up no other key.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast import clock, codec, patch
from holdfast.declared import Types
from holdfast.encoding import MAX_BYTES
from holdfast.errors import (
    HoldfastError,
    MalformedData,
    OutcomeUnknown,
    SessionDeleted,
    StateConflict,
    StorageError,
    UnstorableValue,
    VersionNotKept,
)
from holdfast.patch import Operation
from holdfast.records import Change, Commit, Run
from holdfast.state import UNDECODED, SessionState
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument, recent

MAX_STATE_SIZE = MAX_BYTES
"""Bytes that all values of a session may have together, encoded."""

Problems = tuple[tuple[str, str], ...]
"""Paths of values that cannot be stored, each with the reason."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What the live state has that is not stored: a patch, the new values, and what cannot be stored and why."""

    document: StoredDocument
    """The version that the patch was made from."""
    operations: list[Operation]
    values: dict[str, bytes]
    problems: Problems


@dataclass(frozen=True, slots=True)
class Saved:
    """What a commit stored, and what it could not."""

    patch: bytes | None
    problems: Problems


class Session:
    """One session as one workflow object uses it; may be used from several threads.

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
        self._state = SessionState(self._decode, self._prefetch)
        self._workflow = workflow
        self._types = types
        self._defaults = defaults
        self._document: StoredDocument | None = None
        self._unresolved: tuple[Commit, StoredDocument] | None = None
        self._refused: bytes | None = None
        """The patch that was refused last, until the live state is loaded anew."""
        # Around every move and every commit. Re-entrant: the garbage collector may end a run at any moment.
        self._lock = threading.RLock()

    @property
    def state(self) -> SessionState:
        """The live state, loaded when it is first asked for."""
        if self._document is None:
            with self._lock:
                if self._document is None:
                    self.refresh()
        return self._state

    @property
    def version(self) -> int:
        """The version that the live state stands on."""
        return self._standing().version

    def start(self) -> None:
        """Begin a run: commit what was changed since the last one, then load what is stored now.

        What cannot be stored is left as it is, so that the run can mend it.

        Raises:
            StateConflict, SessionDeleted: with `patch`, the changes that were refused; the next start drops them,
                unless more has been changed until then.
        """
        with self._lock:
            if self._document is not None:
                self._resolve()
                pending = self.collect()
                was_refused = self._refused is not None and _encoded_patch(pending) == self._refused
                if not was_refused and not self._is_as_new(pending):
                    self._commit(pending)
            self.refresh()

    def save(self, record: Callable[[Pending], Run | None] | None = None, *, run_id: str = "") -> Saved:
        """Commit everything that is pending, and with it the record of a run.

        Args:
            record: makes the record to write, told what is pending; None writes none.
            run_id: of the run that made the changes.

        Raises:
            StateConflict, SessionDeleted: with `patch`, the changes that were refused.
            StorageError: nothing of this commit was stored, or its outcome is not known; the next call finds out.
        """
        with self._lock:
            self._resolve()
            pending = self.collect()
            run = record(pending) if record is not None else None
            return Saved(self._commit(pending, run, run_id), pending.problems)

    def refresh(self) -> None:
        """Bring the live state to what is stored now. What is pending must have been committed or refused before."""
        with self._lock:
            standing = self._document or recent.get(self.storage, self.owner, self.session_id)
            known = standing.known if standing is not None and standing.version else None
            stored = self.storage.load(self.owner, self.session_id, known=known)
            changes: Sequence[Change] = ()
            if stored is None:
                document = self._document
                if document is None or document.version:
                    document = StoredDocument.unsaved()
            elif stored.values is not None or standing is None:
                document = StoredDocument.of(stored)
            else:
                changes = stored.changes
                document = standing.after_changes(changes) if changes else standing
            if document is not self._document or self._refused is not None:
                self._move_to(document, changes)
            self._refused = None
            if document.version:
                recent.put(self.storage, self.owner, self.session_id, document)

    def restore(self) -> None:
        """Undo in the live state, in place, everything that is not committed, unstorable values included."""
        with self._lock:
            with contextlib.suppress(StateConflict, StorageError):  # refused, or not to be known yet
                self._resolve()
            # A commit whose outcome is still not known will be repeated, so that it counts as made.
            document = self._unresolved[1] if self._unresolved is not None else self._standing()
            self._move_to(document, (), keep_unstorable=False)

    def collect(self) -> Pending:
        """Compare the live state with the stored version; changes neither."""
        document = self._standing()
        keys, touched = self._state.snapshot()
        values: dict[str, bytes] = {}
        problems: list[tuple[str, str]] = []
        refused: set[str | None] = set()
        seen: set[str] = set()
        for key, value in touched:
            path = codec.path_of(key)
            try:
                name = codec.name_of(key, self._types, path)
                data = codec.stable_encode(value, self._types, path)
            except UnstorableValue as error:
                problems += error.problems
                refused.add(self._name_or_none(key))
                continue
            if name in seen:
                problems.append((path, "two keys that are stored alike, as two NaNs are: keep one of them"))
                refused.add(name)
            elif name not in document or self._encoded_if_kept(document, name) != data:
                values[name] = data
            seen.add(name)
        names = document.names()
        if refused or keys != names:
            named = [self._name_or_none(key) for key in keys]
            known = [name for name in named if name is not None and (name not in refused or name in document)]
            names = list(dict.fromkeys(known))
            values = {name: data for name, data in values.items() if name not in refused}
        self._refuse_too_large(names, values, problems)
        return Pending(document, self._difference(document, names, values), values, tuple(problems))

    def _is_as_new(self, pending: Pending) -> bool:
        """Whether all that is pending are the defaults of a session that is not stored yet."""
        if pending.document.version:
            return False
        defaults = {}
        for key, value in self._defaults.items():
            with contextlib.suppress(UnstorableValue):  # reported when the run ends, as for any other value
                defaults[codec.name_of(key, self._types)] = codec.encode(value, self._types)
        return pending.values == defaults

    def write_run(self, run: Run) -> None:
        """Write the record of a run and nothing else.

        Raises:
            SessionDeleted: the session that the run began from was deleted.
        """
        document = self._document
        base, incarnation = (document.version, document.incarnation) if document is not None else (0, "")
        self.storage.commit(self._commit_of(base, incarnation, run=run))

    # -- commits ------------------------------------------------------------------------------------------------

    def _commit(self, pending: Pending, run: Run | None = None, run_id: str = "") -> bytes | None:
        if not pending.operations:
            if run is not None:
                self.write_run(run)
            return None
        document = pending.document
        encoded = patch.encode_patch(pending.operations)
        after = document.after_commit(pending.operations, pending.values, len(encoded))
        snapshot = None
        with contextlib.suppress(VersionNotKept, SessionDeleted):  # the commit says so, and keeps what is refused
            snapshot = after.snapshot(lambda name: self._encoded(document, name))
        if snapshot is not None:
            after = after.with_snapshot(snapshot)
        commit = self._commit_of(
            document.version, document.incarnation, encoded, snapshot=snapshot, run=run, run_id=run_id
        )
        self._write(commit, after)
        return encoded

    def _commit_of(self, base: int, incarnation: str, encoded: bytes | None = None, **parts: Any) -> Commit:
        return Commit(
            owner=self.owner,
            session_id=self.session_id,
            commit_id=clock.new_id(),
            base=base,
            incarnation=incarnation,
            workflow=self._workflow,
            patch=encoded,
            **parts,
        )

    def _write(self, commit: Commit, after: StoredDocument) -> None:
        # Whatever ends the call without an answer, an interrupt included, leaves the outcome unknown; repeating the
        # same commit is the only safe way to learn it.
        self._unresolved = (commit, after)
        try:
            self.storage.commit(commit)
        except (StateConflict, SessionDeleted) as refusal:
            refusal.patch = self._refused = commit.patch
            self._unresolved = None
            raise
        except OutcomeUnknown:
            raise
        except HoldfastError:
            self._unresolved = None
            raise
        self._unresolved = None
        self._document = after
        recent.put(self.storage, self.owner, self.session_id, after)

    def _resolve(self) -> None:
        if self._unresolved is not None:
            unresolved = self._unresolved
            try:
                self._write(*unresolved)
            except (StateConflict, SessionDeleted):
                raise
            except HoldfastError:
                self._unresolved = unresolved  # this try says nothing about the first one
                raise

    # -- encoded values -----------------------------------------------------------------------------------------

    def _standing(self) -> StoredDocument:
        if self._document is None:
            self.refresh()
            assert self._document is not None
        return self._document

    def _encoded(self, document: StoredDocument, name: str) -> bytes:
        """The encoded value of a name in a version that is stored."""
        try:
            return document.encoded(name, lambda wanted: self._read(document, wanted))
        except VersionNotKept:
            # The snapshot that the document was read from is gone; the version itself may still be kept.
            stored = self.storage.load(self.owner, self.session_id, at=document.version)
            if stored is None or stored.info.incarnation != document.incarnation:
                raise
            rebuilt = StoredDocument.of(stored)
            data = rebuilt.encoded(name, lambda wanted: self._read(rebuilt, wanted))
            document.settle(name, data)
            return data

    def _encoded_if_kept(self, document: StoredDocument, name: str) -> bytes | None:
        """The encoded value of a name; None if it is gone, because the session has moved on from this version, so
        that a commit on top of it is going to be refused anyway."""
        try:
            return self._encoded(document, name)
        except (VersionNotKept, SessionDeleted):
            return None

    def _read(self, document: StoredDocument, name: str) -> bytes:
        return self._read_together(document, [name])[name]

    def _read_together(self, document: StoredDocument, names: list[str]) -> dict[str, bytes]:
        return self.storage.read_values(
            self.owner, self.session_id, names, incarnation=document.incarnation, at=document.snapshot_version
        )

    def _decode(self, key: Any) -> Any:
        name = codec.name_of(key, self._types)
        return codec.decode(self._encoded(self._standing(), name), self._types, codec.path_of(key))

    def _prefetch(self, keys: list[Any]) -> None:
        """Read the values of several keys at once; those that are not to be had so are read one by one later."""
        document = self._standing()
        names = [name for name in map(self._name_or_none, keys) if name is not None and not document.is_read(name)]
        with contextlib.suppress(VersionNotKept):
            found = self._read_together(document, names)
            for name in names:
                document.encoded(name, found.__getitem__)

    def _name_or_none(self, key: Any) -> str | None:
        try:
            return codec.name_of(key, self._types)
        except UnstorableValue:
            return None

    def _refuse_too_large(self, names: list[str], values: dict[str, bytes], problems: list[tuple[str, str]]) -> None:
        document = self._standing()
        if document.size + sum(map(len, values.values())) <= MAX_STATE_SIZE:
            return
        # Near the limit every size is looked at, also those that are estimates, replaced or removed.
        size = sum(len(values[name]) if name in values else self._size(document, name) for name in names)
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
            if name in document:
                size += self._size(document, name)
            else:
                names.remove(name)

    def _size(self, document: StoredDocument, name: str) -> int:
        data = self._encoded_if_kept(document, name)
        return document.size_of(name) if data is None else len(data)

    def _difference(self, document: StoredDocument, names: list[str], values: dict[str, bytes]) -> list[Operation]:
        old_names = document.names()
        removed, added = patch.displaced(old_names, names) if names != old_names else ([], [])
        fresh = set(added)
        operations = [Operation("remove", (name,), None) for name in removed]
        old = {name: self._encoded_if_kept(document, name) for name in values if name not in fresh}
        readable = {name: data for name, data in old.items() if data is not None}
        operations += patch.diff(readable, {name: values[name] for name in readable})
        operations += [Operation("replace", (name,), values[name]) for name in old if name not in readable]
        for name in added:
            value = values[name] if name in values else self._encoded(document, name)
            values[name] = value
            operations.append(Operation("add", (name,), value))
        return operations

    # -- live values --------------------------------------------------------------------------------------------

    def _move_to(self, document: StoredDocument, changes: Sequence[Change], *, keep_unstorable: bool = True) -> None:
        """Make the live state equal to a document, keeping every container that can be kept.

        Args:
            changes: how the document came about, if the live state stands on the version before them.
            keep_unstorable: leave a value that cannot be stored where it is, if nobody else has changed its key.
        """
        live = dict(self._state.snapshot()[1])
        names: dict[Any, str] = {name: name for name in document.names()} if live else {}
        if document.has_odd_names:
            names = {codec.key_of(name, self._types): name for name in document.names()}
            if len(names) < len(document.names()):
                raise MalformedData(where="session_state", what="two keys of it are equal")
        slots: dict[Any, Any] = dict.fromkeys(names or document.names(), UNDECODED)
        if not document.version:
            self._place(document, _grafted(live, copy.deepcopy(dict(self._defaults))))
            return
        if not live:
            self._place(document, slots)
            return
        # All that must be read is read before anything is touched.
        targets = {key: self._encoded(document, names[key]) for key in live if key in names}
        kept = self._unstorable_to_keep(live, targets) if keep_unstorable else {}
        operations = _by_name(changes)
        for key, target in targets.items():
            if key not in kept and self._encoded_or_none(live[key]) != target:
                self._update(live, key, target, operations.get(names[key], []))
        for key, target in targets.items():
            # Also catches what was meant for one place and reached another, because one object stood at both:
            # stored values are separate, so a change that nobody made there would be saved.
            if key in kept or self._encoded_or_none(live[key]) == target:
                slots[key] = live[key]
        self._place(document, {**slots, **{key: value for key, value in kept.items() if key not in slots}})

    def _place(self, document: StoredDocument, slots: Mapping[Any, Any]) -> None:
        dict.clear(self._state)
        dict.update(self._state, slots)
        self._document = document
        if self._state.is_viewed:
            # A view that was taken earlier shows raw slots; what cannot be decoded raises when it is asked for.
            with contextlib.suppress(HoldfastError):
                self._state.touch_all()

    def _unstorable_to_keep(self, live: Mapping[Any, Any], targets: Mapping[Any, bytes]) -> dict[Any, Any]:
        old = self._standing()
        kept = {}
        for key, value in live.items():
            if self._encoded_or_none(value) is None:
                name = self._name_or_none(key)
                before = self._encoded_if_kept(old, name) if name is not None and name in old else None
                if targets.get(key) == before:
                    kept[key] = value
        return kept

    def _update(self, live: dict[Any, Any], key: Any, target: bytes, operations: list[Operation]) -> None:
        """Try to bring one live value to its target in place; whether that worked is for the caller to see."""
        with contextlib.suppress(HoldfastError):
            if operations and all(len(operation.path) > 1 for operation in operations):
                patch.apply_live({key: live[key]}, operations, self._types)
            else:
                live[key] = patch.graft(live[key], codec.decode(target, self._types))

    def _encoded_or_none(self, value: Any) -> bytes | None:
        """None for a value that cannot be stored: it was reported when it could not be saved."""
        try:
            return codec.encode(value, self._types)
        except UnstorableValue:
            return None


def _by_name(changes: Sequence[Change]) -> dict[str, list[Operation]]:
    operations: dict[str, list[Operation]] = {}
    for change in changes:
        for operation in patch.decode_patch(change.patch):
            operations.setdefault(operation.path[0], []).append(operation)
    return operations


def _grafted(live: Mapping[Any, Any], new: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: patch.graft(live[key], value) if key in live else value for key, value in new.items()}


def _encoded_patch(pending: Pending) -> bytes:
    return patch.encode_patch(pending.operations)
