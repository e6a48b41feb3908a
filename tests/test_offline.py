"""The offline model: deterministic, and nothing in it that its material does not say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pydantic_ai
import pytest
from pydantic import BaseModel
from pydantic_ai import ModelRetry, NativeOutput, PromptedOutput

from holdfast.agent import Agent
from holdfast.errors import AgentError
from holdfast.library import Library
from holdfast.offline import offline_model
from holdfast.response import RunEvent
from test_extractive import body_sentences


class NewsArticle(BaseModel):
    title: str
    url: str
    summary: str | None = None


class SearchResults(BaseModel):
    articles: list[NewsArticle]


FOUND = [
    {"title": "Tides", "url": "tides.md", "summary": "The moon pulls the sea. Twice a day the water rises."},
    {"title": "Salt", "url": "salt.md", "summary": "Rivers bring salt to the sea. It stays when water leaves."},
]


class Search:
    """A search tool that remembers what it was asked."""

    def __init__(self, result: Any = FOUND) -> None:
        self.result = result
        self.queries: list[str] = []

    def search(self, query: str, limit: int = 5) -> Any:
        """Search for a topic."""
        self.queries.append(query)
        return self.result


class TestWithASearchTool:
    def test_searches_once_with_the_users_message(self) -> None:
        tool = Search()
        Agent("offline", tools=[tool.search]).run("the sea")
        assert tool.queries == ["the sea"]

    def test_writes_a_post_of_nothing_but_what_was_found(self) -> None:
        text = Agent("offline", tools=[Search().search]).run("the sea").content
        assert text.startswith("# The sea")
        assert "offline model" in text
        assert all(heading in text for heading in ("## Tides", "## Salt", "## Takeaways", "## Sources"))
        material = " ".join(entry["summary"] for entry in FOUND)
        assert body_sentences(text)
        assert all(sentence in material for sentence in body_sentences(text))

    def test_prefers_a_tool_that_sounds_like_searching(self) -> None:
        other: list[str] = []
        tool = Search()
        Agent("offline", tools=[other.append, _named("count", len), tool.search]).run("the sea")
        assert (tool.queries, other) == (["the sea"], [])

    def test_calls_no_tool_that_needs_more_than_one_text(self) -> None:
        def search(query: str, user: str) -> list[str]:
            raise AssertionError("called")

        def find(number: int) -> list[str]:
            raise AssertionError("called")

        assert "nothing to draw from" in Agent("offline", tools=[search, find]).run("the sea").content

    def test_searches_again_for_the_next_message_of_a_conversation(self) -> None:
        tool = Search()
        agent = Agent("offline", tools=[tool.search])
        agent.run("salt", history=agent.run("the sea"))
        assert tool.queries == ["the sea", "salt"]

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            (json.dumps(FOUND), "Twice a day the water rises."),
            ([NewsArticle(**FOUND[0])], "Twice a day the water rises."),
            ({"results": FOUND}, "Twice a day the water rises."),
            ("The moon pulls the sea. Twice a day the water rises.", "Twice a day the water rises."),
            ("Title: Tides\nText: Twice a day the water rises.", "Twice a day the water rises."),
            ([], "nothing to draw from"),
            ("", "nothing to draw from"),
        ],
        ids=["json", "models", "nested", "plain text", "labels", "nothing", "empty text"],
    )
    def test_reads_results_of_any_shape(self, result: Any, said: str) -> None:
        assert said in Agent("offline", tools=[Search(result).search]).run("the sea").content

    def test_reads_results_only_so_deep(self) -> None:
        nested: Any = FOUND
        for _ in range(60):
            nested = [nested]
        agent = Agent("offline", tools=[Search(nested).search])
        assert "nothing to draw from" in agent.run("the sea").content
        agent.output_type = SearchResults
        with pytest.raises(AgentError):
            agent.run("the sea")

    def test_takes_no_request_to_try_again_for_a_result(self) -> None:
        def search(query: str) -> list[str]:
            raise ModelRetry("Title: Nonsense\nText: this is no result at all.")

        assert "nothing to draw from" in Agent("offline", tools=[search]).run("the sea").content

    def test_hands_out_its_tool_call_while_streaming(self) -> None:
        responses = list(Agent("offline", tools=[Search().search]).run("the sea", stream_events=True))
        (call,) = [response.data for response in responses if response.event is RunEvent.tool_call_started]
        assert call is not None
        assert call["args"] == {"query": "the sea"}


class TestWithMaterialInTheMessage:
    MESSAGE = json.dumps({"topic": "why the sea moves", "articles": FOUND})

    def test_writes_a_post_about_the_topic(self) -> None:
        text = Agent("offline").run(self.MESSAGE).content
        assert text.startswith("# Why the sea moves")
        assert text.endswith("1. [Tides](tides.md)\n2. [Salt](salt.md)")

    def test_streams_it_in_small_pieces_that_add_up(self) -> None:
        agent = Agent("offline")
        pieces = [response.content for response in agent.run(self.MESSAGE, stream=True)]
        assert len(pieces) > 10
        assert "".join(pieces) == Agent("offline").run(self.MESSAGE).content

    def test_says_the_same_every_time(self) -> None:
        assert Agent("offline").run(self.MESSAGE).content == Agent("offline").run(self.MESSAGE).content

    def test_reads_all_texts_of_a_message(self) -> None:
        assert "## Tides" in Agent("offline").run(["Write about this.", self.MESSAGE]).content


class TestWithNothing:
    def test_says_that_it_is_offline_and_how_to_get_a_model(self) -> None:
        text = Agent("offline").run("Write about the sea").content
        assert "offline model" in text
        assert "nothing to draw from" in text
        assert "HOLDFAST_MODEL" in text


class TestWithAnOutputType:
    def test_fills_a_list_from_what_the_tool_returned(self) -> None:
        response = Agent("offline", tools=[Search().search], output_type=SearchResults).run("the sea")
        assert response.content == SearchResults(articles=[NewsArticle(**entry) for entry in FOUND])

    def test_streams_one_object(self) -> None:
        agent = Agent("offline", tools=[Search().search], output_type=SearchResults)
        (response,) = agent.run("the sea", stream=True)
        assert len(response.content.articles) == 2

    @pytest.mark.parametrize("shape", [NativeOutput, PromptedOutput])
    def test_fills_it_also_when_it_is_asked_for_as_json(self, shape: Any) -> None:
        agent = Agent("offline", tools=[Search().search], output_type=shape(SearchResults))
        assert len(agent.run("the sea").content.articles) == 2

    @pytest.mark.parametrize(
        ("output_type", "result", "expected"),
        [
            (NewsArticle, FOUND, NewsArticle(**FOUND[0])),
            (list[NewsArticle], FOUND, [NewsArticle(**entry) for entry in FOUND]),
            (SearchResults, {"articles": FOUND[:1]}, SearchResults(articles=[NewsArticle(**FOUND[0])])),
            (SearchResults, {"hits": FOUND[:1]}, SearchResults(articles=[NewsArticle(**FOUND[0])])),
            (SearchResults, [], SearchResults(articles=[])),
            (SearchResults, {"hits": []}, SearchResults(articles=[])),
            (
                SearchResults,
                [{"name": "Tides", "link": "tides.md", "snippet": "Short."}],
                SearchResults(articles=[NewsArticle(title="Tides", url="tides.md", summary="Short.")]),
            ),
            (
                SearchResults,
                [{"title": "Tides", "url": "tides.md", "summary": None}],
                SearchResults(articles=[NewsArticle(title="Tides", url="tides.md")]),
            ),
            (list[str], ["tides", "salt"], ["tides", "salt"]),
            (list[NewsArticle], FOUND[0], [NewsArticle(**FOUND[0])]),
            (list[NewsArticle], NewsArticle(**FOUND[0]), [NewsArticle(**FOUND[0])]),
            (list[NewsArticle], {"best": FOUND[1]}, [NewsArticle(**FOUND[1])]),
            (list[NewsArticle], [NewsArticle(**entry) for entry in FOUND], [NewsArticle(**entry) for entry in FOUND]),
            (SearchResults, FOUND[0], SearchResults(articles=[NewsArticle(**FOUND[0])])),
        ],
    )
    def test_matches_fields_by_name_or_by_a_name_that_means_the_same(
        self, output_type: Any, result: Any, expected: Any
    ) -> None:
        assert Agent("offline", tools=[Search(result).search], output_type=output_type).run("sea").content == expected

    @pytest.mark.parametrize(
        "result",
        [[{"title": "no address"}], ["text"], {"answer": 42}, [{"title": 1, "url": True}]],
        ids=["missing field", "text", "other fields", "other types"],
    )
    def test_fails_rather_than_make_up_a_field(self, result: Any) -> None:
        with pytest.raises(AgentError, match="cannot fill the output_type") as caught:
            Agent("offline", tools=[Search(result).search], output_type=SearchResults).run("the sea")
        assert "42" not in str(caught.value)

    def test_fails_without_a_tool_even_when_the_message_has_it_all(self) -> None:
        with pytest.raises(AgentError, match="search"):
            Agent("offline", output_type=SearchResults).run(json.dumps({"articles": FOUND}))

    def test_takes_the_type_that_it_can_fill(self) -> None:
        class Weather(BaseModel):
            degrees: int

        agent = Agent("offline", tools=[Search().search], output_type=[Weather, SearchResults])
        assert isinstance(agent.run("the sea").content, SearchResults)

    def test_writes_text_where_text_is_allowed_and_nothing_fits(self) -> None:
        class Weather(BaseModel):
            degrees: int

        agent = Agent("offline", tools=[Search().search], output_type=[Weather, str])
        assert agent.run("the sea").content.startswith("# The sea")


class TestThePipelineOfTheQuickstart:
    def test_writes_from_the_reference_topics_of_python(self) -> None:
        topic = "context managers and the with statement"
        library = Library.from_pydoc_topics()
        found = Agent(tools=[library.search], output_type=SearchResults, model="offline").run(topic).content
        assert len(found.articles) > 2
        writer = Agent("offline", instructions=["Write a blog post.", "List its sources."])
        text = "".join(
            response.content for response in writer.run(json.dumps({"topic": topic, **found.model_dump()}), stream=True)
        )
        material = [" ".join((article.summary or "").split()) for article in found.articles]
        assert len(body_sentences(text)) > 5
        for sentence in body_sentences(text):
            assert any(sentence in summary for summary in material), sentence
        assert all(article.url in text for article in found.articles)


def test_it_is_a_model_of_pydantic_ai_as_well() -> None:
    assert "offline" in asyncio.run(pydantic_ai.Agent(offline_model()).run("hello")).output


def _named(name: str, function: Any) -> Any:
    def tool(text: str) -> Any:
        return function(text)

    tool.__name__ = name
    return tool
