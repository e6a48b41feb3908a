"""What changes the answer of an agent changes exactly that part; what changes none changes no part."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pydantic_ai
import pytest
from pydantic import BaseModel, field_validator
from pydantic_ai import ModelRetry, NativeOutput, RunContext, TextOutput, Tool, ToolOutput
from pydantic_ai.capabilities import AbstractCapability, WebSearch
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.toolsets import FunctionToolset

import holdfast
from holdfast import Workflow
from holdfast.agent import Agent
from holdfast.agent_identity import agent_parts, agents_in
from holdfast.errors import StepKeyError
from holdfast.fingerprint import Parts, code_parts
from holdfast.library import Document, Library
from holdfast.offline import offline_model
from holdfast.told_types import NotCertain, type_told

KINDS = ("model", "address", "settings", "instructions", "tools", "output type")


@pytest.fixture(autouse=True)
def environment_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_VERSION", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def parts(agent: Agent) -> Parts:
    return agent_parts(agent, "writer", "write")


def differing(one: Parts, other: Parts) -> set[str]:
    assert one.keys() == other.keys() == {f"{kind} of `writer`" for kind in KINDS}
    return {label.removesuffix(" of `writer`") for label in one if one[label] != other[label]}


def search(query: str) -> str:
    """Look it up."""
    return query


def find(query: str) -> str:
    """Look it up."""
    return query


class City(BaseModel):
    name: str


class Town(BaseModel):
    name: str


class Size(enum.Enum):
    SMALL = 1


@dataclass
class Place:
    name: str


def a_city(name: str) -> City:
    return City(name=name)


def another_city(name: str) -> City:
    return City(name=name.upper())


BASE: dict[str, Any] = {
    "model": "openai-chat:gpt-5-mini",
    "instructions": "Be brief.",
    "tools": [search],
    "output_type": City,
    "model_settings": {"temperature": 0},
}


def made(**changes: Any) -> Agent:
    return Agent(**{**BASE, **changes})


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({}, set()),
        ({"name": "other"}, set()),
        ({"instructions": ["Be brief."]}, set()),
        ({"model_settings": {"temperature": 0, "timeout": 5, "max_retries": 9, "request_timeout": 1.0}}, set()),
        ({"model_settings": {"temperature": 0, "extra_headers": {}}}, {"settings"}),
        ({"model": "openai-chat:gpt-5"}, {"model"}),
        ({"model": "openai:gpt-5-mini"}, {"model"}),
        ({"model": None}, {"model"}),
        ({"base_url": "http://localhost:1/v1"}, {"model", "address"}),
        ({"instructions": "Be long."}, {"instructions"}),
        ({"instructions": ["Be", "brief."]}, {"instructions"}),
        ({"instructions": None}, {"instructions"}),
        ({"tools": []}, {"tools"}),
        ({"tools": [find]}, {"tools"}),
        ({"tools": [search, find]}, {"tools"}),
        ({"tools": [Tool(search, description="Other words.")]}, {"tools"}),
        ({"tools": [Tool(search, name="find")]}, {"tools"}),
        ({"tools": [Tool(search, strict=True)]}, {"tools"}),
        ({"output_type": str}, {"output type"}),
        ({"output_type": Town}, {"output type"}),
        ({"output_type": [City, Town]}, {"output type"}),
        ({"output_type": list[City]}, {"output type"}),
        ({"output_type": Size}, {"output type"}),
        ({"output_type": Place}, {"output type"}),
        ({"output_type": NativeOutput(City)}, {"output type"}),
        ({"output_type": ToolOutput(City, name="city")}, {"output type"}),
        ({"output_type": TextOutput(a_city)}, {"output type"}),
        ({"output_type": [a_city]}, {"output type"}),
        ({"model_settings": {"temperature": 1}}, {"settings"}),
        ({"model_settings": {"temperature": 0, "openai_reasoning_effort": "high"}}, {"settings"}),
        ({"model_settings": {"temperature": 0, "max_tokens": 5}}, {"settings"}),
        ({"model_settings": None}, {"settings"}),
    ],
)
def test_what_changes_the_answer_changes_exactly_that_part(changes: dict[str, Any], changed: set[str]) -> None:
    assert differing(parts(made()), parts(made(**changes))) == changed


def test_how_often_and_how_long_a_tool_may_try_does_not_count() -> None:
    assert parts(made(tools=[Tool(search, max_retries=9, timeout=3)])) == parts(made(tools=[Tool(search)]))


def test_an_agent_of_plain_things_is_identified_without_the_model_package(run_python: Callable[[str], str]) -> None:
    told = run_python(
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from pydantic import BaseModel\n"
        "from holdfast import Agent\n"
        "from holdfast.agent_identity import agent_parts, told_apart\n"
        "from holdfast.library import Library\n"
        "class City(BaseModel):\n    name: str\n"
        "def search(query: str, limit: int = 3) -> list[str]: ...\n"
        "agent = Agent('openai:x', tools=[search, Library([]).search], output_type=list[City])\n"
        "agent_parts(agent, 'writer')\n"
        "told_apart(agent, 'writer', lambda _: b'')\n"
        "print('pydantic_ai' in sys.modules)\n"
    )
    assert told == "False\n"


def test_what_a_model_is_told_of_a_type_tells_types_apart() -> None:
    @dataclass
    class Small:
        """A small one."""

        size: int = 1
        inner: Small | None = None

    class Typed(TypedDict):
        name: str

    shapes: list[Any] = [
        *(str, None, list[str], dict[str, int], tuple[int, ...], int | None, Any, [int, str], Literal[1, "1"]),
        *(Annotated[int, "small"], Annotated[int, "large"], Place, Size, City, Town, Typed),
    ]
    told = [repr(type_told(shape)) for shape in shapes]
    assert len(set(told)) == len(told)

    @dataclass
    class Made:
        items: list[int] = field(default_factory=list)

    class Opaque: ...

    for uncertain in (Made, Opaque, lambda: None, Annotated[int, object()], Small):
        with pytest.raises(NotCertain):
            type_told(uncertain)


def test_output_types_are_told_apart() -> None:
    outputs = [
        *(str, City, Town, [City, Town], [Town, City], [City, str], list[City], Size, Place, int, bool),
        *(NativeOutput(City), NativeOutput(City, name="x"), ToolOutput(City), ToolOutput(City, description="x")),
        *(TextOutput(a_city), TextOutput(another_city), [a_city], [another_city]),
    ]
    found = [parts(made(output_type=output))["output type of `writer`"] for output in outputs]
    assert len(set(found)) == len(outputs)
    assert parts(made(output_type=ToolOutput(City, max_retries=7))) == parts(made(output_type=ToolOutput(City)))


def test_the_fields_of_an_output_type_count() -> None:
    def local(annotation: Any, text: str = "") -> Any:
        class Answer(BaseModel):
            __doc__ = text
            field: annotation

        return Answer

    found = [
        parts(made(output_type=local(*given)))["output type of `writer`"]
        for given in ((int,), (str,), (int, "Told to the model."))
    ]
    assert len(set(found)) == 3
    assert found[0] == parts(made(output_type=local(int)))["output type of `writer`"]


def test_the_validators_of_an_output_type_count() -> None:
    def local(limit: int) -> Any:
        if limit == 1:

            class Answer(BaseModel):
                field: str

                @field_validator("field")
                @classmethod
                def short(cls, value: str) -> str:
                    return value[:1]
        else:

            class Answer(BaseModel):  # type: ignore[no-redef]
                field: str

                @field_validator("field")
                @classmethod
                def short(cls, value: str) -> str:
                    return value[:2]

        return Answer

    assert differing(parts(made(output_type=local(1))), parts(made(output_type=local(2)))) == {"output type"}


def test_the_validators_that_an_output_type_inherits_count() -> None:
    def local(limit: int) -> Any:
        if limit == 1:

            class Base(BaseModel):
                field: str

                @field_validator("field")
                @classmethod
                def short(cls, value: str) -> str:
                    return value[:1]
        else:

            class Base(BaseModel):  # type: ignore[no-redef]
                field: str

                @field_validator("field")
                @classmethod
                def short(cls, value: str) -> str:
                    return value[:2]

        class Answer(Base):
            pass

        return Answer

    assert differing(parts(made(output_type=local(1))), parts(made(output_type=local(2)))) == {"output type"}


def test_the_code_of_tools_and_their_helpers_counts() -> None:
    def tool_with(prefix: str) -> Callable[[str], str]:
        def look(query: str) -> str:
            return prefix + query

        return look

    first = parts(made(tools=[tool_with("a")]))
    assert differing(first, parts(made(tools=[tool_with("b")]))) == {"tools"}
    assert differing(first, parts(made(tools=[tool_with("a")]))) == set()

    async def hide(ctx: RunContext[None], definition: Any) -> Any:
        return None

    assert differing(first, parts(made(tools=[Tool(tool_with("a"), prepare=hide)]))) == {"tools"}


def test_what_is_assigned_or_mutated_is_seen_at_once() -> None:
    agent = made()
    before = parts(agent)
    agent.tools.append(find)
    assert differing(before, parts(agent)) == {"tools"}
    agent.tools.pop()
    agent.model_settings["temperature"] = 1  # type: ignore[index]
    assert differing(before, parts(agent)) == {"settings"}
    agent.model_settings["temperature"] = 0  # type: ignore[index]
    agent.instructions = ["Be brief."]
    agent.instructions.append("Be kind.")
    assert differing(before, parts(agent)) == {"instructions"}
    agent.instructions.pop()
    agent.model = "openai-chat:gpt-5"
    agent.output_type = Town
    assert differing(before, parts(agent)) == {"model", "output type"}
    agent.model, agent.output_type = BASE["model"], City
    assert parts(agent) == before


def test_a_copy_of_a_template_is_the_same_agent() -> None:
    class Blog(Workflow):
        writer = made()

        def run(self) -> None: ...

    assert parts(Blog().writer) == parts(Blog.writer) == parts(Blog().writer) == parts(made())


def test_asking_again_makes_no_schema_again(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = made()
    before = parts(agent)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(pydantic_ai.Agent, "__init__", forbidden)
    monkeypatch.setattr(pydantic_ai.Tool, "__init__", forbidden)
    began = time.perf_counter()
    assert parts(agent) == before
    assert time.perf_counter() - began < 1


def test_a_model_that_is_not_named_is_the_one_of_the_environment_and_else_of_this_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody = parts(Agent())
    assert nobody == parts(Agent("offline")) == parts(Agent(offline_model()))
    monkeypatch.setattr(holdfast, "__version__", "999")
    assert differing(nobody, parts(Agent())) == {"model"}
    monkeypatch.setenv("HOLDFAST_MODEL", "openai-chat:gpt-5")
    assert parts(Agent()) == parts(Agent("openai-chat:gpt-5"))
    monkeypatch.setenv("HOLDFAST_MODEL", "")
    assert parts(Agent()) == parts(Agent("offline"))


def test_the_address_of_the_server_counts_without_the_credentials_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Agent("llama3:8b", base_url="http://localhost:11434/v1")
    for same in ("http://me:secret@localhost:11434/v1/", "http://localhost:11434/v1?api_key=secret"):
        assert parts(Agent("llama3:8b", base_url=same)) == parts(plain)
    assert parts(Agent("openai-chat:llama3:8b", base_url="http://localhost:11434/v1")) == parts(plain)
    assert differing(parts(plain), parts(Agent("llama3:8b", base_url="http://localhost:2/v1"))) == {"address"}
    assert differing(parts(plain), parts(Agent("llama3:8b", base_url="http://localhost:11434/v1?v=2"))) == {"address"}

    for name, variable in (
        *(("openai-chat:x", "OPENAI_BASE_URL"), ("openai:x", "OPENAI_BASE_URL"), ("x", "OPENAI_BASE_URL")),
        *(
            ("anthropic:x", "ANTHROPIC_BASE_URL"),
            ("azure:x", "AZURE_OPENAI_ENDPOINT"),
            ("azure:x", "OPENAI_API_VERSION"),
        ),
        *(
            ("cohere:x", "CO_BASE_URL"),
            ("bedrock:x", "AWS_REGION"),
            ("gateway/openai:x", "PYDANTIC_AI_GATEWAY_BASE_URL"),
        ),
        *(("google-cloud:x", "GOOGLE_CLOUD_LOCATION"), ("vllm:x", "VLLM_BASE_URL")),
    ):
        before = parts(Agent(name))
        with monkeypatch.context() as patched:
            patched.setenv(variable, "https://other.example/")
            assert differing(before, parts(Agent(name))) == {"address"}, (name, variable)
            assert differing(parts(Agent("offline")), parts(Agent())) == set()
            patched.setenv("OPENAI_API_KEY", "s3cret")
            assert differing(before, parts(Agent(name))) == {"address"}
    monkeypatch.setenv("OPENAI_BASE_URL", "https://other.example/")
    assert differing(parts(Agent("anthropic:x")), parts(Agent("anthropic:x"))) == set()


def test_secrets_are_in_no_part() -> None:
    secrets = {
        "extra_headers": {"Authorization": "Bearer s3cret", "X-Api-Key": "s3cret", "X-Mode": "a"},
        "extra_body": {"nested": [{"api_key": "s3cret", "token": "s3cret", "kept": 1}]},
    }
    others = {
        "extra_headers": {"Authorization": "Bearer other", "X-Mode": "a"},
        "extra_body": {"nested": [{"password": "other", "kept": 1}]},
    }
    assert parts(made(model_settings=secrets)) == parts(made(model_settings=others))
    others["extra_headers"]["X-Mode"] = "b"  # type: ignore[index]
    assert differing(parts(made(model_settings=secrets)), parts(made(model_settings=others))) == {"settings"}


def openai(name: str = "gpt-5", base_url: str | None = None, key: str = "k", **more: Any) -> Agent:
    return Agent(OpenAIChatModel(name, provider=OpenAIProvider(base_url=base_url, api_key=key), **more))


def test_a_model_object_counts_by_what_it_is_and_where_it_asks() -> None:
    before = parts(openai())
    assert before == parts(openai(key="another"))
    assert differing(before, parts(openai("gpt-4"))) == {"model"}
    assert differing(before, parts(openai(base_url="http://localhost:1/v1"))) == {"address"}
    assert differing(before, parts(openai(settings={"temperature": 1}))) == {"settings"}
    assert parts(openai(settings={"timeout": 1})) == before
    assert differing(before, parts(openai(profile={"supports_tools": False}))) == {"model"}
    assert differing(before, parts(openai(profile=lambda _name: {}))) == {"model"}


def upper(messages: list[Any], info: Any) -> ModelResponse:
    return ModelResponse([TextPart("UP")])


def lower(messages: list[Any], info: Any) -> ModelResponse:
    return ModelResponse([TextPart("low")])


class Own(Model):
    """A model of the user's own."""

    def __init__(self, temperature: float, client: Any = None, extra: Any = None, api_key: str = "") -> None:
        super().__init__()
        self.temperature = temperature
        self.client = client
        self.extra = extra
        self.api_key = api_key

    async def request(self, *args: Any) -> ModelResponse:
        raise NotImplementedError

    @property
    def model_name(self) -> str:
        return "own"

    @property
    def system(self) -> str:
        return "mine"


