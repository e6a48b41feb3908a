"""The exit statuses of the command, and the errors that only the command has.

Rules that must stay true:
- a status keeps its meaning: scripts depend on it. `docs/command-line.md` lists them all.
"""

from __future__ import annotations

from typing import Final

from holdfast.errors import (
    CacheMiss,
    CorruptData,
    HoldfastError,
    InvalidInput,
    RunNotFound,
    RunNotResumable,
    RunTakenOver,
    SessionDeleted,
    SessionDiffers,
    SessionExists,
    SessionNotFound,
    StateError,
    StepBusy,
    StepPersistError,
    StorageError,
    VersionNotKept,
)

FAILED: Final = 1
INTERRUPTED: Final = 130


class DatabaseNotFound(HoldfastError):
    """There is no database at {where}. Name one with --db or HOLDFAST_DB; a run creates it."""


class EntryNotFound(HoldfastError):
    """There is no result of a step in {where} whose key begins with {key!r}. `holdfast cache list` lists them."""


class StepNotFound(HoldfastError):
    """Run {run_id!r} has no step {step!r}. It has: {known}."""


class DamageFound(HoldfastError):
    """{count} with {where}, listed above. What is damaged cannot be repaired: restore the database from a backup, or
    export the sessions that are sound and import them into a new one. Any other problem says what to do."""


class NotCopied(HoldfastError):
    """{count} were not copied, for the reasons above. All others, if there are any, were."""


class ConfigurationProblem(HoldfastError):
    """{count} with the configuration, listed above with what to write instead."""


_STATUS: Final[tuple[tuple[type[HoldfastError], int], ...]] = (
    (InvalidInput, 2),
    (SessionExists, 2),
    (DatabaseNotFound, 3),
    (SessionNotFound, 3),
    (SessionDeleted, 3),
    (RunNotFound, 3),
    (EntryNotFound, 3),
    (StepNotFound, 3),
    (CacheMiss, 3),
    (VersionNotKept, 3),
    (CorruptData, 6),
    (DamageFound, 6),
    (ConfigurationProblem, 6),
    (StateError, 5),
    (RunNotResumable, 5),
    (RunTakenOver, 5),
    (StepPersistError, 5),
    (SessionDiffers, 5),
    (NotCopied, 5),
    (StorageError, 4),
    (StepBusy, 4),
)


def exit_status(error: HoldfastError) -> int:
    """The status that a command ends with because of an error: that of the first class it belongs to.

    >>> from holdfast.errors import ForeignDatabase
    >>> exit_status(ForeignDatabase(where="notes.db", reason="its header is not SQLite's"))
    4
    """
    return next((status for kind, status in _STATUS if isinstance(error, kind)), FAILED)
