"""Hostile values: each comes back exactly as it went in, or is refused with its path.

Rules that must stay true:
- the numbers are those of the published catalogue and never change their meaning;
- a factory makes a new value each time, to be kept as one top-level value of a session state that declares
  `DECLARED`; what is not a value (files, imports, ids) is tested where it lives;
- `same` is the oracle: type, order and bits, never plain equality.
"""

from __future__ import annotations

import collections
import copy
import datetime as dt
import enum
import functools
import pathlib
import struct
import threading
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from holdfast.codec import encode
from holdfast.declared import Types


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Kind(enum.StrEnum):
    NEWS = "news"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: Any = None


@dataclass(frozen=True, slots=True)
class Version:
    major: int
    tags: tuple[str, ...] = ()


@dataclass
class Source:
    url: str
    kind: Kind
    versions: list[Version] = field(default_factory=list)
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.seen += 1

    @functools.cached_property
    def host(self) -> str:
        return self.url.split("/")[2]


class Article(BaseModel):
    title: str = Field(alias="headline", default="")
    at: dt.datetime | None = None
    source: Source | None = None
    colour: Colour = Colour.RED


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    name: str
    _seen: int = PrivateAttr(default=0)


class Undeclared(BaseModel):
    name: str = "secret-canary"


@dataclass
class UndeclaredRecord:
    name: str = "secret-canary"


class UndeclaredPoint(NamedTuple):
    x: int


class UndeclaredColour(enum.Enum):
    RED = 1


DECLARED: tuple[Any, ...] = (list[Article] | None, Loose, Point, Level, Permission)
"""What the workflow declares; Source, Version, Kind and Colour are covered by the fields of Article."""

TYPES = Types(DECLARED)


class LyingDict(dict[Any, Any]):
    def items(self) -> Any:
        return []


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Items(list[Any]):
    pass


class Zone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1)

    def tzname(self, when: dt.datetime | None) -> str:
        return "secret-canary"

    def dst(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)


def nan_with_bits(bits: str) -> float:
    value: float = struct.unpack(">d", bytes.fromhex(bits))[0]
    return value


