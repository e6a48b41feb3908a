"""One run of an agent: what is asked, what it hands out, what it used.

Rules that must stay true:
- the run of a model is written once, as an async generator; callers reach it through the bridges of `agent_loop`;
- a stream is built on `run_stream_events`, whose run goes on to its end whatever text comes before a tool call;
- while streaming, one response per piece of text and nothing else, unless all events are asked for;
- `response` is set only when the run has ended well; `usage` is set however it ended;
- kinds of events that are not known here are passed over.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast import agent_loop, clock, providers
from holdfast.errors import AgentError
from holdfast.records import Usage
from holdfast.response import RunEvent, RunResponse

if TYPE_CHECKING:
    from pydantic_ai import AgentRunResult
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.models import Model

__all__ = ["FunctionRun", "ModelRun", "Prepared"]

Function: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run needs of an agent, fixed when it begins: later assignments are for the next run."""

    agent: AbstractAgent[Any, Any]
    model: Model[Any] | None
    model_name: str
    """As it was given by the user, for notes on errors."""
    overriding: Callable[[], AbstractContextManager[None]]
    """Replaces parts of a wrapped agent while it runs."""
    arguments: dict[str, Any]
    """Further arguments of the agent's `run()`."""


@dataclass(slots=True, kw_only=True)
class _AgentRun:
    """What both kinds of run have in common."""

    name: str | None
    message: Any
    stream: bool
    events: bool
    run_id: str = field(default_factory=clock.new_id)
    response: RunResponse | None = None
    usage: Usage = field(default_factory=Usage)

    def _made(self, content: Any, event: RunEvent = RunEvent.run_response, **more: Any) -> RunResponse:
        return RunResponse(content=content, event=event, agent=self.name, agent_run_id=self.run_id, **more)

    def _begun(self) -> Iterator[RunResponse]:
        if self.events:
            yield self._made(None, RunEvent.run_started)

    def _ended(self) -> Iterator[RunResponse]:
        if self.events:
            yield replace(self.answer(), event=RunEvent.run_completed)

    def answer(self) -> RunResponse:
        """The response of a run that has ended well."""
        assert self.response is not None, "only a run that has ended well has an answer"
        return self.response


@dataclass(slots=True, kw_only=True)
class ModelRun(_AgentRun):
    """One run of an agent that asks a model.

    Args:
        prepare: builds or finds the agent and its model; called on another thread than the loop's, because it may
            import packages.
        history: pydantic-ai messages to go on from.
        base_url: for the note on an error.
    """

    prepare: Callable[[], Prepared]
    history: list[Any]
    base_url: str | None

    def responses(self) -> Generator[RunResponse, None, None]:
        """Run on the background loop and hand the responses to this thread."""
        return agent_loop.iterate(self._responses())

    def aresponses(self) -> AsyncGenerator[RunResponse, None]:
        """Run on the background loop and hand the responses to the loop that runs here."""
        return agent_loop.aiterate(self._responses())

    async def _responses(self) -> AsyncGenerator[RunResponse, None]:
        prepared = await asyncio.to_thread(self.prepare)
        from pydantic_ai import capture_run_messages

        arguments = {
            "user_prompt": self.message,
            "message_history": self.history,
            "model": prepared.model,
            "run_id": self.run_id,
            "infer_name": False,
            **prepared.arguments,
        }
        for response in self._begun():
            yield response
        with capture_run_messages() as messages, prepared.overriding():
            try:
                if self.stream:
                    async for response in self._streamed(prepared.agent, arguments):
                        yield response
                else:
                    self._finish(await prepared.agent.run(**arguments))
            except Exception as error:
                providers.explain(error, prepared.model_name, self.base_url)
                raise
            finally:
                self.usage = _usage_of(messages, self.run_id)
        self.answer().usage = self.usage
        for response in self._ended():
            yield response

    async def _streamed(
        self, agent: AbstractAgent[Any, Any], arguments: dict[str, Any]
    ) -> AsyncGenerator[RunResponse, None]:
        of_text = arguments.get("output_type", agent.output_type) is str
        async with agent.run_stream_events(**arguments) as events:
            async for event in events:
                kind = getattr(event, "event_kind", None)
                if kind == "agent_run_result":
                    self._finish(event.result)  # type: ignore[union-attr]
                elif of_text and (text := _text_of(event, kind)):
                    yield self._made(text)
                elif self.events and (response := self._tool_event(event, kind)):
                    yield response
        if not of_text:
            yield replace(self.answer(), messages=[])

    def _tool_event(self, event: Any, kind: str | None) -> RunResponse | None:
        if kind == "function_tool_call":
            call = event.part
            facts = {"name": call.tool_name, "args": call.args_as_dict(), "call_id": call.tool_call_id}
            return self._made(None, RunEvent.tool_call_started, data=facts)
        if kind == "function_tool_result":
            part = event.part
            facts = {"name": part.tool_name, "call_id": part.tool_call_id, "result": part.content}
            return self._made(None, RunEvent.tool_call_completed, data=facts)
        return None

    def _finish(self, result: AgentRunResult[Any]) -> None:
        self.response = self._made(
            result.output, model=result.response.model_name, messages=list(result.all_messages())
        )


