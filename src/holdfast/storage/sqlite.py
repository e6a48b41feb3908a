"""SQLite: how a database file, or one in memory, is opened, guarded and understood when it fails.

Rules that must stay true:
- a database file is opened and closed by SQLite alone: closing any other descriptor of it would drop the locks of
  the whole process;
- a connection to a file that was removed or replaced is never closed: that would delete the write-ahead log of
  whatever stands at its path now;
- everything that makes, opens, checkpoints or closes a database happens while its gate is held.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from holdfast import clock
from holdfast.errors import (
    CorruptData,
    DatabaseReplaced,
    ForeignDatabase,
    InvalidInput,
    OutcomeUnknown,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageReadOnly,
)
from holdfast.storage import schema
from holdfast.storage.gate import Gate
from holdfast.storage.queries import Statements

_PAGE_SIZE = 1024
"""Bytes. A commit writes every page that it touches: one of a 2 kB patch and a run wrote 35 kB with pages of 4,096
bytes, 19 kB with 2,048 and 13 kB with 1,024, while reading and writing 10 MB took the same time with each."""

_LOG_SIZE = 4 * 2**20
"""Bytes of write-ahead log after which it is copied into the database."""

_HEADER_SIZE = 100
"""Bytes at the beginning of every SQLite database."""

BUSY_SLICE = 0.1
"""Seconds that one attempt waits for a foreign lock holder."""


class SQLiteStatements(Statements):
    """The queries on a connection of SQLite."""

    __slots__ = ()

    dialect = "sqlite"
    refusing = sqlite3.IntegrityError

    @staticmethod
    def written(query: str) -> str:
        """As it stands in the file; a transaction that writes has locked everything already."""
        return query.replace("\n{lock}", "")

    def in_parts(self, query: str) -> Iterator[tuple[Any, ...]]:
        """See `Statements.in_parts`; SQLite finds each row when it is asked for."""
        return self.each(query)

    def now(self) -> float:
        """The time of this machine, which all users of the database share."""
        return clock.now()

    def names(self) -> set[str]:
        """See `Statements.names`."""
        return {str(row[0]).lower() for row in self.connection.execute("SELECT name FROM sqlite_master")}

    def columns(self, table: str) -> list[str]:
        """See `Statements.columns`."""
        return [row[1] for row in self.connection.execute(f"PRAGMA table_info({table})")]

    def unsound(self) -> list[str]:
        """See `Statements.unsound`."""
        rows = self.connection.execute("PRAGMA integrity_check").fetchall()
        return [str(row[0]) for row in rows if row[0] != "ok"]

    @contextmanager
    def undecodable_text_kept(self) -> Iterator[None]:
        """See `Statements.undecodable_text_kept`."""
        self.connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        try:
            yield
        finally:
            self.connection.text_factory = str


class SQLiteFile:
    """A database file.

    Args:
        path: its absolute path, symbolic links resolved.
    """

    one_connection = False

    def __init__(self, path: str) -> None:
        self.where = path
        self.gate = Gate(path)
        self._log = f"{path}-wal"
        self._identity: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None
        """Of the log, once there is one: it stays the same file for as long as any connection is open."""
        self._is_marked = False

    @contextmanager
    def held(self, timeout: float | None = None, /) -> Iterator[None]:
        """Hold the gate, which is waited for at most `timeout` seconds.

        Raises:
            StorageBusy: it was not to be had in time.
        """
        try:
            if not self.gate.acquire(timeout):
                raise StorageBusy(where=self.where, seconds=timeout)
            yield
        finally:
            self.gate.release()

    def let_go(self) -> None:
        """Let go of the gate, whether it is held or not."""
        self.gate.release()

    def open(self) -> sqlite3.Connection:
        """Open the connection that writes; make the file when there is none.

        Raises:
            DatabaseReplaced: the file is empty or missing although a database was there.
            ForeignDatabase: it is not a regular file.
        """
        self._require_file()
        connection = self._connected(BUSY_SLICE)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_SIZE // page_size}")
            connection.execute("PRAGMA fullfsync = ON")
            # What is deleted leaves no copy in free pages; some builds of SQLite do this unasked, some do not.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except BaseException:
            connection.close()
            raise
        found = os.stat(self.where)
        self._identity, self._log_identity = (found.st_dev, found.st_ino), None
        self._is_marked = self.gate.is_marked()
        return connection

    def open_reader(self) -> sqlite3.Connection:
        """Open one more connection, which only reads."""
        connection = self._connected(BUSY_SLICE)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def adopt(self, connection: sqlite3.Connection, tables: Iterable[str]) -> None:
        """Make the database ready for transactions on these table prefixes, unless somebody else has tables there.

        Raises:
            ForeignDatabase, SchemaTooNew: see `schema.missing`; the file was not changed.
        """
        for table in tables:
            schema.missing(SQLiteStatements(connection, table, self.where))
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                if mode != "wal":
                    raise StorageError(
                        f"{self.where} cannot be used in write-ahead mode: its file system does not support "
                        "shared memory. Put the database on a local disk."
                    )

    def check_unmoved(self) -> None:
        """Make sure that the open file is still the one at its path.

        Raises:
            DatabaseReplaced: it was removed, replaced or emptied.
        """
        try:
            found = os.stat(self.where)
        except FileNotFoundError:
            reason = "was removed while it was open"
        else:
            if self._identity not in (None, (found.st_dev, found.st_ino)):
                reason = "was replaced by another file while it was open"
            elif found.st_size == 0 and self._is_marked:
                reason = "was emptied while it was open"
            elif not self._has_its_log():
                reason = "lost its log while it was open"
            else:
                return
        raise DatabaseReplaced(where=self.where, reason=reason, leftover=f"{self._log}, {self.gate.path}")

    def _has_its_log(self) -> bool:
        try:
            found = os.stat(self._log)
        except FileNotFoundError:
            return self._log_identity is None
        if self._log_identity is None:
            self._log_identity = (found.st_dev, found.st_ino)
        return self._log_identity == (found.st_dev, found.st_ino)

    def committed(self) -> None:
        """Note that a commit succeeded: the database is complete now."""
        if not self._is_marked:
            with suppress(OSError):  # the commit stands all the same; the next one tries to mark it again
                self.gate.mark()
                self._is_marked = True

    def forked(self) -> None:
        """Let go of what a forked child inherited."""
        self.gate.close()

    def closed(self) -> None:
        """Let go of the gate, after all connections were closed."""
        self.gate.close()

    def translated(self, error: BaseException, *, committing: bool = False) -> BaseException:
        """The error of this library for one that SQLite or the system raised; any other as it is."""
        return translated(error, self.where, committing=committing)

    def _connected(self, timeout: float) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{_escaped(self.where)}?mode=rw",
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=200,
            uri=True,
        )

    def _require_file(self) -> None:
        try:
            found = os.stat(self.where)
        except FileNotFoundError:
            self._make_file()
            return
        if not stat.S_ISREG(found.st_mode):
            raise ForeignDatabase(where=self.where, reason="it is not a regular file")
        if 0 < found.st_size < _HEADER_SIZE:  # SQLite takes a file of one byte for an empty one
            raise ForeignDatabase(where=self.where, reason=f"it has only {found.st_size} bytes")
        if found.st_size == 0 and self.gate.is_marked():
            raise DatabaseReplaced(
                where=self.where, reason="is empty although a database was there", leftover=self.gate.path
            )

    def _make_file(self) -> None:
        if os.path.exists(self._log) and os.stat(self._log).st_size:
            raise DatabaseReplaced(where=self.where, reason="is missing, but its log is there", leftover=self._log)
        self.gate.unmark()
        # Nobody can have it open yet, so that closing this descriptor drops nobody's locks.
        os.close(os.open(self.where, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


class SQLiteMemory:
    """A database in memory, which lives as long as its one connection."""

    one_connection = True
    where = "sqlite:// (in memory)"

    @contextmanager
    def held(self, _timeout: float | None = None, /) -> Iterator[None]:
        """Nobody else can reach it."""
        yield

    def let_go(self) -> None:
        """Nothing is held."""

    def open(self) -> sqlite3.Connection:
        """Make the database."""
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=200)

    def open_reader(self) -> sqlite3.Connection:
        """Never called: the one connection reads as well."""
        raise AssertionError

    def adopt(self, connection: sqlite3.Connection, tables: Iterable[str]) -> None:
        """Nobody else has tables there."""

    def check_unmoved(self) -> None:
        """It cannot be moved."""

    def committed(self) -> None:
        """Nothing outlives the process."""

    def forked(self) -> None:
        """A child goes on with its own copy, as with any other object."""

    def closed(self) -> None:
        """Nothing is left."""

    def translated(self, error: BaseException, *, committing: bool = False) -> BaseException:
        """As for a file."""
        return translated(error, self.where, committing=committing)


FAILURES = (sqlite3.Error, OSError, OverflowError, UnicodeError)
"""The kinds of errors that `translated` knows."""


def keep_for_ever(connections: list[Any]) -> None:
    """Make sure that these connections are never closed, not even when the interpreter ends."""
    if connections:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connections))


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds a lock that this one needs."""
    return isinstance(error, sqlite3.Error) and _name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def translated(error: BaseException, where: str, *, committing: bool = False) -> BaseException:
    """The error of this library for one of SQLite or of the system; any other as it is.

    Args:
        error: what was raised. Its text is not repeated: it could hold a value.
        where: display name of the database.
        committing: it was raised by COMMIT itself, so that the outcome can be unknown.

    >>> str(translated(OSError(28, "no space"), "a.db"))[:26]
    'a.db cannot grow: ENOSPC. '
    """
    if isinstance(error, OverflowError | UnicodeEncodeError):
        return InvalidInput("A number beyond 64 bits, or text with lone surrogates, is in a record to be stored.")
    if isinstance(error, UnicodeDecodeError):  # SQLite names something of a damaged schema in its message
        return CorruptData(where=where, what="the structure of the database file")
    if isinstance(error, OSError):
        return _from_system(error, where)
    if isinstance(error, sqlite3.Error):
        return _from_sqlite(error, where, committing)
    return error


