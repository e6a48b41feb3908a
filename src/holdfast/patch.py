"""RFC 6902 JSON Patch between encoded documents: made, written, and applied to encoded and to live values.

Rules that must stay true:
- a document is a dict of encoded values by name; applying the difference of two documents to the first gives the
  second byte for byte, order included;
- only what lies on the way to a change is decoded, and a tag object is never entered;
- live containers are changed in place, so that whoever holds one of them sees the change;
- an operation that does not fit raises `MalformedData` with its path; what was applied before it stays applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec

from holdfast import codec
from holdfast.declared import Types
from holdfast.difference import diff, displaced, elements, is_tag, members
from holdfast.errors import MalformedData
from holdfast.operations import Operation, Path, decode_patch, encode_patch, path_of, pointer_of
from holdfast.paths import SHOWN_STEPS, shorten
from holdfast.recursion import with_room
from holdfast.scalars import MARK

__all__ = [
    "Operation",
    "apply",
    "decode_patch",
    "diff",
    "displaced",
    "encode_patch",
    "graft",
    "is_index",
    "live_key",
    "path_of",
    "pointer_of",
    "require",
]

_writer = msgspec.json.Encoder()
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


def apply(document: dict[str, bytes], operations: Iterable[Operation]) -> None:
    """Apply operations to an encoded document, in place.

    Args:
        document: encoded values by name; values that no operation names are not touched.

    Raises:
        MalformedData: an operation does not fit.

    >>> document = {"n": b"1", "posts": b'["a"]'}
    >>> apply(document, [Operation("replace", ("n",), b"2"), Operation("add", ("posts", "-"), b'"b"')])
    >>> document
    {'n': b'2', 'posts': b'["a","b"]'}
    """
    for (name, nested), group in groupby(operations, key=lambda each: (each.path[:1], len(each.path) > 1)):
        if nested:
            require(name[0] in document, name)
            document[name[0]] = with_room(_edited, document[name[0]], list(group))
        else:
            for operation in group:
                require(len(operation.path) == 1, operation.path)
                _perform(document, operation.path[0], operation, operation.value)


def graft(live: Any, new: Any) -> Any:
    """Make the live container equal to `new` in place where both are of one type, and return what now holds it.

    >>> inner = [1, 2]
    >>> live = {"a": inner, "b": 0}
    >>> graft(live, {"a": [1, 2, 3]}) is live, live, inner
    (True, {'a': [1, 2, 3]}, [1, 2, 3])
    """
    if type(live) is not type(new) or live is new:
        return new
    if type(live) is dict:
        kept = {key: graft(live[key], value) if key in live else value for key, value in new.items()}
        live.clear()
        live.update(kept)
        return live
    if type(live) is list:
        common = [graft(old, value) for old, value in zip(live, new, strict=False)]
        live[:] = common + new[len(common) :]
        return live
    if type(live) is set:
        live.clear()
        live.update(new)
        return live
    return new


def _edited(data: bytes, operations: Sequence[Operation]) -> bytes:
    """One encoded value after operations inside it; all have the same first segment."""
    root: dict[str, Any] = {operations[0].path[0]: msgspec.Raw(data)}
    for parent, group in groupby(operations, key=lambda each: each.path[:-1]):
        holder: Any = root
        for depth, segment in enumerate(parent[:-1], 1):
            holder = _opened(holder, _raw_step(holder, segment, parent[:depth]), parent[:depth])
        step = _raw_step(holder, parent[-1], parent)
        batch = list(group)
        if _only_appends(holder[step], batch):
            holder[step] = _spliced(bytes(holder[step]), batch)
            continue
        container = _opened(holder, step, parent)
        for operation in batch:
            value = operation.value
            _perform(container, operation.path[-1], operation, None if value is None else msgspec.Raw(value))
    return _writer.encode(next(iter(root.values())))


def _only_appends(child: Any, batch: Sequence[Operation]) -> bool:
    """Whether a list that was not opened only grows. In an object `-` is a name as any other."""
    if type(child) is not msgspec.Raw or bytes(memoryview(child)[:1]) != b"[":
        return False
    return all(operation.op == "add" and operation.path[-1] == "-" for operation in batch)


def _spliced(data: bytes, appends: Sequence[Operation]) -> msgspec.Raw:
    """An encoded list with more elements at its end, made without reading those it has."""
    joined = b",".join(operation.value or b"" for operation in appends)
    return msgspec.Raw(b"".join((data[:-1], b"" if data == b"[]" else b",", joined, b"]")))


def _opened(holder: Any, step: Any, path: Path) -> Any:
    """The container at a step, its members encoded unless they were opened before."""
    child = holder[step]
    if type(child) is msgspec.Raw:
        data = bytes(child)
        is_list = data.startswith(b"[")
        require(is_list or (data.startswith(b"{") and not is_tag(data)), path)
        child = holder[step] = elements(data) if is_list else members(data)
    return child


def _raw_step(container: Any, segment: str, path: Path) -> str | int:
    if type(container) is list:
        return _index(segment, len(container), path)
    require(segment in container, path)
    return segment


def live_key(container: dict[Any, Any], name: str, types: Types) -> Any:
    """The key of this name: the very object in the container if it has one.

    >>> live_key({1: "a"}, "$hf:1", Types())
    1
    """
    key = codec.key_of(name, types)
    if name.startswith(MARK) and key not in container:
        # A NaN is equal to nothing, not even to the NaN that it was written from.
        return next((kept for kept in container if codec.name_of(kept, types) == name), key)
    return key


def _perform(container: Any, step: Any, operation: Operation, value: Any) -> None:
    """One operation on the container that it changes; for a list the step is a segment still."""
    if type(container) is list:
        _perform_on_list(container, step, operation, value)
        return
    require(operation.op == "add" or step in container, operation.path)
    if operation.op == "remove":
        del container[step]
    else:
        container[step] = graft(container[step], value) if operation.op == "replace" else value


def _perform_on_list(container: list[Any], segment: str, operation: Operation, value: Any) -> None:
    size = len(container)
    if operation.op == "add":
        at = size if segment == "-" else _index(segment, size + 1, operation.path)
        container.insert(at, value)
        return
    at = _index(segment, size, operation.path)
    if operation.op == "remove":
        del container[at]
    else:
        container[at] = graft(container[at], value)


def is_index(segment: str) -> bool:
    """Whether a segment is written as the index of an element.

    >>> is_index("10"), is_index("-"), is_index("01")
    (True, False, False)
    """
    return _INDEX.fullmatch(segment) is not None


def _index(segment: str, size: int, path: Path) -> int:
    require(is_index(segment), path)
    require(int(segment) < size, path)
    return int(segment)


def require(fits: bool, path: Path) -> None:
    """Raise MalformedData, which names the path without any value, unless an operation fits."""
    if not fits:
        # A name that stands for another key than plain text says what that key is, which is a value.
        shown = tuple(f"{MARK}..." if name.startswith(MARK) else shorten(name) for name in path[:SHOWN_STEPS])
        raise MalformedData(where=f"a patch at {pointer_of(shown)!r}", what="the document has no such place")
