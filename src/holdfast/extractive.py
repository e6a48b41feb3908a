"""Extractive writing: a Markdown post whose every sentence stands in the material that it was given.

Rules that must stay true:
- nothing is invented: a sentence is copied whole, with white space joined; only headings, labels and the line that
  says who wrote it are ours;
- the same material gives the same text, character for character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

__all__ = ["Source", "post", "sentences", "sources_in", "topic_of"]

TITLE_FIELDS = ("title", "name", "heading", "headline")
URL_FIELDS = ("url", "link", "href", "uri", "address")
TEXT_FIELDS = ("content", "text", "body", "summary", "snippet", "description", "abstract", "excerpt")
_TOPIC_FIELDS = ("topic", "question", "query", "subject", "title")

SENTENCES_PER_SECTION = 4
MAX_TAKEAWAYS = 5
LONGEST_ABBREVIATION = 12
MAX_DEPTH = 32
"""How deep in data material is looked for."""
MAX_OPENINGS = 100
"""How many brackets of a text are tried as the beginning of JSON: each failure costs time in the length of the text."""

_LABEL = re.compile(r"^[ \t>*-]*(?P<name>[A-Za-z]+)\**[ \t]*:\**[ \t]+(?P<value>\S.*)$")
_BREAK = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[*`_]*[A-Z0-9])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|[A-Z])\.)[\"'”’)\]]*$")
_WORD = re.compile(r"\w{3,}")


class Source(NamedTuple):
    """One piece of material."""

    title: str
    url: str
    text: str


def sources_in(value: Any) -> list[Source]:
    """Everything in a value that has a text with a title or an address, in order and without repetition.

    Args:
        value: data of dicts and lists, JSON text (also inside other text), or text with lines such as `Title: ...`,
            `URL: ...`, `Content: ...`.

    >>> sources_in('[{"title": "Tides", "snippet": "The moon pulls the sea."}]')
    [Source(title='Tides', url='', text='The moon pulls the sea.')]
    """
    return list(dict.fromkeys(_found(value, 0)))


def _found(value: Any, depth: int) -> Iterator[Source]:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, str):
        data = data_in(value)
        yield from _found(_labelled(value) if data is None else data, depth + 1)
    elif isinstance(value, dict):
        source = Source(*(_first(value, fields) for fields in (TITLE_FIELDS, URL_FIELDS, TEXT_FIELDS)))
        if source.text and (source.title or source.url):
            yield source
        for inner in value.values():
            if not isinstance(inner, str) or not source.text:
                yield from _found(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _found(inner, depth + 1)


def _first(mapping: dict[Any, Any], names: Iterable[str]) -> str:
    lowered = {str(key).lower(): value for key, value in mapping.items() if isinstance(value, str)}
    return next((" ".join(lowered[name].split()) for name in names if lowered.get(name, "").strip()), "")


def data_in(text: str) -> Any:
    """The first JSON object or list that stands in a text, None when there is none.

    >>> data_in('Use these: {"topic": "tides"} please')
    {'topic': 'tides'}
    """
    decoder = json.JSONDecoder()
    for opening in islice(re.finditer(r"[{\[]", text), MAX_OPENINGS):
        try:
            data, _ = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        if data and not isinstance(data, str | int | float):
            return data
    return None


def _labelled(text: str) -> list[dict[str, str]]:
    """Records of `Name: value` lines; a line without a name goes on with the value above it."""
    records: list[dict[str, str]] = [{}]
    current = ""
    for line in text.splitlines():
        match = _LABEL.match(line)
        name = match["name"].lower() if match else ""
        if match and name in (*TITLE_FIELDS, *URL_FIELDS, *TEXT_FIELDS):
            if name in records[-1]:
                records.append({})
            current = name
            records[-1][current] = match["value"]
        elif current and line.strip():
            records[-1][current] += "\n" + line
    return records


def topic_of(message: str, sources: list[Source]) -> str:
    """What a message is about: a field of its data that says so, else the message if it is short, else a source.

    >>> topic_of('{"topic": "Tides"}', [])
    'Tides'
    """
    data = data_in(message)
    if isinstance(data, dict) and (topic := _first(data, _TOPIC_FIELDS)):
        return topic
    first = next((line.strip(" #\t") for line in message.splitlines() if line.strip()), "")
    if data is None and first and len(first) <= 100 and not _LABEL.match(first):
        return first
    return sources[0].title if sources else ""


def sentences(text: str) -> list[str]:
    """The whole sentences of a text, white space joined; a text without any, such as a snippet, counts as one.

    >>> sentences("The moon pulls  the sea, e.g. at night. Twice a day\\nthe water rises.")
    ['The moon pulls the sea, e.g. at night.', 'Twice a day the water rises.']
    """
    text = " ".join(text.split())
    pieces: list[str] = []
    begin = 0
    for gap in _BREAK.finditer(text):
        if not _ABBREVIATION.search(text, max(begin, gap.start() - LONGEST_ABBREVIATION), gap.end() - 1):
            pieces.append(text[begin : gap.end()].strip())
            begin = gap.end()
    pieces.append(text[begin:].strip())
    whole = [piece for piece in pieces if _is_prose(piece)]
    return whole or [text] * bool(text)


def _is_prose(piece: str) -> bool:
    """Whether it reads as a sentence: not a scrap, not code, not cut off."""
    letters = sum(letter.isalpha() or letter.isspace() for letter in piece)
    ended = piece.rstrip("\"'”’)]*_`")[-1:] in {".", "!", "?"}
    return ended and len(piece.split()) >= 4 and ">>>" not in piece and letters >= 0.7 * len(piece)


def post(topic: str, sources: list[Source], author: str) -> str:
    """Write a post in Markdown: title, a section for each source, takeaways, and the list of sources.

    Args:
        topic: its title, and what decides which sentences matter.
        sources: the material, at least one.
        author: who wrote it, for the line below the title.

    >>> text = post("tides", [Source("Tides", "tides.md", "The moon pulls the whole sea.")], "a test")
    >>> text.splitlines()[0], text.splitlines()[-1]
    ('# Tides', '1. [Tides](tides.md)')
    """
    words = _words(topic)
    count = "1 source" if len(sources) == 1 else f"{len(sources)} sources"
    lines = [f"# {topic[:1].upper()}{topic[1:]}", "", f"*Written by {author} from {count}, in their own words.*", ""]
    used: set[str] = set()
    takeaways: list[str] = []
    for number, source in enumerate(sources, 1):
        fresh = [sentence for sentence in sentences(source.text) if sentence not in used]
        if not fresh:
            continue
        ranked = sorted(range(len(fresh)), key=lambda index: (-_weight(fresh[index], words), index))
        section = [fresh[index] for index in sorted(ranked[:SENTENCES_PER_SECTION])]
        used.update(section)
        takeaways.append(fresh[ranked[0]])
        lines += [f"## {source.title or source.url}", "", f"{' '.join(section)} [{number}]", ""]
    fitting = [sentence for sentence in takeaways if _weight(sentence, words)] or takeaways
    lines += ["## Takeaways", "", *(f"- {sentence}" for sentence in fitting[:MAX_TAKEAWAYS]), ""]
    lines += ["## Sources", "", *(f"{number}. {_reference(source)}" for number, source in enumerate(sources, 1))]
    return "\n".join(lines)


def _weight(sentence: str, words: set[str]) -> int:
    return len(words & _words(sentence))


def _words(text: str) -> set[str]:
    """Words as they are compared: lower case, plural or not."""
    return {word.lower().rstrip("s") for word in _WORD.findall(text)}


def _reference(source: Source) -> str:
    if not source.url:
        return source.title
    return f"[{source.title}]({source.url})" if source.title else f"<{source.url}>"
