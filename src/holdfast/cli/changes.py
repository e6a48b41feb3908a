"""Stored documents and their changes, for people to read and exactly.

Rules that must stay true:
- for people, values are shown as `display` renders them, which needs none of the types that a workflow declares;
- a difference shows what was before beside what is now, also inside a value that itself moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import click
import msgspec

from holdfast import codec, patch
from holdfast.cli.database import Located
from holdfast.cli.output import brief, encoded, printable
from holdfast.display import display, display_name
from holdfast.errors import SessionDeleted, SessionNotFound
from holdfast.records import SessionInfo
from holdfast.stored import StoredDocument

_SIGNS: Final = {"add": ("+", "green"), "remove": ("-", "red"), "replace": ("~", "yellow")}


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a session, encoded: names and values in order."""

    info: SessionInfo
    values: dict[str, bytes]

    @property
    def exact(self) -> dict[str, Any]:
        """The state as it is stored, for `print_exact`."""
        return {name: encoded(data) for name, data in self.values.items()}

    @property
    def displayed(self) -> dict[str, Any]:
        """The state for people."""
        return {display_name(name): display(data) for name, data in self.values.items()}


def read_version(located: Located, at: int | None = None) -> Version:
    """Read one version of a session whole, the newest if not said otherwise.

    Raises:
        VersionNotKept: it is not kept.
        SessionNotFound: it was deleted meanwhile.
        CorruptData: a checksum does not match.
    """
    owner, session_id = located.info.owner, located.info.session_id
    stored = located.storage.load(owner, session_id, at=at)
    if stored is None:
        raise SessionNotFound(session_id=session_id, where=located.storage.where)
    document = StoredDocument.of(stored)

    def read(name: str) -> bytes:
        values = located.storage.read_values(
            owner, session_id, [name], incarnation=document.incarnation, at=document.snapshot_version
        )
        if name not in values:
            raise SessionDeleted(session_id=session_id)
        return values[name]

    return Version(stored.info, {name: document.encoded(name, read) for name in document.names()})


def shown_path(path: Iterable[str]) -> str:
    """The path of an operation; `-` at its end stands for the end of a list.

    >>> shown_path(("blog_posts", "-"))
    'blog_posts/-'
    """
    return "/".join(display_name(segment) for segment in path)


def lines(operations: Iterable[patch.Operation], width: int = 100) -> Iterator[str]:
    """One coloured line for each operation: its sign, its path and its new value."""
    for operation in operations:
        sign, colour = _SIGNS[operation.op]
        value = "" if operation.value is None else "  " + brief(display(operation.value), width)
        yield click.style(f"  {sign} {printable(shown_path(operation.path))}", fg=colour) + value


def difference(old: Version, new: Version) -> list[patch.Operation]:
    """What makes the values of one version out of those of another."""
    return patch.diff(old.values, new.values)


def difference_lines(old: Version, operations: Iterable[patch.Operation], width: int = 100) -> Iterator[str]:
    """Lines for each operation, with the value before and the value after it."""
    values = dict(old.values)
    for operation in operations:
        sign, colour = _SIGNS[operation.op]
        yield click.style(f"{sign} {printable(shown_path(operation.path))}", fg=colour, bold=True)
        if operation.op != "add":
            before = brief(value_at(values, operation.path), width)
            yield click.style(f"    - {before}", fg="red")
        if operation.value is not None:
            after = brief(display(operation.value), width)
            yield click.style(f"    + {after}", fg="green")
        patch.apply(values, [operation])


def value_at(values: dict[str, bytes], path: tuple[str, ...]) -> Any:
    """The displayed value at a path of a document."""
    value = codec.parse_json(values[path[0]])
    for segment in path[1:]:
        value = value[int(segment)] if isinstance(value, list) else value[segment]
    return display(msgspec.json.encode(value))
