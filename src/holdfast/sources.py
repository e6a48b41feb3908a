"""From code that runs to the text that it was written as.

Rules that must stay true:
- text counts only if it compiles to the code that runs: a file that was edited since it was imported says nothing
  about this process, and then the bytecode stands for the code;
- comments, formatting and docstrings do not count, nor do the decorators of a step, which say how it is kept.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dis
import functools
import linecache
import sys
import weakref
from collections.abc import Callable, Iterator
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_VARARGS, CO_VARKEYWORDS
from types import CodeType, FunctionType
from typing import Any, Generic, TypeAlias, TypeVar

from holdfast.canonical import combine, digest_or_none, identity
from holdfast.pieces import module_of
from holdfast.threads import lock_for_forks

__all__ = [
    "Function",
    "Memory",
    "assigned_in",
    "bound_in",
    "class_digest",
    "code_digest",
    "codes_in",
    "functions_in",
    "is_what_runs",
    "layers_in",
    "names_in",
    "text_digest",
    "tree_of",
]

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Known = TypeVar("_Known")


PARSE_TRIES = 10

_parsing = lock_for_forks()

_KIND = CO_VARARGS | CO_VARKEYWORDS | CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
"""Flags that say what calling does; the others say how the code was compiled."""


class Memory(Generic[_Known]):
    """What was found out about objects, kept as long as each of them lives.

    By identity: two code objects can be equal and come from different files.
    """

    def __init__(self, find: Callable[[Any], _Known]) -> None:
        self._find = find
        self._known: dict[int, tuple[weakref.ref[Any], _Known]] = {}

    def __call__(self, value: Any) -> _Known:
        place = id(value)
        known = self._known.get(place)
        if known is None or known[0]() is not value:
            # The entry goes with its object; it may have been replaced by one for a new object at the same address.
            known = self._known[place] = (weakref.ref(value, lambda gone: self._forget(place, gone)), self._find(value))
        return known[1]

    def _forget(self, place: int, gone: weakref.ref[Any]) -> None:
        known = self._known.get(place)
        if known is not None and known[0] is gone:
            del self._known[place]


class _File:
    """The functions and classes of one file, by their qualified names."""

    def __init__(self, tree: ast.Module, code: CodeType) -> None:
        self.functions: dict[tuple[str, int], list[Function]] = {}
        self.classes: dict[str, list[ast.ClassDef]] = {}
        self.codes: dict[str, list[CodeType]] = {}
        self.tree = tree
        self.digest: bytes | None = None
        """That of its whole text, once somebody has asked."""
        self._index(tree, "")
        for inner in codes_in(code):
            self.codes.setdefault(inner.co_qualname, []).append(inner)

    def _index(self, tree: ast.AST, scope: str) -> None:
        for node in ast.iter_child_nodes(tree):
            inner = scope
            if isinstance(node, Function):
                name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
                line = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
                self.functions.setdefault((name, line), []).append(node)
                inner = f"{scope}{name}.<locals>."
            elif isinstance(node, ast.ClassDef):
                self.classes.setdefault(scope + node.name, []).append(node)
                inner = f"{scope}{node.name}."
            self._index(node, inner)


_files: dict[str, tuple[list[str], _File | None]] = {}


def _file(name: str) -> _File | None:
    linecache.checkcache(name)
    lines = linecache.getlines(name)
    known = _files.get(name)
    if known is None or known[0] is not lines:
        known = _files[name] = (lines, _parsed(name, lines))
    return known[1]


_parsing = lock_for_forks()


def _parsed(name: str, lines: list[str]) -> _File | None:
    text = "".join(lines)
    try:
        return _File(_tree_of_text(text), compile(text, name, "exec", dont_inherit=True))
    except (SyntaxError, ValueError):
        return None  # it has changed since it was imported, at least


def _tree_of_text(text: str) -> ast.Module:
    """The syntax tree of a text. CPython 3.11 counts the depth of trees that several threads make at the same time
    together, and then takes it for wrong: so one is made at a time here, and again if somebody else made one."""
    for _ in range(PARSE_TRIES):
        with contextlib.suppress(SystemError), _parsing:
            return ast.parse(text)
    return ast.parse(text)


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """All code objects that stand inside of one."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_in(constant)


def _bytecode(code: CodeType) -> bytes:
    """A digest of what a code object does, which does not depend on where it stands."""
    constants = [_bytecode_of(item) if isinstance(item, CodeType) else item for item in code.co_consts]
    names = [code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _KIND]
    return identity([code.co_code, code.co_exceptiontable, constants, names, counts], "bytecode")


_bytecode_of = Memory(_bytecode)


def _tree(code: CodeType) -> Function | None:
    file = _file(code.co_filename)
    if file is None:
        return None
    alike = [item for item in file.codes.get(code.co_qualname, ()) if _bytecode_of(item) == _bytecode_of(code)]
    alike.sort(key=lambda item: item.co_firstlineno != code.co_firstlineno)
    found = file.functions.get((code.co_name, alike[0].co_firstlineno), []) if alike else []
    return found[0] if len(found) == 1 else None  # of several lambdas in one line nobody knows which it is


tree_of: Memory[Function | None] = Memory(_tree)
"""The syntax tree of a function's code object, if its text is to be had and is what runs."""


