"""The connections that read: as many as threads read at the same time, each with one short transaction.

Rules that must stay true:
- a connection is used by one thread at a time and goes back only with no transaction open on it;
- after any error it is closed; when the file was replaced, nothing is read and the engine abandons all;
- taking and giving back tolerate a finalizer that the garbage collector runs in the middle, on the same thread.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from holdfast.storage.sqlite import is_busy

T = TypeVar("T")
Mark = tuple[int, int, int]
"""A connection, the number of the last one that was opened, and the version of the database that it has seen."""

_numbers = itertools.count(1)
"""Of connections of this process; those of a parent before it was forked have others."""

_IDLE = 4
"""How many connections are kept open for the next reads."""

_LOOK_EVERY = 0.05
"""Seconds for which `peek` believes that the file is still at its path; to look takes as long as a small read."""


class Source(Protocol):
    """Where reading connections come from."""

    def open_reader(self) -> sqlite3.Connection: ...
    def check_unmoved(self) -> None: ...


class Readers:
    """The reading connections of one engine."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._idle: list[sqlite3.Connection] = []
        self._active: set[sqlite3.Connection] = set()
        self._taking = threading.RLock()
        """Held while a connection is taken, and as long as nobody may take one."""
        self._opened = 0
        """The number of the connection that was opened last."""
        self._looked_at = float("-inf")
        """When `peek` made sure last that the file is the one that was opened."""

    def read(self, work: Callable[[sqlite3.Connection], T], timeout: float) -> T:
        """Run `work` on a connection, again for `timeout` seconds while the database is locked.

        Raises:
            DatabaseReplaced: the file is not the one that was opened.
            sqlite3.Error: whatever SQLite says; and whatever `work` raised.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._read_once(work)
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= deadline:
                    raise

    def peek(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` once, for a reader to whom a moment makes no difference: of a file that has just been replaced
        it may still see what was there.

        Raises:
            DatabaseReplaced, sqlite3.Error: as for `read`.
        """
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY:
            self._source.check_unmoved()
            self._looked_at = now
        return self._use(work)

    def mark(self, connection: sqlite3.Connection) -> Mark:
        """What is the same again only if nobody has committed anything in between. It costs a third of a small query.

        A connection is known by its address, which can be another one's later, but not before that is opened.
        """
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        return id(connection), self._opened, version

    def pause(self, timeout: float) -> bool:
        """Let nobody take a connection until `resume`; says whether all came back within `timeout` seconds."""
        self._taking.acquire()
        deadline = time.monotonic() + timeout
        while self._active and time.monotonic() < deadline:
            time.sleep(0.001)
        return not self._active

    def resume(self) -> None:
        """Let connections be taken again."""
        self._taking.release()

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def forgotten(self) -> list[sqlite3.Connection]:
        """Forget all connections without closing them, and return them."""
        connections = [*self._idle, *self._active]
        self._idle, self._active = [], set()
        return connections

    def _open(self) -> sqlite3.Connection:
        self._opened = next(_numbers)
        return self._source.open_reader()

    def _read_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._source.check_unmoved()
        return self._use(work)

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = None
        try:
            with self._taking:
                connection = self._idle.pop() if self._idle else self._open()
                self._active.add(connection)
            result = work(connection)
        except BaseException:
            if connection is not None:
                self._active.discard(connection)
                connection.close()
            raise
        try:  # it stays among the active ones until it is put away, for `pause` waits for these
            if len(self._idle) < _IDLE:
                self._idle.append(connection)
            else:
                connection.close()
        finally:
            self._active.discard(connection)
        return result


def in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` in a transaction that ends with it, whatever happens."""
    if connection.in_transaction:  # a finalizer that the garbage collector runs in the middle of a write
        return work(connection)
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        connection.execute("ROLLBACK")
