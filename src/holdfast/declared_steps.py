"""A function that is a step, and what was said of it.

Rules that must stay true:
- options that do not fit the function, or each other, are refused when they are given;
- what is found out about a function is kept with its step, and looked at again when something of it has changed.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import CodeType, FunctionType
from typing import Any, Final
from weakref import WeakKeyDictionary

from holdfast.agent import Agent
from holdfast.arguments import Parameters
from holdfast.caching import Cache
from holdfast.canonical import digest
from holdfast.declared import Types, hints_of
from holdfast.effects import Kind, kind_of_function
from holdfast.errors import InvalidInput
from holdfast.fingerprint import Parts
from holdfast.messages import messages_from
from holdfast.pieces import module_of
from holdfast.scalars import is_encodable
from holdfast.sources import names_in
from holdfast.step_owner import StepOwner
from holdfast.witness import Witness

__all__ = ["Known", "Options", "Step"]

MAX_NAME: Final = 255
"""Characters of the name of a step."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is said of a step beside its function."""

    name: str
    cache: Cache | None = None
    version: str | int | None = None
    key: Callable[..., Any] | None = None
    ignore: frozenset[str] = frozenset()
    uses: tuple[Any, ...] = ()
    depends: Callable[[Any], Any] | None = None
    store_if: Callable[[Any], Any] | None = None
    retries: int = 0
    timeout: float | None = None
    is_named: bool = False
    """Whether the name was given, and is not just that of the function."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out about the code of a step, as it stands in one class of workflows."""

    parts: Parts
    agents: tuple[str, ...]
    """The attributes of the workflow that are agents which the code uses: these change with each object."""
    methods: frozenset[str]
    """The methods that the code calls on the workflow: they are those of the class."""
    witness: Witness


