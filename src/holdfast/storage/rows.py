"""The rows of the SQL tables as records, each with the checksum that guards it.

Rules that must stay true:
- a checksum covers every column of its row; the rows of a session's history name the session by its incarnation,
  which is stronger than its id and survives a rename;
- a large blob enters a checksum as its own digest;
- the data of a value is guarded by the listings that refer to it, which have its digest;
- a record is made only of a row whose checksum matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from types import ModuleType
from typing import Any

import msgspec
from msgspec import DecodeError, msgpack
from msgspec.structs import replace

from holdfast.errors import CorruptData, MalformedData
from holdfast.records import Change, Failure, Run, RunStatus, Savings, SessionInfo, StoredValue, Usage
from holdfast.storage import listing
from holdfast.storage.leasing import Queued
from holdfast.storage.listing import Entry, Listing
from holdfast.threads import importing

Column = str | bytes | int | float | None
Row = tuple[Column, ...]

_LONGEST_NAME = 512
"""Bytes of a name that is stored as it is."""

_HEAD_TYPES = (str, str, str, int, int, int, str, float, float, str)
"""SQLite stores whatever it is given, whatever the column says."""

_NO_SAVINGS = Savings()
_SAVINGS_TYPES = {(int, float, int, int, int, cost) for cost in (float, type(None))}

_packed = msgpack.Encoder().encode


@cache
def _json() -> ModuleType:
    """Python's own, which writes surrogates as well; only failures and savings need it."""
    with importing:
        import json
    return json


def digest(data: bytes) -> bytes:
    """The SHA-256 of some bytes."""
    return sha256(data).digest()


def checksum(kind: str, *columns: Column) -> bytes:
    """The SHA-256 of a row: of its kind and of every column with its type and length.

    >>> checksum("run", "a", "bc") == checksum("run", "ab", "c")
    False
    """
    try:
        return sha256(_packed((kind, columns))).digest()
    except UnicodeEncodeError:  # the text is damaged, or will be refused when it is bound
        return b""


class Head(msgspec.Struct, frozen=True):
    """The row of a session: what callers see of it, and how much of its history is forgotten."""

    info: SessionInfo
    forgotten: int = 0
    """Changes up to this version are gone; the values of this version are kept instead. 0: none are."""
    lease: str = ""
    """Of whoever holds the session exclusively. Held so, a session has a head before its first version, which is 0."""

    def row(self) -> Row:
        """The row, its columns in the order of the table."""
        info = self.info
        columns = (
            info.owner,
            info.session_id,
            info.incarnation,
            info.version,
            info.snapshot_version,
            self.forgotten,
            info.workflow,
            info.created_at,
            info.updated_at,
            self.lease,
        )
        return (*columns, checksum("session", *columns))


def read_head(row: Sequence[Any], where: str) -> Head:
    """The head of a session from its row.

    Raises:
        CorruptData: the checksum does not match.
    """
    *columns, stored = row
    owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at = columns[:9]
    verify(stored, checksum("session", *columns), where, f"session {session_id!r}")
    if tuple(map(type, columns)) != _HEAD_TYPES:
        raise MalformedData(where=where, what=f"session {session_id!r}")
    info = SessionInfo(owner, session_id, incarnation, version, snapshot_version, workflow, created_at, updated_at)
    return Head(info, forgotten, columns[9])


def lease_row(owner: str, session_id: str, queued: Queued) -> Row:
    """The row of a place in the queue of a session."""
    columns = (owner, session_id, queued.ticket, queued.lease_id, int(queued.is_exclusive), queued.expires_at)
    return (*columns, checksum("lease", *columns))


def read_queue(rows: Iterable[Sequence[Any]], owner: str, session_id: str, where: str) -> list[Queued]:
    """The queue of a session from its rows, the first in it first.

    Raises:
        CorruptData: a checksum does not match.
    """
    queue = []
    for *columns, stored in rows:
        verify(stored, checksum("lease", owner, session_id, *columns), where, f"a lease of session {session_id!r}")
        ticket, lease_id, is_exclusive, expires_at = columns
        queue.append(Queued(ticket, lease_id, bool(is_exclusive), expires_at))
    return queue


def change_row(info: SessionInfo, change: Change) -> Row:
    """The row of a change of this session."""
    columns = (change.version, change.commit_id, change.run_id, change.created_at)
    renewed = checksum("patch", info.incarnation, *columns, digest(change.patch))
    return (info.owner, info.session_id, *columns, renewed, change.patch)


def read_changes(rows: Iterable[Sequence[Any]], info: SessionInfo, after: int, where: str) -> tuple[Change, ...]:
    """The changes that follow version `after`, from their rows.

    Raises:
        CorruptData: a checksum does not match, or a version is missing in between.
    """
    changes: list[Change] = []
    for version, commit_id, run_id, created_at, stored, patch in rows:
        what = f"change {version} of session {info.session_id!r}"
        if version != after + 1 + len(changes):
            raise CorruptData(where=where, what=f"the history before {what}")
        columns = (version, commit_id, run_id, created_at)
        verify(stored, checksum("patch", info.incarnation, *columns, digest_of(patch)), where, what)
        changes.append(Change(version, commit_id, run_id, created_at, patch))
    return tuple(changes)


def snapshot_row(info: SessionInfo, version: int, entries: Listing) -> Row:
    """The row of the snapshot of this version, with its listing."""
    data = listing.encoded(entries)
    return info.owner, info.session_id, version, _snapshot_checksum(info, version, data), data


