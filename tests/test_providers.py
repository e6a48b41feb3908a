"""Names of models, keys, addresses, and the notes on what providers refuse."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator

import pytest
from pydantic_ai import UserError, exceptions

from holdfast import agent_loop, providers
from holdfast.agent import Agent
from holdfast.errors import AgentError, InvalidInput
from openai_server import Answer, OpenAIServer


@pytest.fixture(autouse=True)
def environment_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOLDFAST_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running
        agent_loop.shut_down()
        gc.collect()


def note_of(error: BaseException) -> str:
    (note,) = error.__notes__
    assert note.startswith("Holdfast: ")
    return note


class TestTheModelsName:
    def test_absent_means_the_offline_model(self) -> None:
        assert Agent().run("hello").model == "offline"

    def test_absent_is_read_from_the_environment(self, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_MODEL", "openai-chat:from-the-environment")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert Agent().run("hello").model == "from-the-environment"

    @pytest.mark.parametrize("name", ["openai-chat:llama3", "llama3", "llama3:8b"])
    def test_with_a_base_url_is_a_model_of_that_server(self, server: OpenAIServer, name: str) -> None:
        Agent(name, base_url=server.base_url).run("hello")
        assert server.requests[0]["model"] == name.removeprefix("openai-chat:")

    def test_of_another_provider_is_asked_at_the_base_url(self, server: OpenAIServer) -> None:
        assert Agent("ollama:qwen", base_url=server.base_url).run("hello").model == "qwen"

    def test_of_a_provider_without_addresses_cannot_have_a_base_url(self) -> None:
        with pytest.raises(AgentError, match="takes no base_url"):
            Agent("deepseek:chat", base_url="http://localhost/v1").run("hello")

    @pytest.mark.parametrize("name", [None, "offline"])
    def test_must_be_given_with_a_base_url(self, name: str | None) -> None:
        with pytest.raises(InvalidInput, match="base_url needs the name"):
            Agent(name, base_url="http://localhost/v1").run("hello")

    def test_unknown_is_explained(self) -> None:
        with pytest.raises(UserError, match="Unknown model") as caught:
            Agent("nonsense:x").run("hello")
        assert "provider:model" in note_of(caught.value)


class TestTheKey:
    def test_missing_is_explained(self) -> None:
        with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
            Agent("openai:gpt-5-mini").run("hello")
        assert "base_url" in note_of(caught.value)
        assert "offline" in note_of(caught.value)

    def test_that_is_empty_is_explained_as_one_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "")
        with pytest.raises(Exception, match="Missing credentials") as caught:
            Agent("openai-chat:gpt-5-mini").run("hello")
        assert "needs the key of its provider in the environment, and it is not set or empty" in note_of(caught.value)

    def test_is_not_named_where_the_address_of_the_server_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OLLAMA_BASE_URL", raising=False)
        with pytest.raises(UserError) as caught:
            Agent("ollama:qwen").run("hello")
        assert "set OLLAMA_BASE_URL" in note_of(caught.value)
        assert "key" not in note_of(caught.value)

    def test_is_not_named_where_another_setting_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(name: str) -> None:
            raise ValueError("the proxy is no address")

        monkeypatch.setattr("pydantic_ai.models.infer_model", refuse)
        with pytest.raises(ValueError, match="proxy") as caught:
            Agent("openai-chat:never-made-before").run("hello")
        assert not hasattr(caught.value, "__notes__")

    def test_is_not_needed_by_a_local_server(self, server: OpenAIServer) -> None:
        assert Agent("llama3", base_url=server.base_url).run("hello").content == "You said: hello"
        assert server.keys[0] is not None

    def test_is_read_from_the_environment_and_again_when_it_changes(
        self, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent = Agent("llama3", base_url=server.base_url)
        for key in ("first", "second"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            agent.run("hello")
        assert server.keys == ["Bearer first", "Bearer second"]

    def test_is_in_no_note(self, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
        server.answer = lambda request: Answer(status=401)
        with pytest.raises(exceptions.ModelAuthenticationError) as caught:
            Agent("llama3", base_url=server.base_url).run("hello")
        assert "very-secret" not in note_of(caught.value)
        assert server.base_url not in note_of(caught.value)


class TestWhatAProviderRefuses:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("answer", "kind", "advice"),
        [
            (Answer(status=401), exceptions.ModelAuthenticationError, "refused the key"),
            (Answer(status=404), exceptions.ModelNotFoundError, "knows no model"),
            (Answer(status=429), exceptions.ModelRateLimitError, "after the client's own retries"),
            (Answer(status=429, code="insufficient_quota"), exceptions.ModelQuotaExceededError, "no credit"),
            (Answer(status=500), exceptions.ModelServerError, "failed"),
            (Answer(status=503), exceptions.ModelUnavailableError, "not available"),
            (
                Answer(status=400, code="context_length_exceeded"),
                exceptions.ModelContextWindowExceededError,
                "longer than",
            ),
        ],
        ids=["401", "404", "429", "quota", "500", "503", "context"],
    )
    def test_keeps_its_class_and_gets_a_note(
        self, server: OpenAIServer, answer: Answer, kind: type[Exception], advice: str, stream: bool
    ) -> None:
        server.answer = lambda request: answer
        agent = Agent("llama3", base_url=server.base_url)
        with pytest.raises(kind) as caught:
            list(agent.run("hello", stream=True)) if stream else agent.run("hello")
        assert advice in note_of(caught.value)
        assert "'llama3'" in note_of(caught.value)

    def test_for_a_reason_of_its_own_is_left_to_speak_for_itself(self, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(status=422)
        with pytest.raises(exceptions.ModelRequestRejectedError, match="as the test wants it") as caught:
            Agent("llama3", base_url=server.base_url).run("hello")
        assert not hasattr(caught.value, "__notes__")

    @pytest.mark.parametrize("status", [429, 500])
    def test_for_now_is_tried_again_by_the_client(self, server: OpenAIServer, status: int) -> None:
        server.answer = lambda request: Answer(status=status if len(server.requests) < 3 else 200, text="at last")
        assert Agent("llama3", base_url=server.base_url).run("hello").content == "at last"
        assert len(server.requests) == 3

    def test_is_tried_again_as_often_as_the_settings_say(self, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(status=429)
        with pytest.raises(exceptions.ModelRateLimitError):
            Agent("llama3", base_url=server.base_url, model_settings={"max_retries": 0}).run("hello")
        assert len(server.requests) == 1

    def test_with_the_wrong_api_says_which_name_to_use(
        self, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(exceptions.ModelNotFoundError) as caught:
            Agent("openai:llama3", base_url=server.base_url).run("hello")
        assert "'openai-chat:llama3'" in note_of(caught.value)
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        with pytest.raises(exceptions.ModelNotFoundError) as caught:
            Agent("openai:llama3").run("hello")
        assert "'openai-chat:llama3'" in note_of(caught.value)

    def test_when_nothing_listens_asks_whether_the_server_runs(self) -> None:
        with OpenAIServer() as closed:
            address = closed.base_url
        with pytest.raises(exceptions.ModelConnectionError) as caught:
            Agent("llama3", base_url=address, model_settings={"max_retries": 0}).run("hello")
        assert "Is it running" in note_of(caught.value)
        agent_loop.shut_down()

    def test_through_an_agent_that_is_a_tool_has_one_note(self, server: OpenAIServer) -> None:
        inner = Agent("inner-model", base_url=server.base_url)

        def ask(question: str) -> str:
            return inner.run(question).content

        server.answer = lambda request: (
            Answer(tool_calls=[("ask", {"question": "why?"})]) if request.get("tools") else Answer(status=401)
        )
        with pytest.raises(exceptions.ModelAuthenticationError) as caught:
            Agent("outer-model", base_url=server.base_url, tools=[ask]).run("hello")
        assert "'inner-model'" in note_of(caught.value)

    def test_reaches_a_caller_that_awaits(self, server: OpenAIServer) -> None:
        server.answer = lambda request: Answer(status=401)

        async def main() -> None:
            await Agent("llama3", base_url=server.base_url).arun("hello")

        with pytest.raises(exceptions.ModelAuthenticationError) as caught:
            asyncio.run(main())
        assert "refused the key" in note_of(caught.value)


class TestAPackageThatIsNotInstalled:
    @pytest.mark.parametrize(
        ("name", "module", "package"),
        [
            ("openai-chat:gpt-5-mini", "openai", "holdfast[openai]"),
            ("anthropic:claude-sonnet-4-5", "anthropic", "holdfast[anthropic]"),
            ("groq:llama-3.3-70b-versatile", "groq", "pydantic-ai-slim[groq]"),
        ],
    )
    def test_is_named_with_how_to_install_it(
        self, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
    ) -> None:
        for loaded in list(sys.modules):
            if loaded.startswith((f"pydantic_ai.providers.{module}", f"pydantic_ai.models.{module}")):
                monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError) as caught:
            Agent(name).run("hello")
        assert f"pip install '{package}'" in note_of(caught.value)


class TestTheCost:
    def test_is_known_for_a_model_with_a_price(self, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        server.answer = lambda request: Answer(text="yes", usage=(1_000_000, 0))
        usage = Agent("openai-chat:gpt-4o-mini").run("hello").usage
        assert usage.cost == pytest.approx(0.15)

    def test_is_unknown_and_not_zero_for_a_model_without_a_price(self, server: OpenAIServer) -> None:
        assert Agent("llama3", base_url=server.base_url).run("hello").usage.cost is None

    def test_of_the_offline_model_is_nothing(self) -> None:
        response = Agent("offline").run("hello")
        assert response.usage is not None
        assert (response.usage.cost, response.usage.requests) == (0.0, 1)


class TestClients:
    def test_are_shared_by_every_agent_of_the_same_model(self, server: OpenAIServer) -> None:
        first = providers.resolve("llama3", server.base_url)
        assert providers.resolve("llama3", server.base_url) is first
        assert providers.resolve("other", server.base_url) is not first

    def test_are_made_anew_after_the_loop_was_shut_down(self, server: OpenAIServer) -> None:
        agent = Agent("llama3", base_url=server.base_url)
        agent.run("one")
        agent_loop.shut_down()
        assert agent.run("two").content == "You said: two"

    def test_errors_that_are_not_the_providers_are_left_alone(self) -> None:
        error = ValueError("mine")
        providers.explain(error, "offline", None)
        assert not hasattr(error, "__notes__")
