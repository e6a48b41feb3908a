"""What the SQL storage reads, each function inside one consistent transaction.

Rules that must stay true:
- nothing is returned whose checksum was not verified;
- a missing row is damage, not an empty answer: changes must be contiguous, a value that a listing names must be
  there, and a session without a head must have no rows at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from holdfast.errors import CorruptData, SessionDeleted, SessionNotFound, VersionNotKept
from holdfast.records import Change, Known, Run, SessionInfo, StepRecord, StoredSession, StoredValue
from holdfast.storage import rows, step_rows
from holdfast.storage.base import INLINE_SIZE
from holdfast.storage.leasing import Queued
from holdfast.storage.listing import Listing
from holdfast.storage.liveness import with_interruptions
from holdfast.storage.queries import NO_LIMIT, Statements


def find_head(db: Statements, owner: str, session_id: str, *, to_change: bool = False) -> rows.Head | None:
    """The head of a session, None when it is not stored.

    Args:
        to_change: whether nobody else may change or delete the session until this transaction ends.

    Raises:
        CorruptData: the head is damaged, or it is missing although the session has other rows.
    """
    head = find_head_or_place(db, owner, session_id, to_change=to_change)
    return head if head is not None and head.info.version else None


def find_head_or_place(db: Statements, owner: str, session_id: str, *, to_change: bool = False) -> rows.Head | None:
    """As `find_head`; also the head of a session that is held and has no version yet."""
    row = db.one("find_head_to_change" if to_change else "find_head", owner=owner, session_id=session_id)
    if row is not None:
        return rows.read_head(row, db.where)
    if (db.one("rows_without_head", owner=owner, session_id=session_id) or (0,))[0]:
        raise CorruptData(where=db.where, what=f"session {session_id!r} (its head is missing)")
    return None


def existing_head(db: Statements, owner: str, session_id: str, *, to_change: bool = False) -> rows.Head:
    """The head of a session that must be there; `to_change` as for `find_head`.

    Raises:
        SessionNotFound: it is not stored.
    """
    head = find_head(db, owner, session_id, to_change=to_change)
    if head is None:
        raise SessionNotFound(session_id=session_id, where=db.where)
    return head


def unchanged(db: Statements, owner: str, session_id: str, known: Known) -> StoredSession | None:
    """What `load` says when nothing happened since the known version, in one statement; None when something did.

    Raises:
        CorruptData: the head is damaged.
    """
    row = db.one("find_head", owner=owner, session_id=session_id)
    if row is None:
        return None
    remembered = db.remembered.heads.get((owner, session_id))
    head = remembered[0] if remembered and remembered[1] == row else rows.read_head(row, db.where)
    info = head.info
    if info.version != known.version or info.incarnation != known.incarnation:
        return None
    return StoredSession(info, None, ())


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


def listing_at(db: Statements, info: SessionInfo, snapshot_version: int) -> Listing:
    """The listing of a kept snapshot; that of version 0 is empty.

    Raises:
        CorruptData: it is damaged or missing.
    """
    if not snapshot_version:
        return {}
    key = {"owner": info.owner, "session_id": info.session_id, "version": snapshot_version}
    row = db.one("find_snapshot", **key)
    if row is None:
        raise CorruptData(where=db.where, what=f"the snapshot of version {snapshot_version} of {info.session_id!r}")
    stored = row[0]
    listing = db.remembered.listings.get(stored)
    if listing is None:
        found = db.one("find_listing", **key)
        listing = rows.read_listing(stored, found and found[0], info, snapshot_version, db.where)
        db.remembered.listings.put(stored, listing)
    return listing


def values_at(db: Statements, info: SessionInfo, snapshot_version: int) -> tuple[StoredValue, ...]:
    """All values of a kept snapshot in order, with their data when that is little.

    Raises:
        CorruptData: the listing, or a value that it names, is damaged or missing.
    """
    listing = listing_at(db, info, snapshot_version)
    if sum([entry.size for entry in listing.values()]) > INLINE_SIZE:
        return tuple([StoredValue(entry.name, entry.size, None) for entry in listing.values()])
    found: dict[tuple[int, bytes], bytes] = {}
    for version in {entry.version for entry in listing.values()}:
        for name, data in db.each(
            "small_values_of_version",
            owner=info.owner,
            session_id=info.session_id,
            version=version,
            size=INLINE_SIZE,
        ):
            found[version, name] = data
    return tuple(
        [
            StoredValue(name, entry.size, rows.read_data(found.get(rows.value_key(entry)), entry, info, db.where))
            for name, entry in listing.items()
        ]
    )


def read_values(
    db: Statements, owner: str, session_id: str, names: Sequence[str], incarnation: str, at: int
) -> dict[str, bytes]:
    """See `Storage.read_values`.

    When the snapshot of that version was thinned out, a value is still there if the next kept one has the same row.
    """
    head = find_head(db, owner, session_id)
    if head is None or head.info.incarnation != incarnation:
        raise SessionDeleted(session_id=session_id)
    if at == 0:
        return {}
    key = {"owner": owner, "session_id": session_id}
    row = db.one("next_snapshot", **key, since=at)
    kept = row[0] if row else None
    if kept is None:
        raise _not_kept(head, at)
    listing = listing_at(db, head.info, kept)
    values: dict[str, bytes] = {}
    for name in names:
        entry = listing.get(name)
        if kept > at and (entry is None or entry.version > at):
            raise _not_kept(head, at)
        if entry is not None:
            version, stored_name = rows.value_key(entry)
            found = db.one("find_value", **key, version=version, name=stored_name)
            values[name] = rows.read_data(found and found[0], entry, head.info, db.where)
    return values


def _not_kept(head: rows.Head, version: int) -> VersionNotKept:
    info = head.info
    oldest = max(head.forgotten, 1)
    return VersionNotKept(version=version, session_id=info.session_id, oldest=oldest, newest=info.version)


def changes(db: Statements, owner: str, session_id: str, after: int, limit: int | None) -> tuple[Change, ...]:
    """See `Storage.changes`."""
    head = existing_head(db, owner, session_id)
    return changes_between(db, head.info, max(after, head.forgotten), head.info.version, limit)


def queue(db: Statements, owner: str, session_id: str) -> list[Queued]:
    """Who holds a session and who waits for it."""
    found = db.each("leases", owner=owner, session_id=session_id)
    return rows.read_queue(found, owner, session_id, db.where)


def find_sessions(
    db: Statements, owner: str | None, session_id: str | None, limit: int | None
) -> tuple[SessionInfo, ...]:
    """See `Storage.find_sessions`."""
    most = NO_LIMIT if limit is None else limit
    if owner is None:
        found = db.all("heads_of_all_owners", session_id=session_id, least=1, limit=most)
    elif session_id is None:
        found = db.all("heads_of_owner", owner=owner, limit=most)
    else:
        found = db.all("find_head", owner=owner, session_id=session_id)[:most]
    infos = [rows.read_head(row, db.where).info for row in found]
    return tuple(info for info in infos if info.version)


def find_runs(
    db: Statements, owner: str | None, session_id: str | None, run_id: str | None, limit: int | None
) -> tuple[Run, ...]:
    """See `Storage.find_runs`."""
    most = NO_LIMIT if limit is None else limit
    if owner is None:
        found = db.all("runs_of_all_owners", session_id=session_id, run_id=run_id, limit=most)
    elif session_id is None:
        found = db.all("runs_of_owner", owner=owner, run_id=run_id, limit=most)
    elif run_id is None:
        found = db.all("runs_of_session", owner=owner, session_id=session_id, limit=most)
    else:
        found = db.all("find_run", owner=owner, session_id=session_id, run_id=run_id)[:most]
    runs = [rows.read_run(row, db.where) for row in found]
    return with_interruptions(runs, rows.read_beats(db.each("beats"), db.where), db.now())


def find_steps(
    db: Statements, owner: str, session_id: str, run_id: str, *, with_results: bool
) -> tuple[StepRecord, ...]:
    """See `Storage.find_steps`."""
    query = "steps_of_run_with_results" if with_results else "steps_of_run"
    found = db.each(query, owner=owner, session_id=session_id, run_id=run_id)
    return tuple(step_rows.read_step(row, db.where) for row in found)
