"""Writing from sources only."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.extractive import Source, data_in, post, sentences, sources_in, topic_of

TIDES = Source("Tides", "sea.md#tides", "The moon pulls the sea. Twice a day the water rises. It falls once more.")
SALT = Source("Salt", "", "Sea water holds about 35 grams of salt per litre. Rivers bring it from the rocks.")


def body_sentences(text: str) -> list[str]:
    """The sentences of a post but for its title, the line that says who wrote it, its headings and its sources."""
    body = text.partition("## Sources")[0].splitlines()[4:]
    lines = [line for line in body if line and not line.startswith("#")]
    return [sentence for line in lines for sentence in sentences(re.sub(r" \[\d+\]$", "", line.removeprefix("- ")))]


class TestSources:
    @pytest.mark.parametrize("title", ["title", "Name", "heading"])
    @pytest.mark.parametrize("url", ["url", "link", "href"])
    @pytest.mark.parametrize("text", ["content", "text", "summary", "snippet", "Body", "description"])
    def test_are_found_under_the_usual_names(self, title: str, url: str, text: str) -> None:
        data = {title: TIDES.title, url: TIDES.url, text: TIDES.text}
        assert sources_in({"results": [{"hits": [data]}]}) == [TIDES]

    def test_are_found_in_json_inside_other_text(self) -> None:
        text = f"Here is {{what}} I found:\n```json\n{json.dumps({'articles': [TIDES._asdict()]})}\n```\nEnjoy [it]."
        assert sources_in(text) == [TIDES]

    def test_are_found_in_lines_with_labels(self) -> None:
        text = (
            f"Results\n\nTitle: Tides\nURL: {TIDES.url}\nContent: The moon pulls the sea.\n"
            f"  Twice a day the water rises.\nIt falls once more.\n\n**Title:** Salt\n- Snippet: {SALT.text}\n"
        )
        assert sources_in(text) == [TIDES, SALT]

    def test_need_a_text_and_a_title_or_an_address(self) -> None:
        assert sources_in([{"title": "Tides"}, {"text": "Alone."}, {"title": " ", "text": "Alone."}, 42, None]) == []

    def test_are_not_repeated(self) -> None:
        assert sources_in([TIDES._asdict(), SALT._asdict(), TIDES._asdict()]) == [TIDES, SALT]

    def test_are_not_seen_in_plain_text(self) -> None:
        assert sources_in("Please write about the sea: it is big, [citation needed], and {salty}.") == []

    def test_prefer_the_longer_kind_of_text(self) -> None:
        assert sources_in({"title": "T", "snippet": "Short.", "content": "Long."}) == [Source("T", "", "Long.")]

    @pytest.mark.parametrize("text", ["*" * 200_000, "[" * 200_000, "{" * 200_000, "A. " * 70_000, ". " * 100_000])
    def test_are_looked_for_in_hostile_text_without_end(self, text: str) -> None:
        """Each of these once took time in the square of its length, which is hours."""
        sources_in(text)
        sentences(text)

    @given(st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
    def test_can_be_looked_for_in_anything(self, data: object) -> None:
        sources_in(data)
        sources_in(json.dumps(data))


class TestSentences:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("One two three four. Five six seven eight!", ["One two three four.", "Five six seven eight!"]),
            ("See e.g. The Sea by J. Banville for more.", ["See e.g. The Sea by J. Banville for more."]),
            ('He said "it rises again." Then it fell down.', ['He said "it rises again."', "Then it fell down."]),
            ("Version 3.11 is out now. It is fast enough.", ["Version 3.11 is out now.", "It is fast enough."]),
            ("Too short. This one is long enough. And cut off in the", ["This one is long enough."]),
            (">>> x = 1 is code here. This one is a sentence.", ["This one is a sentence."]),
            ("a snippet without an end", ["a snippet without an end"]),
            ("  ", []),
        ],
    )
    def test_are_whole_and_prose(self, text: str, expected: list[str]) -> None:
        assert sentences(text) == expected

    @given(st.text())
    def test_always_stand_in_the_text(self, text: str) -> None:
        joined = " ".join(text.split())
        assert all(sentence in joined for sentence in sentences(text))


class TestTopic:
    @pytest.mark.parametrize(
        ("message", "topic"),
        [
            ('{"topic": "The sea", "articles": []}', "The sea"),
            ('Write this: {"question": "Why?"}', "Why?"),
            ("# The sea\n\nand more", "The sea"),
            ("x" * 200, "Tides"),
            ("Title: Salt\nText: Salty.", "Tides"),
            ("[1, 2]", "Tides"),
        ],
    )
    def test_is_what_the_message_says_or_the_first_source(self, message: str, topic: str) -> None:
        assert topic_of(message, [TIDES]) == topic

    def test_of_nothing_is_empty(self) -> None:
        assert topic_of("", []) == ""


class TestAPost:
    def test_has_a_title_sections_takeaways_and_sources(self) -> None:
        text = post("the sea", [TIDES, SALT], "a test")
        headings = [line for line in text.splitlines() if line.startswith("#")]
        assert headings == ["# The sea", "## Tides", "## Salt", "## Takeaways", "## Sources"]
        assert text.splitlines()[2] == "*Written by a test from 2 sources, in their own words.*"
        assert text.endswith("1. [Tides](sea.md#tides)\n2. Salt")

    def test_says_nothing_that_is_not_in_its_sources(self) -> None:
        text = post("the sea", [TIDES, SALT], "a test")
        assert len(body_sentences(text)) >= 5
        for sentence in body_sentences(text):
            assert sentence in TIDES.text or sentence in SALT.text

    def test_takes_the_sentences_that_fit_its_topic_in_their_order(self) -> None:
        filler = [f"This is a sentence number {number} of it." for number in range(9)]
        filler.insert(7, "Whales dive very deep into it.")
        text = post("whale", [Source("Sea", "", " ".join(filler))], "a test")
        section = text.split("## Sea\n\n")[1].split(" [1]")[0]
        assert section.endswith("number 2 of it. Whales dive very deep into it.")

    def test_does_not_say_a_sentence_twice_in_its_sections(self) -> None:
        text = post("the sea", [TIDES, TIDES._replace(title="Again")], "a test")
        assert text.count("Twice a day") == 1
        assert "## Again" not in text

    def test_takes_away_only_what_fits_its_topic_if_anything_does(self) -> None:
        takeaways = post("salt", [TIDES, SALT], "a test").split("## Takeaways")[1].split("## Sources")[0]
        assert [line for line in takeaways.splitlines() if line] == [f"- {sentences(SALT.text)[0]}"]

    def test_of_a_source_without_a_title_is_headed_by_its_address(self) -> None:
        text = post("sea", [Source("", "sea.md", "The moon pulls the sea.")], "a test")
        assert "## sea.md" in text
        assert text.endswith("1. <sea.md>")
        assert "1 source," in text

    def test_is_the_same_every_time(self) -> None:
        assert post("sea", [TIDES, SALT], "a test") == post("sea", [TIDES, SALT], "a test")


def test_data_in_a_text_is_found_behind_brackets_that_are_none() -> None:
    assert data_in('see [1] or {x}: ["a"] then {"b": 1}') == [1]
    assert data_in("{" * 100_000) is None
    assert data_in("nothing") is None
