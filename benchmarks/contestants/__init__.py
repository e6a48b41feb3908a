"""What is compared: one module for each library, used as its own documentation recommends, with its own settings.

A contestant is a class that is opened on a `Target`. Each of its methods is one run of a workflow, by a new object
where the library has one for each run, and returns once the library says that the change is stored.

Rules that must stay true:
- only the standard library and the contestant's own packages are imported, for each runs in an environment of its own;
- whatever the library raises is raised; what it has no means for stays `NotImplementedError`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

SMALL: dict[str, Any] = {"owner": "ada", "counter": 0}
"""Small keys that a seeded session has beside its items."""


class Failed(RuntimeError):
    """What a run raises that is to fail."""


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

    def url(self, driver: str = "") -> str:
        """For SQLAlchemy, with the name of a driver for SQLite if need be; psycopg for PostgreSQL."""
        if self.database == "postgres":
            return self.where.replace("postgresql://", "postgresql+psycopg://")
        return f"sqlite{driver}:///{self.where}"


class Sessions:
    """What is measured; an item is a dict with "id" and "text"."""

    def append(self, session: str, item: dict[str, Any]) -> None:
        """Add an item at the end of a list in the session."""
        raise NotImplementedError

    def set(self, session: str, key: str, value: Any) -> None:
        """Read the small key "owner", and set another one."""
        raise NotImplementedError

    def find(self, session: str, name: str) -> str:
        """The text of the item with this id."""
        raise NotImplementedError

    def fail(self, session: str, item: dict[str, Any]) -> None:
        """Append an item, then raise `Failed`."""
        raise NotImplementedError

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        """Append each item and yield something after each."""
        raise NotImplementedError

    def die(self, session: str, item: dict[str, Any]) -> None:
        """Append an item in a first step, and be killed in a second one."""
        raise NotImplementedError

    def declare(self, types: tuple[type, ...]) -> None:
        """Which classes of one's own are put into sessions, for a library that wants to be told."""

    def put(self, session: str, value: Any) -> None:
        """Set the key "sibling" to 1, and "value" to something odd."""
        raise NotImplementedError

    def seed(self, session: str, items: list[dict[str, Any]]) -> None:
        """Begin a session that has these items and `SMALL`; never measured."""
        raise NotImplementedError

    def read(self, session: str) -> Mapping[str, Any]:
        """The whole state, with the list as "items", as the library hands it to a run; never a run itself."""
        raise NotImplementedError

    def kept(self, session: str) -> list[str] | int:
        """The ids of the items that are stored, or how many there are."""
        return [item["id"] for item in self.read(session).get("items", [])]

    def close(self) -> None:
        """Let go of the database."""
        raise NotImplementedError


class StoredAtOnce(Sessions):
    """Those whose every append is stored by itself, whatever becomes of the code that makes it."""

    def fail(self, session: str, item: dict[str, Any]) -> None:
        self.append(session, item)
        raise Failed

    def stream(self, session: str, items: list[dict[str, Any]]) -> Iterator[Any]:
        for item in items:
            self.append(session, item)
            yield item["id"]

    def die(self, session: str, item: dict[str, Any]) -> None:
        self.append(session, item)
        killed()


class Steps:
    """A step that returns 1,000 characters, and its cache."""

    def seconds(self, topics: list[str]) -> float:
        """How long it takes to ask for each of these in turn, in one run if the library has runs."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the database."""


def computed(topic: str) -> str:
    """What a step computes."""
    return topic[:0] + "x" * 1_000


def killed() -> None:
    """End this process at once, as if the power of its machine had failed."""
    os.kill(os.getpid(), signal.SIGKILL)
