"""Which database a command works on, and the sessions in it.

Rules that must stay true:
- a database is opened for reading only if it exists; only `run`, `quickstart`, `sessions import` and
  `sessions copy` make one;
- the database is named on stderr, so that nobody reads one and believes it to be another; a password never is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from holdfast.cli.exit_status import DatabaseNotFound
from holdfast.cli.output import note
from holdfast.errors import InvalidInput, RunNotFound, SessionNotFound
from holdfast.records import Entry, Place, Run, SessionInfo
from holdfast.storage.sweeping import MAX_CACHE_SIZE

if TYPE_CHECKING:
    from holdfast.storage.sql import SqlWorkflowStorage

DEFAULT_FILE: Final = "holdfast.db"
DEFAULT_TABLE: Final = "workflow_sessions"
LOCK_TIMEOUT = 10.0
"""Seconds to wait for other processes; somebody may be waiting at the terminal."""
SHOWN_IDS: Final = 5
"""Ids that are listed where several begin as the one that was asked for."""

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def db_option() -> Callable[[AnyCommand], AnyCommand]:
    """Add `--db` to a command, as its argument `db`."""
    return click.option("--db", metavar="FILE|URL", help="The database; else HOLDFAST_DB, else holdfast.db.")


def writing_options(function: AnyCommand) -> AnyCommand:
    """Add `--db` and `--table` to a command that may make them, as its arguments `db` and `table`."""
    table = click.option("--table", metavar="NAME", help=f"The storage's table_name.  [default: {DEFAULT_TABLE}]")
    return db_option()(table(function))


def narrowing_options(function: AnyCommand) -> AnyCommand:
    """Add `--db`, `--table` and `--user-id` to a command, as its arguments `db`, `table` and `user_id`."""
    for option in (
        click.option("--user-id", metavar="ID", help='Only this user\'s; "" for those of no user. Else of all users.'),
        click.option("--table", metavar="NAME", help="Only this prefix (a storage's table_name). Else all of them."),
        db_option(),
    ):
        function = option(function)
    return function


def named(db: str | None) -> str:
    """The file or URL of the database to use: what was given, else HOLDFAST_DB, else the default file."""
    return db or os.environ.get("HOLDFAST_DB") or DEFAULT_FILE


def shown(name: str) -> str:
    """The name of a database as it is said: without the password that a URL can hold.

    >>> shown("notes.db"), shown("postgresql://ann:secret@db.example.org/notes?sslpassword=secret")
    ('notes.db', 'postgresql://ann@db.example.org/notes')
    >>> shown("mysql://ann:secret@db.example.org/notes")
    'mysql://ann:***@db.example.org/notes'
    """
    if is_on_server(name):
        from holdfast.storage import postgres

        return postgres.shown(name)
    if "://" not in name:
        return name
    name = re.sub(r"(://[^:@/?#]*:).*@", r"\1***@", name)  # up to the last @, as a password may hold one
    return re.sub(r"([?&][^=&]*(?:password|passwd|secret|token)[^=&]*=)[^&#]*", r"\1***", name, flags=re.IGNORECASE)


def storage_at(name: str, table: str | None = None, *, max_cache_size: int = MAX_CACHE_SIZE) -> SqlWorkflowStorage:
    """The storage of one prefix in the database of this name, a file or a URL. Nothing is opened yet.

    >>> storage_at("sqlite://").where
    'sqlite:// (in memory)'
    """
    from holdfast.storage.sql import SqlWorkflowStorage

    return SqlWorkflowStorage(
        table or DEFAULT_TABLE,
        db_file=None if "://" in name else name,
        db_url=name if "://" in name else None,
        lock_timeout=LOCK_TIMEOUT,
        max_cache_size=max_cache_size,
    )


def database_path(name: str) -> Path | None:
    """The file of a SQLite database, None for any other.

    >>> database_path("sqlite:///notes.db"), database_path("sqlite://")
    (PosixPath('notes.db'), None)
    """
    if "://" not in name:
        return Path(name).expanduser()
    scheme, _, rest = name.partition(":///")
    return Path(rest) if scheme == "sqlite" and rest else None


def is_on_server(name: str) -> bool:
    """Whether a name is the URL of a database on a server."""
    return name.startswith(("postgresql://", "postgres://"))


def existing(db: str | None) -> str:
    """The name of the database to use, which exists; it is said on stderr.

    Raises:
        DatabaseNotFound: there is no such file, or it would be in the memory of this process.
    """
    name = named(db)
    path = database_path(name)
    if name == "sqlite://" or (path is not None and not path.exists()):
        raise DatabaseNotFound(where=path or name)
    note(f"database: {shown(name)}")
    return name


class Located(msgspec.Struct, frozen=True):
    """A stored session and the storage that it is in."""

    storage: SqlWorkflowStorage
    info: SessionInfo


class LocatedRun(msgspec.Struct, frozen=True):
    """The record of a run and the storage that it is in."""

    storage: SqlWorkflowStorage
    run: Run


class LocatedEntry(msgspec.Struct, frozen=True):
    """An entry of the step cache, without its result, and a storage by which it can be reached."""

    storage: SqlWorkflowStorage
    entry: Entry


class Database:
    """An existing database with all of its prefixes, or the one that was named.

    Args:
        where: its name.
        storages: one storage for each prefix.
        owner: the owner that everything is narrowed to; None spans them.
    """

    def __init__(self, where: str, storages: list[SqlWorkflowStorage], owner: str | None) -> None:
        self.where = where
        self.storages = storages
        self.owner = owner

    def sessions(self, session_id: str | None = None, limit: int | None = None) -> list[Located]:
        """The sessions of all prefixes, the last updated first."""
        found = [
            Located(storage, info)
            for storage in self.storages
            for info in storage.find_sessions(self.owner, session_id=session_id, limit=limit)
        ]
        found.sort(key=lambda located: located.info.updated_at, reverse=True)
        return found[:limit]

    def session(self, session_id: str) -> Located:
        """The one session of that id.

        Raises:
            SessionNotFound: there is none.
            InvalidInput: several owners or prefixes have one.
        """
        found = self.sessions(session_id)
        if not found:
            raise SessionNotFound(session_id=session_id, where=self.where)
        if len(found) > 1:
            places = "; ".join(
                f"--table {located.storage.table_name} --user-id {located.info.owner!r}" for located in found
            )
            raise InvalidInput(f"{len(found)} sessions have the id {session_id!r}. Say which one: {places}")
        return found[0]

    def runs(
        self, *, session_id: str | None = None, run_id: str | None = None, limit: int | None = None
    ) -> list[tuple[str, Run]]:
        """The runs of all prefixes, each with its prefix, the last started first."""
        found = [
            (storage.table_name, run)
            for storage in self.storages
            for run in storage.find_runs(self.owner, session_id=session_id, run_id=run_id, limit=limit)
        ]
        found.sort(key=lambda pair: pair[1].started_at, reverse=True)
        return found[:limit]

    def run(self, prefix: str, *, session_id: str | None = None) -> LocatedRun:
        """The run of that id, else the only one whose id begins so; of one session if that is named.

        Raises:
            RunNotFound: there is none.
            InvalidInput: several ids begin so.
        """
        found = self.runs(session_id=session_id, run_id=prefix)[:1]
        if not found and prefix:
            known = self.runs(session_id=session_id)
            found = [(table, run) for table, run in known if run.run_id.startswith(prefix)]
        if not found:
            raise RunNotFound(run_id=prefix, where=self.where)
        if len(found) > 1:
            listed = ", ".join(run.run_id for _, run in found[:SHOWN_IDS])
            more = ", ..." if len(found) > SHOWN_IDS else ""
            raise InvalidInput(f"{len(found)} runs have ids that begin with {prefix!r}: {listed}{more}")
        ((table, run),) = found
        return LocatedRun(next(storage for storage in self.storages if storage.table_name == table), run)

    def entries(
        self, *, step: str | None = None, workflow: str | None = None, session_id: str | None = None
    ) -> list[LocatedEntry]:
        """What the step cache keeps, for the sessions of all prefixes and beyond them, the newest first."""
        found: dict[tuple[str, Place, bytes], LocatedEntry] = {}
        for storage in self.storages:
            for entry in storage.step_cache.find(self.owner, step=step, workflow=workflow, session_id=session_id):
                # What is kept for a session belongs to its prefix; everything else is seen from each of them.
                table = storage.table_name if entry.place.session_id else ""
                found.setdefault((table, entry.place, entry.key), LocatedEntry(storage, entry))
        return sorted(found.values(), key=lambda located: located.entry.created_at, reverse=True)


@contextmanager
def opened(
    db: str | None = None, table: str | None = None, user_id: str | None = None, *, max_cache_size: int = MAX_CACHE_SIZE
) -> Iterator[Database]:
    """Open an existing database and close it at the end.

    Raises:
        DatabaseNotFound: there is none.
        InvalidInput: it has no prefix of the name `table`.
        StorageError: it cannot be read.
    """
    from holdfast.storage.sql import table_names

    name = existing(db)
    tables = table_names(name, lock_timeout=LOCK_TIMEOUT)
    if table is not None and table not in tables:
        raise InvalidInput(f"{shown(name)} has no table {table!r}. It has: {', '.join(tables) or 'none'}.")
    with ExitStack() as stack:
        storages = []
        for each in tables if table is None else [table]:
            storage = storage_at(name, each, max_cache_size=max_cache_size)
            stack.callback(storage.close)
            storages.append(storage)
        yield Database(shown(name), storages, user_id)


@contextmanager
def writable(db: str | None, table: str | None) -> Iterator[SqlWorkflowStorage]:
    """A storage in a database that is made if it is missing; closed at the end."""
    name = named(db)
    note(f"database: {shown(name)}")
    with closing(storage_at(name, table)) as storage:
        yield storage
