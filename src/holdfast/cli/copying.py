"""`holdfast sessions copy`: sessions from one database to another, with everything that is kept of them.

Rules that must stay true:
- one session that cannot be copied holds up no other; each is told, and the exit status says that there was one;
- a failure of a database, which all of them would meet, ends the command: called again, it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from holdfast.cli.database import Database, opened, shown, storage_at
from holdfast.cli.exit_status import DamageFound, NotCopied
from holdfast.cli.output import json_option, note, print_json, print_table, printable
from holdfast.copying import Copied, copy_session
from holdfast.errors import (
    CorruptData,
    HoldfastError,
    InvalidInput,
    SessionBusy,
    SessionDeleted,
    SessionDiffers,
    SessionExists,
    SessionNotFound,
    VersionConflict,
    VersionNotKept,
)

if TYPE_CHECKING:
    from holdfast.storage.sql import SqlWorkflowStorage

_OF_ONE_SESSION: Final = (
    CorruptData,
    SessionBusy,
    SessionDeleted,
    SessionDiffers,
    SessionExists,
    SessionNotFound,
    VersionConflict,
    VersionNotKept,
)
"""What can be wrong with one session while the others can be copied."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A session to be copied."""

    storage: SqlWorkflowStorage
    owner: str
    session_id: str


Result = Copied | HoldfastError


@click.command()
@click.argument("session_ids", metavar="[SESSION_ID]...", nargs=-1)
@click.option("--from", "db", metavar="FILE|URL", required=True, help="The database to copy from; it is only read.")
@click.option("--to", "to", metavar="FILE|URL", required=True, help="The database to copy to; made if it is missing.")
@click.option("--table", metavar="NAME", help="Only this prefix (a storage's table_name). Else all of them.")
@click.option("--user-id", metavar="ID", help='Only this user\'s; "" for those of no user. Else of all users.')
@json_option
def copy(
    session_ids: tuple[str, ...], *, db: str, to: str, table: str | None, user_id: str | None, as_json: bool
) -> None:
    """Copy sessions with their history and runs to another database: all, or those named.

    Each is read back and compared. Called again, the command continues where it was broken off, and brings copies up
    to date.
    """
    results: list[tuple[_Named, Result]] = []
    with opened(db, table, user_id) as database:
        note(f"copying to: {shown(to)}")
        found = _named(database, session_ids)
        for storage in database.storages:
            with closing(storage_at(to, storage.table_name)) as target:
                _require_another(storage, target)
                for named in found:
                    if named.storage is storage:
                        note(f"{len(results) + 1} of {len(found)}: {printable(named.session_id)}")
                        results.append((named, _copied(named, target)))
    if as_json:
        print_json([_described(named, result) for named, result in results])
    elif results:
        _print(results)
    _require_all_copied(results, db)


def _named(database: Database, session_ids: tuple[str, ...]) -> list[_Named]:
    """The sessions to be copied, those included of which there are only runs.

    Raises:
        SessionNotFound: there is none of an id that was asked for.
    """
    found = [
        _Named(storage, owner, session_id)
        for storage in database.storages
        for owner, session_id in sorted(set(_keys(storage, database.owner)))
        if not session_ids or session_id in session_ids
    ]
    known = {named.session_id for named in found}
    for session_id in session_ids:
        if session_id not in known:
            raise SessionNotFound(session_id=session_id, where=database.where)
    return found


def _keys(storage: SqlWorkflowStorage, owner: str | None) -> Iterator[tuple[str, str]]:
    yield from ((info.owner, info.session_id) for info in storage.find_sessions(owner))
    yield from ((run.owner, run.session_id) for run in storage.find_runs(owner))


def _require_another(source: SqlWorkflowStorage, target: SqlWorkflowStorage) -> None:
    if target.url in (source.url, "sqlite://"):
        raise InvalidInput("--to must name another database than --from, one that outlives this command.")


def _copied(named: _Named, target: SqlWorkflowStorage) -> Result:
    try:
        return copy_session(named.storage, target, named.owner, named.session_id)
    except _OF_ONE_SESSION as error:
        click.secho(printable(str(error), lines=True), err=True, fg="red")
        return error


def _described(named: _Named, result: Result) -> dict[str, Any]:
    described = {
        "session_id": named.session_id,
        "user_id": named.owner or None,
        "table": named.storage.table_name,
    }
    if isinstance(result, HoldfastError):
        return described | {"outcome": None, "error": {"type": type(result).__name__, "message": str(result)}}
    return described | {
        "outcome": str(result.outcome),
        "oldest": result.oldest,
        "version": result.version,
        "written_changes": result.changes,
        "written_runs": result.runs,
        "sha256": result.sha256,
        "error": None,
    }


def _print(results: list[tuple[_Named, Result]]) -> None:
    rows = []
    for named, result in results:
        head = [named.session_id, named.owner or "-", named.storage.table_name]
        if isinstance(result, HoldfastError):
            rows.append([*head, "not copied", "-", "-", "-", "-"])
        else:
            written = [str(result.changes), str(result.runs)]
            rows.append([*head, str(result.outcome), str(result.version), *written, result.sha256[:12]])
    print_table(["SESSION", "USER", "TABLE", "OUTCOME", "VERSION", "CHANGES", "RUNS", "SHA-256"], rows)


def _require_all_copied(results: list[tuple[_Named, Result]], where: str) -> None:
    failed = [result for _, result in results if isinstance(result, HoldfastError)]
    damaged = [error for error in failed if isinstance(error, CorruptData)]
    if damaged:
        raise DamageFound(count=f"{len(damaged)} problem{'' if len(damaged) == 1 else 's'}", where=where)
    if failed:
        raise NotCopied(count=f"{len(failed)} of {len(results)} sessions")