def read_listing(stored: bytes, data: object, info: SessionInfo, version: int, where: str) -> Listing:
    """The listing of a snapshot from the checksum and the listing of its row.

    Raises:
        CorruptData: the checksum does not match.
    """
    what = f"the snapshot of version {version} of session {info.session_id!r}"
    verify(stored, _snapshot_checksum(info, version, data), where, what)
    try:
        return listing.decoded(data)  # type: ignore[arg-type]
    except DecodeError:
        raise MalformedData(where=where, what=what) from None


def _snapshot_checksum(info: SessionInfo, version: int, data: object) -> bytes:
    return checksum("snapshot", info.incarnation, version, digest_of(data))


def value_entry(value: StoredValue, version: int) -> Entry:
    """The entry of a value that is stored with the snapshot of this version."""
    data = value.data or b""
    return Entry(value.name, version, len(data), digest(data))


def value_row(info: SessionInfo, value: StoredValue, version: int) -> Row:
    """The row of a value that is stored with the snapshot of this version."""
    return info.owner, info.session_id, version, stored_name(value.name), value.data


def value_key(entry: Entry) -> tuple[int, bytes]:
    """The version and the name in the row of a value, as they stand there."""
    return entry.version, stored_name(entry.name)


def stored_name(name: str) -> bytes:
    """A name of a value in its row: in UTF-8, since a name may have NUL in it, which PostgreSQL's text may not.

    A long one is there as its digest: an index of PostgreSQL takes some 2,700 bytes, ids included. It begins with a
    byte that no UTF-8 has.

    >>> stored_name("posts"), len(stored_name("x" * 600))
    (b'posts', 33)
    """
    data = name.encode()
    return data if len(data) <= _LONGEST_NAME else b"\xff" + digest(data)


def read_data(data: object, entry: Entry, info: SessionInfo, where: str) -> bytes:
    """The data of a value from its row, None for a missing row.

    Raises:
        CorruptData: it is not what the listing says.
    """
    what = f"a value of session {info.session_id!r} at version {entry.version}"
    verify(entry.digest, digest_of(data), where, what)
    return data  # type: ignore[return-value]


def run_row(run: Run) -> Row:
    """The row of a run."""
    error = None if run.error is None else _json().dumps([run.error.type, run.error.message, run.error.traceback])
    usage = run.usage
    columns = (
        run.owner,
        run.session_id,
        run.run_id,
        run.workflow_id,
        run.workflow,
        run.status.value,
        float(run.started_at),
        run.process_id,
        None if run.ended_at is None else float(run.ended_at),
        usage.requests,
        usage.input_tokens,
        usage.output_tokens,
        None if usage.cost is None else float(usage.cost),
        run.base_version,
        run.refused_version,
        run.attempt,
        _written_savings(run.savings),
        error,
        run.input,
        run.output,
        run.refused_patch,
    )
    return (*columns, checksum("run", *columns))


def read_run(row: Sequence[Any], where: str) -> Run:
    """A run from its row.

    Raises:
        CorruptData: the checksum does not match.
    """
    *columns, stored = row
    owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at = columns[:9]
    verify(stored, checksum("run", *columns), where, f"run {run_id!r}")
    requests, input_tokens, output_tokens, cost, base_version, refused_version, attempt = columns[9:16]
    written, error, input_, output, refused = columns[16:]
    try:
        known_status, failure = RunStatus(status), None if error is None else Failure(*_json().loads(error))
        savings = _NO_SAVINGS if written is None else _read_savings(written)
    except (ValueError, TypeError, RecursionError):
        raise MalformedData(where=where, what=f"run {run_id!r}") from None
    return Run(
        run_id=run_id,
        owner=owner,
        session_id=session_id,
        workflow_id=workflow_id,
        workflow=workflow,
        status=known_status,
        started_at=started_at,
        process_id=process_id,
        ended_at=ended_at,
        input=input_,
        output=output,
        error=failure,
        usage=Usage(requests, input_tokens, output_tokens, cost),
        base_version=base_version,
        refused_patch=refused,
        refused_version=refused_version,
        attempt=attempt,
        savings=savings,
    )


def _written_savings(savings: Savings) -> str | None:
    if savings == _NO_SAVINGS:
        return None
    usage = savings.usage
    cost = None if usage.cost is None else float(usage.cost)
    numbers = (savings.hits, float(savings.seconds), usage.requests, usage.input_tokens, usage.output_tokens, cost)
    written: str = _json().dumps(numbers)
    return written


def _read_savings(written: str) -> Savings:
    """The savings of a run from its row; a ValueError, TypeError or RecursionError if they were not written so."""
    hits, seconds, requests, input_tokens, output_tokens, cost = numbers = _json().loads(written)
    if tuple(map(type, numbers)) not in _SAVINGS_TYPES:
        raise TypeError
    return Savings(hits, seconds, Usage(requests, input_tokens, output_tokens, cost))


def beat_row(process_id: str, beat_at: float) -> Row:
    """The row of a living process."""
    return process_id, beat_at, checksum("process", process_id, beat_at)


def read_beats(rows: Iterable[Sequence[Any]], where: str) -> dict[str, float]:
    """When each living process was last heard of, from their rows.

    Raises:
        CorruptData: a checksum does not match.
    """
    beats = {}
    for process_id, beat_at, stored in rows:
        verify(stored, checksum("process", process_id, beat_at), where, "a heartbeat")
        beats[process_id] = beat_at
    return beats


def renamed(run: Run, session_id: str) -> Row:
    """The row of a run of a session that got another id."""
    return run_row(replace(run, session_id=session_id))


def digest_of(data: object) -> bytes:
    """The digest of what stands in a row; empty for what is no blob."""
    return digest(data) if isinstance(data, bytes) else b""


def verify(stored: object, computed: bytes, where: str, what: str) -> None:
    """Make sure that a checksum is the right one.

    Raises:
        CorruptData: it is not.
    """
    if stored != computed or not computed:
        raise CorruptData(where=where, what=what)
