"""Single values that JSON cannot say, each as one tag object `{"$hf": [kind, ...]}`.

Rules that must stay true:
- an encoder returns the value itself when plain JSON says it exactly, else a tag, and equal values of one type
  always give the same tag;
- a decoder gives back exactly what was encoded, or raises ValueError, TypeError, ArithmeticError or LookupError;
- nothing depends on settings of the process: not on the decimal context, not on the limit of digits of an int.
"""

from __future__ import annotations

import binascii
import functools
import re
import struct
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar
from uuid import UUID, SafeUUID

from holdfast.paths import type_name
from holdfast.refusals import Refused
from holdfast.threads import importing

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

TAG = "$hf"
MARK = "$hf:"
"""What a key begins with whose own encoded text follows."""
MAX_DIGITS = 1_000
LOWEST, HIGHEST = -(2**63), 2**64 - 1
"""The ints that every JSON reader for 64 bits takes."""

_BOUND = 10**MAX_DIGITS
_NAN = struct.pack(">d", float("nan"))
_SURROGATE = re.compile(r"([\ud800-\udfff])")
_PAIR = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_Zoned = TypeVar("_Zoned", datetime, time)


class UnknownZone(LookupError):
    """This machine does not know a time zone."""


def tag(kind: str, *parts: Any) -> dict[str, Any]:
    """The tag object of one kind.

    >>> tag("uuid", "...")
    {'$hf': ['uuid', '...']}
    """
    return {TAG: [kind, *parts]}


def is_encodable(text: str) -> bool:
    """Whether a text is free of surrogates.

    >>> is_encodable("é"), is_encodable(chr(0xD800))
    (True, False)
    """
    return text.isascii() or _SURROGATE.search(text) is None


def _encode_int(value: int) -> Any:
    if LOWEST <= value <= HIGHEST:
        return value
    if not -_BOUND < value < _BOUND:
        raise Refused(f"int of more than {MAX_DIGITS:,} digits: store it as bytes or text")
    return tag("int", hex(value))


def _decode_int(text: str) -> int:
    value = int(text, 16) if len(text) <= MAX_DIGITS else _BOUND
    if not -_BOUND < value < _BOUND:
        raise ValueError("more digits than are written")
    return value


def _encode_float(value: float) -> Any:
    if isfinite(value):
        return value
    if not isnan(value):
        return tag("float", "inf" if value > 0 else "-inf")
    bits = struct.pack(">d", value)
    return tag("float", "nan" if bits == _NAN else bits.hex())


def _decode_float(text: str) -> float:
    if text in ("inf", "-inf", "nan"):
        return float(text)
    bits = bytes.fromhex(text)
    value: float = struct.unpack(">d", bits)[0] if len(bits) == len(_NAN) else 0.0
    if not isnan(value):
        raise ValueError("only a NaN is written by its bits")
    return value


def _encode_str(value: str) -> Any:
    if is_encodable(value):
        return value
    if _PAIR.search(value):
        # JSON text joins the two halves to one character, so that they would not come back as they are.
        raise Refused("str with a surrogate pair as two code points: join it to the one character it stands for")
    pieces = _SURROGATE.split(value)
    return tag("str", [ord(piece) if n % 2 else piece for n, piece in enumerate(pieces) if piece])


def _decode_str(pieces: list[str | int]) -> str:
    return "".join(chr(piece) if type(piece) is int else piece for piece in pieces)  # type: ignore[misc]


def _encode_bytes(value: bytes) -> Any:
    return tag("bytes", binascii.b2a_base64(value, newline=False).decode("ascii"))


