"""What a place that keeps sessions must be able to do.

Rules that must stay true:
- each operation is atomic, and what it acknowledged survives the death of the process;
- the owner is part of every key: an operation for one owner neither sees nor changes another owner's rows; only
  `find_sessions`, `find_runs` and `check` span owners, when `owner` is None;
- everything is synchronous and may be called from any thread;
- a failure raises a `StorageError`; nothing is retried or swallowed in silence.

`holdfast.testing.StorageConformance` is the executable form of this page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from holdfast.errors import InvalidInput
from holdfast.records import (
    Change,
    Claim,
    Commit,
    Entry,
    Finding,
    Known,
    Place,
    Run,
    SessionInfo,
    Snapshot,
    StepRecord,
    StoredSession,
)

INLINE_SIZE = 65_536
"""When all values of a session together have at most so many bytes, `load` returns them with their data; of a larger
session it returns none, and each is read when it is first touched."""

KeepHistory = int | timedelta | None
"""How much history to keep: a number of versions, an age, or None for all of it."""

LARGEST_LIMIT = 2**62
"""More rows than there can be, and still a number that every database takes."""


def valid_limit(limit: int | None) -> int | None:
    """Check how many rows are asked for and return it; None stands for all of them.

    Raises:
        InvalidInput: it is not a number from 0. Databases take a negative one for "all", or for an error.

    >>> valid_limit(10), valid_limit(None)
    (10, None)
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InvalidInput("limit must be a number from 0, or None for all.")
    return min(limit, LARGEST_LIMIT)


def valid_commit(commit: Commit) -> Commit:
    """Check that what a commit says of runs belongs together, and return it.

    Raises:
        InvalidInput: its run is of another session, it resumes a run without the record of the next attempt, or it has
            steps of no run.
    """
    run, read = commit.run, commit.resumes
    if run is not None and (run.owner, run.session_id) != (commit.owner, commit.session_id):
        raise InvalidInput("Commit.run must be a run of the commit's own owner and session_id.")
    if read is not None and (run is None or run.run_id != read.run_id or run.attempt <= read.attempt):
        raise InvalidInput("Commit.resumes needs Commit.run to be the same run in a later attempt.")
    if (commit.steps or commit.forgets_results) and not commit.run_id and run is None:
        raise InvalidInput("Commit.steps and Commit.forgets_results need Commit.run_id to say of which run.")
    return commit


Rebase = Callable[[SessionInfo, tuple[Change, ...]], Commit]
"""Makes a commit anew on top of what others have committed since its base: told the session's head and these changes,
it returns one with the same `commit_id`. It is called inside the transaction, more than once if that is repeated, and
so does nothing but compute and read; what it raises ends the commit, of which nothing is written."""