def _text_of(event: Any, kind: str | None) -> str | None:
    part = {"part_start": "part", "part_delta": "delta"}.get(kind or "")
    found = getattr(event, part, None) if part else None
    if getattr(found, "part_kind", None) == "text":
        return str(found.content)  # type: ignore[union-attr]
    if getattr(found, "part_delta_kind", None) == "text":
        return str(found.content_delta)  # type: ignore[union-attr]
    return None


def _usage_of(messages: list[Any], run_id: str) -> Usage:
    """The sum over the model's answers of this run; the cost is unknown as soon as one of them has no price."""
    total = Usage()
    for message in messages:
        if message.kind == "response" and message.run_id == run_id:
            used = message.usage
            cost = 0.0 if message.model_name == providers.OFFLINE else used.cost
            total += Usage(1, used.input_tokens, used.output_tokens, None if cost is None else float(cost))
    return total


@dataclass(slots=True, kw_only=True)
class FunctionRun(_AgentRun):
    """One run of an agent that is a plain function, whose result, or what it yields, is the answer to the message.

    A plain function and a generator run on the caller's thread, or on one thread of their own for `arun`; a coroutine
    function and an async generator run on the background loop.
    """

    function: Function

    def responses(self) -> Generator[RunResponse, None, None]:
        """Call the function and hand out what it gives."""
        yield from self._begun()
        pieces: list[Any] = []
        whole = True
        result: Any = self.function(self.message)
        if inspect.isawaitable(result):
            (result,) = agent_loop.iterate(_awaited(result))
        if isinstance(result, AsyncGenerator):
            result = agent_loop.iterate(result)
        if isinstance(result, Iterator):
            whole = False
            for piece in result:
                pieces.append(_content_of(piece))
                if self.stream and pieces[-1] not in (None, ""):
                    yield self._made(pieces[-1])
        content = _content_of(result) if whole else self._joined(pieces)
        if self.stream and whole:
            yield self._made(content)
        self.response = self._made(content, model=self._model_name(), usage=self.usage)
        yield from self._ended()

    def aresponses(self) -> AsyncGenerator[RunResponse, None]:
        """The same on a thread of its own."""
        return agent_loop.from_thread(self.responses())

    def _model_name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _joined(self, pieces: list[Any]) -> Any:
        others = [type(piece).__name__ for piece in pieces if not isinstance(piece, str | None)]
        if not others:
            return "".join(piece for piece in pieces if piece is not None)
        if len(pieces) == 1:
            return pieces[0]
        raise AgentError(
            f"The function {self._model_name()!r} of an agent yielded {', '.join(sorted(set(others)))}. Yield the "
            "answer as pieces of text, or return one object."
        )


def _content_of(piece: Any) -> Any:
    return piece.content if isinstance(piece, RunResponse) else piece


async def _awaited(awaitable: Any) -> AsyncGenerator[Any, None]:
    yield await awaitable
