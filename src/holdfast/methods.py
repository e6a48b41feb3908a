"""What a method takes from its object, read off its text.

Rules that must stay true:
- nothing is run; what cannot be told, because the text is not to be had or the object itself is passed on, is said
  to escape, so that the caller can refuse it;
- methods and properties of the user's own class are followed, and so are the user's own decorators, each of which may
  take from the object as well; every other attribute is reported by its name.
"""

from __future__ import annotations

import ast
import dis
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from holdfast.canonical import combine
from holdfast.decorators import assigned_by, means_one_thing
from holdfast.fingerprint import Parts, Special, code_parts, is_foreign, nothing_special, origin, own_call
from holdfast.sources import Function, Memory, assigned_in, bound_in, codes_in, layers_in, names_in, tree_of, vars_of
from holdfast.witness import ABSENT, Witness

__all__ = ["MethodParts", "SelfUse", "method_parts", "self_use"]


@dataclass(frozen=True, slots=True)
class SelfUse:
    """How a method uses its first parameter.

    Attributes:
        reads: the attributes that it reads, called methods included.
        calls: those of them that it calls.
        writes: the attributes that it assigns or deletes.
        escapes: whether the object itself is passed on, or nobody can tell.
        passes: the functions of the code around it that it calls with the object as their first argument too.
        hands: the same for attributes of the decorator whose call it is, where that is an object.
    """

    reads: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    escapes: bool = False
    passes: frozenset[str] = frozenset()
    hands: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Layer:
    """One of the functions that a method is made of; `decorator` is the object whose call it is, if it is one's."""

    function: FunctionType
    decorator: Any = None

    @property
    def use(self) -> SelfUse:
        return _use_of(self.function.__code__) if self.decorator is None else _use_behind(self.function.__code__)


@dataclass(frozen=True, slots=True)
class MethodParts:
    """The code of a method and of all methods of the class that it calls.

    Attributes:
        parts: as of `code_parts`, and "code of `self.helper`" for each method or property that is reached.
        reads: all other attributes that are read from the object anywhere there.
        writes: the attributes that are assigned or deleted.
        escapes: whether the object itself is passed on, or nobody can tell.
        names: whatever is named anywhere there.
    """

    parts: Parts
    reads: frozenset[str]
    writes: frozenset[str]
    escapes: bool
    names: frozenset[str]


def self_use(function: FunctionType) -> SelfUse:
    """How one function of a method uses the object; what it is put around is not looked at.

    A function without parameters uses none. One whose text is not to be had, and that mentions its first parameter,
    is said to let the object escape.

    >>> self_use(lambda self: self.writer.run(self.topic())) == SelfUse(
    ...     frozenset({"writer", "topic"}), frozenset({"topic"})
    ... )
    True
    """
    return _use_of(function.__code__)


def method_parts(
    cls: type,
    function: Callable[..., Any],
    uses: Iterable[Callable[..., Any]] = (),
    *,
    step: str | None = None,
    special: Special = nothing_special,
    witness: Witness | None = None,
) -> MethodParts:
    """The code that a method of a class runs on its object, and what else it takes from there.

    Args:
        cls: the class of the object, in which called methods are looked up.
        function: the method, as it stands in the class.
        uses, step, special, witness: as for `code_parts`.

    Raises:
        StepKeyError: as `code_parts`.
    """
    witness = witness or Witness()
    witness.attribute(cls, "__mro__")
    parts = code_parts(function, uses, step=step, special=special, witness=witness)
    pending = _layers(function, witness)
    reads: set[str] = set()
    writes: set[str] = set()
    escapes = not pending
    names: set[str] = set()
    seen: set[tuple[int, int]] = set()
    counted: set[tuple[str, int]] = set()
    while pending:
        layer = pending.pop()
        place = id(layer.function), id(layer.decorator)
        if place in seen:
            continue
        seen.add(place)
        names |= names_in(layer.function.__code__)
        use = layer.use
        writes |= use.writes
        escapes |= use.escapes
        for layers in _given_on(layer, use, witness):
            escapes |= not layers
            pending += layers
        for name in sorted(use.reads):
            attribute = _attribute(cls, name, witness)
            methods = _methods(attribute, witness)
            bound = bound_in(attribute)
            told = witness.digest(bound) if bound else b""
            if not methods or told is None:
                reads.add(name)
            for method in methods:
                if (name, id(method)) not in counted:
                    counted.add((name, id(method)))
                    label = f"code of `self.{name}`"
                    more = code_parts(method, step=step, special=special, label=label, witness=witness)
                    more[label] = combine([more[label], told]) if told else more[label]
                    _merge(parts, more)
                    if not isinstance(attribute, staticmethod):
                        pending += _layers(method, witness)
    return MethodParts(parts, frozenset(reads), frozenset(writes), escapes, frozenset(names))


