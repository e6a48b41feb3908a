"""Objects that stand around a function as its decorator, as a function would that closes over what they hold.

Rules that must stay true:
- nothing is called; what an object holds is read from where it is kept;
- what an object assigns while it is used, such as a counter, is no input of what it gives.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from holdfast.sources import Memory, codes_in, functions_in, names_in, vars_of
from holdfast.witness import ABSENT, Witness

__all__ = ["assigned_by", "call_of", "held_by", "means_one_thing", "used_by"]

_MAKING = frozenset({"__init__", "__new__", "__post_init__", "__set_name__"})
"""Methods that run before an object is used as a decorator."""


def call_of(value: Any, witness: Witness) -> FunctionType | None:
    """The function that runs when an object is called; None for one whose class is not written in Python.

    >>> call_of(print, Witness()) is None
    True
    """
    if isinstance(value, FunctionType | type):
        return None
    call = witness.attribute(type(value), "__call__")
    return call if isinstance(call, FunctionType) else None


def held_by(value: Any, wrapped: Any, witness: Witness) -> Iterator[tuple[str, Any]]:
    """What an object holds beside what it was given of the function that it is put around."""
    for name in witness.again(lambda: sorted(vars_of(value))):
        held = witness.attribute(value, name)
        is_copied = held is getattr(wrapped, name, ABSENT)  # `functools.update_wrapper` does it
        if not is_copied and not name.startswith("__") and name not in assigned_by(type(value)):
            yield name, held


def assigned_by(cls: type) -> frozenset[str]:
    """The attributes that the methods of a class assign, or delete, once an object is made."""
    return frozenset().union(*map(_assigned_in, _codes_in_use(cls)))


def used_by(cls: type) -> frozenset[str]:
    """Whatever the methods of a class name once an object is made."""
    return frozenset().union(*map(names_in, _codes_in_use(cls)))


def means_one_thing(name: str, code: CodeType, tree: ast.AST) -> bool:
    """Whether a parameter is never assigned in a function, and nothing inside of it has another of that name."""
    return not any(name in inner.co_varnames for inner in codes_in(code)) and not any(
        isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load) for node in ast.walk(tree)
    )


def _codes_in_use(cls: type) -> Iterator[CodeType]:
    for base in cls.__mro__:
        for name, attribute in list(vars(base).items()):
            if name not in _MAKING:
                yield from (function.__code__ for function in functions_in(attribute))


def _assigned(code: CodeType) -> frozenset[str]:
    instructions = (each for inner in (code, *codes_in(code)) for each in dis.get_instructions(inner))
    return frozenset(each.argval for each in instructions if each.opname in ("STORE_ATTR", "DELETE_ATTR"))


_assigned_in: Memory[frozenset[str]] = Memory(_assigned)
