"""One engine for each database and process: its connections, and the thread that writes.

Rules that must stay true:
- all writing is done by one thread, which takes everything that waits into one transaction (group commit); only
  this thread waits for the gate, callers wait for it with a timeout;
- an outcome is handed out after COMMIT returned, never before;
- no transaction is left open, and none is open while user code runs;
- nothing blocks on its own thread when the garbage collector runs a finalizer in the middle of it;
- before a fork all connections are closed, so that a child inherits none; see `registry.py`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol, TypeVar

from holdfast.errors import DatabaseReplaced, StorageBusy, StorageClosed, StorageError
from holdfast.storage import schema
from holdfast.storage.readers import Readers, in_transaction
from holdfast.storage.requests import Request
from holdfast.storage.sqlite import FAILURES, is_busy, keep_for_ever
from holdfast.threads import quiet

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_writers: set[int] = set()
"""Thread identifiers of the writers of all engines."""


class Database(Protocol):
    """What an engine must know of a database; `sqlite.py` says what each member does."""

    where: str
    one_connection: bool

    def held(self, timeout: float | None = None, /) -> AbstractContextManager[None]: ...
    def open(self) -> sqlite3.Connection: ...
    def open_reader(self) -> sqlite3.Connection: ...
    def adopt(self, connection: sqlite3.Connection, tables: Iterable[str]) -> None: ...
    def check_unmoved(self) -> None: ...
    def committed(self) -> None: ...
    def forked(self) -> None: ...
    def closed(self) -> None: ...
    def translated(self, error: BaseException, *, committing: bool = False) -> BaseException: ...


class Engine:
    """Reads and writes one database for all storage objects and threads of this process."""

    def __init__(self, database: Database) -> None:
        self.where = database.where
        self.beats: dict[str, float] = {}
        """When this engine last recorded a heartbeat, by process id."""
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._is_durable: bool | None = None
        self._prepared: set[str] = set()
        self._is_closing = False
        self._start_over()

    def _start_over(self) -> None:
        """Give this process its own locks, queue and thread: a new engine, or one in a forked child."""
        self._process = os.getpid()
        self._queue: queue.SimpleQueue[Request[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_served = True
        self._writing = threading.RLock()
        """Held while the writing connection is in use."""
        self._readers = Readers(self._database)

    def write(
        self,
        work: Work[T],
        *,
        table: str | None,
        timeout: float,
        is_durable: bool,
        failures: list[BaseException],
    ) -> T | None:
        """Run `work` in a transaction of the writer and return its result once that is committed.

        On the thread of a writer itself, where the garbage collector can run a finalizer, nothing can be waited
        for: None is returned at once, and a failure is appended to `failures`.

        Raises:
            StorageBusy: it had not begun within `timeout` seconds, and will not.
            StorageClosed: the engine was closed.
            StorageError: and its other kinds, as the database failed; and whatever `work` raised.
        """
        self._require_usable()
        unwaited = failures if threading.get_ident() in _writers else None
        request = Request(work, table, timeout, is_durable=is_durable, failures=unwaited)
        try:
            self._queue.put(request)
            self._serve_queue()
            return None if unwaited is not None else request.outcome(self.where)
        except BaseException:
            request.settle()
            raise

    def read(self, work: Work[T], *, table: str | None, timeout: float) -> T:
        """Run `work` in one consistent read transaction and return its result.

        Raises:
            StorageBusy, StorageClosed, StorageError: as for `write`.
        """
        self._require_usable()
        if self._connection is None or (table is not None and table not in self._prepared):
            failures: list[BaseException] = []
            self.write(_nothing, table=table, timeout=timeout, is_durable=True, failures=failures)
        if self._database.one_connection:
            return self._read_on_the_connection(work, timeout)
        try:
            return self._readers.read(lambda connection: in_transaction(connection, work), timeout)
        except DatabaseReplaced:
            with self._writing:
                self._abandon_connections()
            raise
        except FAILURES as error:
            self._raise(error, timeout)

    def stop(self, *, wait: float) -> None:
        """Finish what is queued, then close everything; waits at most so many seconds for that.

        Raises:
            StorageBusy: it is not closed yet; the writer will do it as soon as it can.
        """
        self._is_closing = True
        thread = self._thread
        if self._process != os.getpid():
            return
        if thread is None or not thread.is_alive():
            if self.suspend(wait):
                self.resume()
            self._database.closed()
            return
        self._queue.put(None)
        if wait and threading.get_ident() not in _writers:
            thread.join(wait)
            if thread.is_alive():
                raise StorageBusy(where=self.where, seconds=wait)

    def suspend(self, timeout: float) -> bool:
        """Close all connections and keep the locks against new ones until `resume`; they open again when needed.

        Returns:
            Whether that was possible within `timeout` seconds; if not, nothing is held, but some connections may
            be open.
        """
        deadline = time.monotonic() + timeout
        if not self._writing.acquire(timeout=timeout):
            return False
        is_quiet = self._readers.pause(deadline - time.monotonic())
        is_quiet = is_quiet and not (self._connection and self._connection.in_transaction)
        try:
            if is_quiet and self._connection is not None and not self._database.one_connection:
                with self._database.held(max(deadline - time.monotonic(), 0)):
                    self._close_connections()
        except (StorageBusy, OSError):
            is_quiet = False
        if not is_quiet:
            self.resume()
        return is_quiet

    def resume(self) -> None:
        """Let go of the locks that `suspend` kept."""
        self._readers.resume()
        self._writing.release()

    def forked(self, *, was_suspended: bool) -> list[sqlite3.Connection]:
        """Start over in a forked child.

        Returns:
            Connections that were inherited because the engine was not suspended; they must never be closed. The
            engine stays unusable then.
        """
        inherited = [*self._readers.forgotten(), *filter(None, [self._connection])]
        self._database.forked()
        self._start_over()
        if was_suspended:
            return []
        self._process = 0
        return inherited

    def _require_usable(self) -> None:
        if self._is_closing:
            raise StorageClosed(where=self.where)
        if self._process != os.getpid():
            raise StorageError(
                f"{self.where} was in use while this process was forked, so that it cannot be used here. Make a new "
                "storage object in the child, or fork when no other thread is writing."
            )

    def _serve_queue(self) -> None:
        """Make sure that somebody serves what was queued."""
        if not self._is_served:
            self._refuse_queued()
        elif sys.is_finalizing():  # other threads do not run any more, and one may have stopped with the lock
            self._perform(self._queued(), patience=1.0)
        elif self._thread is None:
            thread = threading.Thread(target=self._run, name="holdfast-writer", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:  # the interpreter shuts down and starts no threads
                self._thread = None
                self._perform(self._queued())

    def _run(self) -> None:
        """The writer thread."""
        _writers.add(threading.get_ident())
        try:
            with quiet():
                self._serve_until_closed()
        finally:
            self._is_served = False
            self._refuse_queued()
            _writers.discard(threading.get_ident())

    def _serve_until_closed(self) -> None:
        while not self._is_closing:
            request = self._queue.get()
            if request is not None:
                self._perform([request, *self._queued()])
        self._perform(self._queued())
        with self._writing, contextlib.suppress(OSError), self._database.held():
            self._close_connections()
            self._database.closed()

    def _queued(self) -> list[Request[Any]]:
        requests = []
        with contextlib.suppress(queue.Empty):
            while True:
                requests.append(self._queue.get_nowait())
        return [request for request in requests if request is not None]

    def _refuse_queued(self) -> None:
        for request in self._queued():
            if request.begin():
                request.error = StorageClosed(where=self.where)
                request.finish()

    def _perform(self, batch: list[Request[Any]], *, patience: float = -1) -> None:
        if not self._writing.acquire(timeout=patience):
            self._fail(batch, StorageBusy(where=self.where, seconds=patience))
            return
        try:
            batch = [request for request in batch if request.is_wanted()]
            if batch:
                with self._database.held():
                    batch += self._queued()
                    self._attempt(batch)
        except BaseException as error:  # noqa: BLE001  (the callers raise it)
            self._fail(batch, error)
        finally:
            self._writing.release()

    def _attempt(self, batch: list[Request[Any]]) -> None:
        """Serve a batch in one transaction; if that fails as a whole, each of its requests in one of its own."""
        prepared: set[str] = set()
        committing = False
        try:
            connection = self._begun(batch)
            begun = [request for request in batch if request.begin()]
            for request in begun:
                self._serve(connection, request, prepared, is_alone=len(begun) == 1)
            self._database.check_unmoved()
            committing = True
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  (the callers raise it)
            self._roll_back()
            begun = [request for request in batch if request.begin()]
            if isinstance(error, DatabaseReplaced):
                self._abandon_connections()
            if len(begun) > 1 and not isinstance(error, DatabaseReplaced):
                for request in begun:
                    request.error = None
                    self._attempt([request])
            else:
                self._fail(begun, error, committing=committing)
            return
        self._prepared |= prepared
        for request in begun:
            request.finish()
        self._database.committed()

    def _begun(self, batch: list[Request[Any]]) -> sqlite3.Connection:
        """The connection with a transaction begun on it; waits for foreign lock holders while a request is wanted."""
        while True:
            try:
                if self._connection is None:
                    self._connection = self._database.open()
                connection = self._connection
                self._database.adopt(connection, {r.table for r in batch if r.table} - self._prepared)
                is_durable = any(request.is_durable for request in batch)
                if is_durable is not self._is_durable:
                    connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
                    self._is_durable = is_durable
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or not any(request.is_wanted() for request in batch):
                    raise
            else:
                return connection

    def _serve(
        self, connection: sqlite3.Connection, request: Request[Any], prepared: set[str], *, is_alone: bool
    ) -> None:
        if not is_alone:
            connection.execute("SAVEPOINT request")
        try:
            if request.table is not None and request.table not in self._prepared | prepared:
                schema.prepare(connection, self.where, request.table)
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

    def _fail(self, requests: Iterable[Request[Any]], error: BaseException, *, committing: bool = False) -> None:
        translated = self._database.translated(error, committing=committing)
        if translated is not error:
            translated.__cause__ = error
        for request in requests:
            if request.begin():
                request.error = translated
                request.finish()

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            # When this fails, SQLite has ended the transaction itself.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _read_on_the_connection(self, work: Work[T], timeout: float) -> T:
        if not self._writing.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise StorageBusy(where=self.where, seconds=timeout)
        try:
            assert self._connection is not None
            return in_transaction(self._connection, work)
        except FAILURES as error:
            self._raise(error, timeout)
        finally:
            self._writing.release()

    def _raise(self, error: BaseException, timeout: float) -> NoReturn:
        """Raise the error of this library for what was caught."""
        translated = self._database.translated(error)
        if isinstance(translated, StorageBusy):
            translated = StorageBusy(where=self.where, seconds=timeout)
        if translated is error:
            raise error
        raise translated from error

    def _close_connections(self) -> None:
        """Close all that are not in use, the writing one last: it copies the log into the database."""
        self._readers.close()
        self._prepared = set()
        connection, self._connection, self._is_durable = self._connection, None, None
        if connection is not None:
            connection.close()

    def _abandon_connections(self) -> None:
        """Forget the connections to a file that is not at its path any more, without closing them."""
        keep_for_ever([*self._readers.forgotten(), *filter(None, [self._connection])])
        self._connection, self._is_durable, self._prepared = None, None, set()


def forget_writers() -> None:
    """Forget the writer threads of the parent process, in a forked child."""
    _writers.clear()


def _nothing(connection: sqlite3.Connection) -> None:
    """The work of a request that only wants the tables to be ready."""
