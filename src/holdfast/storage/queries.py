"""The named queries of `queries.sql`, bound to one table prefix and one connection.

Rules that must stay true:
- a value never becomes part of a statement: it is always bound;
- the prefix is the only text put into a statement, after `valid_table_name` accepted it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import InvalidInput
from holdfast.storage.remembered import Remembered

if TYPE_CHECKING:
    import sqlite3

NO_LIMIT = 2**62
"""Stands for "all rows" where a query has a LIMIT."""


def valid_table_name(name: str) -> str:
    """Check a table prefix and return it in lower case, as databases compare the names of tables.

    Raises:
        InvalidInput: it is not an identifier of ASCII letters, digits and `_`, has more than 48 characters, or
            begins with a name that SQLite or Holdfast keeps for itself.

    >>> valid_table_name("Blog_Posts")
    'blog_posts'
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,47}", name):
        raise InvalidInput(
            "table_name must be 1 to 48 ASCII letters, digits and underscores, not beginning with a digit."
        )
    if name.lower() == "sqlite" or name.lower().startswith("sqlite_"):
        raise InvalidInput("table_name must not begin with `sqlite`: SQLite keeps such names for itself.")
    return name.lower()


def parsed(text: str) -> dict[str, str]:
    """Split the text of a query file into its queries by name.

    >>> parsed("-- name: one\\n-- a comment\\nSELECT 1\\n\\n-- name: two\\nSELECT 2\\n")
    {'one': 'SELECT 1', 'two': 'SELECT 2'}
    """
    queries: dict[str, str] = {}
    for section in re.split(r"^-- name: *", text, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("\n")
        queries[name.strip()] = "\n".join(
            line for line in body.splitlines() if line.strip() and not line.startswith("--")
        )
    return queries


@cache
def _texts(table: str) -> Mapping[str, str]:
    source = Path(__file__).with_name("queries.sql").read_text(encoding="utf-8")
    return {name: text.replace("{table}", table) for name, text in parsed(source).items()}


class Statements:
    """The queries of one prefix on one connection, inside the transaction that is open there."""

    __slots__ = ("_connection", "_texts", "remembered", "where")

    def __init__(
        self, connection: sqlite3.Connection, table: str, where: str, remembered: Remembered | None = None
    ) -> None:
        self._connection = connection
        self._texts = _texts(table)
        self.where = where
        self.remembered = remembered or Remembered()

    def each(self, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Run a query and go through its rows."""
        return self._connection.execute(self._texts[query], values)

    def all(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        return self._connection.execute(self._texts[query], values).fetchall()

    def one(self, query: str, **values: Any) -> tuple[Any, ...] | None:
        """Run a query and return its only row, or None."""
        rows = self.all(query, **values)
        return rows[0] if rows else None

    def change(self, query: str, **values: Any) -> int:
        """Run a statement that changes rows and return how many it changed."""
        return self._connection.execute(self._texts[query], values).rowcount

    def put(self, query: str, row: Sequence[Any]) -> int:
        """Run a statement with values in the order of its columns and return how many rows it changed."""
        return self._connection.execute(self._texts[query], row).rowcount

    def put_each(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row."""
        self._connection.executemany(self._texts[query], rows)

    @contextmanager
    def undecodable_text_kept(self) -> Iterator[None]:
        """Read text that is not UTF-8 as lone surrogates instead of failing."""
        self._connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        try:
            yield
        finally:
            self._connection.text_factory = str

    def unsound(self) -> list[str]:
        """What the database itself finds wrong with its structure."""
        rows = self._connection.execute("PRAGMA integrity_check").fetchall()
        return [str(row[0]) for row in rows if row[0] != "ok"]
