"""Questions before something is done that cannot be undone.

Rules that must stay true:
- nothing is assumed where nobody can be asked: then `--yes` has to be given.
"""

from __future__ import annotations

import sys

import click


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        click.UsageError: nobody can be asked and `--yes` was not given.
        click.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This cannot be undone; give --yes to do it without being asked.")
    click.confirm(question, abort=True, err=True)
