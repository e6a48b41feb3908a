"""The frozen records that travel between a session, its storage and whoever reads them.

Rules that must stay true:
- a record is plain data: immutable, without I/O, the same for every backend;
- state is always encoded here (see `codec.py`): `name` is a top-level key as a path segment, `data` its value as
  JSON text in UTF-8, `patch` an RFC 6902 JSON Patch over the document of all top-level values;
- an `owner` is a `user_id`, the empty string standing for `user_id=None`; it is an owner of its own, no wildcard;
- times are seconds since 1970 in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec


class RunStatus(StrEnum):
    """How a run stands. `interrupted` is never stored: it is what a waiting or running run becomes when its process
    died."""

    waiting = "waiting"
    running = "running"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"
    interrupted = "interrupted"


class SessionInfo(msgspec.Struct, frozen=True):
    """The head of one stored session."""

    owner: str
    session_id: str
    incarnation: str
    """A random id given when the session is created: a session deleted and made again is another one."""
    version: int
    """The number of the newest change, from 1."""
    snapshot_version: int
    """Every change up to this version is contained in the stored values; later ones must be applied to them."""
    workflow: str
    """The name of the workflow that created the session."""
    created_at: float
    updated_at: float


class StoredValue(msgspec.Struct, frozen=True, gc=False):
    """One top-level value of a snapshot. A load makes one for each name."""

    name: str
    size: int
    """Length of the data in bytes."""
    data: bytes | None
    """None when it was left out because the session is large: `Storage.read_values` brings it."""


class Change(msgspec.Struct, frozen=True):
    """One committed change of a session: what makes version `version` out of `version - 1`."""

    version: int
    commit_id: str
    run_id: str
    created_at: float
    patch: bytes


class StoredSession(msgspec.Struct, frozen=True):
    """What `Storage.load` found: all values as of `info.snapshot_version`, in the order of the document, and the
    changes since, oldest first.

    When the caller said which version it knows, and that version can be continued, `values` is None and `changes`
    holds only what came after it.
    """

    info: SessionInfo
    values: tuple[StoredValue, ...] | None
    changes: tuple[Change, ...]


class Known(msgspec.Struct, frozen=True):
    """The version of a session that a caller already holds in memory."""

    incarnation: str
    version: int


class Snapshot(msgspec.Struct, frozen=True):
    """What the document is after a commit, for the values to be stored whole with it.

    The storage takes every name that has no value here from the session's newest snapshot, whoever made that.
    """

    names: tuple[str, ...]
    """Every top-level name of the document, in order."""
    values: tuple[StoredValue, ...]
    """Those to be stored anew, each with its data: at least every one that changed since the last snapshot that the
    committer knows."""


class Failure(msgspec.Struct, frozen=True):
    """What ended a failed run."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What the model calls of a run used. Cost is in US dollars; None means that a price is unknown, not zero."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            cost,
        )


class Savings(msgspec.Struct, frozen=True):
    """What the steps that were answered from a record or the cache, instead of being computed, cost once."""

    hits: int = 0
    """How many were."""
    seconds: float = 0.0
    usage: Usage = Usage()

    def __add__(self, other: Savings) -> Savings:
        return Savings(self.hits + other.hits, self.seconds + other.seconds, self.usage + other.usage)


class Run(msgspec.Struct, frozen=True):
    """The record of one run."""

    run_id: str
    owner: str
    session_id: str
    workflow_id: str
    workflow: str
    status: RunStatus
    started_at: float
    process_id: str
    """The process that runs it; see `Storage.beat`."""
    ended_at: float | None = None
    input: bytes | None = None
    """Encoded arguments of `run()`, a JSON object by parameter name."""
    output: bytes | None = None
    """Encoded content of what it returned or yielded."""
    error: Failure | None = None
    usage: Usage = Usage()
    base_version: int = 0
    """The version of the session that the run started from."""
    refused_patch: bytes | None = None
    """The changes that a `StateConflict` kept out of the session."""
    refused_version: int | None = None
    """The version of the session that they were made from."""
    attempt: int = 1
    """Raised when the run is resumed: the fencing token against whoever ran it before."""
    savings: Savings = Savings()


CODE_LABELS = ("code of ", "constant ", "default of ")
"""How the labels of parts begin that are code, for which a version can stand."""

INPUT_LABELS = ("argument ", "variable ", "held", "key", "depends")
"""How the labels of parts begin that a call was given."""


