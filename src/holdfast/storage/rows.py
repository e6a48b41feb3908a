"""The rows of the SQL tables as records, each with the checksum that guards it.

Rules that must stay true:
- a checksum covers every column of its row; the rows of a session's history name the session by its incarnation,
  which is stronger than its id and survives a rename;
- a large blob enters a checksum as its own digest, so that a row can be verified without reading its blob;
- a record is made only of a row whose checksum matches.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from msgspec import msgpack

from holdfast.errors import CorruptData
from holdfast.records import Change, Failure, Run, RunStatus, SessionInfo, StoredValue, Usage

Column = str | bytes | int | float | None

_packed = msgpack.Encoder().encode


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


@dataclass(frozen=True, slots=True)
class Head:
    """The row of a session: what callers see of it, and how much of its history is forgotten."""

    info: SessionInfo
    forgotten: int = 0
    """Changes up to this version are gone; the values of this version are kept instead. 0: none are."""

    def row(self) -> dict[str, Column]:
        """The row as it is stored."""
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
        )
        names = "owner session_id incarnation version snapshot_version forgotten workflow created_at updated_at"
        return dict(zip(names.split(), columns, strict=True), checksum=checksum("session", *columns))


def read_head(row: Sequence[Any], where: str) -> Head:
    """The head of a session from its row.

    Raises:
        CorruptData: the checksum does not match.
    """
    owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at = row[:9]
    _verify(row[9], checksum("session", *row[:9]), where, f"session {session_id!r}")
    info = SessionInfo(owner, session_id, incarnation, version, snapshot_version, workflow, created_at, updated_at)
    return Head(info, forgotten)


def change_row(info: SessionInfo, change: Change) -> dict[str, Column]:
    """The row of a change of this session."""
    columns = (change.version, change.commit_id, change.run_id, change.created_at)
    return {
        "owner": info.owner,
        "session_id": info.session_id,
        "version": change.version,
        "commit_id": change.commit_id,
        "run_id": change.run_id,
        "created_at": change.created_at,
        "checksum": checksum("patch", info.incarnation, *columns, digest(change.patch)),
        "patch": change.patch,
    }


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
        _verify(stored, checksum("patch", info.incarnation, *columns, _digest(patch)), where, what)
        changes.append(Change(version, commit_id, run_id, created_at, patch))
    return tuple(changes)


@dataclass(frozen=True, slots=True)
class Totals:
    """What all values of one snapshot add up to: shows when a row is missing or an older one took its place."""

    entries: int = 0
    sum: int = 0

    def plus(self, checksum: bytes, count: int = 1) -> Totals:
        """The totals with one value more, or with `count=-1` one value less."""
        return Totals(self.entries + count, (self.sum + count * int.from_bytes(checksum[:16])) % 2**128)

    def row(self, info: SessionInfo, version: int) -> dict[str, Column]:
        """The row of the snapshot of this version."""
        return {
            "owner": info.owner,
            "session_id": info.session_id,
            "version": version,
            "entries": self.entries,
            "digest": self.sum.to_bytes(16),
            "checksum": checksum("snapshot", info.incarnation, version, self.entries, self.sum.to_bytes(16)),
        }


def read_totals(row: Sequence[Any] | None, info: SessionInfo, where: str) -> Totals:
    """The totals of a snapshot from its row.

    Raises:
        CorruptData: the row is missing or its checksum does not match.
    """
    what = f"a snapshot of session {info.session_id!r}"
    if row is None:
        raise CorruptData(where=where, what=what)
    version, entries, sum_, stored = row
    _verify(stored, checksum("snapshot", info.incarnation, version, entries, sum_), where, what)
    return Totals(entries, int.from_bytes(sum_))


def value_row(info: SessionInfo, value: StoredValue) -> dict[str, Column]:
    """The row of one value; without data it says that the name was removed at that version."""
    data_digest = None if value.data is None else digest(value.data)
    columns = (value.name, value.version, value.position, value.size, data_digest)
    return {
        "owner": info.owner,
        "session_id": info.session_id,
        "name": value.name,
        "version": value.version,
        "position": value.position,
        "size": value.size,
        "digest": data_digest,
        "checksum": checksum("value", info.incarnation, *columns),
        "data": value.data,
    }


def read_value(row: Sequence[Any], info: SessionInfo, where: str, *, whole: bool) -> StoredValue:
    """A value from its row; `whole` says that the row was read with its data.

    Raises:
        CorruptData: the checksum of the row, or of its data, does not match.
    """
    name, version, position, size, data_digest, stored, data = row
    what = f"a value of session {info.session_id!r} at version {version}"
    _verify(stored, checksum("value", info.incarnation, name, version, position, size, data_digest), where, what)
    if whole and data_digest is not None:
        _verify(data_digest, _digest(data), where, what)
    return StoredValue(name, position, version, size, data if whole else None)


def run_row(run: Run) -> dict[str, Column]:
    """The row of a run."""
    error = None if run.error is None else json.dumps([run.error.type, run.error.message, run.error.traceback])
    usage = run.usage
    row: dict[str, Column] = {
        "owner": run.owner,
        "session_id": run.session_id,
        "run_id": run.run_id,
        "workflow_id": run.workflow_id,
        "workflow": run.workflow,
        "status": str(run.status),
        "started_at": float(run.started_at),
        "process_id": run.process_id,
        "ended_at": None if run.ended_at is None else float(run.ended_at),
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": None if usage.cost is None else float(usage.cost),
        "base_version": run.base_version,
        "error": error,
        "input": run.input,
        "output": run.output,
        "refused_patch": run.refused_patch,
    }
    return row | {"checksum": checksum("run", *row.values())}


def read_run(row: Sequence[Any], where: str) -> Run:
    """A run from its row.

    Raises:
        CorruptData: the checksum does not match.
    """
    *columns, stored = row
    owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at = columns[:9]
    _verify(stored, checksum("run", *columns), where, f"run {run_id!r}")
    requests, input_tokens, output_tokens, cost, base_version, error, input_, output, refused = columns[9:]
    return Run(
        run_id=run_id,
        owner=owner,
        session_id=session_id,
        workflow_id=workflow_id,
        workflow=workflow,
        status=RunStatus(status),
        started_at=started_at,
        process_id=process_id,
        ended_at=ended_at,
        input=input_,
        output=output,
        error=None if error is None else Failure(*json.loads(error)),
        usage=Usage(requests, input_tokens, output_tokens, cost),
        base_version=base_version,
        refused_patch=refused,
    )


def beat_row(process_id: str, beat_at: float) -> dict[str, Column]:
    """The row of a living process."""
    return {"process_id": process_id, "beat_at": beat_at, "checksum": checksum("process", process_id, beat_at)}


def read_beats(rows: Iterable[Sequence[Any]], where: str) -> dict[str, float]:
    """When each living process was last heard of, from their rows.

    Raises:
        CorruptData: a checksum does not match.
    """
    beats = {}
    for process_id, beat_at, stored in rows:
        _verify(stored, checksum("process", process_id, beat_at), where, "a heartbeat")
        beats[process_id] = beat_at
    return beats


def renamed(run: Run, session_id: str) -> dict[str, Column]:
    """The row of a run of a session that got another id."""
    return run_row(replace(run, session_id=session_id))


def _digest(data: object) -> bytes:
    return digest(data) if isinstance(data, bytes) else b""


def _verify(stored: object, computed: bytes, where: str, what: str) -> None:
    if stored != computed or not computed:
        raise CorruptData(where=where, what=what)