class Keyed(Own):
    def __cache_key__(self) -> Any:
        return self.temperature


class Quiet(WrapperModel):
    def __init__(self, wrapped: Any, mark: int) -> None:
        super().__init__(wrapped)
        self.mark = mark


class Sub(FunctionModel):
    pass


def test_models_of_the_users_own_count_by_every_field_that_is_no_secret() -> None:
    models: list[Model] = [
        *(Own(1), Own(2), Own(1, extra="x"), Own(1, extra=upper), Own(1, extra=lower), Keyed(1), Keyed(2)),
        *(FunctionModel(upper), FunctionModel(lower), Sub(upper), Sub(lower), FunctionModel(upper, model_name="x")),
        *(TestModel(), TestModel(custom_output_text="x"), WrapperModel(TestModel()), WrapperModel(Own(1))),
        *(Quiet(Own(1), 1), Quiet(Own(1), 2), Quiet(Own(2), 1)),
        *(FallbackModel(Own(1), Own(2)), FallbackModel(Own(2), Own(1)), FallbackModel(Own(1), Own(3))),
    ]
    found = [parts(Agent(model))["model of `writer`"] for model in models]
    assert len(set(found)) == len(models)
    assert parts(Agent(Own(1, client=object(), api_key="a"))) == parts(Agent(Own(1, api_key="b")))
    assert parts(Agent(Keyed(1, extra=object()))) == parts(Agent(Keyed(1)))
    used = TestModel()
    Agent(used).run("Hello")
    assert parts(Agent(used)) == parts(Agent(TestModel()))


