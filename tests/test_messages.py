"""Conversations as plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic_ai import BinaryContent
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from holdfast.agent import Agent
from holdfast.errors import InvalidInput
from holdfast.messages import messages_from, messages_to_data
from holdfast.response import RunResponse

CONVERSATION = [
    ModelRequest(parts=[UserPromptPart("What are tides?")]),
    ModelResponse(parts=[TextPart("Let me see."), ToolCallPart("search", {"query": "tides"}, "call-1")]),
    ModelRequest(parts=[ToolReturnPart("search", [{"title": "Tides"}], "call-1")]),
    ModelResponse(parts=[TextPart("Tides come and go.")]),
]


def test_a_conversation_comes_back_from_json_as_it_was() -> None:
    data = messages_to_data(CONVERSATION)
    assert messages_from(json.loads(json.dumps(data))) == CONVERSATION


def test_bytes_come_back_from_json() -> None:
    picture = BinaryContent(b"\x00\xff", media_type="image/png")
    data = messages_to_data([ModelRequest(parts=[UserPromptPart(["look", picture])])])
    (message,) = messages_from(json.loads(json.dumps(data)))
    assert message.parts[0].content[1].data == b"\x00\xff"


def test_the_data_is_the_same_when_it_is_made_of_data() -> None:
    data = messages_to_data(CONVERSATION)
    assert messages_to_data(data) == data


def test_a_response_stands_for_its_messages() -> None:
    assert messages_from(RunResponse(messages=CONVERSATION)) == CONVERSATION


def test_the_callers_list_is_not_the_one_that_is_used() -> None:
    assert messages_from(CONVERSATION) is not CONVERSATION


@pytest.mark.parametrize("empty", [None, [], RunResponse()])
def test_nothing_is_a_new_conversation(empty: Any) -> None:
    assert messages_from(empty) == []
    assert messages_to_data(empty) == []


@pytest.mark.parametrize("wrong", ["text", b"bytes", {"kind": "request"}, 42])
def test_what_is_no_list_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=f"history is a {type(wrong).__name__}"):
        Agent("offline").run("hello", history=wrong)


def test_what_is_no_message_is_refused_by_its_place_and_not_its_value() -> None:
    wrong = [*messages_to_data(CONVERSATION), {"role": "user", "content": "a secret"}]
    with pytest.raises(InvalidInput, match="message 4") as caught:
        messages_from(wrong)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_conversation_goes_on_from_data_kept_elsewhere() -> None:
    kept = json.dumps(messages_to_data(Agent("offline").run("hello")))
    response = Agent("offline").run("and now?", history=json.loads(kept))
    assert [message.kind for message in response.messages] == ["request", "response", "request", "response"]
