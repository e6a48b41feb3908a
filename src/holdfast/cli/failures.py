"""How the failure of a run is told: what to do about it, wherever that is known, and else where it is.

Rules that must stay true:
- an error of ours, or one that carries a note of ours, is told without its traceback, unless that is asked for;
- a traceback of the user's code has the user's frames and not the machinery around them; what was raised, and
  what caused it, is never left out;
- nothing of it can steer the terminal.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.database import shown
from holdfast.cli.exit_status import FAILED, exit_status
from holdfast.cli.output import brief, note, printable
from holdfast.codec import encode_or_mark
from holdfast.display import display
from holdfast.errors import CacheMiss, HoldfastError, StorageError
from holdfast.run_function import may_be_resumed

if TYPE_CHECKING:
    from holdfast.records import Run
    from holdfast.workflow import Workflow

MAX_LINES: Final = 25
"""Lines of a traceback, unless all of it is asked for."""

MAX_WIDTH: Final = 60
"""Characters of an argument."""

_OUR_NOTE: Final = "Holdfast"
_RAISING: Final = ("holdfast", "pydantic_ai", "pydantic_graph")
"""Packages whose frames are left out, unless the error comes from one of them."""
_CARRYING: Final = ("click", "anyio", "asyncio", "concurrent", "contextlib", "threading", "importlib")
"""Packages whose frames stand between the command and the user's code."""


def tell(error: BaseException, *, whole: bool = False) -> int:
    """Say on stderr what was raised, and return the exit status for it.

    Args:
        error: what the run raised.
        whole: with its full traceback, whatever it is.
    """
    click.secho(printable("\n".join(lines(error, whole=whole)), lines=True), err=True, fg="red")
    return exit_status(error) if isinstance(error, HoldfastError) else FAILED


def tell_run(workflow: Workflow, db: str | None, target: str | None, *, cancelled: str | None = None) -> None:
    """Say on stderr which run ended so, if it was recorded, where to read on, and what goes on with it.

    Args:
        workflow: the object that ran.
        db: the database's name; None if the commands find it by themselves, "" if they cannot look at it.
        target: what names its class; None if the commands find it by themselves.
        cancelled: by what the run was ended, if it did not fail; then what is saved is said as well.
    """
    owner, run_id = workflow.user_id or "", workflow.run_id
    try:
        session_id = workflow.session_id
        recorded = () if run_id is None else workflow.storage.find_runs(owner, session_id=session_id, run_id=run_id)
        heads = workflow.storage.find_sessions(owner, session_id=session_id)
    except StorageError as error:
        note(f"run {run_id} could not be looked up: {error}")
        return
    word = "cancelled" if cancelled else "failed"
    if cancelled:
        saved = f"is saved at version {heads[0].version}" if heads else "has nothing saved"
        note(f"cancelled by {cancelled}; session {printable(workflow.session_id)} {saved}")
    for run in recorded:
        note(f"run {run_id} {word}" + ("" if db == "" else f"; {_command('show', run, db)}"))
        if db != "" and may_be_resumed(run):
            note(f"to go on with it: {resume_command(run, db, target)}")


def resume_command(run: Run, db: str | None, target: str | None = None) -> str:
    """The command that goes on with a run.

    Args:
        run: one that may be resumed.
        db: the database's name; None if the commands find it by themselves.
        target: what names its class; None if the commands find it by themselves.
    """
    return _command("resume", run, db, target)


def _command(what: str, run: Run, db: str | None, target: str | None = None) -> str:
    words = ["holdfast", "runs", what, run.run_id]
    words += [] if target is None else [target]
    words += [] if db is None else ["--db", shown(db)]
    return printable(shlex.join(words))


def lines(error: BaseException, *, whole: bool = False) -> list[str]:
    """What was raised, as lines.

    >>> from holdfast.errors import InvalidInput
    >>> lines(InvalidInput("There is no file notes.py."))
    ['Error: There is no file notes.py.']
    >>> error = ValueError("401")
    >>> error.add_note("Holdfast: the server refused the key.")
    >>> lines(error)
    ['ValueError: 401', 'Holdfast: the server refused the key.']
    """
    if whole:
        return "".join(traceback.format_exception(error)).splitlines()
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if isinstance(error, HoldfastError):
        given = _given(error) if isinstance(error, CacheMiss) else ()
        return [f"Error: {error}", *given, *notes]
    if any(note.startswith(_OUR_NOTE) for note in notes):
        return [f"{type(error).__name__}: {error}", *notes]
    told = traceback.TracebackException.from_exception(error)
    for each in _chain(told):
        _leave_out_machinery(each)
    found = "".join(told.format()).splitlines()
    if len(found) <= MAX_LINES:
        return found
    left_out = len(found) - MAX_LINES
    return [f"... {left_out} lines are left out; --traceback shows them", *found[-MAX_LINES:]]


def _given(error: CacheMiss) -> Iterator[str]:
    """What a step was given, as it is shown of a run: the message has no values, for logs are read by others."""
    for name, value in error.arguments.items():
        yield f"  {name}: {brief(display(encode_or_mark(value)), MAX_WIDTH)}"


def _chain(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """An exception, what caused it, and what it is a group of."""
    yield told
    for inner in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if inner is not None:
            yield from _chain(inner)


def _leave_out_machinery(told: traceback.TracebackException) -> None:
    frames = list(told.stack)
    if not frames or _is_of(frames[-1].filename, _RAISING):
        return
    kept = [frame for frame in frames if not _is_of(frame.filename, (*_RAISING, *_CARRYING))]
    told.stack = traceback.StackSummary.from_list(kept or frames)


def _is_of(filename: str, packages: tuple[str, ...]) -> bool:
    return filename.startswith("<frozen ") or any(Path(filename).is_relative_to(place) for place in _places(packages))


def _places(packages: tuple[str, ...]) -> Iterator[Path]:
    """The folder of each package, or the file of each module, that is loaded."""
    for name in packages:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            yield Path(file).parent if Path(file).name == "__init__.py" else Path(file)
