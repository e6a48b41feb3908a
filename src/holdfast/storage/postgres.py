"""PostgreSQL: how a server is named, connected to and understood when it fails.

Rules that must stay true:
- the password of a URL is never shown: not in `where`, not in an error, not in what caused an error;
- nothing is set for longer than a transaction, and nothing else of a session is relied upon, so that a pooler such
  as PgBouncer may give every transaction another connection;
- nothing is used that only PostgreSQL itself has: no advisory locks, LISTEN, sequences or extensions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from holdfast import clock
from holdfast.errors import (
    CorruptData,
    DatabaseReplaced,
    HoldfastError,
    InvalidInput,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from holdfast.storage.queries import Statements

if TYPE_CHECKING:
    import psycopg

    class Connection(psycopg.Connection[tuple[Any, ...]]):
        """What `_connection_class` makes."""

        line: psycopg.Pipeline | None
        is_near: bool
        refusal: HoldfastError | None


_CONNECT_TIMEOUT = 10
"""Seconds for one attempt to connect, unless the URL says otherwise or the caller has less time."""

_IDLE_TIMEOUT = 15
"""Seconds after which the server ends a transaction whose client says nothing, and lets go of its locks."""

_STATEMENT_TIMEOUT = 60
"""Seconds that one statement may take, on top of the time that the caller waits for locks."""

_PART = 100
"""Rows that are brought at a time where there may be any number of them."""

_DEFAULTS = {
    "application_name": "holdfast",
    "connect_timeout": str(_CONNECT_TIMEOUT),
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Parameters of a connection that the URL does not set: a dead server is noticed within a minute or so."""


def _limits(seconds: float) -> dict[str, str]:
    return {
        "statement_timeout": str(int((seconds + _STATEMENT_TIMEOUT) * 1000)),
        "idle_in_transaction_session_timeout": str(_IDLE_TIMEOUT * 1000),
    }


class Verdict(Enum):
    """What a failure means for the attempt that met it."""

    lost = "the connection is gone; whether a commit that was sent has been made is not known"
    passing = "nothing was written, and the next attempt may succeed"
    final = "nothing was written, and the next attempt would fail as well"


