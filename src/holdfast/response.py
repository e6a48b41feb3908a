"""What a run hands out: responses, each marked with the event it stands for.

Rules that must stay true:
- a response is plain data; it never reads the storage and never calls a model;
- the names and values of events are those that users of Phidata know; new ones are only added;
- messages that were recorded are read when they are asked for, for it takes a model package to read them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from holdfast import clock
from holdfast.records import Usage


class RunEvent(StrEnum):
    """What a response stands for."""

    run_started = "RunStarted"
    run_response = "RunResponse"
    run_completed = "RunCompleted"
    tool_call_started = "ToolCallStarted"
    tool_call_completed = "ToolCallCompleted"
    workflow_started = "WorkflowStarted"
    workflow_completed = "WorkflowCompleted"
    step_started = "StepStarted"
    step_completed = "StepCompleted"
    state_saved = "StateSaved"
    run_failed = "RunFailed"
    run_cancelled = "RunCancelled"
    run_paused = "RunPaused"


@dataclass(slots=True, kw_only=True)
class RunResponse:
    """One response of a workflow's or an agent's run.

    Only `content` is usually given; a workflow fills in `run_id`, `session_id`, `workflow_id` and `sequence` of
    every response that its `run()` yields or returns.

    Attributes:
        content: anything: text, a dict, a pydantic model, or None.
        event: what the response stands for.
        run_id, session_id, workflow_id, user_id: of the workflow's run.
        sequence: 1 for the first response that a run hands out, 2 for the next, and so on.
        agent: the name of the agent that made it, if one did.
        agent_run_id: that agent's own id for its run.
        model: the name of the model that answered.
        messages: the agent's message history up to and with this answer, as pydantic-ai messages; give it to the
            next run as `history`.
        usage: requests, tokens and cost in US dollars, when it is known.
        cached: whether it was recorded earlier, so that `usage` is what it cost then and nothing was paid now.
        data: further facts of an event, such as the tool's name and arguments, or a JSON Patch.
        created_at: seconds since 1970 in UTC.

    >>> RunResponse(content="hello").to_dict()["content"]
    'hello'
    """

    content: Any = None
    event: RunEvent = RunEvent.run_response
    run_id: str | None = None
    session_id: str | None = None
    workflow_id: str | None = None
    user_id: str | None = None
    sequence: int | None = None
    agent: str | None = None
    agent_run_id: str | None = None
    model: str | None = None
    messages: list[Any] = field(default_factory=list, repr=False)
    usage: Usage | None = None
    cached: bool = False
    data: dict[str, Any] | None = None
    created_at: float = field(default_factory=clock.now, repr=False)

    @property
    def content_type(self) -> str:
        """The class name of the content, `"str"` for text.

        >>> RunResponse(content={"a": 1}).content_type
        'dict'
        """
        return type(self.content).__name__

    def to_dict(self) -> dict[str, Any]:
        """The response as values that JSON knows; what is unset is left out.

        A pydantic model or dataclass becomes a dict, and its class name stands in `content_type`. Values that
        JSON does not know (a datetime, say) become text, as pydantic writes them.

        Raises:
            pydantic_core.PydanticSerializationError: the content holds something that cannot be written as JSON.
        """
        from pydantic_core import to_jsonable_python

        fields = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        fields["content_type"] = self.content_type
        return {
            name: to_jsonable_python(value)
            for name, value in fields.items()
            if name == "content" or not (value is None or value is False or value == [])
        }

    def copied(self) -> RunResponse:
        """Another response with the same fields, nothing of it read or copied further.

        >>> RunResponse(content="hello").copied().content
        'hello'
        """
        twin = object.__new__(RunResponse)
        for spec in dataclasses.fields(self):
            name = spec.name
            setattr(twin, name, unread_messages(self) if name == "messages" else getattr(self, name))
        return twin

    def to_json(self, indent: int | None = None) -> str:
        """The response as JSON text.

        >>> '"event": "WorkflowCompleted"' in RunResponse(event=RunEvent.workflow_completed).to_json()
        True
        """
        import json

        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)


class Unread(msgspec.Struct, frozen=True):
    """Recorded messages of a response, not read yet."""

    text: str
    """What `messages_to_data` makes of them, as JSON."""

    def read(self) -> list[Any]:
        """The messages."""
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        return ModelMessagesTypeAdapter.validate_json(self.text)


# A property stands in front of the descriptor of the slot.
_messages_slot: Any = vars(RunResponse)["messages"]


def unread_messages(response: RunResponse) -> list[Any] | Unread:
    """The messages of a response as they are, read or not."""
    return _messages_slot.__get__(response)  # type: ignore[no-any-return]


def _read_messages(response: RunResponse) -> list[Any]:
    messages = _messages_slot.__get__(response)
    if isinstance(messages, Unread):
        messages = messages.read()
        _messages_slot.__set__(response, messages)
    return messages  # type: ignore[no-any-return]


def _set_messages(response: RunResponse, messages: Any) -> None:
    _messages_slot.__set__(response, messages)


setattr(RunResponse, "messages", property(_read_messages, _set_messages))  # noqa: B010  # a type checker sees a list