def _layers(function: Any, witness: Witness) -> list[_Layer]:
    """The functions that a method is made of: the innermost, and those of the user's own that are put around it."""
    around: list[Any] = []
    while function is not ABSENT and not any(function is other for other in around):
        around.append(function)
        function = witness.attribute(function, "__wrapped__")
    *outer, innermost = around
    own = [item for item in outer if isinstance(item, FunctionType) and not is_foreign(*origin(item))]
    calls = [_Layer(call, item) for item in outer if (call := own_call(item, witness)) is not None]
    inner = [innermost] if isinstance(innermost, FunctionType) else []
    return [*map(_Layer, own), *calls, *map(_Layer, inner)]


def _given_on(layer: _Layer, use: SelfUse, witness: Witness) -> Iterator[list[_Layer]]:
    """The layers of each function that is given the object; none where it is not known."""
    for name in sorted(use.passes):
        held = _closed_over(layer.function, name, witness)
        yield [] if held is ABSENT else _layers(held, witness)
    for name in sorted(use.hands):
        decorator = layer.decorator
        held = witness.item(vars_of(decorator), name)
        attribute = _attribute(type(decorator), name, witness)
        if name in assigned_by(type(decorator)):
            yield []
        elif held is ABSENT and isinstance(attribute, FunctionType):
            yield [_Layer(attribute, decorator)]
        else:
            yield _layers(held, witness) if held is not ABSENT and attribute is ABSENT else []


def _closed_over(function: FunctionType, name: str, witness: Witness) -> Any:
    """What a variable of the code around a function holds."""
    cell = (function.__closure__ or ())[function.__code__.co_freevars.index(name)]
    try:
        return witness.attribute(cell, "cell_contents")
    except ValueError:  # it has no value yet
        witness.leave_open()
        return ABSENT


def _attribute(cls: type, name: str, witness: Witness) -> Any:
    """What stands in a class under a name, itself or inherited."""
    for base in cls.__mro__:
        attribute = witness.item(vars(base), name)
        if attribute is not ABSENT:
            return attribute
    return ABSENT


def _methods(attribute: Any, witness: Witness) -> list[Any]:
    """The functions of the user's own that an attribute of a class is made of, and objects that are put around them."""
    found = witness.again(lambda: list(layers_in(attribute)))
    functions = [item for item in found if isinstance(item, FunctionType) and not is_foreign(*origin(item))]
    around = [item for item in found if hasattr(item, "__wrapped__") and own_call(item, witness) is not None]
    return [*around, *functions]


def _merge(parts: Parts, more: Parts) -> None:
    for label, digest in more.items():
        before = parts.setdefault(label, digest)
        if before != digest:  # two modules name something alike
            parts[label] = combine([before, digest])


def _use(code: CodeType, behind: int = 0) -> SelfUse:
    """How code uses a parameter: the first, or the one behind so many."""
    count, takes_rest = code.co_argcount - behind, bool(code.co_flags & inspect.CO_VARARGS)
    if count < 0:
        return SelfUse(escapes=takes_rest)
    is_rest = not count and takes_rest  # the object is the first of `*args`
    if not count and not is_rest:
        return SelfUse()
    name = code.co_varnames[code.co_argcount + code.co_kwonlyargcount if is_rest else behind]
    tree = tree_of(code)
    if tree is None:
        return SelfUse(escapes=is_rest or _mentions(code, name))
    holder = code.co_varnames[0] if behind and means_one_thing(code.co_varnames[0], code, tree) else None
    visitor = _Visitor(name, code, is_rest=is_rest, holder=holder)
    for part in tree.body if isinstance(tree.body, list) else [tree.body]:
        visitor.visit(part)
    return visitor.use()


_use_of = Memory(_use)
_use_behind = Memory(lambda code: _use(code, 1))


_LOOK_AROUND = frozenset({"locals", "vars", "eval", "exec"})
"""Functions that reach whatever is around them without naming it."""


