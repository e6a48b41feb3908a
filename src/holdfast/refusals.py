"""Why a value cannot be kept, and what to store instead.

Rules that must stay true:
- a reason names types, sizes and the fix, never the value;
- only the exact type decides: nothing is asked of the value itself, whose code could lie or fail.
"""

from __future__ import annotations

import collections
import functools
import os
import threading
import types
from collections.abc import Generator, Iterator, KeysView, MappingView
from datetime import date, datetime, time, timedelta, tzinfo

from holdfast.paths import type_name
from holdfast.response import RunResponse

CONVERSIONS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((os.PathLike,), "store str(path)"),
    ((bytearray, memoryview), "convert it with bytes(...)"),
    ((complex,), "store the tuple (z.real, z.imag)"),
    (
        (types.GeneratorType, types.AsyncGeneratorType, types.CoroutineType, Generator),
        "store list(...) of what it yields",
    ),
    ((types.MappingProxyType,), "convert it with dict(...)"),
    ((range, collections.deque, KeysView, MappingView, Iterator), "convert it with list(...)"),
    ((datetime, date, time, timedelta), "convert it to the plain type of the datetime module"),
    ((tzinfo,), "store its name"),
    ((BaseException,), "store str(error) or its traceback as text"),
    ((RunResponse,), "store its content"),
    ((type,), "store its name, and look the class up in your own code"),
)
"""For each group of types what to do instead; the first that fits is said."""

CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    types.CodeType,
    functools.partial,
)
BASES = (dict, list, tuple, str, bytes, bool, int, float, set, frozenset)
LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event, threading.Thread)


class Refused(Exception):
    """Raised inside the codec where a value cannot be kept; its text is the reason."""


def reason_for(kind: type) -> str:
    """Why a value of this undeclarable type cannot be kept, with the fix.

    >>> reason_for(complex)
    'complex cannot be stored: store the tuple (z.real, z.imag)'
    """
    name = type_name(kind)
    for group, fix in CONVERSIONS:
        if issubclass(kind, group):
            return f"{name} cannot be stored: {fix}"
    if issubclass(kind, CODE):
        return f"{name} is code, not data: keep it in the class or the module and store what it needs"
    if issubclass(kind, LOCKS):
        return f"{name} is a live resource of this process, not data: keep it outside the session state"
    for base in BASES:
        if issubclass(kind, base):
            return (
                f"{name} is a subclass of {base.__name__}, which would come back as another type: "
                f"convert it with {base.__name__}(...)"
            )
    if hasattr(kind, "tolist"):
        return f"{name} cannot be stored: convert it with .tolist()"
    return (
        f"{name} cannot be stored: store str(value) or other built-in values made of it; if the class is your own, "
        "make it a dataclass or a pydantic model and declare it in state_types"
    )


def undeclared(name: str, kind: str) -> str:
    """Why an instance of a class that could be declared is refused.

    >>> undeclared("NewsArticle", "model")
    'NewsArticle is a model that is not declared: add the class to `state_types = [NewsArticle]` of the workflow'
    """
    article = "an" if kind == "enum" else "a"
    return f"{name} is {article} {kind} that is not declared: add the class to `state_types = [{name}]` of the workflow"
