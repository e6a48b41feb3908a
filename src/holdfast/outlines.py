"""What of a pydantic-ai message changes the next answer.

Rules that must stay true:
- left out is only what is known to change nothing: when, in which run and at which price a message was made, and what
  providers call it; a field that a later pydantic-ai adds is in;
- the ids of tool calls are random: a call and what it returned are tied by the order in which the ids appear;
- pydantic-ai is never imported here: where nobody imported it, there are no messages.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

_PACKAGE = "pydantic_ai.messages"
_PASSING = frozenset(
    {"conversation_id", "failed_attempts", "history_digest", "metadata", "provider_response_id", "run_id", "timestamp"}
    | {"usage", "workspace_ref"}
)
"""Fields that the model is never told."""
_OF_RESPONSES = frozenset({"canonical_system", "model_id", "model_name", "provider_details", "provider_url"})
"""Further fields of a response as a whole; a part may keep in its own details what a provider wants to see again."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A class, and those fields of an instance that identify it."""

    kind: type
    fields: dict[str, Any]


def is_message_class(kind: type) -> bool:
    """Whether instances are messages of pydantic-ai, parts of one or contents of a part.

    >>> is_message_class(str)
    False
    """
    return kind.__module__ == _PACKAGE and dataclasses.is_dataclass(kind)


def outline(message: Any, calls: dict[str, int]) -> Outline:
    """The fields of a message that change the next answer.

    Args:
        calls: the ids of tool calls that have appeared in the conversation, by their order; new ones are added.
    """
    kind = type(message)
    names = {spec.name for spec in dataclasses.fields(kind)} - _PASSING
    if "provider_name" in names:
        names -= {"id"}
    if isinstance(message, sys.modules[_PACKAGE].ModelResponse):
        names -= _OF_RESPONSES
    fields = {name: getattr(message, name) for name in sorted(names)}
    if isinstance(call := fields.get("tool_call_id"), str):
        fields["tool_call_id"] = calls.setdefault(call, len(calls))
    if isinstance(parts := fields.get("parts"), list | tuple):
        fields["parts"] = [outline(part, calls) if is_message_class(type(part)) else part for part in parts]
    return Outline(kind, fields)