def test_a_field_of_a_model_without_identity_is_an_error_that_names_it() -> None:
    with pytest.raises(StepKeyError, match="field `extra` of the model of `writer` of step 'write' is of type object"):
        parts(Agent(Own(1, extra=object())))
    with pytest.raises(StepKeyError, match=r"field `extra` of the model of `writer`\['x'\]"):
        parts(Agent(WrapperModel(Own(1, extra={"x": object()}))))


def test_an_agent_over_a_function_is_its_code() -> None:
    found = [parts(Agent(function)) for function in (search, find, lambda message: message)]
    assert len({each["model of `writer`"] for each in found}) == 3
    assert all(differing(found[0], each) <= {"model"} for each in found)

    class Answerer:
        def __call__(self, message: str) -> str:
            return message

    with pytest.raises(StepKeyError, match="variable `self`"):
        parts(Agent(Answerer()))


def wrapped(**changes: Any) -> Agent:
    given: dict[str, Any] = {
        "model": TestModel(),
        "instructions": "Be brief.",
        "system_prompt": "You write.",
        "tools": [search],
        "output_type": City,
        "model_settings": {"temperature": 0},
    }
    return Agent(pydantic_ai.Agent(**{**given, **changes}))


class Habit(AbstractCapability[Any]):
    def __init__(self, key: Any) -> None:
        self.key = key

    def __cache_key__(self) -> Any:
        return self.key


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"name": "other", "retries": 9, "metadata": {"a": 1}, "tool_timeout": 3.0}, set()),
        ({"model": TestModel(seed=1)}, {"model"}),
        ({"model": None}, {"model"}),
        ({"instructions": "Be long."}, {"instructions"}),
        ({"instructions": None, "system_prompt": ("Be brief.", "You write.")}, {"instructions"}),
        ({"system_prompt": "You paint."}, {"instructions"}),
        ({"tools": [find]}, {"tools"}),
        ({"toolsets": [FunctionToolset([find])]}, {"tools"}),
        ({"capabilities": [WebSearch(local=False)]}, {"tools"}),
        ({"capabilities": [Habit(1)]}, {"tools"}),
        ({"output_type": Town}, {"output type"}),
        ({"model_settings": {"temperature": 1}}, {"settings"}),
        ({"model_settings": {"temperature": 0, "timeout": 1}}, set()),
    ],
)
def test_a_wrapped_agent_counts_by_what_is_in_it(changes: dict[str, Any], changed: set[str]) -> None:
    assert differing(parts(wrapped()), parts(wrapped(**changes))) == changed


