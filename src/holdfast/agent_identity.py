"""What of an agent changes its answer, part by part.

Rules that must stay true:
- everything that can change the answer is in a part, or it is an error: a part that cannot be identified is never
  left out; keys, timeouts, retries and names in traces are not in any, because they change none;
- nothing is asked and no client is made: a named model is its name and the address of its server;
- the model package is not loaded for an agent of a named model, plain functions and plain types: a result that is found
  again must not cost the import of what made it;
- what is assigned to the agent, or changed in its lists and dicts, is seen by the next call.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from operator import is_
from types import FunctionType, GenericAlias, MethodType, NoneType, UnionType
from typing import Any, Final, get_origin

from holdfast.agent import Agent, is_pydantic_agent
from holdfast.canonical import combine, digest, digest_or_none, identity
from holdfast.environment import Variable
from holdfast.errors import StepKeyError
from holdfast.fingerprint import Parts, Special, code_parts, combine_parts
from holdfast.model_identity import ModelIdentity, address_of, is_model, public
from holdfast.pieces import annotation_text
from holdfast.providers import OFFLINE
from holdfast.sources import Memory
from holdfast.told_types import NotCertain, function_told, type_told
from holdfast.witness import Witness

__all__ = ["agent_parts", "agents_in", "told_apart"]

KEY_ADVICE = "Give the step `key=` or `depends=`."

_OF_EVERY_AGENT: Final = frozenset({"ToolSearch", "PendingMessageDrainCapability"})
"""Capabilities that pydantic-ai gives to each agent by itself."""
_FIXED: Final = (type, FunctionType, MethodType, GenericAlias, UnionType)
_default_model: Final = Variable("HOLDFAST_MODEL")
_HOW_OFTEN: Final = frozenset({"max_retries", "sequential"})
"""Of an output type, what does not change the answer."""


def agent_parts(agent: Agent, name: str, step: str | None = None) -> Parts:
    """What identifies the answers of an agent, apart from the message and the history.

    Args:
        agent: the agent.
        name: what it is called in the labels, such as `"writer"`.
        step: the name of the step, for errors; the agent's when absent.

    Returns:
        digests by the labels "model of `writer`", "address of `writer`", "settings of `writer`",
        "instructions of `writer`", "tools of `writer`" and "output type of `writer`".

    Raises:
        StepKeyError: something has no identity: instructions that a function makes, a field of a model of your own.

    >>> sorted(agent_parts(Agent("offline", instructions="Be brief."), "writer"))
    ['address of `writer`', 'instructions of `writer`', 'model of `writer`', 'output type of `writer`',
     'settings of `writer`', 'tools of `writer`']
    """
    known = agent._known
    said = _said(agent)
    if known is not None and known.holds(said, name):
        return dict(known.parts)
    witness = Witness()
    parts = _Identity(agent, name, step or name, (), witness).parts()
    if said is not None:
        agent._known = Known(said, name, witness, parts)
    return dict(parts)


def told_apart(agent: Agent, step: str, named: Callable[[Any], bytes]) -> bytes:
    """What tells an agent from others that have no name either, in the scope of a run, where no code counts.

    What has no identity is left out; a model that has none counts by its names.

    Args:
        agent: the agent.
        step: the name of the step.
        named: gives the digest of a function or class by its name.

    >>> one, other = (Agent("offline", instructions=told) for told in ("Criticise.", "Edit."))
    >>> told_apart(one, "agent", lambda _: b"") == told_apart(other, "agent", lambda _: b"")
    False
    """
    model = getattr(agent._wrapped, "model", None) if agent.model is None else agent.model
    tools = [getattr(tool, "name", None) or getattr(tool, "__name__", None) for tool in agent.tools]

    def told(find: Callable[[], bytes]) -> bytes:
        try:
            return find()
        except StepKeyError:
            return b""

    def of(kind: str) -> bytes:
        identity = _Identity(agent, "agent", step, (), Witness())
        return identity._settings(model) if kind == "settings" else identity._instructions()

    facts = [tools, agent.base_url and address_of(None, agent.base_url), _names_in(agent.output_type)]
    return combine(
        [
            told(lambda: ModelIdentity("agent", step, named).of(model, agent.base_url)) or _names_of(model, named),
            told(lambda: of("settings")),
            told(lambda: of("instructions")),
            told(lambda: digest(facts, "the agent", step)),
        ]
    )


def _names_of(model: Any, named: Callable[[Any], bytes]) -> bytes:
    functions = [getattr(model, name, None) for name in ("function", "stream_function")]
    names = [str(getattr(model, "model_name", None)).encode()]
    return combine([named(type(model)), *names, *(named(each) for each in functions if each is not None)])


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What was found out about an agent, which keeps it and shares it with its copies; it does not hold any of them."""

    said: tuple[Any, ...]
    name: str
    witness: Witness
    parts: Parts

    def holds(self, said: tuple[Any, ...] | None, name: str) -> bool:
        """Whether the agent says the same now, and all else that was looked at is the same."""
        is_same = said is not None and len(said) == len(self.said) and all(map(is_, said, self.said))
        return is_same and name == self.name and self.witness.holds()


