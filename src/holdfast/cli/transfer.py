"""A session as a file: exact, checked, and readable by any program that knows JSON.

Rules that must stay true:
- values travel as the encoded text that is stored, inside JSON strings, so that no reader or formatter on the way can
  change a number, an order or a character; the checksum covers all fields but itself;
- a file is checked whole before anything is written: its checksum, the form of every value, and that the history
  ends in the values; a failed import leaves nothing behind;
- what an import writes are ordinary commits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast import clock, patch
from holdfast.cli.changes import Version, read_version
from holdfast.cli.database import Located
from holdfast.display import display
from holdfast.errors import CorruptData, HoldfastError, InvalidInput
from holdfast.records import Commit
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument

FORMAT: Final = 1

Named = list[tuple[str, str]]
"""Names and encoded values, in order."""


class Package(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One exported session."""

    holdfast_session: int
    """The version of this format."""
    session_id: str
    user_id: str
    workflow: str
    version: int
    created_at: float
    exported_at: float
    values: Named
    base: Named | None = None
    """The values before the first patch of the history."""
    history: list[str] | None = None
    """JSON Patches over the encoded values, the oldest first."""
    sha256: str = ""


def exported(located: Located, *, with_history: bool) -> str:
    """A session as the text of a file.

    Raises:
        CorruptData: something of it does not match its checksum.
    """
    info = located.info
    found = read_version(located)
    package = Package(
        holdfast_session=FORMAT,
        session_id=info.session_id,
        user_id=info.owner,
        workflow=info.workflow,
        version=found.info.version,
        created_at=info.created_at,
        exported_at=clock.now(),
        values=_named(found.values),
    )
    if with_history:
        changes = [
            change
            for change in located.storage.changes(info.owner, info.session_id)
            if change.version <= found.info.version
        ]
        first = changes[0].version if changes else found.info.version + 1
        before = read_version(located, first - 1) if first > 1 else Version(info, {})
        package.base = _named(before.values)
        package.history = [change.patch.decode() for change in changes]
    package.sha256 = checksum(package)
    return msgspec.json.format(msgspec.json.encode(package), indent=1).decode()


def write(file: Path, text: str, *, force: bool) -> None:
    """Write a text to a file.

    Raises:
        InvalidInput: the file exists and is not to be overwritten, or it cannot be written.
    """
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened_file:
            opened_file.write(text)
    except FileExistsError as error:
        raise InvalidInput(f"{file} exists already. Name another file, or overwrite it with --force.") from error
    except FileNotFoundError as error:
        raise InvalidInput(f"There is no folder {file.parent}. Make it first, or name another file.") from error
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}. Name another file.") from error


def checksum(package: Package) -> str:
    """SHA-256 over all fields but the checksum, in hexadecimal, whatever the layout of the file."""
    fields: dict[str, Any] = msgspec.to_builtins(package)
    del fields["sha256"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse(data: bytes) -> Package:
    """The package in an exported file, checked whole.

    Raises:
        InvalidInput: it is no such file, or of a newer format, or damaged.
    """
    try:
        package = msgspec.json.decode(data, type=Package)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("This file is not a session that `holdfast sessions export` wrote.") from error
    if package.holdfast_session != FORMAT:
        raise InvalidInput(
            f"This file has format {package.holdfast_session}, and this release reads format {FORMAT}. "
            "Export it again with this release, or upgrade with `pip install --upgrade holdfast`."
        )
    if checksum(package) != package.sha256:
        raise InvalidInput("This file was changed or damaged after the export: its checksum does not match.")
    document = checked(package.values)
    if package.history is not None:
        replayed = checked(package.base or [])
        for text in package.history:
            _replay(replayed, text)
        if list(replayed.items()) != list(document.items()):
            raise InvalidInput("The history in this file does not lead to its values, so it is not imported.")
    return package


def checked(values: Named) -> dict[str, bytes]:
    """Named values as a document, each in the one form that the codec writes.

    Raises:
        InvalidInput: a name stands twice, or a value is not in that form.

    >>> checked([("posts", "[1,2]")])
    {'posts': b'[1,2]'}
    """
    document: dict[str, bytes] = {}
    for number, (name, text) in enumerate(values, 1):
        if name in document:
            raise InvalidInput(f"Value {number} of this file has a name that stands in it twice.")
        try:
            data = text.encode()
            # What decodes and encodes to itself has no repeated keys, no numbers out of range and no other spelling.
            sound = msgspec.json.encode(msgspec.json.decode(data)) == data
            display(data)
        except (ValueError, RecursionError, HoldfastError):
            sound = False
        if not sound:
            raise InvalidInput(f"Value {number} of this file is not in the form that Holdfast writes.")
        document[name] = data
    return document


def _replay(document: dict[str, bytes], text: str) -> None:
    try:
        operations = patch.decode_patch(text.encode())
        patch.apply(document, operations)
    except (CorruptData, UnicodeEncodeError) as error:
        raise InvalidInput("The history in this file has a patch that does not fit, so it is not imported.") from error


def create(package: Package, storage: Storage, owner: str, session_id: str) -> int:
    """Write a checked package as a new session, and return its version.

    Without history that is version 1. With all of its history it gets the versions that it had.

    Raises:
        StateConflict: the session has been created meanwhile.
        StorageError: it could not be written; nothing of it is left.
    """
    base = dict(package.values) if package.history is None else dict(package.base or [])
    patches = [patch.decode_patch(text.encode()) for text in package.history or []]
    if base or not patches:
        patches.insert(0, [patch.Operation("add", (name,), text.encode()) for name, text in base.items()])
    document = StoredDocument.unsaved()
    values: dict[str, bytes] = {}
    try:
        for operations in patches:
            patch.apply(values, operations)
            encoded = patch.encode_patch(operations)
            after = document.after_commit(operations, values, len(encoded))
            snapshot = after.snapshot(values.__getitem__)
            commit = Commit(
                owner=owner,
                session_id=session_id,
                commit_id=clock.new_id(),
                base=document.version,
                incarnation=document.incarnation,
                workflow=package.workflow,
                patch=encoded,
                snapshot=snapshot,
            )
            storage.commit(commit)
            document = after if snapshot is None else after.with_snapshot(snapshot)
    except BaseException:
        if document.version:
            storage.delete_session(owner, session_id)
        raise
    return document.version


def _named(values: Mapping[str, bytes]) -> Named:
    return [(name, data.decode()) for name, data in values.items()]
