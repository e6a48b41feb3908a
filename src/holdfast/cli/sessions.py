"""`holdfast sessions`: what is stored, what changed when, and moving it elsewhere.

Rules that must stay true:
- everything goes through the storage interface, never through SQL;
- what deletes or forgets asks first, or needs `--yes` where nobody can be asked;
- what reads or changes states is imported by the commands that do, so that a list of sessions is there at once.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from holdfast.cli.asking import confirm
from holdfast.cli.database import Located, narrowing_options, opened, writable, writing_options
from holdfast.cli.output import (
    cut,
    encoded,
    json_option,
    moment,
    note,
    print_exact,
    print_facts,
    print_json,
    print_table,
    printable,
    readable,
    savings_json,
    spending,
    usage_json,
)
from holdfast.cli.retention import keep_history, staying
from holdfast.errors import SessionExists
from holdfast.ids import check_id
from holdfast.records import Savings, Usage

_ELSEWHERE: Final = {"apply": "applying", "copy": "copying"}
"""Commands that live in modules of their own."""


class Commands(click.Group):
    """A group that imports some of its commands when they are used, or when all are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"holdfast.cli.{_ELSEWHERE[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group("sessions", cls=Commands)
def command() -> None:
    """List, show, compare, mend, copy, export, import and delete sessions."""


def described(located: Located) -> dict[str, Any]:
    """A session's head as JSON."""
    info = located.info
    return {
        "session_id": info.session_id,
        "user_id": info.owner or None,
        "workflow": info.workflow,
        "version": info.version,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "table": located.storage.table_name,
    }


def spent(located: Located) -> tuple[Usage, Savings]:
    """What the runs of a session used and saved together."""
    usage, savings = Usage(), Savings()
    for run in located.storage.find_runs(located.info.owner, session_id=located.info.session_id):
        usage, savings = usage + run.usage, savings + run.savings
    return usage, savings


@command.command("list")
@narrowing_options
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_sessions(db: str | None, table: str | None, user_id: str | None, limit: int, as_json: bool) -> None:
    """List sessions, the last updated first."""
    with opened(db, table, user_id) as database:
        found = database.sessions(limit=limit + 1)
    if len(found) > limit:
        cut(limit)
    found = found[:limit]
    if as_json:
        print_json([described(located) for located in found])
    elif not found:
        note("no sessions")
    else:
        rows = [
            [
                located.info.session_id,
                located.info.owner or "-",
                located.info.workflow,
                str(located.info.version),
                moment(located.info.updated_at),
                located.storage.table_name,
            ]
            for located in found
        ]
        print_table(["SESSION", "USER", "WORKFLOW", "VERSION", "UPDATED (UTC)", "TABLE"], rows)


@command.command()
@click.argument("session_id")
@narrowing_options
@click.option("--version", type=click.IntRange(min=1), help="The state as it was at this version.")
@json_option
def show(
    session_id: str, db: str | None, table: str | None, user_id: str | None, version: int | None, as_json: bool
) -> None:
    """Show the state of a session, and what its runs spent and saved."""
    from holdfast.cli import changes

    with opened(db, table, user_id) as database:
        located = database.session(session_id)
        found = changes.read_version(located, version)
        usage, savings = spent(located)
    if as_json:
        shown = described(located) | {"version": found.info.version}
        print_exact(shown | {"usage": usage_json(usage), "savings": savings_json(savings), "state": found.exact})
        return
    print_facts(
        {
            "session": session_id,
            "user": located.info.owner or "-",
            "workflow": located.info.workflow,
            "version": f"{found.info.version} of {located.info.version}",
            "created": moment(located.info.created_at),
            "updated": moment(located.info.updated_at),
        }
        | ({"runs": spending(usage, savings)} if usage.requests or savings.hits else {})
    )
    click.echo()
    for line in readable(found.displayed):
        click.echo(line)


@command.command()
@click.argument("session_id")
@narrowing_options
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@json_option
def history(session_id: str, db: str | None, table: str | None, user_id: str | None, limit: int, as_json: bool) -> None:
    """Show what changed at which version and by which run, the newest first."""
    from holdfast.cli import changes
    from holdfast.patch import decode_patch

    with opened(db, table, user_id) as database:
        located = database.session(session_id)
        info = located.info
        found = located.storage.changes(info.owner, session_id, after=max(0, info.version - limit))
        oldest = located.storage.changes(info.owner, session_id, limit=1)
    if found and oldest and oldest[0].version < found[0].version:
        cut(len(found), found[-1].version - oldest[0].version + 1)
    if as_json:
        print_exact(
            [
                {
                    "version": change.version,
                    "created_at": change.created_at,
                    "run_id": change.run_id or None,
                    "patch": encoded(change.patch),
                }
                for change in reversed(found)
            ]
        )
        return
    for change in reversed(found):
        by = f"run {printable(change.run_id)}" if change.run_id else "outside a run"
        click.echo(click.style(f"version {change.version}", bold=True) + f"  {moment(change.created_at)}  {by}")
        for line in changes.lines(decode_patch(change.patch)):
            click.echo(line)


