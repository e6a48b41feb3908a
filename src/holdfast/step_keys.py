"""What identifies the result of a step.

Rules that must stay true:
- a key is a digest of labelled digests, so that what differs between two keys can be named later;
- of a step that is kept beyond its run everything counts that can change the result: its arguments, its code, the
  agents that it uses, and what it says that it depends on. What it uses beside these is an error, not a guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.agent import Agent
from holdfast.agent_identity import agent_parts
from holdfast.canonical import digest
from holdfast.errors import StepKeyError
from holdfast.fingerprint import code_parts, method_parts

if TYPE_CHECKING:
    from holdfast.steps import Step, Stepping

VERSION: Final = b"holdfast step 1\0"

_HARMLESS: Final = frozenset({"step", "parallel"})
"""Attributes of a workflow that change nothing by themselves."""


def key_of(head: Iterable[str], parts: Mapping[str, bytes]) -> bytes:
    """The key of a step.

    Args:
        head: what the step is, and whose.
        parts: digests of 32 bytes by what they are of.

    >>> key_of(("run", "search"), {"argument topic": bytes(32)}).hex()[:8]
    '0f3fd1a5'
    """
    labels = sorted(parts)
    told = msgspec.json.encode([list(head), labels])
    return hashlib.sha256(b"".join([VERSION, told, *[parts[label] for label in labels]])).digest()


def parts_for_others(step: Step, workflow: Stepping, *, is_method: bool) -> dict[str, bytes]:
    """What the result depends on beside the arguments, for a step that is kept beyond its run.

    Raises:
        StepKeyError: it uses something of the workflow that has no place in its key.
    """
    options = step.options
    parts: dict[str, bytes] = {}
    if options.depends is not None:
        parts["depends"] = digest(options.depends(workflow), "what depends= returned", options.name)
    if step.agent is not None:
        parts |= agent_parts(step.agent, step.agent.name or "agent")
        return parts
    if is_method:
        code, attributes, passes_self = method_parts(type(workflow), step.function, options.uses)
        _require_known(step, workflow, attributes, passes_self=passes_self)
        for name in sorted(attributes):
            if isinstance(getattr(type(workflow), name, None), Agent):
                parts |= agent_parts(getattr(workflow, name), name)
    else:
        code = code_parts(step.function, options.uses)
    if options.version is None:
        return parts | code
    parts["version"] = digest(options.version, "version", options.name)
    return parts


def _require_known(step: Step, workflow: Stepping, attributes: Iterable[str], *, passes_self: bool) -> None:
    options = step.options
    if options.depends is not None:
        return
    unknown = [
        name
        for name in sorted(attributes)
        if name not in options.ignore and name not in _HARMLESS and not _is_in_the_key(workflow, name)
    ]
    if passes_self and "self" not in options.ignore:
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


def _is_in_the_key(workflow: Stepping, name: str) -> bool:
    return isinstance(getattr(type(workflow), name, None), Agent)


def digest_of_input(value: Any, name: str) -> bytes:
    """The digest that an argument of a step has."""
    return digest(value, f"argument {name}", "")
