"""The backends by name, in the order of the table."""

from __future__ import annotations

from faults.places import Backend, Memory, SQLite

BACKENDS = ("memory", "SQLite in memory", "SQLite")


def backend_named(name: str) -> Backend:
    """A backend, started if it must be."""
    return SQLite() if name == "SQLite" else Memory(name)
