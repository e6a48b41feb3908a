"""What is compared under contention: one module for each library, used as its own documentation recommends.

A contestant is a class that is opened on a `Target` and then does one operation again and again:

    contestant = Appending(target)
    contestant.append(session_id, item)     one small item at the end of a list in the session
    contestant.kept(session_id)             the ids of the items that are stored, or how many there are
    contestant.close()

Rules that must stay true:
- only the standard library and the contestant's own packages are imported, for each runs in an environment of its own;
- `append` returns once the library says that the item is stored, and raises whatever the library raises.
"""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """Where a contestant keeps its data: an empty folder, or an empty schema of a PostgreSQL database."""

    database: str
    """"sqlite" or "postgres"."""
    where: str
    """The path of the database file, or the URL."""
    schema: str = ""
    """Of PostgreSQL, where the tables are to be; the URL's search path leads to it as well."""
    synchronous: str = "FULL"
    """Of SQLite."""
