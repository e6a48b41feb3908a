"""The encoded document of one version of a session, as far as it has been read.

Rules that must stay true:
- a `StoredDocument` stands for one version for ever: a commit or another's change makes a new document, which
  shares the entries that stayed. Reading a large value on demand changes what is in memory, never what it means;
- documents are shared between sessions and threads through `recent`: an entry never changes, it is replaced;
- what is read on demand is read as of the document's own snapshot, whatever has been committed since;
- the original of a value is what decoding it would give, and goes when the value changes in any way but with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from holdfast import clock, patch
from holdfast.errors import MalformedData
from holdfast.originals import Original
from holdfast.patch import Operation
from holdfast.records import Change, Known, Snapshot, StoredSession, StoredValue
from holdfast.scalars import TAG
from holdfast.storage.base import Storage
from holdfast.threads import lock_for_forks

Read = Callable[[str], bytes]
"""Finds the encoded value of a name: as of the document's snapshot, or as of its own version."""

# A snapshot is due when the patches since the last one outweigh half of the values they changed: bytes written then
# stay below three times the bytes changed. Below the floor a few pages are cheaper than the bookkeeping.
SNAPSHOT_FLOOR = 16_384
# A snapshot lists every value, changed or not, in about so many bytes each.
LISTING_BYTES = 80
# Many small patches cost time to replay long before they weigh much.
SNAPSHOT_PATCHES = 1_000


class _Amended(msgspec.Struct, frozen=True):
    """A value with operations that are still to be applied to it."""

    data: bytes | None
    """Before the operations; None until it is read."""
    size: int
    """Bytes of the encoded value after them; an estimate from above."""
    operations: tuple[Operation, ...]


_size = attrgetter("size")

NO_ORIGINALS: Final[Mapping[str, Original]] = {}


def _is_same(old: StoredValue | _Amended | None, new: StoredValue | _Amended) -> bool:
    # Two looks at one change make two equal notes of it; values that were put there are found by comparing them.
    return old is new or (isinstance(old, _Amended) and isinstance(new, _Amended) and old == new)


