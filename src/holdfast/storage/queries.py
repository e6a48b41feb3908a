"""The named queries of `queries.sql`, bound to one table prefix and one connection.

Rules that must stay true:
- a value never becomes part of a statement: it is always bound;
- the prefix is the only text put into a statement, after `valid_table_name` accepted it;
- what databases do differently stands in the subclasses of `Statements`, in `sqlite.py` and `postgres.py`.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar

from holdfast.errors import HoldfastError, InvalidInput
from holdfast.storage.remembered import Remembered

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
def texts(table: str, written: Callable[[str], str]) -> Mapping[str, str]:
    """The queries of one table prefix by name.

    Args:
        table: the prefix.
        written: writes the text of a query as a database wants it.
    """
    with open(os.path.join(os.path.dirname(__file__), "queries.sql"), encoding="utf-8") as file:
        queries = parsed(file.read())
    return {name: written(text.replace("{table}", table)) for name, text in queries.items()}


class Statements(ABC):
    """The queries of one prefix on one connection, inside the transaction that is open there.

    Args:
        connection: an open connection of the database's driver.
        table: the prefix, "" for what belongs to the database as a whole.
        where: display name of the database.
        remembered: what is known of the prefix already.
    """

    __slots__ = ("_execute", "_texts", "connection", "remembered", "table", "where")

    dialect: ClassVar[str]
    """The folder of its migrations."""
    refusing: ClassVar[type[Exception] | tuple[()]] = ()
    """What is raised at once when a number that must be there is divided by nought."""

    def __init__(self, connection: Any, table: str, where: str, remembered: Remembered | None = None) -> None:
        self.connection = connection
        self.table = table
        self._execute: Callable[..., Any] = connection.execute
        self._texts = texts(table, self.written)
        self.where = where
        self.remembered = remembered or Remembered()

    def each(self, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Run a query and go through its rows."""
        return self._execute(self._texts[query], values)  # type: ignore[no-any-return]

    def all(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows."""
        return self._execute(self._texts[query], values).fetchall()  # type: ignore[no-any-return]

    @abstractmethod
    def in_parts(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Run a query without values and go through its rows, however many, of which few are in memory at a time.
        Others may be run in between."""

    def one(self, query: str, **values: Any) -> tuple[Any, ...] | None:
        """Run a query and return its only row, or None."""
        rows = self.all(query, **values)
        return rows[0] if rows else None

    def found(self, query: str, row: Sequence[Any]) -> tuple[Any, ...] | None:
        """Run a query with values in the order in which it asks for them, and return its only row, or None."""
        rows = self._execute(self._texts[query], row).fetchall()
        return rows[0] if rows else None

    def change(self, query: str, **values: Any) -> int:
        """Run a statement that changes rows and return how many it changed."""
        return self._execute(self._texts[query], values).rowcount  # type: ignore[no-any-return]

    def put(self, query: str, row: Sequence[Any]) -> int:
        """Run a statement with values in the order of its columns and return how many rows it changed."""
        return self._execute(self._texts[query], row).rowcount  # type: ignore[no-any-return]

    def send(self, query: str, row: Sequence[Any]) -> None:
        """Run a statement as `put` does, but without its answer, which a server need not be waited for."""
        self._execute(self._texts[query], row)

    def send_or_refuse(self, query: str, row: Sequence[Any], refusal: HoldfastError) -> None:
        """As `send`, for a statement that fails as a division by nought when it must not be done.

        Raises:
            HoldfastError: the refusal, here or by the end of the transaction.
        """
        try:
            self.send(query, row)
        except self.refusing:
            raise refusal from None

    def put_each(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row."""
        self.connection.executemany(self._texts[query], rows)

    @staticmethod
    @abstractmethod
    def written(query: str) -> str:
        """The text of a query as this database wants it."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since 1970 by the clock that all users of the database share."""

    @abstractmethod
    def names(self) -> set[str]:
        """The names of all tables, indexes and views, in lower case."""

    @abstractmethod
    def columns(self, table: str) -> list[str]:
        """The names of a table's columns, in order."""

    @abstractmethod
    def unsound(self) -> list[str]:
        """What the database itself finds wrong with its structure."""

    def undecodable_text_kept(self) -> AbstractContextManager[None]:
        """Read text that is not UTF-8 as lone surrogates instead of failing, if the database can hold such text."""
        return nullcontext()
