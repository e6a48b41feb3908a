"""`holdfast runs`: every run that was made, how it ended and what it cost.

Rules that must stay true:
- a run whose process died is shown as interrupted, as the storage derives it.
"""

from __future__ import annotations

import shlex
from typing import Any, Final

import click

from holdfast.cli import changes
from holdfast.cli.database import Database, narrowing_options, opened
from holdfast.cli.output import (
    cost,
    cut,
    duration,
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
)
from holdfast.display import display
from holdfast.errors import InvalidInput, RunNotFound
from holdfast.patch import decode_patch
from holdfast.records import Run, RunStatus
from holdfast.refused import applied_version

SHOWN_IDS: Final = 5
"""Ids that are listed where several begin as the one that was asked for."""

_COLOURS: Final = {
    RunStatus.waiting: "cyan",
    RunStatus.running: "blue",
    RunStatus.completed: "green",
    RunStatus.failed: "red",
    RunStatus.cancelled: "yellow",
    RunStatus.interrupted: "magenta",
}


@click.group("runs")
def command() -> None:
    """List runs and show one."""


def described(table: str, run: Run) -> dict[str, Any]:
    """A run as JSON, without its input, output and refused changes."""
    return {
        "run_id": run.run_id,
        "session_id": run.session_id,
        "user_id": run.owner or None,
        "workflow": run.workflow,
        "workflow_id": run.workflow_id,
        "status": str(run.status),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "base_version": run.base_version,
        "usage": {
            "requests": run.usage.requests,
            "input_tokens": run.usage.input_tokens,
            "output_tokens": run.usage.output_tokens,
            "cost": run.usage.cost,
        },
        "error": None if run.error is None else {"type": run.error.type, "message": run.error.message},
        "table": table,
    }


def took(run: Run) -> float | None:
    """Seconds from the start of a run to its end."""
    return None if run.ended_at is None else run.ended_at - run.started_at


@command.command("list")
@narrowing_options
@click.option("--session-id", metavar="ID", help="Only the runs of this session.")
@click.option("--status", type=click.Choice(list(RunStatus), case_sensitive=False), help="Only runs that ended so.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Look at the newest so many.")
@json_option
def list_runs(
    *,
    db: str | None,
    table: str | None,
    user_id: str | None,
    session_id: str | None,
    status: RunStatus | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, the last started first."""
    with opened(db, table, user_id) as database:
        found = database.runs(session_id=session_id, limit=limit + 1)
    if len(found) > limit:
        cut(limit)
    found = [(table_name, run) for table_name, run in found[:limit] if status in (None, run.status)]
    if as_json:
        print_json([described(table_name, run) for table_name, run in found])
    elif not found:
        note("no runs")
    else:
        rows = [
            [
                run.run_id,
                str(run.status),
                run.session_id,
                run.workflow,
                moment(run.started_at),
                duration(took(run)),
                f"{run.usage.input_tokens + run.usage.output_tokens:,}",
                cost(run.usage.cost),
            ]
            for _, run in found
        ]
        print_table(["RUN", "STATUS", "SESSION", "WORKFLOW", "STARTED (UTC)", "TOOK", "TOKENS", "COST"], rows)


@command.command()
@click.argument("run_id")
@narrowing_options
@json_option
def show(run_id: str, db: str | None, table: str | None, user_id: str | None, as_json: bool) -> None:
    """Show one run with its input, its output and its error. The beginning of its id is enough."""
    with opened(db, table, user_id) as database:
        table_name, run = one_run(database, run_id)
        storage = next(storage for storage in database.storages if storage.table_name == table_name)
        applied = applied_version(storage, run)
    if as_json:
        shown = described(table_name, run)
        shown |= {"input": encoded(run.input), "output": encoded(run.output)}
        shown["traceback"] = run.error.traceback if run.error else None
        shown |= {"refused_patch": encoded(run.refused_patch), "refused_version": run.refused_version}
        print_exact(shown | {"applied_version": applied})
        return
    _print_run(run)
    if run.refused_patch is not None:
        _print_refused(run.refused_patch, run.refused_version, applied)
        if applied is None and run.refused_version is not None:
            click.echo(click.style("apply them: ", bold=True) + apply_command(run, db=database.where, table=table_name))


def one_run(database: Database, prefix: str, *, session_id: str | None = None) -> tuple[str, Run]:
    """The run of that id, else the only one whose id begins so, with its table; of one session if that is named.

    Raises:
        RunNotFound: there is none.
        InvalidInput: several ids begin so.
    """
    if exact := database.runs(session_id=session_id, run_id=prefix):
        return exact[0]
    known = database.runs(session_id=session_id) if prefix else []
    found = [(table, run) for table, run in known if run.run_id.startswith(prefix)]
    if not found:
        raise RunNotFound(run_id=prefix, where=database.where)
    if len(found) > 1:
        listed = ", ".join(run.run_id for _, run in found[:SHOWN_IDS])
        more = ", ..." if len(found) > SHOWN_IDS else ""
        raise InvalidInput(f"{len(found)} runs have ids that begin with {prefix!r}: {listed}{more}")
    return found[0]


def _print_run(run: Run) -> None:
    print_facts(
        {
            "run": run.run_id,
            "session": run.session_id,
            "user": run.owner or "-",
            "workflow": run.workflow,
            "started": moment(run.started_at),
            "took": duration(took(run)),
            "used": f"{run.usage.requests} requests, {run.usage.input_tokens:,} tokens in, "
            f"{run.usage.output_tokens:,} out, cost {cost(run.usage.cost)}",
            "from version": str(run.base_version),
        }
    )
    click.echo(click.style("status: ", bold=True) + click.style(run.status, fg=_COLOURS[run.status]))
    for title, data in (("input", run.input), ("output", run.output)):
        if data is not None:
            click.secho(f"{title}:", bold=True)
            for line in readable(display(data), indent=1):
                click.echo(line)
    if run.error is not None:
        click.secho(printable(f"{run.error.type}: {run.error.message}", lines=True), fg="red")
        click.echo(printable(run.error.traceback, lines=True))


def _print_refused(refused: bytes, version: int | None, applied: int | None) -> None:
    made = "" if version is None else f", made from version {version}"
    since = "" if applied is None else f" and applied as version {applied}"
    click.secho(f"refused changes{made}{since}:", bold=True)
    for line in changes.lines(decode_patch(refused)):
        click.echo(line)


def apply_command(run: Run, *, db: str, table: str) -> str:
    """The command that applies what a run was refused."""
    words = ["holdfast", "sessions", "apply", run.session_id, run.run_id, "--db", db, "--table", table]
    return printable(shlex.join([*words, "--user-id", run.owner]))
