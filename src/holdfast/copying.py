"""Sessions copied from one storage to another, as they are: every version that is kept, with its number, its ids and
its time, and the records of their runs and of the steps of these.

Rules that must stay true:
- whatever is there after any step is what the source was at some version, so that a copy which was broken off is
  recognised and continued, and one that is complete costs a comparison;
- a session that is not such a beginning of the source's is never changed;
- a copy counts as made when all of it was read back and has the same checksum as the source;
- the source is only read, up to the version and with the runs that it has at the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from msgspec.structs import replace

from holdfast.errors import SessionDeleted, SessionDiffers, SessionNotFound, VersionNotKept
from holdfast.records import Change, Commit, Run, RunStatus, SessionInfo, Snapshot, StepRecord, StoredValue
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument
from holdfast.values import StoredValues

BATCH = 256
"""Changes that are read at once."""

_OPEN = (RunStatus.waiting, RunStatus.running, RunStatus.interrupted)


class Outcome(StrEnum):
    """What copying a session came to."""

    copied = "copied"
    continued = "continued"
    complete = "complete"
    """It was there already, and nothing was missing."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A session that is the same in both storages."""

    owner: str
    session_id: str
    outcome: Outcome
    oldest: int
    """The version that the history of both begins at; 0 for the empty session."""
    version: int
    """The newest version, 0 if there is none but only runs."""
    changes: int
    """How many changes were written now."""
    runs: int
    """How many records of runs were written now."""
    sha256: str
    """Over everything that was compared, in hexadecimal."""


def copy_session(source: Storage, target: Storage, owner: str, session_id: str) -> Copied:
    """Copy one session, or what is missing of it, and compare the result.

    Raises:
        SessionNotFound: the source has neither a version nor a run of it.
        SessionDiffers: the target has something else under that id, which was left as it is; or what was read back
            is not what was copied.
        VersionNotKept, SessionDeleted: the source forgot it meanwhile.
        VersionConflict, SessionExists, SessionBusy: somebody else uses it in the target.
        CorruptData: something of the source is damaged.
    """
    ours = _Side(source, owner, session_id)
    if ours.info is None and not ours.runs:
        raise SessionNotFound(session_id=session_id, where=ours.where)
    before = _Side(target, owner, session_id)
    _require_beginning(before, ours)
    changes = 0 if ours.info is None else _copy_history(ours, ours.info, before)
    runs = _copy_runs(ours, before)
    after = _Side(target, owner, session_id) if changes or runs or before.info != ours.info else before
    since = max(ours.forgotten, after.forgotten)
    digest = ours.digest(since)
    if after.digest(since) != digest:
        raise _differs(after, ours, "what was read back has another checksum; somebody else may be writing there")
    if before.info is None and not before.runs:
        outcome = Outcome.copied
    else:
        outcome = Outcome.continued if changes or runs else Outcome.complete
    return Copied(owner, session_id, outcome, since, ours.version, changes, runs, digest)


class _Side:
    """A session as one of the storages has it when this object is made."""

    def __init__(self, storage: Storage, owner: str, session_id: str) -> None:
        self.storage = storage
        self.owner = owner
        self.session_id = session_id
        self.where = getattr(storage, "where", "the storage")
        self.info: SessionInfo | None = next(iter(storage.find_sessions(owner, session_id=session_id)), None)
        self.version = self.info.version if self.info else 0
        self.forgotten = 0
        """The version that its history begins at."""
        if self.info is not None:
            first = storage.changes(owner, session_id, limit=1)
            self.forgotten = first[0].version - 1 if first else self.version
        self.runs = {run.run_id: _as_left(run) for run in storage.find_runs(owner, session_id=session_id)}

    def changes(self, after: int, upto: int) -> Iterator[Change]:
        """The changes after one version and up to another.

        Raises:
            VersionNotKept: one of them was forgotten meanwhile.
        """
        while after < upto:
            found = self.storage.changes(self.owner, self.session_id, after=after, limit=min(BATCH, upto - after))
            if not found or found[0].version != after + 1:
                oldest = found[0].version - 1 if found else upto
                raise VersionNotKept(version=after, session_id=self.session_id, oldest=oldest, newest=upto)
            yield from found
            after = found[-1].version

    def values(self, at: int) -> Iterator[tuple[str, bytes]]:
        """Names and values of a version above 0, in order."""
        stored = self.storage.load(self.owner, self.session_id, at=at)
        if stored is None or self.info is None or stored.info.incarnation != self.info.incarnation:
            raise SessionDeleted(session_id=self.session_id)
        document = StoredDocument.of(stored)
        values = StoredValues(self.storage, self.owner, self.session_id)
        values.prefetch(document, document.names())
        for name in document.names():
            yield name, values.encoded(document, name)

    def snapshots(self, after: int) -> set[int]:
        """The versions above one that are stored whole."""
        found: set[int] = set()
        at = self.version
        while at > after:
            stored = self.storage.load(self.owner, self.session_id, at=at)
            kept = stored.info.snapshot_version if stored else 0
            if kept > after:
                found.add(kept)
            at = kept - 1
        return found

    def digest(self, since: int) -> str:
        """SHA-256 over everything of the session, of its history what came after a version."""
        digest = _Digest(self.owner, self.session_id)
        if self.info is not None:
            digest.add(replace(self.info, snapshot_version=0))
            self._add_history(digest, since, self.version)
        for run_id, run in sorted(self.runs.items()):
            digest.add(run, self.digest_of_steps(run_id))
        return digest.hex()

    def steps(self, run_id: str) -> tuple[StepRecord, ...]:
        """The recorded steps of a run, with their results."""
        return self.storage.find_steps(self.owner, self.session_id, run_id, with_results=True)

    def digest_of_steps(self, run_id: str) -> str:
        """SHA-256 over the steps of a run."""
        digest = _Digest()
        for step in self.steps(run_id):
            digest.add(replace(step, parts=b"", patch=None, result=None), step.parts, step.patch, step.result)
        return digest.hex()

    def digest_of_history(self, since: int, upto: int) -> str:
        """SHA-256 over the changes between two versions, and the values of the newer one."""
        digest = _Digest(since, upto)
        self._add_history(digest, since, upto)
        return digest.hex()

    def _add_history(self, digest: _Digest, since: int, upto: int) -> None:
        for change in self.changes(since, upto):
            digest.add(change.version, change.commit_id, change.run_id, change.created_at, change.patch)
        for name, data in self.values(upto):
            digest.add(name, data)


