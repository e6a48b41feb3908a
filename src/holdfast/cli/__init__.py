"""The command `holdfast`.

Rules that must stay true:
- a command's module is imported when that command is used, so that help is fast and needs no model package;
- results go to stdout; everything else, errors included, goes to stderr;
- every HoldfastError ends as a sentence and the exit status that `exit_status` gives its class;
- reading commands never create or change a database.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import click

from holdfast import __version__
from holdfast.cli.exit_status import INTERRUPTED, exit_status
from holdfast.errors import HoldfastError

__all__ = ["main"]

COMMANDS: Final = {
    "quickstart": "Research TOPIC, write a post about it, and find it again on the next call.",
    "run": "Run a workflow: file.py:Class or package.module:Class.",
    "plan": "Say what a run would find and what it would compute, without running it.",
    "sessions": "List, show, compare, mend, copy, export, import and delete sessions.",
    "runs": "List runs, show one, and go on with one that did not end well.",
    "cache": "List, show, explain, thin and clear the results of steps that are kept for later runs.",
    "doctor": "Check the installation, the database and the model configuration.",
}


class Commands(click.Group):
    """A group whose commands live in modules of their own, `holdfast.cli.NAME`, as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"holdfast.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            click.secho(f"Error: {error}", err=True, fg="red")
            ctx.exit(exit_status(error))
        except KeyboardInterrupt:
            click.secho("Interrupted.", err=True, fg="red")
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="holdfast %(version)s")
def command() -> None:
    """Session state for AI workflows that is never lost.

    The database is --db (a file or a URL), else HOLDFAST_DB, else holdfast.db in the working folder.
    """


def main() -> None:
    """What the installed `holdfast` script calls."""
    # A pipe or a terminal of another encoding must not break a command over one character of the stored text.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    command(prog_name="holdfast")