@command.command()
@click.argument("session_id")
@click.argument("old", type=click.IntRange(min=0), required=False)
@click.argument("new", type=click.IntRange(min=1), required=False)
@narrowing_options
@json_option
def diff(
    session_id: str,
    old: int | None,
    new: int | None,
    *,
    db: str | None,
    table: str | None,
    user_id: str | None,
    as_json: bool,
) -> None:
    """Show what differs between two versions: OLD (else the one before) and NEW (else the newest)."""
    from holdfast.cli import changes
    from holdfast.patch import encode_patch

    with opened(db, table, user_id) as database:
        located = database.session(session_id)
        after = changes.read_version(located, new)
        older = after.info.version - 1 if old is None else old
        before = changes.read_version(located, older) if older else changes.Version(after.info, {})
    operations = changes.difference(before, after)
    if as_json:
        print_exact({"old": older, "new": after.info.version, "patch": encoded(encode_patch(operations))})
        return
    click.secho(f"version {older} to version {after.info.version}", bold=True)
    for line in changes.difference_lines(before, operations):
        click.echo(line)


@command.command()
@click.argument("session_id")
@click.argument("new_id")
@narrowing_options
def rename(session_id: str, new_id: str, db: str | None, table: str | None, user_id: str | None) -> None:
    """Give a session, its history and its runs another id."""
    check_id("NEW_ID", new_id)
    with opened(db, table, user_id) as database:
        located = database.session(session_id)
        located.storage.rename_session(located.info.owner, session_id, new_id)
    note(f"renamed to {printable(new_id)}")


@command.command()
@click.argument("session_id")
@narrowing_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(session_id: str, db: str | None, table: str | None, user_id: str | None, yes: bool) -> None:
    """Delete a session with its history and its runs, for good."""
    with opened(db, table, user_id) as database:
        located = database.session(session_id)
        confirm(f"Delete session {printable(session_id)} at version {located.info.version}, with its runs?", yes)
        located.storage.delete_session(located.info.owner, session_id)
    note(f"deleted {printable(session_id)}")


@command.command()
@click.argument("session_id", required=False)
@narrowing_options
@click.option("--keep", required=True, metavar="N|AGE", help="Versions to keep, such as 100; or an age: 12h, 30d, 8w.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(
    session_id: str | None,
    *,
    db: str | None,
    table: str | None,
    user_id: str | None,
    keep: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Forget old history of one session, or of all; the state stays as it is.

    Versions are rebuilt from stored snapshots, so whole stretches up to a snapshot are forgotten: more versions than
    were asked for may stay, and never fewer.
    """
    kept = keep_history(keep)
    with opened(db, table, user_id) as database:
        found = database.sessions() if session_id is None else [database.session(session_id)]
        confirm(f"Forget the history of {len(found)} session(s) beyond {keep}?", yes)
        forgotten = 0
        for located in found:
            forgotten += located.storage.prune_session(located.info.owner, located.info.session_id, kept)
        stay = [staying(located) for located in found]
    if as_json:
        print_json({"sessions": len(found), "forgotten_changes": forgotten, "kept": stay})
        return
    click.echo(f"forgot {forgotten} change(s) of {len(found)} session(s), in whole stretches up to a stored snapshot")
    for each in stay:
        click.echo(f"{printable(each['session_id'])}: versions {each['oldest']} to {each['newest']} stay")


@command.command()
@click.argument("session_id")
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path), default="-")
@narrowing_options
@click.option("--history", "with_history", is_flag=True, help="With all changes that are kept.")
@click.option("--force", is_flag=True, help="Overwrite a FILE that exists.")
def export(
    session_id: str,
    file: Path,
    *,
    db: str | None,
    table: str | None,
    user_id: str | None,
    with_history: bool,
    force: bool,
) -> None:
    """Write a session to FILE (else to stdout) as JSON, exactly, with a checksum."""
    from holdfast.cli import transfer

    with opened(db, table, user_id) as database:
        text = transfer.exported(database.session(session_id), with_history=with_history)
    if str(file) == "-":
        click.echo(text)
    else:
        transfer.write(file, text + "\n", force=force)
        note(f"exported to {printable(str(file))}")


@command.command("import")
@click.argument("file", type=click.File("rb"))
@writing_options
@click.option("--session-id", metavar="ID", help="Another id than the one in the file.")
@click.option("--user-id", metavar="ID", help='Another owner than the one in the file; "" for none.')
@json_option
def import_session(
    file: BinaryIO, *, db: str | None, table: str | None, user_id: str | None, session_id: str | None, as_json: bool
) -> None:
    """Create a session from an exported FILE (- for stdin), once its checksum is verified."""
    from holdfast.cli import transfer

    package = transfer.parse(file.read())
    owner = package.user_id if user_id is None else user_id
    target = check_id("session_id", package.session_id if session_id is None else session_id)
    if owner:
        check_id("user_id", owner)
    with writable(db, table) as storage:
        if storage.find_sessions(owner, session_id=target):
            raise SessionExists(session_id=target, where=storage.where)
        version = transfer.create(package, storage, owner, target)
    if as_json:
        print_json({"session_id": target, "user_id": owner or None, "version": version})
    else:
        click.echo(f"imported {printable(target)} at version {version}")
