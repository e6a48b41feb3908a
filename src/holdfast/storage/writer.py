"""The one connection of an engine that writes, and the transactions on it.

Rules that must stay true:
- `lock` is held whenever the connection is used, and the gate whenever a transaction is open on it;
- an outcome is decided after COMMIT returned, never before;
- a request that fails takes no other request of its transaction with it;
- an interrupt can hit the main thread between any two steps, and leaves no transaction, gate or lock behind.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from holdfast.errors import DatabaseReplaced, StorageBusy
from holdfast.storage import schema
from holdfast.storage.requests import Request
from holdfast.storage.sqlite import FAILURES, SQLiteStatements, is_busy

Requests = list[Request[Any]]

busy_threads: set[int] = set()
"""Identifiers of the threads that are writing. Whatever the garbage collector runs on them must not wait."""


class Database(Protocol):
    """What a writer must know of a database; `sqlite.py` says what each member does."""

    where: str
    one_connection: bool

    def held(self, timeout: float | None = None, /) -> AbstractContextManager[None]: ...
    def let_go(self) -> None: ...
    def open(self) -> sqlite3.Connection: ...
    def open_reader(self) -> sqlite3.Connection: ...
    def adopt(self, connection: sqlite3.Connection, tables: Iterable[str]) -> None: ...
    def check_unmoved(self) -> None: ...
    def committed(self) -> None: ...
    def forked(self) -> None: ...
    def closed(self) -> None: ...
    def translated(self, error: BaseException, *, committing: bool = False) -> BaseException: ...


class Writer:
    """Serves requests in transactions, one thread at a time.

    Args:
        database: what is written.
        abandon: forgets all connections of the engine, without closing them, when the file was replaced.
    """

    def __init__(self, database: Database, abandon: Callable[[], None]) -> None:
        self._database = database
        self._abandon = abandon
        self.connection: sqlite3.Connection | None = None
        self.prepared: set[str] = set()
        """The table prefixes that are ready."""
        self._is_durable: bool | None = None
        self.lock = threading.RLock()

    def perform(self, batch: Requests, join: Callable[[], Requests]) -> Requests:
        """Serve requests, waiting for the gate. The lock is held.

        Args:
            batch: what waits now.
            join: brings what came while the gate was waited for, to be served as well.

        Returns:
            All requests whose outcome is decided, to be handed out.
        """
        batch = [request for request in batch if not request.is_withdrawn()]
        if not batch:
            return batch
        try:
            with self._database.held():
                batch += join()
                self._attempt(batch)
        except BaseException as error:  # noqa: BLE001  (the callers raise it)
            self.fail(batch, error)
        return batch

    def perform_at_once(self, request: Request[Any]) -> bool:
        """Serve one request on the calling thread, if nobody and nothing must be waited for.

        Another thread would have to be woken, and wake this one, which costs a third of a small commit.

        Returns:
            Whether it was served; if not, nothing happened.
        """
        thread = threading.get_ident()
        try:
            busy_threads.add(thread)
            is_served = self.lock.acquire(blocking=False) and self._is_served_at_once(request)
            self._leave(thread)
        except BaseException:
            self._tidy(thread)
            request.finish()  # committed or rolled back: nobody else will answer it
            raise
        if is_served:
            request.finish()
        return is_served

    def _is_served_at_once(self, request: Request[Any]) -> bool:
        connection = self.connection
        if connection is None or request.table not in self.prepared:
            return False
        try:
            with self._database.held(0):
                self._begin(connection, [request])
                self._transact(connection, [request])
        except (StorageBusy, *FAILURES):
            return request.is_decided
        return True

    def _leave(self, thread: int) -> None:
        if self.lock._is_owned():  # type: ignore[attr-defined]
            self.lock.release()
        busy_threads.discard(thread)

    def _tidy(self, thread: int) -> None:
        """Clean up after an interrupt, wherever it hit; the lock itself knows whether this thread holds it."""
        if self.lock._is_owned():  # type: ignore[attr-defined]
            self._roll_back()
            self._database.let_go()
        self._leave(thread)

    def _attempt(self, batch: Requests) -> None:
        """Open what is closed, and serve a batch in one transaction; wait for foreign lock holders."""
        while True:
            try:
                if self.connection is None:
                    self.connection = self._database.open()
                connection = self.connection
                self._database.adopt(connection, {r.table for r in batch if r.table} - self.prepared)
                self._begin(connection, batch)
            except BaseException as error:  # noqa: BLE001  (the callers raise it)
                if is_busy(error) and any(request.is_wanted() for request in batch):
                    continue
                self._recover(batch, error)
            else:
                self._transact(connection, batch)
            return

    def _begin(self, connection: sqlite3.Connection, batch: Requests) -> None:
        is_durable = any(request.is_durable for request in batch)
        if is_durable is not self._is_durable:
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable
        connection.execute("BEGIN IMMEDIATE")

    def _transact(self, connection: sqlite3.Connection, batch: Requests) -> None:
        """Serve a batch in the transaction that was begun; if that fails as a whole, see `_recover`."""
        prepared: set[str] = set()
        committing = False
        try:
            begun = [request for request in batch if request.begin()]
            for request in begun:
                self._serve(connection, request, prepared, is_alone=len(begun) == 1)
            self._database.check_unmoved()
            committing = True
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  (the callers raise it)
            self._recover(batch, error, committing=committing)
            return
        self.prepared |= prepared
        for request in begun:
            request.is_decided = True
        self._database.committed()

    def _serve(
        self, connection: sqlite3.Connection, request: Request[Any], prepared: set[str], *, is_alone: bool
    ) -> None:
        if not is_alone:
            connection.execute("SAVEPOINT request")
        try:
            if request.table is not None and request.table not in self.prepared | prepared:
                schema.prepare(SQLiteStatements(connection, request.table, self._database.where))
            request.value = request.work(connection)
        except Exception as error:
            if is_alone or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO request")
            request.error = self._database.translated(error)
        else:
            if request.table is not None:
                prepared.add(request.table)
        if not is_alone:
            connection.execute("RELEASE request")

    def _recover(self, batch: Requests, error: BaseException, *, committing: bool = False) -> None:
        """After a transaction failed as a whole, give each of its requests one of its own."""
        self._roll_back()
        begun = [request for request in batch if request.begin()]
        if isinstance(error, DatabaseReplaced):
            self._abandon()
        elif len(begun) > 1:
            for request in begun:
                request.error = None
                self._attempt([request])
            return
        self.fail(begun, error, committing=committing)

    def fail(self, requests: Iterable[Request[Any]], error: BaseException, *, committing: bool = False) -> None:
        """Decide what is undecided: the outcome is the error of this library for what was caught."""
        translated = self._database.translated(error, committing=committing)
        if translated is not error:
            translated.__cause__ = error
        for request in requests:
            if request.begin() and not request.is_decided:
                request.error = translated
                request.is_decided = True

    def _roll_back(self) -> None:
        if self.connection is not None and self.connection.in_transaction:
            # When this fails, SQLite has ended the transaction itself.
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection, which copies the log into the database. Lock and gate are held."""
        connection = self.forgotten()
        if connection is not None:
            connection.close()

    def forgotten(self) -> sqlite3.Connection | None:
        """Forget the connection without closing it, and return it."""
        connection, self.connection, self._is_durable = self.connection, None, None
        self.prepared = set()
        return connection
