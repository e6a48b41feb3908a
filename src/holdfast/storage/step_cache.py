"""The step cache of a SQL database: one row for each result that is kept, or that somebody is computing.

Rules that must stay true:
- who computes a result is decided by one statement, and a result is stored by one that names whoever computed it;
- time is that of the clock which all users of the database share;
- a lease need not outlive a loss of power, a result does;
- an entry for a session belongs to the table prefix of that session, and goes with it;
- nothing that somebody is computing is swept, and no transaction deletes more than a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from holdfast.records import Entry, Place
from holdfast.storage import step_rows, sweeping
from holdfast.storage.base import valid_limit
from holdfast.storage.queries import NO_LIMIT, Statements
from holdfast.storage.remembered import Remembered
from holdfast.storage.rows import Row
from holdfast.storage.sweeping import Sweeping

T = TypeVar("T")
Key = tuple[str, str, str, bytes]
"""Of a row: owner, table prefix, session id, and the key of the step."""

_LARGEST_REMEMBERED = 16_384
"""Bytes of a result that is remembered, so that a hit need not read it again."""


class Read(Protocol):
    """Reads in one transaction."""

    def __call__(self, work: Callable[[Statements], T], *, is_one_statement: bool = False) -> T: ...


class Write(Protocol):
    """Writes in one transaction; None when that is put off, see `Engine.write`."""

    def __call__(
        self, work: Callable[[Statements], T], *, is_repeatable: bool = False, outlives_power: bool = True
    ) -> T | None: ...


class Peek(Protocol):
    """The rows of one query if nothing is in the way, and as they were a moment ago; else None."""

    def __call__(self, query: str, row: Key) -> list[tuple[Any, ...]] | None: ...


class SqlStepCache:
    """Results of steps in a SQL database; see `holdfast.storage.base.StepCache` for what each operation does.

    Args:
        read: runs something in a transaction that reads.
        write: runs something in a transaction that writes.
        peek: runs one query at once, if it can.
        mark: gives what is equal again only if nobody has committed anything in between; None where it cannot.
        table: prefix of the tables.
        sweeping: says when to sweep, and what the cache may hold.
        remembered: what was read and verified lately.
        where: display name of the database.
    """

    def __init__(  # noqa: PLR0913  # what a storage object does for it, and what it knows
        self,
        read: Read,
        write: Write,
        peek: Peek,
        mark: Callable[[], object | None],
        *,
        table: str,
        sweeping: Sweeping,
        remembered: Remembered,
        where: str,
    ) -> None:
        self._read = read
        self._write = write
        self._peek = peek
        self._mark = mark
        self._table = table
        self._sweeping = sweeping
        self._entries = remembered.entries
        self._where = where

    def read(self, place: Place, key: bytes) -> Entry | None:
        """See `StepCache.read`."""
        named = (place.owner, self._table if place.session_id else "", place.session_id, key)
        known = self._entries.get(named)
        if known is not None:
            # Taken before the look, so that what is committed in between makes it another one.
            mark = self._mark()
            if mark is not None and mark == known[2]:
                return known[1]
            if self._peek("find_checksum", named) == [known[0]]:
                self._entries.put(named, (*known[:2], mark))
                return known[1]
        rows = self._peek("find_entry", named)
        row = rows and rows[0]
        if rows is None:
            row = self._read(lambda db: db.found("find_entry", named), is_one_statement=True)
        if not row:
            return None
        entry = step_rows.read_entry(row, self._where)
        if entry.size <= _LARGEST_REMEMBERED:
            self._entries.put(named, ((row[18], row[20], row[21]), entry, None))
        return entry

    def claim(self, place: Place, key: bytes, lease_id: str, seconds: float, *, unless: float | None) -> bool:
        """See `StepCache.claim`."""

        def work(db: Statements) -> int:
            now = db.now()
            lease = {"lease_id": lease_id, "lease_until": now + seconds}
            return db.change("claim_entry", **_named(db, place, key), **lease, now=now, unless=unless)

        return self._write(work, is_repeatable=True, outlives_power=False) != 0

    def renew(self, place: Place, key: bytes, lease_id: str, seconds: float) -> bool:
        """See `StepCache.renew`."""

        def work(db: Statements) -> int:
            until = db.now() + seconds
            return db.change("renew_entry", **_named(db, place, key), lease_id=lease_id, lease_until=until)

        return self._write(work, is_repeatable=True, outlives_power=False) != 0

    def store(self, entry: Entry, lease_id: str, *, ttl: float | None) -> bool:
        """See `StepCache.store`."""
        tried: list[Row] = []

        def work(db: Statements) -> int:
            key = _key(db, entry.place, entry.key)
            if tried and _has(db, key, tried[0]):  # the answer to an earlier attempt was lost
                return 1
            now = db.now()
            row = step_rows.entry_row(entry, key[1], now, None if ttl is None else now + ttl)
            tried[:] = [row]
            return db.put("store_entry", (*row, *key, lease_id))

        is_stored = self._write(work, is_repeatable=True) != 0
        if is_stored and self._sweeping.is_due(len(entry.result or b"")):
            self.sweep()
        return is_stored

    def release(self, place: Place, key: bytes, lease_id: str) -> None:
        """See `StepCache.release`."""

        def work(db: Statements) -> None:
            if not db.change("give_up_claim", **_named(db, place, key), lease_id=lease_id):
                db.change("release_entry", **_named(db, place, key), lease_id=lease_id)

        self._write(work, is_repeatable=True, outlives_power=False)

    def count_hits(self, hits: Mapping[tuple[Place, bytes], int]) -> None:
        """See `StepCache.count_hits`."""

        def work(db: Statements) -> None:
            now = db.now()
            # In order, so that of two who count the same entries none waits for the other's.
            counted = sorted((_key(db, place, key), count) for (place, key), count in hits.items())
            db.put_each("count_hits", [(count, now, *key) for key, count in counted])

        if hits:
            self._write(work, outlives_power=False)

    def find(
        self,
        owner: str | None,
        *,
        step: str | None = None,
        workflow: str | None = None,
        session_id: str | None = None,
        limit: int | None = None,
    ) -> tuple[Entry, ...]:
        """See `StepCache.find`."""
        wanted = {"step": step, "workflow": workflow, "session_id": session_id}
        limit = valid_limit(limit)
        return self._read(lambda db: _found(db, owner, wanted, limit), is_one_statement=True)

    def delete(self, entries: Iterable[tuple[Place, bytes]]) -> int:
        """See `StepCache.delete`."""
        named = list(entries)
        deleted = 0
        for start in range(0, len(named), sweeping.BATCH):
            batch = named[start : start + sweeping.BATCH]
            deleted += self._write(lambda db, batch=batch: sum(_delete(db, *each) for each in batch)) or 0  # type: ignore[misc]
        return deleted

    def sweep(self) -> int:
        """See `StepCache.sweep`."""
        swept = self._swept("delete_expired_of_all_owners")
        self._swept("delete_dead_claims_of_all_owners")
        excess = self._read(_size, is_one_statement=True) - self._sweeping.max_size
        while excess > 0:
            deleted, freed = self._write(lambda db: _evict(db, excess), outlives_power=False) or (0, 0)  # noqa: B023
            if not deleted:
                break
            swept += deleted
            excess -= freed
        return swept

    def _swept(self, query: str) -> int:
        """Delete what a query says, and return how many entries that were."""
        swept = 0
        while True:
            deleted = self._write(lambda db: db.change(query, now=db.now(), limit=sweeping.BATCH), outlives_power=False)
            swept += deleted or 0
            if (deleted or 0) < sweeping.BATCH:
                return swept


def _key(db: Statements, place: Place, key: bytes) -> Key:
    """The key of a row, in the order of its columns."""
    return place.owner, db.table if place.session_id else "", place.session_id, key


def _named(db: Statements, place: Place, key: bytes) -> dict[str, Any]:
    return dict(zip(("owner", "table_name", "session_id", "key"), _key(db, place, key), strict=True))


def _has(db: Statements, key: Key, stored: Row) -> bool:
    """Whether an entry has the row that `store_entry` wrote."""
    row = db.found("find_entry", key)
    return row is not None and row[18] == stored[15]


def _found(db: Statements, owner: str | None, wanted: dict[str, str | None], limit: int | None) -> tuple[Entry, ...]:
    options = {**wanted, "table_name": db.table, "limit": NO_LIMIT if limit is None else limit}
    found = (
        db.each("entries_of_all_owners", **options)
        if owner is None
        else db.each("entries_of_owner", owner=owner, **options)
    )
    return tuple(step_rows.read_entry(row, db.where) for row in found)


def _delete(db: Statements, place: Place, key: bytes) -> int:
    named = _named(db, place, key)
    return db.change("delete_entry", **named, now=db.now()) or db.change("empty_entry", **named)


def _size(db: Statements) -> int:
    ((size,),) = db.all("size_of_all_owners")
    return int(size)


def _evict(db: Statements, excess: int) -> tuple[int, int]:
    """Delete a batch at most of what was not used for the longest time; how many entries and bytes that were."""
    now = db.now()
    count = freed = 0
    for (size,) in db.all("longest_unused_of_all_owners", now=now, limit=sweeping.BATCH):
        if freed >= excess:
            break
        count += 1
        freed += size
    return db.change("delete_longest_unused_of_all_owners", now=now, limit=count), freed
