"""`holdfast runs`: every run that was made, how it ended and what it cost.

Rules that must stay true:
- a run whose process died is shown as interrupted, as the storage derives it.
"""

from __future__ import annotations

from typing import Any, Final

import click

from holdfast.cli import changes
from holdfast.cli.database import narrowing_options, opened
from holdfast.cli.output import (
    cost,
    duration,
    json_option,
    moment,
    note,
    print_facts,
    print_json,
    print_table,
    printable,
    readable,
)
from holdfast.display import display
from holdfast.errors import RunNotFound
from holdfast.patch import decode_patch
from holdfast.records import Run, RunStatus

_COLOURS: Final = {
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
        found = database.runs(session_id=session_id, limit=limit)
    found = [(table_name, run) for table_name, run in found if status in (None, run.status)]
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
    """Show one run with its input, its output and its error."""
    with opened(db, table, user_id) as database:
        found = database.runs(run_id=run_id)
        if not found:
            raise RunNotFound(run_id=run_id, where=database.where)
    table_name, run = found[0]
    if as_json:
        shown = described(table_name, run)
        shown |= {"input": _displayed(run.input), "output": _displayed(run.output)}
        shown["traceback"] = run.error.traceback if run.error else None
        shown["refused_patch"] = changes.as_json(decode_patch(run.refused_patch)) if run.refused_patch else None
        print_json(shown)
    else:
        _print_run(run)


def _displayed(data: bytes | None) -> Any:
    return None if data is None else display(data)


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
    if run.refused_patch is not None:
        click.secho("refused changes:", bold=True)
        for line in changes.lines(decode_patch(run.refused_patch)):
            click.echo(line)
