"""What the SQL storage writes, each function inside one transaction.

Rules that must stay true:
- a transaction holds the head of the session before it writes anything else of it: by changing it, by reading it
  to change it, or by making it; so writers of one session never overlap, also where those of others do;
- a patch is stored only on top of the version that it was made against; a repeated commit id is recognised;
- a value is deleted when no kept listing refers to it, and not before;
- every write of a head, a change, a snapshot or a run renews its checksum;
- runs and their steps are in `attempts.py`.
"""

from __future__ import annotations

from msgspec.structs import replace

from holdfast import clock
from holdfast.errors import SessionBusy, SessionDeleted, SessionExists, SessionNotFound, VersionConflict
from holdfast.records import Change, Claim, Commit, SessionInfo, Snapshot
from holdfast.storage import attempts, history, leasing, reading, rows, step_rows
from holdfast.storage import listing as listings
from holdfast.storage.base import KeepHistory, Rebase
from holdfast.storage.queries import NO_LIMIT, Statements

_FORGET_PROCESS_AFTER = 24 * 3600.0
"""Seconds; far more than processes' clocks differ. A process without a row counts as dead, like a stale one."""


def commit(
    db: Statements,
    commit: Commit,
    keep: KeepHistory,
    *,
    beat: bool,
    rebase: Rebase | None = None,
    is_repeated: bool = False,
) -> int:
    """See `Storage.commit`.

    Args:
        db: where to write.
        commit: what to write.
        keep: how much history to keep.
        beat: whether the heartbeat of the run's process is due.
        rebase: as there.
        is_repeated: whether it may have been applied already, by a transaction whose outcome was not told.
    """
    if commit.patch is None:
        head = reading.find_head(db, commit.owner, commit.session_id, to_change=True)
        if commit.base and (head is None or head.info.incarnation != commit.incarnation):
            raise SessionDeleted(session_id=commit.session_id)
        version = head.info.version if head else 0
    else:
        version, commit, is_new = _advance(db, commit, keep, None if commit.resumes else rebase)
        if not is_new:
            return version
    if commit.resumes is not None:
        attempts.require_resumable(db, commit, version, is_repeated=is_repeated)
    attempts.write(db, commit)
    if commit.run is not None and beat:
        put_beat(db, commit.run.process_id)
    return version


def begin_session(db: Statements, info: SessionInfo, snapshot: Snapshot) -> None:
    """See `Storage.begin_session`."""
    history.require_beginning(info)
    before = reading.find_head_or_place(db, info.owner, info.session_id, to_change=True)
    first = Commit(info.owner, info.session_id, "", 0, info.incarnation, info.workflow, b"")
    lease = "" if before is not None and before.info.version else _lease_after(db, first, before)
    head = rows.Head(replace(info, snapshot_version=0), info.version, lease)
    is_there = before is not None and before.info.version
    if is_there or (before is None and not db.put("insert_head", head.row())):
        raise SessionExists(session_id=info.session_id, where=db.where)
    head = _store_snapshot(db, head, snapshot)
    db.send("put_head", head.row())


def _advance(db: Statements, commit: Commit, keep: KeepHistory, rebase: Rebase | None) -> tuple[int, Commit, bool]:
    """Make the next version, and say which that is, and what commit made it; or the one that the commit made before,
    and that it is not new."""
    now = clock.now() if commit.created_at is None else commit.created_at
    head = None if commit.snapshot or commit.releases else _head_from_memory(db, commit, now)
    is_remembered = is_written = head is not None
    if head is None:
        before = _head_before(db, commit, now)
        if before is not None and not _is_on_top(commit, before):
            applied = _applied_version(db, commit, before.info)
            if applied is not None:
                return applied, commit, False
            commit = _rebased(db, commit, before, rebase)
        if commit.patch is None:
            assert before is not None
            return before.info.version, commit, True
        head = _next_head(before, commit, now, _lease_after(db, commit, before))
        is_written = before is None and commit.snapshot is None
    assert commit.patch is not None
    change = Change(head.info.version, commit.commit_id, commit.run_id, now, commit.patch)
    db.send("insert_patch", rows.change_row(head.info, change))
    if commit.snapshot is not None:
        head = _store_snapshot(db, head, commit.snapshot)
        _thin(db, head)
        head, _ = _forget(db, head, keep)
    row = head.row() if not is_remembered else ()
    if not is_written:
        db.send("put_head", row)
    if not is_remembered:
        db.remembered.heads.put((commit.owner, commit.session_id), (head, row))
    return head.info.version, commit, True


