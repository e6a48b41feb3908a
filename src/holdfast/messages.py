"""Message histories as plain data, so that a conversation can be kept in the session state.

Rules that must stay true:
- what `messages_to_data` gives is exactly what JSON says, and `messages_from` gives the same messages back;
- pydantic-ai is imported only when a history is really converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.errors import InvalidInput
from holdfast.response import RunResponse, Unread, unread_messages

__all__ = ["History", "as_text", "messages_from", "messages_to_data"]

History = RunResponse | Sequence[Any] | None
"""A response, its `messages`, the plain data of these, or None for a new conversation."""


def messages_to_data(history: History) -> list[dict[str, Any]]:
    """Turn a conversation into plain lists and dicts that can be kept in `session_state`.

    Args:
        history: a response of an agent, or its `messages`.

    Returns:
        one dict per message, of values that JSON knows. Give it to an agent as `history` to go on.

    Raises:
        InvalidInput: it is no message history.

    >>> from holdfast.agent import Agent
    >>> response = Agent("offline").run("Hello")
    >>> [message["kind"] for message in messages_to_data(response)]
    ['request', 'response']
    """
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    data: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(messages_from(history), mode="json")
    return data


def as_text(response: RunResponse) -> str | None:
    """The messages of a response as JSON, to be recorded; None if it has none.

    Raises:
        InvalidInput: they are no messages.
    """
    messages = unread_messages(response)
    if isinstance(messages, Unread):
        return messages.text
    if not messages:
        return None
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    return ModelMessagesTypeAdapter.dump_json(messages_from(messages)).decode()


def messages_from(history: History) -> list[Any]:
    """The pydantic-ai messages of a history in any of its forms.

    >>> messages_from(None)
    []
    """
    if history is None:
        return []
    messages = history.messages if isinstance(history, RunResponse) else history
    if isinstance(messages, (str, bytes, dict)) or not isinstance(messages, Sequence):
        raise InvalidInput(
            f"history is a {type(history).__name__}. Give a response of an earlier run, its `messages`, or what "
            "holdfast.messages.messages_to_data() made of them."
        )
    if not messages:
        return []
    return _validated(list(messages))


def _validated(messages: list[Any]) -> list[Any]:
    from pydantic import ValidationError
    from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest, ModelResponse

    if all(isinstance(message, ModelRequest | ModelResponse) for message in messages):
        return messages
    try:
        return ModelMessagesTypeAdapter.validate_python(messages)
    except ValidationError as error:
        where = ", ".join(sorted({f"message {problem['loc'][0]}" for problem in error.errors() if problem["loc"]}))
        # Without its cause: a validation error quotes the values, which may be private.
        raise InvalidInput(
            f"history holds something that is no message ({where or 'at its top'}). Give a response of an earlier "
            "run, its `messages`, or what holdfast.messages.messages_to_data() made of them."
        ) from None