def _said(agent: Agent) -> tuple[Any, ...] | None:
    """What is assigned to an agent, each of which cannot change inside; None if something of it can."""
    instructions = agent.instructions
    texts = (instructions,) if isinstance(instructions, str | None) else tuple(instructions)
    is_fixed = (
        agent._wrapped is None
        and isinstance(agent.model, str | None | FunctionType | MethodType)
        and all(type(text) in (str, NoneType) for text in texts)
        and all(isinstance(tool, FunctionType | MethodType) for tool in agent.tools)
        and (isinstance(agent.output_type, _FIXED) or get_origin(agent.output_type) is not None)
    )
    if not is_fixed:
        return None
    model = (agent.model, agent.base_url, agent.model_settings, agent.output_type)
    return (*model, type(instructions), len(texts), *texts, *agent.tools)


def agents_in(step: str) -> Special:
    """For `code_parts`: an agent that the code names or closes over counts by what changes its answer."""
    return _agents_in(step, ())


def _agents_in(step: str, asking: tuple[Any, ...]) -> Special:
    def special(name: str, value: Any) -> Parts | None:
        agent = Agent(value) if is_pydantic_agent(value) else value
        if not isinstance(agent, Agent):
            return None
        if any(value is other for other in asking):
            return {}  # an agent that is a tool of itself, by whatever detour
        if not asking and agent is value:
            return agent_parts(agent, agent.name or name, step)
        return _Identity(agent, agent.name or name, step, (*asking, value), Witness()).parts()

    return special