def test_what_is_said_beside_a_wrapped_agent_counts_too() -> None:
    inner = pydantic_ai.Agent(TestModel(), instructions="Be brief.", tools=[search], output_type=City)
    before = parts(Agent(inner))
    assert differing(before, parts(Agent(inner, instructions="Be long."))) == {"instructions"}
    assert differing(before, parts(Agent(inner, tools=[find]))) == {"tools"}
    assert differing(before, parts(Agent(inner, output_type=Town))) == {"output type"}
    assert differing(before, parts(Agent(inner, model_settings={"top_p": 1}))) == {"settings"}
    reassigned = Agent(inner)
    reassigned.model = "offline"
    assert differing(before, parts(reassigned)) == {"model"}
    inner.tool_plain(find)
    assert differing(before, parts(Agent(inner))) == {"tools"}
    from_wrapper = Agent(pydantic_ai.agent.WrapperAgent(inner))
    assert parts(from_wrapper) == parts(Agent(inner))


def test_validators_of_a_wrapped_agent_count() -> None:
    agent = wrapped()
    before = parts(agent)

    @agent._wrapped.output_validator
    def not_empty(output: City) -> City:
        if not output.name:
            raise ModelRetry("a name")
        return output

    assert differing(before, parts(agent)) == {"output type"}


