"""What the SQL storage writes, each function inside one transaction.

Rules that must stay true:
- a transaction holds the head of the session before it writes anything else of it: by changing it, by reading it
  to change it, or by making it; so writers of one session never overlap, also where those of others do;
- a patch is stored only on top of the version that it was made against; a repeated commit id is recognised;
- a value is deleted when no kept listing refers to it, and not before;
- every write of a head, a change, a snapshot or a run renews its checksum.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast import clock
from holdfast.errors import InvalidInput, SessionDeleted, SessionExists, SessionNotFound, StateConflict
from holdfast.records import Change, Commit, SessionInfo, Snapshot
from holdfast.storage import history, reading, rows
from holdfast.storage import listing as listings
from holdfast.storage.base import KeepHistory
from holdfast.storage.queries import NO_LIMIT, Statements

_FORGET_PROCESS_AFTER = 24 * 3600.0
"""Seconds; far more than processes' clocks differ. A process without a row counts as dead, like a stale one."""


def check_run_belongs(commit: Commit) -> None:
    """Refuse a commit whose run is of another session.

    Raises:
        InvalidInput: the run's owner or session id differs from the commit's.
    """
    run = commit.run
    if run is not None and (run.owner, run.session_id) != (commit.owner, commit.session_id):
        raise InvalidInput("Commit.run must be a run of the commit's own owner and session_id.")


def commit(db: Statements, commit: Commit, keep: KeepHistory, *, beat: bool) -> int:
    """See `Storage.commit`; `beat` says whether the heartbeat of the run's process is due."""
    if commit.patch is None:
        head = reading.find_head(db, commit.owner, commit.session_id, to_change=True)
        if commit.base and (head is None or head.info.incarnation != commit.incarnation):
            raise SessionDeleted(session_id=commit.session_id)
        version = head.info.version if head else 0
    else:
        applied = _advance(db, commit, commit.patch, keep)
        if applied is not None:
            return applied
        version = commit.base + 1
    if commit.run is not None:
        db.put("put_run", rows.run_row(commit.run))
        if beat:
            put_beat(db, commit.run.process_id)
    return version


def _advance(db: Statements, commit: Commit, patch: bytes, keep: KeepHistory) -> int | None:
    """Make the next version; when the commit was applied before, the version that it made then."""
    now = clock.now()
    head = None if commit.snapshot else _head_from_memory(db, commit, now)
    is_remembered = is_written = head is not None
    if head is None:
        before = _head_before(db, commit, now)
        if before and (before.info.incarnation, before.info.version) != (commit.incarnation, commit.base):
            return _applied_version(db, commit, before.info)
        head = _next_head(before, commit, now)
        is_written = before is None and commit.snapshot is None
    change = Change(head.info.version, commit.commit_id, commit.run_id, now, patch)
    db.put("insert_patch", rows.change_row(head.info, change))
    if commit.snapshot is not None:
        head = _store_snapshot(db, head, commit.snapshot)
        _thin(db, head)
        head, _ = _forget(db, head, keep)
    row = head.row() if not is_remembered else ()
    if not is_written:
        db.put("put_head", row)
    if not is_remembered:
        db.remembered.heads.put((commit.owner, commit.session_id), (head, row))
    return None


def _head_before(db: Statements, commit: Commit, now: float) -> rows.Head | None:
    """The head that the commit is to advance, which nobody else can change now; None when it has just been made."""
    while True:
        before = reading.find_head(db, commit.owner, commit.session_id, to_change=True)
        if before is not None:
            return before
        if commit.base:
            raise SessionDeleted(session_id=commit.session_id)
        if db.put("insert_head", _next_head(None, commit, now).row()):
            return None
        # Somebody else made the session in between: look again.


def _head_from_memory(db: Statements, commit: Commit, now: float) -> rows.Head | None:
    """The head after this commit, written without reading it first; None if that did not change anything.

    The row was verified, or written, before; the database compares all its columns.
    """
    key = (commit.owner, commit.session_id)
    remembered = db.remembered.heads.get(key)
    if remembered is None:
        return None
    before, old = remembered
    if before.info.incarnation != commit.incarnation or before.info.version != commit.base:
        return None
    head = _next_head(before, commit, now)
    row = head.row()
    if not db.put("advance_head", (head.info.version, now, row[-1], *old)):
        return None
    db.remembered.heads.put(key, (head, row))
    return head


def _next_head(before: rows.Head | None, commit: Commit, now: float) -> rows.Head:
    version = commit.base + 1
    if before is None:
        return rows.Head(
            SessionInfo(commit.owner, commit.session_id, commit.incarnation, version, 0, commit.workflow, now, now)
        )
    old = before.info
    info = SessionInfo(  # spelled out, for `replace` would take as long as the SQL
        old.owner,
        old.session_id,
        old.incarnation,
        version,
        old.snapshot_version,
        old.workflow,
        old.created_at,
        now,
    )
    return rows.Head(info, before.forgotten)


def _applied_version(db: Statements, commit: Commit, info: SessionInfo) -> int:
    if info.incarnation == commit.incarnation:
        key = {"owner": commit.owner, "session_id": commit.session_id}
        found = db.one("find_commit", **key, base=commit.base, commit_id=commit.commit_id)
        if found is not None:
            return int(found[0])
    elif commit.base:
        raise SessionDeleted(session_id=commit.session_id)
    raise StateConflict(
        session_id=commit.session_id,
        base=commit.base,
        current=info.version,
        run_id=commit.run_id,
    )


