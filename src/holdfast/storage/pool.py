"""The few connections of this process to one database server, each used by one thread at a time.

Rules that must stay true:
- a connection is opened by the thread that wants it, which also gets the error when that fails: no thread works here;
- a connection goes back only with no transaction open on it, and is closed otherwise;
- waiting for one ends in time, and a thread that has one already never waits for another: that is a finalizer, which
  the garbage collector runs in the middle of a use, and it must not wait for its own thread;
- an interrupt between any two steps loses neither a connection nor a place.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar

MAX_CONNECTIONS = 8
"""Connections of a process to a database at one time. More would not make a server of a few cores faster."""

_MAX_IDLE = 300.0
"""Seconds after which an unused connection is not used again: something between may have forgotten it."""


class Connection(Protocol):
    """What a pool must know of a connection."""

    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...


C = TypeVar("C", bound=Connection)


class Block:
    """Lives as long as the block that a connection is lent to."""


class Loan(Generic[C]):
    """The use of a connection by one thread."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.connection: C | None = None
        self.block: weakref.ref[Block] | None = None


def _dropped(loans: dict[int, Loan[C]], key: int, _block: weakref.ref[Block]) -> None:
    """End a loan whose block is gone although it was not given back: an interrupt came in between."""
    loan = loans.pop(key, None)
    if loan is not None and loan.connection is not None:
        loan.connection.close()


class PoolExhausted(Exception):
    """All connections were in use for as long as the caller would wait."""


class Pool(Generic[C]):
    """Connections that are opened when they are wanted, and kept for the next use.

    Args:
        connect: opens a connection within so many seconds.
        is_reusable: whether a connection that comes back can be used again.
        limit: how many connections there may be.
    """

    def __init__(
        self, connect: Callable[[float], C], is_reusable: Callable[[C], bool], limit: int = MAX_CONNECTIONS
    ) -> None:
        self._connect = connect
        self._is_reusable = is_reusable
        self._limit = limit
        self._idle: list[tuple[C, float]] = []
        """The last used one last, with the time since when it is idle."""
        self._loans: dict[int, Loan[C]] = {}
        """By identity, so that each step is atomic."""
        self._admitting = threading.RLock()
        """Held while a loan is admitted, and as long as none may be."""
        self._returns: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Wakes a thread that waits; what is in it is no more than a hint."""
        self.is_closed = False

    @contextmanager
    def connection(self, deadline: float) -> Iterator[C]:
        """Lend a connection for a block.

        Args:
            deadline: until when to wait, by `time.monotonic()`.

        Raises:
            PoolExhausted: all were in use until then.
        """
        loan: Loan[C] = Loan()
        block = Block()
        is_whole = False
        try:
            self._admit(loan, block, deadline)
            loan.connection = self._reused() or self._connect(max(deadline - time.monotonic(), 0))
            yield loan.connection
            is_whole = True
        except Exception:
            is_whole = True
            raise
        finally:
            self._give_back(loan, is_whole=is_whole)

    def pause(self) -> None:
        """Lend nothing until `resume`."""
        self._admitting.acquire()

    def resume(self) -> None:
        """Lend again."""
        self._admitting.release()

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        while found := self._popped():
            found[0].close()

    def close(self, timeout: float) -> bool:
        """Close all connections, those that are in use when they come back; says whether they did in time."""
        self.is_closed = True
        deadline = time.monotonic() + timeout
        self.close_idle()
        while len(self._loans) > self._lent_to(threading.get_ident()) and time.monotonic() < deadline:
            time.sleep(0.001)
        self.close_idle()
        return not self._loans

    def forgotten(self) -> list[C]:
        """Forget all connections in a forked child, without closing them, and return them.

        Only the child's descriptors are closed, which the server does not see.
        """
        connections = [connection for connection, _ in self._idle]
        for loan in list(self._loans.values()):
            if loan.connection is not None:
                connections.append(loan.connection)
                loan.connection = None
        self._idle, self._loans = [], {}
        for connection in connections:
            with contextlib.suppress(Exception):  # the thread that used it may have been in the middle of anything
                os.close(connection.fileno())
        return connections

    def _admit(self, loan: Loan[C], block: Block, deadline: float) -> None:
        while True:
            with self._admitting:
                if len(self._loans) < self._limit or self._lent_to(loan.thread):
                    loan.block = weakref.ref(block, partial(_dropped, self._loans, id(loan)))
                    self._loans[id(loan)] = loan
                    return
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise PoolExhausted
            with contextlib.suppress(queue.Empty):
                self._returns.get(timeout=min(wait, 0.05))

    def _lent_to(self, thread: int) -> int:
        """How many connections a thread has."""
        return sum(loan.thread == thread for loan in list(self._loans.values()))

    def _popped(self) -> tuple[C, float] | None:
        try:
            return self._idle.pop()
        except IndexError:  # to look first would be too early: other threads pop as well
            return None

    def _reused(self) -> C | None:
        while found := self._popped():
            connection, since = found
            if not connection.closed and time.monotonic() - since < _MAX_IDLE:
                return connection
            connection.close()
        return None

    def _give_back(self, loan: Loan[C], *, is_whole: bool) -> None:
        """End a loan; a connection whose use was interrupted in the middle of anything is not used again."""
        connection, loan.connection = loan.connection, None
        if id(loan) not in self._loans:  # it was never admitted, or this is a forked child
            return
        try:
            if connection is not None:
                if is_whole and self._is_reusable(connection) and not self.is_closed and not _process_ends():
                    self._idle.append((connection, time.monotonic()))
                else:
                    connection.close()
        finally:
            self._loans.pop(id(loan), None)
            loan.block = None
            if self._returns.empty():
                self._returns.put(None)


_ending: list[None] = []
_process_ends = _ending.__len__
"""Whether nothing is to stay open any more."""

atexit.register(_ending.append, None)
