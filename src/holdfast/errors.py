"""Every error that Holdfast raises, in one tree.

    HoldfastError
    ├── InvalidInput             (also ValueError)  an argument, id, option or file that cannot be used
    ├── StateError
    │   ├── UnstorableValue      (also TypeError)   values that cannot be kept, each with its path
    │   ├── UndeclaredType       a stored value of a type that this workflow does not declare
    │   ├── StateConflict        another run changed the same place of the session
    │   │   └── VersionConflict  a commit on top of another version than the session has
    │   └── ChangesOverlap       refused changes that are applied by hand, where nobody was said to win
    ├── RunError
    │   ├── RunInProgress        one object runs one run at a time
    │   ├── RunNotFound
    │   ├── RunTakenOver         it is being resumed, or was, by somebody else
    │   └── RunNotResumable      what was recorded of it does not suffice to go on
    ├── StepError
    │   ├── StepKeyError         (also TypeError)   an argument, or something else that a step uses, without identity
    │   ├── StepStateError       a step used the session state in a way that its record could not repeat
    │   ├── StepPersistError     the result of a step could not be kept; the error has it
    │   ├── StepBusy             others were computing the same step for too long
    │   └── CacheMiss            the result is not in the cache, and was not to be computed
    ├── AgentError               an agent that cannot be run as it is configured
    └── StorageError
        ├── StorageBusy          not begun within the timeout; nothing was written
        ├── SessionBusy          somebody else has the session to himself
        ├── LeaseLost            the session was given to somebody else, after this process was not heard of
        ├── OutcomeUnknown       begun, but whether it was committed is not known
        ├── StorageClosed        used after close()
        ├── StorageFull          no space left, or a size limit reached
        ├── StorageReadOnly
        ├── StorageUnavailable   the server cannot be reached
        ├── ForeignDatabase      not a Holdfast database
        ├── SchemaTooNew         written by a newer release
        ├── DatabaseReplaced     the file was removed, replaced or emptied
        ├── CorruptData          a checksum does not match
        │   └── MalformedData    stored data that no release of Holdfast writes like that
        ├── SessionNotFound
        ├── SessionExists
        ├── SessionDeleted       deleted while a run was using it
        ├── SessionDiffers       a session to be copied, where another one is already
        └── VersionNotKept       the history does not reach back that far
            └── RefusedVersionNotKept  what refused changes were made from is forgotten

Rules that must stay true:
- the docstring of a class is its message: what happened, where, and how to fix it; `{names}` are filled with the
  facts, which are attributes of the error as well;
- a message names paths, types and sizes, never a value: values can be secrets.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any


class HoldfastError(Exception):
    """{message}"""

    facts: dict[str, Any]

    def __init__(self, message: str = "", /, **facts: Any) -> None:
        _fill(self, _template(type(self).__doc__ or "").format(message=message, **facts), facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self), self.facts)


_template = functools.cache(inspect.cleandoc)


def _fill(error: HoldfastError, text: str, facts: dict[str, Any]) -> None:
    Exception.__init__(error, text)
    error.facts = facts
    error.__dict__.update(facts)


def _restore(kind: type[HoldfastError], text: str, facts: dict[str, Any]) -> HoldfastError:
    error = kind.__new__(kind)
    _fill(error, text, facts)
    return error


class InvalidInput(HoldfastError, ValueError):
    """{message}"""


class StateError(HoldfastError):
    """{message}"""


class UnstorableValue(StateError, TypeError):
    """{count} in the session state cannot be stored:
    {listing}
    {outcome}"""

    problems: tuple[tuple[str, str], ...]

    def __init__(
        self,
        problems: tuple[tuple[str, str], ...],
        outcome: str = "All other top-level keys were saved; these keep their last stored value until they are mended.",
    ) -> None:
        shown = problems[:20]
        listing = "\n".join(f"  {path}: {reason}" for path, reason in shown)
        if len(problems) > len(shown):
            listing += f"\n  ... and {len(problems) - len(shown)} more"
        count = "1 value" if len(problems) == 1 else f"{len(problems)} values"
        super().__init__(problems=problems, listing=listing, count=count, outcome=outcome)


class UndeclaredType(StateError):
    """{path} holds a stored {kind} named {name!r}, which this workflow does not declare.
    Add the class to `state_types = [{name}]` of the workflow."""


class StateConflict(StateError):
    """Session {session_id!r}: {path} was changed by another run since version {base_version}, and by this one as well.
    Nothing of this commit was applied; its changes are kept as the refused patch of the run and in the `patch` of
    this error. See them with `holdfast runs show`, apply them by hand with `holdfast sessions apply`, or run again to
    start from what is stored now (version {current_version}). To settle such conflicts, give the workflow an
    `on_conflict`; to read and write without any, use `with self.transaction()`."""

    session_id: str
    path: str
    base: Any
    """What was there before either changed it; `holdfast.conflicts.MISSING` for nothing. So are `ours` and `theirs`."""
    ours: Any
    theirs: Any
    base_version: int
    current_version: int
    patch: bytes | None = None


class VersionConflict(StateConflict):
    """Session {session_id!r} is at version {current_version}, but this commit was made from version {base_version}.
    Nothing of this commit was applied. Load the session again and commit on top of what is stored now."""


class ChangesOverlap(StateError):
    """{count} of session {session_id!r} that run {run_id!r} was refused to change, others have changed as well since
    version {base_version}. Nothing was changed. Say who wins there: `--ours` for the refused changes, `--theirs` for
    what is stored."""


class RunError(HoldfastError):
    """{message}"""


class RunInProgress(RunError):
    """This {workflow} object is in the middle of run {run_id!r}. Finish or close that run first, or make another
    object of the same session, which is cheap: {workflow}(session_id={session_id!r}, storage=...)."""


class RunNotFound(RunError):
    """There is no run {run_id!r} in {where}."""


class RunTakenOver(RunError):
    """Run {run_id!r} of session {session_id!r} is not in the hands of this process any more: it was resumed elsewhere,
    or has ended. Nothing of this commit was written; see `holdfast runs show` for how it stands."""


class RunNotResumable(RunError):
    """Run {run_id!r} of session {session_id!r} cannot be resumed: {reason}. Nothing was changed."""


class StepError(HoldfastError):
    """{message}"""


class StepKeyError(StepError, TypeError):
    """{path} of step {step!r} {reason}, so that nobody could tell whether a recorded result is the one that is wanted.
    {advice}"""


class StepStateError(StepError):
    """Step {step!r} {what}. {advice}"""


class StepPersistError(StepError):
    """The result of step {step!r} could not be kept: {reason}. It was paid for: this error has it as `result`."""

    result: Any


class StepBusy(StepError):
    """Step {step!r} was being computed elsewhere for {seconds:.3g} s, longer than its `wait_timeout`. Ask again for its
    result, or wait longer."""


class CacheMiss(StepError):
    """The result of step {step!r} for {given} is not in the cache, and it was to be taken from there only. This error
    has the values as `arguments`."""

    step: str
    arguments: dict[str, Any]
    """By name, those that count; no part of the message."""

    def __init__(self, *, step: str, arguments: dict[str, Any]) -> None:
        told = [f"{name} ({_type_and_size(value)})" for name, value in arguments.items()]
        given = " and ".join([", ".join(told[:-1]), *told[-1:]] if told[1:] else told) or "no arguments"
        super().__init__(step=step, arguments=arguments, given=given)


def _type_and_size(value: Any) -> str:
    kind = type(value)
    return f"{kind.__name__} of {len(value)}" if kind in _SIZED else kind.__name__


_SIZED = (str, bytes, list, tuple, dict, set, frozenset)


class AgentError(HoldfastError):
    """{message}"""


class StorageError(HoldfastError):
    """{message}"""


class StorageBusy(StorageError):
    """{where} was busy for {seconds:g} s, so this call did not begin and nothing was written. Another process may
    be holding it; try again, or give a longer `lock_timeout`."""


class SessionBusy(StorageError):
    """Session {session_id!r} is in use by {holder}, after {seconds:.3g} s of waiting. Nothing was written; try again
    when it is free. How long a commit and a transaction wait is the `lock_timeout` of the storage."""


class LeaseLost(StorageError):
    """Session {session_id!r} was given to somebody else, because nothing was heard of this process for longer than
    its lease. Nothing of this commit was applied; run again to start from what is stored now."""

    base_version: int | None = None
    patch: bytes | None = None


class OutcomeUnknown(StorageError):
    """{where} did not say whether a commit was made: {reason}. Load the session again to see."""


class StorageClosed(StorageError):
    """{where} was closed. Make a new storage object to use it again."""


class StorageFull(StorageError):
    """{where} cannot grow: {reason}. Nothing of this commit was written and all earlier commits are kept; free
    some space and write again."""


class StorageReadOnly(StorageError):
    """{where} cannot be written: {reason}. Check the permissions of the file, its folder or the database user."""


class StorageUnavailable(StorageError):
    """{where} cannot be reached: {reason}. Nothing was written. Check that the server is running and can be reached
    from here, then call again."""

    is_passing = False
    """Whether the server said that it will be there soon."""


class ForeignDatabase(StorageError):
    """{where} is not a Holdfast database: {reason}. It was left untouched; name another file or table_name."""


class SchemaTooNew(StorageError):
    """{where} has schema {found}, and this release of Holdfast knows schemas up to {known}. Upgrade with
    `pip install --upgrade holdfast`; nothing was changed."""


class DatabaseReplaced(StorageError):
    """{where} {reason}. Nothing was written. Put the file back, or remove what is left of it ({leftover}) to start
    an empty database."""


class CorruptData(StorageError):
    """{where}: {what} does not match its checksum, so it is not used. Restore the database from a backup;
    `holdfast doctor` lists everything that is damaged."""


class MalformedData(CorruptData):
    """{where} cannot be read: {what}. It was not written like that by Holdfast: restore the database from a backup;
    `holdfast doctor` lists everything that is damaged."""


class SessionNotFound(StorageError):
    """There is no session {session_id!r} in {where}."""


class SessionExists(StorageError):
    """Session {session_id!r} exists already in {where}. Choose another id or delete it first."""


class SessionDeleted(StorageError):
    """Session {session_id!r} was deleted while this run was using it, so this commit was not stored. A new run
    creates the session again."""

    base_version: int | None = None
    patch: bytes | None = None


class SessionDiffers(StorageError):
    """Session {session_id!r} in {where} is not what the one in {source} was before: {reason}. It was left as it is.
    To have this one copied beside it, rename it there."""


class VersionNotKept(StorageError):
    """Version {version} of session {session_id!r} is not kept: its history begins at version {oldest} and ends at
    version {newest}."""


class RefusedVersionNotKept(VersionNotKept):
    """What run {run_id!r} was refused was made from version {version} of session {session_id!r}, and its history does
    not reach back that far any more, so that it cannot be brought together with what was changed since. See the
    changes with `holdfast runs show` and make them again."""
