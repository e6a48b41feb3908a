"""Agents against a server on this machine, through the real client and real HTTP."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast import agent_loop
from holdfast.agent import Agent
from holdfast.errors import AgentError, InvalidInput
from holdfast.messages import messages_to_data
from holdfast.metering import metering
from holdfast.records import Usage
from holdfast.response import RunEvent, RunResponse
from openai_server import Answer, OpenAIServer, last_user_message, tool_results


class City(BaseModel):
    name: str
    people: int


@pytest.fixture(autouse=True)
def environment_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running
        # Clients first: their open connections are what the server waits for.
        agent_loop.shut_down()
        gc.collect()


@pytest.fixture
def agent(server: OpenAIServer) -> Agent:
    return Agent("openai-chat:test-model", base_url=server.base_url, name="tester")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def asks_for_weather(request: dict[str, Any]) -> Answer:
    """Writes beside its tool call, as real models do."""
    if results := tool_results(request):
        return Answer(text=f"It is {results[-1]}.")
    return Answer(text="Let me look. ", tool_calls=[("weather", {"city": "Oslo"})])


def gives_a_city(request: dict[str, Any]) -> Answer:
    (tool,) = [tool["function"]["name"] for tool in request["tools"]]
    return Answer(tool_calls=[(tool, {"name": "Oslo", "people": 717_710})])


class TestAPlainRun:
    def test_returns_the_answer_with_its_model_messages_and_usage(self, agent: Agent) -> None:
        response = agent.run("hello")
        assert response.content == "You said: hello"
        assert response.event is RunEvent.run_response
        assert (response.agent, response.model) == ("tester", "test-model")
        assert response.agent_run_id is not None
        assert [message.kind for message in response.messages] == ["request", "response"]
        assert response.usage == Usage(requests=1, input_tokens=11, output_tokens=7, cost=None)

    def test_leaves_its_response_on_the_agent(self, agent: Agent) -> None:
        assert agent.run_response is None
        response = agent.run("hello")
        assert agent.run_response is response

    def test_asks_the_server_without_streaming(self, agent: Agent, server: OpenAIServer) -> None:
        agent.run("hello")
        assert not server.requests[0].get("stream")

    def test_sends_instructions_given_as_text_or_as_a_list(self, agent: Agent, server: OpenAIServer) -> None:
        agent.instructions = "Be brief."
        agent.run("hello")
        agent.instructions = ["Be brief.", "Be kind."]
        agent.run("hello")
        said = [[m["content"] for m in request["messages"] if m["role"] != "user"] for request in server.requests]
        assert "Be brief." in said[0][0]
        assert "Be kind." in " ".join(said[1])

    def test_sends_the_settings_of_the_model(self, server: OpenAIServer) -> None:
        Agent("m", base_url=server.base_url, model_settings={"temperature": 0.5, "max_tokens": 9}).run("hello")
        assert server.requests[0]["temperature"] == 0.5

    def test_takes_a_list_of_texts_as_message(self, agent: Agent, server: OpenAIServer) -> None:
        assert agent.run(["one", "two"]).content == "You said: one two"

    def test_works_on_a_thread_that_runs_an_event_loop(self, agent: Agent) -> None:
        async def main() -> str:
            return agent.run("hello").content

        assert asyncio.run(main()) == "You said: hello"

    def test_in_an_async_tool_says_to_await_instead_of_waiting_for_itself(self, server: OpenAIServer) -> None:
        server.answer = asks_for_weather
        inner = Agent("offline")

        async def weather(city: str) -> str:
            return inner.run(city).content

        with pytest.raises(AgentError, match="arun"):
            Agent("m", base_url=server.base_url, tools=[weather]).run("hello")

    def test_inside_a_tool_of_another_agent_runs_and_counts_for_the_same_meter(self, server: OpenAIServer) -> None:
        server.answer = lambda request: (
            asks_for_weather(request) if request.get("tools") else Answer(text="rain", usage=(100, 10))
        )
        inner = Agent("m", base_url=server.base_url)

        def weather(city: str) -> str:
            return inner.run(city).content

        with metering() as meter:
            response = Agent("m", base_url=server.base_url, tools=[weather]).run("hello")
        assert response.content == "It is rain."
        assert response.usage.requests == 2
        assert meter.usage == Usage(requests=3, input_tokens=122, output_tokens=24, cost=None)

    def test_refuses_a_message_that_is_no_text(self, agent: Agent) -> None:
        with pytest.raises(InvalidInput, match=r"dict.*json\.dumps"):
            agent.run({"topic": "tides"})


class TestAStream:
    def test_hands_out_one_new_response_per_piece_of_text_and_nothing_else(self, agent: Agent) -> None:
        responses = list(agent.run("hello there", stream=True))
        assert [response.content for response in responses] == ["You ", "said: ", "hello ", "there"]
        assert {response.event for response in responses} == {RunEvent.run_response}
        assert len({id(response) for response in responses}) == 4

    def test_sets_the_response_of_the_agent_when_it_is_exhausted(self, agent: Agent) -> None:
        responses = agent.run("hello", stream=True)
        next(responses)
        assert agent.run_response is None
        for _ in responses:
            pass
        assert agent.run_response is not None
        assert agent.run_response.content == "You said: hello"
        assert agent.run_response.usage == Usage(requests=1, input_tokens=11, output_tokens=7, cost=None)

    def test_does_not_begin_before_it_is_asked(self, agent: Agent, server: OpenAIServer) -> None:
        agent.run("hello", stream=True)
        assert server.requests == []

    def test_runs_the_tool_although_text_came_before_its_call(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = asks_for_weather
        agent.tools = [weather]
        text = "".join(response.content for response in agent.run("weather?", stream=True))
        assert text == "Let me look. It is sunny in Oslo."
        assert agent.run_response is not None
        assert agent.run_response.content == "It is sunny in Oslo."

    def test_with_an_output_type_hands_out_one_response_that_holds_the_object(
        self, agent: Agent, server: OpenAIServer
    ) -> None:
        server.answer = gives_a_city
        agent.output_type = City
        (response,) = agent.run("Oslo?", stream=True)
        assert response.content == City(name="Oslo", people=717_710)
        assert agent.run_response is not None
        assert agent.run_response.content == response.content

    def test_hands_out_all_events_when_asked(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = asks_for_weather
        agent.tools = [weather]
        responses = list(agent.run("weather?", stream_events=True))
        others = [response for response in responses if response.event is not RunEvent.run_response]
        assert [response.event for response in others] == [
            RunEvent.run_started,
            RunEvent.tool_call_started,
            RunEvent.tool_call_completed,
            RunEvent.run_completed,
        ]
        started, completed = others[1].data, others[2].data
        assert started == {"name": "weather", "args": {"city": "Oslo"}, "call_id": "call-0"}
        assert completed == {"name": "weather", "call_id": "call-0", "result": "sunny in Oslo"}
        assert others[3].content == "It is sunny in Oslo."
        assert {response.agent_run_id for response in responses} == {responses[0].agent_run_id}

    def test_cancels_the_model_call_when_it_is_closed(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(text="one two three four", hang=True)
        responses = agent.run("hello", stream=True)
        assert next(responses).content == "one "
        responses.close()
        assert server.left.wait(60)
        assert agent.run_response is None

    def test_cancels_the_model_call_when_it_is_dropped(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(text="one two three four", hang=True)
        responses = agent.run("hello", stream=True)
        next(responses)
        del responses
        gc.collect()
        assert server.left.wait(60)

    def test_counts_what_a_cancelled_run_used(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(text="one two three four", hang=True)
        with metering() as meter:
            responses = agent.run("hello", stream=True)
            next(responses)
            responses.close()
        assert meter.usage.requests == 1


class TestAnAsyncRun:
    def test_returns_what_run_returns(self, agent: Agent) -> None:
        response = asyncio.run(_awaited(agent, "hello"))
        assert response.content == "You said: hello"
        assert agent.run_response is response

    def test_streams_into_the_callers_loop(self, agent: Agent) -> None:
        async def main() -> list[str]:
            return [response.content async for response in agent.arun("hello there", stream=True)]

        assert asyncio.run(main()) == ["You ", "said: ", "hello ", "there"]
        assert agent.run_response is not None

    def test_is_awaited_by_an_async_tool_of_another_agent(self, server: OpenAIServer) -> None:
        server.answer = lambda request: asks_for_weather(request) if request.get("tools") else Answer(text="rain")
        inner = Agent("m", base_url=server.base_url)

        async def weather(city: str) -> str:
            return (await inner.arun(city)).content

        assert Agent("m", base_url=server.base_url, tools=[weather]).run("?").content == "It is rain."

    @pytest.mark.parametrize("stream", [False, True])
    def test_cancelling_the_task_cancels_the_model_call(self, agent: Agent, server: OpenAIServer, stream: bool) -> None:
        server.answer = lambda request: Answer(text="one two three four", hang=True)

        async def ask() -> None:
            if stream:
                async for _ in agent.arun("hello", stream=True):
                    pass
            else:
                await agent.arun("hello")

        async def main() -> None:
            task = asyncio.create_task(ask())
            await asyncio.to_thread(server.hanging.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.left.wait, 20)

        asyncio.run(main())

    def test_breaking_off_a_stream_cancels_the_model_call(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(text="one two three four", hang=True)

        async def main() -> None:
            responses = agent.arun("hello", stream=True)
            async for _ in responses:
                break
            await responses.aclose()

        asyncio.run(main())
        assert server.left.wait(60)


class TestTools:
    def test_see_the_callers_context_variables(self, server: OpenAIServer) -> None:
        server.answer = asks_for_weather
        user = contextvars.ContextVar("user", default="nobody")

        def weather(city: str) -> str:
            return f"known to {user.get()}"

        user.set("ada")
        assert Agent("m", base_url=server.base_url, tools=[weather]).run("?").content == "It is known to ada."

    @pytest.mark.parametrize("stream", [False, True])
    def test_raise_their_own_errors_to_the_caller(self, server: OpenAIServer, stream: bool) -> None:
        server.answer = asks_for_weather

        def weather(city: str) -> str:
            raise KeyError("no such city")

        agent = Agent("m", base_url=server.base_url, tools=[weather])
        with metering() as meter, pytest.raises(KeyError, match="no such city") as caught:
            list(agent.run("?", stream=True)) if stream else agent.run("?")
        assert not getattr(caught.value, "__notes__", [])
        assert meter.usage.requests == 1

    def test_may_be_methods_that_share_their_object_between_copies(self, server: OpenAIServer) -> None:
        server.answer = asks_for_weather

        class Station:
            def __init__(self) -> None:
                self.asked: list[str] = []

            def weather(self, city: str) -> str:
                """The weather in a city."""
                self.asked.append(city)
                return "windy"

        station = Station()

        class Owner:
            agent = Agent("m", base_url=server.base_url, tools=[station.weather])

        Owner().agent.run("?")
        Owner().agent.run("?")
        assert station.asked == ["Oslo", "Oslo"]


class TestStructuredOutput:
    def test_is_an_object_of_the_output_type(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = gives_a_city
        agent.output_type = City
        assert agent.run("Oslo?").content == City(name="Oslo", people=717_710)

    def test_is_asked_for_again_when_it_does_not_fit(self, agent: Agent, server: OpenAIServer) -> None:
        def first_wrong(request: dict[str, Any]) -> Answer:
            answer = gives_a_city(request)
            if len(server.requests) == 1:
                answer.tool_calls[0][1].pop("people")
            return answer

        server.answer = first_wrong
        agent.output_type = City
        response = agent.run("Oslo?")
        assert response.content.people == 717_710
        assert response.usage.requests == 2


class TestHistory:
    @pytest.mark.parametrize(
        "remembered",
        [lambda response: response, lambda response: response.messages, messages_to_data],
        ids=["a response", "its messages", "plain data"],
    )
    def test_goes_on_from_an_earlier_run(self, agent: Agent, server: OpenAIServer, remembered: Any) -> None:
        first = agent.run("my name is Ada")
        second = agent.run("who am I?", history=remembered(first))
        sent = [message["content"] for message in server.requests[1]["messages"]]
        assert sent == ["my name is Ada", "You said: my name is Ada", "who am I?"]
        assert len(second.messages) == 4

    def test_counts_the_usage_of_the_new_run_only(self, agent: Agent) -> None:
        second = agent.run("and now?", history=agent.run("hello"))
        assert second.usage == Usage(requests=1, input_tokens=11, output_tokens=7, cost=None)

    def test_is_not_changed_by_the_run(self, agent: Agent) -> None:
        first = agent.run("hello")
        agent.run("and now?", history=first.messages)
        assert len(first.messages) == 2

    def test_with_tool_calls_survives_as_plain_data(self, agent: Agent, server: OpenAIServer) -> None:
        server.answer = asks_for_weather
        agent.tools = [weather]
        first = agent.run("weather?")
        agent.run("and now?", history=messages_to_data(first))
        assert [message["role"] for message in server.requests[-1]["messages"]] == [
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
        ]


class TestManyThreads:
    def test_share_one_agent_for_plain_runs_and_streams(self, server: OpenAIServer) -> None:
        agent = Agent("m", base_url=server.base_url)

        def ask(number: int) -> str:
            if number % 2:
                return "".join(response.content for response in agent.run(f"question {number}", stream=True))
            return agent.run(f"question {number}").content

        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(ask, range(96)))
        assert answers == [f"You said: question {number}" for number in range(96)]

    def test_with_tools_that_wait_for_each_other_are_not_limited_in_number(self, server: OpenAIServer) -> None:
        """More than the forty threads that the thread pool of an event loop has by default."""
        server.answer = asks_for_weather
        together = threading.Barrier(48, timeout=60)

        def weather(city: str) -> str:
            together.wait()
            return "foggy"

        agent = Agent("m", base_url=server.base_url, tools=[weather])
        with ThreadPoolExecutor(48) as threads:
            answers = list(threads.map(lambda _: agent.run("?").content, range(48)))
        assert answers == ["It is foggy."] * 48

    def test_and_many_tasks_of_one_loop_share_one_agent(self, agent: Agent) -> None:
        async def main() -> list[RunResponse]:
            return list(await asyncio.gather(*(agent.arun(f"question {number}") for number in range(32))))

        answers = [response.content for response in asyncio.run(main())]
        assert answers == [f"You said: question {number}" for number in range(32)]


class TestATemplate:
    def test_gives_every_object_a_copy_of_its_own(self, server: OpenAIServer) -> None:
        class Owner:
            writer = Agent("m", base_url=server.base_url)

        one, other = Owner(), Owner()
        one.writer.run("hello")
        assert one.writer is one.writer
        assert one.writer.run_response is not None
        assert other.writer.run_response is None
        assert Owner.writer.run_response is None

    def test_is_named_after_its_attribute_unless_it_has_a_name(self) -> None:
        class Owner:
            writer = Agent()
            reader = Agent(name="librarian")

        assert (Owner.writer.name, Owner().writer.name, Owner.reader.name) == ("writer", "writer", "librarian")

    def test_is_not_changed_by_what_an_object_assigns_or_adds(self) -> None:
        class Owner:
            writer = Agent("offline", instructions=["Be brief."])

        owner = Owner()
        owner.writer.model = "openai-chat:other"
        owner.writer.tools.append(weather)
        owner.writer.instructions.append("Be kind.")
        assert (Owner.writer.model, Owner.writer.tools) == ("offline", [])
        assert Owner().writer.instructions == ["Be brief."]

    def test_under_two_names_is_one_agent_of_the_object(self) -> None:
        class Owner:
            writer = author = Agent()

        owner = Owner()
        assert owner.writer is owner.author
        assert owner.writer is not Owner().writer

    def test_taken_over_by_another_class_stays_out_of_the_first_ones_objects(self) -> None:
        class Owner:
            writer = Agent()

        class Borrower:
            scribe = vars(Owner)["writer"]

        owner = Owner()
        assert owner.writer is vars(owner)["writer"]
        assert "scribe" not in vars(owner)
        assert Borrower().scribe.name == "writer"

    def test_gives_racing_threads_the_same_copy(self) -> None:
        class Owner:
            writer = Agent()

        with ThreadPoolExecutor(8) as threads:
            for _ in range(50):
                owner = Owner()
                found = list(threads.map(lambda _, owner=owner: owner.writer, range(8)))
                assert {id(agent) for agent in found} == {id(owner.writer)}


class TestAssigning:
    def test_takes_effect_at_the_next_call_and_not_during_one(self, agent: Agent, server: OpenAIServer) -> None:
        agent.instructions = "Be brief."
        responses = agent.run("hello", stream=True)
        agent.instructions = "Be long."
        assert list(responses)
        agent.run("hello")
        sent = [str(request["messages"]) for request in server.requests]
        assert ["Be brief." in text for text in sent] == [True, False]
        assert ["Be long." in text for text in sent] == [False, True]

    def test_a_function_as_model_answers_instead(self, agent: Agent) -> None:
        agent.model = lambda message: f"no model saw {message}"
        assert agent.run("this").content == "no model saw this"

    def test_appending_a_tool_takes_effect(self, agent: Agent, server: OpenAIServer) -> None:
        agent.run("hello")
        agent.tools.append(weather)
        agent.run("hello")
        assert [len(request.get("tools", ())) for request in server.requests] == [0, 1]


class TestAPydanticAgent:
    def test_is_wrapped_with_its_own_configuration(self, server: OpenAIServer) -> None:
        import pydantic_ai

        server.answer = asks_for_weather
        wrapped = pydantic_ai.Agent(_chat_model(server), name="inner", instructions="Be brief.", tools=[weather])
        agent = Agent(wrapped)
        assert agent.run("?").content == "It is sunny in Oslo."
        assert agent.name == "inner"
        assert "Be brief." in str(server.requests[0])

    def test_keeps_its_output_type(self, server: OpenAIServer) -> None:
        import pydantic_ai

        server.answer = gives_a_city
        agent = Agent(pydantic_ai.Agent(_chat_model(server), output_type=City))
        assert agent.output_type is City
        (response,) = agent.run("Oslo?", stream=True)
        assert response.content.name == "Oslo"

    def test_has_its_parts_replaced_by_what_is_assigned(self, server: OpenAIServer) -> None:
        import pydantic_ai

        server.answer = gives_a_city
        agent = Agent(pydantic_ai.Agent("test", instructions="Be brief.", tools=[weather]))
        agent.model = "m"
        agent.base_url = server.base_url
        agent.instructions = "Be long."
        agent.output_type = City
        agent.tools = [lambda: None]
        server.answer = lambda request: Answer(tool_calls=[("final_result", {"name": "Oslo", "people": 1})])
        assert agent.run("Oslo?").content == City(name="Oslo", people=1)
        sent = str(server.requests[0])
        assert "Be long." in sent
        assert "Be brief." not in sent
        assert "weather" not in sent

    def test_without_a_model_gives_pydantic_ais_own_error(self) -> None:
        import pydantic_ai

        with pytest.raises(pydantic_ai.UserError, match="model"):
            Agent(pydantic_ai.Agent()).run("hello")

    def test_is_given_to_the_constructor_and_not_assigned(self) -> None:
        import pydantic_ai

        agent = Agent()
        agent.model = pydantic_ai.Agent("test")
        with pytest.raises(InvalidInput, match="a_pydantic_ai_agent"):
            agent.run("hello")

    def test_of_a_model_object_is_asked_with_that_object(self, server: OpenAIServer) -> None:
        assert Agent(_chat_model(server)).run("hello").content == "You said: hello"


class TestAFunction:
    def test_answers_with_its_result(self) -> None:
        agent = Agent(lambda message: {"topic": message}, name="plain")
        response = agent.run("tides")
        assert response.content == {"topic": "tides"}
        assert response.usage == Usage()
        assert agent.run_response is response
        assert [part.content for part in agent.run("tides", stream=True)] == [{"topic": "tides"}]

    def test_streams_what_it_yields_and_joins_it(self) -> None:
        def write(message: str) -> Iterator[str]:
            yield "about "
            yield ""
            yield message

        agent = Agent(write)
        assert [part.content for part in agent.run("tides", stream=True)] == ["about ", "tides"]
        assert agent.run_response is not None
        assert (agent.run_response.content, agent.run_response.model) == ("about tides", "write")

    def test_may_hand_out_responses(self) -> None:
        assert Agent(lambda message: RunResponse(content=message)).run("tides").content == "tides"
        assert Agent(lambda message: iter([RunResponse(content=message)])).run("tides").content == "tides"

    def test_may_yield_one_object_but_not_several(self) -> None:
        assert Agent(lambda message: iter([{"topic": message}])).run("tides").content == {"topic": "tides"}
        with pytest.raises(AgentError, match="yielded dict"):
            Agent(lambda message: iter([{}, {}])).run("tides")

    def test_runs_on_the_callers_thread(self) -> None:
        assert Agent(lambda message: threading.get_ident()).run("?").content == threading.get_ident()

    def test_may_be_a_coroutine_function_or_an_async_generator(self) -> None:
        async def answer(message: str) -> str:
            await asyncio.sleep(0)
            return message

        async def write(message: str) -> AsyncIterator[str]:
            yield "about "
            yield message

        assert Agent(answer).run("tides").content == "tides"
        assert [part.content for part in Agent(write).run("tides", stream=True)] == ["about ", "tides"]
        assert asyncio.run(_awaited(Agent(answer), "tides")).content == "tides"

    def test_is_awaited_from_any_loop_on_one_thread_of_its_own(self) -> None:
        threads: set[int] = set()

        def write(message: str) -> Iterator[str]:
            for piece in ("a", "b", "c"):
                threads.add(threading.get_ident())
                yield piece

        async def main() -> list[str]:
            return [part.content async for part in Agent(write).arun("?", stream=True)]

        assert asyncio.run(main()) == ["a", "b", "c"]
        assert len(threads) == 1
        assert threading.get_ident() not in threads

    def test_hands_out_its_start_and_end_when_asked(self) -> None:
        events = [response.event for response in Agent(str.upper).run("a", stream_events=True)]
        assert events == [RunEvent.run_started, RunEvent.run_response, RunEvent.run_completed]

    @pytest.mark.parametrize("options", [{"tools": [weather]}, {"instructions": "x"}, {"output_type": City}])
    def test_takes_no_options_that_would_have_no_effect(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match="only a name"):
            Agent(str.upper, **options)


def test_an_agent_does_not_load_pydantic_ai_before_it_runs() -> None:
    code = (
        "import sys; from holdfast.agent import Agent\n"
        "Agent(lambda m: m).run('x'); Agent('openai:gpt-5', instructions='x', tools=[len])\n"
        "assert not {'pydantic', 'pydantic_ai', 'openai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_something_else_as_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="int"):
        Agent(42)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="ModelMetaclass"):
        Agent(City)


def test_an_agent_shows_what_it_is_without_its_instructions() -> None:
    import pydantic_ai

    assert repr(Agent("offline", instructions="secret", name="w")) == "Agent('offline', name='w')"
    assert repr(Agent(weather)) == "Agent(weather, name=None)"
    assert repr(Agent(pydantic_ai.Agent(name="inner"))) == "Agent(Agent, name='inner')"


async def _awaited(agent: Agent, message: str) -> RunResponse:
    return await agent.arun(message)


def _chat_model(server: OpenAIServer) -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=server.base_url, api_key="key"))
    server.kept.append(model)
    return model


def test_the_server_repeats_the_last_message_of_the_user() -> None:
    assert last_user_message({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}) == "b"
