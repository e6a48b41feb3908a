"""Values of a session state as JSON text, exactly, and back.

Rules that must stay true:
- a value comes back as it went in, in type, order and bits, or it is refused with the path of everything in it that
  cannot be kept; equal values of one type give equal text;
- what plain JSON says exactly is plain JSON; all else is a tag, an object whose only key is `$hf`. A text without
  `"$hf` in it therefore means exactly what any JSON reader makes of it;
- the data decides nothing: no class is imported, evaluated or looked up beyond the declared ones;
- a dict with other keys than ordinary text stays an object: such a key is written as `$hf:` and its own text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from math import isfinite
from types import NoneType
from typing import Any, TypeVar

import msgspec

from holdfast.declared import NO_TYPES, Types
from holdfast.decoding import Decoding, parse_json
from holdfast.display import display
from holdfast.encoding import MAX_BYTES, MAX_DEPTH, MAX_KEY, Encoding, TooLarge
from holdfast.errors import MalformedData, UnstorableValue
from holdfast.paths import path_to, type_name
from holdfast.recursion import with_room
from holdfast.scalars import HIGHEST, LOWEST, TAG, tag
from holdfast.threads import others_may_change_values

__all__ = [
    "decode",
    "display",
    "encode",
    "encode_loosely",
    "encode_or_mark",
    "key_of",
    "name_of",
    "parse_json",
    "path_of",
    "stable",
    "stable_encode",
]

STABLE_TRIES = 10
PAUSE = 0.001
"""Seconds between two tries, more with each, in which the other thread may finish."""

MANY = 10_000
"""Containers of one level from which on it is worth looking whether they are the same few over and over."""

T = TypeVar("T")

_json = msgspec.json.Encoder()
_ORDINARY = frozenset({NoneType, bool, str, int, float, list, dict})

path_of = path_to


def encode(value: Any, types: Types = NO_TYPES, path: str = "session_state") -> bytes:
    """The JSON text of a value, in UTF-8.

    Args:
        value: any storable value.
        types: the classes whose instances may be stored.
        path: where the value is, for errors.

    Raises:
        UnstorableValue: with the path of, and the reason for, everything in the value that cannot be stored.

    >>> encode({"at": (1, 2.5)})
    b'{"at":{"$hf":["tuple",[1,2.5]]}}'
    """
    return with_room(_encode, value, types, path)


def stable_encode(value: Any, types: Types = NO_TYPES, path: str = "session_state") -> bytes:
    """As `encode`, and sound while other threads change the value: the text of one moment, or an error.

    Raises:
        UnstorableValue: as `encode`, or because the value did not stay the same for long enough.

    >>> stable_encode([1, 2])
    b'[1,2]'
    """
    return _stable(encode, value, types, path)


def encode_loosely(value: Any, types: Types = NO_TYPES, path: str = "content") -> bytes:
    """As `stable_encode`, with undeclared models, dataclasses and enums as plain data beside their class name.

    Raises:
        UnstorableValue: something else in the value cannot be stored.

    >>> from enum import Enum
    >>> encode_loosely(Enum("Colour", "RED").RED)
    b'{"$class":"Colour","name":"RED","value":1}'
    """
    return _stable(lambda *given: with_room(_encode, *given, loose=True), value, types, path)


def encode_or_mark(value: Any, types: Types = NO_TYPES) -> bytes:
    """As `encode_loosely`, with a mark that names the type in place of everything that cannot be stored.

    >>> encode_or_mark({"topic": "sqlite", "client": object()})
    b'{"topic":"sqlite","client":{"$hf":["omitted","object"]}}'
    """
    try:
        return _stable(lambda *given: with_room(_encode, *given, loose=True, mark=True), value, types, "")
    except UnstorableValue:
        return _json.encode(tag("omitted", type_name(type(value))))


def decode(data: bytes, types: Types = NO_TYPES, path: str = "session_state") -> Any:
    """The value that was encoded.

    Args:
        data: what `encode` returned.
        types: the classes whose instances may be in it.
        path: where the value belongs, for errors.

    Raises:
        UndeclaredType: the value holds an instance of a class that is not among the types.
        StateError: an instance cannot be made, because its class has changed, or its time zone is not known here.
        MalformedData: the text is not something that `encode` returns.

    >>> decode(b'{"at":{"$hf":["tuple",[1,2.5]]}}')
    {'at': (1, 2.5)}
    """
    try:
        return with_room(_decode, data, types, path)
    except RecursionError:
        raise MalformedData(where=path, what="it is nested too deeply") from None


def name_of(key: Any, types: Types = NO_TYPES, path: str = "session_state") -> str:
    """The name under which a key stands in the JSON object: itself, or text that begins with `$hf:`.

    Raises:
        UnstorableValue: there is none, because the key cannot be stored.

    >>> name_of("posts"), name_of(1), name_of(True), name_of((1, "a"))
    ('posts', '$hf:1', '$hf:true', '$hf:{"$hf":["tuple",[1,"a"]]}')
    """
    encoding = Encoding(types, root=key)
    try:
        name = with_room(encoding.name, key, (path,), 0)
    except TooLarge:
        raise _too_large(path) from None
    if encoding.problems:
        raise UnstorableValue(tuple(encoding.problems))
    return name


def key_of(name: str, types: Types = NO_TYPES, path: str = "session_state") -> Any:
    """The key that `name_of` gave this name.

    Raises:
        UndeclaredType, StateError, MalformedData: as `decode`.

    >>> key_of("posts"), key_of("$hf:1"), key_of("$hf:true")
    ('posts', 1, True)
    """
    if not name.startswith(TAG):
        return name
    key = with_room(Decoding(types).key, name, (path,))
    try:
        is_own = name_of(key, types, path) == name and isinstance(hash(key), int)
    except (UnstorableValue, TypeError):
        is_own = False
    if not is_own:  # by its key nobody would find it again, and another name could have the same one
        raise MalformedData(where=path, what="a key of it is not written as Holdfast writes it")
    return key


def _encode(value: Any, types: Types, path: str, *, loose: bool = False, mark: bool = False) -> bytes:
    data = _encode_plain(value)
    if data is None:
        data = _encode_tagged(value, types, path, loose, mark)
    if len(data) > MAX_BYTES:
        raise _too_large(path)
    return data


def _encode_plain(value: Any) -> bytes | None:
    """The text of a value that needs no tag; None when that is not certain."""
    if not _is_plain(value):
        return None
    try:
        data = _json.encode(value)
    except UnicodeEncodeError:
        return None
    # Only a key of that beginning needs care, but then so rarely is there any text like it.
    return None if _has_mark(data) else data


def _has_mark(data: bytes) -> bool:
    # One byte is found many times faster than four, and most texts have not even that.
    return b"$" in data and b'"$hf' in data


def _encode_tagged(value: Any, types: Types, path: str, loose: bool, mark: bool) -> bytes:
    # Text is looked through only after it has turned out that some of it cannot be written as it is.
    for check_text in (False, True):
        encoding = Encoding(types, loose=loose, check_text=check_text, root=value)
        try:
            tree = encoding.node(value, (path,), 0)
            data = _json.encode(tree)
        except TooLarge:
            raise _too_large(path) from None
        except UnicodeEncodeError:
            continue
        if encoding.problems and not mark:
            # A problem may be hidden behind text that was not looked through.
            if not check_text:
                continue
            raise UnstorableValue(tuple(encoding.problems))
        return data
    raise AssertionError("text that was looked through is encodable")  # pragma: no cover


def _too_large(path: str) -> UnstorableValue:
    return UnstorableValue(((path, f"is larger than {MAX_BYTES:,} bytes, encoded: keep it elsewhere, its name here"),))


def _is_plain(value: Any) -> bool:
    """Whether a value is made of ordinary built-ins only, level by level so that nearly all is done in C."""
    if type(value) is str or value is None or type(value) is bool:
        return True
    level = [value]
    left = MAX_BYTES
    for _ in range(MAX_DEPTH + 1):
        kinds = set(map(type, level))
        if not (kinds <= _ORDINARY and _numbers_fit(kinds, level)):
            return False
        lists = [item for item in level if type(item) is list] if list in kinds else []
        dicts = [item for item in level if type(item) is dict] if dict in kinds else []
        if (dicts and not _keys_fit(dicts)) or _repeats(lists) or _repeats(dicts):
            return False
        left -= _least_size(kinds, level, lists, dicts)
        if left < 0:
            return False
        if not lists and not dicts:
            return True
        level = list(chain.from_iterable(chain(lists, map(dict.values, dicts))))
    return False


def _least_size(kinds: set[type], level: list[Any], lists: list[Any], dicts: list[dict[Any, Any]]) -> int:
    """Bytes that a level takes at least: its texts and keys, and two for each value that its containers hold."""
    size = 2 * (sum(map(len, lists)) + sum(map(len, dicts))) + sum(map(len, chain.from_iterable(dicts)))
    if str in kinds:
        size += sum(map(len, level if len(kinds) == 1 else [item for item in level if type(item) is str]))
    return size


def _repeats(containers: list[Any]) -> bool:
    """Whether many containers are few objects, as in a cycle that branches: then levels grow without end."""
    return len(containers) > MANY and len(set(map(id, containers))) * 2 < len(containers)


def _keys_fit(dicts: list[dict[Any, Any]]) -> bool:
    kinds = set(map(type, chain.from_iterable(dicts)))
    return kinds <= {str} and max(map(len, set().union(*dicts)), default=0) <= MAX_KEY


def _numbers_fit(kinds: set[type], values: list[Any]) -> bool:
    """Whether plain JSON says all ints and floats among the values exactly."""
    if int in kinds:
        ints = [value for value in values if type(value) is int] if len(kinds) > 1 else values
        if min(ints) < LOWEST or max(ints) > HIGHEST:
            return False
    if float in kinds:
        floats = [value for value in values if type(value) is float] if len(kinds) > 1 else values
        # A NaN or an infinity never leaves a sum again, though a finite sum can overflow to one.
        return isfinite(sum(floats)) or all(map(isfinite, floats))
    return True


def stable(find: Callable[[], T], told: Callable[[T], Any], path: str) -> T:
    """What is found out about a value that other threads may be changing, once two looks in a row agree.

    Args:
        find: takes a look.
        told: what of that must agree.
        path: where the value is, for errors.

    Raises:
        UnstorableValue: it did not stay the same for long enough.

    >>> stable(lambda: [1], tuple, "n")
    [1]
    """
    if not others_may_change_values():
        return find()
    previous: Any = None
    for tried in range(STABLE_TRIES):
        if tried > 1:
            time.sleep(PAUSE * tried)
        try:
            found = find()
        except RuntimeError as error:
            if "during iteration" not in str(error):
                raise
            previous = None
            continue
        current = told(found)
        if current == previous:
            return found
        previous = current
    raise UnstorableValue(((path, "was being changed by another thread while it was saved"),))


def _stable(encoder: Callable[[Any, Types, str], bytes], value: Any, types: Types, path: str) -> bytes:
    return stable(lambda: encoder(value, types, path), bytes, path)


def _decode(data: bytes, types: Types, path: str) -> Any:
    tree = parse_json(data, path)
    if _has_mark(data):
        return Decoding(types).node(tree, (path,))
    return tree
