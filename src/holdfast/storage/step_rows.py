"""The rows of steps and of the step cache as records, each with the checksum that guards it.

Rules that must stay true:
- a checksum covers the digest of a result and not the result, which may be dropped, or left out where it is not wanted;
- a result that is read is verified against that digest;
- who computes an entry, and how often it was found, is not covered: that changes by itself, and decides nothing about
  the value;
- a record is made only of a row whose checksum matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.errors import InvalidInput, MalformedData
from holdfast.records import Entry, Place, StepRecord, Usage
from holdfast.storage import rows
from holdfast.storage.rows import Column, Row, checksum, digest, digest_of

_NUMBER = (int, float)
_PERHAPS_NUMBER = (int, float, type(None))
_PERHAPS_BYTES = (bytes, type(None))
_STEP_TYPES = (
    *(str, str, str, int, str, str, int, int, int),
    *(float, float, int, int, int, _PERHAPS_NUMBER),
    *(bytes, bytes),
)
_ENTRY_TYPES = (
    *(str, str, str, bytes, str, int, str, str, str),
    *(float, int, int, int, _PERHAPS_NUMBER),
    *(float, _PERHAPS_NUMBER, int, bytes),
)
"""SQLite stores whatever it is given, whatever the column says."""


def step_row(owner: str, session_id: str, run_id: str, step: StepRecord, *, keeps_result: bool) -> Row:
    """The row of a step.

    Args:
        owner: of the session, as the two that follow.
        session_id: of the session.
        run_id: of the run that the step belongs to.
        step: what is recorded of it.
        keeps_result: whether its result is stored; that there was one stays known without it.
    """
    usage = step.usage
    columns = (
        owner,
        session_id,
        run_id,
        step.number,
        step.name,
        step.scope,
        step.occurrence,
        step.within,
        int(step.is_hit),
        float(step.started_at),
        float(step.seconds),
        usage.requests,
        usage.input_tokens,
        usage.output_tokens,
        _float(usage.cost),
        step.key,
        b"" if step.result is None else digest(step.result),
    )
    renewed = _step_checksum(columns, step.parts, step.patch)
    return (*columns, renewed, step.parts, step.patch, step.result if keeps_result else None)


def read_step(row: Sequence[Any], where: str) -> StepRecord:
    """A step from its row, the result of which may be left out.

    Raises:
        CorruptData: the checksum does not match, or the result is another one.
    """
    *columns, stored, parts, patch, result = row
    what = f"step {columns[3]} of run {columns[2]!r}"
    rows.verify(stored, _step_checksum(columns, parts, patch), where, what)
    if not _are(columns, _STEP_TYPES) or not isinstance(parts, bytes) or not isinstance(patch, _PERHAPS_BYTES):
        raise MalformedData(where=where, what=what)
    if result is not None:
        read_result(result, columns[-1], where, what)
    number, name, scope, occurrence, within, is_hit, started_at, seconds = columns[3:11]
    requests, input_tokens, output_tokens, cost, key, _ = columns[11:]
    return StepRecord(
        number=number,
        name=name,
        scope=scope,
        key=key,
        occurrence=occurrence,
        parts=parts,
        within=within,
        is_hit=bool(is_hit),
        started_at=started_at,
        seconds=seconds,
        usage=Usage(requests, input_tokens, output_tokens, cost),
        patch=patch,
        result=result,
    )


def read_result(result: object, expected: bytes, where: str, what: str) -> bytes:
    """A result from its row.

    Raises:
        CorruptData: it has another digest than is expected.
    """
    rows.verify(expected, digest(result) if isinstance(result, bytes) else b"", where, what)
    return result  # type: ignore[return-value]


def moved_step(row: Sequence[Any], session_id: str, where: str) -> Row:
    """The session id and the checksum of a step whose session got another id, and the key of its row until then.

    Raises:
        CorruptData: as for `read_step`.
    """
    read_step(row, where)
    owner, before, *columns = row[:17]
    renewed = _step_checksum((owner, session_id, *columns), row[18], row[19])
    return session_id, renewed, owner, before, row[2], row[3]


def _step_checksum(columns: Sequence[Column], parts: Any, patch: Any) -> bytes:
    return checksum("step", *columns, digest_of(parts), digest_of(patch))


def entry_row(entry: Entry, table_name: str, created_at: float, expires_at: float | None) -> Row:
    """The row of an entry: what `store_entry` takes, up to the key of the row.

    Args:
        entry: what was computed; its result must be there.
        table_name: the prefix of its session, empty if it is of no session.
        created_at: the time, which the entry itself does not know.
        expires_at: until when it may be used.

    Raises:
        InvalidInput: it has no result.
    """
    result = entry.result
    if result is None:
        raise InvalidInput("Entry.result must be there: it is what an entry of the step cache is stored for.")
    place, usage = entry.place, entry.usage
    columns = (
        entry.scope,
        int(entry.is_shared),
        entry.workflow,
        entry.step,
        entry.run_id,
        float(entry.seconds),
        usage.requests,
        usage.input_tokens,
        usage.output_tokens,
        _float(usage.cost),
        float(created_at),
        _float(expires_at),
        len(result),
        digest(result),
    )
    key = (place.owner, table_name, place.session_id, entry.key)
    return (created_at, *columns, _entry_checksum((*key, *columns), entry.parts), entry.parts, result)


def read_entry(row: Sequence[Any], where: str) -> Entry:
    """An entry from its row, the result of which may be left out.

    Raises:
        CorruptData: the checksum does not match, or the result is another one.
    """
    *columns, stored, parts, hits, used_at, result = row
    owner, _, session_id, key, scope, is_shared, workflow, step, run_id = columns[:9]
    what = f"an entry of the step cache for step {step!r}"
    rows.verify(stored, _entry_checksum(columns, parts), where, what)
    is_sound = _are(columns, _ENTRY_TYPES) and isinstance(parts, bytes)
    if not is_sound or not isinstance(hits, int) or not isinstance(used_at, _NUMBER):
        raise MalformedData(where=where, what=what)
    seconds, requests, input_tokens, output_tokens, cost, created_at, expires_at, size, expected = columns[9:]
    if result is not None:
        read_result(result, expected, where, what)
    return Entry(
        place=Place(owner, session_id),
        key=key,
        scope=scope,
        is_shared=bool(is_shared),
        workflow=workflow,
        step=step,
        parts=parts,
        seconds=seconds,
        usage=Usage(requests, input_tokens, output_tokens, cost),
        result=result,
        run_id=run_id,
        created_at=created_at,
        expires_at=expires_at,
        size=size,
        hits=hits,
        hit_at=used_at if hits else None,
    )


def _entry_checksum(columns: Sequence[Column], parts: Any) -> bytes:
    return checksum("entry", *columns, digest_of(parts))


def _are(columns: Sequence[Any], types: Sequence[Any]) -> bool:
    return all(map(isinstance, columns, types))


def _float(number: float | None) -> float | None:
    return None if number is None else float(number)
