"""The operations of a patch, and their text: a JSON Patch (RFC 6902) of `add`, `remove` and `replace`.

Rules that must stay true:
- a path is a tuple of the names and indexes as text, as RFC 6901 splits a pointer; `-` stands for the end of a list;
- a value is encoded text that is put into the patch, and taken out of it, byte for byte;
- what this library adds to an operation (`atom`, `disputed`) are members that RFC 6902 tells every reader to ignore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from holdfast.errors import MalformedData

Path = tuple[str, ...]

_STRAY_TILDE = re.compile(r"~(?![01])")


class Disputed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place that another run had changed as well when a refused patch was kept; a side without a value has none."""

    path: str
    """As a JSON pointer."""
    base: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    ours: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    theirs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Operation(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """One operation of a patch.

    Attributes:
        op: what to do.
        path: where, as the segments of a JSON pointer; the first one is the name of a top-level value.
        value: the encoded value, None for `remove`.
        atom: how many leading segments of the path lead to a container that was assigned whole, so that nobody
            else's changes may be mixed into it; 0 when there is none.
        disputed: on the first operation of a refused patch, the places at which it was made over what others had
            changed already, because it could not be kept otherwise.

    >>> Operation("add", ("posts", "-"), b'{"id":1}').path
    ('posts', '-')
    """

    op: Literal["add", "remove", "replace"]
    path: Path
    value: bytes | None = None
    atom: int = 0
    disputed: tuple[Disputed, ...] = ()


class _Written(msgspec.Struct):
    op: Literal["add", "remove", "replace"]
    path: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    atom: int | msgspec.UnsetType = msgspec.UNSET
    disputed: tuple[Disputed, ...] | msgspec.UnsetType = msgspec.UNSET


_writer = msgspec.json.Encoder()
_reader = msgspec.json.Decoder(list[_Written])


def pointer_of(path: Path) -> str:
    """A path as a JSON pointer.

    >>> pointer_of(("a/b", "m~n", "0"))
    '/a~1b/m~0n/0'
    """
    return "".join("/" + segment.replace("~", "~0").replace("/", "~1") for segment in path)


def path_of(pointer: str) -> Path:
    """A JSON pointer as a path.

    Raises:
        MalformedData: it is not the pointer of something inside a document.

    >>> path_of("/a~1b/m~0n/0")
    ('a/b', 'm~n', '0')
    """
    if not pointer.startswith("/") or _STRAY_TILDE.search(pointer):
        raise MalformedData(where="a patch", what="a path in it is not a JSON pointer to a value")
    return tuple(segment.replace("~1", "/").replace("~0", "~") for segment in pointer[1:].split("/"))


def encode_patch(operations: Iterable[Operation]) -> bytes:
    """Operations as the text of a JSON Patch.

    >>> encode_patch([Operation("replace", ("n",), b"2"), Operation("remove", ("posts", "0"))])
    b'[{"op":"replace","path":"/n","value":2},{"op":"remove","path":"/posts/0"}]'
    """
    return _writer.encode(
        [
            _Written(
                operation.op,
                pointer_of(operation.path),
                msgspec.UNSET if operation.value is None else msgspec.Raw(operation.value),
                operation.atom or msgspec.UNSET,
                operation.disputed or msgspec.UNSET,
            )
            for operation in operations
        ]
    )


def decode_patch(data: bytes) -> list[Operation]:
    """The operations that a JSON Patch consists of.

    Raises:
        MalformedData: it is not a patch, or has operations that Holdfast does not write.

    >>> decode_patch(b'[{"op":"remove","path":"/posts/0"}]')
    [Operation(op='remove', path=('posts', '0'))]
    """
    try:
        written = _reader.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MalformedData(where="a patch", what="it is not a JSON Patch of add, remove and replace") from None
    return [_operation(item) for item in written]


def _operation(item: _Written) -> Operation:
    value = None if isinstance(item.value, msgspec.UnsetType) else bytes(item.value)
    if (value is None) != (item.op == "remove"):
        raise MalformedData(where="a patch", what=f"an operation {item.op!r} has a value too many or too few")
    return Operation(item.op, path_of(item.path), value, item.atom or 0, item.disputed or ())