def _mentions(code: CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    used = any(
        name in (found if isinstance(found := instruction.argval, tuple) else (found,))
        or (instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in _LOOK_AROUND)
        for instruction in dis.get_instructions(code)
        if not instruction.opname.startswith(("MAKE_CELL", "COPY_FREE_VARS"))
    )
    return used or any(_mentions(constant, name) for constant in inner if name in constant.co_freevars)


def _same_throughout(code: CodeType) -> frozenset[str]:
    """The variables of the code around it that mean the same throughout a function."""
    own = {name for inner in codes_in(code) for name in (*inner.co_varnames, *inner.co_cellvars)}
    return frozenset(code.co_freevars) - assigned_in(code) - own


def _number(node: ast.AST | None) -> int | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


class _Visitor(ast.NodeVisitor):
    """Looks through the body of a method for its first parameter, or the first of its `*args`."""

    def __init__(self, name: str, code: CodeType, *, is_rest: bool, holder: str | None = None) -> None:
        self._name = name
        self._holder = holder
        self._is_rest = is_rest
        self._around = _same_throughout(code)
        # `super()` takes the object without naming it, and what it reaches is not looked up here.
        self._reaching = {"super", *_LOOK_AROUND} - {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        self._reads: set[str] = set()
        self._calls: set[str] = set()
        self._writes: set[str] = set()
        self._passes: set[str] = set()
        self._hands: set[str] = set()
        self._escapes = False

    def use(self) -> SelfUse:
        reads, calls, writes, passes = map(frozenset, (self._reads, self._calls, self._writes, self._passes))
        return SelfUse(reads, calls, writes, self._escapes, passes, frozenset(self._hands))

    def _is_named(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self._name

    def _is_self(self, node: ast.AST) -> bool:
        if not self._is_rest:
            return self._is_named(node)
        return isinstance(node, ast.Subscript) and self._is_named(node.value) and _number(node.slice) == 0

    def _is_first(self, node: ast.AST) -> bool:
        """Whether an argument hands on the object as the first one."""
        return self._is_self(node) or (self._is_rest and isinstance(node, ast.Starred) and self._is_named(node.value))

    def _is_held(self, node: ast.AST) -> bool:
        """Whether it is an attribute of the decorator whose call this is."""
        value = node.value if isinstance(node, ast.Attribute) else None
        return isinstance(value, ast.Name) and self._holder is not None and value.id == self._holder

    def visit_Call(self, node: ast.Call) -> None:
        called, parts = node.func, [*node.args, *node.keywords]
        name = called.id if isinstance(called, ast.Name) else ""
        if isinstance(called, ast.Attribute) and self._is_self(called.value):
            self._calls.add(called.attr)
        if name in self._around and node.args and self._is_first(node.args[0]):
            self._passes.add(name)
            parts = parts[1:]
        elif self._is_held(called) and node.args and self._is_first(node.args[0]):
            self._hands.add(called.attr)  # type: ignore[attr-defined]
            parts = parts[1:]
        elif self._is_rest and name == "len" and len(parts) == 1 and self._is_named(parts[0]):
            return
        elif name != "vars" or not parts:  # `vars(other)` looks at nothing else
            self.visit(called)
        for part in parts:
            self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        place = node.slice
        start = _number(place.lower if isinstance(place, ast.Slice) and place.step is None else place)
        if not (self._is_rest and self._is_named(node.value) and start is not None and start > 0):
            self.generic_visit(node)
        elif isinstance(place, ast.Slice) and place.upper is not None:
            self.visit(place.upper)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self._is_self(node.value):
            self.generic_visit(node)
        elif isinstance(node.ctx, ast.Load):
            self._reads.add(node.attr)
        else:
            self._writes.add(node.attr)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Attribute) and self._is_self(node.target.value):
            self._reads.add(node.target.attr)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._escapes |= node.id == self._name or node.id in self._reaching

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, Function):
            self._visit_function(node)
        else:
            super().visit(node)

    def _visit_function(self, node: Function) -> None:
        for part in self._outside(node):
            self.visit(part)
        arguments = node.args
        names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        if not any(argument is not None and argument.arg == self._name for argument in names):
            for part in node.body if isinstance(node.body, list) else [node.body]:
                self.visit(part)

    def _outside(self, node: Function) -> Iterator[ast.AST]:
        """What of a nested function is evaluated where it stands."""
        yield from getattr(node, "decorator_list", ())
        yield from node.args.defaults
        yield from (default for default in node.args.kw_defaults if default is not None)