class PostgresStatements(Statements):
    """The queries on a connection of PostgreSQL."""

    __slots__ = ()

    dialect = "postgres"

    def __init__(self, connection: Connection, *arguments: Any) -> None:
        super().__init__(connection, *arguments)
        execute = connection.execute
        self._execute = lambda text, values: execute(text, values, binary=True)

    @staticmethod
    def written(query: str) -> str:
        """With psycopg's placeholders.

        >>> PostgresStatements.written("SELECT a FROM t WHERE b = :b AND c = ?\\n{lock}")
        'SELECT a FROM t WHERE b = %(b)s AND c = %s\\nFOR UPDATE'
        """
        text = query.replace("%", "%%").replace("?", "%s").replace("{lock}", "FOR UPDATE")
        return re.sub(r"(?<!:):(\w+)", r"%(\1)s", text)

    def change(self, query: str, **values: Any) -> int:
        """See `Statements.change`."""
        return self._changed(self._execute(self._texts[query], values))

    def put(self, query: str, row: Sequence[Any]) -> int:
        """See `Statements.put`."""
        return self._changed(self._execute(self._texts[query], row))

    def _changed(self, cursor: psycopg.Cursor[Any]) -> int:
        if self.connection.line is not None:
            self.connection.line.sync()
        return cursor.rowcount

    def send_or_refuse(self, query: str, row: Sequence[Any], refusal: HoldfastError) -> None:
        """See `Statements.send_or_refuse`; `PostgresServer.refusal` finds it when the statement has failed."""
        self.connection.refusal = refusal
        self.send(query, row)

    def put_each(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """See `Statements.put_each`."""
        with self.connection.cursor() as cursor:
            cursor.executemany(self._texts[query], rows)

    def in_parts(self, query: str) -> Iterator[tuple[Any, ...]]:
        """See `Statements.in_parts`."""
        self._execute(f"DECLARE {query} NO SCROLL CURSOR FOR {self._texts[query]}", ())
        while rows := self._execute(f"FETCH {_PART} FROM {query}", ()).fetchall():
            yield from rows
        self._execute(f"CLOSE {query}", ())

    def now(self) -> float:
        """The time of the server."""
        return clock.current.server_now(lambda: float(self.connection.execute(_TIME).fetchone()[0]))

    def names(self) -> set[str]:
        """See `Statements.names`; those of the schema in which tables are made."""
        return {str(row[0]) for row in self.connection.execute(_NAMES)}

    def columns(self, table: str) -> list[str]:
        """See `Statements.columns`."""
        return [str(row[0]) for row in self.connection.execute(_COLUMNS, (table,))]

    def unsound(self) -> list[str]:
        """See `Statements.unsound`. PostgreSQL verifies its pages when it reads them, and its indexes not at all."""
        return []


_NAMES = """
SELECT relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = current_schema()
"""

_SHOWN = ("user", "host", "hostaddr", "port", "dbname")
"""The parameters of a URL that may be seen."""

_TIME = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
JOIN pg_catalog.pg_class ON pg_class.oid = attrelid JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = current_schema() AND relname = %s AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""


class PostgresServer:
    """One database of a PostgreSQL server.

    Args:
        url: its URL, see `valid_url`.
    """

    statements = PostgresStatements

    def __init__(self, url: str) -> None:
        self.where = shown(url)
        self._url = url
        self._has_connected = False

    def connect(self, seconds: float) -> Connection:
        """Open one more connection.

        Args:
            seconds: how long that may take.

        Raises:
            InvalidInput: psycopg is not installed, or the URL, the user, the password or the database is wrong.
            StorageUnavailable: the server cannot be reached.
        """
        psycopg = _psycopg()
        try:
            parameters = {**_DEFAULTS, **psycopg.conninfo.conninfo_to_dict(self._url)}
            allowed = int(parameters["connect_timeout"]) or _CONNECT_TIMEOUT
            parameters["connect_timeout"] = max(1, min(allowed, math.ceil(seconds)))
            parameters["client_encoding"] = "utf8"
            connection: Connection = _connection_class().connect(**parameters, autocommit=True, prepare_threshold=None)
        except (psycopg.Error, ValueError) as error:
            refusal = self._refusal(error)
        else:
            self._has_connected = True
            connection.is_near = connection.info.host.startswith(("/", "@"))
            return connection
        raise refusal  # outside of the handler: the text of what it caught may hold anything

    def begin(self, connection: Connection, seconds: float, *, is_durable: bool, is_serial: bool = False) -> None:
        """Begin a transaction that writes.

        Args:
            connection: it has no transaction open.
            seconds: how long each of its statements may wait for locks.
            is_durable: whether its commit must be on disk before it is acknowledged.
            is_serial: whether all of its statements see one snapshot, and it fails if that is outdated.
        """
        connection.refusal = None
        level = "REPEATABLE READ" if is_serial else "READ COMMITTED"
        limits = {"lock_timeout": str(max(int(seconds * 1000), 1)), **_limits(seconds)}
        _begin(connection, level, limits if is_durable else {**limits, "synchronous_commit": "off"})

    def begin_reading(self, connection: Connection, seconds: float) -> None:
        """Begin a transaction that only reads, from one snapshot."""
        _begin(connection, "REPEATABLE READ READ ONLY", _limits(seconds))

    def commit(self, connection: Connection) -> None:
        """Commit the open transaction."""
        connection.execute("COMMIT")

    def roll_back(self, connection: Connection) -> None:
        """Roll the open transaction back; a connection on which that is not possible is closed."""
        psycopg = _psycopg()
        if not connection.closed and not is_idle(connection):
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                connection.close()

    def refusal(self, connection: Connection, error: BaseException) -> HoldfastError | None:
        """What the failure of a transaction stands for, if that is a statement of `send_or_refuse`."""
        return connection.refusal if getattr(error, "sqlstate", None) == "22012" else None

    def require_encoding(self, connection: Connection) -> None:
        """Make sure that the database can keep any text.

        Raises:
            InvalidInput: its encoding is not UTF8.
        """
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise InvalidInput(
                f"{self.where} has the encoding {encoding}, which cannot keep every text. Make a database with "
                "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."
            )

    def verdict(self, error: BaseException, *, is_migrating: bool = False) -> Verdict:
        """What a failure means for the attempt that met it.

        Args:
            error: what was raised.
            is_migrating: whether the attempt makes tables, which other processes may make at the same time.
        """
        if isinstance(error, StorageUnavailable):
            return Verdict.passing if self._has_connected or error.is_passing else Verdict.final
        psycopg = _psycopg()
        if not isinstance(error, psycopg.Error):
            return Verdict.final
        state = error.sqlstate
        if state is None:
            is_lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            return Verdict.lost if is_lost else Verdict.final
        if state.startswith(("08", "57P")) or state in ("25P03", "25P04"):
            return Verdict.lost
        made_by_others = is_migrating and state in ("23505", "42P07", "42710", "XX000")
        return Verdict.passing if made_by_others or state in ("40001", "40P01") else Verdict.final

    def translated(self, error: BaseException, seconds: float) -> BaseException:
        """The error of this library for one of psycopg; any other as it is.

        Args:
            error: what was raised. Its text is not repeated: it could hold a value.
            seconds: how long the call has waited.
        """
        if isinstance(error, UnicodeEncodeError | OverflowError):
            return _unstorable()
        psycopg = _psycopg()
        if not isinstance(error, psycopg.Error):
            return error
        return self._by_state(error, seconds)

    def _by_state(self, error: psycopg.Error, seconds: float) -> BaseException:
        state = error.sqlstate or ""
        reason = f"{type(error).__name__} ({state})" if state else type(error).__name__
        match state[:5], state[:2]:
            case (("55P03" | "57014" | "40001" | "40P01"), _):
                found: BaseException = StorageBusy(where=self.where, seconds=seconds)
            case (("53100" | "53200" | "54000"), _):
                found = StorageFull(where=self.where, reason=reason)
            case (("25006" | "42501"), _):
                found = StorageReadOnly(where=self.where, reason=reason)
            case "42P01", _:
                found = DatabaseReplaced(
                    where=self.where, reason="lost its tables while it was open", leftover="its other tables"
                )
            case (("XX001" | "XX002"), _):
                found = CorruptData(where=self.where, what="a page of the database")
            case (("22003" | "22021" | "22P05"), _):
                found = _unstorable()
            case (("57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04"), _):
                found = StorageUnavailable(where=self.where, reason=reason)
            case _, ("08" | "53"):
                found = StorageUnavailable(where=self.where, reason=reason)
            case _ if not state:
                found = self._without_state(error)
            case _:
                found = StorageError(f"{self.where} cannot be used: PostgreSQL said {reason}.")
        return found

    def _without_state(self, error: psycopg.Error) -> BaseException:
        """The error for one that psycopg found itself: what cannot be bound, or a connection that is gone."""
        psycopg = _psycopg()
        if isinstance(error, psycopg.DataError):  # NUL in text
            return _unstorable()
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return StorageUnavailable(where=self.where, reason="the connection was lost")
        return StorageError(f"{self.where} cannot be used: psycopg said {type(error).__name__}.")

    def _refusal(self, error: Exception) -> StorageError | InvalidInput:
        """The error for a connection that could not be made; the server gives only a text for that."""
        text = " ".join(str(error).split())
        for secret in _secrets(self._url):
            text = text.replace(secret, "***")
        psycopg = _psycopg()
        if not isinstance(error, psycopg.OperationalError):
            return InvalidInput(f"{self.where} cannot be used: db_url is not a valid PostgreSQL URL.")
        if re.search(r"authentication failed|no password supplied|no pg_hba\.conf entry|does not exist\b", text):
            found = re.search(r"(?:FATAL|fe_sendauth): *(.*)", text)
            said = found[1] if found else "the server refuses the connection"
            return InvalidInput(
                f"{self.where} refuses the connection: {said}. Check the user, the password (%-encoded in db_url, or "
                "in PGPASSWORD or ~/.pgpass) and the name of the database, which must exist."
            )
        unavailable = StorageUnavailable(where=self.where, reason=text)
        unavailable.is_passing = bool(
            re.search(r"starting up|shutting down|recovery|too many|remaining connection slots", text)
        )
        return unavailable


def _begin(connection: Connection, level: str, settings: Mapping[str, str]) -> None:
    """Begin a transaction and set something for it alone; none of it comes from outside."""
    begin = f"BEGIN ISOLATION LEVEL {level}"
    if connection.line is None:  # one text may have many statements then
        connection.execute("; ".join([begin, *(f"SET LOCAL {name} = {value}" for name, value in settings.items())]))
        return
    connection.execute(begin)
    words = ", ".join(["set_config(%s, %s, true)"] * len(settings))
    connection.execute(f"SELECT {words}", [word for pair in settings.items() for word in pair])


@contextmanager
def sending(connection: Connection) -> Iterator[None]:
    """Send the statements of a block without waiting for the answers that nobody reads; its end waits for all.

    Whatever fails in the block or at its end is raised there. Over a socket of this machine, waiting for an answer
    takes less time than bringing several together: a commit took 445 µs instead of 586 µs.
    """
    if connection.is_near:
        yield
        return
    block = connection.pipeline()
    connection.line = block.__enter__()
    try:
        yield
    except Exception:
        connection.line = None
        with suppress(_psycopg().Error):
            block.__exit__(None, None, None)
        raise
    except BaseException:  # the driver was interrupted in the middle of anything
        connection.close()
        with suppress(Exception):
            block.__exit__(None, None, None)
        raise
    connection.line = None
    block.__exit__(None, None, None)


def is_idle(connection: Connection) -> bool:
    """Whether a connection can be used for the next transaction.

    This asks psycopg, not the server: a connection that the server has closed is found out when it is used.
    """
    return not connection.closed and connection.pgconn.transaction_status == 0


def valid_url(url: str) -> str:
    """Check the URL of a database on a PostgreSQL server and return it.

    Raises:
        InvalidInput: it has a port that is no number, or a password that is not %-encoded. The URL is not repeated.

    >>> valid_url("postgresql://ann:secret@db.example.org:5432/notes")
    'postgresql://ann:secret@db.example.org:5432/notes'
    """
    _, _, rest = url.partition("://")
    authority, path, _ = _split(rest)
    user, _, hosts = authority.rpartition("@")
    is_valid = "@" not in user + path and all(
        re.fullmatch(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(:\d*)?", host) for host in hosts.split(",")
    )
    if not is_valid or re.search(r"\s|[\0-\x1f]", url):
        raise InvalidInput(
            "db_url must be postgresql://user:password@host:port/database. In a user name or password, write "
            "`/`, `@`, `:`, `?`, `#` and `%` as %2F, %40, %3A, %3F, %23 and %25."
        )
    return url


def shown(url: str) -> str:
    """A URL without its password and without parameters that could be secret.

    >>> shown("postgres://ann:secret@db.example.org/notes?password=x&sslmode=require")
    'postgresql://ann@db.example.org/notes'
    """
    _, _, rest = url.partition("://")
    authority, path, query = _split(rest)
    user, at, hosts = authority.rpartition("@")
    user = user.partition(":")[0]
    named = [(name, value) for name, value in parse_qsl(query) if name in _SHOWN]
    return f"postgresql://{user}{at if user else ''}{hosts}{path}" + (
        f"?{urlencode(named, quote_via=quote, safe='/')}" if named else ""
    )


def _split(rest: str) -> tuple[str, str, str]:
    """Authority, path and query of what stands behind `://`."""
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    return authority, slash + path, query


def _secrets(url: str) -> list[str]:
    """The passwords in a URL, as they are written and as they are."""
    _, _, rest = url.partition("://")
    authority, _, query = _split(rest)
    written = [authority.rpartition("@")[0].partition(":")[2]]
    written += [value for name, value in parse_qsl(query) if "password" in name]
    return sorted({text for each in written for text in (each, unquote(each)) if text}, key=len, reverse=True)


def _unstorable() -> InvalidInput:
    return InvalidInput("A number beyond 64 bits, or text with NUL or lone surrogates, is in a record to be stored.")


@cache
def _connection_class() -> Any:
    class Line(_psycopg().Connection):  # type: ignore[misc]
        """A connection that knows whether it is in a `sending` block, and what a refused statement stands for."""

        line: psycopg.Pipeline | None = None
        is_near = False
        refusal: HoldfastError | None = None

    return Line


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise InvalidInput("PostgreSQL needs the package psycopg: pip install 'holdfast[postgres]'") from None
    return psycopg