def nested(depth: int) -> Any:
    """So many lists one in another."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def cycle() -> Any:
    value: dict[str, Any] = {"inner": []}
    value["inner"].append(value)
    return value


def shared() -> Any:
    one = [1]
    return [one, one]


def nothing() -> Iterator[int]:
    yield 1


def article() -> Article:
    made = Article.model_construct(title="A", at=dt.datetime(2026, 1, 31, tzinfo=dt.UTC))
    made.source = Source("https://example.org/a", Kind.NEWS, [Version(1, ("x",))])
    return made


def loose() -> Loose:
    made = Loose(name="n", later={"$hf": 1})
    made._seen = 3
    return made


def host_asked() -> Source:
    made = Source("https://example.org/a", Kind.NEWS)
    assert made.host == "example.org"
    return made


def with_attribute() -> Any:
    made = Source("u", Kind.NEWS)
    made.client = object()  # type: ignore[attr-defined]
    return made


class Hostile(NamedTuple):
    """One entry: its number, a name, a factory, R (comes back) or E (refused), and what the error must say."""

    number: int
    name: str
    make: Callable[[], Any]
    verdict: str = "R"
    said: str = ""


def _value(number: int, name: str, value: Any) -> Hostile:
    return Hostile(number, name, lambda: copy.deepcopy(value))


CATALOGUE: list[Hostile] = [
    _value(1, "true, one and one point nought", [True, 1, 1.0, False, 0, 0.0]),
    _value(2, "above 2^53", 2**53 + 1),
    _value(3, "2^63", [2**63 - 1, 2**63, -(2**63)]),
    _value(4, "2^64", [2**64 - 1, 2**64]),
    _value(5, "below -2^63", -(2**63) - 1),
    _value(6, "a big int", [10**400, -(10**999), 10**1000 - 1]),
    Hostile(7, "an int whose repr fails", lambda: {"n": [0, 10**5000]}, "E", "['n'][1]: int of more than 1,000 digits"),
    _value(8, "minus nought", [-0.0, 0.0]),
    _value(9, "the smallest float", 5e-324),
    _value(10, "a large float", [1.797e308, -1.7976931348623157e308]),
    _value(11, "1e22", [1e22, 1e16, 123456789012345680.0]),
    _value(12, "NaN", [float("nan"), nan_with_bits("fff8000000000000"), nan_with_bits("7ff8000000000abc")]),
    _value(13, "infinity", float("inf")),
    _value(14, "minus infinity", [1.5, float("-inf")]),
    Hostile(16, "decimals", lambda: [*map(Decimal, ("1.10", "-0", "NaN", "-sNaN12", "1E+5", "0E-9", "Infinity"))]),
    Hostile(17, "complex", lambda: {"z": 1j}, "E", "['z']: complex cannot be stored: store the tuple"),
    _value(18, "int keys", {1: "a", -5: "b", 2**70: "c"}),
    _value(19, "one beside its text", {1: "a", "1": "b"}),
    _value(20, "bool keys", {True: "a", False: "b"}),
    _value(21, "None as key", {None: 1, "null": 2}),
    _value(22, "float keys", {1.5: "a", -0.0: "b", float("inf"): "c"}),
    Hostile(23, "NaN as key", lambda: {float("nan"): 1}),
    Hostile(
        23, "two NaN keys", lambda: {"d": {float("nan"): 1, float("nan"): 2}}, "E", "['d']: two keys that are stored"
    ),
    _value(24, "tuple keys", {(1, "a"): 1, (): 2, ((None,), b"x"): 3}),
    _value(25, "bytes keys", {b"": 1, b"\xff": 2}),
    _value(26, "the empty key", {"": {"": 1}}),
    Hostile(27, "a key of 1 MB", lambda: {"d": {"k" * 2**20: 1}}, "E", "['d']: a key of 1,048,576 characters"),
    _value(28, "both normal forms", {"\u00e9": 1, "e\u0301": 2}),
    _value(29, "keys with syntax", {"a.b": 1, "$eq": 2, "~": 3, "/": 4, "~1": 5, "a/b~c": 6, '"': 7, "\\": 8}),
    _value(30, "keys with underscores", {"__class__": 1, "__proto__": {"x": 1}}),
    _value(31, "the reserved tag", {"$hf": ["tuple", [1]], "$hf:": 1, "$hf:1": 2, "$hfx": 3, "$h": 4}),
    _value(31, "the reserved tag as text", ["$hf", '{"$hf":["set",[]]}', '"$hf']),
    Hostile(32, "100,000 keys", lambda: {f"k{n}": n for n in range(100_000)}),
    _value(34, "order of keys", {"b": 1, "a": 2, "c": {"z": 1, "y": 2}}),
    _value(35, "NUL", "a\0b\0"),
    _value(36, "NUL key", {"\0": 1, "a\0b": 2}),
    _value(37, "a high surrogate", "a\ud800b"),
    _value(38, "a low surrogate", ["\udfff", "\udfff\ud800"]),
    _value(39, "surrogate keys", {"\ud800": 1, "x\udc00": {"\ud800": [2]}}),
    _value(39, "surrogates in a set", {"\ud800", "a\udc00", "b"}),
    Hostile(40, "a surrogate pair", lambda: {"t": ["\ud83d\ude00"]}, "E", "['t'][0]: str with a surrogate pair"),
    _value(41, "astral", "😀𝒳"),
    _value(42, "non-characters", "\ufffe\uffff"),
    _value(43, "line separators", "\u2028\u2029"),
    _value(44, "byte order mark", "\ufeffx"),
    _value(45, "bidi", "\u202eabc\u2066"),
    _value(46, "control characters", "\x1b[31m\x80\x9f\x7f"),
    _value(47, "line ends", "a\r\nb\rc\n"),
    _value(48, "an escape as text", r"\u0000 \ud800 \n"),
    _value(49, "markup", "</script><!--"),
    _value(50, "SQL", "'; DROP TABLE x; -- \" ` %s ?"),
    _value(51, "templates", ["{{7*7}}", "${jndi:ldap://x}", "%(x)s", "{0.__class__}"]),
    _value(52, "a LangChain constructor", {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"x": 1}}),
    Hostile(53, "64 MB of text", lambda: "x" * 64_000_000, "E", "is larger than 64,000,000 bytes"),
    _value(54, "tuples", [(), (1,), ((1, [2]), {"a": (3,)})]),
    _value(55, "sets", [set(), {1, 2.5, "a", None, (1,), b"x"}]),
    _value(56, "frozensets", [frozenset(), frozenset({frozenset({1}), "a"})]),
    Hostile(56, "sets with NaN", lambda: {float("nan"), float("nan"), 1}),
    _value(57, "bytes", [b"", b"\0\xff", bytes(range(256))]),
    Hostile(
        58, "bytearray", lambda: [bytearray(b"x")], "E", "[0]: bytearray cannot be stored: convert it with bytes(...)"
    ),
    Hostile(58, "memoryview", lambda: [memoryview(b"x")], "E", "[0]: memoryview cannot be stored"),
    _value(59, "UTC and naive times", [dt.datetime(2026, 1, 31, 12, 5, 0, 7), dt.datetime(1, 1, 1, tzinfo=dt.UTC)]),
    Hostile(
        60,
        "time zones",
        lambda: [
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=-5, minutes=-30))),
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(seconds=3661, microseconds=5))),
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(microseconds=1))),
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(microseconds=-1), "just before")),
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(0), "UTC")),
            dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
            dt.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
            dt.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
            dt.datetime(2026, 1, 31, tzinfo=zoneinfo.ZoneInfo("UTC")),
            dt.datetime(9999, 12, 31, 23, 59, 59, 999999, fold=1),
            dt.time(1, 2, 3, 4, tzinfo=dt.UTC, fold=1),
            dt.time(1, 2, tzinfo=zoneinfo.ZoneInfo("Etc/GMT+1")),
        ],
    ),
    Hostile(
        60,
        "a time zone of one's own",
        lambda: {"at": dt.datetime(2026, 1, 31, tzinfo=Zone())},
        "E",
        "['at']: datetime in a time zone of type Zone",
    ),
    _value(
        61, "dates", [dt.date(1, 1, 1), dt.time(23, 59, 59, 999999), dt.timedelta(-1, 86399, 999999), dt.timedelta.max]
    ),
    Hostile(62, "UUID", lambda: [uuid.UUID(int=5), uuid.UUID(int=6, is_safe=uuid.SafeUUID.safe)]),
    Hostile(
        63,
        "Path",
        lambda: {"p": pathlib.PurePosixPath("a")},
        "E",
        "['p']: PurePosixPath cannot be stored: store str(path)",
    ),
    Hostile(64, "enums", lambda: [Colour.RED, Colour.CRIMSON, Colour.BLUE, Level.HIGH, Kind.NEWS]),
    Hostile(64, "flags", lambda: [Permission.READ, Permission.READ | Permission.WRITE, Permission(0)]),
    Hostile(64, "enum keys", lambda: {Colour.RED: 1, Level.LOW: 2, Version(1): 3, Point(1): 4}),
    Hostile(
        64, "an undeclared enum", lambda: [UndeclaredColour.RED], "E", "[0]: UndeclaredColour is an enum that is not"
    ),
    Hostile(65, "dataclasses", lambda: [Version(2, ("a",)), Source("u", Kind.NEWS, [Version(1)]), host_asked()]),
    Hostile(65, "a dataclass with more", with_attribute, "E", "Source with an attribute 'client' that is not a field"),
    Hostile(
        65, "an undeclared dataclass", lambda: {"a": UndeclaredRecord()}, "E", "['a']: UndeclaredRecord is a dataclass"
    ),
    Hostile(65, "named tuples", lambda: [Point(1), Point(2, (Point(3, [4]),))]),
    Hostile(65, "an undeclared named tuple", lambda: [UndeclaredPoint(1)], "E", "[0]: UndeclaredPoint is a namedtuple"),
    Hostile(66, "models", lambda: [Article(), article(), loose(), Article.model_construct(title=5)]),
    Hostile(
        66, "an undeclared model", lambda: {"a": [Undeclared()]}, "E", "['a'][0]: Undeclared is a model that is not"
    ),
    Hostile(67, "defaultdict", lambda: collections.defaultdict(list), "E", "defaultdict is a subclass of dict"),
    Hostile(67, "OrderedDict", lambda: collections.OrderedDict(a=1), "E", "OrderedDict is a subclass of dict"),
    Hostile(67, "a subclass of str", lambda: {"a": Text("x")}, "E", "['a']: Text is a subclass of str"),
    Hostile(67, "a subclass of int", lambda: [Number(1)], "E", "[0]: Number is a subclass of int"),
    Hostile(67, "a subclass of list", lambda: [Items()], "E", "[0]: Items is a subclass of list"),
    Hostile(67, "a subclass of str as key", lambda: {"d": {Text("x"): 1}}, "E", "['d']: a key of type Text"),
    Hostile(68, "a dict that lies", lambda: [LyingDict(a=object())], "E", "[0]: LyingDict is a subclass of dict"),
    Hostile(69, "a generator", lambda: [nothing()], "E", "[0]: generator cannot be stored: store list(...)"),
    Hostile(69, "a lock", lambda: {"l": threading.Lock()}, "E", "['l']: lock is a live resource"),
    Hostile(69, "a function", lambda: [nothing], "E", "[0]: function is code, not data"),
    Hostile(69, "a class", lambda: [Colour], "E", "[0]: EnumType cannot be stored: store its name"),
    Hostile(
        69,
        "an exception",
        lambda: [ValueError("secret-canary")],
        "E",
        "[0]: ValueError cannot be stored: store str(error)",
    ),
    Hostile(69, "an object", lambda: {"o": object()}, "E", "['o']: object cannot be stored"),
    Hostile(
        69, "a deque", lambda: [collections.deque()], "E", "[0]: deque cannot be stored: convert it with list(...)"
    ),
    Hostile(69, "a mapping proxy", lambda: [MappingProxyType({})], "E", "[0]: mappingproxy cannot be stored: convert"),
    Hostile(70, "one object at two paths", shared),
    Hostile(71, "a cycle", cycle, "E", "['inner'][0]: a cycle"),
    Hostile(72, "100 containers", lambda: nested(100)),
    Hostile(72, "101 containers", lambda: nested(101), "E", "nested deeper than 100 containers"),
    Hostile(73, "100,000 containers", lambda: nested(100_000), "E", "nested deeper than 100 containers"),
    _value(74, "empty containers", [[], {}, (), set(), frozenset(), "", b"", [[]], {"a": {}}]),
    Hostile(75, "a million items", lambda: list(range(1_000_000))),
]


def hostile_id(entry: Hostile) -> str:
    """For the names of parametrised tests."""
    return f"{entry.number}-{entry.name.replace(' ', '-')}"


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in type, order and bits, all the way down."""
    pairs: list[tuple[Any, Any]] = [(one, other)]
    while pairs:
        a, b = pairs.pop()
        if type(a) is not type(b):
            return False
        parts = _parts(a), _parts(b)
        if parts[0] is None or parts[1] is None:
            if _exact(a) != _exact(b):
                return False
        elif len(parts[0]) != len(parts[1]):
            return False
        else:
            pairs += zip(*parts, strict=True)
    return True


