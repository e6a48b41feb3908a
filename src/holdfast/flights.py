"""One execution for all who ask for the same result at the same time: in this process, and beside other processes.

Rules that must stay true:
- in one process one caller leads and the others wait for it; each may be cancelled without harm to the others;
- nobody waits for an execution that, through others, waits for his own;
- across processes whoever holds the lease of the entry computes it; the lease is renewed while that lasts, and given
  up by a leader that cannot go on: its consumer has stopped reading for a whole lease, or its event loop is closed;
- what a leader computed after it lost the lease is its own caller's, and is not stored.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from holdfast import clock
from holdfast.frames import steps_around
from holdfast.heartbeat import heartbeat
from holdfast.records import Entry, Place
from holdfast.storage.base import LEASE_SECONDS, Storage
from holdfast.threads import lock_for_forks

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class EntryLease:
    """The right to compute one entry of the step cache.

    Args:
        loop: the event loop that its holder needs in order to go on, if it does.
    """

    def __init__(self, storage: Storage, place: Place, key: bytes, loop: AbstractEventLoop | None = None) -> None:
        self.lease_id = clock.new_id()
        self.storage = storage
        self.claimed_at = clock.monotonic()
        self.is_held = False
        self.suspended_at: float | None = None
        """Since when what it computes waits for its consumer to go on reading."""
        self._place = place
        self._key = key
        self._loop = loop
        # The heartbeat renews it on another thread, and must not take it again once it was given up. The garbage
        # collector may end its holder on any thread, also on one that is here already.
        self._lock = threading.RLock()

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
                self.storage.step_cache.release(self._place, self._key, self.lease_id)
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
        """Whether its holder cannot go on, or its consumer has not gone on reading for a whole lease."""
        since = self.suspended_at
        if since is not None and clock.monotonic() - since >= LEASE_SECONDS:
            return True
        return self._loop is not None and self._loop.is_closed()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """While something is handed out, and its consumer decides when to go on."""
        self.suspended_at = clock.monotonic()
        try:
            yield
        finally:
            self.suspended_at = None

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
        self.began = clock.monotonic()
        self.landed: Future[Entry | None] = Future()
        """Its entry, or None when it came to nothing and somebody else is to try."""
        self.lease: EntryLease | None = None
        self.waiting = 0
        """How many others want its result."""
        self.waits_for: list[Flight] = []
        """The executions that its own code waits for."""
        self.thread = threading.get_ident()
        """The thread that it ran on last."""

    @property
    def is_stalled(self) -> bool:
        """Whether it cannot be waited for any longer."""
        return self.lease is not None and self.lease.is_stalled


Which = tuple[Place, bytes]


class Crossed(Exception):
    """Raised inside this package where two executions would wait for each other."""


def _waits_for_one_of(flight: Flight, others: Sequence[Flight]) -> bool:
    pending, seen = [flight], {id(flight)}
    while pending:
        waiting = pending.pop()
        if any(waiting is other for other in others):
            return True
        new = [further for further in waiting.waits_for if id(further) not in seen]
        seen.update(map(id, new))
        pending += new
    return False


class Flights:
    """The executions of this process, by storage and entry."""

    def __init__(self) -> None:
        self._lock = lock_for_forks()
        self._by_storage: WeakKeyDictionary[Storage, dict[Which, Flight]] = WeakKeyDictionary()

    def join(self, storage: Storage, which: Which, own: Flight, around: Sequence[Flight]) -> Flight:
        """The execution of an entry: one that goes on already and was not stalled, else the caller's own, to be led.

        Args:
            around: the executions that the caller is a part of, which wait while he does.

        Raises:
            Crossed: it waits for one of these.
        """
        with self._lock:
            flights = self._by_storage.setdefault(storage, {})
            flight = flights.get(which)
            if flight is None or flight.is_stalled:
                flight = flights[which] = own
            else:
                if _waits_for_one_of(flight, around):
                    raise Crossed
                flight.waiting += 1
                for waiting in around:
                    waiting.waits_for.append(flight)
            return flight

    def leave(self, flight: Flight, around: Sequence[Flight]) -> None:
        """Wait for it no more."""
        with self._lock:
            flight.waiting -= 1
            for waiting in around:
                waiting.waits_for.remove(flight)

    def land(self, storage: Storage, which: Which, flight: Flight, entry: Entry | None) -> None:
        """The execution is over, or was never begun."""
        with self._lock:
            flights = self._by_storage.get(storage, {})
            if flights.get(which) is flight:
                del flights[which]
        if not flight.landed.done():
            flight.landed.set_result(entry)

    def forget_in_child(self) -> None:
        """After a fork: who leads is in the parent."""
        self._by_storage = WeakKeyDictionary()


def flights_around() -> list[Flight]:
    """The executions that the code is a part of, so that they wait for what it waits for."""
    return [frame.flight for frame in steps_around() if frame.flight is not None]


flights = Flights()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=flights.forget_in_child)
