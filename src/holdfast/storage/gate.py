"""The gate: a small file beside a database that its writers take turns at, and that says a database was there.

Rules that must stay true:
- the gate is waited for in the kernel, first come first served; SQLite's own waiting lets writers starve;
- whoever holds the gate may still be refused by SQLite, which alone guards the data: losing the gate costs
  fairness, never safety;
- the mark is set once the schema exists, so that an emptied database file is told from a new one.
"""

from __future__ import annotations

import os
import sys
import time

if sys.platform != "win32":
    import fcntl

_MARK = b"holdfast\n"
_POLL = 0.005


class Gate:
    """The gate of one database file. Used by one thread at a time.

    Args:
        database: path of the database file; the gate is `<database>-gate`.
    """

    def __init__(self, database: str) -> None:
        self.path = f"{database}-gate"
        self._descriptor: int | None = None
        self._was_opened = False

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for the gate, at most `timeout` seconds; False when it was not to be had.

        Raises:
            OSError: the file cannot be made or locked.
        """
        while True:
            descriptor = self._opened()
            if not _locked(descriptor, timeout):
                return False
            if self._is_in_place(descriptor):
                return True
            self.close()  # somebody removed the file: others will meet at the new one

    def release(self) -> None:
        """Let the next one in."""
        if sys.platform != "win32" and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file. A forked child may do this too: the parent's hold is not touched."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def is_marked(self) -> bool:
        """Whether a database was complete once."""
        return os.stat(self._opened()).st_size > 0

    def mark(self) -> None:
        """Say, durably, that the database is complete."""
        descriptor = self._opened()
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, _MARK)
        os.fsync(descriptor)

    def unmark(self) -> None:
        """Say that a new database is about to be made."""
        os.ftruncate(self._opened(), 0)

    def _opened(self) -> int:
        if self._descriptor is None:
            if not self._was_opened:  # a folder that was removed later is not made again
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            self._was_opened = True
        return self._descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


def _locked(descriptor: int, timeout: float | None) -> bool:
    if sys.platform == "win32":  # SQLite's own locking has to do
        return True
    if timeout is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        else:
            return True
