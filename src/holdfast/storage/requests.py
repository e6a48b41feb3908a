"""One write that a caller asks the writer thread for, and the waiting for its outcome.

Rules that must stay true:
- a request is either begun by the writer or withdrawn by its caller, never both: `_taken` says, in one atomic
  step, who was first;
- a caller that is interrupted leaves nothing half done: its request is withdrawn, or its outcome awaited;
- nothing here blocks when the garbage collector calls back in the middle of it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from holdfast import clock
from holdfast.errors import StorageBusy

T = TypeVar("T")


class Request(Generic[T]):
    """One write.

    Args:
        work: writes, on the connection of the writer, inside its transaction; must do the same when repeated.
        table: the table prefix that must be ready, None for none.
        timeout: seconds after which it need not begin any more.
        is_durable: whether the commit must be on disk before it is acknowledged.
        failures: where an error goes when nobody waits for the outcome.
    """

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], T],
        table: str | None,
        timeout: float,
        *,
        is_durable: bool,
        failures: list[BaseException] | None = None,
    ) -> None:
        self.work = work
        self.table = table
        self.is_durable = is_durable
        self.value: T | None = None
        self.error: BaseException | None = None
        self._timeout = timeout
        self._deadline = clock.monotonic() + timeout
        self._failures = failures
        self._taken: dict[str, str] = {}
        self.is_decided = False
        """Whether `value` or `error` is the outcome."""
        self.is_queued = False
        """Whether another thread may be serving it, or is going to."""
        self._is_finished = False
        self._finished = threading.Lock()
        self._finished.acquire()

    def begin(self) -> bool:
        """Take the request up; False when it was withdrawn. Only the writer calls this, more than once if need be."""
        return self._taken.setdefault("by", "writer") == "writer"

    def withdraw(self) -> bool:
        """Take the request back; False when the writer has begun it."""
        return self._taken.setdefault("by", "caller") == "caller"

    def is_withdrawn(self) -> bool:
        """Whether the caller took it back."""
        return self._taken.get("by") == "caller"

    def is_wanted(self) -> bool:
        """Whether it is still worth waiting for a lock on behalf of this request."""
        has_time = self._failures is None or clock.monotonic() < self._deadline
        return has_time and not self.is_withdrawn()

    def finish(self) -> None:
        """Hand the outcome to whoever waits for it; only the first call counts.

        The writer does this after it let go of lock and gate, so that they are free when the caller goes on.
        """
        if self._is_finished:
            return
        if self.error is not None and self._failures is not None:
            self._failures.append(self.error)
        self._is_finished = True
        self._finished.release()

    def outcome(self, where: str) -> T:
        """Wait for the outcome and return it.

        Raises:
            StorageBusy: it had not begun in time and was withdrawn.
        """
        in_time = self._finished.acquire(timeout=min(self._timeout, threading.TIMEOUT_MAX))
        is_withdrawn = not in_time and self.withdraw()
        if not in_time and not is_withdrawn:
            self._finished.acquire()
        if is_withdrawn:
            raise StorageBusy(where=where, seconds=self._timeout)
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the traceback would keep the request, and the request the traceback
        return self.value  # type: ignore[return-value]

    def settle(self) -> None:
        """After an interrupt, wherever it hit: withdraw the request, or wait until its outcome is certain.

        One that no other thread was given is not waited for: the interrupt may have hit after it was served, and before
        its outcome was handed out. A second interrupt goes through at once.
        """
        if not self.withdraw() and self.is_queued and not self._is_finished:
            self._finished.acquire()
