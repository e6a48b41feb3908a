"""The step cache of `MemoryStorage`: the interface of step caches in its plainest form.

Rules that must stay true:
- it does exactly what `base.StepCache` says; where the one of a SQL backend differs, that one is wrong;
- it is guarded by the lock of its storage.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from holdfast import clock
from holdfast.errors import InvalidInput, StorageClosed
from holdfast.records import Entry, Place
from holdfast.storage.base import valid_limit
from holdfast.storage.sweeping import Sweeping


@dataclass
class _Row:
    """A result, and who computes it; one of both at least."""

    lease_id: str = ""
    lease_until: float = 0.0
    entry: Entry | None = None


class MemoryStepCache:
    """Results of steps in memory; see `holdfast.storage.base.StepCache` for the operations.

    Args:
        lock: guards everything.
        max_size: bytes of results to keep.
        where: display name of the storage.
    """

    def __init__(self, lock: threading.RLock, max_size: int, where: str) -> None:
        self._lock = lock
        self._sweeping = Sweeping(max_size)
        self._where = where
        self._rows: dict[tuple[Place, bytes], _Row] = {}
        self._is_closed = False

    def read(self, place: Place, key: bytes) -> Entry | None:
        """See `StepCache.read`."""
        with self._opened():
            row = self._rows.get((place, key))
            return row.entry if row else None

    def claim(self, place: Place, key: bytes, lease_id: str, seconds: float, *, unless: float | None) -> bool:
        """See `StepCache.claim`."""
        with self._opened():
            now = clock.now()
            row = self._rows.get((place, key)) or _Row()
            is_free = row.lease_id == lease_id or row.lease_until <= now
            if not is_free or (unless is not None and _is_newer(row.entry, unless, now)):
                return False
            row.lease_id, row.lease_until = lease_id, now + seconds
            self._rows[place, key] = row
            return True

    def renew(self, place: Place, key: bytes, lease_id: str, seconds: float) -> bool:
        """See `StepCache.renew`."""
        with self._opened():
            row = self._rows.get((place, key))
            if row is None or row.lease_id != lease_id:
                return False
            row.lease_until = clock.now() + seconds
            return True

    def store(self, entry: Entry, lease_id: str, *, ttl: float | None) -> bool:
        """See `StepCache.store`."""
        if entry.result is None:
            raise InvalidInput("Entry.result must be there: it is what an entry of the step cache is stored for.")
        with self._opened():
            key = (entry.place, entry.key)
            row = self._rows.get(key)
            if row is None or row.lease_id != lease_id:
                return False
            now, size = clock.now(), len(entry.result)
            expires_at = None if ttl is None else now + ttl
            stored = replace(entry, created_at=now, expires_at=expires_at, size=size, hits=0, hit_at=None)
            self._rows[key] = _Row(entry=stored)
            if self._sweeping.is_due(size):
                self.sweep()
            return True

    def release(self, place: Place, key: bytes, lease_id: str) -> None:
        """See `StepCache.release`."""
        with self._opened():
            row = self._rows.get((place, key))
            if row is None or row.lease_id != lease_id:
                return
            row.lease_id, row.lease_until = "", 0.0
            if row.entry is None:
                del self._rows[place, key]

    def count_hits(self, hits: Mapping[tuple[Place, bytes], int]) -> None:
        """See `StepCache.count_hits`."""
        with self._opened():
            for key, count in hits.items():
                row = self._rows.get(key)
                if row is not None and row.entry is not None:
                    row.entry = replace(row.entry, hits=row.entry.hits + count, hit_at=clock.now())

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
        limit = valid_limit(limit)
        with self._opened():
            found = [
                replace(entry, result=None)
                for entry in self._entries()
                if owner in (None, entry.place.owner)
                and step in (None, entry.step)
                and workflow in (None, entry.workflow)
                and session_id in (None, entry.place.session_id)
            ]
        found.sort(key=lambda entry: (-entry.created_at, entry.key, entry.place.owner))
        return tuple(found[:limit])

    def delete(self, entries: Iterable[tuple[Place, bytes]]) -> int:
        """See `StepCache.delete`."""
        with self._opened():
            return sum(self._delete(*each) for each in entries)

    def _delete(self, place: Place, key: bytes) -> bool:
        row = self._rows.get((place, key))
        if row is None or row.entry is None:
            return False
        row.entry = None
        if row.lease_until <= clock.now():
            del self._rows[place, key]
        return True

    def sweep(self) -> int:
        """See `StepCache.sweep`."""
        with self._opened():
            now = clock.now()
            unheld = {key: row for key, row in self._rows.items() if row.lease_until <= now}
            swept = 0
            for key, row in unheld.items():
                if row.entry is None or _has_expired(row.entry, now):
                    del self._rows[key]
                    swept += row.entry is not None
            excess = sum(entry.size for entry in self._entries()) - self._sweeping.max_size
            kept = [(row.entry, key) for key, row in unheld.items() if key in self._rows and row.entry is not None]
            for entry, key in sorted(kept, key=lambda each: (_used_at(each[0]), each[0].size)):
                if excess <= 0:
                    break
                del self._rows[key]
                swept += 1
                excess -= entry.size
            return swept

    def forget_session(self, owner: str, session_id: str) -> None:
        """Delete what was kept for one session, also what is being computed for it."""
        with self._lock:
            for key in [key for key in self._rows if key[0] == Place(owner, session_id)]:
                del self._rows[key]

    def close(self) -> None:
        """Refuse every later operation."""
        self._is_closed = True

    def _entries(self) -> list[Entry]:
        return [row.entry for row in self._rows.values() if row.entry is not None]

    def _opened(self) -> threading.RLock:
        if self._is_closed:
            raise StorageClosed(where=self._where)
        return self._lock


def _has_expired(entry: Entry, now: float) -> bool:
    return entry.expires_at is not None and entry.expires_at <= now


def _is_newer(entry: Entry | None, time: float, now: float) -> bool:
    """Whether there is an entry that was created after a time, and may still be used."""
    return entry is not None and entry.created_at > time and not _has_expired(entry, now)


def _used_at(entry: Entry) -> float:
    return entry.created_at if entry.hit_at is None else entry.hit_at