def _from_system(error: OSError, where: str) -> StorageError:
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(where=where, reason=name)
    if error.errno == errno.ENOENT:  # folders are made when a database is opened
        folder = os.path.dirname(where)
        return DatabaseReplaced(where=where, reason="was removed together with its folder", leftover=folder)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageReadOnly(where=where, reason=name)
    return StorageError(f"{where} cannot be used: the operating system said {name}.")


def _from_sqlite(error: sqlite3.Error, where: str, committing: bool) -> StorageError:
    name = _name(error)
    match "_".join(name.split("_")[:2]):
        case "SQLITE_BUSY" | "SQLITE_LOCKED":
            found: StorageError = StorageBusy(where=where, seconds=BUSY_SLICE)
        case "SQLITE_FULL":
            found = StorageFull(where=where, reason=name)
        case "SQLITE_IOERR" if name in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE") and _is_limited(where):
            found = StorageFull(where=where, reason=name)
        case "SQLITE_IOERR" if committing:
            found = OutcomeUnknown(where=where, reason=name)
        case "SQLITE_READONLY":
            found = StorageReadOnly(where=where, reason=name)
        case "SQLITE_CANTOPEN" if not _is_writable(where):
            found = StorageReadOnly(where=where, reason=name)
        case "SQLITE_NOTADB":
            found = ForeignDatabase(where=where, reason="its header is not that of a SQLite database")
        case "SQLITE_CORRUPT":
            found = CorruptData(where=where, what="the structure of the database file")
        case _ if "decode" in str(error):  # text that is not UTF-8; Python gives this error no name
            found = CorruptData(where=where, what="the text of a row")
        case _:
            found = StorageError(f"{where} cannot be used: SQLite said {name}.")
    return found


def _name(error: sqlite3.Error) -> str:
    # Errors of Python's own module, such as a wrong type of a parameter, have no SQLite name.
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _is_writable(path: str) -> bool:
    return os.access(os.path.dirname(path), os.W_OK) and os.access(path, os.W_OK)


def _is_limited(path: str) -> bool:
    """Whether a refused write is explained by a full disk or a limit on the size of files."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return limited or os.statvfs(os.path.dirname(path)).f_bavail == 0


def _escaped(path: str) -> str:
    """A path as SQLite reads it in a URI, in which these three mean something.

    >>> _escaped("/tmp/100 %?.db")
    '/tmp/100 %25%3f.db'
    """
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
