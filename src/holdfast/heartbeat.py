"""One thread per process that says which runs are alive, and keeps the leases that they hold.

Rules that must stay true:
- a run that is open for longer than `RECORD_AFTER` is recorded as running, even while it waits for a model;
- while runs are open, the process beats for each of their storages; nothing is written for a process without runs;
- a failure here is never lost: it is kept with the run and raised by that run's next commit; a lease that could not
  be renewed in time is refused by the storage when something is committed under it;
- a forked child starts with no runs and makes its own thread and its own process id.
"""

from __future__ import annotations

import atexit
import sys
import threading
from typing import Protocol
from weakref import WeakKeyDictionary

from holdfast import clock
from holdfast.errors import HoldfastError, LeaseLost, StorageClosed
from holdfast.storage.base import BEAT_EVERY, LEASE_SECONDS, Storage
from holdfast.threads import process_number, quiet

RECORD_AFTER = 0.2
"""Seconds after which the start of a run is recorded when no commit has done so."""

RENEW_EVERY = LEASE_SECONDS / 3
"""Seconds between two renewals of a lease."""


class OpenRun(Protocol):
    """What the heartbeat needs to know of a run."""

    storage: Storage
    opened: float
    recorded: bool

    def record_start(self) -> bool: ...
    def fail_later(self, error: Exception) -> None: ...
    def abandon(self) -> None: ...


class Renewable(Protocol):
    """What the heartbeat needs to know of a lease."""

    storage: Storage
    claimed_at: float

    def claim(self) -> int: ...


class Heartbeat:
    """The open runs and leases of this process, and the thread that looks after them."""

    def __init__(self) -> None:
        self.process_id = clock.new_id()
        self._lock = threading.RLock()
        # The storage is held for the run: when both are garbage, the run is still to be committed there.
        self._runs: WeakKeyDictionary[OpenRun, Storage] = WeakKeyDictionary()
        self._beats: WeakKeyDictionary[Storage, float] = WeakKeyDictionary()
        self._leases: set[Renewable] = set()
        self._attended: set[int] = set()
        """Storages that a thread is writing to at this moment, by identity."""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, run: OpenRun) -> None:
        """Look after a run from now on."""
        with self._lock:
            self._runs[run] = run.storage
        self._attend_from_now_on()

    def hold(self, lease: Renewable) -> None:
        """Renew a lease, or a place in the queue for one, from now on."""
        with self._lock:
            self._leases.add(lease)
        self._attend_from_now_on()

    def let_go(self, lease: Renewable) -> None:
        """The lease is not wanted any more."""
        with self._lock:
            self._leases.discard(lease)

    def _attend_from_now_on(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._look_after, name="holdfast-heartbeat", daemon=True)
                    self._thread.start()
        # The thread ticks while runs come and go; waking it for each short run would cost more than the run.
        if not self._wake.is_set():
            self._wake.set()

    def unwatch(self, run: OpenRun) -> None:
        """The run has ended."""
        with self._lock:
            self._runs.pop(run, None)

    def close_open_runs(self) -> list[BaseException]:
        """Commit and end every run that is still open, for the end of the process; returns what some of them
        raised."""
        failures: list[BaseException] = []
        for run in self._open():
            try:
                run.abandon()
            except BaseException as error:  # noqa: BLE001  # the caller shows it, when the other runs are saved
                failures.append(error)
        for storage in list(self._beats):
            try:
                storage.beat(self.process_id, stopped=True)
            except StorageClosed:
                continue  # its owner is done with it, and the last beat grows stale by itself
            except HoldfastError as error:
                failures.append(error)
        return failures

    def _open(self) -> list[OpenRun]:
        with self._lock:
            return list(self._runs)

    def _look_after(self) -> None:
        pause = threading.Event()
        with quiet():
            while True:
                self._wake.wait()
                pause.wait(RECORD_AFTER)
                runs, leases = self._open(), self._held()
                if not (runs or leases):
                    self._wake.clear()
                    if self._open() or self._held():  # one came between
                        self._wake.set()
                self._attend([run for run in runs if self._is_due(run)])
                for lease in leases:
                    self._renew(lease)

    def _held(self) -> list[Renewable]:
        with self._lock:
            return list(self._leases)

    def _renew(self, lease: Renewable) -> None:
        """Renew a lease on a thread of its own, if it is time for that."""
        if clock.monotonic() - lease.claimed_at < RENEW_EVERY or id(lease) in self._attended:
            return
        self._attended.add(id(lease))
        threading.Thread(target=self._claim, args=(lease,), name="holdfast-heartbeat", daemon=True).start()

    def _claim(self, lease: Renewable) -> None:
        with quiet():
            try:
                lease.claim()
            except LeaseLost:
                self.let_go(lease)  # its holder finds out at its next commit, which the storage refuses
            except HoldfastError:
                pass  # tried again at the next tick; and the holder meets the same failure when it commits
            finally:
                self._attended.discard(id(lease))

    def _is_due(self, run: OpenRun) -> bool:
        now = clock.monotonic()
        if not run.recorded:
            return now - run.opened >= RECORD_AFTER
        return now - self._beats.setdefault(run.storage, now) >= BEAT_EVERY

    def _attend(self, runs: list[OpenRun]) -> None:
        """Write for each storage on a thread of its own: one that is busy must not make the runs of others look
        dead. A run is due once, soon after it began, and then every few seconds, so that threads are few."""
        by_storage: dict[int, list[OpenRun]] = {}
        for run in runs:
            by_storage.setdefault(id(run.storage), []).append(run)
        for identity, due in by_storage.items():
            if identity not in self._attended:
                self._attended.add(identity)
                threading.Thread(
                    target=self._write, args=(identity, due), name="holdfast-heartbeat", daemon=True
                ).start()

    def _write(self, identity: int, runs: list[OpenRun]) -> None:
        with quiet():
            for run in runs:
                if not self._is_due(run):
                    continue  # the beat for another run of this storage was for this one as well
                try:
                    if run.recorded or not run.record_start():
                        run.storage.beat(self.process_id)
                    self._beats[run.storage] = clock.monotonic()
                except Exception as error:  # noqa: BLE001  # the run raises it
                    run.fail_later(error)
            self._attended.discard(identity)


_current: Heartbeat | None = None
_pid = 0


def heartbeat() -> Heartbeat:
    """The heartbeat of this process.

    >>> len(heartbeat().process_id)
    32
    """
    global _current, _pid  # one for each process, made anew after a fork
    if _current is None or _pid != process_number():
        _current, _pid = Heartbeat(), process_number()
    return _current


@atexit.register
def _at_exit() -> None:
    if _current is not None and _pid == process_number():
        for error in _current.close_open_runs():
            sys.excepthook(type(error), error, error.__traceback__)