class Storage(Protocol):
    """Sessions with their history and runs, by owner. Implemented by the memory and SQL backends."""

    lock_timeout: float
    """Seconds to wait for other writers."""

    @property
    def step_cache(self) -> StepCache:
        """Where results of steps are kept for later runs."""
        ...

    def load(
        self, owner: str, session_id: str, *, known: Known | None = None, at: int | None = None
    ) -> StoredSession | None:
        """Read one session in one consistent snapshot; None when it is not stored.

        Args:
            known: what the caller holds already. If the session's incarnation is the same and every change after
                `known.version` is kept, only these changes are returned, and `values` is None.
            at: the version to read instead of the newest: `values` and `changes` then rebuild that version, and
                `info.version` is `at`, `info.snapshot_version` the version that the values belong to.

        Raises:
            VersionNotKept: `at` is beyond the kept history, or in the future.
            CorruptData: something read does not match its checksum.
        """
        ...

    def read_values(
        self, owner: str, session_id: str, names: Sequence[str], *, incarnation: str, at: int
    ) -> dict[str, bytes]:
        """Read whole values as they were at snapshot version `at`, by name; a name without a value is left out.

        When that snapshot was dropped since, a value that is the same in the next one that is kept is still found.

        Raises:
            VersionNotKept: the values of that version are gone.
            SessionDeleted: there is no session of that incarnation.
            CorruptData: as for `load`.
        """
        ...

    def commit(self, commit: Commit, *, rebase: Rebase | None = None) -> int:
        """Apply one commit in one transaction and return the session's version after it.

        With a patch: succeeds when the session is at `commit.base`, and makes version `base + 1`; repeating a
        commit that was applied already returns the version that it made. If the session has moved on, and every
        change since `base` is kept, what `rebase` makes of the commit is applied instead. With a snapshot, its names
        become the listing of that version: each with its value in the snapshot or, without one, with what the
        session's newest listing has for it, whoever wrote that; and history is thinned and pruned as `keep_history`
        says. With a run, its record is written (inserted or replaced) in the same transaction, and the process is
        marked alive. A commit that says when it was made counts as made then, and marks no process alive.

        Without a patch the session stays at its version, which is returned (0 for none), whatever it is; with a
        base above 0 the session must still be there.

        With steps, their records are written (inserted or replaced by number); their run must be recorded, at the
        latest by this commit. Of a run that is recorded with a later attempt than the commit's (or than its `run`),
        nothing is written. A commit that resumes a run is not rebased.

        With a lease, it must be held. Without one, the session must not be held exclusively.

        Raises:
            VersionConflict: the session is at another version, and the commit cannot be rebased; nothing was written.
            SessionBusy: somebody else holds the session exclusively; nothing was written.
            LeaseLost: the lease of the commit is not held any more; nothing was written.
            RunTakenOver: the run has begun a later attempt, or is not any more what `resumes` says; nothing was
                written.
            SessionDeleted: base is above 0 and there is no session of that incarnation; nothing was written.
            RunNotFound: steps are of a run that is not recorded; nothing was written.
            InvalidInput: the run is of another session, or the snapshot does not say what one of its names stands
                for, or what is said of runs and steps does not belong together; nothing was written.
            StorageBusy: not begun in time; nothing was written.
            OutcomeUnknown: the backend broke off during the commit; the same commit may be repeated.
        """
        ...

    def begin_session(self, info: SessionInfo, snapshot: Snapshot) -> None:
        """Create a session whose history begins at version `info.version`, above 0: a copy of one that has forgotten
        what was before. The next commit is made on top of it.

        Args:
            info: its head; whatever `info.snapshot_version` says, it becomes `info.version`.
            snapshot: all values of that version.

        Raises:
            SessionExists: there is one of that id.
            SessionBusy: somebody holds the session exclusively.
            InvalidInput: the version is not above 0, or the snapshot does not say what one of its names stands for.
        """
        ...

    def claim_lease(self, claim: Claim) -> int:
        """Ask for a session's lease, or say that it is still wanted or held, and return how many are ahead.

        At 0 it is held, until it is released or not claimed again for `claim.seconds`. Those who wait are served in
        the order in which they came; whoever was not heard of for as long as it said loses its place. A session
        that is not stored yet can be held as well.

        Raises:
            LeaseLost: `claim.is_held`, but it has been given to somebody else.
        """
        ...

    def release_lease(self, owner: str, session_id: str, lease_id: str) -> None:
        """Give up a lease, or a place in the queue. What is gone already is not missed."""
        ...

    def beat(self, process_id: str, *, stopped: bool = False) -> None:
        """Say that this process lives (or has ended in order); its running runs are *interrupted* once the last
        beat is older than `STALE_AFTER` seconds, or it has stopped."""
        ...

    def changes(self, owner: str, session_id: str, *, after: int = 0, limit: int | None = None) -> tuple[Change, ...]:
        """The kept changes of one session with a version above `after`, oldest first.

        Raises:
            InvalidInput: `limit` is not a number from 0; so for `find_sessions` and `find_runs` as well.
            SessionNotFound: it is not stored.
        """
        ...

    def find_sessions(
        self, owner: str | None, *, session_id: str | None = None, limit: int | None = None
    ) -> tuple[SessionInfo, ...]:
        """Heads of sessions, the last updated first; `owner=None` spans all owners."""
        ...

    def find_runs(
        self, owner: str | None, *, session_id: str | None = None, run_id: str | None = None, limit: int | None = None
    ) -> tuple[Run, ...]:
        """Records of runs, the last started first, with `interrupted` derived; `owner=None` spans all owners."""
        ...

    def find_steps(self, owner: str, session_id: str, run_id: str, *, with_results: bool) -> tuple[StepRecord, ...]:
        """The recorded steps of one run, in the order in which they began; () if there are none.

        Args:
            with_results: whether `result` is read as well.

        Raises:
            CorruptData: one does not match its checksum.
        """
        ...

    def rename_session(self, owner: str, session_id: str, new_id: str) -> None:
        """Give a session, its history, its runs and their steps another id. Its entries in the step cache go.

        Raises:
            SessionNotFound, SessionExists
        """
        ...

    def delete_session(self, owner: str, session_id: str) -> None:
        """Delete a session and everything that belongs to it: values, history, runs with their steps, and its entries
        in the step cache.

        Raises:
            SessionNotFound: it is not stored.
        """
        ...

    def prune_session(self, owner: str, session_id: str, keep: KeepHistory) -> int:
        """Forget history beyond `keep`, except what newer versions need; returns how many changes were forgotten.

        Raises:
            SessionNotFound: it is not stored.
        """
        ...

    def check(self) -> tuple[Finding, ...]:
        """Verify every checksum and every rule between rows, and the backend's own integrity; () when sound."""
        ...

    def close(self) -> None:
        """Finish what was begun and let go of files and connections; later calls raise `StorageClosed`."""
        ...


