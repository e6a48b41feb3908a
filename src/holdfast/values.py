"""The encoded values of one stored session, read as of the version that a document stands for.

Rules that must stay true:
- a value is read as of the document's own version, whatever has been committed since;
- nothing is read that has been read before, and what is asked for together is read together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from holdfast.errors import SessionDeleted, VersionNotKept
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument


class StoredValues:
    """Where the values of one session's documents come from."""

    def __init__(self, storage: Storage, owner: str, session_id: str) -> None:
        self._storage = storage
        self._owner = owner
        self._session_id = session_id

    def encoded(self, document: StoredDocument, name: str) -> bytes:
        """The encoded value of a name in a version that is stored.

        Raises:
            VersionNotKept, SessionDeleted: the session has moved on, and forgot it.
            CorruptData: it does not match its checksum.
        """
        try:
            return document.encoded(name, lambda wanted: self._read(document, [wanted])[wanted])
        except VersionNotKept:
            # The snapshot that the document was read from is gone; the version itself may still be kept.
            stored = self._storage.load(self._owner, self._session_id, at=document.version)
            if stored is None or stored.info.incarnation != document.incarnation:
                raise
            rebuilt = StoredDocument.of(stored)
            data = rebuilt.encoded(name, lambda wanted: self._read(rebuilt, [wanted])[wanted])
            document.settle(name, data)
            return data

    def encoded_if_kept(self, document: StoredDocument, name: str) -> bytes | None:
        """The encoded value of a name; None if it is gone, because the session has moved on from this version."""
        try:
            return self.encoded(document, name)
        except (VersionNotKept, SessionDeleted):
            return None

    def prefetch(self, document: StoredDocument, names: Iterable[str]) -> None:
        """Read several values at once; those that are not to be had so are read one by one later."""
        wanted = [name for name in names if not document.is_read(name)]
        with contextlib.suppress(VersionNotKept):
            found = self._read(document, wanted)
            for name in wanted:
                document.encoded(name, found.__getitem__)

    def size_of(self, document: StoredDocument, name: str) -> int:
        """The bytes of an encoded value."""
        data = self.encoded_if_kept(document, name)
        return document.size_of(name) if data is None else len(data)

    def _read(self, document: StoredDocument, names: list[str]) -> dict[str, bytes]:
        return self._storage.read_values(
            self._owner, self._session_id, names, incarnation=document.incarnation, at=document.snapshot_version
        )
