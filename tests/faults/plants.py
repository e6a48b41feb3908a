"""The bugs that are planted: each puts one wrong step in the place of a right one, while it is in force.

Rules that must stay true:
- a bug is one that a careful reader could have written: it breaks one rule and leaves all else as it is;
- nothing of the product asks whether a bug is planted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any
from unittest import mock

from msgspec.structs import replace

from holdfast import codec, patch, recorded, step_flow
from holdfast.asked import Asked
from holdfast.effects import Flow, Store
from holdfast.errors import StateConflict, StorageFull
from holdfast.flights import EntryLease
from holdfast.frames import Frame
from holdfast.records import Commit, RunStatus, StepRecord, Usage
from holdfast.retracing import Undoing
from holdfast.running import ActiveRun, status_after
from holdfast.session import Session
from holdfast.storage import leasing, memory, rows, server, writing
from holdfast.storage.base import Rebase, Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.pool import Pool
from holdfast.storage.queries import Statements
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.storage.step_cache import SqlStepCache
from holdfast.storage.writer import Writer
from holdfast.stored import StoredDocument

EARLY = "acknowledged before the commit"
BLIND = "written without looking at the version"
TAKEN = "a conflict taken for an earlier success"
UNRECOGNISED = "commit ids not recognised"
UNVERIFIED = "checksums not verified"
UNTIDY = "an interrupt leaves its transaction open"
UNFENCED = "a lost lease not noticed"
SWALLOWED = "a full disk taken for success"
ABANDONED = "a cancelled run is not committed"
SORTED = "a snapshot with its names in another order"
UNSIGNED = "the sign of a zero not kept"
UNMOVED = "a key that moved kept at its old place"
HASTY = "a step handed on before it is recorded"
PREMATURE = "a step recorded before it is done"
UNCHANGED = "a step recorded without its change of the state"
STANDING = "what a resumed run had changed before not undone"
LOST = "a result for others reported as kept, and not kept"


@contextmanager
def early() -> Iterator[None]:
    """Each commit is acknowledged at once and made by the next call."""
    commit, load = SqlWorkflowStorage.commit, SqlWorkflowStorage.load
    waiting: list[Commit] = []

    def load_late(storage: SqlWorkflowStorage, *names: str, **options: Any) -> Any:
        while waiting:
            with suppress(StateConflict):
                commit(storage, waiting.pop())
        return load(storage, *names, **options)

    def commit_late(storage: SqlWorkflowStorage, new: Commit, **options: Any) -> int:
        stored = load_late(storage, new.owner, new.session_id)
        if stored is not None and stored.info.version != new.base:
            return commit(storage, new, **options)
        waiting.append(new)
        return new.base + 1

    with mock.patch.multiple(SqlWorkflowStorage, commit=commit_late, load=load_late):
        yield


def overwriting(db: Statements, commit: Commit, before: rows.Head, rebase: Rebase | None) -> Commit:
    """Put a change in the place of the one that came between, instead of on top of it."""
    newest = before.info.version
    key = {"owner": commit.owner, "session_id": commit.session_id}
    kept = db.all("find_patches", **key, after=0, upto=newest, limit=10**9)[:-1]
    db.change("delete_patches", **key, upto=newest)
    for row in kept:
        db.put("insert_patch", (*key.values(), *row))
    return replace(commit, base=newest - 1, snapshot=None)


@contextmanager
def taken() -> Iterator[None]:
    """A commit that conflicts is acknowledged, and not brought together with what came between."""

    def commit_of(right: Callable[..., int]) -> Callable[..., int]:
        def commit(storage: Storage, new: Commit, **options: Any) -> int:
            try:
                return right(storage, new)
            except StateConflict:
                return new.base + 1

        return commit

    with (
        mock.patch.object(SqlWorkflowStorage, "commit", commit_of(SqlWorkflowStorage.commit)),
        mock.patch.object(MemoryStorage, "commit", commit_of(MemoryStorage.commit)),
    ):
        yield


@contextmanager
def unrecognised() -> Iterator[None]:
    """A commit that was made already is not known to have been."""
    with (
        mock.patch.object(writing, "_applied_version", return_value=None),
        mock.patch.object(memory, "_applied_version", return_value=None),
    ):
        yield


@contextmanager
def unfenced() -> Iterator[None]:
    """What is committed in a transaction is brought together with what came between, though its lease was lost."""
    never = property(lambda session: False, lambda session, value: None)
    with (
        mock.patch.object(Session, "is_exclusive", never, create=True),
        mock.patch.object(leasing, "require_first", return_value=None),
        mock.patch.object(leasing, "is_live", return_value=False),
    ):
        yield


def _replaced(target: Any, name: str, other: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: mock.patch.object(target, name, other)


@contextmanager
def swallowed() -> Iterator[None]:
    """A commit for which there was no room is acknowledged."""
    right = SqlWorkflowStorage.commit

    def commit(storage: SqlWorkflowStorage, new: Commit, **options: Any) -> int:
        try:
            return right(storage, new, **options)
        except StorageFull:
            return new.base + 1

    with mock.patch.object(SqlWorkflowStorage, "commit", commit):
        yield


@contextmanager
def abandoned() -> Iterator[None]:
    """A run that is cancelled or closed is not committed."""
    right = ActiveRun._end_saving

    def end(run: ActiveRun, error: BaseException | None) -> None:
        if status_after(error) is not RunStatus.cancelled:
            right(run, error)

    with mock.patch.object(ActiveRun, "_end_saving", end):
        yield


@contextmanager
def sorted_names() -> Iterator[None]:
    """A snapshot has its names in alphabetical order instead of their own."""
    right = StoredDocument.snapshot

    def snapshot(document: StoredDocument, encoded: Callable[[str], bytes]) -> Any:
        made = right(document, encoded)
        return made and replace(made, names=tuple(sorted(made.names)))

    with mock.patch.object(StoredDocument, "snapshot", snapshot):
        yield


@contextmanager
def unmoved() -> Iterator[None]:
    """A key that is moved to another place in the order is left where it was."""
    right = patch.displaced

    def displaced(old: Any, new: Any) -> Any:
        return ([], []) if set(old) == set(new) else right(old, new)

    with mock.patch.object(patch, "displaced", displaced):
        yield


@contextmanager
def unsigned() -> Iterator[None]:
    """The sign of a zero is not kept."""
    right = codec.stable_encode

    def encode(value: Any, *rest: Any) -> bytes:
        return right(value, *rest).replace(b"-0.0", b"0.0")

    with mock.patch.object(codec, "stable_encode", encode):
        yield


@contextmanager
def untidy() -> Iterator[None]:
    """What an interrupt left open is not rolled back, and goes on being used."""
    give_back = Pool._give_back

    def give_back_all(pool: Pool[Any], loan: Any, *, is_whole: bool) -> None:
        give_back(pool, loan, is_whole=True)

    with (
        mock.patch.object(Writer, "_tidy", Writer._leave),
        mock.patch.object(Pool, "_give_back", give_back_all),
        mock.patch.object(server, "is_idle", lambda connection: not connection.closed),
    ):
        yield


@contextmanager
def hasty() -> Iterator[None]:
    """The record of a step is written with the next one."""
    right = ActiveRun.save_step
    waiting: list[StepRecord] = []

    def save_step(run: ActiveRun, step: StepRecord) -> None:
        waiting.append(step)
        if len(waiting) > 1:
            right(run, waiting.pop(0))

    with mock.patch.object(ActiveRun, "save_step", save_step):
        yield


@contextmanager
def premature() -> Iterator[None]:
    """A step is recorded when it begins, and again when it is done."""
    right = step_flow.computed

    def computed(asked: Asked, frame: Frame, lease: EntryLease | None = None) -> Flow:
        if asked.run is not None and asked.cache is None:
            result = recorded.encode(recorded.Given(None), asked.types)
            facts = {"is_hit": False, "seconds": 0.0, "usage": Usage(), "result": result}
            yield Store(partial(asked.run.save_step, asked.record(frame.number, 0, frame, **facts)))
        return (yield from right(asked, frame, lease))

    with mock.patch.object(step_flow, "computed", computed):
        yield


@contextmanager
def unchanged() -> Iterator[None]:
    """What a step changed in the state is not in its record."""
    right = ActiveRun.save_step

    def save_step(run: ActiveRun, step: StepRecord) -> None:
        right(run, replace(step, patch=None))

    with mock.patch.object(ActiveRun, "save_step", save_step):
        yield


_PLANTS: dict[str, Callable[[], Any]] = {
    EARLY: early,
    BLIND: _replaced(writing, "_rebased", overwriting),
    TAKEN: taken,
    UNRECOGNISED: unrecognised,
    UNVERIFIED: _replaced(rows, "verify", lambda *_: None),
    UNTIDY: untidy,
    UNFENCED: unfenced,
    SWALLOWED: swallowed,
    ABANDONED: abandoned,
    SORTED: sorted_names,
    UNSIGNED: unsigned,
    UNMOVED: unmoved,
    HASTY: hasty,
    PREMATURE: premature,
    UNCHANGED: unchanged,
    STANDING: _replaced(Undoing, "_undo", lambda *_: None),
    LOST: _replaced(SqlStepCache, "store", lambda *_, **__: True),
}


def planted(plant: str | None) -> Any:
    """The bug of this name for as long as the context lasts; None is no bug."""
    return nullcontext() if plant is None else _PLANTS[plant]()
