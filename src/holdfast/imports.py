"""Modules of the user's own that a function imports when it is called.

Rules that must stay true:
- nothing is imported to find out: a module counts by its text, before it is loaded as after;
- text counts only if it is what was loaded: where that is not certain, what the module holds stands for it, as nobody
  can tell which text that was.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import time
from collections.abc import Iterator
from importlib.util import resolve_name
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from holdfast.canonical import combine, digest_or_none
from holdfast.sources import Memory, class_digest, code_digest, functions_in, is_what_runs, text_digest

__all__ = ["file_of", "imports_of", "module_digest"]

_STARTED: Final = time.time()
"""A file that was changed since may have been loaded before that."""

_unloaded: dict[str, bytes | None] = {}
"""The texts of modules as they were seen last before they were loaded."""
_loaded: dict[str, tuple[ModuleType, bytes | None, bytes]] = {}
"""What was found out about modules that are loaded, with the text that their files had then."""


def imports_of(function: FunctionType) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The modules that a function imports when it is called, by their full names, and what it takes from each.

    >>> def late():
    ...     from os import path, sep
    >>> list(imports_of(late))
    [('os', ('path', 'sep'))]
    """
    package = function.__globals__.get("__package__") or ""
    for level, name, taken in _imports_in(function.__code__):
        if level == 0 or package:
            yield resolve_name("." * level + name, package), taken


def _imports(code: CodeType) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    found = []
    instructions = list(dis.get_instructions(code))
    for place, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            level, taken = (before.argval for before in instructions[place - 2 : place])
            found.append((level, instruction.argval, taken or ()))
    inner = (item for item in code.co_consts if isinstance(item, CodeType))
    return (*found, *(each for item in inner for each in _imports_in(item)))


_imports_in: Memory[tuple[tuple[int, str, tuple[str, ...]], ...]] = Memory(_imports)


def file_of(name: str) -> str | None:
    """The file of a module, whether it is loaded or not; None if it has none, or there is no such module."""
    module = sys.modules.get(name)
    found = _found(name, tuple(sys.path)) if module is None else getattr(module, "__file__", None)
    return found if found is not None and found.endswith(".py") else None


@functools.lru_cache(maxsize=1_000)
def _found(name: str, _path: tuple[str, ...]) -> str | None:
    """As `importlib.util.find_spec`, which would load the packages that the module is in."""
    place: Any = None
    spec = None
    for end in (*(at for at, letter in enumerate(name) if letter == "."), len(name)):
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        specs = (finder.find_spec(name[:end], place) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            return None
        place = spec.submodule_search_locations
    return spec.origin if spec is not None else None


def module_digest(name: str, file: str) -> bytes:
    """The digest of a module's text, without comments and docstrings; of what it holds, where it has another text now
    than when it was loaded."""
    module = sys.modules.get(name)
    text = text_digest(file)
    if module is None:
        _unloaded[name] = text
        return text or b""
    known = _loaded.get(name)
    if known is None or known[0] is not module or known[1] != text:
        told = text if text is not None and _is_text_of(module, name, file, text) else None
        known = _loaded[name] = module, text, told or _held(module)
    return known[2]


def _is_text_of(module: ModuleType, name: str, file: str, text: bytes) -> bool:
    try:
        is_old = _unloaded.get(name) == text or os.stat(file).st_mtime < _STARTED
    except OSError:  # the file is gone
        return False
    codes = [item.__code__ for value in list(vars(module).values()) for item in _functions(value)]
    return is_old and all(is_what_runs(code) for code in codes if code.co_filename == file)


def _functions(value: Any) -> Iterator[FunctionType]:
    if isinstance(value, type):
        for item in list(vars(value).values()):
            yield from functions_in(item)
    elif isinstance(value, FunctionType):
        yield from functions_in(value)


def _held(module: ModuleType) -> bytes:
    told = []
    for name, value in sorted(vars(module).items()):
        if isinstance(value, FunctionType):
            digest: bytes | None = code_digest(value.__code__)
        elif isinstance(value, type) and value.__module__ == module.__name__:
            digest = class_digest(value)
        else:
            digest = None if name.startswith("__") else digest_or_none(value)
        told += [name.encode(), digest or b""]
    return combine(told)
