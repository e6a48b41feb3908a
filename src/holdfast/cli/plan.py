"""`holdfast plan TARGET`: what a run would find and what it would compute, without running it.

Rules that must stay true:
- it takes what `holdfast run` takes, and only reads;
- what is unknown is said to be, and counts as something that may have to be paid for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from holdfast.cli import failures
from holdfast.cli.calls import names
from holdfast.cli.database import DEFAULT_TABLE, opened
from holdfast.cli.output import (
    cost,
    duration,
    moment,
    note,
    print_json,
    print_table,
    printable,
    spending,
    tokens,
    usage_json,
)
from holdfast.cli.run import Action, Targets, session_options
from holdfast.cli.runs import step_json
from holdfast.planning import Plan, plan
from holdfast.records import Usage
from holdfast.storage.base import Storage
from holdfast.workflow import Workflow

_COLOURS: Final = {"hit": "green", "miss": "yellow", "runs": "blue", "unknown": "magenta"}


def show(cls: type[Workflow], arguments: dict[str, Any], settings: dict[str, Any]) -> None:
    """Say what a run would find and compute.

    Args:
        cls: the workflow.
        arguments: of its `run()`.
        settings: what `plan_options` adds.
    """
    try:
        with _readable_storage(cls, settings["db"], settings["table"]) as storage:
            user_id, session_id = settings["user_id"] or None, settings["session_id"]
            found = plan(cls, arguments, storage=storage, user_id=user_id, session_id=session_id)
    except Exception as error:  # noqa: BLE001 - the outermost boundary: what the user's class raised is told
        click.get_current_context().exit(failures.tell(error, whole=settings["traceback"]))
    if settings["as_json"]:
        print_json(described(found))
    elif found is None:
        note("no recorded run of this input: every step would be computed")
    else:
        _print(found)


@contextmanager
def _readable_storage(cls: type[Workflow], db: str | None, table: str | None) -> Iterator[Storage]:
    """The storage that `holdfast run` would use, which is there already.

    Raises:
        DatabaseNotFound, InvalidInput: it is not.
    """
    declared = getattr(cls, "storage", None)
    if declared is not None and db is None and table is None:
        db, table = getattr(declared, "url", "sqlite://"), getattr(declared, "table_name", None)
        if db == "sqlite://":  # in the memory of this process, if it is a database at all
            yield declared
            return
    with opened(db, table or DEFAULT_TABLE) as database:
        yield database.storages[0]


def described(found: Plan | None) -> dict[str, Any]:
    """A plan as JSON; without a run that it goes by, there is nothing known of any step."""
    if found is None:
        return {"run_id": None, "session_id": None, "steps": []}
    steps = []
    for each in found.steps:
        told = step_json(each.record)
        was_hit = told.pop("hit")
        steps.append(told | {"was_hit": was_hit, "verdict": each.verdict, "reason": each.reason})
    known, unknown, saved = found.cost("miss", "runs"), found.cost("unknown"), found.cost("hit")
    return {
        "run_id": found.run.run_id,
        "session_id": found.run.session_id,
        "steps": steps,
        "hiding": list(found.hiding),
        "spends": {"seconds": known.seconds, "usage": usage_json(known.usage)},
        "may_spend": {"seconds": unknown.seconds, "usage": usage_json(unknown.usage)},
        "saves": {"seconds": saved.seconds, "usage": usage_json(saved.usage)},
    }


def _print(found: Plan) -> None:
    run = found.run
    note(f"as run {run.run_id} of session {printable(run.session_id)}, {run.status}, started {moment(run.started_at)}")
    if not found.steps:
        note("it had no steps")
        return
    rows = [
        [
            ("  " if each.record.within else "") + name,
            each.record.scope,
            each.verdict,
            duration(each.record.seconds),
            tokens(each.record.usage),
            cost(each.record.usage.cost),
            each.reason,
        ]
        for each, name in zip(found.steps, names([each.record for each in found.steps], run), strict=True)
    ]
    print_table(["STEP", "SCOPE", "WOULD BE", "TOOK", "TOKENS", "COST", "WHY"], rows)
    unknown = found.cost("unknown")
    known, saved = found.cost("miss", "runs"), found.cost("hit")
    click.echo(f"as of last time: {spending(known.usage, saved)}" + _possibly(unknown.hits, unknown.usage))
    if found.hiding:
        listed = ", ".join(f"`{printable(name)}`" for name in found.hiding)
        note(f"give {listed} a cache= beyond its run, and plans look through it")


def _possibly(steps: int, usage: Usage) -> str:
    """What steps of which nothing is known may cost."""
    return f" · {steps} unknown step(s) for {cost(usage.cost)}" if steps else ""


def plan_options(function: Any) -> Any:
    """Add what `holdfast plan` takes beside the parameters of `run()`."""
    return session_options(function, session="The session that it would run in; else that of the last such run.")


@click.group(
    "plan", cls=Targets, action=Action(show, plan_options), subcommand_metavar="TARGET [ARGUMENTS OF run()]..."
)
@plan_options
def command(**_: Any) -> None:
    """Say what a run would find and what it would compute, without running it.

    It goes by the last recorded run of the same workflow, user, session (if one is given) and input, and asks for each
    of its steps whether the result would be found with the code and the agents as they are now: "hit", "miss" with the
    reason, "runs" where results are recorded for resuming only, "unknown" where it depends on what is computed anew.
    """
