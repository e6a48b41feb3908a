"""A value as bytes that say all of it: the exact way to its identity.

Rules that must stay true:
- the encoding is injective: every piece says its type, and its length or its end;
- a long piece is replaced by its digest, so that no text is copied through all levels; whether it is long depends
  on nothing but the piece;
- an object is encoded once for each depth at which it stands, however many places there are;
- a value is identified by its class and by what its class compares: all fields and private attributes of a pydantic
  model, fields of a dataclass unless it says `compare=False`, name and value of a member of an enum;
- a class is identified by its module (a script is the module that it would be) and name, and where these mean another
  class or none, by its annotations as well.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from itertools import chain
from math import isnan
from pathlib import PurePath
from types import EllipsisType, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

import msgspec

from holdfast.encoding import MAX_DEPTH
from holdfast.errors import StepKeyError
from holdfast.outlines import Outline, is_message_class, outline
from holdfast.paths import Field, Member, Path, path_text, type_name
from holdfast.refusals import CODE, Refused
from holdfast.response import RunResponse
from holdfast.scalars import ENCODERS

ADVICE = "Give the step `key=`, leave the argument out with `ignore=[...]`, or define `__cache_key__()` in its class."
CODE_ADVICE = "Pass a name or the data that it stands for, give the step `key=`, or leave it out with `ignore=[...]`."

INLINE: Final = 256
"""Bytes of a piece from which on its digest stands for it, so that no text is copied through all levels."""


_json = msgspec.json.Encoder()


class Unidentified(Exception):
    """Raised inside this package by a value without identity; it becomes a `StepKeyError`."""

    def __init__(self, path: Path, reason: str, advice: str = ADVICE) -> None:
        super().__init__(reason)
        self.path, self.reason, self.advice = path, reason, advice

    def error(self, step: str) -> StepKeyError:
        return StepKeyError(path=path_text(self.path), step=step, reason=self.reason, advice=self.advice)


def _short(data: bytes) -> bytes:
    """The piece itself, or its digest: which of them depends on nothing but the piece."""
    return data if len(data) <= INLINE else b"h" + sha256(data).digest()


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return _short(b"s%d:%s" % (len(data), data))


def _bytes(value: bytes | bytearray) -> bytes:
    return _short(b"y%d:%s" % (len(value), value))


def _float(value: float) -> bytes:
    return b"f" + (b"\x7f\xf8\0\0\0\0\0\0" if isnan(value) else struct.pack(">d", value))


def _exactly(value: Any) -> bytes:
    """A value that the codec writes as one tag, with all that the tag says of it."""
    data = _json.encode(ENCODERS[type(value)](value))
    return b"t%d:%s" % (len(data), data)


def _zoned(value: datetime | time) -> bytes:
    zone = value.tzinfo
    if type(zone).__module__.startswith("pydantic_core."):
        # Pydantic's own class for what it reads from text: a fixed offset, for which Python has a class as well.
        offset = value.utcoffset()
        assert offset is not None
        value = value.replace(tzinfo=timezone(offset))
    return _exactly(value)


def _range(value: range) -> bytes:
    # Ranges of the same numbers are equal, however they are written. The length may be more than `len` can say.
    facts = [value[0], value[-1], value.step] if value else []
    if value and value[0] == value[-1]:
        facts = [value[0]]
    return b"r%d:%s" % (len(facts), b"".join(b"i%x;" % fact for fact in facts))


def module_of(value: Any) -> str:
    """The module of a function or class: run as a script and imported, it is the same.

    >>> module_of(Unidentified)
    'holdfast.pieces'
    """
    module = str(getattr(value, "__module__", None) or "")
    if module not in _SCRIPTS:
        return module
    script = sys.modules.get(module)
    spec = getattr(script, "__spec__", None)  # there is one for `python -m package.module`
    named = str(getattr(spec, "name", module))
    return named if named not in _SCRIPTS else _stem(getattr(script, "__file__", None) or "__main__")


_SCRIPTS: Final = frozenset({"__main__", "__mp_main__"})
"""What a script is called as a module, in its process and in those that `multiprocessing` starts from there."""


@functools.lru_cache(maxsize=100)
def _stem(file: str) -> str:
    return PurePath(file).stem


def _class(kind: type) -> bytes:
    name = _text(module_of(kind)) + _text(kind.__qualname__)
    if _is_found(kind):
        return name
    # Its name says too little: it was made in a function, say, where another one may have been made.
    facts = [fact for base in kind.__mro__ for fact in (module_of(base), base.__qualname__, *_annotations(base))]
    return name + b"C%d:%s" % (len(facts), b"".join(map(_text, facts)))


def _is_found(kind: type) -> bool:
    """Whether a class is the one that its module has under its name."""
    if "[" in kind.__qualname__:
        return False  # pydantic puts the classes of generic models into their module, or not, by where they were made
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found is kind


def _annotations(kind: type) -> list[str]:
    """The names of the fields that a class says itself, each with its type as a text that lasts."""
    if _is_found(kind):
        return []
    said = inspect.get_annotations(kind).items()
    return [text for name, told in said for text in (name, annotation_text(told))]


def annotation_text(told: Any) -> str:
    """A type as a text that is the same in every process.

    >>> annotation_text(dict[str, Annotated[int, frozenset({"a"})] | None])[:38]
    'builtins.dict[builtins.str, Union[Anno'
    """
    if isinstance(told, str):
        return told
    if isinstance(told, type):
        return f"{module_of(told)}.{told.__qualname__}"
    if isinstance(told, list):  # the parameters of a `Callable`
        return f"[{', '.join(map(annotation_text, told))}]"
    origin = get_origin(told)
    if origin is Annotated or origin is Literal:
        is_literal = origin is Literal
        types, values = ((), told.__args__) if is_literal else (told.__args__, told.__metadata__)
        texts = [*map(annotation_text, types), *map(_value_text, values)]
        return f"{'Literal' if is_literal else 'Annotated'}[{', '.join(texts)}]"
    if origin is not None:
        name = "Union" if origin in (Union, UnionType) else annotation_text(origin)
        return f"{name}[{', '.join(map(annotation_text, get_args(told)))}]"
    return _value_text(told)


def _value_text(value: Any) -> str:
    """What is said beside a type, as a text that lasts: its identity, or what it says of itself."""
    try:
        return Walk().node(value, ("value",), 0).hex()
    except Unidentified:
        text = _ADDRESS.sub("", repr(value))
    # There may be sets in it, which say what they hold in any order.
    return " ".join(sorted(_BETWEEN.split(text))) if "{" in text else text


_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_BETWEEN: Final = re.compile(r"[\s,{}()\[\]]+")


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    NoneType: lambda _: b"n",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: _short(b"i%x;" % value),
    float: _float,
    complex: lambda value: b"c" + _float(value.real) + _float(value.imag),
    EllipsisType: lambda _: b"e",
    datetime: _zoned,
    time: _zoned,
    date: _exactly,
    timedelta: _exactly,
    Decimal: _exactly,
    UUID: lambda value: b"u" + value.bytes,
    range: _range,
}
"""By exact type, what is short. Raises `Refused`."""

_TEXTS: dict[type, Callable[[Any], bytes]] = {str: _text, bytes: _bytes, bytearray: _bytes}
"""By exact type, what can be long, but holds nothing."""

_BASES: dict[type, Callable[[Any], Any]] = {
    # An ordered dict is equal to another one only in the same order.
    dict: lambda value: list(value.items()) if isinstance(value, OrderedDict) else dict(value),
    list: list,
    tuple: list,
    str: str.__str__,
    bytes: bytes,
    bytearray: bytes,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    set: set,
    frozenset: set,
}
"""For each built-in class, what an instance of a subclass holds as one."""


class Walk:
    """One walk over one value, in which every object is visited once for each depth at which it stands."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Any, bytes]] = {}
        self._open: set[int] = set()
        self._classes: dict[type, bytes] = {}

    def node(self, value: Any, path: Path, depth: int) -> bytes:
        kind = type(value)
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            try:
                return scalar(value)
            except Refused as refused:
                reason, _, fix = str(refused).partition(": ")
                raise Unidentified(path, f"is a {reason}", f"{fix.capitalize()}.") from None
        text = _TEXTS.get(kind)
        if text is not None and len(value) <= INLINE:
            return text(value)
        place = (id(value), 0 if text else depth)
        known = self._known.get(place)
        if known is not None:
            return known[1]
        piece = text(value) if text else self._inside(value, path, depth)
        # Kept with the object, because an id stays taken only while it lives.
        self._known[place] = (value, piece)
        return piece

    def _inside(self, value: Any, path: Path, depth: int) -> bytes:
        if id(value) in self._open:
            raise Unidentified(path, "holds itself")
        if depth >= MAX_DEPTH:
            raise Unidentified(path, f"is nested deeper than {MAX_DEPTH} containers")
        self._open.add(id(value))
        piece = _short(_WALKS.get(type(value), Walk._other)(self, value, path, depth + 1))
        self._open.discard(id(value))
        return piece

    def _class(self, kind: type) -> bytes:
        known = self._classes.get(kind)
        if known is None:
            known = self._classes[kind] = _class(kind)
        return known

    def _items(self, value: Iterable[Any], path: Path, depth: int) -> bytes:
        items = list(value)
        if any(map(is_message_class, set(map(type, items)))):
            calls: dict[str, int] = {}
            items = [outline(item, calls) if is_message_class(type(item)) else item for item in items]
        pieces = [self.node(item, (path, place), depth) for place, item in enumerate(items)]
        return b"l%d:%s" % (len(pieces), b"".join(pieces))

    def _set(self, value: Iterable[Any], path: Path, depth: int) -> bytes:
        pieces = sorted([self.node(member, (path, Member(member)), depth) for member in list(value)])
        return b"S%d:%s" % (len(pieces), b"".join(pieces))

    def _dict(self, value: dict[Any, Any], path: Path, depth: int) -> bytes:
        pieces = sorted(
            [
                (self.node(key, (path, Member(key)), depth), self.node(item, (path, key), depth))
                for key, item in list(value.items())
            ]
        )
        return b"d%d:%s" % (len(pieces), b"".join(chain.from_iterable(pieces)))

    def _fields(self, fields: dict[str, Any], path: Path, depth: int) -> bytes:
        pieces = [_text(name) + self.node(fields[name], (path, Field(name)), depth) for name in sorted(fields)]
        return b"d%d:%s" % (len(pieces), b"".join(pieces))

    def _outline(self, value: Outline, path: Path, depth: int) -> bytes:
        return b"o" + self._class(value.kind) + self._fields(value.fields, path, depth)

    def _other(self, value: Any, path: Path, depth: int) -> bytes:
        """An instance of any other class than the plain built-ins: its class, and what identifies it there."""
        kind = type(value)
        if hasattr(kind, "__cache_key__"):
            return b"o" + self._class(kind) + self.node(value.__cache_key__(), (path, Field("__cache_key__()")), depth)
        if isinstance(value, type):
            return b"k" + self._class(value)
        if is_message_class(kind):
            return self._outline(outline(value, {}), path, depth)
        if isinstance(value, PurePath):
            return b"p" + _text(value.as_posix())
        for is_one, walk in _KINDS:
            if is_one(value):
                return b"o" + self._class(kind) + walk(self, value, path, depth)
        raise Unidentified(path, *_why_not(kind))

    def _response(self, value: Any, path: Path, depth: int) -> bytes:
        return self.node(value.content, (path, Field("content")), depth)

    def _enum(self, value: Enum, path: Path, depth: int) -> bytes:
        try:
            # On its own, so that what is open when it fails is not taken for open here.
            told = Walk().node(value._value_, path, depth)
        except Unidentified:
            told = b"?"
        # A combination of flags in which a bit has no name may have no name itself.
        return self.node(value._name_, path, depth) + told

    def _pattern(self, value: re.Pattern[Any], path: Path, depth: int) -> bytes:
        return self.node([value.pattern, value.flags], path, depth)

    def _array(self, value: Any, path: Path, depth: int) -> bytes:
        if value.dtype.hasobject:
            raise Unidentified(path, "is an array of objects", "Give the step `key=`, or pass an array of numbers.")
        return self._items([value.dtype.name, value.dtype.descr, value.shape, value.tobytes()], path, depth)

    def _model(self, value: Any, path: Path, depth: int) -> bytes:
        held = vars(value)
        fields = {name: held[name] for name in type(value).model_fields if name in held}
        told = self._fields({**fields, **(value.__pydantic_extra__ or {})}, path, depth)
        private = value.__pydantic_private__
        return told + self._fields(private, path, depth) if private else told

    def _subclass(self, value: Any, path: Path, depth: int) -> bytes:
        base = next(base for base in _BASES if isinstance(value, base))
        # Of the object itself: its attributes and slots. A subclass may define another method of that name.
        state = object.__getstate__(value)
        attributes = self.node(state, path, depth) if state else b"n"
        if base is tuple and hasattr(type(value), "_fields"):
            return attributes + self._fields(dict(zip(value._fields, value, strict=True)), path, depth)
        return attributes + self.node(_BASES[base](value), path, depth)

    def _dataclass(self, value: Any, path: Path, depth: int) -> bytes:
        names = [spec.name for spec in dataclasses.fields(value) if spec.compare]
        return self._fields({name: getattr(value, name) for name in names if hasattr(value, name)}, path, depth)


_WALKS: dict[type, Callable[[Walk, Any, Path, int], bytes]] = {
    list: Walk._items,
    tuple: Walk._items,
    dict: Walk._dict,
    set: Walk._set,
    frozenset: Walk._set,
    Outline: Walk._outline,
}


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic))


def _is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic.main")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Walk, Any, Path, int], bytes]], ...] = (
    (lambda value: isinstance(value, RunResponse), Walk._response),
    (lambda value: isinstance(value, Enum), Walk._enum),
    (lambda value: isinstance(value, re.Pattern), Walk._pattern),
    (_is_array, Walk._array),
    (_is_model, Walk._model),
    (lambda value: isinstance(value, tuple(_BASES)), Walk._subclass),
    (dataclasses.is_dataclass, Walk._dataclass),
)
"""What identifies an instance, by the first of these that it is."""


def _why_not(kind: type) -> tuple[str, str]:
    name = type_name(kind)
    if issubclass(kind, CODE):
        return f"is code (of type {name}), which is another object in every process", CODE_ADVICE
    return f"is of type {name}, which has no identity that lasts", ADVICE
