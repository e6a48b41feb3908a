"""Where sessions are kept while something is done to them, and what they hold in the end.

A backend makes new, empty places. What a case may ask of a place is its URL and storages on it; whatever needs more,
the file of a database say, names the backends that have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from faults.history import Event, Final, anomalies, events
from holdfast.records import Change
from holdfast.storage.base import Storage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.stored import recent
from holdfast.workflow import Workflow

LOG = "log"
"""The top-level key of the list of tokens."""


class Place(NamedTuple):
    """One table prefix of one database."""

    url: str
    table: str
    folder: Path
    """For the notes of the writers."""

    @contextmanager
    def storage(self, **options: Any) -> Iterator[SqlWorkflowStorage]:
        """A storage on this place, closed at the end."""
        with closing(SqlWorkflowStorage(db_url=self.url, table_name=self.table, **options)) as storage:
            yield storage

    @property
    def file(self) -> Path:
        """The file of a SQLite database."""
        return Path(self.url.removeprefix("sqlite:///"))


class Backend(Protocol):
    """A kind of database."""

    name: str

    def place(self, folder: Path) -> Place:
        """A new, empty place; the folder is new and empty too."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


class SQLite:
    """Database files."""

    name = "SQLite"

    def place(self, folder: Path) -> Place:
        """A file in the folder."""
        return Place(f"sqlite:///{folder / 'sessions.db'}", "t", folder)

    def close(self) -> None:
        """Nothing was started."""


class Memory:
    """What is kept in memory has no place that others could find."""

    def __init__(self, name: str) -> None:
        self.name = name

    def place(self, folder: Path) -> Place:
        """Only a folder."""
        return Place("", "", folder)

    def close(self) -> None:
        """Nothing was started."""


def tokens_of(patch: bytes) -> tuple[str, ...]:
    """The tokens that a change added to the list.

    >>> tokens_of(b'[{"op":"add","path":"/log","value":["a"]},{"op":"add","path":"/log/-","value":"b"}]')
    ('a', 'b')
    """
    found: list[str] = []
    for operation in json.loads(patch):
        if operation["path"].split("/")[1] == LOG:
            value = operation["value"]
            found += value if isinstance(value, list) else [value]
    return tuple(found)


def final(storage: Storage, session: str) -> Final:
    """What a session holds, read as a new process would."""
    recent.forget(storage)
    changes: tuple[Change, ...] = storage.changes("", session) if storage.load("", session) else ()
    state = Workflow(session_id=session, storage=storage).session_state
    return Final(
        versions=tuple(tokens_of(change.patch) for change in changes),
        state=tuple(state.get(LOG, ())),
        numbers=tuple(change.version for change in changes),
    )


def judged(place: Place, sessions: Iterable[str], notes: Iterable[Path]) -> tuple[list[str], int]:
    """What is wrong with the sessions of a place, given the notes of its writers; and how many commits they were
    acknowledged."""
    histories = [events(path) for path in notes]
    with place.storage() as storage:
        finals = {session: final(storage, session) for session in sessions}
        found = [f"damage: {finding.where}: {finding.what}" for finding in storage.check()]
    found += anomalies(histories, finals)
    return found, acknowledged(histories)


def acknowledged(histories: Iterable[Iterable[Event]]) -> int:
    """How many commits were acknowledged."""
    return sum(event.kind == "ok" for events in histories for event in events)
