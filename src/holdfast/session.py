"""A session in use: the live state, what is stored of it, and the way from one to the other.

Rules that must stay true:
- what is pending is what a comparison of all that was handed out finds, and nothing else is trusted;
- what others have committed meanwhile is brought together with it inside the transaction that commits it; where both
  changed one place, the whole commit is refused, or decided as `on_conflict` says;
- others' changes reach the live state only when it is loaded, refreshed or settled at the end of a run.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast import clock, patch
from holdfast.comparing import operations_between, pending_in
from holdfast.conflicts import Policy, Refused, Settling, Unanswered, refused_answer
from holdfast.declared import Types
from holdfast.edits import Members
from holdfast.errors import (
    HoldfastError,
    LeaseLost,
    OutcomeUnknown,
    SessionBusy,
    SessionDeleted,
    StateConflict,
    VersionConflict,
    VersionNotKept,
)
from holdfast.live import Live
from holdfast.merging import Overlap, disputed
from holdfast.operations import Operation
from holdfast.records import Commit, Run, Snapshot, StepRecord
from holdfast.standing import Merged, Pending, Problems, Standing, with_seeds
from holdfast.state import SessionState
from holdfast.storage.base import StepCache, Storage
from holdfast.stored import StoredDocument, recent
from holdfast.values import StoredValues

if TYPE_CHECKING:
    from holdfast.retracing import StateChange, Undoing

RETRY_AFTER = (0.002, 0.1)
"""Seconds between two tries to commit to a session that somebody else has to himself: at first, and at most."""


class Saved(msgspec.Struct, frozen=True):
    """What a commit stored, and what it could not."""

    patch: bytes | None
    problems: Problems


class Beside(msgspec.Struct, frozen=True):
    """What is written in one transaction with a change."""

    run_id: str = ""
    """Of the run that made it."""
    attempt: int = 1
    """Which attempt of that run."""
    steps: tuple[StepRecord, ...] = ()
    """Records of its steps."""
    forgets_results: bool = False
    """Whether the results of its steps are not needed any more."""
    releases: bool = False
    """Whether the lease of a transaction is given up."""


NOTHING = Beside()


class Collected(msgspec.Struct, frozen=True):
    """What was found pending, and in comparison with what."""

    view: StoredDocument
    pending: Pending


class _Attempt(msgspec.Struct):
    """One commit, from its first try to its outcome."""

    pending: Pending
    commit_id: str
    settling: Settling
    parts: Mapping[str, Any]
    """Fields of the commit that stay the same however often it is made anew."""
    made: list[tuple[Commit, Standing]] = msgspec.field(default_factory=list)
    """What it was made into, with where the session stands if that is what is stored."""
    seen: int = 0
    """The newest version that it met."""


class Session:
    """One session as one workflow object uses it; may be used from several threads.

    Args:
        storage: where it is kept.
        owner: the user's id, empty for none.
        session_id: the session's id.
        workflow: the name to record when the session is created.
        types: the types that the workflow declares.
        defaults: the state of a session that is not stored yet; copied, never changed.
    """

    def __init__(
        self, storage: Storage, owner: str, session_id: str, *, workflow: str, types: Types, defaults: Mapping[Any, Any]
    ) -> None:
        self.storage = storage
        self.owner = owner
        self.session_id = session_id
        self.on_conflict: Policy = "raise"
        self.lease_id = ""
        """Of the lease that the session is held by, if it is."""
        self.is_exclusive = False
        """Whether nobody else can commit meanwhile, so that there is nothing to be brought together."""
        self.was_released = False
        """Whether the lease of a transaction was given up with a commit."""
        self._in_transaction = False
        self._workflow = workflow
        self._types = types
        self._values = StoredValues(storage, owner, session_id)
        self._live = Live(types, self._values, defaults, lambda: self._here().view)
        self._standing: Standing | None = None
        self._unresolved: _Attempt | None = None
        self._refused: list[Operation] | None = None
        """What was refused last, until the live state is loaded anew."""
        # Around every move and every commit. Re-entrant: the garbage collector may end a run at any moment.
        self._lock = threading.RLock()

    @property
    def state(self) -> SessionState:
        """The live state, loaded when it is first asked for."""
        if self._standing is None:
            with self._lock:
                if self._standing is None:
                    self.load()
        return self._live.state

    @functools.cached_property
    def step_cache(self) -> StepCache:
        """That of its storage, which makes a new object at each look."""
        return self.storage.step_cache

    @property
    def version(self) -> int:
        """The newest version that is known."""
        return self._here().stored.version

    def is_same(self, other: Session) -> bool:
        """Whether another object uses the same session."""
        is_there = self.storage is other.storage
        return is_there and (self.owner, self.session_id) == (other.owner, other.session_id)

    def start(self) -> None:
        """Begin a run: commit what was changed since the last one, then load what is stored now.

        What cannot be stored is left as it is, so that the run can mend it.

        Raises:
            StateConflict, SessionDeleted: with `patch`, the changes that were refused; the next start drops them,
                unless more has been changed until then.
        """
        with self._lock:
            if self._standing is not None:
                self._resolve()
                pending = self.collect()
                was_refused = self._refused is not None and pending.operations == self._refused
                if not was_refused and not self._is_as_new(pending):
                    self._commit(pending)
            self.load()

    def save(
        self,
        record: Callable[[Pending], Run | None] | None = None,
        beside: Beside = NOTHING,
        collected: Collected | None = None,
    ) -> Saved:
        """Commit everything that is pending, and with it the record of a run.

        Args:
            record: makes the record to write, told what is pending; None writes none.
            beside: what else is written with it. A lease is given up only if anything is committed.
            collected: what was found pending just now; what has changed since stays pending.

        Raises:
            StateConflict, SessionDeleted, LeaseLost: with `patch`, the changes that were refused.
            SessionBusy: somebody else has the session to himself for longer than the storage's `lock_timeout`.
            StorageError: nothing of this commit was stored, or its outcome is not known; the next call finds out.
        """
        with self._lock:
            self._resolve()
            # It is good for as long as the state is compared with the same document.
            is_good = collected is not None and collected.view is self._here().view
            pending = collected.pending if is_good and collected is not None else self.collect()
            run = record(pending) if record is not None else None
            saved = Saved(self._commit(pending, run, beside), pending.problems)
            self.was_released = beside.releases and saved.patch is not None
            return saved

    def load(self) -> None:
        """Bring the live state to what is stored now. What is pending must have been committed or refused before."""
        with self._lock:
            self._settle(self._moved())

    def settle(self) -> None:
        """Bring what others committed, as far as it is known from our own commits, into the live state.

        What another thread, or a resolver, has changed since our last commit stays pending.
        """
        with self._lock:
            if self._here().is_level:
                return
            pending = self.collect()
            if not pending.operations:
                self._settle(self._here())
                return
            with contextlib.suppress(StateConflict):  # the next commit meets it, and says so
                self._bring_in(self._here(), pending)

    def refresh(self) -> None:
        """Bring what others have committed into the live state; what is pending stays so.

        Raises:
            StateConflict: others have changed what is pending here; nothing was changed.
            StorageError: it could not be read.
        """
        with self._lock:
            self._resolve()
            standing = self._moved(exactly=True)
            pending = self.collect()
            if not pending.operations:
                self._settle(standing)
                return
            if not standing.is_level:
                self._bring_in(standing, pending)

    def _bring_in(self, standing: Standing, pending: Pending) -> None:
        """Bring what others changed into the live state, and keep what is pending."""
        attempt = _Attempt(pending, "", Settling(self.on_conflict, self._types), {}, seen=standing.stored.version)
        settle = attempt.settling.settle
        with self._refusing(attempt):
            merged = self._asked(attempt.settling, lambda: standing.merged(pending, self._values, settle, self._types))
        self._refused = None
        _, after = standing.committed(pending, merged)
        self._move(after.stored, merged.others, Standing.level(standing.stored))

    def restore(self) -> None:
        """Undo in the live state, in place, everything that is not committed, unstorable values included."""
        with self._lock:
            with contextlib.suppress(HoldfastError):  # refused, or not to be known yet
                self._resolve()
            standing = self._here()
            if self._unresolved is not None:
                # A commit whose outcome is still not known will be repeated, so that it counts as made.
                standing = self._unresolved.made[-1][1]
            self._move(standing.stored, Members({}), Standing.level(standing.stored), keep_unstorable=False)

    def collect(self) -> Pending:
        """Compare the live state with what it was when it was stored last; changes neither."""
        return pending_in(self._live, self._here().view, self._values, self._types)

    def _is_as_new(self, pending: Pending) -> bool:
        """Whether all that is pending are the defaults of a session that is not stored yet."""
        return not self._here().view.version and pending.values == self._live.encoded_defaults()

    def write_run(self, run: Run | None, beside: Beside = NOTHING) -> None:
        """Write the record of a run, and what is beside it, but no change.

        Raises:
            SessionDeleted: the session that the run began from was deleted.
            RunTakenOver: the run was resumed elsewhere.
        """
        stored = self._standing.stored if self._standing is not None else None
        base, incarnation = (stored.version, stored.incarnation) if stored is not None else (0, "")
        self.storage.commit(self._commit_of(base, incarnation, clock.new_id(), None, run=run, **_parts(run, beside)))

    def undo(self, undoing: Undoing, run: Run, resumed: Run) -> None:
        """Commit what undoes a run, with the record of its next attempt.

        Args:
            undoing: made from what is stored now.
            run: the record of the next attempt.
            resumed: the record that was read, which must still be so.

        Raises:
            VersionConflict: others have committed meanwhile; nothing was changed.
            RunTakenOver: somebody else was faster; nothing was changed.
        """
        encoded = patch.encode_patch(undoing.operations) if undoing.operations else None
        document = undoing.document
        beside = Beside(run.run_id, run.attempt)
        self.storage.commit(
            self._commit_of(
                undoing.version,
                document.incarnation if undoing.version else "",
                clock.new_id(),
                encoded,
                run=run,
                resumes=resumed,
                lease_id=self.lease_id,
                **_parts(run, beside),
            )
        )

    # -- what a step changes ------------------------------------------------------------------------------------

    def mark(self) -> StoredDocument:
        """The live state as it is now, to find out later what was changed after that; unstorable values left out."""
        return self._edited(self._collected())

    def _collected(self) -> Collected:
        with self._lock:
            return Collected(self._here().view, self.collect())

    def _edited(self, collected: Collected) -> StoredDocument:
        view, pending = collected.view, collected.pending
        return view.edited(pending.operations, pending.values, pending.originals) if pending.operations else view

    def changes_since(self, mark: StoredDocument) -> tuple[StateChange | None, Collected]:
        """What was changed in the live state since a mark, None for nothing; and what is pending now.

        Both are found with one look at the state, which costs as much as it has values.
        """
        from holdfast.retracing import StateChange

        with self._lock:
            collected = self._collected()
            operations = operations_between(mark, self._edited(collected), self._values)
            before = functools.partial(self._encoded_if_there, mark)
            change = StateChange.of(operations, before) if operations else None
            return change, collected

    def _encoded_if_there(self, document: StoredDocument, name: str) -> bytes | None:
        return self._values.encoded(document, name) if name in document else None

    def changed_since(self, mark: StoredDocument) -> tuple[StoredDocument, bool]:
        """A mark of the live state as it is now, and whether it was changed since an earlier one."""
        with self._lock:
            now = self.mark()
            return now, bool(operations_between(mark, now, self._values))

    def repeat(self, change: StateChange) -> None:
        """Make a change in the live state again, in place.

        Raises:
            Misplaced: what it changed is not what it was before.
        """
        with self._lock:
            now = self.mark()
            operations = change.operations()
            names = {operation.path[0] for operation in operations}
            values = {name: self._values.encoded(now, name) for name in names if name in now}
            change.require_places(values)
            patch.apply(values, operations)
            gone = [name for name in names if name not in values]
            # In the order in which the operations put them there.
            moved = [op.path[0] for op in operations if op.op == "add" and len(op.path) == 1]
            self._live.assign(values, gone, moved)

    def take_for_transaction(self) -> bool:
        """Be the one thread of this object that is in a transaction; False while another is."""
        with self._lock:
            is_free = not self._in_transaction
            self._in_transaction = True
            return is_free

    def leave_transaction(self, lease_id: str) -> None:
        """The transaction is over; from now on, commits are made under this lease."""
        with self._lock:
            self.lease_id, self.is_exclusive, self.was_released = lease_id, False, False
            self._in_transaction = False

    # -- commits ------------------------------------------------------------------------------------------------

    def _commit(self, pending: Pending, run: Run | None = None, beside: Beside = NOTHING) -> bytes | None:
        if not pending.operations:
            if run is not None or beside.steps:
                self.write_run(run, beside)
            return None
        parts = {"run": run, "lease_id": self.lease_id, "releases": beside.releases, **_parts(run, beside)}
        attempt = _Attempt(pending, clock.new_id(), Settling(self.on_conflict, self._types), parts)
        return self._write(attempt)

    def _commit_of(self, base: int, incarnation: str, commit_id: str, encoded: bytes | None, **parts: Any) -> Commit:
        return Commit(
            owner=self.owner,
            session_id=self.session_id,
            commit_id=commit_id,
            base=base,
            incarnation=incarnation,
            workflow=self._workflow,
            patch=encoded,
            **parts,
        )

    def _write(self, attempt: _Attempt) -> bytes | None:
        # Whatever ends the call without an answer, an interrupt included, leaves the outcome unknown; repeating the
        # same commit is the only safe way to learn it.
        try:
            with self._refusing(attempt):
                version = self._asked(attempt.settling, lambda: self._try(attempt))
        except OutcomeUnknown:
            raise
        except HoldfastError:
            self._unresolved = None
            raise
        encoded = self._adopt(attempt, version)
        self._unresolved = None  # not before, or an interrupt in between would leave the commit unknown here
        return encoded

    def _try(self, attempt: _Attempt) -> int:
        """Commit, waiting for whoever has the session to himself."""
        deadline = clock.monotonic() + self.storage.lock_timeout
        pause, longest = RETRY_AFTER
        while True:
            try:
                if not attempt.made:
                    self._make(attempt, self._here())
                self._unresolved = attempt
                return self.storage.commit(
                    attempt.made[0][0],
                    rebase=lambda info, changes: self._make(attempt, self._here().moved(info, changes)),
                )
            except SessionBusy as busy:
                if clock.monotonic() >= deadline:
                    raise SessionBusy(
                        session_id=self.session_id, holder=busy.facts["holder"], seconds=self.storage.lock_timeout
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, longest)
            except VersionConflict:
                if self.is_exclusive:
                    raise
                # What others changed is not kept change by change: what differs is what they changed.
                self._standing = self._compared()
                attempt.made.clear()

    def _make(self, attempt: _Attempt, standing: Standing) -> Commit:
        """The commit on top of a standing, without changing anything, for it may be made in a transaction."""
        attempt.seen = standing.stored.version
        if self.is_exclusive and not standing.is_level:
            raise LeaseLost(session_id=self.session_id)
        merged: Merged | None = None
        if not standing.is_level:
            merged = standing.merged(attempt.pending, self._values, attempt.settling.settle, self._types)
        stored = standing.stored
        encoded, after = standing.committed(attempt.pending, merged)
        snapshot = None if encoded is None else self._snapshot(after.stored)
        if snapshot is not None:
            with_snapshot = after.stored.with_snapshot(snapshot)
            view = with_snapshot if after.is_level else after.view
            after = Standing(view, with_snapshot, after.others, after.later)
        commit = self._commit_of(
            stored.version, stored.incarnation, attempt.commit_id, encoded, snapshot=snapshot, **attempt.parts
        )
        attempt.made.append((commit, after))
        return commit

    def _snapshot(self, after: StoredDocument) -> Snapshot | None:
        with contextlib.suppress(VersionNotKept, SessionDeleted):  # the commit says so, and keeps what is refused
            return after.snapshot(lambda name: self._values.encoded(after, name))
        return None

    def _adopt(self, attempt: _Attempt, version: int) -> bytes | None:
        """Note where the session stands after a commit."""
        for commit, after in reversed(attempt.made):
            if after.stored.version == version:
                self._standing = after
                self._live.remember()
                recent.put(self.storage, self.owner, self.session_id, after.stored)
                return commit.patch
        # It was made by a try whose reply was lost, on top of changes that are not known here any more.
        view = self._here().view.edited(attempt.pending.operations, attempt.pending.values, attempt.pending.originals)
        self._standing = Standing(view, view)
        self._standing = self._compared()
        self._live.remember()
        return attempt.made[0][0].patch

    def _compared(self) -> Standing:
        """Where the session stands, found by comparing what the live state was stored as with what is stored."""
        view = self._here().view
        stored = self.storage.load(self.owner, self.session_id)
        if stored is None or (view.version and stored.info.incarnation != view.incarnation):
            raise SessionDeleted(session_id=self.session_id)
        document = StoredDocument.of(stored)
        # A value that is not kept any more differs from every other.
        before = {name: self._values.encoded_if_kept(view, name) or b"" for name in view.names()}
        after = {name: self._values.encoded(document, name) for name in document.names()}
        return Standing(view, document, Members({}), tuple(patch.diff(before, after)))

    def _asked(self, settling: Settling, work: Callable[[], Any]) -> Any:
        """Do work that settles overlaps, asking the user's resolver whenever it has to."""
        while True:
            try:
                return work()
            except Unanswered as question:
                overlap = question.overlap
            try:
                settling.ask(overlap)
            except Exception as error:
                refused = Refused(overlap)
                refused.add_note(refused_answer(error))
                raise refused from error

    @contextmanager
    def _refusing(self, attempt: _Attempt) -> Iterator[None]:
        """Raise for a commit that is refused the error that says so, with what was refused."""
        try:
            yield
        except Refused as refused:
            version, encoded = self._kept_apart(attempt.pending)
            conflict = attempt.settling.conflict(
                refused.overlap, session_id=self.session_id, base_version=version, current_version=attempt.seen
            )
            conflict.patch = encoded
            for note in getattr(refused, "__notes__", ()):
                conflict.add_note(note)
            self._refused = attempt.pending.operations
            raise conflict from refused.__cause__
        except (StateConflict, SessionDeleted, LeaseLost) as refusal:
            refusal.base_version, refusal.patch = self._kept_apart(attempt.pending)
            self._refused = attempt.pending.operations
            raise

    def _kept_apart(self, pending: Pending) -> tuple[int, bytes]:
        """What is pending as a patch of a version that is stored, for whoever wants to apply it by hand."""
        standing = self._here()
        operations = pending.operations
        overlaps: list[Overlap] = []

        def settle(overlap: Overlap) -> bytes | None:
            overlaps.append(overlap)
            return overlap.ours

        if not standing.is_level:
            operations = standing.merged(pending, self._values, settle, self._types).operations
        told = disputed(with_seeds(operations, pending.seeds), overlaps)
        return standing.stored.version, patch.encode_patch(told)

    def _resolve(self) -> None:
        if self._unresolved is not None:
            unresolved = self._unresolved
            try:
                self._write(unresolved)
            except (StateConflict, SessionDeleted, LeaseLost):
                raise
            except HoldfastError:
                self._unresolved = unresolved  # this try says nothing about the first one
                raise

    # -- where it stands ----------------------------------------------------------------------------------------

    def _here(self) -> Standing:
        if self._standing is None:
            self.load()
            assert self._standing is not None
        return self._standing

    def _moved(self, *, exactly: bool = False) -> Standing:
        """Where the session stands now, after asking the storage; the live state is left alone.

        Args:
            exactly: whether it matters what others changed, and not only what came of it.
        """
        standing = self._standing
        before = standing.stored if standing else recent.get(self.storage, self.owner, self.session_id)
        known = before.known if before is not None and before.version else None
        stored = self.storage.load(self.owner, self.session_id, known=known)
        if stored is None:
            is_new = standing is not None and not standing.stored.version
            return standing if standing and is_new else Standing.level(StoredDocument.unsaved())
        if stored.values is not None or before is None:
            if exactly:
                return self._compared()
            return Standing(standing.view if standing else _NOWHERE, StoredDocument.of(stored))
        if standing is None:
            return Standing.level(before.after_changes(stored.changes) if stored.changes else before)
        return standing.moved(stored.info, stored.changes)

    def _settle(self, standing: Standing) -> None:
        """Make the live state what is stored."""
        here = self._standing
        document = standing.stored
        if here is None or document is not here.view or self._refused is not None:
            touched = [name for key, _ in self._live.state.touched() if (name := self._live.name_or_none(key))]
            edits = standing.edits_at(touched, self._values) if touched and not standing.is_level else Members({})
            self._move(document, edits, Standing.level(document))
        self._refused = None
        if document.version:
            recent.put(self.storage, self.owner, self.session_id, document)

    def _move(self, document: StoredDocument, edits: Members, to: Standing, *, keep_unstorable: bool = True) -> None:
        before = self._standing.view if self._standing else None

        def place() -> None:
            self._standing = to

        self._live.move_to(document, edits, place, before=before, keep_unstorable=keep_unstorable)


def _parts(run: Run | None, beside: Beside) -> dict[str, Any]:
    """What a commit writes beside its change, but for the lease."""
    return {
        "run_id": beside.run_id,
        "attempt": beside.attempt if run is None else run.attempt,
        "steps": beside.steps,
        "forgets_results": beside.forgets_results,
    }


_NOWHERE = StoredDocument("", 0, 0)
"""What a live state that was never loaded is compared with."""