class StepCache(Protocol):
    """Results of steps, for later runs to find; the same rules hold as for `Storage`. It belongs to the database, and
    all table prefixes share it, but for what is kept for one session: that is for a session of this prefix.
    `holdfast.testing_steps.StepCacheConformance` is the executable form of this page."""

    def read(self, place: Place, key: bytes) -> Entry | None:
        """The entry of a key with its result, expired or not; None if there is none.

        Raises:
            CorruptData: it does not match its checksum.
        """
        ...

    def claim(self, place: Place, key: bytes, lease_id: str, seconds: float, *, unless: float | None) -> bool:
        """Ask to be the one who computes an entry, and return whether that is so: nobody else is, or was not heard of
        for as long as he said. Repeated with the same `lease_id` it is so still.

        Args:
            lease_id: random; names the one who computes.
            seconds: how long nothing needs to be heard of him.
            unless: a time: not when there is an entry that was created after it and has not expired. None computes
                anew whatever there is; it stays readable until then.
        """
        ...

    def renew(self, place: Place, key: bytes, lease_id: str, seconds: float) -> bool:
        """Say that the entry is still being computed; False if that was given to somebody else."""
        ...

    def store(self, entry: Entry, lease_id: str, *, ttl: float | None) -> bool:
        """Store what was computed, in place of what was there; False if that was given to somebody else, and nothing
        was stored. What is too much after that is evicted, the longest unused first.

        Args:
            ttl: seconds from now until it expires; None for never.

        Raises:
            InvalidInput: the entry has no result.
        """
        ...

    def release(self, place: Place, key: bytes, lease_id: str) -> None:
        """Do not compute it after all. What is gone already is not missed."""
        ...

    def count_hits(self, hits: Mapping[tuple[Place, bytes], int]) -> None:
        """Record that entries were found, so many times since that was recorded last. Entries that are gone are not
        missed; need not outlive a loss of power."""
        ...

    def find(
        self,
        owner: str | None,
        *,
        step: str | None = None,
        workflow: str | None = None,
        session_id: str | None = None,
        limit: int | None = None,
    ) -> tuple[Entry, ...]:
        """Entries without their results, the newest first; `owner=None` spans all owners.

        Raises:
            InvalidInput: `limit` is not a number from 0.
            CorruptData: one does not match its checksum.
        """
        ...

    def delete(self, entries: Iterable[tuple[Place, bytes]]) -> int:
        """Delete entries and return how many there were; whoever computes one of them goes on with that."""
        ...

    def sweep(self) -> int:
        """Delete entries that have expired, and, if the rest is more than `max_cache_size`, those that were not used
        for the longest time; in batches of bounded size. Returns how many. Done now and then by `store` as well."""
        ...


BEAT_EVERY = 5.0
"""Seconds between two heartbeats of a process that has runs open."""

STALE_AFTER = 15.0
"""Seconds after the last heartbeat when a process counts as dead and its runs as interrupted."""

LEASE_SECONDS = 10.0
"""How long a session stays with a holder that is not heard of; a third of it passes between two renewals."""