def _head_before(db: Statements, commit: Commit, now: float) -> rows.Head | None:
    """The head that the commit is to advance, which nobody else can change now; None when it has just been made."""
    while True:
        before = reading.find_head_or_place(db, commit.owner, commit.session_id, to_change=True)
        if before is not None:
            return before
        if commit.base:
            raise SessionDeleted(session_id=commit.session_id)
        if db.put("insert_head", _next_head(None, commit, now, "").row()):
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
    if not _is_on_top(commit, before) or before.lease != commit.lease_id or not commit.base:
        return None
    head = _next_head(before, commit, now, before.lease)
    row = head.row()
    if not db.put("advance_head", (head.info.version, now, row[-1], *old)):
        return None
    db.remembered.heads.put(key, (head, row))
    return head


def _is_on_top(commit: Commit, before: rows.Head) -> bool:
    info = before.info
    if not info.version:  # held, and not stored yet
        return not commit.base
    return info.version == commit.base and info.incarnation == commit.incarnation


def _next_head(before: rows.Head | None, commit: Commit, now: float, lease: str) -> rows.Head:
    version = commit.base + 1
    if before is None or not before.info.version:
        return rows.Head(
            SessionInfo(commit.owner, commit.session_id, commit.incarnation, version, 0, commit.workflow, now, now),
            lease=lease,
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
    return rows.Head(info, before.forgotten, lease)


def _applied_version(db: Statements, commit: Commit, info: SessionInfo) -> int | None:
    """The version that the commit made when it was applied before; None if it was not.

    Raises:
        SessionDeleted: the session that it is for is gone.
    """
    if commit.base and info.incarnation != commit.incarnation:
        raise SessionDeleted(session_id=commit.session_id)
    # A first commit may have been rebased on a session that another had made, of another incarnation.
    key = {"owner": commit.owner, "session_id": commit.session_id}
    found = db.one("find_commit", **key, base=commit.base, commit_id=commit.commit_id)
    return None if found is None else int(found[0])


def _rebased(db: Statements, commit: Commit, before: rows.Head, rebase: Rebase | None) -> Commit:
    """The commit on top of what the session is now.

    Raises:
        VersionConflict: it cannot be made so.
    """
    info = before.info
    if rebase is None or not before.forgotten <= commit.base <= info.version:
        raise VersionConflict(
            session_id=commit.session_id,
            base_version=commit.base,
            current_version=info.version,
            run_id=commit.run_id,
        )
    return rebase(info, reading.changes_between(db, info, commit.base, info.version))


# -- leases -----------------------------------------------------------------------------------------------------


def _lease_after(db: Statements, commit: Commit, before: rows.Head | None) -> str:
    """What the head says of a lease after a commit.

    Raises:
        LeaseLost: the commit's own lease is not held any more.
        SessionBusy: somebody else holds the session exclusively.
    """
    lease = before.lease if before else ""
    if not (lease or commit.lease_id):
        return ""
    queue = reading.queue(db, commit.owner, commit.session_id)
    if commit.lease_id:
        leasing.require_first(queue, commit.lease_id, commit.session_id)
    elif leasing.is_live(queue, lease, db.now()):
        raise SessionBusy(session_id=commit.session_id, holder="a transaction", seconds=0)
    if commit.releases or not commit.lease_id:
        key = {"owner": commit.owner, "session_id": commit.session_id}
        db.change("delete_lease", **key, lease_id=commit.lease_id or lease)
        return ""
    return lease


def claim_lease(db: Statements, claim: Claim) -> int:
    """See `Storage.claim_lease`."""
    while True:
        queue = reading.queue(db, claim.owner, claim.session_id)
        now = db.now()
        after, ahead = leasing.claimed(queue, claim, now)
        if _store_queue(db, claim, queue, after, now):
            break
        # Somebody else was faster: look again.
    if not ahead:
        _mark_head(db, claim.owner, claim.session_id, claim.lease_id if claim.is_exclusive else "")
    return ahead


def _store_queue(db: Statements, claim: Claim, queue: leasing.Queue, after: leasing.Queue, now: float) -> bool:
    """Store what a claim made of a queue; False if the queue was not that any more."""
    key = {"owner": claim.owner, "session_id": claim.session_id}
    for queued in queue:
        is_gone = leasing.place_of(after, queued.lease_id) is None
        if is_gone and not db.change("delete_expired_lease", **key, lease_id=queued.lease_id, now=now):
            return False
    place = leasing.place_of(after, claim.lease_id)
    if place is None:  # it does not wait
        return True
    row = rows.lease_row(claim.owner, claim.session_id, after[place])
    if leasing.place_of(queue, claim.lease_id) is None:
        return bool(db.put("insert_lease", row))
    _, _, _, lease_id, is_exclusive, expires_at, checksum = row
    renewed = {"is_exclusive": is_exclusive, "expires_at": expires_at, "checksum": checksum}
    return bool(db.change("renew_lease", **key, lease_id=lease_id, **renewed))


def release_lease(db: Statements, owner: str, session_id: str, lease_id: str) -> None:
    """See `Storage.release_lease`."""
    head = reading.find_head_or_place(db, owner, session_id, to_change=True)
    db.change("delete_lease", owner=owner, session_id=session_id, lease_id=lease_id)
    if head is not None and head.lease == lease_id:
        _mark_head(db, owner, session_id, "")


def _mark_head(db: Statements, owner: str, session_id: str, lease: str) -> None:
    """Say in the head who holds the session exclusively; every commit has to pass there."""
    while (head := reading.find_head_or_place(db, owner, session_id, to_change=True)) is None:
        now = clock.now()
        place = rows.Head(SessionInfo(owner, session_id, "", 0, 0, "", now, now), lease=lease)
        if not lease or db.put("insert_head", place.row()):
            return
    if head.lease == lease:
        return
    if not lease and not head.info.version:
        db.change("delete_head", owner=owner, session_id=session_id)
        return
    marked = replace(head, lease=lease)
    row = marked.row()
    db.put("put_head", row)
    db.remembered.heads.put((owner, session_id), (marked, row))


def _store_snapshot(db: Statements, head: rows.Head, snapshot: Snapshot) -> rows.Head:
    info = head.info
    version = info.version
    newest = reading.listing_at(db, info, info.snapshot_version)
    new = [rows.value_entry(value, version) for value in snapshot.values]
    listing = listings.following(snapshot, new, newest)
    db.put_each("insert_value", [rows.value_row(info, value, version) for value in snapshot.values])
    db.send("insert_snapshot", rows.snapshot_row(info, version, listing))
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

    def version_at(time: float) -> int:
        found = db.one("version_at", **key, time=time)
        return head.info.version if found is None or found[0] is None else int(found[0])

    oldest = history.oldest_wanted(keep, head.info.version, version_at)
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
    new = replace(head, info=replace(head.info, session_id=new_id), lease="")
    _drop_dead_place(db, owner, new_id)
    if reading.find_head(db, owner, new_id) or _runs(db, owner, new_id) or not db.put("insert_head", new.row()):
        raise SessionExists(session_id=new_id, where=db.where)
    key = {"owner": owner, "session_id": session_id}
    runs = [rows.read_run(row, db.where) for row in _runs(db, owner, session_id)]
    db.change("delete_head", **key)
    for query in ("move_patches", "move_snapshots", "move_values"):
        db.change(query, **key, new_id=new_id)
    db.change("delete_runs", **key)
    db.put_each("put_run", [rows.renamed(run, new_id) for run in runs])
    steps = db.all("steps_of_session", **key)
    db.put_each("move_step", [step_rows.moved_step(row, new_id, db.where) for row in steps])
    db.change("delete_entries_of_session", **key, table_name=db.table)


def _drop_dead_place(db: Statements, owner: str, session_id: str) -> None:
    """Delete a head that says only who holds a session that is not stored, if nothing is heard of the holder."""
    place = reading.find_head_or_place(db, owner, session_id, to_change=True)
    if place is not None and not place.info.version:
        queue = reading.queue(db, owner, session_id)
        if not leasing.is_live(queue, place.lease, db.now()):
            db.change("delete_lease", owner=owner, session_id=session_id, lease_id=place.lease)
            db.change("delete_head", owner=owner, session_id=session_id)


def delete_session(db: Statements, owner: str, session_id: str) -> None:
    """See `Storage.delete_session`. Runs of a session that never got a version count as the session, and what is
    left of a damaged one is deleted too."""
    key = {"owner": owner, "session_id": session_id}
    placeholder = rows.Head(SessionInfo(owner, session_id, "", 0, 0, "", 0.0, 0.0)).row()
    row = db.one("find_head_to_change", **key)  # as it is, for it may be damaged
    while row is None and not db.put("insert_head", placeholder):  # somebody made the session in between
        row = db.one("find_head_to_change", **key)
    is_headless = row is None
    # A head of version 0 says only who holds a session that is not stored yet, and stays his.
    deleted = db.change("delete_head", **key) if row is not None and row[3] != 0 else 0
    deleted += db.change("delete_runs", **key)
    deleted += db.change("delete_steps", **key)
    db.change("delete_entries_of_session", **key, table_name=db.table)
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
    db.send("put_beat", rows.beat_row(process_id, now))
    db.change("delete_beats_before", time=now - _FORGET_PROCESS_AFTER)


def delete_beat(db: Statements, process_id: str) -> None:
    """Record that a process ended."""
    db.change("delete_beat", process_id=process_id)


def _runs(db: Statements, owner: str, session_id: str) -> list[tuple[object, ...]]:
    return db.all("runs_of_session", owner=owner, session_id=session_id, limit=NO_LIMIT)
