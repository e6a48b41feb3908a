"""The offline model: answers without a key and without a network, and says so.

Rules that must stay true:
- it is deterministic and invents nothing: it writes only from what its tools returned and from the material in the
  message, and fills an `output_type` only from what its tools returned;
- it calls one search-like tool once for each message;
- where it has nothing to draw from it says that, as text or as an error, and never makes up an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from types import UnionType
from typing import TYPE_CHECKING, Any

from holdfast.errors import AgentError
from holdfast.extractive import MAX_DEPTH, TEXT_FIELDS, TITLE_FIELDS, URL_FIELDS, Source, post, sources_in, topic_of

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models.function import AgentInfo, DeltaToolCalls, FunctionModel
    from pydantic_ai.tools import ToolDefinition

__all__ = ["offline_model"]

NAME = "offline"
AUTHOR = "Holdfast's offline model"
NOTHING = (
    "This is Holdfast's offline model: no model is configured, and it has nothing to draw from. It can only write from "
    "material: give it search results in the message, or a search tool. For a real model set HOLDFAST_MODEL (for "
    "example to openai:gpt-5-mini) or Agent(model=...)."
)
CHUNK_WORDS = 3

_SEARCHING = re.compile(r"search|find|look|retriev|query|fetch", re.IGNORECASE)
_SYNONYMS = (TITLE_FIELDS, URL_FIELDS, TEXT_FIELDS)


def offline_model() -> FunctionModel:
    """The model, for an agent of pydantic-ai as well.

    >>> offline_model().model_name
    'offline'
    """
    from pydantic_ai.models.function import FunctionModel

    return FunctionModel(_answer, stream_function=_stream, model_name=NAME)


def _answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart

    answer = _decide(messages, info)
    if isinstance(answer, str):
        return ModelResponse(parts=[TextPart(answer)])
    name, arguments = answer
    return ModelResponse(parts=[ToolCallPart(name, arguments)])


async def _stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    from pydantic_ai.models.function import DeltaToolCall

    answer = _decide(messages, info)
    if isinstance(answer, str):
        for piece in re.findall(rf"(?:\S+\s*){{1,{CHUNK_WORDS}}}", answer):
            yield piece
    else:
        yield {0: DeltaToolCall(name=answer[0], json_args=json.dumps(answer[1]))}


def _decide(messages: list[ModelMessage], info: AgentInfo) -> str | tuple[str, dict[str, Any]]:
    """The text to answer with, or the name and the arguments of the tool to call."""
    message, returned = _turn(messages)
    if returned is None:
        for tool in sorted(info.function_tools, key=lambda tool: not _SEARCHING.search(tool.name)):
            if parameter := _text_parameter(tool):
                return tool.name, {parameter: message}
    material = [_plain(content) for content in returned or ()]
    if info.output_tools and (call := _filled(info.output_tools, material)):
        return call
    shape = info.model_request_parameters.output_object
    if shape and (filled := _best(shape.json_schema, material)) is not _MISSING:
        return json.dumps(filled)
    if shape or not info.allow_text_output:
        raise AgentError(
            "The offline model cannot fill the output_type: it fills fields only from what the agent's tools returned, "
            "and they returned nothing that has all the fields that are required, under their names. Give the agent a "
            "search tool whose results have them, or a real model: set HOLDFAST_MODEL or Agent(model=...)."
        )
    sources = sources_in([*material, message])
    return post(topic_of(message, sources), sources, AUTHOR) if sources else NOTHING


def _turn(messages: list[ModelMessage]) -> tuple[str, list[Any] | None]:
    """The text of the last message, and what tools returned since; None when none was called."""
    message = ""
    returned: list[Any] | None = None
    for part in (part for entry in messages for part in entry.parts):
        if part.part_kind == "user-prompt":
            contents = [part.content] if isinstance(part.content, str) else part.content
            message = "\n".join(content for content in contents if isinstance(content, str))
            returned = None
        elif part.part_kind == "tool-return":
            returned = returned or []
            if part.outcome == "success":
                returned.append(part.content)
    return message, returned


def _text_parameter(tool: ToolDefinition) -> str | None:
    """The one parameter that a tool needs, when it is text."""
    schema = tool.parameters_json_schema
    properties = schema.get("properties", {})
    needed = schema.get("required", []) or list(properties)[:1]
    if len(needed) == 1 and properties[needed[0]].get("type", "string") == "string":
        return str(needed[0])
    return None


def _plain(content: Any) -> Any:
    """A tool's result as plain data; text that is JSON is read."""
    from pydantic_core import to_jsonable_python

    if isinstance(content, str):
        try:
            return json.loads(content)
        except ValueError:
            found = sources_in(content) or [Source("What the tool returned", "", content)]
            return [source._asdict() for source in found if source.text.strip()]
    return to_jsonable_python(content)