def test_what_a_function_makes_anew_each_time_is_an_error() -> None:
    def told() -> str:
        return "x"

    def toolset(ctx: Any) -> Any:
        return FunctionToolset([search])

    for given, path in (
        ({"instructions": told}, "instructions of `writer`"),
        ({"instructions": ["a", told]}, "instructions of `writer`"),
        ({"model_settings": lambda ctx: {}}, "settings of `writer`"),
        ({"toolsets": [toolset]}, "tools of `writer`"),
        ({"capabilities": [Habit(object())]}, "tools of `writer`"),
    ):
        with pytest.raises(StepKeyError) as caught:
            parts(wrapped(**given))  # type: ignore[arg-type]
        assert caught.value.facts["path"].startswith(path)
    agent = wrapped()
    agent._wrapped.system_prompt(told)
    with pytest.raises(StepKeyError, match="instructions of `writer` of step 'write' are made by a function"):
        parts(agent)
    with pytest.raises(StepKeyError, match="instructions of `writer`"):
        parts(made(instructions=[told]))


def test_an_agent_of_pydantic_ai_that_is_of_no_known_class_is_an_error() -> None:
    agent = wrapped()
    agent._wrapped = object()
    with pytest.raises(StepKeyError, match="model of `writer` of step 'write' is an agent of class object"):
        parts(agent)