class _Digest:
    """A SHA-256 over values, each with its type and length."""

    def __init__(self, *values: Any) -> None:
        self._hash = hashlib.sha256()
        self.add(*values)

    def add(self, *values: Any) -> None:
        """Go on with some values; bytes enter it with a digest of their own."""
        told = [hashlib.sha256(value).digest() if isinstance(value, bytes) else value for value in values]
        self._hash.update(ascii(told).encode() + b"\n")

    def hex(self) -> str:
        return self._hash.hexdigest()


def _as_left(run: Run) -> Run:
    """A run as it is copied: if it has not ended, its process is not heard of where the copy is."""
    return replace(run, status=RunStatus.running) if run.status in _OPEN else run


def _require_beginning(theirs: _Side, ours: _Side) -> None:
    """Make sure that what the target has is what the source was at some version.

    Raises:
        SessionDiffers: it is not.
    """
    is_same = theirs.info is not None and ours.info is not None and theirs.info.incarnation == ours.info.incarnation
    if theirs.info is not None and ours.info is not None and not is_same:
        raise _differs(theirs, ours, "it was created independently")
    if is_same and theirs.version > ours.version:
        reason = f"it is ahead, at version {theirs.version}, and the source at {ours.version}: copy the other way"
        raise _differs(theirs, ours, reason)
    if theirs.runs.keys() - ours.runs.keys():
        raise _differs(theirs, ours, "it has runs of its own")
    for run_id, run in theirs.runs.items():
        if run.attempt > ours.runs[run_id].attempt:
            raise _differs(theirs, ours, f"its run {run_id!r} has been resumed since")
    if theirs.info is None:
        return
    if ours.info is None:
        raise _differs(theirs, ours, "there is nothing but runs in the source")
    if theirs.version < ours.forgotten:
        reason = f"it ends at version {theirs.version}, and the source has forgotten what came before {ours.forgotten}"
        raise _differs(theirs, ours, reason)
    since = max(ours.forgotten, theirs.forgotten)
    if theirs.digest_of_history(since, theirs.version) != ours.digest_of_history(since, theirs.version):
        raise _differs(theirs, ours, "it has changes of its own")


def _differs(theirs: _Side, ours: _Side, reason: str) -> SessionDiffers:
    return SessionDiffers(session_id=ours.session_id, where=theirs.where, source=ours.where, reason=reason)


def _copy_history(ours: _Side, info: SessionInfo, before: _Side) -> int:
    """Write the versions that are missing and return how many changes that were."""
    storage, version = before.storage, before.version
    snapshots = _Snapshots(ours)
    if before.info is None and ours.forgotten:
        version = ours.forgotten
        storage.begin_session(replace(info, version=version), snapshots.at(version))
    start = version
    whole = ours.snapshots(start)
    for change in ours.changes(start, ours.version):
        storage.commit(
            Commit(
                owner=info.owner,
                session_id=info.session_id,
                commit_id=change.commit_id,
                base=version,
                incarnation=info.incarnation,
                workflow=info.workflow,
                patch=change.patch,
                snapshot=snapshots.at(change.version) if change.version in whole else None,
                run_id=change.run_id,
                attempt=ours.runs[change.run_id].attempt if change.run_id in ours.runs else 1,
                created_at=change.created_at,
            )
        )
        version = change.version
    return version - start


class _Snapshots:
    """The snapshots of a session, each with the values that the one before it does not have."""

    def __init__(self, side: _Side) -> None:
        self._side = side
        self._before: dict[str, bytes] = {}
        """Digests by name."""

    def at(self, version: int) -> Snapshot:
        names: list[str] = []
        values: list[StoredValue] = []
        digests: dict[str, bytes] = {}
        for name, data in self._side.values(version):
            names.append(name)
            digests[name] = hashlib.sha256(data).digest()
            if self._before.get(name) != digests[name]:
                values.append(StoredValue(name, len(data), data))
        self._before = digests
        return Snapshot(tuple(names), tuple(values))


def _copy_runs(ours: _Side, before: _Side) -> int:
    """Write the records of runs that are missing, or not what they are now, with their steps; return how many."""
    missing = [run for run_id, run in ours.runs.items() if not _is_copied(run, ours, before)]
    for run in missing:
        incarnation = ours.info.incarnation if ours.info else ""
        workflow = ours.info.workflow if ours.info else run.workflow
        before.storage.commit(
            Commit(
                owner=run.owner,
                session_id=run.session_id,
                commit_id=run.run_id,
                base=ours.version,
                incarnation=incarnation,
                workflow=workflow,
                patch=None,
                run=run,
                attempt=run.attempt,
                steps=ours.steps(run.run_id),
                created_at=run.started_at,
            )
        )
    return len(missing)


def _is_copied(run: Run, ours: _Side, before: _Side) -> bool:
    is_same = before.runs.get(run.run_id) == run
    return is_same and before.digest_of_steps(run.run_id) == ours.digest_of_steps(run.run_id)