_MISSING = object()
_PYTHON: dict[str, type | UnionType] = {"string": str, "integer": int, "number": int | float, "boolean": bool}


def _filled(tools: list[ToolDefinition], material: list[Any]) -> tuple[str, dict[str, Any]] | None:
    for tool in tools:
        arguments = _best(tool.parameters_json_schema, material)
        if arguments is not _MISSING:
            return tool.name, arguments
    return None


def _best(schema: dict[str, Any], material: list[Any]) -> Any:
    """The schema's object, filled from the first record in the results that has its fields, or `_MISSING`."""
    schema = _resolved(schema, schema)
    records = [record for result in material for record in _records(result)]
    # Only where no list fits, a single record stands for a list of it.
    lists = ({"": [record]} for record in records if "" not in record)
    filled = (_fill_object(schema, record, schema) for record in chain(records, lists))
    return next((value for value in filled if value is not _MISSING), _MISSING)


def _records(material: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Each dict in the material, the outer before the inner.

    A list stands for a dict whose only field has no name: a tool that returns articles does not call them `articles`.
    """
    if depth > MAX_DEPTH or not isinstance(material, dict | list):
        return
    yield material if isinstance(material, dict) else {"": material}
    for value in material.values() if isinstance(material, dict) else material:
        yield from _records(value, depth + 1)


def _fill(schema: dict[str, Any], material: Any, root: dict[str, Any]) -> Any:
    schema = _resolved(schema, root)
    kind = schema.get("type")
    if choices := schema.get("anyOf"):
        filled = (_fill(choice, material, root) for choice in choices)
        return next((value for value in filled if value is not _MISSING), _MISSING)
    if kind == "object":
        return _fill_object(schema, material, root) if isinstance(material, dict) else _MISSING
    if kind == "array":
        return _fill_list(schema.get("items", {}), material, root)
    return material if _is_of(kind, material) else _MISSING


def _fill_object(schema: dict[str, Any], record: dict[str, Any], root: dict[str, Any]) -> Any:
    filled = {
        name: value
        for name, inner in schema.get("properties", {}).items()
        if (value := _fill(inner, _field(record, name, inner), root)) is not _MISSING
    }
    return filled if filled and all(name in filled for name in schema.get("required", ())) else _MISSING


def _field(record: dict[str, Any], name: str, schema: dict[str, Any]) -> Any:
    """What a record has under a field's name or a name that means the same."""
    same = next((group for group in _SYNONYMS if name in group), ())
    unnamed = ("",) if schema.get("type") == "array" else ()
    return next((record[known] for known in (name, *same, *unnamed) if known in record), _MISSING)


def _fill_list(items: dict[str, Any], material: Any, root: dict[str, Any]) -> Any:
    """The entries that fit. None of several fitting is not an empty list: it would say that nothing was found."""
    if not isinstance(material, list):
        return _MISSING
    filled = [value for entry in material if (value := _fill(items, entry, root)) is not _MISSING]
    return filled if filled or not material else _MISSING


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    resolved: dict[str, Any] = root.get("$defs", {}).get(reference.rpartition("/")[2], {})
    return {**resolved, "$defs": root.get("$defs", {})}


def _is_of(kind: str | None, material: Any) -> bool:
    if kind == "null":
        return material is None
    if material is _MISSING or material is None:
        return False
    return isinstance(material, _PYTHON.get(kind or "", object))
