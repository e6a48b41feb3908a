"""What identifies the result of a step.

Rules that must stay true:
- a key is a digest of labelled digests, so that what differs between two keys can be named later;
- of a step that is kept beyond its run everything counts that can change the result: its arguments, its code, the
  agents that it uses, and what it says that it depends on. What it uses beside these is an error, not a guess.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import msgspec

from holdfast.agent import Agent
from holdfast.agent_identity import agent_parts, agents_in, told_apart
from holdfast.canonical import combine, digest, digest_or_none, identity
from holdfast.declared_steps import Known, Step
from holdfast.errors import StepKeyError
from holdfast.fingerprint import VARIABLE_ADVICE, Special, code_parts, is_workflow
from holdfast.methods import MethodParts, method_parts
from holdfast.pieces import Unidentified, module_of
from holdfast.records import CODE_LABELS
from holdfast.sources import assigned_in
from holdfast.step_owner import StepOwner
from holdfast.witness import Witness

VERSION: Final = b"holdfast step 1\0"

_HARMLESS: Final = frozenset({"step", "parallel"})
"""Attributes of a workflow that change nothing by themselves."""


def key_of(head: Iterable[str], parts: Mapping[str, bytes]) -> bytes:
    """The key of a step.

    Args:
        head: what the step is, and whose.
        parts: digests of 32 bytes by what they are of.

    >>> key_of(("run", "search"), {"argument topic": bytes(32)}).hex()[:8]
    '20e77bcb'
    """
    told, labels = _told(tuple(head), tuple(parts))
    return hashlib.sha256(b"".join([told, *[parts[label] for label in labels]])).digest()


@functools.lru_cache(maxsize=1_000)
def _told(head: tuple[str, ...], unsorted: tuple[str, ...]) -> tuple[bytes, list[str]]:
    labels = sorted(unsorted)
    return VERSION + msgspec.json.encode([head, labels]), labels


def parts_of(parts: Mapping[str, bytes]) -> bytes:
    """What a key is made of, as it is recorded."""
    return msgspec.json.encode({label: shortened(parts[label]) for label in sorted(parts)})


def shortened(digest: bytes) -> str:
    """The digest of a part as it is recorded: half of it tells two parts apart.

    >>> len(shortened(bytes(32)))
    32
    """
    return digest.hex()[:32]


def parts_for_others(step: Step, workflow: StepOwner, *, is_method: bool) -> dict[str, bytes]:
    """What the result depends on beside the arguments, for a step that is kept beyond its run.

    Raises:
        StepKeyError: it uses something of the workflow that has no place in its key.
    """
    options = step.options
    parts: dict[str, bytes] = {}
    if options.depends is not None:
        parts["depends"] = digest(options.depends(workflow), "what depends= returned", options.name)
    if step.agent is not None:
        return parts | agent_parts(step.agent, step.agent.name or "agent", options.name)
    known = step.known.get(type(workflow) if is_method else None)
    if known is None or not known.witness.holds():
        known = _found_out(step, workflow, is_method=is_method)
    if is_method and not known.methods.isdisjoint(vars(workflow)):
        name = min(known.methods & vars(workflow).keys())
        raise StepKeyError(
            step=options.name,
            path=f"self.{name}",
            reason="is a method that was replaced on this object",
            advice="Replace it in the class, or give it to the step as an argument.",
        )
    parts |= known.parts
    for attribute in known.agents:
        for label, told in agent_parts(getattr(workflow, attribute), attribute, options.name).items():
            # The code may name another agent of that name, which is no attribute.
            parts[label] = told if parts.get(label, told) == told else combine([parts[label], told])
    return parts


def _found_out(step: Step, workflow: StepOwner, *, is_method: bool) -> Known:
    options = step.options
    witness = Witness()
    agents: list[str] = []
    methods: frozenset[str] = frozenset()
    special = _special(step)
    if is_method:
        used = method_parts(
            type(workflow), step.function, options.uses, step=options.name, special=special, witness=witness
        )
        step.require_named({*used.names, *dir(workflow)})
        _require_known(step, workflow, used)
        code = used.parts
        methods = frozenset(label[len(_OF_METHOD) : -1] for label in code if label.startswith(_OF_METHOD))
        agents = [name for name in sorted(used.reads) if _is_agent(workflow, name)]
    else:
        step.require_named(())
        code = code_parts(step.function, options.uses, step=options.name, special=special, witness=witness)
    if options.version is not None:
        # The version stands for the code, but not for what the code works with.
        code = {label: told for label, told in code.items() if not label.startswith(CODE_LABELS)}
        code["version"] = digest(options.version, "version", options.name)
    if len(step.known) >= MOST_CLASSES:
        step.known.clear()
    known = step.known[type(workflow) if is_method else None] = Known(code, tuple(agents), methods, witness)
    return known


MOST_CLASSES: Final = 16
"""Classes of workflows that a step knows its code in: what is known of one keeps that alive."""

_OF_METHOD: Final = "code of `self."
"""How the labels of methods begin that a step calls on its workflow."""


def variables_of(step: Step) -> dict[str, bytes]:
    """What a function takes from the code around it, for a step of the run's own scope: there its code does not count,
    but these are arguments all the same.

    A step that was declared is declared before it is called, so an object counts as it was when the step first saw it:
    a list in which its calls collect something is no argument of the next call. What has no identity there, such as a
    client, does not count: calls are told apart by their number then, where an inline step is refused.

    Raises:
        StepKeyError: one of them has no identity, of an inline step.
    """
    parts: dict[str, bytes] = {}
    if step.agent is not None and step.agent.name is None:  # nothing else tells it from another one
        parts["agent"] = told_apart(step.agent, step.options.name, _named_and_held)
    taken = _closed_over(inspect.unwrap(step.function))
    if not isinstance(step.function, FunctionType):
        taken[""] = step.function
    for name, value in taken.items():
        if name in step.options.ignore:
            continue
        known = step.taken.get(name)
        if known is None or known[0] is not value:
            known = step.taken[name] = value, _taken(step, name, value)
        parts |= known[1]
    return parts


def _taken(step: Step, name: str, value: Any) -> dict[str, bytes]:
    label = f"variable `{name}`" if name else "held"
    if not name or isinstance(value, _HOLDERS):
        held = list(_held_by(value))
        return {label: combine(held)} if held else {}
    if isinstance(value, _NO_ARGUMENTS) or is_workflow(value):
        return {}
    try:
        return {label: identity(value, label)}
    except Unidentified as problem:
        if not step.is_inline:
            return {}
        problem.advice = VARIABLE_ADVICE
        raise problem.error(step.options.name) from None


def _closed_over(function: Any) -> dict[str, Any]:
    """What a function takes from the code around it, by name; what has no value yet is left out, and so is what the
    function itself assigns, which is no argument."""
    found: dict[str, Any] = {}
    cells = getattr(function, "__closure__", None)  # of a callable that is no function there are none
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True) if cells else ():
        if name not in assigned_in(function.__code__):
            with contextlib.suppress(ValueError):
                found[name] = cell.cell_contents
    return found


def _held_by(value: Any, levels: int = 5) -> Iterator[bytes]:
    """What is held by a callable that has an identity: the arguments of a partial, the object of a bound method, what a
    function takes from the code around it. What has none is told apart by its number only."""
    held: list[Any] = []
    if isinstance(value, Agent) or is_workflow(value):
        return
    if isinstance(value, functools.partial):
        held = [value.args, dict(value.keywords), value.func]
    elif isinstance(value, MethodType):
        held = [value.__self__, value.__func__]
    elif isinstance(value, FunctionType):
        held = list(_closed_over(value).values())
    elif (told := digest_or_none(value)) is not None:
        yield told
    if levels:
        for item in held:
            yield from _held_by(item, levels - 1)


def _named_and_held(value: Any) -> bytes:
    """A function or class by its name, and what it holds."""
    kind = value if hasattr(value, "__qualname__") else type(value)
    defaults = [*(getattr(value, "__defaults__", None) or ()), getattr(value, "__kwdefaults__", None)]
    held = [told for item in (value, *defaults) for told in _held_by(item)]
    return combine([f"{module_of(kind)}.{kind.__qualname__}".encode(), *held])


_HOLDERS: Final = (functools.partial, MethodType, FunctionType)
"""Callables that hold values."""

_NO_ARGUMENTS: Final = (FunctionType, MethodType, BuiltinFunctionType, ModuleType, type, functools.partial, Agent)


def _special(step: Step) -> Special:
    """What stands for an agent that code names; and nothing for what is to be ignored."""
    of_agents = agents_in(step.options.name)
    return lambda name, value: {} if name in step.options.ignore else of_agents(name, value)


def _is_agent(workflow: StepOwner, name: str) -> bool:
    return isinstance(getattr(type(workflow), name, None), Agent)


def _require_known(step: Step, workflow: StepOwner, used: MethodParts) -> None:
    """Refuse a method that takes more from its workflow than its key tells of, or changes it."""
    options = step.options
    if used.writes - options.ignore:
        name = min(used.writes - options.ignore)
        raise StepKeyError(
            step=options.name,
            path=f"self.{name}",
            reason="is assigned, which a recorded result could not repeat",
            advice=f"Return a value and assign it in run(); or, if nothing depends on it, say ignore=[{name!r}].",
        )
    if options.depends is not None:
        return
    harmless = options.ignore | _HARMLESS
    unknown = [name for name in sorted(used.reads) if name not in harmless and not _is_agent(workflow, name)]
    if used.escapes and "self" not in harmless:
        unknown.append("self")
    if unknown:
        name = unknown[0]
        raise StepKeyError(
            step=options.name,
            path="self" if name == "self" else f"self.{name}",
            reason="is used, and is not in its key",
            advice="Give it as an argument; or say what it stands for: depends=lambda self: ...; or, if it does not "
            f"change the result, ignore=[{name!r}].",
        )
