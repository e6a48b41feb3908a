"""What a method takes from its object, read off its text.

Rules that must stay true:
- nothing is run; what cannot be told, because the text is not to be had or the object itself is passed on, is said
  to escape, so that the caller can refuse it;
- methods and properties of the user's own class are followed; every other attribute is reported by its name.
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
from holdfast.fingerprint import Parts, Special, code_parts, is_foreign, nothing_special
from holdfast.sources import Function, Memory, functions_in, tree_of
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
    """

    reads: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    escapes: bool = False


@dataclass(frozen=True, slots=True)
class MethodParts:
    """The code of a method and of all methods of the class that it calls.

    Attributes:
        parts: as of `code_parts`, and "code of `self.helper`" for each method or property that is reached.
        reads: all other attributes that are read from the object anywhere there.
        writes: the attributes that are assigned or deleted.
        escapes: whether the object itself is passed on, or nobody can tell.
    """

    parts: Parts
    reads: frozenset[str]
    writes: frozenset[str]
    escapes: bool


def self_use(function: Callable[..., Any]) -> SelfUse:
    """How a method, as it stands in its class, uses the object.

    A function without parameters uses none. One whose text is not to be had, and that mentions its first parameter,
    is said to let the object escape.

    >>> self_use(lambda self: self.writer.run(self.topic())) == SelfUse(
    ...     frozenset({"writer", "topic"}), frozenset({"topic"})
    ... )
    True
    """
    return _use_of(inspect.unwrap(function).__code__)


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
    pending = [_innermost(function, witness)]
    seen = {id(pending[0])}
    reads: set[str] = set()
    writes: set[str] = set()
    escapes = False
    while pending:
        use = self_use(pending.pop())
        writes |= use.writes
        escapes |= use.escapes
        for name in sorted(use.reads):
            attribute = _attribute(cls, name, witness)
            methods = _methods(attribute, witness)
            if not methods:
                reads.add(name)
            for method in methods:
                if id(method) not in seen:
                    seen.add(id(method))
                    label = f"code of `self.{name}`"
                    _merge(parts, code_parts(method, step=step, special=special, label=label, witness=witness))
                    if not isinstance(attribute, staticmethod):
                        pending.append(_innermost(method, witness))
    return MethodParts(parts, frozenset(reads), frozenset(writes), escapes)


def _innermost(function: Any, witness: Witness) -> Any:
    """As `inspect.unwrap`."""
    seen = {id(function)}
    while (wrapped := witness.attribute(function, "__wrapped__")) is not ABSENT and id(wrapped) not in seen:
        seen.add(id(wrapped))
        function = wrapped
    return function


def _attribute(cls: type, name: str, witness: Witness) -> Any:
    """What stands in a class under a name, itself or inherited."""
    for base in cls.__mro__:
        attribute = witness.item(vars(base), name)
        if attribute is not ABSENT:
            return attribute
    return ABSENT


def _methods(attribute: Any, witness: Witness) -> list[FunctionType]:
    found = witness.again(lambda: list(functions_in(attribute)))
    return [function for function in found if not is_foreign(function.__module__, function.__code__.co_filename)]


def _merge(parts: Parts, more: Parts) -> None:
    for label, digest in more.items():
        before = parts.setdefault(label, digest)
        if before != digest:  # two modules name something alike
            parts[label] = combine([before, digest])


def _use(code: CodeType) -> SelfUse:
    if not code.co_argcount:
        return SelfUse(escapes=bool(code.co_flags & inspect.CO_VARARGS))
    name = code.co_varnames[0]
    tree = tree_of(code)
    if tree is None:
        return SelfUse(escapes=_mentions(code, name))
    visitor = _Visitor(name)
    for part in tree.body if isinstance(tree.body, list) else [tree.body]:
        visitor.visit(part)
    return visitor.use()


_use_of = Memory(_use)


def _mentions(code: CodeType, name: str) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    used = any(
        name in (found if isinstance(found := instruction.argval, tuple) else (found,))
        for instruction in dis.get_instructions(code)
        if not instruction.opname.startswith(("MAKE_CELL", "COPY_FREE_VARS"))
    )
    return used or any(_mentions(constant, name) for constant in inner if name in constant.co_freevars)


class _Visitor(ast.NodeVisitor):
    """Looks through the body of a method for its first parameter."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reads: set[str] = set()
        self._calls: set[str] = set()
        self._writes: set[str] = set()
        self._escapes = False

    def use(self) -> SelfUse:
        return SelfUse(frozenset(self._reads), frozenset(self._calls), frozenset(self._writes), self._escapes)

    def _is_self(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self._name

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and self._is_self(node.func.value):
            self._calls.add(node.func.attr)
        self.generic_visit(node)

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
        # `super()` takes the object without naming it, and what it reaches is not looked up here.
        self._escapes |= node.id in (self._name, "super")

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
