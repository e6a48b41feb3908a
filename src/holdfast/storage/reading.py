"""What the SQL storage reads, each function inside one consistent transaction.

Rules that must stay true:
- nothing is returned whose checksum was not verified;
- a missing row is damage, not an empty answer: changes must be contiguous, the values of a snapshot must add up
  to its totals, and a session without a head must have no rows at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.errors import CorruptData, SessionDeleted, SessionNotFound, VersionNotKept
from holdfast.records import Change, Known, Run, SessionInfo, StoredSession, StoredValue
from holdfast.storage import rows
from holdfast.storage.base import INLINE_SIZE
from holdfast.storage.liveness import with_interruptions
from holdfast.storage.queries import NO_LIMIT, Statements


def find_head(db: Statements, owner: str, session_id: str) -> rows.Head | None:
    """The head of a session, None when it is not stored.

    Raises:
        CorruptData: the head is damaged, or it is missing although the session has other rows.
    """
    row = db.one("find_head", owner=owner, session_id=session_id)
    if row is not None:
        return rows.read_head(row, db.where)
    if (db.one("rows_of_session", owner=owner, session_id=session_id) or (0,))[0]:
        raise CorruptData(where=db.where, what=f"session {session_id!r} (its head is missing)")
    return None


def existing_head(db: Statements, owner: str, session_id: str) -> rows.Head:
    """The head of a session that must be there.

    Raises:
        SessionNotFound: it is not stored.
    """
    head = find_head(db, owner, session_id)
    if head is None:
        raise SessionNotFound(session_id=session_id, where=db.where)
    return head


def load(db: Statements, owner: str, session_id: str, known: Known | None, at: int | None) -> StoredSession | None:
    """See `Storage.load`."""
    head = find_head(db, owner, session_id)
    if head is None:
        return None
    info = head.info
    if at is not None:
        return _load_at(db, head, at)
    if known is not None and known.incarnation == info.incarnation and head.forgotten <= known.version <= info.version:
        return StoredSession(info, None, changes_between(db, info, known.version, info.version))
    values = values_at(db, info, info.snapshot_version)
    return StoredSession(info, values, changes_between(db, info, info.snapshot_version, info.version))


def _load_at(db: Statements, head: rows.Head, at: int) -> StoredSession:
    info = head.info
    if not max(head.forgotten, 1) <= at <= info.version:
        raise _not_kept(head, at)
    found = db.one("newest_snapshot_upto", owner=info.owner, session_id=info.session_id, upto=at)
    snapshot_version = (found and found[0]) or 0
    values = values_at(db, info, snapshot_version)
    changes = changes_between(db, info, snapshot_version, at)
    return StoredSession(replace(info, version=at, snapshot_version=snapshot_version), values, changes)


def changes_between(
    db: Statements, info: SessionInfo, after: int, upto: int, limit: int | None = None
) -> tuple[Change, ...]:
    """The changes after one version and up to another, all of them or the first `limit`.

    Raises:
        CorruptData: one is damaged or missing.
    """
    wanted = upto - after if limit is None else min(upto - after, limit)
    found = db.each(
        "find_patches",
        owner=info.owner,
        session_id=info.session_id,
        after=after,
        upto=upto,
        limit=max(wanted, 0),
    )
    changes = rows.read_changes(found, info, after, db.where)
    if len(changes) < wanted:
        missing = after + len(changes) + 1
        raise CorruptData(where=db.where, what=f"change {missing} of session {info.session_id!r}")
    return changes


def totals_at(db: Statements, info: SessionInfo, snapshot_version: int) -> rows.Totals:
    """What the values of a kept snapshot add up to."""
    if not snapshot_version:
        return rows.Totals()
    key = {"owner": info.owner, "session_id": info.session_id}
    return rows.read_totals(db.one("find_snapshot", **key, version=snapshot_version), info, db.where)


def values_at(db: Statements, info: SessionInfo, snapshot_version: int) -> tuple[StoredValue, ...]:
    """All values of a kept snapshot in order, the large ones without their data.

    Raises:
        CorruptData: one is damaged, missing, or older than it should be.
    """
    expected = totals_at(db, info, snapshot_version)
    found = db.each(
        "values_at",
        owner=info.owner,
        session_id=info.session_id,
        version=snapshot_version,
        inline_size=INLINE_SIZE,
    )
    values = []
    totals = rows.Totals()
    for row in found:
        value = rows.read_value(row, info, db.where, whole=row[6] is not None)
        if value.data is None and value.size <= INLINE_SIZE:
            raise CorruptData(where=db.where, what=f"a value of session {info.session_id!r}")
        values.append(value)
        totals = totals.plus(row[5])
    if totals != expected:
        raise CorruptData(where=db.where, what=f"the set of values of session {info.session_id!r}")
    return tuple(values)


def read_values(
    db: Statements, owner: str, session_id: str, names: Sequence[str], incarnation: str, at: int
) -> dict[str, bytes]:
    """See `Storage.read_values`.

    When the snapshot of that version was thinned out, a value is still there if it did not change up to the next
    kept snapshot.
    """
    head = find_head(db, owner, session_id)
    if head is None or head.info.incarnation != incarnation:
        raise SessionDeleted(session_id=session_id)
    if at == 0:
        return {}
    info = head.info
    following = db.one("next_snapshot", owner=owner, session_id=session_id, since=at)
    kept = following[0] if following else None
    if kept is None:
        raise _not_kept(head, at)
    values: dict[str, bytes] = {}
    for name in names:
        row = db.one("newest_value", owner=owner, session_id=session_id, name=name, version=kept)
        if kept > at and (row is None or row[1] > at):
            raise _not_kept(head, at)
        data = None if row is None else rows.read_value(row, info, db.where, whole=True).data
        if data is not None:
            values[name] = data
    if len(values) < len(names):
        missing = set(names) - set(values)
        if any(value.name in missing for value in values_at(db, info, kept)):
            raise CorruptData(where=db.where, what=f"a value of session {session_id!r}")
    return values


def _not_kept(head: rows.Head, version: int) -> VersionNotKept:
    info = head.info
    oldest = max(head.forgotten, 1)
    return VersionNotKept(version=version, session_id=info.session_id, oldest=oldest, newest=info.version)


def changes(db: Statements, owner: str, session_id: str, after: int, limit: int | None) -> tuple[Change, ...]:
    """See `Storage.changes`."""
    head = existing_head(db, owner, session_id)
    return changes_between(db, head.info, max(after, head.forgotten), head.info.version, limit)


def find_sessions(
    db: Statements, owner: str | None, session_id: str | None, limit: int | None
) -> tuple[SessionInfo, ...]:
    """See `Storage.find_sessions`."""
    wanted = {"session_id": session_id, "limit": NO_LIMIT if limit is None else limit}
    found = (
        db.each("heads_of_all_owners", **wanted) if owner is None else db.each("heads_of_owner", owner=owner, **wanted)
    )
    return tuple(rows.read_head(row, db.where).info for row in found)


def find_runs(
    db: Statements, owner: str | None, session_id: str | None, run_id: str | None, limit: int | None
) -> tuple[Run, ...]:
    """See `Storage.find_runs`."""
    wanted = {"run_id": run_id, "limit": NO_LIMIT if limit is None else limit}
    if owner is None:
        found = db.each("runs_of_all_owners", session_id=session_id, **wanted)
    elif session_id is None:
        found = db.each("runs_of_owner", owner=owner, **wanted)
    else:
        found = db.each("runs_of_session", owner=owner, session_id=session_id, **wanted)
    runs = [rows.read_run(row, db.where) for row in found]
    return with_interruptions(runs, rows.read_beats(db.each("beats"), db.where))
