"""The changes that a conflict kept out of a session, and applying them by hand.

Rules that must stay true:
- they are brought together with everything that was committed since the version that they were made from, as a commit
  of the run would have been;
- where both sides changed one place, nothing is decided unless the caller says who wins, and nothing is committed
  over an overlap that the caller has not been shown;
- the id of the commit is made of the run and of what it was refused, so that applying it again is recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from holdfast import patch
from holdfast.declared import NO_TYPES
from holdfast.errors import ChangesOverlap, InvalidInput, RefusedVersionNotKept, SessionNotFound, VersionNotKept
from holdfast.merging import Overlap, overlaps_in
from holdfast.operations import Operation, decode_patch, pointer_of
from holdfast.records import Change, Commit, Known, Run, SessionInfo
from holdfast.standing import Pending, Standing, seeds_in
from holdfast.storage.base import Storage
from holdfast.stored import StoredDocument
from holdfast.values import StoredValues

Winner = Literal["ours", "theirs"]
"""Who wins where both changed one place: the refused changes, or what is stored."""


class Proposal(msgspec.Struct, frozen=True):
    """What applying the refused changes would do."""

    version: int
    """The version that they would be applied to."""
    applied: int | None
    """The version that they made, if they were applied before; then there is nothing else to know."""
    winner: Winner | None
    operations: Sequence[Operation]
    """What would change; what overlaps and is not decided is left out."""
    overlaps: tuple[Overlap, ...]
    """Every place that both changed."""
    commit: Commit | None
    """Does it; None if nothing would change."""
    standing: Standing


class RefusedChanges:
    """What one run was refused.

    Args:
        storage: where its session is.
        run: its record.

    Raises:
        InvalidInput: it was not refused anything.
        SessionNotFound: its session is not stored.
        RefusedVersionNotKept: what the changes were made from is forgotten.
    """

    def __init__(self, storage: Storage, run: Run) -> None:
        if run.refused_patch is None or run.refused_version is None:
            raise InvalidInput(f"Run {run.run_id!r} was not refused any changes, so there is nothing to apply.")
        self.run = run
        self.version = run.refused_version
        """The version that they were made from."""
        self._storage = storage
        self._values = StoredValues(storage, run.owner, run.session_id)
        base = self._base()
        self._standing = Standing.level(base)
        self._pending = self._as_pending(decode_patch(run.refused_patch), base)

    def proposal(self, winner: Winner | None = None) -> Proposal:
        """What applying them would do to the session as it is now; changes nothing.

        Args:
            winner: who wins where both changed one place.

        Raises:
            RefusedVersionNotKept: what others changed since is not kept in full.
        """
        stored = self._storage.load(
            self.run.owner, self.run.session_id, known=Known(self._standing.stored.incarnation, self.version)
        )
        if stored is None:
            raise self._not_found()
        if stored.values is not None:
            raise self._not_kept()
        commit_id = commit_id_of(self.run)
        for change in stored.changes:
            if change.commit_id == commit_id:
                return Proposal(stored.info.version, change.version, winner, (), (), None, self._standing)
        return self._proposed(self._standing.moved(stored.info, stored.changes), winner)

    def commit(self, proposal: Proposal) -> int | None:
        """Apply them as proposed, also to what is committed meanwhile, and return the version that this made, or had
        made before; None if nothing was to be changed.

        Raises:
            ChangesOverlap: nobody wins at a place that both changed, or others have just changed more such places;
                nothing was changed.
            StorageError: nothing was changed.
        """
        if proposal.applied is not None:
            return proposal.applied
        if proposal.overlaps and proposal.winner is None:
            raise self._overlapping(proposal.overlaps)
        if proposal.commit is None:
            return None

        def rebase(info: SessionInfo, changes: tuple[Change, ...]) -> Commit:
            again = self._proposed(proposal.standing.moved(info, changes), proposal.winner)
            if again.overlaps != proposal.overlaps:
                raise self._overlapping(again.overlaps)
            return again.commit or self._commit_on(again.standing, None)

        self._storage.commit(proposal.commit, rebase=rebase)
        return self.proposal(proposal.winner).applied

    def _base(self) -> StoredDocument:
        """The document that they were made from."""
        run = self.run
        heads = self._storage.find_sessions(run.owner, session_id=run.session_id)
        if not heads:
            raise self._not_found()
        if not self.version:
            return StoredDocument(heads[0].incarnation, 0, 0)
        try:
            stored = self._storage.load(run.owner, run.session_id, at=self.version)
        except VersionNotKept:
            raise self._not_kept() from None
        if stored is None:
            raise self._not_found()
        return StoredDocument.of(stored)

    def _as_pending(self, operations: list[Operation], base: StoredDocument) -> Pending:
        names = {operation.path[0] for operation in operations}
        values = {name: self._values.encoded(base, name) for name in names if name in base}
        patch.apply(values, operations)
        return Pending(operations, values, (), seeds_in(operations))

    def _proposed(self, standing: Standing, winner: Winner | None) -> Proposal:
        # Some were there already when the changes were refused, and are in what is proposed, if at all, as ours.
        overlaps = overlaps_in(self._pending.operations)
        if overlaps and winner == "theirs":
            raise InvalidInput(
                f"The changes that run {self.run.run_id!r} was refused were made over what others had changed then, at "
                f"{', '.join(pointer_of(tuple(map(str, overlap.path))) for overlap in overlaps)}: they can only be "
                "applied as they are, with `ours`."
            )

        def settle(overlap: Overlap) -> bytes | None:
            overlaps.append(overlap)
            return overlap.ours if winner == "ours" else overlap.theirs

        merged = standing.merged(self._pending, self._values, settle, NO_TYPES)
        encoded, after = standing.committed(self._pending, merged)
        return Proposal(
            standing.stored.version,
            None,
            winner,
            merged.operations,
            tuple(overlaps),
            None if encoded is None else self._commit_on(standing, encoded, after.stored),
            standing,
        )

    def _commit_on(self, standing: Standing, encoded: bytes | None, after: StoredDocument | None = None) -> Commit:
        run, stored = self.run, standing.stored
        return Commit(
            owner=run.owner,
            session_id=run.session_id,
            commit_id=commit_id_of(run),
            base=stored.version,
            incarnation=stored.incarnation,
            workflow=run.workflow,
            patch=encoded,
            snapshot=None if after is None else after.snapshot(lambda name: self._values.encoded(after, name)),
            run_id=run.run_id,
            attempt=run.attempt,
        )

    def _not_found(self) -> SessionNotFound:
        return SessionNotFound(session_id=self.run.session_id, where=getattr(self._storage, "where", "the storage"))

    def _not_kept(self) -> RefusedVersionNotKept:
        run = self.run
        return RefusedVersionNotKept(run_id=run.run_id, version=self.version, session_id=run.session_id)

    def _overlapping(self, overlaps: Sequence[Overlap]) -> ChangesOverlap:
        run = self.run
        count = f"{len(overlaps)} place{'' if len(overlaps) == 1 else 's'}"
        return ChangesOverlap(count=count, session_id=run.session_id, run_id=run.run_id, base_version=self.version)


def commit_id_of(run: Run) -> str:
    """The id of the commit that applies what a run was refused.

    >>> from holdfast.testing import make_run
    >>> run = make_run(run_id="r", refused_patch=b"[]", refused_version=1)
    >>> commit_id_of(run)
    '44131caad2b4c5ecf430b36b8727747d'
    """
    told = ascii(("refused", run.run_id, run.refused_version, run.refused_patch))
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def applied_version(storage: Storage, run: Run) -> int | None:
    """The version in which what a run was refused was applied by hand; None if it was not, as far as is known."""
    if run.refused_patch is None or run.refused_version is None:
        return None
    if not storage.find_sessions(run.owner, session_id=run.session_id):
        return None
    commit_id = commit_id_of(run)
    changes = storage.changes(run.owner, run.session_id, after=run.refused_version)
    return next((change.version for change in changes if change.commit_id == commit_id), None)
