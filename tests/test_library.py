"""Library: search over text that is on this machine."""

from __future__ import annotations

import gc
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput, StorageError
from holdfast.library import Document, Library

TIDES = """\
# Tides

The moon pulls the sea. Twice a day the water rises.

## Spring tides

Spring tides come with a full moon. Sun and moon pull together then.

```python
# Not a heading, and this is no sentence of the text either.
```

## Neap tides

Neap tides are the weakest of the month.
"""

BOATS = """\
Boats
=====

A boat floats because it displaces water.

Keels
-----

A keel keeps a boat upright in the wind. See `the yard <https://example.org>`_ for :ref:`keels <keel>` of all sizes.

.. note:: This directive is not part of the prose of the page.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sea").mkdir()
    (tmp_path / "sea" / "tides.md").write_text(TIDES, encoding="utf-8")
    (tmp_path / "boats.rst").write_text(BOATS, encoding="utf-8")
    (tmp_path / "fish.txt").write_text("Herring swim in shoals. They feed at night.", encoding="utf-8")
    (tmp_path / "moon.html").write_text("The moon page is not a document here.", encoding="utf-8")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "moon.md").write_text("The moon is hidden in this file.", encoding="utf-8")
    return tmp_path


def test_a_search_finds_the_section_that_is_about_the_query(folder: Path) -> None:
    best = Library.from_folder(folder).search("neap tides")[0]
    assert best == {
        "title": "Neap tides",
        "url": "sea/tides.md#neap-tides",
        "summary": "Neap tides are the weakest of the month.",
    }


def test_underlined_titles_split_a_page_and_roles_and_links_read_as_words(folder: Path) -> None:
    best = Library.from_folder(folder).search("keel in the wind")[0]
    assert best["title"] == "Keels"
    assert best["url"] == "boats.rst#keels"
    assert best["summary"] == "A keel keeps a boat upright in the wind. See the yard for keels of all sizes."


def test_plain_text_is_found_under_the_name_of_its_file(folder: Path) -> None:
    assert Library.from_folder(folder).search("herring")[0]["title"] == "fish"


def test_hidden_files_and_other_kinds_of_file_are_left_out(folder: Path) -> None:
    urls = {found["url"] for found in Library.from_folder(folder).search("moon", limit=50)}
    assert urls == {"sea/tides.md", "sea/tides.md#spring-tides"}


def test_code_is_not_a_heading_and_not_a_sentence(folder: Path) -> None:
    found = Library.from_folder(folder).search("spring tides heading sentence", limit=50)
    assert all("Not a heading" not in part["title"] + part["summary"] for part in found)


def test_sections_with_all_words_come_before_those_with_some() -> None:
    library = Library(
        [
            Document("one", "one", "Salt salt salt salt salt is all that this page speaks of."),
            Document(
                "both", "both", "A page of other things in which salt is named once beside pepper and a long tail."
            ),
        ]
    )
    assert [found["url"] for found in library.search("salt pepper")] == ["both", "one"]


def test_sections_that_mention_the_words_only_in_passing_are_left_out() -> None:
    passing = [Document(f"other {n}", f"{n}", f"Page {n} has many words and one is tide. " * 5) for n in range(3)]
    rest = [Document(f"rest {n}", f"rest{n}", "This text is about something else altogether.") for n in range(20)]
    library = Library([Document("Tide tables", "tide", "A tide table tells each tide."), *passing, *rest])
    assert [found["url"] for found in library.search("tide table")] == ["tide"]


def test_inflected_words_match() -> None:
    library = Library([Document("Cats", "cats", "Cats are chasing mice through the old house.")])
    assert library.search("chase a mouse or cat")[0]["url"] == "cats"


def test_a_summary_holds_whole_sentences_of_the_text_that_fit_the_query() -> None:
    text = "\n\n".join(f"Sentence number {n} is about the colour {'red' if n % 5 == 0 else 'blue'}." for n in range(40))
    summary = Library([Document("Colours", "colours", text)]).search("red")[0]["summary"]
    sentences = [f"{part}." for part in summary.rstrip(".").split(". ")]
    assert len(sentences) == 4
    assert all(sentence in text for sentence in sentences)
    assert all("red" in sentence for sentence in sentences)
    assert sentences == sorted(sentences, key=text.index)


def test_a_section_without_prose_is_summed_up_by_its_title() -> None:
    library = Library([Document("Grammar", "grammar", 'stmt ::= "grammarword" expression')])
    assert library.search("grammarword")[0]["summary"] == "Grammar"


def test_a_line_broken_after_a_hyphen_is_joined() -> None:
    library = Library([Document("Types", "types", "The built-\nin types are known to all programs.")])
    assert library.search("types")[0]["summary"] == "The built-in types are known to all programs."


def test_sections_of_one_name_have_addresses_of_their_own() -> None:
    text = "# Use\n\nTake the red apple.\n\n# Use\n\nTake the red pear.\n\n# Use\n\nTake the red plum.\n"
    urls = [found["url"] for found in Library([Document("fruit", "fruit.md", text)]).search("red", limit=9)]
    assert sorted(urls) == ["fruit.md", "fruit.md#use", "fruit.md#use-2"]


def test_a_section_that_several_documents_repeat_is_found_once_under_the_shortest_address() -> None:
    part = "# Shared\n\nThis part stands in two documents.\n"
    library = Library(
        [Document("all", "all", f"# Intro\n\nThis is the start of it.\n\n{part}"), Document("s", "s", part)]
    )
    assert [found["url"] for found in library.search("stands in two documents", limit=1)] == ["s"]
    assert len(library.search("shared stands documents", limit=9)) == 1


def test_the_limit_is_kept(folder: Path) -> None:
    library = Library.from_folder(folder)
    assert len(library.search("tides moon water boat", limit=2)) == 2
    assert library.search("tides", limit=0) == []


def test_a_query_without_words_finds_nothing(folder: Path) -> None:
    library = Library.from_folder(folder)
    assert library.search("") == []
    assert library.search(' ?! "" * ( ') == []


def test_a_query_of_common_words_alone_is_still_searched() -> None:
    assert Library([Document("The", "the", "The words here are common.")]).search("the")[0]["url"] == "the"


SMALL = Library([Document("Tides", "tides", TIDES)])


@given(st.text() | st.text(alphabet="AND OR NOT NEAR()\"'*:^+-{}\0\ud800²ǅ", max_size=300))
def test_any_text_is_a_valid_query(query: str) -> None:
    for found in SMALL.search(query):
        assert found.keys() == {"title", "url", "summary"}


@given(st.text(), st.text())
def test_any_text_is_a_valid_document(title: str, text: str) -> None:
    found = Library([Document(title, "x", f"{text}\n\nfindme")]).search("findme")
    assert len(found) == 1


def test_words_that_look_like_search_syntax_are_only_words() -> None:
    library = Library([Document("Logic", "logic", "Write NEAR or NOT in capitals."), Document("B", "b", "Nothing.")])
    assert [found["url"] for found in library.search("near not")] == ["logic"]


def test_nothing_is_read_before_the_first_search_and_then_only_once() -> None:
    reads = []

    def documents() -> list[Document]:
        reads.append(1)
        return [Document("A", "a", "Apples are red or green.")]

    library = Library(documents)
    assert reads == []
    assert library.search("apples") == library.search("apples") != []
    assert reads == [1]


def test_many_threads_may_search_one_library(folder: Path) -> None:
    library = Library.from_folder(folder)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: library.search("spring tides"), range(64)))
    assert all(result == found[0] for result in found)
    assert found[0][0]["title"] == "Spring tides"


def test_a_library_that_is_dropped_closes_its_index(folder: Path) -> None:
    library = Library.from_folder(folder)
    library.search("moon")
    connection = library._connection
    assert connection is not None
    del library
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_folder_that_is_missing_or_has_no_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"):
        Library.from_folder(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"no \.md, \.rst or \.txt"):
        Library.from_folder(tmp_path)


def test_a_file_in_another_encoding_is_searched_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("Fa\xe7ade is written in Latin-1 here.".encode("latin-1"))
    assert Library.from_folder(tmp_path).search("written latin")[0]["url"] == "old.txt"


def test_a_sqlite_without_full_text_search_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutFts5(sqlite3.Connection):
        def execute(self, *args: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("no such module: fts5")

    connect = sqlite3.connect
    monkeypatch.setattr("holdfast.library.sqlite3.connect", lambda *a, **k: connect(*a, factory=WithoutFts5, **k))
    with pytest.raises(StorageError, match="FTS5"):
        Library([Document("A", "a", "b")]).search("b")


def test_the_reference_topics_of_python_answer_questions_about_python() -> None:
    found = Library.from_pydoc_topics().search("context managers and the with statement")
    assert 3 <= len(found) <= 5
    assert all(part["url"].startswith("pydoc:") for part in found)
    assert "context manager" in found[0]["summary"]
    assert "with" in found[0]["summary"]
