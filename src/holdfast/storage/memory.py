"""Keeps sessions in memory: a real store for sessions that need not outlive the process, and the storage interface
in its plainest form.

Rules that must stay true:
- it does exactly what `base.Storage` says; where a SQL backend differs, that one is wrong;
- one lock guards everything; a commit from a finalizer that the garbage collector runs in the middle of another
  commit is put off until that one is done.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from holdfast import clock
from holdfast.errors import (
    RunError,
    RunNotFound,
    RunTakenOver,
    SessionBusy,
    SessionDeleted,
    SessionExists,
    SessionNotFound,
    StateConflict,
    StorageClosed,
    VersionConflict,
    VersionNotKept,
)
from holdfast.records import (
    Change,
    Claim,
    Commit,
    Finding,
    Known,
    Run,
    SessionInfo,
    Snapshot,
    StepRecord,
    StoredSession,
    StoredValue,
)
from holdfast.storage import history, leasing
from holdfast.storage.base import INLINE_SIZE, KeepHistory, Rebase, valid_commit, valid_limit
from holdfast.storage.listing import following
from holdfast.storage.liveness import is_as_read, with_interruptions
from holdfast.storage.sweeping import MAX_CACHE_SIZE
from holdfast.threads import lock_for_forks


class _Value(NamedTuple):
    version: int
    """The snapshot that it was stored with."""
    data: bytes


@dataclass
class _Session:
    info: SessionInfo
    changes: dict[int, Change] = field(default_factory=dict)
    listings: dict[int, dict[str, _Value]] = field(default_factory=lambda: {0: {}})
    """All values by name, in order, for each kept snapshot; that of version 0 is the empty session."""
    forgotten: int = 0
    """Changes up to this version are gone."""

    def snapshot_upto(self, version: int) -> int:
        return max(kept for kept in self.listings if kept <= version)

    def changes_between(self, after: int, upto: int) -> tuple[Change, ...]:
        return tuple(self.changes[version] for version in range(after + 1, upto + 1))


class MemoryStorage:
    """Sessions in memory, lost with the process; see `holdfast.storage.base.Storage` for the operations.

    Args:
        keep_history: how many versions, or what age (a timedelta) of a session's history to keep; None keeps all.
        max_cache_size: bytes of results that the step cache keeps, about.

    Raises:
        InvalidInput: an argument cannot be used.

    >>> storage = MemoryStorage()
    >>> storage.load("", "my-session") is None
    True
    """

    where = "memory"
    lock_timeout = 30.0

    def __init__(self, keep_history: KeepHistory = None, max_cache_size: int = MAX_CACHE_SIZE) -> None:
        self._keep = history.valid_keep_history(keep_history)
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._runs: dict[tuple[str, str, str], Run] = {}
        self._steps: dict[tuple[str, str, str], dict[int, StepRecord]] = {}
        """By owner, session and run: the steps by their number."""
        self._beats: dict[str, float] = {}
        self._queues: dict[tuple[str, str], list[leasing.Queued]] = {}
        self._lock = lock_for_forks()
        from holdfast.storage.memory_step_cache import MemoryStepCache

        self.step_cache = MemoryStepCache(self._lock, max_cache_size, self.where)
        """See `Storage.step_cache`."""
        self._is_closed = False
        self._is_committing = False
        self._postponed: list[tuple[Commit, Rebase | None]] = []
        self._failures: list[BaseException] = []

    def load(
        self, owner: str, session_id: str, *, known: Known | None = None, at: int | None = None
    ) -> StoredSession | None:
        """See `Storage.load`."""
        with self._opened():
            session = self._sessions.get((owner, session_id))
            if session is None:
                return None
            info = session.info
            if at is not None:
                if not max(session.forgotten, 1) <= at <= info.version:
                    raise _not_kept(session, at)
                info = replace(info, version=at, snapshot_version=session.snapshot_upto(at))
            elif known is not None and _can_continue(session, known):
                return StoredSession(info, None, session.changes_between(known.version, info.version))
            listing = session.listings[info.snapshot_version]
            is_small = sum(len(value.data) for value in listing.values()) <= INLINE_SIZE
            values = tuple(
                StoredValue(name, len(value.data), value.data if is_small else None) for name, value in listing.items()
            )
            return StoredSession(info, values, session.changes_between(info.snapshot_version, info.version))

    def read_values(
        self, owner: str, session_id: str, names: Sequence[str], *, incarnation: str, at: int
    ) -> dict[str, bytes]:
        """See `Storage.read_values`."""
        with self._opened():
            session = self._sessions.get((owner, session_id))
            if session is None or session.info.incarnation != incarnation:
                raise SessionDeleted(session_id=session_id)
            kept = min((version for version in session.listings if version >= at), default=None)
            if kept is None:
                raise _not_kept(session, at)
            found: dict[str, bytes] = {}
            for name in names:
                value = session.listings[kept].get(name)
                if kept > at and (value is None or value.version > at):
                    raise _not_kept(session, at)
                if value is not None:
                    found[name] = value.data
            return found

    def commit(self, commit: Commit, *, rebase: Rebase | None = None) -> int:
        """See `Storage.commit`."""
        valid_commit(commit)
        with self._opened():
            if self._is_committing:
                self._postponed.append((commit, rebase))
                return commit.base + (commit.patch is not None)
            self._is_committing = True
            try:
                return self._commit(commit, rebase)
            finally:
                while self._postponed:
                    try:
                        self._commit(*self._postponed.pop(0))
                    except (StateConflict, SessionDeleted, RunError) as error:
                        self._failures.append(error)  # raised by the next call
                self._is_committing = False

    def _commit(self, commit: Commit, rebase: Rebase | None) -> int:
        key = (commit.owner, commit.session_id)
        session = self._sessions.get(key)
        if commit.patch is not None and not _is_on_top(commit, session):
            applied = _applied_version(commit, session)
            if applied is not None:
                return applied
            commit = _rebased(commit, session, None if commit.resumes else rebase)
        version = session.info.version if session else 0
        if commit.patch is None:
            if commit.base and (session is None or session.info.incarnation != commit.incarnation):
                raise SessionDeleted(session_id=commit.session_id)
        else:
            self._require_lease(key, commit.lease_id)
        self._require_attempt(commit, version)
        if commit.patch is not None:
            version = commit.base + 1
            self._sessions[key] = self._advanced(session, commit, commit.patch)
            if commit.releases:
                self._release(key, commit.lease_id)
        if commit.run is not None:
            self._runs[(*key, commit.run.run_id)] = commit.run
            if commit.created_at is None:
                self._beats[commit.run.process_id] = clock.now()
        self._record_steps(commit)
        return version

    def _require_attempt(self, commit: Commit, version: int) -> None:
        """Make sure that nobody else has begun a later attempt of the commit's run; that it is as it was read, if the
        commit resumes it; and that it is recorded, if there are steps of it."""
        key, run, read = (commit.owner, commit.session_id), commit.run, commit.resumes
        if read is not None:
            stored = self._runs.get((*key, read.run_id))
            if stored is None or not is_as_read(stored, read):
                raise RunTakenOver(run_id=read.run_id, session_id=commit.session_id)
            if version != commit.base:
                raise _conflict(commit, version)
        attempts = {} if run is None else {run.run_id: run.attempt}
        if commit.run_id:
            attempts.setdefault(commit.run_id, commit.attempt)
        for run_id, attempt in attempts.items():
            stored = self._runs.get((*key, run_id))
            if stored is not None and stored.attempt > attempt:
                raise RunTakenOver(run_id=run_id, session_id=commit.session_id)
        is_recorded = (*key, commit.run_id) in self._runs or (run is not None and commit.run_id in ("", run.run_id))
        if commit.steps and not is_recorded:
            raise RunNotFound(run_id=commit.run_id, where=self.where)

    def _record_steps(self, commit: Commit) -> None:
        key = (commit.owner, commit.session_id, commit.run_id or (commit.run.run_id if commit.run else ""))
        if commit.steps:
            self._steps.setdefault(key, {}).update({step.number: step for step in commit.steps})
        if commit.forgets_results and key in self._steps:
            self._steps[key] = {number: replace(step, result=None) for number, step in self._steps[key].items()}

    def _require_lease(self, key: tuple[str, str], lease_id: str) -> None:
        queue = self._queues.get(key, [])
        if lease_id:
            leasing.require_first(queue, lease_id, key[1])
        elif queue and queue[0].is_exclusive:
            if queue[0].expires_at > clock.now():
                raise SessionBusy(session_id=key[1], holder="a transaction", seconds=0)
            del queue[0]

    def begin_session(self, info: SessionInfo, snapshot: Snapshot) -> None:
        """See `Storage.begin_session`."""
        history.require_beginning(info)
        key, version = (info.owner, info.session_id), info.version
        with self._opened():
            if key in self._sessions:
                raise SessionExists(session_id=info.session_id, where=self.where)
            self._require_lease(key, "")
            values = [_Value(version, value.data or b"") for value in snapshot.values]
            listings = {version: following(snapshot, values, {})}
            self._sessions[key] = _Session(replace(info, snapshot_version=version), {}, listings, version)

    def claim_lease(self, claim: Claim) -> int:
        """See `Storage.claim_lease`."""
        key = (claim.owner, claim.session_id)
        with self._opened():
            self._queues[key], ahead = leasing.claimed(self._queues.get(key, []), claim, clock.now())
            return ahead

    def release_lease(self, owner: str, session_id: str, lease_id: str) -> None:
        """See `Storage.release_lease`."""
        with self._opened():
            self._release((owner, session_id), lease_id)

    def _release(self, key: tuple[str, str], lease_id: str) -> None:
        queue = [queued for queued in self._queues.pop(key, []) if queued.lease_id != lease_id]
        if queue:
            self._queues[key] = queue

    def _advanced(self, session: _Session | None, commit: Commit, patch: bytes) -> _Session:
        now = clock.now() if commit.created_at is None else commit.created_at
        if session is None:
            session = _Session(
                SessionInfo(commit.owner, commit.session_id, commit.incarnation, 0, 0, commit.workflow, now, now)
            )
        version = commit.base + 1
        if commit.snapshot is not None:
            values = [_Value(version, value.data or b"") for value in commit.snapshot.values]
            newest = session.listings[session.info.snapshot_version]
            session.listings[version] = following(commit.snapshot, values, newest)
            session.info = replace(session.info, snapshot_version=version)
        session.changes[version] = Change(version, commit.commit_id, commit.run_id, now, patch)
        session.info = replace(session.info, version=version, updated_at=now)
        if commit.snapshot is not None:
            _thin(session)
            _forget(session, self._keep)
        return session

    def beat(self, process_id: str, *, stopped: bool = False) -> None:
        """See `Storage.beat`."""
        with self._opened():
            self._beats[process_id] = clock.now()
            if stopped:
                del self._beats[process_id]

    def changes(self, owner: str, session_id: str, *, after: int = 0, limit: int | None = None) -> tuple[Change, ...]:
        """See `Storage.changes`."""
        limit = valid_limit(limit)
        with self._opened():
            session = self._existing(owner, session_id)
            return session.changes_between(max(after, session.forgotten), session.info.version)[:limit]

    def find_sessions(
        self, owner: str | None, *, session_id: str | None = None, limit: int | None = None
    ) -> tuple[SessionInfo, ...]:
        """See `Storage.find_sessions`."""
        limit = valid_limit(limit)
        with self._opened():
            found = [
                session.info
                for session in self._sessions.values()
                if owner in (None, session.info.owner) and session_id in (None, session.info.session_id)
            ]
        found.sort(key=lambda info: (-info.updated_at, info.session_id, info.owner))
        return tuple(found[:limit])

    def find_runs(
        self,
        owner: str | None,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> tuple[Run, ...]:
        """See `Storage.find_runs`."""
        limit = valid_limit(limit)
        with self._opened():
            found = [
                run
                for run in self._runs.values()
                if owner in (None, run.owner) and session_id in (None, run.session_id) and run_id in (None, run.run_id)
            ]
            beats = dict(self._beats)
        found.sort(key=lambda run: (-run.started_at, run.run_id))
        return with_interruptions(found[:limit], beats, clock.now())

    def find_steps(self, owner: str, session_id: str, run_id: str, *, with_results: bool) -> tuple[StepRecord, ...]:
        """See `Storage.find_steps`."""
        with self._opened():
            steps = self._steps.get((owner, session_id, run_id), {})
            found = tuple(steps[number] for number in sorted(steps))
        return found if with_results else tuple(replace(step, result=None) for step in found)

    def rename_session(self, owner: str, session_id: str, new_id: str) -> None:
        """See `Storage.rename_session`."""
        with self._opened():
            session = self._existing(owner, session_id)
            if (owner, new_id) in self._sessions or self._runs_of(owner, new_id):
                raise SessionExists(session_id=new_id, where=self.where)
            session.info = replace(session.info, session_id=new_id)
            self._sessions[owner, new_id] = self._sessions.pop((owner, session_id))
            for key in self._runs_of(owner, session_id):
                run = self._runs.pop(key)
                self._runs[owner, new_id, run.run_id] = replace(run, session_id=new_id)
                if key in self._steps:
                    self._steps[owner, new_id, run.run_id] = self._steps.pop(key)
            self.step_cache.forget_session(owner, session_id)

    def delete_session(self, owner: str, session_id: str) -> None:
        """See `Storage.delete_session`. Runs of a session that never got a version count as the session."""
        with self._opened():
            runs = self._runs_of(owner, session_id)
            if self._sessions.pop((owner, session_id), None) is None and not runs:
                raise SessionNotFound(session_id=session_id, where=self.where)
            for key in runs:
                del self._runs[key]
                self._steps.pop(key, None)
            self.step_cache.forget_session(owner, session_id)

    def prune_session(self, owner: str, session_id: str, keep: KeepHistory) -> int:
        """See `Storage.prune_session`."""
        history.valid_keep_history(keep)
        with self._opened():
            return _forget(self._existing(owner, session_id), keep)

    def check(self) -> tuple[Finding, ...]:
        """See `Storage.check`. What is in memory has no checksums."""
        with self._opened():
            return ()

    def close(self) -> None:
        """See `Storage.close`. May be called again."""
        self._is_closed = True
        self.step_cache.close()

    def _opened(self) -> threading.RLock:
        if self._failures:
            raise self._failures.pop(0)
        if self._is_closed:
            raise StorageClosed(where=self.where)
        return self._lock

    def _existing(self, owner: str, session_id: str) -> _Session:
        session = self._sessions.get((owner, session_id))
        if session is None:
            raise SessionNotFound(session_id=session_id, where=self.where)
        return session

    def _runs_of(self, owner: str, session_id: str) -> list[tuple[str, str, str]]:
        return [key for key in self._runs if key[:2] == (owner, session_id)]


def _can_continue(session: _Session, known: Known) -> bool:
    return known.incarnation == session.info.incarnation and session.forgotten <= known.version <= session.info.version


def _not_kept(session: _Session, version: int) -> VersionNotKept:
    info = session.info
    oldest = max(session.forgotten, 1)
    return VersionNotKept(version=version, session_id=info.session_id, oldest=oldest, newest=info.version)


def _is_on_top(commit: Commit, session: _Session | None) -> bool:
    if session is None:
        return commit.base == 0
    return (session.info.incarnation, session.info.version) == (commit.incarnation, commit.base)


def _applied_version(commit: Commit, session: _Session | None) -> int | None:
    """The version that the commit made when it was applied before; None if it was not.

    Raises:
        SessionDeleted: the session that it is for is gone.
    """
    if commit.base and (session is None or session.info.incarnation != commit.incarnation):
        raise SessionDeleted(session_id=commit.session_id)
    # A first commit may have been rebased on a session that another had made, of another incarnation.
    for change in session.changes.values() if session is not None else ():
        if change.commit_id == commit.commit_id and change.version > commit.base:
            return change.version
    return None


def _rebased(commit: Commit, session: _Session | None, rebase: Rebase | None) -> Commit:
    """The commit on top of what the session is now.

    Raises:
        VersionConflict: it cannot be made so.
    """
    assert session is not None
    info = session.info
    if rebase is None or not session.forgotten <= commit.base <= info.version:
        raise _conflict(commit, info.version)
    return rebase(info, session.changes_between(commit.base, info.version))


def _conflict(commit: Commit, version: int) -> VersionConflict:
    return VersionConflict(
        session_id=commit.session_id, base_version=commit.base, current_version=version, run_id=commit.run_id
    )


def _thin(session: _Session) -> None:
    kept = sorted(version for version in session.listings if version)
    for dropped in history.superfluous(kept, session.forgotten):
        del session.listings[dropped]


def _forget(session: _Session, keep: KeepHistory) -> int:
    """Forget what lies before the newest snapshot from which all wanted versions can be rebuilt."""
    changes = session.changes.values()

    def version_at(time: float) -> int:
        return min((change.version - 1 for change in changes if change.created_at > time), default=session.info.version)

    oldest = history.oldest_wanted(keep, session.info.version, version_at)
    start = session.snapshot_upto(max(oldest, session.forgotten))
    forgotten = [version for version in session.changes if version <= start]
    for version in forgotten:
        del session.changes[version]
    session.listings = {version: values for version, values in session.listings.items() if version >= start}
    session.forgotten = start
    return len(forgotten)