def test_a_tool_bound_to_an_object_counts_with_the_object(tmp_path: Path) -> None:
    tides = Library([Document("Tides", "t", "The moon pulls the sea.")])
    winds = Library(iter([Document("Winds", "w", "The sun warms the air.")]))
    assert differing(parts(made(tools=[tides.search])), parts(made(tools=[winds.search]))) == {"tools"}
    assert winds.search("sun")[0]["title"] == "Winds"
    again = Library(lambda: [Document("Tides", "t", "The moon pulls the sea.")])
    assert parts(made(tools=[tides.search])) == parts(made(tools=[again.search]))
    (tmp_path / "a.md").write_text("# A\n\nText.", encoding="utf-8")
    first = parts(made(tools=[Library.from_folder(tmp_path).search]))
    assert first == parts(made(tools=[Library.from_folder(tmp_path).search]))
    (tmp_path / "a.md").write_text("# A\n\nOther text.", encoding="utf-8")
    assert differing(first, parts(made(tools=[Library.from_folder(tmp_path).search]))) == {"tools"}

    class Shop:
        def buy(self, what: str) -> str:
            return what

    with pytest.raises(StepKeyError, match="variable `self` of step 'write' is of type Shop"):
        parts(made(tools=[Shop().buy]))


def test_an_agent_that_is_the_tool_of_another_counts_by_its_own_parts() -> None:
    def with_researcher(instructions: str) -> Agent:
        researcher = Agent("offline", instructions=instructions, name="researcher")

        def ask(question: str) -> str:
            return str(researcher.run(question).content)

        return made(tools=[ask])

    assert differing(parts(with_researcher("a")), parts(with_researcher("b"))) == {"tools"}
    assert parts(with_researcher("a")) == parts(with_researcher("a"))


def test_agents_that_ask_each_other_end() -> None:
    first, second = Agent("offline", name="first"), Agent("offline", name="second")

    def ask_second(question: str) -> str:
        return str(second.run(question).content)

    def ask_first(question: str) -> str:
        return str(first.run(question).content)

    first.tools, second.tools = [ask_second], [ask_first]
    before = parts(first)
    second.instructions = "Other."
    assert differing(before, parts(first)) == {"tools"}


def test_agents_that_code_closes_over_are_parts_of_it() -> None:
    def step_with(agent: Any) -> Callable[[], Any]:
        def step() -> Any:
            return agent.run("Hello")

        return step

    found = code_parts(step_with(Agent("offline", name="writer")), special=agents_in("write"))
    assert set(found) == {"code of `step`", *(f"{kind} of `writer`" for kind in KINDS)}
    found = code_parts(step_with(pydantic_ai.Agent(TestModel())), special=agents_in("write"))
    assert set(found) == {"code of `step`", *(f"{kind} of `agent`" for kind in KINDS)}
    assert set(code_parts(step_with(1), special=agents_in("write"))) == {"code of `step`", "variable `agent`"}
