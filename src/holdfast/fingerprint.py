"""What the code of a function is, part by part, so that an edit recomputes and its taking back hits again.

Rules that must stay true:
- the parts are the function, the helpers of the user's own that it names (one level; more by `uses`), the values of
  the module's constants that it names, of its defaults and of the variables that it closes over, and the texts of the
  modules that it imports when it is called;
- what has no identity is left out among constants, and is an error among closed-over variables: those are inputs;
- asking again costs little, and sees whatever was assigned since.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from os.path import isfile, realpath
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    EllipsisType,
    FunctionType,
    MappingProxyType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final, TypeAlias
from uuid import UUID

from holdfast.canonical import combine, identity
from holdfast.decorators import call_of, held_by, used_by
from holdfast.imports import file_of, imports_of, module_digest
from holdfast.pieces import Unidentified, module_of
from holdfast.sources import Memory, bound_in, class_digest, code_digest, functions_in, names_in
from holdfast.witness import ABSENT, Witness

__all__ = [
    "Parts",
    "Special",
    "code_parts",
    "combine_parts",
    "is_foreign",
    "nothing_special",
    "origin",
    "own_call",
    "own_classes",
]

Parts: TypeAlias = dict[str, bytes]
Special: TypeAlias = Callable[[str, Any], "Parts | None"]

VARIABLE_ADVICE = "Pass it to the step as an argument, or give the step `key=`."

_ATOMS: Final = (type(None), bool, int, float, complex, str, bytes, EllipsisType, range, Enum, PurePath, re.Pattern)
_IMMUTABLE: Final = (*_ATOMS, date, time, timedelta, Decimal, UUID)
_STANDARD: Final = (sys.stdlib_module_names | set(sys.builtin_module_names)) - {"__main__"}
_NAMING: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Types of keys whose text says all of them."""
LEVELS: Final = 4
"""Containers inside of a constant that are looked into for code."""
_FOREIGN: Final = tuple({realpath(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_SCOPES: Final = {
    "LOAD_GLOBAL": "module",
    "LOAD_NAME": "module",
    "LOAD_FROM_DICT_OR_GLOBALS": "module",
    "LOAD_DEREF": "closure",
}
"""Where an instruction looks a name up."""


def nothing_special(_name: str, _value: Any) -> Parts | None:
    """What `special` is when nothing is."""
    return None


def code_parts(
    function: Callable[..., Any],
    uses: Iterable[Callable[..., Any]] = (),
    *,
    step: str | None = None,
    special: Special = nothing_special,
    label: str | None = None,
    witness: Witness | None = None,
) -> Parts:
    """The parts of a function's code, each with its digest.

    Args:
        function: any callable.
        uses: further functions and classes on which the result depends; what they name counts as well.
        step: the name of the step, for errors; the function's when absent.
        special: is shown each value that the code names or closes over, with its name, and returns the parts that
            stand for it, or None for a value that is treated like any other.
        label: what the function's own code is called, when that is not by its name.
        witness: told everything that is read, so that the parts are known while all of that is the same.

    Returns:
        digests by labels such as "code of `outline`", "code of helper `slug`", "constant `MODEL`",
        "default of `limit`" and "variable `topic`".

    Raises:
        StepKeyError: the function closes over, or is bound to, something without identity.

    >>> module = {"LIMIT": 3}
    >>> exec("def cut(text): return text[:LIMIT]", module)
    >>> sorted(code_parts(module["cut"]))
    ['code of `cut`', 'constant `LIMIT`']
    """
    found = _Found(step or _name(function), special, witness or Witness())
    found.callable(function, label or f"code of `{_name(function)}`")
    for helper in uses:
        found.callable(helper, f"code of helper `{_name(helper)}`")
    return found.parts


def is_foreign(module: str, file: str | None) -> bool:
    """Whether code is not the user's own: of the standard library, of an installed package or of Holdfast.

    >>> is_foreign("json", None), is_foreign("holdfast.agent", None)
    (True, True)
    """
    root = module.partition(".")[0]
    if root == "holdfast":
        return True
    if file is None or file.startswith("<frozen"):
        return file is not None or root in _STANDARD
    real = _real(file)
    if "site-packages" in real or "dist-packages" in real or real.startswith(_FOREIGN):
        return True
    # A file of the user's own may be called as a module of the standard library is, `code.py` say.
    return root in _STANDARD and not _is_file(real)


@functools.lru_cache(maxsize=10_000)
def _is_file(file: str) -> bool:
    return isfile(file)


@functools.lru_cache(maxsize=10_000)
def _real(file: str) -> str:
    return realpath(file)


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _name(value.func)
    return str(getattr(value, "__name__", type(value).__name__))


class _Found:
    """The parts that were found so far."""

    def __init__(self, step: str, special: Special, witness: Witness) -> None:
        self.parts: Parts = {}
        self._step = step
        self._special = special
        self._witness = witness
        self._seen: set[int] = set()

    def callable(self, value: Any, label: str) -> None:
        """All parts of a callable of any kind; its own code under this label."""
        if isinstance(value, FunctionType):
            self._function(value, label)
        elif isinstance(value, MethodType):
            self.callable(value.__func__, label)
            self._owner(value.__self__)
        elif isinstance(value, functools.partial):
            self.callable(value.func, label)
            self._variable("partial", [value.args, value.keywords])
        elif isinstance(value, type):
            self._add(label, self._class(value) or _by_name(value))
        elif (wrapped := self._witness.attribute(value, "__wrapped__")) is not ABSENT:
            self.callable(wrapped, label)
            self._around(value, wrapped)
        elif isinstance(value, MethodDescriptorType | WrapperDescriptorType):  # such as `str.upper`
            self._add(label, identity([value.__objclass__.__module__, value.__qualname__], "code"))
        elif isinstance(value, BuiltinFunctionType):
            self._add(label, _by_name(value))
            if not isinstance(value.__self__, ModuleType | None):
                self._owner(value.__self__)
        else:
            self.callable(self._witness.attribute(type(value), "__call__"), label)
            self._owner(value)

    def _around(self, value: Any, wrapped: Any) -> None:
        """An object that is put around a function: its class, what its call names, and what it holds."""
        call = own_call(value, self._witness)
        if call is None or id(value) in self._seen:
            return
        self._seen.add(id(value))
        label = f"code of decorator `{type(value).__name__}`"
        self._function(call, label)
        self._add(label, self._class(type(value)) or _by_name(type(value)))
        used = used_by(type(value))
        for name, held in held_by(value, wrapped, self._witness):
            if name in used or _is_code(held) or self._witness.digest(held) is not None:
                self._variable(name, held)

    def _class(self, cls: type) -> bytes | None:
        """The digest of a class of the user's own, and of those that it inherits from; None for another."""
        return self._classes(own_classes(cls)) if not is_foreign(*origin(cls)) else None

    def _classes(self, classes: list[type]) -> bytes:
        for cls in classes:
            self._witness.namespace(cls)
            for value in list(vars(cls).values()):
                for function in functions_in(value):
                    self._witness.attribute(function, "__code__")
                self._witness.digest(bound_in(value) or getattr(value, "_value_", value))
        return combine(map(class_digest, classes))

    def _add(self, label: str, digest: bytes) -> None:
        before = self.parts.get(label)
        # Functions of two modules may name two constants alike.
        self.parts[label] = digest if before in (None, digest) else combine([before, digest])

    def _function(self, function: FunctionType, label: str) -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        if is_foreign(*origin(function)):
            self._foreign(function, label)
            return
        code = self._witness.attribute(function, "__code__")
        self._add(label, code_digest(code))
        self._defaults(function)
        closed = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        variables = {name: value for name, cell in closed.items() if (value := self._content(cell)) is not ABSENT}
        for name, value in variables.items():
            self._variable(name, value)
        for name, value in _named(function, variables, self._witness):
            self._named(name, value, function)
        self._around_it(function, variables.get("__class__"))
        for module, taken in imports_of(function):
            self._imported(module, taken, function)

    def _around_it(self, function: FunctionType, cls: Any) -> None:
        """What a method takes from the class that it stands in, by `__class__`."""
        if not isinstance(cls, type) or self._special("__class__", cls) is not None:
            return
        taken = [attributes for _, root, *attributes in _names_of(function.__code__) if root == "__class__"]
        for name in dict.fromkeys(attributes[0] for attributes in taken if attributes):
            self._named(f"__class__.{name}", self._inherited(cls, name), function)
        reaches_up = "super" in names_in(function.__code__)  # which reaches nothing of the class itself
        if reaches_up or [] in taken:
            self._add("code of helper `__class__`", self._classes(own_classes(cls)[reaches_up:]))

    def _inherited(self, cls: type, name: str) -> Any:
        values = [self._witness.item(vars(base), name) for base in cls.__mro__]
        return next((value for value in values if value is not ABSENT), None)

    def _imported(self, module: str, taken: tuple[str, ...], function: FunctionType) -> None:
        """What a function imports when it is called."""
        if module == function.__globals__.get("__name__"):
            for name in taken:
                if (value := self._witness.item(function.__globals__, name)) is not ABSENT:
                    self._named(name, value, function)
            return
        # What is taken from a package may be a module of it.
        for name in (module, *(f"{module}.{each}" for each in taken)):
            if self._special(name, None) is None and (digest := self._witness.again(functools.partial(_module, name))):
                self._add(f"code of module `{name}`", digest)

    def _foreign(self, function: FunctionType, label: str) -> None:
        """A function of a package: its name, and what of the user's own it is put around."""
        self._add(label, _by_name(function))
        for link in self._links(function):
            if isinstance(link, FunctionType) and not is_foreign(*origin(link)):
                self._function(link, label)

    def _defaults(self, function: FunctionType) -> None:
        values = self._witness.attribute(function, "__defaults__") or ()
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = dict(zip(names[len(names) - len(values) :], values, strict=True))
        if keywords := self._witness.attribute(function, "__kwdefaults__"):
            defaults |= {name: self._witness.item(keywords, name) for name in list(keywords)}
        for name, value in defaults.items():
            digest = self._witness.digest(value)
            if digest is not None:
                self._add(f"default of `{name}`", digest)

    def _owner(self, value: Any) -> None:
        if not is_workflow(value) and not isinstance(value, type):
            self._variable("self", value, is_owner=True)

    def _variable(self, name: str, value: Any, is_owner: bool = False) -> None:
        if isinstance(value, ModuleType) or is_workflow(value) or (name in ("self", "__class__") and not is_owner):
            return
        special = self._stand_in(name, value)
        if special is not None:
            self._add_all(special)
        elif _is_code(value):
            inner = _Found(self._step, self._special, self._witness)
            inner._seen = self._seen
            inner.callable(value, "code")
            self._add(f"variable `{name}`", combine_parts(inner.parts))
        else:
            self._witness.digest(value)
            try:
                self._add(f"variable `{name}`", identity(value, f"variable `{name}`"))
            except Unidentified as problem:
                problem.advice = VARIABLE_ADVICE
                raise problem.error(self._step) from None

    def _named(self, name: str, value: Any, function: FunctionType) -> None:
        special = self._stand_in(name, value.__self__ if isinstance(value, MethodType) else value)
        if special is not None:
            self._add_all(special)
        elif _is_code(value):
            own = [digest for link in self._links(value) if link is not function and (digest := self._helper(link))]
            own += [digest for held in _bound(value) if (digest := self._witness.digest(held))]
            if own:
                self._add(f"code of helper `{name}`", combine(own))
        else:
            self._constant(name, value, function)

    def _constant(self, name: str, value: Any, function: FunctionType) -> None:
        bare = name.rpartition(".")[2]
        if bare.startswith("__") or not (bare.isupper() or _is_immutable(value)):
            return
        digest = self._witness.digest(value)
        if digest is not None:
            self._add(f"constant `{name}`", digest)
        else:
            self._mixed(name, value, function)

    def _mixed(self, name: str, value: Any, function: FunctionType, levels: int = LEVELS) -> None:
        """A container that has no identity as a whole, because it holds functions or agents, say: what is code in it
        counts as such, all else by its value; what has no identity itself is left out."""
        items = self._witness.again(_Items(value)).items
        plain: list[bytes] = []
        loose: list[Parts] = []
        for place, key, item in items:
            label = f"{name}{place}"
            if place is None:
                loose.append(self._loose(name, key, item, function, levels))
            elif _is_code(item) or self._special(label, item) is not None:
                self._named(label, item, function)
            elif (digest := self._witness.digest(item)) is not None:
                plain.append(combine([place.encode(), digest]))
            elif levels:
                self._mixed(label, item, function, levels - 1)
        if plain:
            self._add(f"constant `{name}`", combine(sorted(plain)))
        for label in sorted({label for told in loose for label in told}):
            self._add(label, combine(sorted(combine_parts(told) for told in loose if label in told)))

    def _loose(self, name: str, key: Any, item: Any, function: FunctionType, levels: int) -> Parts:
        """The parts of what has no place that could be named in every process alike: a member of a set, a function and
        what a dict has for it."""
        found = _Found(self._step, self._special, self._witness)
        for label, value in (("key", key), ("member", item)):
            if value is not ABSENT:
                found._mixed(label, {"": value}, function, max(levels - 1, 0))
        code = {label: told for label, told in found.parts.items() if label.startswith(("code of ", "constant "))}
        agents = {label: told for label, told in found.parts.items() if label not in code}
        told = {f"code of helper `{name}`": code, f"agents in `{name}`": agents}
        return {label: combine_parts(parts) for label, parts in told.items() if parts}

    def _add_all(self, parts: Parts) -> None:
        for label, digest in parts.items():
            self._add(label, digest)

    def _stand_in(self, name: str, value: Any) -> Parts | None:
        found = self._special(name, value)
        return None if found is None else self._witness.again(lambda: self._special(name, value))

    def _content(self, cell: Any) -> Any:
        try:
            return self._witness.attribute(cell, "cell_contents")
        except ValueError:  # a variable that has no value yet
            self._witness.leave_open()
            return ABSENT

    def _links(self, value: Any) -> Iterator[Any]:
        """The functions and classes that a helper is made of: decorators put one around another."""
        seen: set[int] = set()
        pending = [value]
        while pending:
            item = pending.pop(0)
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, functools.partial):
                pending.append(item.func)
            elif isinstance(item, MethodType):
                pending.append(item.__func__)
            elif isinstance(item, FunctionType):
                yield item
                held = [self._content(cell) for cell in item.__closure__ or ()]
                pending += [value for value in held if isinstance(value, FunctionType)]
            elif isinstance(item, type):
                yield item
                continue
            wrapped = self._witness.attribute(item, "__wrapped__")
            if wrapped is not ABSENT:
                pending.append(wrapped)
                if own_call(item, self._witness) is not None:
                    yield item

    def _helper(self, link: Any) -> bytes | None:
        if own_call(link, self._witness) is not None:
            around = held_by(link, self._witness.attribute(link, "__wrapped__"), self._witness)
            told = [item for name, value in around for item in (name.encode(), self._witness.digest(value) or b"")]
            return combine([self._class(type(link)) or _by_name(type(link)), *told])
        if isinstance(link, type):
            return self._class(link)
        if is_foreign(*origin(link)):
            return None
        code = self._witness.attribute(link, "__code__")
        defaults = self._witness.attribute(link, "__defaults__") or ()
        keywords = self._witness.attribute(link, "__kwdefaults__") or {}
        named = [self._witness.item(keywords, name) for name in sorted(keywords)]
        held = [*defaults, *named, *map(self._content, link.__closure__ or ())]
        return combine([code_digest(code), *(self._witness.digest(value) or b"" for value in held)])


def _module(name: str) -> bytes | None:
    """The digest of a module of the user's own; None for another."""
    file = file_of(name)
    return None if file is None or is_foreign(name, file) else module_digest(name, file)


class _Items:
    """What a container holds, each with its place as text; None where that is another one in every process.

    Equal to another one if all of it is the same objects, which are kept alive for that.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self.items = list(_items(value))

    def __call__(self) -> _Items:
        return _Items(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Items) and self._ids() == other._ids()

    __hash__ = None  # type: ignore[assignment]

    def _ids(self) -> list[tuple[str | None, int, int]]:
        return [(place, id(key), id(item)) for place, key, item in self.items]


def _items(value: Any) -> Iterator[tuple[str | None, Any, Any]]:
    if isinstance(value, dict | MappingProxyType):
        for key, item in list(value.items()):
            yield (f"[{key!r}]", None, item) if type(key) in _NAMING else (None, key, item)
    elif isinstance(value, list | tuple):
        yield from ((f"[{place}]", None, item) for place, item in enumerate(list(value)))
    elif isinstance(value, set | frozenset):
        yield from ((None, ABSENT, item) for item in list(value))
    elif dataclasses.is_dataclass(value) and not is_foreign(*origin(type(value))):
        names = [spec.name for spec in dataclasses.fields(value) if spec.compare]
        yield from ((f".{name}", None, getattr(value, name, None)) for name in names)


def combine_parts(parts: Parts) -> bytes:
    """One digest for all parts.

    >>> combine_parts({"a": b"1", "b": b"2"}) == combine_parts({"b": b"2", "a": b"1"})
    True
    """
    return combine([item for label in sorted(parts) for item in (label.encode(), parts[label])])


def _by_name(value: Any) -> bytes:
    return identity([module_of(value), value.__qualname__], "code")


def own_classes(cls: type) -> list[type]:
    """A class, and those that it inherits from, as far as they are the user's own.

    >>> own_classes(bool)
    []
    """
    return [base for base in cls.__mro__ if not is_foreign(*origin(base))]


def own_call(value: Any, witness: Witness) -> FunctionType | None:
    """What runs when an object is called, if that is the user's own; None for functions and classes."""
    call = call_of(value, witness)
    return None if call is None or is_foreign(*origin(call)) else call


def is_workflow(value: Any) -> bool:
    """Whether the value is a workflow, found out without importing their module."""
    module = sys.modules.get("holdfast.workflow")
    return module is not None and isinstance(value, module.Workflow)


def _is_code(value: Any) -> bool:
    code = (FunctionType, BuiltinFunctionType, MethodType, functools.partial, type)
    return isinstance(value, code) or callable(getattr(value, "__wrapped__", None))


def _is_immutable(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_immutable, value))
    parameters = getattr(type(value), "__dataclass_params__", None)
    settings = getattr(type(value), "model_config", None)
    frozen = getattr(parameters, "frozen", False) or (isinstance(settings, dict) and settings.get("frozen", False))
    return isinstance(value, _IMMUTABLE) or bool(frozen)


def origin(value: Any) -> tuple[str, str | None]:
    """The module and the file of a function or class.

    >>> origin(code_parts)[0]
    'holdfast.fingerprint'
    """
    if isinstance(value, FunctionType):
        # Not by its `__module__`, which a decorator copies from what it wraps.
        return str(value.__globals__.get("__name__", "")), value.__code__.co_filename
    module = str(getattr(value, "__module__", None) or "builtins")
    return module, getattr(sys.modules.get(module), "__file__", None)


def _bound(value: Any) -> list[Any]:
    """What a partial function or a method brings with it."""
    if isinstance(value, functools.partial):
        return [value.args, value.keywords]
    return [value.__self__] if isinstance(value, MethodType) else []


def _names(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The names that code looks up outside of itself: in which scope, and with the attributes that are read from it."""
    names: dict[tuple[str, ...], None] = {}
    chain: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain = (*chain, instruction.argval)
            continue
        names[chain] = None
        chain = ()
        scope = _SCOPES.get(instruction.opname)
        if scope is not None:
            chain = (scope, instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(_names_of(constant)))
    names.pop((), None)
    return tuple(names)


_names_of = Memory(_names)


def _named(function: FunctionType, variables: dict[str, Any], witness: Witness) -> Iterator[tuple[str, Any]]:
    """The values of the function's module, and of modules of the user that it has, which its code names."""
    modules = {name: value for name, value in variables.items() if isinstance(value, ModuleType)}
    for scope, root, *attributes in _names_of(function.__code__):
        value, name = modules.get(root, ABSENT), root
        if scope == "module":
            value = witness.item(function.__globals__, root)
        while isinstance(value, ModuleType) and attributes:
            if is_foreign(value.__name__, getattr(value, "__file__", None)):
                break
            attribute = attributes.pop(0)
            value, name = witness.item(vars(value), attribute), f"{name}.{attribute}"
        if value is not ABSENT and not isinstance(value, ModuleType):
            yield name, value