def _decode_bytes(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


def _encode_zoned(kind: str, value: datetime | time) -> Any:
    zone = value.tzinfo
    marks: dict[str, Any] = {}
    if zone is UTC:
        pass  # by far the most frequent; its offset says it all
    elif type(zone) is timezone:
        marks = _offset_marks(zone, kind)
    elif _is_zone_info(zone):
        marks["zone"] = _zone_key(zone, kind)
    elif zone is not None:
        raise Refused(f"{kind} in a time zone of type {type_name(type(zone))}: use zoneinfo.ZoneInfo or a fixed offset")
    if "zone" in marks or "offset" in marks:
        # The mark tells it; an offset in the text would change with the time zone database.
        value = value.replace(tzinfo=None)
    if value.fold:
        marks["fold"] = 1
    return tag(kind, value.isoformat(), marks) if marks else tag(kind, value.isoformat())


def _offset_marks(zone: timezone, kind: str) -> dict[str, Any]:
    """What the offset in the text does not tell about a zone."""
    marks: dict[str, Any] = {}
    arguments: Any = zone.__reduce__()[1]
    offset, *names = arguments
    if offset.microseconds:
        # `fromisoformat` takes an offset below a second for none.
        marks["offset"] = [offset.days, offset.seconds, offset.microseconds]
    if names:
        (marks["name"],) = names
        if not is_encodable(marks["name"]):
            raise Refused(f"{kind} in a time zone whose name holds a surrogate: give the zone another name")
    return marks


def _is_zone_info(zone: object) -> TypeGuard[ZoneInfo]:
    """Whether it is exactly of this class, found out without importing it: that reads files of Python's build."""
    return type(zone) is getattr(sys.modules.get("zoneinfo"), "ZoneInfo", None)


def _zone_key(zone: ZoneInfo, kind: str) -> str:
    try:
        known = zone.key is not None and _ZONE_KEY.fullmatch(zone.key) and type(zone)(zone.key) is zone
    except (LookupError, ValueError):
        known = None
    if not known:
        raise Refused(f"{kind} in a ZoneInfo that its key does not stand for: make the zone with ZoneInfo(key)")
    return zone.key


def _decode_zoned(read: Callable[[str], _Zoned], text: str, marks: dict[str, Any] | None = None) -> _Zoned:
    value = read(text)
    marks = dict(marks or {})
    fold = marks.pop("fold", 0)
    if "zone" in marks:
        key = marks.pop("zone")
        if not _ZONE_KEY.fullmatch(key):
            raise ValueError("not the key of a time zone")
        value = value.replace(tzinfo=_zone(key))
    elif marks:
        offset = timedelta(*marks.pop("offset")) if "offset" in marks else value.utcoffset()
        if offset is None:
            raise ValueError("a named offset without the offset")
        name = (marks.pop("name"),) if "name" in marks else ()
        value = value.replace(tzinfo=timezone(offset, *name))
    if marks:
        raise ValueError("an unknown mark")
    return value.replace(fold=fold)


def _zone(key: str) -> ZoneInfo:
    zone_info = _zone_info()
    try:
        return zone_info(key)
    except LookupError as error:
        raise UnknownZone(key) from error


@functools.cache
def _zone_info() -> type[ZoneInfo]:
    with importing:
        from zoneinfo import ZoneInfo
    return ZoneInfo


def _encode_timedelta(value: timedelta) -> Any:
    return tag("timedelta", value.days, value.seconds, value.microseconds)


def _encode_decimal(value: Decimal) -> Any:
    # The context decides the case of the exponent's letter; no other text of a Decimal has an "e".
    return tag("decimal", str(value).replace("e", "E"))


def _encode_uuid(value: UUID) -> Any:
    if value.is_safe is SafeUUID.unknown:
        return tag("uuid", str(value))
    return tag("uuid", str(value), value.is_safe.name)


def _decode_uuid(text: str, is_safe: str = "unknown") -> UUID:
    return UUID(text, is_safe=SafeUUID[is_safe])


ENCODERS: dict[type, Callable[[Any], Any]] = {
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    bytes: _encode_bytes,
    datetime: lambda value: _encode_zoned("datetime", value),
    time: lambda value: _encode_zoned("time", value),
    date: lambda value: tag("date", value.isoformat()),
    timedelta: _encode_timedelta,
    Decimal: _encode_decimal,
    UUID: _encode_uuid,
}
"""By exact type: a value to plain JSON or to a tag. Raises `Refused`."""

DECODERS: dict[str, Callable[..., Any]] = {
    "int": _decode_int,
    "float": _decode_float,
    "str": _decode_str,
    "bytes": _decode_bytes,
    "datetime": lambda *parts: _decode_zoned(datetime.fromisoformat, *parts),
    "time": lambda *parts: _decode_zoned(time.fromisoformat, *parts),
    "date": date.fromisoformat,
    "timedelta": timedelta,
    "decimal": Decimal,
    "uuid": _decode_uuid,
}
"""By kind of tag: the parts after the kind to the value."""
