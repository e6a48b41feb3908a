"""The engine for a database on a server: transactions on a few connections, repeated when they can be.

Rules that must stay true:
- an attempt of which nothing was written is repeated within the caller's time; one whose COMMIT got no answer is
  repeated only if the work recognises what it did before, and else raises `OutcomeUnknown`;
- no transaction is left open, and none is open while user code runs;
- a write that a finalizer asks for in the middle of another write of its thread is done after that one: it could
  wait for a row that its own thread has locked;
- a forked child never uses or closes a connection that it inherited.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar

from holdfast.errors import OutcomeUnknown, StorageBusy, StorageClosed, StorageUnavailable
from holdfast.storage import schema
from holdfast.storage.pool import Pool, PoolExhausted
from holdfast.storage.postgres import PostgresServer, Verdict, is_idle, sending

T = TypeVar("T")
Work = Callable[[Any], T]


@dataclass(eq=False, slots=True)
class Write(Generic[T]):
    """One write that a caller asks for; see `ServerEngine.write`."""

    work: Work[T]
    table: str | None
    timeout: float
    is_durable: bool
    is_repeatable: bool
    failures: list[BaseException]


@dataclass(slots=True)
class Attempt:
    """One attempt at a piece of work."""

    deadline: float
    is_committing: bool = False

    @property
    def seconds(self) -> float:
        """How many are left."""
        return max(self.deadline - time.monotonic(), 0.0)


class ServerEngine:
    """Reads and writes one database on a server for all storage objects and threads of this process.

    Args:
        server: the database.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.where = server.where
        self.statements = server.statements
        self.beats: dict[str, float] = {}
        """When this engine last recorded a heartbeat, by process id."""
        self._server = server
        self._prepared: set[str] = set()
        """The table prefixes that are ready."""
        self._is_closing = False
        self._start_over()

    def _start_over(self) -> None:
        """Give this process its own connections: a new engine, or one in a forked child."""
        self._pool = Pool(self._server.connect, is_idle)
        self._writing: dict[int, list[Write[Any]]] = {}
        """By thread that is writing: what finalizers want to be written after that."""

    def write(
        self,
        work: Work[T],
        *,
        table: str | None,
        timeout: float,
        is_durable: bool,
        failures: list[BaseException],
        is_repeatable: bool = False,
    ) -> T | None:
        """Run `work` in a transaction and return its result once that is committed.

        On a thread that is writing already, where the garbage collector can run a finalizer, nothing can be waited
        for: None is returned at once, and a failure is appended to `failures`.

        Raises:
            StorageBusy: a connection, or a row that others had locked, was not to be had within `timeout` seconds.
            OutcomeUnknown: the server did not say whether it was committed.
            StorageClosed: the engine was closed.
            StorageError: and its other kinds, as the database failed; and whatever `work` raised.
        """
        self._require_usable()
        request = Write(work, table, timeout, is_durable, is_repeatable, failures)
        thread = threading.get_ident()
        if thread in self._writing:
            if self._is_performing():
                self._writing[thread].append(request)
                return None
            self._catch_up(thread)  # an interrupt has kept an earlier write from doing so
        try:
            self._writing[thread] = []
            return self._perform(request)
        finally:
            self._catch_up(thread)

    def read(self, work: Work[T], *, table: str | None, timeout: float, is_one_statement: bool = False) -> T:
        """Run `work` in one consistent read transaction and return its result; one statement needs no transaction.

        Raises:
            StorageBusy, StorageClosed, StorageError: as for `write`.
        """
        self._require_usable()
        deadline = time.monotonic() + timeout
        self._prepare(table, deadline, timeout)
        attempt = self._read_statement if is_one_statement else self._read_transaction
        return self._persistently(partial(attempt, work), deadline, timeout)

    def peek(self, work: Work[T], *, table: str) -> T | None:  # noqa: ARG002
        """See `Engine.peek` of `engine.py`; here a first look would cost as much as the read that it saves."""
        return None

    def mark(self, *, table: str) -> object | None:  # noqa: ARG002
        """See `Engine.mark` of `engine.py`; to ask a server for anything costs as much as to ask it for the entry."""
        return None

    def stop(self, *, wait: float) -> None:
        """Close everything; waits at most so many seconds for what other threads are doing.

        Raises:
            StorageBusy: some connections are still in use; they are closed as soon as they are not.
        """
        self._is_closing = True
        if not self._pool.close(wait) and wait and threading.get_ident() not in self._writing:
            raise StorageBusy(where=self.where, seconds=wait)

    def suspend(self, _timeout: float) -> bool:
        """Close the connections that are not in use, and open none until `resume`; always possible."""
        self._pool.pause()
        self._pool.close_idle()
        return True

    def resume(self) -> None:
        """Let connections be used again."""
        self._pool.resume()

    def forked(self, *, was_suspended: bool) -> list[Any]:  # noqa: ARG002  (all is well either way)
        """Start over in a forked child.

        Returns:
            Connections that were in use when the process was forked; they must never be closed.
        """
        inherited = self._pool.forgotten()
        self._start_over()
        return inherited

    def _require_usable(self) -> None:
        if self._is_closing:
            raise StorageClosed(where=self.where)

    def _is_performing(self) -> bool:
        """Whether this thread is in the middle of a write: whether that stands on its stack, which cannot err."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is ServerEngine._perform.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def _perform(self, request: Write[T]) -> T:
        deadline = time.monotonic() + request.timeout
        self._prepare(request.table, deadline, request.timeout)
        attempt = partial(self._write_once, request.work, is_durable=request.is_durable)
        return self._persistently(attempt, deadline, request.timeout, is_repeatable=request.is_repeatable)

    def _catch_up(self, thread: int) -> None:
        """Write what finalizers wanted to write in the meantime."""
        later = self._writing.get(thread, [])
        try:
            while later:
                request = later.pop(0)
                try:
                    self._perform(request)
                except Exception as error:  # noqa: BLE001  (raised by the next call on the storage)
                    request.failures.append(error)
        finally:
            self._writing.pop(thread, None)
        if later:  # a finalizer was faster than the line above
            self._writing[thread] = later
            self._catch_up(thread)

    def _prepare(self, table: str | None, deadline: float, timeout: float) -> None:
        """Make the tables of a prefix, if they are not there; a user who may only read can use those that are."""
        if table is None or table in self._prepared:
            return

        def missing(connection: Any) -> bool:
            self._server.require_encoding(connection)
            return bool(schema.missing(self.statements(connection, table, self.where)))

        def prepare(connection: Any) -> None:
            schema.prepare(self.statements(connection, table, self.where))

        if self._persistently(partial(self._read_transaction, missing), deadline, timeout):
            attempt = partial(self._write_once, prepare, is_durable=True, is_serial=True)
            self._persistently(attempt, deadline, timeout, is_repeatable=True, is_migrating=True)
        self._prepared.add(table)

    def _persistently(
        self,
        attempt: Callable[[Attempt], T],
        deadline: float,
        timeout: float,
        *,
        is_repeatable: bool = False,
        is_migrating: bool = False,
    ) -> T:
        """Attempt something until it succeeds, cannot succeed, or time is up."""
        is_unknown = False
        for pause in _pauses():
            this = Attempt(deadline)
            try:
                return attempt(this)
            except Exception as error:  # noqa: BLE001  (raised below, or the attempt is repeated)
                failure = error
            verdict = self._server.verdict(failure, is_migrating=is_migrating)
            if verdict is Verdict.lost:
                self._pool.close_idle()  # they have probably gone with it
                is_unknown = is_unknown or this.is_committing
            is_hopeless = verdict is Verdict.final or (is_unknown and not is_repeatable)
            if is_hopeless or time.monotonic() + pause >= deadline:
                self._fail(failure, timeout, is_unknown=is_unknown)
            del failure  # it keeps this frame, and the frame keeps it
            time.sleep(pause)
        raise AssertionError  # there is always another pause

    def _fail(self, failure: Exception, timeout: float, *, is_unknown: bool) -> NoReturn:
        """Raise the error of this library for what was caught, without its text."""
        if isinstance(failure, PoolExhausted):
            translated: BaseException = StorageBusy(where=self.where, seconds=timeout)
        else:
            translated = self._server.translated(failure, timeout)
        is_decided = translated is failure and not isinstance(failure, StorageUnavailable)
        if is_unknown and not is_decided:
            raise OutcomeUnknown(where=self.where, reason="the connection was lost during the commit")
        try:
            raise translated
        finally:
            del failure, translated

    def _write_once(self, work: Work[T], attempt: Attempt, *, is_durable: bool, is_serial: bool = False) -> T:
        server = self._server
        with self._pool.connection(attempt.deadline) as connection:
            try:
                with sending(connection):
                    server.begin(connection, attempt.seconds, is_durable=is_durable, is_serial=is_serial)
                    value = work(connection)
                    attempt.is_committing = True
                    server.commit(connection)
            except Exception as error:
                server.roll_back(connection)
                refusal = server.refusal(connection, error)
                if refusal is not None:
                    raise refusal from None
                raise
            return value

    def _read_transaction(self, work: Work[T], attempt: Attempt) -> T:
        with self._pool.connection(attempt.deadline) as connection:
            try:
                with sending(connection):
                    self._server.begin_reading(connection, attempt.seconds)
                    value = work(connection)
                    self._server.commit(connection)
            except Exception:
                self._server.roll_back(connection)
                raise
            return value

    def _read_statement(self, work: Work[T], attempt: Attempt) -> T:
        with self._pool.connection(attempt.deadline) as connection:
            return work(connection)


def _pauses() -> Iterator[float]:
    """Seconds between attempts: more each time, and never quite the same for two processes."""
    pause = 0.01
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(pause * 2, 0.5)
