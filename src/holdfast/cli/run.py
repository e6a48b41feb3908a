"""`holdfast run TARGET`: any workflow as a command, with the parameters of its `run()` as options.

Rules that must stay true:
- it uses nothing but what every caller of a workflow has;
- text is printed as it comes; closing the pipe or Ctrl-C ends the run in order, and what it did is kept.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
from click.core import ParameterSource

from holdfast.caching import CONTROLS
from holdfast.cli import failures
from holdfast.cli.database import writable, writing_options
from holdfast.cli.exit_status import INTERRUPTED
from holdfast.cli.output import json_option, note, print_json, printable, readable, spending
from holdfast.cli.parameters import option_for
from holdfast.errors import HoldfastError, InvalidInput, RunNotResumable, RunTakenOver, StorageError
from holdfast.response import RunEvent, RunResponse
from holdfast.storage.base import Storage
from holdfast.workflow import Workflow

_COMPLETED: Final = (RunEvent.run_completed, RunEvent.workflow_completed)


@dataclass(frozen=True, slots=True)
class Action:
    """What a command does with a workflow and the arguments of its `run()`."""

    perform: Callable[[type[Workflow], dict[str, Any], dict[str, Any]], None]
    """Called with the class, the arguments and the values of `options`."""
    options: Callable[[Any], Any]
    """Adds the options that stand on either side of TARGET."""


class Targets(click.Group):
    """A group in which every workflow that can be imported is a command, named by where it is."""

    def __init__(self, *args: Any, action: Action, **options: Any) -> None:
        super().__init__(*args, **options)
        self.action = action

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        try:
            return command_for(load(cmd_name), cmd_name, self.action)
        except HoldfastError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost boundary: the user's module cannot be imported
            ctx.exit(failures.tell(error, whole=bool(ctx.params.get("traceback"))))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return []


def session_options(function: Any, *, session: str = "The session to run in; else a new one.") -> Any:
    """Add what every run takes: `session_id`, `user_id`, `db`, `table`, `as_json` and `traceback`.

    Args:
        function: the command.
        session: the help of `--session-id`.
    """
    chosen = click.option("--session-id", metavar="ID", help=session)
    user = click.option("--user-id", metavar="ID", help="Whose session it is; else nobody's.")
    traceback = click.option("--traceback", is_flag=True, help="Show the full traceback when the run fails.")
    return chosen(user(writing_options(json_option(traceback(function)))))


def cache_options(function: Any) -> Any:
    """Add what every run takes for results of steps that are kept: `use_cache`, `refresh` and `only_if_cached`."""
    for option in (
        click.option("--only-if-cached", is_flag=True, default=None, help="Fail instead of computing what is kept."),
        click.option("--refresh", is_flag=True, default=None, help="Compute anew what is kept for later runs."),
        click.option(
            "--use-cache/--no-use-cache", default=None, help="Use, and keep, results of steps for later runs."
        ),
    ):
        function = option(function)
    return function


def load(target: str) -> type[Workflow]:
    """The workflow class that a target names.

    Raises:
        InvalidInput: there is no such file, module or class, or it is not a workflow.
    """
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise InvalidInput(f"{target!r} does not name a workflow. Write file.py:Class or package.module:Class.")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, Workflow)):
        known = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Workflow)]
        listed = ", ".join(key for key in known if key != "Workflow") or "none"
        raise InvalidInput(f"{place} has no workflow class {name!r}. It has: {listed}.")
    return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    # As `python file.py` would: the file's neighbours can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that is there but imports one that is not shall show its own traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InvalidInput(f"There is no module {name!r} in this folder or on the path.") from error


def command_for(cls: type[Workflow], target: str, action: Action) -> click.Command:
    """The command that does something with a workflow, with an option for each parameter of its `run()`."""
    parameters = [
        parameter
        for parameter in list(inspect.signature(cls.run).parameters.values())[1:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    function = inspect.unwrap(cls.run)
    options = [option_for(parameter, function) for parameter in parameters]
    taken = {name for option in options for name in [*option.opts, *option.secondary_opts]}
    names = [parameter.name for parameter in parameters]

    @click.pass_context
    def invoke(ctx: click.Context, /, **given: Any) -> None:
        assert ctx.parent is not None
        # What was left out is not passed, so that the default of run() itself holds.
        said = {name for name in given if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        arguments = {name: given[name] for name in names if name in said}
        own = said.difference(names)
        settings = {name: given[name] if name in own else value for name, value in ctx.parent.params.items()}
        action.perform(cls, arguments, settings)

    made = click.Command(target, callback=invoke, params=[*options], help=inspect.getdoc(function) or cls.description)
    made.help = (made.help or f"Run {cls.__name__}.").partition("\nArgs:")[0].strip()
    for option in action.options(lambda: None).__click_params__[::-1]:
        if not taken & set(option.opts):
            made.params.append(option)
    return made


def run(cls: type[Workflow], arguments: dict[str, Any], settings: dict[str, Any]) -> None:
    """Run a workflow once and print what it hands out.

    Args:
        cls: the workflow.
        arguments: of its `run()`.
        settings: `session_id`, `user_id`, `db`, `table`, `as_json`, `traceback`, and what `cache_options` adds.
    """
    # One that has a parameter of that name is given it as an argument.
    controls = {name: settings[name] for name in CONTROLS if settings[name] is not None}
    with storage_for(cls, settings["db"], settings["table"]) as (storage, db):

        def make() -> Workflow:
            return cls(session_id=settings["session_id"], user_id=settings["user_id"] or None, storage=storage)

        target = click.get_current_context().info_name
        perform(make, lambda workflow: workflow.run(**{**controls, **arguments}), settings, db, target)


def perform(
    make: Callable[[], Workflow],
    call: Callable[[Workflow], Any],
    settings: dict[str, Any],
    db: str | None,
    target: str | None,
) -> None:
    """Run a workflow and print what it hands out, and at the end what that cost.

    Args:
        make: makes the object.
        call: begins its run.
        settings: `as_json` and `traceback`.
        db, target: the names of the database and of the class, as for `failures.tell_run`.
    """
    show = print_response_json if settings["as_json"] else Text()
    workflow: Workflow | None = None
    try:
        workflow = make()
        note(f"session: {printable(workflow.session_id)}")
        hand_out(call(workflow), _noticing_closed_output(show))
    except OutputClosed as closed:
        assert workflow is not None
        failures.tell_run(workflow, db, target, cancelled="whoever read its output")
        raise closed.reason from None  # click knows how to end a program whose output is closed
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost boundary: the failure is told
        _end(show)
        interrupted = isinstance(error, KeyboardInterrupt)
        status = INTERRUPTED if interrupted else failures.tell(error, whole=settings["traceback"])
        # Of a run that is in the hands of others nobody can say here that it has failed.
        if workflow is not None and not isinstance(error, RunNotResumable | RunTakenOver):
            failures.tell_run(workflow, db, target, cancelled="Ctrl-C" if interrupted else None)
        click.get_current_context().exit(status)
    _end(show)
    if workflow.run_id is not None:  # else nothing ran: it had completed
        note(f"run: {workflow.run_id}")
        _tell_cost(workflow)


def _tell_cost(workflow: Workflow) -> None:
    """Say what the run used and saved, if it did."""
    try:
        found = workflow.storage.find_runs(
            workflow.user_id or "", session_id=workflow.session_id, run_id=workflow.run_id
        )
    except StorageError as error:
        note(f"what it cost could not be looked up: {error}")
        return
    for record in found:
        if record.usage.requests or record.savings.hits:
            note(spending(record.usage, record.savings))


@contextmanager
def storage_for(cls: type[Workflow], db: str | None, table: str | None) -> Iterator[tuple[Storage, str | None]]:
    """The storage to run in: what `db` and `table` name, else what the class declares, else the default.

    Yields:
        the storage, and the name of its database, as `failures.tell_run` takes it.
    """
    declared = getattr(cls, "storage", None)
    if declared is None or db is not None or table is not None:
        with writable(db, table) as storage:
            yield storage, db
    else:
        where = str(getattr(declared, "where", type(declared).__name__))
        note(f"database: {where}, as {cls.__name__} declares it")
        yield declared, where if Path(where).is_absolute() else ""


class OutputClosed(Exception):
    """Nobody reads what the run prints. A broken pipe of the user's own code is another matter."""

    def __init__(self, reason: BrokenPipeError) -> None:
        super().__init__(reason)
        self.reason = reason


