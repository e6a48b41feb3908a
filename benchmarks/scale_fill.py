"""Databases of many sessions, filled in minutes.

Rules that must stay true:
- every row is written by `writing.commit`, the function with which the storage itself commits. Only the transaction is
  another: it holds thousands of commits, and is not flushed to the disk for each;
- PostgreSQL gets the rows of the SQLite database by COPY; `require_same_rows` shows for a sample of commits that its
  own storage would have written the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from posts import text

from holdfast import SqlWorkflowStorage, Workflow, clock
from holdfast.records import Commit
from holdfast.storage import writing
from holdfast.storage.sqlite import SQLiteStatements

TABLE = "workflow_sessions"
TABLES = ("session", "patch", "snapshot", "value", "run", "step")
SESSIONS_OF_USER = 10
COMMITS_AT_ONCE = 10_000
SAMPLE = 20
"""Commits whose rows are compared."""


def owner_of(number: int) -> str:
    """The user of a filled session."""
    return f"user-{number // SESSIONS_OF_USER}"


def session_of(number: int) -> str:
    """The id of a filled session: as spread as random ids are, and to be found again."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}-{number}"


class Drafting(Workflow):
    """A session of about 1 kB."""

    def run(self, topic: str) -> str:
        self.session_state["topic"] = topic
        self.session_state["draft"] = text(0)[:900]
        return "drafted"


class _Recording(SqlWorkflowStorage):
    """Keeps what is committed."""

    def commit(self, commit: Commit, **given: Any) -> int:
        self.commits = [*getattr(self, "commits", ()), commit]
        return super().commit(commit, **given)


def first_commit() -> Commit:
    """What a first run of `Drafting` commits."""
    with closing(_Recording(db_url="sqlite://")) as storage:
        Drafting(session_id="drafted", user_id="user", storage=storage).run("Context managers")
        commit: Commit = storage.commits[-1]  # on a busy machine the beginning of the run was recorded before
    return commit


def commits(numbers: range) -> Iterator[Commit]:
    """The first commits of these sessions, a second apart."""
    first = first_commit()
    assert first.run is not None
    began = first.run.started_at - 2_000_000
    for number in numbers:
        where = {"owner": owner_of(number), "session_id": session_of(number)}
        run_id, at = clock.new_id(), began + number
        run = replace(first.run, **where, run_id=run_id, started_at=at, ended_at=at + 0.001)
        ids = {"commit_id": clock.new_id(), "incarnation": clock.new_id(), "run_id": run_id}
        yield replace(first, **where, **ids, run=run, created_at=at)


@contextmanager
def _unflushed(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that leaves it to the system when to write, and leaves no log behind."""
    with closing(SqlWorkflowStorage(db_file=file)) as storage:
        storage.find_sessions("")  # makes the tables
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fill(file: Path, made: Iterator[Commit]) -> None:
    """Write first commits into a SQLite database, which is made if it is not there."""
    with _unflushed(file) as connection:
        statements = SQLiteStatements(connection, TABLE, str(file))
        is_empty = False
        while not is_empty:
            is_empty = True
            connection.execute("BEGIN IMMEDIATE")
            for _, commit in zip(range(COMMITS_AT_ONCE), made, strict=False):
                writing.commit(statements, commit, None, beat=False)
                is_empty = False
            connection.execute("COMMIT")


def copy(file: Path, url: str) -> None:
    """Copy all rows of a SQLite database to PostgreSQL, and leave the tables there as the server would in time."""
    import psycopg

    with closing(SqlWorkflowStorage(db_url=url)) as storage:
        storage.find_sessions("")  # makes the tables
    with closing(sqlite3.connect(file)) as source, closing(psycopg.connect(url, autocommit=True)) as target:
        for table in TABLES:
            name = f"{TABLE}_{table}"
            with target.cursor().copy(f"COPY {name} FROM STDIN") as writer:
                for row in source.execute(f"SELECT * FROM {name}"):
                    writer.write_row(row)
            target.execute(f"VACUUM ANALYZE {name}")


def rows(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a database, by table."""
    return {
        table: sorted(map(tuple, connection.execute(f"SELECT * FROM {TABLE}_{table}").fetchall()), key=repr)
        for table in TABLES
    }


def require_same_rows(folder: Path, url: str | None) -> int:
    """Make sure that filling writes exactly what the storages do, in a sample; return how many commits that had.

    Args:
        folder: an empty one.
        url: an empty database of PostgreSQL; None to compare only SQLite.

    Raises:
        AssertionError: some row differs.
    """
    sample = list(commits(range(SAMPLE)))
    fill(folder / "filled.db", iter(sample))
    with closing(sqlite3.connect(folder / "filled.db")) as connection:
        filled = rows(connection)
    _commit_each(SqlWorkflowStorage(db_file=folder / "committed.db"), sample)
    with closing(sqlite3.connect(folder / "committed.db")) as connection:
        assert rows(connection) == filled
    if url is not None:
        import psycopg

        _commit_each(SqlWorkflowStorage(db_url=url), sample)
        with closing(psycopg.connect(url, autocommit=True)) as server:
            assert rows(server) == filled
            for table in TABLES:
                server.execute(f"DELETE FROM {TABLE}_{table}")  # it is of the sample alone
        copy(folder / "filled.db", url)
        with closing(psycopg.connect(url)) as server:
            assert rows(server) == filled
    return len(sample)


def _commit_each(storage: SqlWorkflowStorage, sample: Sequence[Commit]) -> None:
    with closing(storage):
        for commit in sample:
            storage.commit(commit)
