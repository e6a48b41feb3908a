"""`SqlWorkflowStorage`: keeps sessions in a SQL database.

Rules that must stay true:
- making a storage object opens nothing; the database is opened, and made, at the first use;
- all objects of one process that name one database share its engine;
- the driver of a database is imported when that is opened;
- what is stored is opaque here: values and patches arrive encoded, and are never decoded.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import msgspec

from holdfast import clock
from holdfast.errors import InvalidInput, StorageClosed
from holdfast.records import (
    Change,
    Claim,
    Commit,
    Finding,
    Known,
    Run,
    SessionInfo,
    Snapshot,
    StepRecord,
    StoredSession,
)
from holdfast.storage.base import BEAT_EVERY, KeepHistory, Rebase, valid_commit, valid_limit
from holdfast.storage.history import valid_keep_history
from holdfast.storage.queries import Statements, texts, valid_table_name
from holdfast.storage.remembered import Remembered
from holdfast.storage.sweeping import MAX_CACHE_SIZE, Sweeping

if TYPE_CHECKING:
    from holdfast.storage.base import StepCache
    from holdfast.storage.registry import Engine

T = TypeVar("T")
Synchronous = Literal["FULL", "NORMAL"]

LEAST_TIMEOUT = 0.1
"""Seconds; a shorter wait would be over before a thread of this process has begun to serve it."""

_memory_numbers = itertools.count(1)


class SqlWorkflowStorage:
    """Sessions in a SQL database; see `holdfast.storage.base.Storage` for what each operation does.

    Args:
        table_name: prefix of the tables, an identifier; several prefixes can share a database.
        db_file: path of a SQLite database, `~` expanded; it and missing folders are made at the first use.
        db_url: instead of `db_file`, `postgresql://user:password@host:port/database`, which needs
            `pip install 'holdfast[postgres]'`, or `sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite://`
            for a database in memory. With neither, the environment variable `HOLDFAST_DB` holds a path or such a URL.
        keep_history: how many versions, or what age (a timedelta) of a session's history to keep; None keeps all.
        synchronous: "FULL" waits for the disk at every commit; "NORMAL" does not, so that a power failure
            (though not the death of the process) may take back the last commits. On PostgreSQL "FULL" is what the
            server's `synchronous_commit` says.
        lock_timeout: seconds to wait for other writers before `StorageBusy` is raised; 0.1 at least, which the
            opening of a database may take by itself.
        max_cache_size: bytes of results that the step cache of the database keeps, about; those that were not used
            for the longest time go. What runs that can be resumed have recorded is not part of it.

    Raises:
        InvalidInput: an argument cannot be used.

    >>> storage = SqlWorkflowStorage(table_name="posts", db_url="sqlite://")
    >>> storage.load("", "my-session") is None
    True
    >>> storage.close()
    """

    def __init__(
        self,
        table_name: str = "workflow_sessions",
        db_file: str | os.PathLike[str] | None = None,
        db_url: str | None = None,
        keep_history: KeepHistory = None,
        synchronous: Synchronous = "FULL",
        lock_timeout: float = 30.0,
        max_cache_size: int = MAX_CACHE_SIZE,
    ) -> None:
        self.table_name = valid_table_name(table_name)
        self._place = _place(db_file, db_url)
        self.where = self._place.where
        """Display name of the database."""
        self.url = self._place.url
        """The URL that names the same database, not to be displayed: it has the password, if there is one. A database
        in memory cannot be named by others."""
        self._keep = valid_keep_history(keep_history)
        if synchronous not in get_args(Synchronous):
            raise InvalidInput('synchronous must be "FULL" or "NORMAL".')
        self._is_durable = synchronous == "FULL"
        if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, int | float) or not lock_timeout >= 0:
            raise InvalidInput("lock_timeout must be a number of seconds from 0.")
        self.lock_timeout = max(float(lock_timeout), LEAST_TIMEOUT)
        """Seconds to wait for other writers."""
        self._sweeping = Sweeping(max_cache_size)
        self._failures: list[BaseException] = []
        self._remembered = Remembered()
        self._key = self._place.key
        self._engine: Engine | None = None
        self._is_closed = False
        self._release: weakref.finalize[..., SqlWorkflowStorage] | None = None

    def load(
        self, owner: str, session_id: str, *, known: Known | None = None, at: int | None = None
    ) -> StoredSession | None:
        """See `Storage.load`."""
        from holdfast.storage import reading

        if known is not None and at is None:
            unchanged = self._read(lambda db: reading.unchanged(db, owner, session_id, known), is_one_statement=True)
            if unchanged is not None:
                return unchanged
        return self._read(lambda db: reading.load(db, owner, session_id, known, at))

    def read_values(
        self, owner: str, session_id: str, names: Sequence[str], *, incarnation: str, at: int
    ) -> dict[str, bytes]:
        """See `Storage.read_values`."""
        from holdfast.storage import reading

        return self._read(lambda db: reading.read_values(db, owner, session_id, names, incarnation, at))

    def commit(self, commit: Commit, *, rebase: Rebase | None = None) -> int:
        """See `Storage.commit`."""
        from holdfast.storage import writing

        valid_commit(commit)
        beats = self._opened().beats
        process_id = commit.run.process_id if commit.run else ""
        now = clock.now()
        beat = commit.created_at is None and not 0 <= now - beats.get(process_id, -BEAT_EVERY) < BEAT_EVERY
        made: list[int] = []

        def work(db: Statements) -> int:
            made.append(writing.commit(db, commit, self._keep, beat=beat, rebase=rebase, is_repeated=bool(made)))
            return made[-1]

        version = self._write(work, is_repeatable=True)
        if commit.run is not None and beat:
            beats[process_id] = now
        # Without an outcome (see Engine.write) the version is the one that it will make, if it can be made.
        return commit.base + (commit.patch is not None) if version is None else version

    def begin_session(self, info: SessionInfo, snapshot: Snapshot) -> None:
        """See `Storage.begin_session`."""
        from holdfast.storage import writing

        self._write(lambda db: writing.begin_session(db, info, snapshot))

    def claim_lease(self, claim: Claim) -> int:
        """See `Storage.claim_lease`."""
        from holdfast.storage import leasing, reading, writing

        # Most claims are of those who wait, and ask again and again whether it is their turn.
        ahead = self._read(
            lambda db: leasing.standing(reading.queue(db, claim.owner, claim.session_id), claim, db.now()),
            is_one_statement=True,  # nearly: the time is asked for as well, and belongs to no snapshot
        )
        if ahead is None:
            ahead = self._write(lambda db: writing.claim_lease(db, claim), is_repeatable=True, outlives_power=False)
        return 0 if ahead is None else ahead

    def release_lease(self, owner: str, session_id: str, lease_id: str) -> None:
        """See `Storage.release_lease`."""
        from holdfast.storage import writing

        self._write(
            lambda db: writing.release_lease(db, owner, session_id, lease_id), is_repeatable=True, outlives_power=False
        )

    def beat(self, process_id: str, *, stopped: bool = False) -> None:
        """See `Storage.beat`."""
        from holdfast.storage import writing

        beats = self._opened().beats
        beats.pop(process_id, None)
        change = writing.delete_beat if stopped else writing.put_beat
        self._write(lambda db: change(db, process_id), is_repeatable=True)
        if not stopped:
            beats[process_id] = clock.now()

    def changes(self, owner: str, session_id: str, *, after: int = 0, limit: int | None = None) -> tuple[Change, ...]:
        """See `Storage.changes`."""
        from holdfast.storage import reading

        limit = valid_limit(limit)
        return self._read(lambda db: reading.changes(db, owner, session_id, after, limit))

    def find_sessions(
        self, owner: str | None, *, session_id: str | None = None, limit: int | None = None
    ) -> tuple[SessionInfo, ...]:
        """See `Storage.find_sessions`."""
        from holdfast.storage import reading

        limit = valid_limit(limit)
        return self._read(lambda db: reading.find_sessions(db, owner, session_id, limit))

    def find_runs(
        self,
        owner: str | None,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        limit: int | None = None,
    ) -> tuple[Run, ...]:
        """See `Storage.find_runs`."""
        from holdfast.storage import reading

        limit = valid_limit(limit)
        return self._read(lambda db: reading.find_runs(db, owner, session_id, run_id, limit))

    def find_steps(self, owner: str, session_id: str, run_id: str, *, with_results: bool) -> tuple[StepRecord, ...]:
        """See `Storage.find_steps`."""
        from holdfast.storage import reading

        return self._read(
            lambda db: reading.find_steps(db, owner, session_id, run_id, with_results=with_results),
            is_one_statement=True,
        )

    @property
    def step_cache(self) -> StepCache:
        """See `Storage.step_cache`."""
        from holdfast.storage.step_cache import SqlStepCache

        return SqlStepCache(
            self._read,
            self._write,
            self._peek,
            self._mark,
            table=self.table_name,
            sweeping=self._sweeping,
            remembered=self._remembered,
            where=self.where,
        )

    def rename_session(self, owner: str, session_id: str, new_id: str) -> None:
        """See `Storage.rename_session`."""
        from holdfast.storage import writing

        self._write(lambda db: writing.rename_session(db, owner, session_id, new_id))

    def delete_session(self, owner: str, session_id: str) -> None:
        """See `Storage.delete_session`."""
        from holdfast.storage import writing

        self._write(lambda db: writing.delete_session(db, owner, session_id))

    def prune_session(self, owner: str, session_id: str, keep: KeepHistory) -> int:
        """See `Storage.prune_session`."""
        from holdfast.storage import writing

        valid_keep_history(keep)
        return self._write(lambda db: writing.prune_session(db, owner, session_id, keep)) or 0

    def check(self) -> tuple[Finding, ...]:
        """See `Storage.check`."""
        from holdfast.storage import checking

        return self._read(checking.check)

    def close(self) -> None:
        """See `Storage.close`. May be called again.

        Raises:
            StorageBusy: the database is held by another process, so that it is not closed yet.
        """
        from holdfast.storage import registry

        self._is_closed = True
        release, self._release = self._release, None
        if self._engine is not None and release is not None:
            self._engine = None
            release.detach()
            registry.detach(self._key, wait=self.lock_timeout)

    def _read(self, work: Callable[[Statements], T], *, is_one_statement: bool = False) -> T:
        engine = self._opened()
        statements, table, where, remembered = engine.statements, self.table_name, self.where, self._remembered
        return engine.read(
            lambda connection: work(statements(connection, table, where, remembered)),
            table=self.table_name,
            timeout=self.lock_timeout,
            is_one_statement=is_one_statement,
        )

    def _peek(self, query: str, row: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        """The rows of one query if nothing is in the way, and as they were a moment ago; see `Engine.peek`."""
        engine = self._opened()
        text = texts(self.table_name, engine.statements.written)[query]
        return engine.peek(lambda connection: connection.execute(text, row).fetchall(), table=self.table_name)

    def _mark(self) -> object | None:
        """See `Engine.mark`."""
        engine = self._engine
        if engine is None or self._failures or self._is_closed:
            engine = self._opened()
        return engine.mark(table=self.table_name)

    def _write(
        self, work: Callable[[Statements], T], *, is_repeatable: bool = False, outlives_power: bool = True
    ) -> T | None:
        # What says who lives and who holds a session need not outlive a loss of power: it ends the holders as well,
        # or (on a server) the commit of a holder whose lease was lost is refused.
        engine = self._opened()
        statements, table, where, remembered = engine.statements, self.table_name, self.where, self._remembered
        return engine.write(
            lambda connection: work(statements(connection, table, where, remembered)),
            table=self.table_name,
            timeout=self.lock_timeout,
            is_durable=self._is_durable and outlives_power,
            failures=self._failures,
            is_repeatable=is_repeatable,
        )

    def _opened(self) -> Engine:
        if self._failures:
            raise self._failures.pop(0)
        if self._is_closed:
            raise StorageClosed(where=self.where)
        engine = self._engine
        if engine is None:
            # All of it now: what another thread is importing while this one forks can never be imported by the child.
            from holdfast.storage import leasing, reading, registry, writing  # noqa: F401

            engine = registry.attach(self._key, self._place.new_engine)
            self._release = weakref.finalize(self, registry.detach, self._key)
            self._release.atexit = False
            self._engine = engine
        return engine


def table_names(database: str | os.PathLike[str], *, lock_timeout: float = 30.0) -> tuple[str, ...]:
    """All table prefixes that a database has, in alphabetical order; changes nothing.

    Args:
        database: path or URL of an existing database.
        lock_timeout: seconds to wait for other writers.

    Raises:
        InvalidInput: there is no such database.
        ForeignDatabase: it is not one of Holdfast's.

    >>> import tempfile, pathlib
    >>> folder = tempfile.TemporaryDirectory()
    >>> storage = SqlWorkflowStorage("posts", db_file=pathlib.Path(folder.name, "a.db"))
    >>> storage.find_sessions(None)
    ()
    >>> table_names(pathlib.Path(folder.name, "a.db"))
    ('posts',)
    >>> storage.close(); folder.cleanup()
    """
    from holdfast.storage import registry, schema

    place = _place(*_path_or_url(database))
    if not place.may_exist():
        raise InvalidInput(f"There is no database at {place.path or place.where}.")
    engine = registry.attach(place.key, place.new_engine)
    try:
        return engine.read(
            lambda connection: schema.table_names(engine.statements(connection, "", place.where)),
            table=None,
            timeout=lock_timeout,
        )
    finally:
        registry.detach(place.key, wait=lock_timeout)


class _Place(msgspec.Struct, frozen=True):
    """Where a database is."""

    key: str
    """Names it in this process."""
    where: str
    """Names it for people."""
    url: str
    path: str | None = None
    """The absolute path of its file, links resolved."""

    def may_exist(self) -> bool:
        """Whether others can have made it; of one on a server, only the server can say."""
        return self.is_on_server() or (self.path is not None and os.path.exists(self.path))

    def is_on_server(self) -> bool:
        """Whether it is a database of a server."""
        return not self.url.startswith("sqlite:")

    def new_engine(self) -> Engine:
        """Make its engine, which opens nothing yet."""
        if self.is_on_server():
            from holdfast.storage.postgres import PostgresServer
            from holdfast.storage.server import ServerEngine

            return ServerEngine(PostgresServer(self.url))
        from holdfast.storage.engine import Engine
        from holdfast.storage.sqlite import SQLiteFile, SQLiteMemory

        return Engine(SQLiteMemory() if self.path is None else SQLiteFile(self.path))


def _path_or_url(database: str | os.PathLike[str]) -> tuple[str | os.PathLike[str] | None, str | None]:
    is_url = isinstance(database, str) and "://" in database
    return (None, str(database)) if is_url else (database, None)


def _place(db_file: str | os.PathLike[str] | None, db_url: str | None) -> _Place:
    """The place that a file or a URL names; with neither, `HOLDFAST_DB`."""
    if db_file is not None and db_url is not None:
        raise InvalidInput("Give db_file or db_url, not both.")
    if db_file is None and db_url is None:
        named = os.environ.get("HOLDFAST_DB")
        if not named:
            raise InvalidInput(
                "Where to store? Give db_file=... or db_url=..., or set the environment variable HOLDFAST_DB."
            )
        db_file, db_url = _path_or_url(named)
    if db_url is not None:
        scheme = db_url.partition("://")[0]
        if scheme in ("postgresql", "postgres"):
            from holdfast.storage import postgres

            return _Place(postgres.valid_url(db_url), postgres.shown(db_url), db_url)
        db_file = _path_of_url(db_url)
        if db_file is None:
            return _Place(f":memory:{next(_memory_numbers)}", "sqlite:// (in memory)", "sqlite://")
    text = os.fspath(db_file) if db_file is not None else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInput("db_file must be the path of a file, as a string or a Path.")
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise InvalidInput("db_file begins with a home folder that there is not; a file of that name is ./~...")
    path = os.path.realpath(path)
    return _Place(path, path, f"sqlite:///{path}", path)


def _path_of_url(url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite" or not (rest == "" or rest.startswith("/")):
        raise InvalidInput(
            "db_url must be sqlite:///relative.db, sqlite:////absolute.db, sqlite:// or "
            "postgresql://user:password@host:port/database."
        )
    return rest[1:] if len(rest) > 1 else None
