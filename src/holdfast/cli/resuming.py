"""`holdfast runs resume`: goes on with a run that failed, was cancelled, or whose process died.

Rules that must stay true:
- which code runs is said by the user: by TARGET, or by what stands in the folder that the command is called in; the
  name that a database has for a workflow only selects among these files;
- files are read for that, and not imported: nothing runs before it is known what is to be run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from holdfast.cli.database import narrowing_options, opened
from holdfast.cli.output import json_option, note, printable
from holdfast.cli.run import load, perform
from holdfast.errors import InvalidInput
from holdfast.records import Run, RunStatus


@click.command()
@click.argument("run_id")
@click.argument("target", required=False)
@narrowing_options
@json_option
@click.option("--traceback", is_flag=True, help="Show the full traceback when the run fails.")
def resume(
    run_id: str,
    target: str | None,
    *,
    db: str | None,
    table: str | None,
    user_id: str | None,
    as_json: bool,
    traceback: bool,
) -> None:
    """Go on with a run that did not end well; steps that it had finished are not computed again.

    TARGET is file.py:Class or package.module:Class. Without it, the only class of the recorded name in the .py files
    of this folder is taken.
    """
    with opened(db, table, user_id) as database:
        located = database.run(run_id)
        run, storage = located.run, located.storage
        target = target if target is not None else _target_of(run)
        cls = load(target)
        if run.status is RunStatus.completed:
            note(f"run {run.run_id} has completed: this is its recorded result")
        perform(
            lambda: cls(session_id=run.session_id, user_id=run.owner or None, storage=storage),
            lambda workflow: workflow.resume(run.run_id),
            {"as_json": as_json, "traceback": traceback},
            db,
            target,
        )


def _target_of(run: Run) -> str:
    """The only class of the run's workflow in this folder.

    Raises:
        InvalidInput: there is none, or several.
    """
    found = list(targets(run.workflow, Path()))
    if len(found) == 1:
        note(f"target: {printable(found[0])}")
        return found[0]
    name = printable(run.workflow)
    if not found:
        raise InvalidInput(
            f"No .py file of this folder has a class {name} with a run(). Say which class is to go on: "
            f"holdfast runs resume {run.run_id} file.py:Class"
        )
    raise InvalidInput(
        f"{len(found)} classes could be workflow {name}: {', '.join(map(printable, found))}. Say which one is to go "
        f"on: holdfast runs resume {run.run_id} {printable(found[0])}"
    )


def targets(name: str, folder: Path) -> Iterator[str]:
    """The classes with a `run()` in the files of a folder whose workflow has this name, as TARGETs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "notes.py").write_text("class Notes(Workflow):\\n    def run(self): ...\\n")
    ...     [Path(target).name for target in targets("Notes", Path(folder))]
    ['notes.py:Notes']
    """
    for path in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError) as error:
            note(f"{printable(str(path))} is left out: it cannot be read as Python ({type(error).__name__})")
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and _has_run(node) and _name_of(node) == name:
                yield f"{path}:{node.name}"


def _has_run(node: ast.ClassDef) -> bool:
    return any(isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name == "run" for inner in node.body)


def _name_of(node: ast.ClassDef) -> str:
    """What a workflow of this class is called: what its body says, else the name of the class."""
    name: Any = node.name
    for inner in node.body:
        targets = inner.targets if isinstance(inner, ast.Assign) else [getattr(inner, "target", None)]
        value = getattr(inner, "value", None)
        if isinstance(value, ast.Constant) and any(isinstance(to, ast.Name) and to.id == "name" for to in targets):
            name = value.value
    return str(name)