class StepRecord(msgspec.Struct, frozen=True):
    """One step of a run that ended well."""

    number: int
    """From 1, in the order in which the steps of the run began."""
    name: str
    scope: str
    """`"run"`, or where else its result is kept: `"session"`, `"workflow"` or `"global"`."""
    key: bytes
    """SHA-256 of all that the result depends on; of the scope of the run, the call that it was made in as well."""
    occurrence: int
    """How many steps of the run with the same key began before it; 0 for the wider scopes."""
    parts: bytes
    """What the key is made of: a JSON object from what it is to a digest, such as `"argument topic"`."""
    within: int
    """The number of the step that it was called from; 0 for none."""
    is_hit: bool
    """Whether it was answered, and not computed."""
    started_at: float
    seconds: float
    """How long it took to compute, when that was done."""
    usage: Usage
    """What its computation used, when that was done."""
    patch: bytes | None = None
    """What it changed in the session state."""
    result: bytes | None = None
    """What it returned and yielded, encoded; None for a wider scope, or because the run has completed."""


class Place(NamedTuple):
    """Whom an entry of the step cache is for; a part of its key in the storage."""

    owner: str
    """The user's id, empty for none, and for an entry that all users share."""
    session_id: str = ""
    """Of the only session that it is for, if it is; it goes when that session is deleted or renamed."""


class Entry(msgspec.Struct, frozen=True):
    """The result of a step, kept for later runs."""

    place: Place
    key: bytes
    """SHA-256 of everything that the result depends on, `scope` and the owner included."""
    scope: str
    """`"session"`, `"workflow"` or `"global"`."""
    is_shared: bool
    """Whether it is for all users."""
    workflow: str
    """The name of the workflow that computed it."""
    step: str
    parts: bytes
    """As in `StepRecord`."""
    seconds: float
    usage: Usage
    result: bytes | None
    """None where it was left out."""
    run_id: str = ""
    """Of the run that computed it."""
    created_at: float = 0.0
    """Set by the storage, by the clock that all users of the database share."""
    expires_at: float | None = None
    size: int = 0
    """Bytes of the result; set by the storage."""
    hits: int = 0
    hit_at: float | None = None
    """When it was found last, as far as that has been recorded."""


class Commit(msgspec.Struct, frozen=True):
    """One atomic write. Without a patch it writes the run record only and the session's version stays."""

    owner: str
    session_id: str
    commit_id: str
    """Random; a repeated commit with the same id is recognised and not applied twice."""
    base: int
    """The version that the patch was made against; 0 for a session that is not stored yet."""
    incarnation: str
    """Of the session that was loaded; for base 0, the one to create it with."""
    workflow: str
    patch: bytes | None
    snapshot: Snapshot | None = None
    run: Run | None = None
    """The record of a run to be written with the change."""
    run_id: str = ""
    """Of the run that made the change, empty outside of runs; its record need not be written with every change."""
    lease_id: str = ""
    """The lease that the session is held by: the fencing token without which the commit of a holder that lost it
    would still go through. Empty for a commit that needs none."""
    releases: bool = False
    """Whether the lease ends with this commit."""
    attempt: int = 1
    """Which attempt of its run made it; refused once the run is recorded with a later one."""
    resumes: Run | None = None
    """The record, as it was read, of the run that begins its next attempt with this commit. The run must still be so,
    and the session at `base`, also without a patch."""
    steps: tuple[StepRecord, ...] = ()
    """Steps of the run to be recorded with the change."""
    forgets_results: bool = False
    """Whether the results of the run's steps are not needed any more, because it has completed."""
    created_at: float | None = None
    """When it was made, if that was elsewhere and this is a copy of it, which says nothing of the run's process being
    alive; None for now."""


class Claim(msgspec.Struct, frozen=True):
    """Asks for the lease of a session, or goes on holding it."""

    owner: str
    session_id: str
    lease_id: str
    """Random; names one holder, or one place in the queue, for as long as it lasts."""
    seconds: float
    """How long the place is kept without being asked for again."""
    is_exclusive: bool = False
    """Whether nobody else may commit to the session while it is held; else nobody else may hold it."""
    waits: bool = True
    """Whether to queue when somebody else is ahead."""
    is_held: bool = False
    """Whether it was held already, so that it cannot be claimed anew when it is gone."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that `Storage.check` found to be damaged."""

    where: str
    what: str
