"""What the SQL storage writes, each function inside one transaction that no other writer overlaps.

Rules that must stay true:
- a patch is stored only on top of the version that it was made against; a repeated commit id is recognised;
- values and snapshots that a kept version needs are never deleted;
- every write of a head, a change, a value, a snapshot or a run renews its checksum.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast import clock
from holdfast.errors import InvalidInput, SessionDeleted, SessionExists, SessionNotFound, StateConflict
from holdfast.records import Change, Commit, SessionInfo, Snapshot, StoredValue
from holdfast.storage import history, reading, rows
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
        head = reading.find_head(db, commit.owner, commit.session_id)
        version = head.info.version if head else 0
    else:
        applied = _advance(db, commit, commit.patch, keep)
        if applied is not None:
            return applied
        version = commit.base + 1
    if commit.run is not None:
        db.change("put_run", **rows.run_row(commit.run))
        if beat:
            put_beat(db, commit.run.process_id)
    return version


def _advance(db: Statements, commit: Commit, patch: bytes, keep: KeepHistory) -> int | None:
    """Make the next version; when the commit was applied before, the version that it made then."""
    now = clock.now()
    head = reading.find_head(db, commit.owner, commit.session_id)
    if head is None:
        if commit.base:
            raise SessionDeleted(session_id=commit.session_id)
        head = rows.Head(
            SessionInfo(commit.owner, commit.session_id, commit.incarnation, 0, 0, commit.workflow, now, now)
        )
    elif head.info.incarnation != commit.incarnation or head.info.version != commit.base:
        return _applied_version(db, commit, head.info)
    run_id = commit.run_id
    change = Change(commit.base + 1, commit.commit_id, run_id, now, patch)
    db.change("insert_patch", **rows.change_row(head.info, change))
    info = head.info
    head = rows.Head(
        SessionInfo(  # spelled out, for `replace` would take as long as the SQL
            info.owner,
            info.session_id,
            info.incarnation,
            change.version,
            info.snapshot_version,
            info.workflow,
            info.created_at,
            now,
        ),
        head.forgotten,
    )
    if commit.snapshot is not None:
        head = _store_snapshot(db, head, commit.snapshot)
        _thin(db, head)
        head, _ = _forget(db, head, keep)
    db.change("put_head", **head.row())
    return None


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
    totals = reading.totals_at(db, info, info.snapshot_version)
    values = [replace(value, version=info.version) for value in snapshot.values]
    key = {"owner": info.owner, "session_id": info.session_id}
    new_rows = [rows.value_row(info, value) for value in values]
    replaced = [value.name for value in values] if info.snapshot_version else []
    for name in (*replaced, *snapshot.removed):
        old = db.one("newest_value_without_data", **key, name=name)
        if old is None or old[4] is None:
            continue
        rows.read_value(old, info, db.where, whole=False)
        totals = totals.plus(old[5], count=-1)
        if name in snapshot.removed:
            new_rows.append(rows.value_row(info, StoredValue(name, 0, info.version, 0, None)))
    for row in new_rows[: len(values)]:
        totals = totals.plus(bytes(row["checksum"]))  # type: ignore[arg-type]
    db.change_each("insert_value", new_rows)
    db.change("insert_snapshot", **totals.row(info, info.version))
    return replace(head, info=replace(info, snapshot_version=info.version))


def _thin(db: Statements, head: rows.Head) -> None:
    """Drop old snapshots, and the values that only they showed."""
    key = {"owner": head.info.owner, "session_id": head.info.session_id}
    kept = [row[0] for row in db.all("snapshot_versions", **key)]
    dropped = history.superfluous(kept, head.forgotten)
    for version in dropped:
        place = kept.index(version)
        before = kept[place - 1] if place else 0
        db.change("delete_snapshots", **key, since=version, upto=version)
        db.change("delete_superseded_values", **key, after=before, kept=kept[place + 1])
        kept.remove(version)


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
    db.change("delete_superseded_values", **key, after=0, kept=start)
    db.change("delete_removed_values", **key, upto=start)
    return replace(head, forgotten=start), forgotten


def prune_session(db: Statements, owner: str, session_id: str, keep: KeepHistory) -> int:
    """See `Storage.prune_session`."""
    head, forgotten = _forget(db, reading.existing_head(db, owner, session_id), keep)
    if forgotten:
        db.change("put_head", **head.row())
    return forgotten


def rename_session(db: Statements, owner: str, session_id: str, new_id: str) -> None:
    """See `Storage.rename_session`."""
    head = reading.existing_head(db, owner, session_id)
    if reading.find_head(db, owner, new_id) or _runs(db, owner, new_id):
        raise SessionExists(session_id=new_id, where=db.where)
    key = {"owner": owner, "session_id": session_id}
    runs = [rows.read_run(row, db.where) for row in _runs(db, owner, session_id)]
    db.change("delete_head", **key)
    db.change("put_head", **replace(head, info=replace(head.info, session_id=new_id)).row())
    for query in ("move_patches", "move_snapshots", "move_values"):
        db.change(query, **key, new_id=new_id)
    db.change("delete_runs", **key)
    db.change_each("put_run", [rows.renamed(run, new_id) for run in runs])


def delete_session(db: Statements, owner: str, session_id: str) -> None:
    """See `Storage.delete_session`. Runs of a session that never got a version count as the session, and what is
    left of a damaged one is deleted too."""
    key = {"owner": owner, "session_id": session_id}
    deleted = db.change("delete_head", **key) + db.change("delete_runs", **key)
    deleted += db.change("delete_patches", **key, upto=NO_LIMIT)
    deleted += db.change("delete_snapshots", **key, since=0, upto=NO_LIMIT)
    deleted += db.change("delete_values", **key)
    if not deleted:
        raise SessionNotFound(session_id=session_id, where=db.where)


def put_beat(db: Statements, process_id: str) -> None:
    """Record that a process lives, and forget processes that died long ago."""
    now = clock.now()
    db.change("put_beat", **rows.beat_row(process_id, now))
    db.change("delete_beats_before", time=now - _FORGET_PROCESS_AFTER)


def delete_beat(db: Statements, process_id: str) -> None:
    """Record that a process ended."""
    db.change("delete_beat", process_id=process_id)


def _runs(db: Statements, owner: str, session_id: str) -> list[tuple[object, ...]]:
    return db.all("runs_of_session", owner=owner, session_id=session_id, run_id=None, limit=NO_LIMIT)