def _parts(value: Any) -> list[Any] | None:  # noqa: PLR0911 - a table, in the order of its cases
    """What a container is made of, in order; None for what is no container."""
    if isinstance(value, enum.Enum):
        return None
    if isinstance(value, list | tuple):
        return list(value)
    if type(value) is dict:
        return [part for item in value.items() for part in item]
    if type(value) in (set, frozenset):
        return sorted(value, key=lambda member: encode(member, TYPES))
    if isinstance(value, BaseModel):
        fields = [vars(value)[name] for name in type(value).model_fields]
        return [fields, value.model_fields_set, value.__pydantic_extra__, value.__pydantic_private__]
    if isinstance(value, Version | Source):
        return [getattr(value, name) for name in type(value).__dataclass_fields__]
    return None


def _exact(value: Any) -> Any:
    if type(value) is float:
        return struct.pack(">d", value)
    if type(value) is Decimal:
        return value.as_tuple()
    if isinstance(value, dt.datetime | dt.time):
        zone = value.tzinfo
        zone_text = typing.cast(Any, zone).key if isinstance(zone, zoneinfo.ZoneInfo) else repr(zone)
        return (value.replace(tzinfo=None).isoformat(), type(zone), zone_text, value.fold)
    if type(value) is uuid.UUID:
        return (value.int, value.is_safe)
    return value
