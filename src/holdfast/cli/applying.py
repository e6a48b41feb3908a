"""`holdfast sessions apply`: what a run was refused, brought into its session by hand.

Rules that must stay true:
- what would change is shown before anything is committed; what overlaps is shown whole, place by place;
- nothing that overlaps is decided without being told how.
"""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli import changes
from holdfast.cli.asking import confirm
from holdfast.cli.database import Database, Located, narrowing_options, opened
from holdfast.cli.output import brief, encoded, json_option, note, print_exact, printable
from holdfast.display import display
from holdfast.errors import InvalidInput, RunNotFound
from holdfast.merging import Overlap
from holdfast.operations import encode_patch, pointer_of
from holdfast.records import Run
from holdfast.refused import Proposal, RefusedChanges, Winner


@click.command()
@click.argument("session_id")
@click.argument("run_id")
@narrowing_options
@click.option("--ours", is_flag=True, help="Where both changed one place, the refused changes win.")
@click.option("--theirs", is_flag=True, help="Where both changed one place, keep what is stored.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def apply(
    session_id: str,
    run_id: str,
    *,
    ours: bool,
    theirs: bool,
    yes: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Apply the changes that RUN_ID was refused because of a conflict.

    They are brought together with what was changed since. The beginning of the run's id is enough.
    """
    if ours and theirs:
        raise click.UsageError("Give one of --ours and --theirs: only one of them can win.")
    winner: Winner | None = "ours" if ours else "theirs" if theirs else None
    with opened(**where) as database:
        located = database.session(session_id)
        run = _run_of(Database(database.where, [located.storage], located.info.owner), session_id, run_id)
        refused = RefusedChanges(located.storage, run)
        proposal = refused.proposal(winner)
        is_undecided = proposal.overlaps and winner is None
        if not as_json:
            _print(located, run, proposal)
        if proposal.commit is not None and not is_undecided:
            confirm(f"Apply them to session {printable(session_id)} at version {proposal.version}?", yes)
        elif as_json and is_undecided:
            print_exact(_described(run, proposal, None))
        made = refused.commit(proposal)
    if as_json:
        print_exact(_described(run, proposal, made))
    elif made is not None and proposal.applied is None:
        note(f"applied as version {made}")


def _run_of(database: Database, session_id: str, run_id: str) -> Run:
    """The run of a session.

    Raises:
        RunNotFound: there is none.
        InvalidInput: it is of another session.
    """
    try:
        return database.run(run_id, session_id=session_id).run
    except RunNotFound:
        other = database.run(run_id).run
    raise InvalidInput(f"Run {other.run_id!r} is one of session {other.session_id!r}, not of {session_id!r}.")


def _described(run: Run, proposal: Proposal, made: int | None) -> dict[str, Any]:
    return {
        "session_id": run.session_id,
        "user_id": run.owner or None,
        "run_id": run.run_id,
        "refused_version": run.refused_version,
        "applied_to": proposal.version if proposal.applied is None else proposal.applied - 1,
        "version": made,
        "was_applied": proposal.applied is not None,
        "patch": encoded(encode_patch(proposal.operations)),
        "overlaps": [_overlap(overlap) for overlap in proposal.overlaps],
    }


def _overlap(overlap: Overlap) -> dict[str, Any]:
    """An overlap as JSON; a side that has nothing there is left out."""
    sides = {"base": overlap.base, "ours": overlap.ours, "theirs": overlap.theirs}
    place = {"path": pointer_of(tuple(map(str, overlap.path)))}
    return place | {name: encoded(data) for name, data in sides.items() if data is not None}


def _print(located: Located, run: Run, proposal: Proposal) -> None:
    if proposal.applied is not None:
        click.echo(f"was applied already, as version {proposal.applied}")
        return
    title = f"made from version {run.refused_version}, to be applied to version {proposal.version}"
    click.secho(title, bold=True)
    if proposal.overlaps and proposal.winner is None:
        for overlap in proposal.overlaps:
            _print_overlap(overlap)
        return
    if proposal.commit is None:
        click.echo("nothing to change")
        return
    before = changes.read_version(located, proposal.version)
    for line in changes.difference_lines(before, proposal.operations):
        click.echo(line)


def _print_overlap(overlap: Overlap) -> None:
    path = changes.shown_path(map(str, overlap.path))
    click.secho(f"! {printable(path)}", fg="magenta", bold=True)
    for name, data in (("base", overlap.base), ("ours", overlap.ours), ("theirs", overlap.theirs)):
        click.echo(f"    {name:7}" + ("(nothing)" if data is None else brief(display(data))))