class Step:
    """A function that is a step, and what was said of it.

    Raises:
        InvalidInput: options that cannot be used or do not fit together.
    """

    def __init__(self, function: Callable[..., Any], options: Options, *, is_inline: bool = False) -> None:
        self.function = function
        self.is_inline = is_inline
        """Whether it was made where it is called, so that what it takes from the code around it differs by call."""
        self.options = options
        self.agent = _agent_of(function)
        self.kind: Kind | None = kind_of_function(function)
        """How it gives what it gives; None where only a call tells."""
        self.is_stream = self.kind in ("stream", "astream")
        self.takes = options.cache is None and (is_inline or _is_nested(function))
        """Whether a call of it in the run's own scope may take more than its arguments from the code around it."""
        self.taken: dict[str, tuple[Any, dict[str, bytes]]] = {}
        """What it took from there last, by name, with its digest as it was when the step first saw that object."""
        self.unnamed: frozenset[str] = frozenset()
        """What is to be ignored of a method, and only its class can have."""
        self._names: frozenset[str] = frozenset()
        """Its parameters, and whatever its code names; known where something is to be ignored that is no parameter."""
        self._check()
        self._parameters: dict[int, Parameters] = {}
        self.known: dict[type | None, Known] = {}
        """What was found out about its code, by the class of the workflow if it is a method."""
        self.types: WeakKeyDictionary[type, Types] = WeakKeyDictionary()
        """What its result may be made of, by the class of the workflow."""

    def _check(self) -> None:
        options = self.options
        if type(options.name) is not str or not 1 <= len(options.name) <= MAX_NAME or not is_encodable(options.name):
            raise InvalidInput(f"The name of a step is a str of 1 to {MAX_NAME} characters without lone surrogates.")
        if isinstance(options.retries, bool) or not isinstance(options.retries, int) or options.retries < 0:
            raise InvalidInput("retries must be a number from 0.")
        if options.timeout is not None:
            if not isinstance(options.timeout, int | float) or not options.timeout > 0:
                raise InvalidInput("timeout must be a number of seconds above 0.")
            if self.kind != "awaited" and self.agent is None:
                raise InvalidInput(
                    f"Step {options.name!r} cannot have a timeout: a function that runs cannot be stopped, only a "
                    "coroutine function or the run of an agent. Give the timeout to what it calls, or make it async."
                )
        if options.cache is None and (options.version is not None or options.uses or options.depends is not None):
            raise InvalidInput(
                f"Step {options.name!r} is kept for its run only, where its code does not count: version, uses and "
                "depends need a cache=."
            )

    def look_for_ignored(self) -> None:
        """Refuse what `ignore=` names and nothing has; of a method its class, and then `require_named`, can tell."""
        parameters = Parameters(self.function)
        roots = {name: _ROOT.split(name, maxsplit=1)[0] for name in self.options.ignore}
        for name in sorted(roots):
            self._require_whole(name, roots[name], parameters.names)
        if not parameters.takes_any and not roots.keys() <= {"self", *parameters.names}:
            codes = [code for value in (self.function, *self.options.uses) for code in _codes_of(value)]
            self._names = frozenset({"self", *parameters.names}.union(*map(names_in, codes)))
            self.unnamed = frozenset(name for name, root in roots.items() if root not in self._names)
            scope, _, _ = getattr(self.function, "__qualname__", "").rpartition(".")
            is_method = (scope and not scope.endswith("<locals>")) or parameters.names[:1] == ["self"]
            if not is_method:
                self.require_named(())

    def _require_whole(self, name: str, root: str, parameters: list[str]) -> None:
        """Refuse a part of an argument or of `self`, such as `"self.style"`."""
        if name == root or root not in {"self", *parameters}:
            return
        rest = name[len(root) :]
        advice = f"An argument is left out as a whole: ignore={[root]!r}."
        if root == "self":
            advice = f"An attribute of `self` is written without it: ignore={[rest.lstrip('.')]!r}."
        raise InvalidInput(f"Step {self.options.name!r} is to ignore {name!r}. {advice}")

    def require_named(self, known: Iterable[str]) -> None:
        """Refuse what `ignore=` names, if it is not among what is known of its class or code either.

        Raises:
            InvalidInput: one of them is not.
        """
        known = set(known)
        for name in sorted(self.unnamed - known):
            close = get_close_matches(name, sorted(known | self._names), 1)
            advice = f"Did you mean {close[0]!r}?" if close else "Correct it, or leave it out."
            raise InvalidInput(
                f"Step {self.options.name!r} is to ignore {name!r}, but has no parameter of that name, and its code "
                f"names no such thing. {advice}"
            )

    def keeps(self, value: Any) -> bool:
        """Whether a result is one to be kept."""
        store_if = self.options.store_if
        return store_if is None or bool(store_if(value))

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """What computes it."""
        return self.timely(args, kwargs) if self.options.timeout else functools.partial(self.function, *args, **kwargs)

    def types_in(self, workflow: StepOwner) -> Types:
        """What its result may be made of: what the workflow declares, and what the function's annotations name."""
        types = self.types.get(type(workflow))
        if types is None:
            hints = list(hints_of(self.function))
            if self.agent is not None:
                hints.append(self.agent.output_type)
            declared = workflow._types
            types = declared if not Types(hints).classes else Types([*declared.classes, *hints])
            self.types[type(workflow)] = types
        return types

    @functools.cached_property
    def identity(self) -> str:
        """The name of the function, with those of the module and the class or function that it stands in."""
        return f"{module_of(self.function)}.{getattr(self.function, '__qualname__', type(self.function).__qualname__)}"

    def argument_parts(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_method: bool) -> dict[str, bytes]:
        """What its arguments are, each as a digest.

        Raises:
            StepKeyError: one of them has no identity.
            TypeError: they do not fit.
        """
        name, key = self.options.name, self.options.key
        if key is not None:
            told = key(*(args[1:] if is_method else args), **kwargs)
            return {"key": digest(told, "what key= returned", name)}
        given = self.arguments(args, kwargs, is_method=is_method)
        if self.agent is not None and given.get("history") is not None:
            given["history"] = messages_from(given["history"])  # of a response only the content would count
        parts = {}
        for parameter, value in given.items():
            label = "argument " + parameter
            parts[label] = digest(value, label, name)
        return parts

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_method: bool) -> dict[str, Any]:
        """Its arguments by name, but for those that are to be ignored.

        Raises:
            TypeError: they do not fit.
        """
        skipped = int(is_method)
        parameters = self._parameters.get(skipped)
        if parameters is None:
            parameters = self._parameters[skipped] = Parameters(self.function, skipped=skipped)
        given = parameters.given(args[skipped:], kwargs)
        ignore = self.options.ignore
        return {name: given[name] for name in parameters.names if name in given and name not in ignore}

    def timely(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """What computes it, in time or not at all."""
        function, timeout = self.function, self.options.timeout
        if self.agent is not None and self.kind is None:
            assert timeout is not None
            return functools.partial(self.agent.run_within, timeout, *args, **kwargs)

        async def awaited() -> Any:
            import asyncio  # loaded already, by whoever runs the loop

            async with asyncio.timeout(timeout):
                return await function(*args, **kwargs)

        return awaited


def _is_nested(function: Callable[..., Any]) -> bool:
    return not isinstance(function, FunctionType) or inspect.unwrap(function).__closure__ is not None


def _codes_of(value: Any) -> Iterator[CodeType]:
    """The code objects of a callable, and of what it is put around."""
    if isinstance(value, functools.partial):
        value = value.func
    called = value if hasattr(value, "__code__") else inspect.getattr_static(type(value), "__call__", None)
    if (code := getattr(called, "__code__", None)) is not None:
        yield code
    wrapped = getattr(value, "__wrapped__", None)
    yield from _codes_of(wrapped) if wrapped is not None else ()


_ROOT: Final = re.compile(r"[.\[]")
"""Where the name ends under which code finds `helpers.writer` or `WRITERS['short']`."""


def _agent_of(function: Callable[..., Any]) -> Agent | None:
    """The agent whose `run` or `arun` it is."""
    agent = getattr(function, "__self__", None)
    return agent if isinstance(agent, Agent) and function.__name__ in _ASKS else None


_ASKS: Final = frozenset({"run", "arun", "_run", "_arun"})
