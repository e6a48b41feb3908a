"""One execution for all who ask for the same result at the same time: in this process, and beside other processes.

Rules that must stay true:
- in one process one caller leads and the others wait for it; each may be cancelled without harm to the others;
- across processes whoever holds the lease of the entry computes it; the lease is renewed while that lasts, and a
  leader that hands out pieces to a consumer who has stopped reading for a whole lease renews it no more;
- what a leader computed after it lost the lease is its own caller's, and is not stored.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from weakref import WeakKeyDictionary

from holdfast import clock
from holdfast.heartbeat import heartbeat
from holdfast.records import Entry, Place
from holdfast.storage.base import LEASE_SECONDS, Storage
from holdfast.threads import lock_for_forks


class EntryLease:
    """The right to compute one entry of the step cache."""

    def __init__(self, storage: Storage, place: Place, key: bytes) -> None:
        self.lease_id = clock.new_id()
        self.storage = storage
        self.claimed_at = clock.monotonic()
        self.is_held = False
        self.suspended_at: float | None = None
        """Since when what it computes waits for its consumer to go on reading."""
        self._place = place
        self._key = key
        # The heartbeat renews it on another thread, and must not take it again once it was given up.
        self._lock = threading.Lock()

    def ask(self, unless: float | None) -> bool:
        """Ask for it; True when it is held."""
        with self._lock:
            self.claimed_at = clock.monotonic()
            cache = self.storage.step_cache
            self.is_held = cache.claim(self._place, self._key, self.lease_id, LEASE_SECONDS, unless=unless)
        if self.is_held:
            heartbeat().hold(self)
        return self.is_held

    def claim(self) -> int:
        """Renew it, for the heartbeat."""
        with self._lock:
            if self.is_held and self.is_stalled:
                self._lose()
            elif self.is_held:
                self.claimed_at = clock.monotonic()
                if not self.storage.step_cache.renew(self._place, self._key, self.lease_id, LEASE_SECONDS):
                    self._lose()
        return 0

    def _lose(self) -> None:
        self.is_held = False
        heartbeat().let_go(self)

    @property
    def is_stalled(self) -> bool:
        """Whether its consumer has not gone on reading for a whole lease."""
        since = self.suspended_at
        return since is not None and clock.monotonic() - since >= LEASE_SECONDS

    def store(self, entry: Entry, ttl: float | None) -> bool:
        """Store what was computed; False if the lease was lost, and nothing was stored."""
        stored = self.storage.step_cache.store(entry, self.lease_id, ttl=ttl)
        self.forget()
        return stored

    def release(self) -> None:
        """Give it up, so that others need not wait for its end."""
        was_held = self.is_held
        self.forget()
        if was_held:
            self.storage.step_cache.release(self._place, self._key, self.lease_id)

    def forget(self) -> None:
        """Renew it no more."""
        heartbeat().let_go(self)
        with self._lock:
            self.is_held = False


class Flight:
    """One execution in this process, and those who wait for it."""

    def __init__(self) -> None:
        self.landed: Future[Entry | None] = Future()
        """Its entry, or None when it came to nothing and somebody else is to try."""
        self.lease: EntryLease | None = None
        self.waiting = 0
        """How many others want its result."""

    @property
    def is_stalled(self) -> bool:
        """Whether it cannot be waited for any longer."""
        return self.lease is not None and self.lease.is_stalled


Which = tuple[Place, bytes]


class Flights:
    """The executions of this process, by storage and entry."""

    def __init__(self) -> None:
        self._lock = lock_for_forks()
        self._by_storage: WeakKeyDictionary[Storage, dict[Which, Flight]] = WeakKeyDictionary()

    def join(self, storage: Storage, which: Which) -> tuple[Flight, bool]:
        """The execution of an entry, and whether the caller is to lead it."""
        with self._lock:
            flights = self._by_storage.setdefault(storage, {})
            flight = flights.get(which)
            if flight is None or flight.is_stalled:
                flight = flights[which] = Flight()
                return flight, True
            flight.waiting += 1
            return flight, False

    def leave(self, flight: Flight) -> None:
        """Wait for it no more."""
        with self._lock:
            flight.waiting -= 1

    def land(self, storage: Storage, which: Which, flight: Flight, entry: Entry | None) -> None:
        """The execution is over."""
        with self._lock:
            flights = self._by_storage.get(storage, {})
            if flights.get(which) is flight:
                del flights[which]
        if not flight.landed.done():
            flight.landed.set_result(entry)

    def forget_in_child(self) -> None:
        """After a fork: who leads is in the parent."""
        self._by_storage = WeakKeyDictionary()


flights = Flights()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=flights.forget_in_child)
