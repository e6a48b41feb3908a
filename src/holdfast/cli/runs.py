"""`holdfast runs`: every run that was made, how it ended and what it cost.

Rules that must stay true:
- a run whose process died is shown as interrupted, as the storage derives it.
"""

from __future__ import annotations

import shlex
from typing import Any, Final

import click

from holdfast.cli import changes, failures, resuming
from holdfast.cli.calls import names, parts_of
from holdfast.cli.database import narrowing_options, opened
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
    savings_json,
    spending,
    tokens,
    usage_json,
)
from holdfast.display import display
from holdfast.patch import decode_patch
from holdfast.records import Run, RunStatus, StepRecord
from holdfast.refused import applied_version
from holdfast.run_function import may_be_resumed

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
    """List runs, show one, and go on with one that did not end well."""


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
        "usage": usage_json(run.usage),
        "savings": savings_json(run.savings),
        "attempt": run.attempt,
        "error": None if run.error is None else {"type": run.error.type, "message": run.error.message},
        "table": table,
    }


def took(run: Run) -> str:
    """How long a run lasted. When the later attempts of one that was resumed began is not recorded.

    >>> from holdfast.testing import make_run
    >>> took(make_run(started_at=0.0, ended_at=90.0)), took(make_run(started_at=0.0, ended_at=90.0, attempt=2))
    ('1 min 30 s', 'up to 1 min 30 s')
    """
    if run.ended_at is None:
        return "-"
    return ("up to " if run.attempt > 1 else "") + duration(run.ended_at - run.started_at)


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
                took(run),
                tokens(run.usage),
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
    """Show one run with its input, its output, its steps and its error. The beginning of its id is enough."""
    with opened(db, table, user_id) as database:
        located = database.run(run_id)
        run, storage, table_name = located.run, located.storage, located.storage.table_name
        applied = applied_version(storage, run)
        steps = storage.find_steps(run.owner, run.session_id, run.run_id, with_results=False)
    if as_json:
        shown = described(table_name, run)
        shown |= {"input": encoded(run.input), "output": encoded(run.output)}
        shown["steps"] = [step_json(step) for step in steps]
        shown["traceback"] = run.error.traceback if run.error else None
        shown |= {"refused_patch": encoded(run.refused_patch), "refused_version": run.refused_version}
        print_exact(shown | {"applied_version": applied})
        return
    _print_run(run)
    if steps:
        click.secho("steps:", bold=True)
        rows = [_step_row(*each) for each in zip(steps, names(steps, run), strict=True)]
        print_table(["  STEP", "SCOPE", "", "TOOK", "TOKENS", "COST"], rows)
    if run.refused_patch is not None:
        _print_refused(run.refused_patch, run.refused_version, applied)
        if applied is None and run.refused_version is not None:
            click.echo(click.style("apply them: ", bold=True) + apply_command(run, db=database.where, table=table_name))
    if may_be_resumed(run):
        click.echo(click.style("go on with it: ", bold=True) + failures.resume_command(run, db))


def _print_run(run: Run) -> None:
    print_facts(
        {
            "run": run.run_id,
            "session": run.session_id,
            "user": run.owner or "-",
            "workflow": run.workflow,
            "started": moment(run.started_at),
            "took": took(run),
            "used": f"{run.usage.requests} requests, {run.usage.input_tokens:,} tokens in, "
            f"{run.usage.output_tokens:,} out",
            "cost": spending(run.usage, run.savings),
            "from version": str(run.base_version),
        }
        | ({"attempt": f"{run.attempt}; the time between attempts is in what it took"} if run.attempt > 1 else {})
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


def step_json(step: StepRecord) -> dict[str, Any]:
    """The record of a step as JSON, without its result."""
    return {
        "number": step.number,
        "name": step.name,
        "scope": step.scope,
        "key": step.key.hex(),
        "parts": parts_of(step),
        "within": step.within or None,
        "hit": step.is_hit,
        "started_at": step.started_at,
        "seconds": step.seconds,
        "usage": usage_json(step.usage),
    }


def _step_row(step: StepRecord, name: str) -> list[str]:
    inset = "    " if step.within else "  "
    how = "hit" if step.is_hit else "computed"
    return [inset + name, step.scope, how, duration(step.seconds), tokens(step.usage), cost(step.usage.cost)]


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


command.add_command(resuming.resume)
