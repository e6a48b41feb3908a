"""The agents of a workflow: who answers, with which instructions and tools, and in which shape.

Rules that must stay true:
- an `Agent` only declares; pydantic-ai does the work and is imported when an agent first runs;
- what is assigned to `model`, `instructions`, `tools` or `output_type` takes effect at the next call;
- as a class attribute it is a template: every object gets a copy of its own, so that no two share `run_response`;
- errors of a provider reach the caller as pydantic-ai raised them, with a note; a tool's errors as they were raised.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeGuard, overload

from holdfast import frames, metering
from holdfast.caching import Cache, Scope, as_cache
from holdfast.errors import InvalidInput
from holdfast.messages import History, messages_from
from holdfast.response import RunResponse

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.models import Model

    from holdfast.agent_run import FunctionRun, ModelRun, Prepared

__all__ = ["Agent", "is_pydantic_agent"]

Answerer: TypeAlias = "str | Model[Any] | AbstractAgent[Any, Any] | Callable[[Any], Any] | None"


def is_pydantic_agent(value: object) -> bool:
    """Whether the object is an agent of pydantic-ai, found out without importing it.

    >>> is_pydantic_agent("openai:gpt-5-mini")
    False
    """
    module = sys.modules.get("pydantic_ai.agent")
    return module is not None and isinstance(value, module.AbstractAgent)


class _Slot:
    """The pydantic-ai agent that was built last, shared by a template and its copies."""

    def __init__(self) -> None:
        self.built: tuple[tuple[Any, ...], AbstractAgent[Any, Any]] | None = None


class Agent:
    """An agent: a model with instructions, tools and a shape for its answer.

    Args:
        model: who answers. A name of pydantic-ai's such as `"anthropic:claude-sonnet-4-5"` or
            `"openai-chat:gpt-5-mini"`; a pydantic-ai model; a `pydantic_ai.Agent` to wrap; or a plain function, which
            is called with the message and whose result, or yielded strings, is the answer. None reads the environment
            variable `HOLDFAST_MODEL` and, when that is not set, uses the built-in offline model.
        instructions: text, or a list of texts, that tell the model what to do.
        tools: functions that the model may call; their type hints and docstrings tell it how.
        output_type: `str`, or a pydantic model, dataclass or other type that the answer must have.
        name: the name in responses and traces; the name of the class attribute when absent.
        base_url: address of an OpenAI-compatible server, such as `"http://localhost:11434/v1"`. A key is read from
            `OPENAI_API_KEY`; a server that needs none works without.
        cache: makes a step of each run of the agent inside of a workflow: a `Cache`, or the name of a scope. `"run"`
            records the answer with the workflow's run, so that a resumed run does not ask again; a wider scope keeps
            it for other runs as well. Without it, and outside of workflows, the agent is always asked.
        model_settings: pydantic-ai's settings of a request, such as `{"temperature": 0, "max_tokens": 500,
            "timeout": 60, "max_retries": 5}`: there is no other way to say these with a model that is only named.

    Attributes:
        run_response: the `RunResponse` of the last run that ended well, with its messages, usage and cost; None
            before the first. For a stream it is set when the stream is exhausted.

    Raises:
        InvalidInput: arguments that do not fit together.

    >>> agent = Agent(lambda message: message.upper(), name="shouter")
    >>> agent.run("hello").content
    'HELLO'
    >>> agent.run_response.agent
    'shouter'
    """

    def __init__(  # noqa: PLR0913  # what an agent is made of
        self,
        model: Answerer = None,
        *,
        instructions: str | Sequence[str] | None = None,
        tools: Sequence[Any] = (),
        output_type: Any = str,
        name: str | None = None,
        base_url: str | None = None,
        model_settings: dict[str, Any] | None = None,
        cache: Cache | Scope | None = None,
    ) -> None:
        self.cache = as_cache(cache)
        self.name = name
        self.model = model
        self.instructions = instructions
        self.tools = list(tools)
        self.output_type = output_type
        self.base_url = base_url
        self.model_settings = model_settings
        # `Any` stands for None: callers that have run the agent need not rule that out.
        self.run_response: RunResponse | Any = None
        self._wrapped: Any = None
        self._wrapped_output: Any = None
        self._slot = _Slot()
        self._known: Any = None
        """What was found out about its identity last; see `agent_identity.py`."""
        self._attributes: list[str] = []
        if is_pydantic_agent(model):
            self._wrapped, self.model = model, None
            self._wrapped_output = self._wrapped.output_type
            self.name = name or self._wrapped.name
            self.output_type = self._wrapped_output if output_type is str else output_type
        ignored = (instructions, self.tools, base_url, model_settings)
        if _is_function(self.model) and (any(ignored) or output_type is not str):
            raise InvalidInput(
                "Agent(function) takes only a name: the function itself answers, so instructions, tools, output_type, "
                "base_url and model_settings would have no effect. Leave them out."
            )
        self._check()

    def _check(self) -> None:
        model = self.model
        if model is not None and not isinstance(model, str) and not _is_model(model) and not _is_function(model):
            raise InvalidInput(
                f"An agent has a {type(model).__name__} as its model. Give a name such as 'openai-chat:gpt-5-mini', a "
                "pydantic-ai model or a function, or make Agent(a_pydantic_ai_agent)."
            )

    def __repr__(self) -> str:
        who = self._wrapped if self.model is None and self._wrapped is not None else self.model
        shown = repr(who) if isinstance(who, str | None) else getattr(who, "__name__", type(who).__name__)
        return f"Agent({shown}, name={self.name!r})"

    def __set_name__(self, owner: type, name: str) -> None:
        self._attributes.append(name)
        if self.name is None:
            self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Agent: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Agent:
        if instance is None:
            return self
        own = self._copied()
        for name in self._attributes:
            if inspect.getattr_static(type(instance), name, None) is self:
                own = vars(instance).setdefault(name, own)
        return own

    def _copied(self) -> Agent:
        """A copy that shares tools and what was built of them, but no list and no response."""
        twin = copy.copy(self)
        twin.tools = list(self.tools)
        if not isinstance(self.instructions, str | None):
            twin.instructions = list(self.instructions)
        twin.run_response = None
        return twin

    @overload
    def run(
        self,
        message: Any,
        *,
        stream: Literal[False] = False,
        stream_events: Literal[False] = False,
        history: History = None,
    ) -> RunResponse: ...
    @overload
    def run(
        self, message: Any, *, stream: Literal[True], stream_events: bool = False, history: History = None
    ) -> Iterator[RunResponse]: ...
    @overload
    def run(
        self, message: Any, *, stream: bool = False, stream_events: Literal[True], history: History = None
    ) -> Iterator[RunResponse]: ...
    def run(
        self, message: Any, *, stream: bool = False, stream_events: bool = False, history: History = None
    ) -> RunResponse | Iterator[RunResponse]:
        """Ask, from any thread, also from one that runs an event loop.

        Args:
            message: text, or a list of texts and pydantic-ai contents such as images. Anything for a function.
            stream: hand out one response per piece of text as it comes (with an `output_type`, one response that
                holds the object) and nothing else. The run begins when the iterator is first asked; closing it
                cancels the model call.
            stream_events: hand out all events as well: the run's start and end, and each tool call with its name and
                arguments in `data`. Implies `stream`.
            history: a response of an earlier run, its `messages`, or what `messages_to_data` made of them.

        Returns:
            the response, or an iterator of responses.

        Raises:
            InvalidInput: a message or history that cannot be used.
            AgentError: the agent cannot run as it is configured.
            pydantic_ai.exceptions.AgentRunError: what the provider or the model did, with a note on what to do.

        >>> [part.content for part in Agent(lambda message: iter(["a", "b"])).run("hi", stream=True)]
        ['a', 'b']
        """
        if self.cache is not None:
            question = frames.Question(message, stream=stream, stream_events=stream_events, history=history)
            if (answered := frames.ask(self, question)) is not NotImplemented:
                return answered  # type: ignore[no-any-return]
        return self._run(message, stream=stream, stream_events=stream_events, history=history)  # type: ignore[no-any-return]

    def _run(self, message: Any, *, stream: bool = False, stream_events: bool = False, history: History = None) -> Any:
        """Ask, whatever has been recorded."""
        call = self._begin(message, stream, stream_events, history)
        responses = self._follow(call)
        if stream or stream_events:
            return responses
        list(responses)  # drives the run; what is no stream hands out nothing
        return call.answer()

    def run_within(self, seconds: float, message: Any, *, history: History = None) -> RunResponse:
        """As `run`, but give up after so many seconds, and raise `TimeoutError`.

        >>> Agent(str.upper).run_within(10, "hello").content
        'HELLO'
        """
        from holdfast import agent_loop

        (response,) = agent_loop.iterate(_within(seconds, self._arun(message, history=history)))
        return response

    @overload
    def arun(
        self,
        message: Any,
        *,
        stream: Literal[False] = False,
        stream_events: Literal[False] = False,
        history: History = None,
    ) -> Awaitable[RunResponse]: ...
    @overload
    def arun(
        self, message: Any, *, stream: Literal[True], stream_events: bool = False, history: History = None
    ) -> AsyncIterator[RunResponse]: ...
    @overload
    def arun(
        self, message: Any, *, stream: bool = False, stream_events: Literal[True], history: History = None
    ) -> AsyncIterator[RunResponse]: ...
    def arun(
        self, message: Any, *, stream: bool = False, stream_events: bool = False, history: History = None
    ) -> Awaitable[RunResponse] | AsyncIterator[RunResponse]:
        """Ask from any event loop: what `run` does, to be awaited, or with `stream` to be iterated with `async for`.

        Cancelling the task that waits cancels the model call.

        >>> import asyncio
        >>> async def main():
        ...     return await Agent(lambda message: message.upper()).arun("hello")
        >>> asyncio.run(main()).content
        'HELLO'
        """
        if self.cache is not None:
            question = frames.Question(message, stream=stream, stream_events=stream_events, history=history)
            if (answered := frames.ask(self, question, is_async=True)) is not NotImplemented:
                return answered  # type: ignore[no-any-return]
        return self._arun(message, stream=stream, stream_events=stream_events, history=history)  # type: ignore[no-any-return]

    def _arun(self, message: Any, *, stream: bool = False, stream_events: bool = False, history: History = None) -> Any:
        """Ask, whatever has been recorded."""
        call = self._begin(message, stream, stream_events, history)
        responses = self._afollow(call)
        if stream or stream_events:
            return responses
        return _finished(responses, call)

    def _begin(self, message: Any, stream: bool, events: bool, history: History) -> ModelRun | FunctionRun:
        from holdfast.agent_run import FunctionRun, ModelRun

        self._check()
        stream = stream or events
        if _is_function(self.model):
            return FunctionRun(name=self.name, message=message, stream=stream, events=events, function=self.model)
        if not isinstance(message, str | list | tuple | None):
            raise InvalidInput(
                f"The message to an agent is a {type(message).__name__}. Give text (json.dumps(...) for data), or a "
                "list of texts and pydantic-ai contents."
            )
        return ModelRun(
            name=self.name,
            message=message,
            stream=stream,
            events=events,
            prepare=self._copied()._prepare,
            history=messages_from(history),
            base_url=self.base_url,
        )

    @contextmanager
    def _recorded(self, call: ModelRun | FunctionRun) -> Iterator[None]:
        try:
            yield
            self.run_response = call.response
            frames.note_agent(self)
        finally:
            metering.add_usage(call.usage)

    def _follow(self, call: ModelRun | FunctionRun) -> Generator[RunResponse, None, None]:
        with self._recorded(call):
            yield from call.responses()

    async def _afollow(self, call: ModelRun | FunctionRun) -> AsyncGenerator[RunResponse, None]:
        with self._recorded(call):
            async with aclosing(call.aresponses()) as responses:
                async for response in responses:
                    yield response

    def _prepare(self) -> Prepared:
        """What a run needs; on a copy, so that it is what the agent said when the run was asked for."""
        import pydantic_ai

        from holdfast import providers
        from holdfast.agent_run import Prepared

        # A library's advertisement would land between the user's own lines.
        pydantic_ai.BANNER_ENABLED = False
        overriding: Callable[[], AbstractContextManager[None]] = nullcontext
        arguments: dict[str, Any] = {}
        if self.model_settings is not None:
            arguments["model_settings"] = self.model_settings
        agent: AbstractAgent[Any, Any]
        chosen: Any = self.model
        if self._wrapped is None:
            agent = self._build()
            model: Model[Any] | None = providers.resolve(chosen, self.base_url)
        else:
            agent = self._wrapped
            chosen = chosen or agent.model
            model = providers.resolve(chosen, self.base_url) if chosen else None
            if self.output_type is not self._wrapped_output:
                arguments["output_type"] = self.output_type
            overriding = partial(agent.override, **self._changes())
        name = self.model if isinstance(self.model, str) else getattr(model, "model_name", "the model")
        return Prepared(agent=agent, model=model, model_name=name, overriding=overriding, arguments=arguments)

    def _changes(self) -> dict[str, Any]:
        """What replaces the wrapped agent's own."""
        changes: dict[str, Any] = {}
        if self.tools:
            changes["tools"] = self.tools
        if self.instructions is not None:
            changes["instructions"] = self.instructions
        return changes

    def _build(self) -> AbstractAgent[Any, Any]:
        from pydantic_ai import Agent as PydanticAgent

        key = (self.name, self.instructions, self.tools, self.output_type)
        built = self._slot.built
        if built is None or built[0] != key:
            agent: AbstractAgent[Any, Any] = PydanticAgent(
                name=self.name, instructions=self.instructions, tools=self.tools, output_type=self.output_type
            )
            built = self._slot.built = (key, agent)
        return built[1]


def _is_model(value: object) -> bool:
    module = sys.modules.get("pydantic_ai.models")
    return module is not None and isinstance(value, module.Model)


def _is_function(value: object) -> TypeGuard[Callable[[Any], Any]]:
    return callable(value) and not isinstance(value, type) and not _is_model(value)


async def _within(seconds: float, asked: Awaitable[RunResponse]) -> AsyncGenerator[RunResponse, None]:
    import asyncio  # loaded already, by whoever runs the loop

    async with asyncio.timeout(seconds):
        response = await asked
    yield response


async def _finished(responses: AsyncGenerator[RunResponse, None], call: ModelRun | FunctionRun) -> RunResponse:
    async with aclosing(responses):
        [response async for response in responses]
    return call.answer()
