"""What a commit writes of a run: its record and its steps. And the fence against whoever ran that run before.

Rules that must stay true:
- a run is fenced off in the transaction that writes, after the head of the session is held: by the statement that
  writes its record or, where none is written, by looking at the one that is stored and keeping it as it is;
- of two that resume a run, the second finds a record that is not as it was read;
- a step belongs to a run that is recorded.
"""

from __future__ import annotations

from holdfast.errors import RunNotFound, RunTakenOver, VersionConflict
from holdfast.records import Commit
from holdfast.storage import reading, rows, step_rows
from holdfast.storage.liveness import is_as_read
from holdfast.storage.queries import Statements


def require_resumable(db: Statements, commit: Commit, version: int, *, is_repeated: bool) -> None:
    """Make sure that the run that a commit resumes is as it was read; without a patch, the session as well.

    Args:
        db: where to look.
        commit: has `resumes`.
        version: of the session, before a commit without a patch.
        is_repeated: whether this may have been done already, by a transaction whose outcome was not told.

    Raises:
        RunTakenOver: the run has another record.
        VersionConflict: the session is at another version than the commit says.
    """
    assert commit.resumes is not None
    read = commit.resumes
    key = {"owner": commit.owner, "session_id": commit.session_id}
    row = db.one("find_run_to_change", **key, run_id=read.run_id)
    stored = None if row is None else rows.read_run(row, db.where)
    if is_repeated and commit.patch is None and stored == commit.run:
        return
    if stored is None or not is_as_read(stored, read):
        raise RunTakenOver(run_id=read.run_id, session_id=commit.session_id)
    if commit.patch is not None:
        return
    if not version:  # there was no head to hold; the run is held by now, so that none of its commits makes one
        head = reading.find_head(db, commit.owner, commit.session_id)
        version = head.info.version if head else 0
    if version != commit.base:
        raise VersionConflict(
            session_id=commit.session_id, base_version=commit.base, current_version=version, run_id=read.run_id
        )


def write(db: Statements, commit: Commit) -> None:
    """Write the record and the steps of the commit's run, if it has any.

    Raises:
        RunTakenOver: the run is recorded with a later attempt; on a server, that may be found out by the engine at
            the end of the transaction.
        RunNotFound: steps are of a run that is not recorded.
    """
    run = commit.run
    if run is not None:
        refusal = RunTakenOver(run_id=run.run_id, session_id=commit.session_id)
        db.send_or_refuse("put_run", rows.run_row(run), refusal)
    if commit.run_id and (run is None or run.run_id != commit.run_id):
        _require_attempt(db, commit)
    if commit.steps or commit.forgets_results:
        _write_steps(db, commit, commit.run_id or (run.run_id if run else ""))


def _require_attempt(db: Statements, commit: Commit) -> None:
    """Make sure that no later attempt of a run has begun, and that none begins before this transaction ends."""
    key = {"owner": commit.owner, "session_id": commit.session_id, "run_id": commit.run_id}
    found = db.one("attempt_to_keep", **key)
    if found is not None and found[0] > commit.attempt:
        raise RunTakenOver(run_id=commit.run_id, session_id=commit.session_id)
    if found is None and commit.steps:
        raise RunNotFound(run_id=commit.run_id, where=db.where)


def _write_steps(db: Statements, commit: Commit, run_id: str) -> None:
    key = (commit.owner, commit.session_id, run_id)
    keeps_results = not commit.forgets_results
    if commit.steps:
        db.put_each("put_step", [step_rows.step_row(*key, step, keeps_result=keeps_results) for step in commit.steps])
    if commit.forgets_results:
        db.send("forget_results", key)
