"""One engine for each SQLite database and process: the writer, the thread that works for it, and the readers.

Rules that must stay true:
- a write is made at once by its caller when nothing is in the way; whatever has to wait is queued for one thread,
  which takes all that waits into one transaction (group commit) and alone waits for the gate;
- no transaction is left open, and none is open while user code runs;
- nothing blocks on its own thread when the garbage collector runs a finalizer in the middle of it;
- before a fork all connections are closed, so that a child inherits none; see `registry.py`.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

from holdfast.errors import DatabaseReplaced, StorageBusy, StorageClosed, StorageError
from holdfast.storage.readers import Readers, in_transaction
from holdfast.storage.requests import Request
from holdfast.storage.sqlite import FAILURES, SQLiteStatements, keep_for_ever
from holdfast.storage.writer import Database, Requests, Writer, busy_threads
from holdfast.threads import process_number, quiet

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Engine:
    """Reads and writes one SQLite database for all storage objects and threads of this process."""

    statements = SQLiteStatements

    def __init__(self, database: Database) -> None:
        self.where = database.where
        self.beats: dict[str, float] = {}
        """When this engine last recorded a heartbeat, by process id."""
        self._database = database
        self._is_closing = False
        self._start_over(None)

    def _start_over(self, connection: sqlite3.Connection | None) -> None:
        """Give this process its own locks, queue and thread: a new engine, or one in a forked child."""
        self._process = process_number()
        self._queue: queue.SimpleQueue[Request[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_served = True
        self._unwaited: list[Request[Any]] = []
        """Queued writes that nobody waits for; later ones must not overtake them."""
        self._writer = Writer(self._database, self._abandon_connections)
        self._writer.connection = connection
        self._readers = Readers(self._database)

    def write(
        self,
        work: Work[T],
        *,
        table: str | None,
        timeout: float,
        is_durable: bool,
        failures: list[BaseException],
        is_repeatable: bool = False,  # noqa: ARG002  (nothing is: an outcome is unknown only when the disk fails)
    ) -> T | None:
        """Run `work` in a transaction and return its result once that is committed.

        On a thread that is writing already, where the garbage collector can run a finalizer, nothing can be waited
        for: None is returned at once, and a failure is appended to `failures`.

        Raises:
            StorageBusy: it had not begun within `timeout` seconds, and will not.
            StorageClosed: the engine was closed.
            StorageError: and its other kinds, as the database failed; and whatever `work` raised.
        """
        self._require_usable()
        unwaited = failures if threading.get_ident() in busy_threads else None
        request = Request(work, table, timeout, is_durable=is_durable, failures=unwaited)
        try:
            if unwaited is not None:
                self._unwaited.append(request)
            if self._is_overtaking() or not self._writer.perform_at_once(request):
                request.is_queued = True
                self._queue.put(request)
                self._serve_queue()
            return None if unwaited is not None else request.outcome(self.where)
        except BaseException:
            request.settle()
            raise

    def read(self, work: Work[T], *, table: str | None, timeout: float, is_one_statement: bool = False) -> T:
        """Run `work` in one consistent read transaction and return its result; one statement needs no transaction.

        Raises:
            StorageBusy, StorageClosed, StorageError: as for `write`.
        """
        self._require_usable()
        writer = self._writer
        if writer.connection is None or (table is not None and table not in writer.prepared):
            self.write(_nothing, table=table, timeout=timeout, is_durable=True, failures=[])
        if self._database.one_connection:
            return self._read_on_the_connection(work, timeout)
        try:
            consistent = work if is_one_statement else partial(in_transaction, work=work)
            return self._readers.read(consistent, timeout)
        except DatabaseReplaced:
            with self._writer.lock:
                self._abandon_connections()
            raise
        except FAILURES as error:
            self._raise(error, timeout)

    def peek(self, work: Work[T], *, table: str) -> T | None:
        """Run `work`, one statement, if the database is open and nothing is in the way; else None, and `read` will
        tell why. It may miss for a moment that the file was replaced: for what need not be the newest.
        """
        if not self._is_ready(table):
            return None
        try:
            return self._readers.peek(work)
        except (DatabaseReplaced, *FAILURES):
            return None

    def mark(self, *, table: str) -> object | None:
        """What is equal again only if nobody has committed anything in between; None where that is not to be had
        cheaply. Looks as `peek` does.
        """
        return self.peek(self._readers.mark, table=table)

    def _is_ready(self, table: str) -> bool:
        writer = self._writer
        is_open = writer.connection is not None and table in writer.prepared and not self._database.one_connection
        return is_open and not self._is_closing and self._process == process_number()

    def stop(self, *, wait: float) -> None:
        """Finish what is queued, then close everything; waits at most so many seconds for that.

        Raises:
            StorageBusy: it is not closed yet; the thread will do it as soon as it can.
        """
        self._is_closing = True
        if self._process != process_number():  # what was inherited is left alone
            return
        thread = self._thread
        if thread is None or not thread.is_alive():
            if self.suspend(wait):
                self.resume()
            self._database.closed()
            return
        self._queue.put(None)
        if wait and threading.get_ident() not in busy_threads:
            thread.join(min(wait, threading.TIMEOUT_MAX))
            if thread.is_alive():
                raise StorageBusy(where=self.where, seconds=wait)

    def suspend(self, timeout: float) -> bool:
        """Close all connections and keep the locks against new ones until `resume`; they open again when needed.

        Returns:
            Whether that was possible within `timeout` seconds; if not, nothing is held, but some connections may
            be open.
        """
        deadline = time.monotonic() + timeout
        if not self._writer.lock.acquire(timeout=timeout):
            return False
        connection = self._writer.connection
        is_quiet = self._readers.pause(deadline - time.monotonic())
        is_quiet = is_quiet and not (connection and connection.in_transaction)
        try:
            if is_quiet and not self._database.one_connection:
                self._close_connections(max(deadline - time.monotonic(), 0))
        except (StorageBusy, *FAILURES):
            is_quiet = False
        if not is_quiet:
            self.resume()
        return is_quiet

    def resume(self) -> None:
        """Let go of the locks that `suspend` kept."""
        self._readers.resume()
        self._writer.lock.release()

    def forked(self, *, was_suspended: bool) -> list[sqlite3.Connection]:
        """Start over in a forked child.

        Returns:
            Connections that were inherited because the engine was not suspended; they must never be closed. The
            engine stays unusable then.
        """
        connection = self._writer.connection
        inherited = [*self._readers.forgotten(), *filter(None, [connection])]
        self._database.forked()
        self._start_over(connection if was_suspended else None)
        if was_suspended:  # only a database in memory has a connection then: its copy belongs to the child
            return []
        self._process = 0
        return inherited

    def _is_overtaking(self) -> bool:
        """Whether something is queued that must be written before a new request."""
        self._unwaited = [request for request in self._unwaited if not request.is_decided]
        return bool(self._unwaited) or not self._queue.empty()

    def _require_usable(self) -> None:
        if self._is_closing:
            raise StorageClosed(where=self.where)
        if self._process != process_number():
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
        """What the thread does."""
        busy_threads.add(threading.get_ident())
        try:
            with quiet():
                self._serve_until_closed()
        finally:
            self._is_served = False
            self._refuse_queued()
            busy_threads.discard(threading.get_ident())

    def _serve_until_closed(self) -> None:
        while not self._is_closing:
            request = self._queue.get()
            if request is not None:
                self._perform([request, *self._queued()])
        self._perform(self._queued())
        with self._writer.lock, contextlib.suppress(*FAILURES):
            self._close_connections(None)
            self._database.closed()

    def _queued(self) -> Requests:
        requests = []
        with contextlib.suppress(queue.Empty):
            while True:
                requests.append(self._queue.get_nowait())
        return [request for request in requests if request is not None]

    def _refuse_queued(self) -> None:
        self._refuse(self._queued(), StorageClosed(where=self.where))

    def _refuse(self, requests: Requests, error: StorageError) -> None:
        self._writer.fail(requests, error)
        for request in requests:
            request.finish()

    def _perform(self, batch: Requests, *, patience: float = -1) -> None:
        if not self._writer.lock.acquire(timeout=patience):
            self._refuse(batch, StorageBusy(where=self.where, seconds=patience))
            return
        try:
            decided = self._writer.perform(batch, self._queued)
        finally:
            self._writer.lock.release()
        for request in decided:
            request.finish()

    def _read_on_the_connection(self, work: Work[T], timeout: float) -> T:
        if not self._writer.lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise StorageBusy(where=self.where, seconds=timeout)
        try:
            assert self._writer.connection is not None
            return in_transaction(self._writer.connection, work)
        except FAILURES as error:
            self._raise(error, timeout)
        finally:
            self._writer.lock.release()

    def _raise(self, error: BaseException, timeout: float) -> NoReturn:
        """Raise the error of this library for what was caught."""
        translated = self._database.translated(error)
        if isinstance(translated, StorageBusy):
            translated = StorageBusy(where=self.where, seconds=timeout)
        raise translated from error

    def _close_connections(self, timeout: float | None) -> None:
        """Close all that are not in use, the writing one last: it copies the log into the database."""
        if self._writer.connection is None:
            return
        try:
            self._database.check_unmoved()
            with self._database.held(timeout):
                self._readers.close()
                self._writer.close()
        except DatabaseReplaced:
            self._abandon_connections()

    def _abandon_connections(self) -> None:
        """Forget the connections to a file that is not at its path any more, without closing them."""
        keep_for_ever([*self._readers.forgotten(), *filter(None, [self._writer.forgotten()])])


def _nothing(connection: sqlite3.Connection) -> None:
    """The work of a request that only wants the tables to be ready."""