class StoredDocument:
    """Names and encoded values of one version, in order; large values are read when they are first needed."""

    __slots__ = (
        "_changed",
        "_entries",
        "_has_odd_names",
        "_originals",
        "incarnation",
        "patch_bytes",
        "patches",
        "size",
        "snapshot_version",
        "version",
    )

    def __init__(self, incarnation: str, version: int, snapshot_version: int) -> None:
        self.incarnation = incarnation
        self.version = version
        self.snapshot_version = snapshot_version
        self.patches = 0
        self.patch_bytes = 0
        self.size = 0
        """Bytes of all values; an estimate from above, see `_Amended.size`."""
        self._entries: dict[str, StoredValue | _Amended] = {}
        self._changed: set[str] = set()
        """Names of values that differ from those of the snapshot, or are missing there."""
        self._has_odd_names: bool | None = None
        self._originals: dict[str, Original | None] = {}
        """Values that have been decoded, None for those of which it is not worth to keep that."""

    @classmethod
    def unsaved(cls) -> StoredDocument:
        """The empty document of a session that is not stored yet."""
        return cls(clock.new_id(), 0, 0)

    @classmethod
    def of(cls, stored: StoredSession) -> StoredDocument:
        """The document that `Storage.load` returned whole."""
        info = stored.info
        document = cls(info.incarnation, info.snapshot_version, info.snapshot_version)
        document._entries = {value.name: value for value in stored.values or ()}
        document._apply(stored.changes)
        return document

    @property
    def known(self) -> Known:
        return Known(self.incarnation, self.version)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        return list(self._entries)

    def is_read(self, name: str) -> bool:
        """Whether the data of a value is in memory."""
        return self._entries[name].data is not None

    def size_of(self, name: str) -> int:
        """Bytes of an encoded value; an estimate from above if it was amended and has not been read."""
        return self._entries[name].size

    @property
    def has_odd_names(self) -> bool:
        """Whether there is any key whose name is not the key itself."""
        if self._has_odd_names is None:
            # One search in all names together is many times faster than one in each; few texts get to the second.
            is_possible = TAG in "\0".join(self._entries)
            self._has_odd_names = is_possible and any(name.startswith(TAG) for name in self._entries)
        return self._has_odd_names

    def encoded(self, name: str, read: Read) -> bytes:
        """The encoded value of a name, read and brought up to this version if that has not been done yet."""
        entry = self._entries[name]
        data = entry.data
        if data is not None and isinstance(entry, StoredValue):
            return data
        values = {name: read(name) if data is None else data}
        if isinstance(entry, _Amended):
            patch.apply(values, entry.operations)
        self.settle(name, values[name])
        return values[name]

    def settle(self, name: str, data: bytes) -> None:
        """Keep the value of a name, now that it is known for this version."""
        self._entries[name] = StoredValue(name, len(data), data)

    def original(self, name: str) -> Original | None:
        """The value of a name, decoded, if that is at hand."""
        return self._originals.get(name)

    def has_been_decoded(self, name: str) -> bool:
        """Whether it is known that a value has an original, or is worth none."""
        return name in self._originals

    def keep_original(self, name: str, original: Original | None) -> None:
        """Keep what the value of a name is decoded, or that it is not worth it."""
        self._originals[name] = original

    def after_changes(self, changes: Iterable[Change]) -> StoredDocument:
        """The document after changes that others committed."""
        document = self._copy()
        document._apply(changes)
        return document

    def after_commit(
        self,
        operations: Sequence[Operation],
        values: Mapping[str, bytes],
        patch_size: int,
        originals: Mapping[str, Original] = NO_ORIGINALS,
    ) -> StoredDocument:
        """The document after a commit of our own, whose new values are at hand encoded, or else decoded."""
        document = self.edited(operations, values, originals)
        document._count(patch_size)
        return document

    def edited(
        self,
        operations: Sequence[Operation],
        values: Mapping[str, bytes],
        originals: Mapping[str, Original] = NO_ORIGINALS,
    ) -> StoredDocument:
        """The document after changes of ours that were stored on top of another one.

        It stands for no version: what has not been read yet is still read as of the version before them.
        """
        document = self._copy()
        document._change(operations, values)
        document._originals.update(originals)
        return document

    def names_changed_since(self, earlier: StoredDocument) -> list[str]:
        """Names whose values may be others than in an earlier document; all whose values are is among them."""
        return [name for name, entry in self._entries.items() if not _is_same(earlier._entries.get(name), entry)]

    def snapshot(self, encoded: Read) -> Snapshot | None:
        """What is to be stored whole with the commit that made this document; None when that is not due."""
        if not self._is_snapshot_due():
            return None
        values = []
        for name in self._entries:
            if name in self._changed:
                entry = self._entries[name]
                if entry.data is None or isinstance(entry, _Amended):
                    data = encoded(name)
                    entry = StoredValue(name, len(data), data)
                values.append(entry)
        return Snapshot(tuple(self._entries), tuple(values))

    def _is_snapshot_due(self) -> bool:
        if self.patches >= SNAPSHOT_PATCHES:
            return True
        if self.patch_bytes <= max(SNAPSHOT_FLOOR, LISTING_BYTES * len(self._entries)):
            return False
        return self.patch_bytes > sum(self._entries[name].size for name in self._changed & self._entries.keys()) // 2

    def with_snapshot(self, snapshot: Snapshot) -> StoredDocument:
        """The same document once its snapshot is stored."""
        document = self._copy()
        document.snapshot_version = document.version
        document.patches = document.patch_bytes = 0
        for value in snapshot.values:
            document._entries[value.name] = value
        document._changed = set()
        return document

    def _copy(self) -> StoredDocument:
        document = StoredDocument(self.incarnation, self.version, self.snapshot_version)
        document.patches, document.patch_bytes, document.size = self.patches, self.patch_bytes, self.size
        document._entries = self._entries.copy()
        document._changed = self._changed.copy()
        document._originals = self._originals.copy()
        document._has_odd_names = self._has_odd_names
        return document

    def _change(self, operations: Iterable[Operation], values: Mapping[str, bytes]) -> None:
        deeper: dict[str, list[Operation]] = {}
        for operation in operations:
            name = operation.path[0]
            if len(operation.path) == 1:
                self._apply_top(operation)
            elif name not in values:
                deeper.setdefault(name, []).append(operation)
            elif self._entries[name].data is not values[name]:
                self._put(name, values[name])
        for name, inside in deeper.items():
            before = self._entries[name].size
            self.size += self._amend(name, inside) - before

    def _apply(self, changes: Iterable[Change]) -> None:
        deeper: dict[str, list[Operation]] = {}
        for change in changes:
            for operation in patch.decode_patch(change.patch):
                name = operation.path[0]
                if len(operation.path) > 1:
                    deeper.setdefault(name, []).append(operation)
                else:
                    deeper.pop(name, None)
                    self._apply_top(operation)
            self._count(len(change.patch))
        for name, operations in deeper.items():
            if name not in self._entries:
                raise MalformedData(where="a patch", what="it changes a value that the session does not have")
            self._amend(name, operations)
        # Added up anew, so that no estimate outlives the reading of its value.
        self.size = sum(map(_size, self._entries.values()))

    def _amend(self, name: str, operations: Sequence[Operation]) -> int:
        """Note operations inside of a value; its size after them."""
        entry = self._entries[name]
        before = entry.operations if isinstance(entry, _Amended) else ()
        size = entry.size + sum(len(operation.value or b"") + 1 for operation in operations)
        self._entries[name] = _Amended(entry.data, size, (*before, *operations))
        self._changed.add(name)
        self._originals.pop(name, None)
        return size

    def _apply_top(self, operation: Operation) -> None:
        name = operation.path[0]
        if operation.op == "replace":
            self._put(name, operation.value or b"")
            return
        self._has_odd_names = None
        self._originals.pop(name, None)
        old = self._entries.pop(name, None)
        if old is not None:
            self.size -= old.size
            self._changed.add(name)
        if operation.op == "add":
            self._put(name, operation.value or b"")

    def _put(self, name: str, data: bytes) -> None:
        old = self._entries.get(name)
        self.size += len(data) - (old.size if old else 0)
        self._entries[name] = StoredValue(name, len(data), data)
        self._changed.add(name)
        self._originals.pop(name, None)

    def _count(self, patch_size: int) -> None:
        self.version += 1
        self.patches += 1
        self.patch_bytes += patch_size