def _noticing_closed_output(show: Callable[[RunResponse], None]) -> Callable[[RunResponse], None]:
    def shown(response: RunResponse) -> None:
        try:
            show(response)
        except BrokenPipeError as error:
            raise OutputClosed(error) from error

    return shown


def _end(show: Callable[[RunResponse], None]) -> None:
    if isinstance(show, Text):
        show.end()


def hand_out(result: Any, show: Callable[[RunResponse], None]) -> None:
    """Show every response of a run, whichever kind of function `run()` is."""
    if isinstance(result, Iterator):
        with closing(result):  # type: ignore[type-var]
            for response in result:
                show(response)
    elif isinstance(result, AsyncIterator):
        asyncio.run(_hand_out_async(result, show))
    elif isinstance(result, Coroutine):
        show(asyncio.run(result))
    else:
        show(result)


async def _hand_out_async(result: Any, show: Callable[[RunResponse], None]) -> None:
    async with aclosing(result):
        async for response in result:
            show(response)


def print_response_json(response: RunResponse) -> None:
    """Print one response as one line of JSON."""
    print_json(response.to_dict())
    sys.stdout.flush()


class Text:
    """Prints responses as text: pieces of text joined as they come, everything else on lines of its own.

    The whole text that a completing event repeats is not printed again.
    """

    def __init__(self) -> None:
        self._text = ""

    def __call__(self, response: RunResponse) -> None:
        content = response.content
        if content is None or content == "":
            return
        if not isinstance(content, str):
            self.end()
            click.echo("\n".join(readable(response.to_dict()["content"])))
            return
        if response.event in _COMPLETED:
            if self._text.endswith(content):
                return
            self.end()
        self._text += content
        click.echo(printable(content, lines=True), nl=False)

    def end(self) -> None:
        """End a line that is still open."""
        if self._text and not self._text.endswith("\n"):
            click.echo()
        self._text = ""


def run_options(function: Any) -> Any:
    """Add what `holdfast run` takes beside the parameters of `run()`."""
    return session_options(cache_options(function))


@click.group("run", cls=Targets, action=Action(run, run_options), subcommand_metavar="TARGET [ARGUMENTS OF run()]...")
@run_options
def command(**_: Any) -> None:
    """Run a workflow: file.py:Class or package.module:Class.

    The parameters of its run() become options: `holdfast run blog.py:BlogPostGenerator --help` lists them. The options
    below may stand on either side of TARGET; where run() has a parameter of the same name, they stand before it.
    """