class _Identity:
    """The parts of one agent."""

    def __init__(self, agent: Agent, name: str, step: str, asking: tuple[Any, ...], witness: Witness) -> None:
        self._agent = agent
        self._witness = witness
        self._name = name
        self._step = step
        self._special = _agents_in(step, (*asking, agent))
        self._wrapped = self._unwrapped()

    def parts(self) -> Parts:
        model = self._chosen()
        found = {
            "model": ModelIdentity(self._name, self._step, self._code).of(model, self._agent.base_url),
            "address": self._of("address", self._address(model, self._agent.base_url)),
            "settings": self._settings(model),
            "instructions": self._instructions(),
            "tools": self._tools(),
            "output type": self._output(),
        }
        return {f"{kind} of `{self._name}`": part for kind, part in found.items()}

    def _address(self, model: Any, base_url: str | None) -> Any:
        return self._witness.again(lambda: address_of(model, base_url))

    def _of(self, kind: str, value: Any) -> bytes:
        return digest(value, f"{kind} of `{self._name}`", self._step)

    def _refused(self, kind: str, reason: str, advice: str = KEY_ADVICE) -> StepKeyError:
        return StepKeyError(path=f"{kind} of `{self._name}`", step=self._step, reason=reason, advice=advice)

    def _code(self, function: Callable[..., Any]) -> bytes:
        return combine_parts(code_parts(function, step=self._step, special=self._special, witness=self._witness))

    def _unwrapped(self) -> Any:
        wrapped = self._agent._wrapped
        while wrapped is not None and hasattr(wrapped, "wrapped"):
            wrapped = wrapped.wrapped
        if wrapped is not None and not isinstance(wrapped, sys.modules["pydantic_ai.agent"].Agent):
            raise self._refused("model", f"is an agent of class {type(wrapped).__name__}, which nothing is known of")
        return wrapped

    def _chosen(self) -> Any:
        if self._agent.model is None and self._wrapped is not None:
            return self._wrapped.model
        named = self._witness.again(lambda: _default_model.value)
        return named or OFFLINE if self._agent.model is None else self._agent.model

    def _settings(self, model: Any) -> bytes:
        layers = [model.settings if is_model(model) else None, self._agent.model_settings]
        layers.insert(1, getattr(self._wrapped, "model_settings", None))
        if any(map(callable, layers)):
            raise self._refused("settings", "are made by a function")
        own = self._agent.model_settings
        if own is not None:
            self._witness.again(lambda: digest_or_none(public(own)))
        return self._of("settings", [said for layer in layers if (said := public(layer or {}))])

    def _instructions(self) -> bytes:
        own = self._agent.instructions
        wrapped = self._wrapped
        texts: list[Any] = [own] if isinstance(own, str) else list(own or ())
        prompts: tuple[Any, ...] = ()
        if wrapped is not None:
            sourced = [] if own is not None else wrapped._instructions
            texts += [entry.instruction for entry in (*sourced, *wrapped._cap_instructions)]
            prompts = (*wrapped._system_prompts, *(runner.function for runner in wrapped._system_prompt_functions))
        if any(map(callable, (*texts, *prompts))):
            raise self._refused("instructions", "are made by a function")
        return self._of("instructions", [texts, prompts])

    def _tools(self) -> bytes:
        agent, wrapped = self._agent, self._wrapped
        if wrapped is None and all(isinstance(tool, FunctionType | MethodType) for tool in agent.tools):
            told = [self._told(function_told, tool) for tool in agent.tools]
            if None not in told:
                return combine([*(self._of("tools", each) for each in told), *map(self._code, agent.tools)])
        source = wrapped if wrapped is not None and not agent.tools else self._built()
        tools = list(source._function_toolset.tools.values())
        others: list[Any] = []
        if wrapped is not None:
            for toolset in (*wrapped._user_toolsets, *wrapped._cap_toolsets, *wrapped._dynamic_toolsets):
                tools += self._tools_of(toolset)
            others = [*wrapped._cap_native_tools, *self._capabilities()]
        found = [self._tool(tool) for tool in tools]
        return combine([self._of("tools", [tools and len(tools), others]), *found])

    def _tools_of(self, toolset: Any) -> list[Any]:
        tools = getattr(toolset, "tools", None)
        if not isinstance(tools, dict):
            raise self._refused("tools", f"come from a {type(toolset).__name__}, which may hand out others every time")
        return list(tools.values())

    def _capabilities(self) -> list[Any]:
        found = self._wrapped._root_capability.capabilities
        return [capability for capability in found if type(capability).__name__ not in _OF_EVERY_AGENT]

    def _tool(self, tool: Any) -> bytes:
        told = tool.tool_def
        facts = [told.name, told.description, told.parameters_json_schema, told.strict, told.kind]
        functions = (tool.function, tool.prepare, tool.args_validator)
        return combine(
            [self._of("tools", facts), *(self._code(function) for function in functions if function is not None)]
        )

    def _output(self) -> bytes:
        output = self._agent.output_type
        wrapped = self._wrapped
        if wrapped is None and (told := self._told(type_told, output)) is not None:
            return self._of("output type", ["plain", told])
        validators = [validator.function for validator in wrapped._output_validators] if wrapped is not None else []
        pieces = [self._code(validator) for validator in validators]
        if output is not str:
            pieces += [_schema_of(self._built()), *(self._code(function) for function in _functions_in(output))]
        return combine([self._of("output type", _names_in(output)), *pieces])

    def _told(self, tell: Callable[[Any], Any], of: Any) -> Any:
        """What a model is told of something; None where that is not certain."""

        def told() -> Any:
            try:
                return tell(of)
            except NotCertain:
                return None

        return self._witness.again(told)

    def _built(self) -> Any:
        # On a copy, whose lists nobody else changes: it is compared with what was built last.
        return self._agent._copied()._build()


def _schema(built: Any) -> bytes:
    """The digest of what a model is told of the shape of its answer."""
    toolset = built._output_toolset
    tools = toolset._tool_defs if toolset is not None else ()
    told = [[tool.name, tool.description, tool.parameters_json_schema, tool.strict] for tool in tools]
    return identity([type(built._output_schema).__name__, told, built._output_schema.object_def], "output type")


_schema_of = Memory(_schema)


def _names_in(output: Any) -> Any:
    """An output type as the names of its classes; what they are made of is in the schema."""
    if isinstance(output, list | tuple):
        return [_names_in(item) for item in output]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        names = [spec.name for spec in dataclasses.fields(output) if spec.name not in _HOW_OFTEN]
        return [type(output).__name__, {name: _names_in(getattr(output, name, None)) for name in names}]
    if isinstance(output, str | bool | int | None):
        return [output]
    return annotation_text(output) if get_origin(output) else getattr(output, "__qualname__", None) or repr(output)


def _functions_in(output: Any) -> Iterator[Callable[..., Any]]:
    """The functions that make the answer of what the model says."""
    if isinstance(output, list | tuple):
        for item in output:
            yield from _functions_in(item)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for spec in dataclasses.fields(output):
            yield from _functions_in(getattr(output, spec.name, None))
    elif isinstance(output, FunctionType | MethodType):
        yield output
