"""What a value is, as 32 bytes that are the same in every process.

Rules that must stay true:
- equal values have one digest, whatever the process, its hash seed and the order of a dict or set; a list and a tuple
  of the same are equal on purpose, because JSON turns one into the other; `1`, `True`, `1.0` and `"1"` are four values;
- what has no identity that lasts is refused with its path; nothing is left out in silence;
- which of the two ways a value takes, one call in C for plain values or the walk for all others, depends on what
  it is, never on which objects it is made of; the two never give the same digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from itertools import chain
from math import isfinite
from types import NoneType
from typing import Any, Final

import msgspec

from holdfast.encoding import MAX_BYTES, MAX_DEPTH
from holdfast.pieces import Unidentified, Walk
from holdfast.recursion import with_room
from holdfast.scalars import HIGHEST, LOWEST

__all__ = ["Unidentified", "combine", "digest", "digest_or_none", "identity"]

MANY: Final = 2_000_000
"""Values, counted in each place where they stand, from which on a value is walked, which visits an object once."""
FEW: Final = 64
"""Values in one level of nesting up to which their text is not measured."""
_PLAIN_PREFIX: Final = b"holdfast key 1 plain\0"
_WALKED_PREFIX: Final = b"holdfast key 1 walked\0"

_json = msgspec.json.Encoder(order="deterministic")
_TEXT = {str}
_PLAIN = frozenset({NoneType, bool, str, int, float, list, tuple, dict})
_NUMBERS = frozenset({int, float})
_CONTAINERS = frozenset({list, tuple, dict})
_LISTS = (list, tuple)


def digest(value: Any, path: str, step: str) -> bytes:
    """The identity of a value.

    Args:
        value: built-ins, and what is made of them: pydantic models, dataclasses, enums, named tuples, dates, decimals,
            UUIDs, paths (their text), numpy arrays, compiled patterns, classes (their name), messages of pydantic-ai
            (what the model is told of them), a `RunResponse` (its content only: for a history give its messages), and
            anything whose class has a method `__cache_key__()` that returns such a value.
        path: where the value is, for errors, such as `"argument topic"`.
        step: the name of the step, for errors.

    Returns:
        32 bytes.

    Raises:
        StepKeyError: something in the value has no identity; it names the path.

    >>> digest({"a": 1, "b": (2, 3)}, "argument x", "write") == digest({"b": [2, 3], "a": 1}, "argument x", "write")
    True
    >>> digest({1: "a"}, "argument x", "write") == digest({"1": "a"}, "argument x", "write")
    False
    >>> digest(["a", print], "argument x", "write")
    Traceback (most recent call last):
        ...
    holdfast.errors.StepKeyError: argument x[1] of step 'write' is code ...
    """
    try:
        # Nearly all that steps are given is text, which JSON says whatever is in it.
        return _plain(value) if type(value) is str else identity(value, path)
    except UnicodeEncodeError:
        return identity(value, path)
    except Unidentified as problem:
        raise problem.error(step) from None


def digest_or_none(value: Any) -> bytes | None:
    """As `digest`; None for a value that has no identity.

    >>> digest_or_none(object()) is None
    True
    """
    try:
        return identity(value, "value")
    except Unidentified:
        return None


def identity(value: Any, path: str) -> bytes:
    """As `digest`, for callers that do not know the step yet.

    Raises:
        Unidentified: something in the value has no identity.
    """
    return with_room(_identity, value, path)


def combine(parts: Iterable[bytes]) -> bytes:
    """One digest for several of them, in their order.

    >>> combine([b"a", b"b"]) == combine([b"ab"])
    False
    """
    return sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).digest()


def _identity(value: Any, path: str) -> bytes:
    if _is_plain(value):
        try:
            return _plain(value)
        except UnicodeEncodeError:
            pass  # half a character, which the walk can say
    return sha256(_WALKED_PREFIX + Walk().node(value, (path,), 0)).digest()


def _plain(value: Any) -> bytes:
    return sha256(_PLAIN_PREFIX + _json.encode(value)).digest()


def _is_plain(value: Any) -> bool:
    """Whether JSON says all of the value, level by level so that nearly all is done in C."""
    level = [value]
    left, room = MANY, MAX_BYTES
    for _ in range(MAX_DEPTH + 1):
        kinds = set(map(type, level))
        if not kinds <= _PLAIN or not (kinds.isdisjoint(_NUMBERS) or _numbers_fit(kinds, level)):
            return False
        if str in kinds and len(level) > FEW:
            room -= sum(map(len, level if len(kinds) == 1 else [item for item in level if type(item) is str]))
        if kinds.isdisjoint(_CONTAINERS):
            return room >= 0
        lists = [item for item in level if type(item) in _LISTS] if list in kinds or tuple in kinds else []
        if dict in kinds:
            dicts = [item for item in level if type(item) is dict]
            if set(map(type, chain.from_iterable(dicts))) - _TEXT:
                return False
            if len(dicts) > FEW:
                room -= sum(map(len, chain.from_iterable(dicts)))
            lists += map(dict.values, dicts)
        if room < 0 or (len(lists) > FEW and sum(map(len, lists)) > left):
            return False
        level = list(chain.from_iterable(lists))
        left -= len(level)
        if left < 0:
            return False
    return False


def _numbers_fit(kinds: set[type], level: list[Any]) -> bool:
    if int in kinds:
        ints = [item for item in level if type(item) is int]
        if min(ints) < LOWEST or max(ints) > HIGHEST:
            return False
    return float not in kinds or all(map(isfinite, [item for item in level if type(item) is float]))