def _store_snapshot(db: Statements, head: rows.Head, snapshot: Snapshot) -> rows.Head:
    info = head.info
    version = info.version
    newest = reading.listing_at(db, info, info.snapshot_version)
    new = [rows.value_entry(value, version) for value in snapshot.values]
    listing = listings.following(snapshot, new, newest)
    db.put_each("insert_value", [rows.value_row(info, value, version) for value in snapshot.values])
    db.put("insert_snapshot", rows.snapshot_row(info, version, listing))
    return replace(head, info=replace(info, snapshot_version=version))


def _thin(db: Statements, head: rows.Head) -> None:
    """Drop old snapshots, and the values that only they referred to."""
    key = {"owner": head.info.owner, "session_id": head.info.session_id}
    kept = [row[0] for row in db.all("snapshot_versions", **key)]
    for version in history.superfluous(kept, head.forgotten):
        place = kept.index(version)
        db.change("delete_snapshots", **key, since=version, upto=version)
        _delete_unreferred(db, head.info, kept[place - 1] if place else 0, kept[place + 1])
        kept.remove(version)


def _delete_unreferred(db: Statements, info: SessionInfo, after: int, kept: int) -> None:
    """Delete the values that were stored between two neighbouring snapshots and are not in the later one.

    No other listing can refer to them: older ones were before them, and newer ones have what the later one has.
    """
    key = {"owner": info.owner, "session_id": info.session_id}
    stored = db.all("value_keys", **key, after=after, before=kept)
    if stored:
        listing = reading.listing_at(db, info, kept)
        referred = {rows.value_key(entry) for entry in listing.values()}
        db.put_each("delete_value", [(info.owner, info.session_id, *row) for row in stored if row not in referred])


def _forget(db: Statements, head: rows.Head, keep: KeepHistory) -> tuple[rows.Head, int]:
    """Forget what lies before the newest snapshot from which all wanted versions can be rebuilt.

    Returns:
        The new head, to be stored, and how many changes were forgotten.
    """
    key = {"owner": head.info.owner, "session_id": head.info.session_id}

    def newest_before(time: float) -> int | None:
        row = db.one("newest_version_before", **key, time=time)
        return row[0] if row else None

    oldest = history.oldest_wanted(keep, head.info.version, newest_before)
    found = db.one("newest_snapshot_upto", **key, upto=oldest)
    start = (found and found[0]) or 0
    if start <= head.forgotten:
        return head, 0
    forgotten = db.change("delete_patches", **key, upto=start)
    db.change("delete_snapshots", **key, since=0, upto=start - 1)
    _delete_unreferred(db, head.info, 0, start)
    return replace(head, forgotten=start), forgotten


def prune_session(db: Statements, owner: str, session_id: str, keep: KeepHistory) -> int:
    """See `Storage.prune_session`."""
    head, forgotten = _forget(db, reading.existing_head(db, owner, session_id, to_change=True), keep)
    if forgotten:
        db.put("put_head", head.row())
    return forgotten


def rename_session(db: Statements, owner: str, session_id: str, new_id: str) -> None:
    """See `Storage.rename_session`."""
    head = reading.existing_head(db, owner, session_id, to_change=True)
    new = replace(head, info=replace(head.info, session_id=new_id))
    if reading.find_head(db, owner, new_id) or _runs(db, owner, new_id) or not db.put("insert_head", new.row()):
        raise SessionExists(session_id=new_id, where=db.where)
    key = {"owner": owner, "session_id": session_id}
    runs = [rows.read_run(row, db.where) for row in _runs(db, owner, session_id)]
    db.change("delete_head", **key)
    for query in ("move_patches", "move_snapshots", "move_values"):
        db.change(query, **key, new_id=new_id)
    db.change("delete_runs", **key)
    db.put_each("put_run", [rows.renamed(run, new_id) for run in runs])


def delete_session(db: Statements, owner: str, session_id: str) -> None:
    """See `Storage.delete_session`. Runs of a session that never got a version count as the session, and what is
    left of a damaged one is deleted too."""
    key = {"owner": owner, "session_id": session_id}
    deleted = db.change("delete_head", **key)
    placeholder = rows.Head(SessionInfo(owner, session_id, "", 0, 0, "", 0.0, 0.0)).row()
    while not deleted and not db.put("insert_head", placeholder):  # somebody made the session in between
        deleted = db.change("delete_head", **key)
    is_headless = not deleted
    deleted += db.change("delete_runs", **key)
    deleted += db.change("delete_patches", **key, upto=NO_LIMIT)
    deleted += db.change("delete_snapshots", **key, since=0, upto=NO_LIMIT)
    deleted += db.change("delete_values", **key)
    if is_headless:
        db.change("delete_head", **key)
    if not deleted:
        raise SessionNotFound(session_id=session_id, where=db.where)


def put_beat(db: Statements, process_id: str) -> None:
    """Record that a process lives, and forget processes that died long ago."""
    now = db.now()
    db.put("put_beat", rows.beat_row(process_id, now))
    db.change("delete_beats_before", time=now - _FORGET_PROCESS_AFTER)


def delete_beat(db: Statements, process_id: str) -> None:
    """Record that a process ended."""
    db.change("delete_beat", process_id=process_id)


def _runs(db: Statements, owner: str, session_id: str) -> list[tuple[object, ...]]:
    return db.all("runs_of_session", owner=owner, session_id=session_id, run_id=None, limit=NO_LIMIT)
