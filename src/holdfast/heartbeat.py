"""One thread per process that says which runs are alive.

Rules that must stay true:
- a run that is open for longer than `RECORD_AFTER` is recorded as running, even while it waits for a model;
- while runs are open, the process beats for each of their storages; nothing is written for a process without runs;
- a failure here is never lost: it is kept with the run and raised by that run's next commit;
- a forked child starts with no runs and makes its own thread and its own process id.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Protocol
from weakref import WeakKeyDictionary

from holdfast import clock
from holdfast.errors import HoldfastError, StorageClosed
from holdfast.storage.base import BEAT_EVERY, Storage
from holdfast.threads import quiet

RECORD_AFTER = 0.2
"""Seconds after which the start of a run is recorded when no commit has done so."""


class OpenRun(Protocol):
    """What the heartbeat needs to know of a run."""

    storage: Storage
    opened: float
    recorded: bool

    def record_start(self) -> None: ...
    def fail_later(self, error: Exception) -> None: ...
    def abandon(self) -> None: ...


class Heartbeat:
    """The open runs of this process, and the thread that looks after them."""

    def __init__(self) -> None:
        self.process_id = clock.new_id()
        self._lock = threading.RLock()
        # The storage is held for the run: when both are garbage, the run is still to be committed there.
        self._runs: WeakKeyDictionary[OpenRun, Storage] = WeakKeyDictionary()
        self._beats: WeakKeyDictionary[Storage, float] = WeakKeyDictionary()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, run: OpenRun) -> None:
        """Look after a run from now on."""
        with self._lock:
            self._runs[run] = run.storage
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
                runs = self._open()
                if not runs:
                    self._wake.clear()
                    if self._open():  # one came between
                        self._wake.set()
                for run in runs:
                    self._attend(run)

    def _attend(self, run: OpenRun) -> None:
        now = clock.monotonic()
        try:
            if not run.recorded:
                if now - run.opened >= RECORD_AFTER:
                    run.record_start()
                    self._beats[run.storage] = now
            elif now - self._beats.setdefault(run.storage, now) >= BEAT_EVERY:
                run.storage.beat(self.process_id)
                self._beats[run.storage] = now
        except Exception as error:  # noqa: BLE001  # the run raises it
            run.fail_later(error)


_current: Heartbeat | None = None
_pid = 0


def heartbeat() -> Heartbeat:
    """The heartbeat of this process.

    >>> len(heartbeat().process_id)
    32
    """
    global _current, _pid  # one for each process, made anew after a fork
    if _current is None or _pid != os.getpid():
        _current, _pid = Heartbeat(), os.getpid()
    return _current


@atexit.register
def _at_exit() -> None:
    if _current is not None and _pid == os.getpid():
        for error in _current.close_open_runs():
            sys.excepthook(type(error), error, error.__traceback__)
