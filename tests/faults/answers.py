"""Lost answers: a COMMIT of SQLite that fails although it was made, or is not made, so that nobody can tell."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


def dropping(dice: random.Random, share: float, note: Callable[[str], None]) -> type[sqlite3.Connection]:
    """A class of connections on which this share of the COMMITs that store a change fails, after a note."""

    class Dropping(sqlite3.Connection):
        has_change = False

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if "_patch" in statement and statement.startswith("INSERT"):
                self.has_change = True
            if statement == "COMMIT" and self.has_change and dice.random() < share:
                is_made = dice.random() < 0.5
                note("the answer to COMMIT" if is_made else "COMMIT itself")
                super().execute("COMMIT" if is_made else "ROLLBACK")
                lost = sqlite3.OperationalError("disk I/O error")
                lost.sqlite_errorname = "SQLITE_IOERR_FSYNC"
                raise lost
            if statement.startswith("BEGIN"):
                self.has_change = False
            return super().execute(statement, *values)

    return Dropping


@contextmanager
def dropped_answers(dice: random.Random, share: float, note: Callable[[str], None]) -> Iterator[None]:
    """Drop answers on every connection that is opened meanwhile."""
    if not share:
        yield
        return
    connect = sqlite3.connect
    factory = dropping(dice, share, note)
    with mock.patch.object(sqlite3, "connect", lambda *path, **options: connect(*path, factory=factory, **options)):
        yield
