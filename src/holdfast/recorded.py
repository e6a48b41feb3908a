"""What a step gave, as it is recorded, and handing it out again.

Rules that must stay true:
- values are encoded as those of the session state are, exactly or not at all;
- what is handed out again is new each time: nobody's changes reach the record;
- messages of a model stay text until somebody asks for them, so that no model package is imported for a hit;
- responses that are handed out again say so, and cost nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from holdfast import codec
from holdfast.declared import Types
from holdfast.display import display
from holdfast.effects import Kind
from holdfast.messages import as_text
from holdfast.records import Usage
from holdfast.response import RunEvent, RunResponse, Unread

# Keys of the recorded object, one letter each: most results are small.
_VALUE, _RESPONSE, _EVENTS, _AGENTS, _KIND = "v", "r", "e", "a", "k"
_KEPT = ("event", "agent", "agent_run_id", "model", "data")
"""Fields of a response that are recorded beside its content, messages and usage; the others are of the run."""


class Given(msgspec.Struct, frozen=True):
    """What a step gave."""

    value: Any
    """What it returned."""
    events: list[Any] | None = None
    """What it yielded; None if it is no stream."""
    agents: Mapping[str, RunResponse] = {}
    """The last response of each of the workflow's agents that it ran, by attribute."""
    kind: Kind = "value"
    """How it gave it."""


def encode(given: Given, types: Types) -> bytes:
    """The record of what a step gave.

    Raises:
        UnstorableValue: something in it cannot be stored.
    """
    tree: dict[str, Any] = {}
    if isinstance(given.value, RunResponse):
        tree[_RESPONSE] = _written(given.value)
    else:
        tree[_VALUE] = given.value
    if given.events is not None:
        tree[_EVENTS] = list(_grouped(given.events))
    if given.agents:
        tree[_AGENTS] = {name: _written(response) for name, response in given.agents.items()}
    if given.kind != "value":
        tree[_KIND] = given.kind
    return codec.stable_encode(tree, types, "result")


def decode(data: bytes, types: Types) -> Given:
    """What a step gave when it was recorded, made anew.

    Raises:
        UndeclaredType, StateError, MalformedData: as `codec.decode`.
    """
    if data.startswith(b'{"v":"') and len(data) <= _MOST_TEXT and (text := _text(data)) is not None:
        return text
    tree = codec.decode(data, types, "result")
    value = _read(tree[_RESPONSE]) if _RESPONSE in tree else tree[_VALUE]
    events = tree.get(_EVENTS)
    agents = tree.get(_AGENTS)
    return Given(
        value,
        None if events is None else list(_ungrouped(events)),
        {name: _read(response) for name, response in agents.items()} if agents else {},
        tree.get(_KIND, "value"),
    )


_MOST_TEXT = 16_384
"""Bytes of a text up to which it is kept as it was read."""


@functools.lru_cache(maxsize=256)
def _text(data: bytes) -> Given | None:
    """What a step gave that gave nothing but a text: that cannot be changed, so that it need not be made anew."""
    tree = codec.parse_json(data, "result")
    return Given(tree[_VALUE]) if tree.keys() == {_VALUE} and type(tree[_VALUE]) is str else None


def path_told(path: str) -> str:
    """The path of something in a record as a path in what the step gave.

    >>> path_told("result['v']['client']"), path_told("result['r']['content'][0]")
    ("result['client']", 'result.content[0]')
    """
    for inner, told in (("['v']", ""), ("['r']['content']", ".content")):
        path = path.replace(f"result{inner}", f"result{told}", 1)
    return path


def displayed(data: bytes) -> dict[str, Any]:
    """What a step gave as people read it, without the classes that it was made of.

    Returns:
        its `"value"`, of a response the content; how many `"events"` it yielded, None if it is no stream; and the
        `"agents"` whose last responses it has.

    >>> displayed(encode(Given(3), Types([])))
    {'value': 3, 'events': None, 'agents': []}
    """
    tree = display(data)
    value = tree[_RESPONSE]["content"] if _RESPONSE in tree else tree.get(_VALUE)
    groups = tree.get(_EVENTS)
    events = None if groups is None else sum(len(contents) for _, contents in groups)
    return {"value": value, "events": events, "agents": list(tree.get(_AGENTS, ()))}


def _written(response: RunResponse) -> dict[str, Any]:
    fields = _header(response)
    fields["content"] = response.content
    return fields


def _header(response: RunResponse) -> dict[str, Any]:
    """All of a response but its content."""
    fields = {name: value for name in _KEPT if (value := getattr(response, name)) is not None}
    fields["event"] = str(response.event)
    if response.usage is not None:
        usage = response.usage
        fields["usage"] = [usage.requests, usage.input_tokens, usage.output_tokens, usage.cost]
    if (messages := as_text(response)) is not None:
        fields["messages"] = messages
    return fields


def _read(fields: dict[str, Any]) -> RunResponse:
    fields = dict(fields)
    fields["event"] = RunEvent(fields["event"])
    if "usage" in fields:
        fields["usage"] = Usage(*fields["usage"])
    text = fields.pop("messages", None)
    response = RunResponse(**fields, cached=True)
    if text is not None:
        response.messages = Unread(text)  # type: ignore[assignment]
    return response


def _grouped(events: Iterable[Any]) -> Iterator[list[Any]]:
    """Events with what neighbours have in common told once: a stream is thousands of pieces of one answer."""
    header: dict[str, Any] | None = None
    contents: list[Any] = []
    for event in events:
        if not isinstance(event, RunResponse):
            if header is not None:
                yield [header, contents]
                header = None
            yield [None, [event]]
            continue
        its_header = _header(event)
        if header is None or its_header != header:
            if header is not None:
                yield [header, contents]
            header, contents = its_header, []
        contents.append(event.content)
    if header is not None:
        yield [header, contents]


def _ungrouped(groups: list[Any]) -> Iterator[Any]:
    for header, contents in groups:
        for content in contents:
            yield content if header is None else _read({**header, "content": content})