def is_what_runs(code: CodeType) -> bool:
    """Whether a function's code object is what its text compiles to as it is now."""
    return _tree(code) is not None


def text_digest(name: str) -> bytes | None:
    """The digest of the text of a file, without comments and docstrings; None if that is no Python."""
    file = _file(name)
    if file is not None and file.digest is None:
        file.digest = identity(_normalised(file.tree), "code")
    return None if file is None else file.digest


def _normalised(tree: ast.AST) -> str:
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node, False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(tree))


def _own_code(code: CodeType) -> bytes:
    tree = tree_of(code)
    if tree is None:
        return _bytecode_of(code)
    tree = copy.copy(tree)
    if not isinstance(tree, ast.Lambda):
        tree.decorator_list = []
    return identity(_normalised(tree), "code")


code_digest = Memory(_own_code)
"""The digest of a function's code object: of its text without decorators, else of its bytecode."""


def _names(code: CodeType) -> frozenset[str]:
    own = (*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
    return frozenset(own).union(*(names_in(item) for item in code.co_consts if isinstance(item, CodeType)))


names_in: Memory[frozenset[str]] = Memory(_names)
"""Whatever a code object names: variables and attributes, anywhere in it."""


def _assigned(code: CodeType) -> frozenset[str]:
    found = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname in _ASSIGNING}
    inner = [assigned_in(item) for item in code.co_consts if isinstance(item, CodeType)]
    return frozenset(code.co_freevars) & found.union(*inner)


assigned_in = Memory(_assigned)
"""The variables of the code around it that a function's code object assigns: `nonlocal`."""
_ASSIGNING = frozenset({"STORE_DEREF", "DELETE_DEREF"})


def functions_in(attribute: Any) -> Iterator[FunctionType]:
    """The plain functions that an attribute of a class is made of.

    >>> [function.__name__ for function in functions_in(property(lambda self: 1))]
    ['<lambda>']
    """
    return (item for item in layers_in(attribute) if isinstance(item, FunctionType))


def layers_in(attribute: Any) -> Iterator[Any]:
    """An attribute of a class, and all that it is put around.

    >>> [type(layer).__name__ for layer in layers_in(property(lambda self: 1))]
    ['property', 'function']
    """
    yield attribute
    if isinstance(attribute, property):
        inner = [attribute.fget, attribute.fset, attribute.fdel]
    else:
        # Of a static or class method, a cached property, and what decorators of the standard library return.
        inner = [vars_of(attribute).get("func"), getattr(attribute, "__wrapped__", None)]
    for item in inner:
        if item is not None:
            yield from layers_in(item)


def bound_in(attribute: Any) -> list[Any]:
    """What an attribute of a class gives to its function beside the arguments of a call.

    >>> bound_in(functools.partialmethod(print, 1, sep=""))
    [(1,), {'sep': ''}]
    """
    return [attribute.args, attribute.keywords] if isinstance(attribute, functools.partialmethod) else []


def vars_of(value: Any) -> dict[str, Any]:
    """The attributes of an object; none for one that has no place for any."""
    return getattr(value, "__dict__", {})


def _text(cls: type) -> bytes:
    functions = {name: list(functions_in(item)) for name, item in vars(cls).copy().items()}
    codes = [function.__code__ for found in functions.values() for function in found]
    name = next((code.co_filename for code in codes if code.co_qualname.startswith(f"{cls.__qualname__}.")), None)
    name = name or getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = _file(name) if name else None
    trees = file.classes.get(cls.__qualname__, []) if file else []
    own = [code for code in codes if code.co_filename == name]
    if len(trees) == 1 and all(tree_of(code) is not None for code in own):
        return identity(_normalised(trees[0]), "code")
    return combine([_bytecode_of(code) for code in codes])


_text_of = Memory(_text)


def class_digest(cls: type) -> bytes:
    """The digest of a class: of its text, docstrings left out, and of what stands in it now.

    >>> class Settings:
    ...     limit = 3
    >>> before = class_digest(Settings)
    >>> Settings.limit = 4
    >>> class_digest(Settings) == before
    False
    """
    return combine([_text_of(cls), identity(_facts(cls), "class")])


def _facts(cls: type) -> list[Any]:
    """What the class that lives says itself: the text may have been edited since."""
    values = {
        name: digest_or_none(bound_in(value) or getattr(value, "_value_", value))
        for name, value in vars(cls).copy().items()
        if not (name.startswith("__") and name.endswith("__"))
    }
    annotations = {
        name: value if isinstance(value, str) else getattr(value, "__qualname__", "")
        for name, value in vars(cls).get("__annotations__", {}).items()
    }
    bases = [f"{module_of(base)}.{base.__qualname__}" for base in cls.__bases__]
    return [
        cls.__qualname__,
        bases,
        annotations,
        {name: value for name, value in values.items() if value},
        {name: codes for name, value in vars(cls).copy().items() if (codes := _codes_of(value))},
    ]


def _codes_of(attribute: Any) -> list[bytes]:
    """What the functions of an attribute do; a method that was put into the class later is not in its text."""
    codes = [function.__code__ for function in functions_in(attribute)]
    # What a dataclass makes of its fields is compiled anew by each version of Python, and says nothing new.
    return [code_digest(code) for code in codes if code.co_filename != "<string>"]
