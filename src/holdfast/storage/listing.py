"""The listing of a snapshot: for each top-level name, in order, which row holds its value.

Rules that must stay true:
- a listing says everything about its snapshot: the state at a snapshot is what its listing names, no more, no less;
- a row is made with the snapshot of its version, and stands in every later listing until the name gets a newer one
  or goes, so that the listings that refer to it are neighbours;
- the listing of one version of one incarnation never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from holdfast.errors import InvalidInput
from holdfast.records import Snapshot

E = TypeVar("E")


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of a listing."""

    name: str
    version: int
    """The snapshot whose row holds the value."""
    size: int
    digest: bytes
    """The SHA-256 of the value's data."""


Listing = Mapping[str, Entry]
"""The entries by name, in the order of the document."""

_encoded = msgspec.msgpack.Encoder().encode
_decoded = msgspec.msgpack.Decoder(list[Entry]).decode


def encoded(listing: Listing) -> bytes:
    """A listing as it is stored.

    >>> listing = {"a": Entry("a", 1, 2, b"digest")}
    >>> decoded(encoded(listing)) == listing
    True
    """
    return _encoded(tuple(listing.values()))


def decoded(data: bytes) -> Listing:
    """A listing from what `encoded` made of it.

    Raises:
        msgspec.DecodeError: it made something else.
    """
    return {entry.name: entry for entry in _decoded(data)}


def following(snapshot: Snapshot, new: Iterable[E], newest: Mapping[str, E]) -> dict[str, E]:
    """The listing of a new snapshot.

    Args:
        snapshot: as it was committed.
        new: the entries of `snapshot.values`, in their order.
        newest: the newest listing of the session, empty when it has none.

    Raises:
        InvalidInput: a name appears twice, has no entry in either, or has a value without being listed.

    >>> snapshot = Snapshot(("b", "a"), ())
    >>> following(snapshot, [], {"a": 1, "b": 2, "c": 3})
    {'b': 2, 'a': 1}
    """
    entries = {value.name: entry for value, entry in zip(snapshot.values, new, strict=True)}
    known = {**newest, **entries}
    try:
        listing = {name: known[name] for name in snapshot.names}
    except KeyError:
        raise InvalidInput("Snapshot.names has a name with neither a value in it nor one stored before.") from None
    if len(listing) < len(snapshot.names) or len(entries) < len(snapshot.values):
        raise InvalidInput("Snapshot.names and the names of Snapshot.values must each appear once.")
    if not entries.keys() <= listing.keys() or any(value.data is None for value in snapshot.values):
        raise InvalidInput("Each of Snapshot.values must have its data, and its name in Snapshot.names.")
    return listing