class _Recent:
    """The documents of one storage, the least recently used first, and the size of their values."""

    __slots__ = ("documents", "size")

    def __init__(self) -> None:
        self.documents: OrderedDict[tuple[str, str], StoredDocument] = OrderedDict()
        self.size = 0

    def drop(self, session: tuple[str, str]) -> None:
        document = self.documents.pop(session, None)
        if document is not None:
            self.size -= document.size


class RecentDocuments:
    """The documents of sessions that this process used last, so that an unchanged session is not read again.

    Bounded by the bytes of the values and by the number of sessions; what is left out is read from the storage.
    """

    BYTES = 64 * 1024 * 1024
    SESSIONS = 256

    def __init__(self) -> None:
        # Re-entrant: the garbage collector may finalise a run, which commits, while the lock is held.
        self._lock = lock_for_forks()
        self._by_storage: WeakKeyDictionary[Storage, _Recent] = WeakKeyDictionary()

    def get(self, storage: Storage, owner: str, session_id: str) -> StoredDocument | None:
        with self._lock:
            kept = self._by_storage.get(storage)
            return kept.documents.get((owner, session_id)) if kept is not None else None

    def put(self, storage: Storage, owner: str, session_id: str, document: StoredDocument) -> None:
        with self._lock:
            kept = self._by_storage.get(storage)
            if kept is None:
                kept = self._by_storage[storage] = _Recent()
            kept.drop((owner, session_id))
            if document.size > self.BYTES:
                return
            kept.documents[owner, session_id] = document
            kept.size += document.size
            while len(kept.documents) > self.SESSIONS or kept.size > self.BYTES:
                kept.drop(next(iter(kept.documents)))

    def forget(self, storage: Storage) -> None:
        """Drop what is known of a storage; the next load of each of its sessions reads everything."""
        with self._lock:
            self._by_storage.pop(storage, None)


recent = RecentDocuments()
