"""Full-text search over documents that are on this machine, ready to be an agent's tool.

Rules that must stay true:
- nothing is read or indexed before the first search, or question for its identity, so that a library may be a class
  attribute;
- any text is a valid query: nothing of it is read as search syntax;
- a summary consists of whole sentences of its section, in their order, and of nothing else.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.canonical import identity
from holdfast.errors import InvalidInput, StorageError

__all__ = ["Document", "Library"]

SUFFIXES: Final = (".md", ".rst", ".txt")
SUMMARY_SENTENCES: Final = 4
MAX_TERMS: Final = 32
RELEVANT: Final = 0.4
"""Sections that score less than this part of the best one's score only mention the query's words in passing."""

_STOP_WORDS: Final = frozenset(
    """
    a about an and are as at be been but by can did do does for from had has have how i if in into is it its me
    explain more my no not of on or our should so some such tell than that the their them then there these they
    this those to us use used using was we were what when where which who why will with work works write would you
    your
    """.split()  # noqa: SIM905 - as a list it would be a page long
)
_SCHEMA: Final = """
CREATE VIRTUAL TABLE section
USING fts5(title, url UNINDEXED, body, tokenize = 'porter unicode61 remove_diacritics 2')
"""
_SEARCH: Final = """
SELECT rowid, bm25(section, 5.0, 0.0, 1.0) AS score, title, url, body
FROM section WHERE section MATCH ? ORDER BY score, rowid LIMIT ?
"""


class Document(NamedTuple):
    """One text with the address that its search results carry.

    `text` is Markdown, reStructuredText or plain text; headings split it into sections.
    """

    title: str
    url: str
    text: str


class Section(NamedTuple):
    """One part of a document, under its own heading."""

    title: str
    url: str
    body: str


class Library:
    """Documents that can be searched by words.

    Args:
        documents: what to search, or a function that returns it; read at the first search.

    >>> library = Library([Document("Tides", "tides.md", "The moon pulls the sea. Twice a day the water rises.")])
    >>> library.search("why does the water rise?")[0]["title"]
    'Tides'
    """

    def __init__(self, documents: Iterable[Document] | Callable[[], Iterable[Document]]) -> None:
        self._documents = documents
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: bytes | None = None

    def __cache_key__(self) -> bytes:
        """What identifies the library to a step: its documents, as they are when that is first asked."""
        with self._lock:
            if self._identity is None:
                self._identity = identity(list(self._all()), "library")
            return self._identity

    @classmethod
    def from_pydoc_topics(cls) -> Library:
        """The reference topics that ship with CPython, as `help("TOPIC")` shows them.

        >>> Library.from_pydoc_topics().search("augmented assignment", limit=1)[0]["url"]
        'pydoc:augassign'
        """
        return cls(_pydoc_topics)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Library:
        """All Markdown (.md), reStructuredText (.rst) and text (.txt) files of a folder and its subfolders.

        Hidden files and folders are left out. Addresses are paths relative to the folder.

        Raises:
            InvalidInput: there is no such folder, or no such file in it.
        """
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise InvalidInput(f"{folder} is not a folder. Name a folder that holds .md, .rst or .txt files.")
        paths = [path for path in sorted(root.rglob("*")) if _is_document(path, root)]
        if not paths:
            raise InvalidInput(f"{folder} holds no .md, .rst or .txt file. Name a folder that does.")
        return cls(lambda: (_read(path, root) for path in paths))

    def search(self, query: str, limit: int = 5) -> list[dict[str, str]]:
        """Search the library for a topic and return the sections that fit best, the best one first.

        Args:
            query: the words to look for. Sections with all of them come first, then those with some of them.
            limit: the largest number of sections to return; there are fewer when only few fit well.

        Returns:
            For each section its `title`, its `url`, and as `summary` the sentences that fit the query best.
        """
        terms = _terms(query)
        if not terms or limit < 1:
            return []
        with self._lock:
            connection = self._opened()
            found: dict[int, Section] = {}
            best: float | None = None
            for operator in (" AND ", " OR "):
                # `found` is passed over below, so ask for as many more.
                for rowid, score, *section in connection.execute(_SEARCH, (operator.join(terms), limit + len(found))):
                    best = score if best is None else best
                    if score <= RELEVANT * best:  # bm25 is negative: the lower, the better
                        found.setdefault(rowid, Section(*section))
                if len(found) >= limit:
                    break
        sections = list(found.values())[:limit]
        return [{"title": part.title, "url": part.url, "summary": _summary(part, terms)} for part in sections]

    def _all(self) -> Iterable[Document]:
        if callable(self._documents):
            return self._documents()
        if not isinstance(self._documents, list | tuple):
            self._documents = list(self._documents)  # what can be iterated over only once is needed twice
        return self._documents

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(":memory:", check_same_thread=False)
            try:
                connection.execute(_SCHEMA)
            except sqlite3.OperationalError as error:
                connection.close()
                raise StorageError(
                    "The SQLite of this Python has no full-text search (FTS5), which a Library needs. "
                    "Use a Python that is linked with a complete SQLite."
                ) from error
            connection.executemany("INSERT INTO section (title, url, body) VALUES (?, ?, ?)", _sections(self._all()))
            self._connection = connection
            weakref.finalize(self, connection.close)
        return self._connection


def _pydoc_topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(name, f"pydoc:{name}", text)


def _is_document(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _read(path: Path, root: Path) -> Document:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return Document(path.stem, path.relative_to(root).as_posix(), text)


_MARKDOWN_HEADING: Final = re.compile(r"^(?:#{1,6}\s+(?P<title>.*?)\s*#*|-\[ (?P<rubric>.*) \]-)\s*$")
_UNDERLINE: Final = re.compile(r"^(?P<mark>[=\-~^*+\"'`#:._])(?P=mark){2,}\s*$")
_FENCE: Final = re.compile(r"^\s*(```|~~~)")


def _sections(documents: Iterable[Document]) -> Iterable[Section]:
    """All sections, each once: reference works repeat some under several topics; the shortest address stands."""
    distinct: dict[tuple[str, str], Section] = {}
    for document in documents:
        for section in _split(document):
            known = distinct.setdefault((section.title, section.body), section)
            if len(section.url) < len(known.url):
                distinct[section.title, section.body] = section
    return distinct.values()


def _split(document: Document) -> Iterator[Section]:
    """Split at Markdown headings (`# Title`) and at underlined titles, but not inside fenced code."""
    title, lines, addresses = "", list[str](), set[str]()
    for heading, line in _headings(document.text.splitlines()):
        if heading is None:
            lines.append(line)
            continue
        yield from _section(document, title, lines, addresses)
        title, lines = heading, []
    yield from _section(document, title, lines, addresses)


def _headings(lines: list[str]) -> Iterator[tuple[str | None, str]]:
    """Each line as (the title that it is, or None; the line), without underlines and fenced code."""
    fenced = False
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced:
            continue
        elif match := _MARKDOWN_HEADING.match(line):
            yield match["title"] or match["rubric"] or "", line
        elif _is_underlined(line, following):
            yield line.strip(), line
        elif not _UNDERLINE.match(line):
            yield None, line


def _is_underlined(line: str, following: str) -> bool:
    return (
        bool(line.strip())
        and not line[0].isspace()
        and not _UNDERLINE.match(line)
        and bool(_UNDERLINE.match(following))
        and len(following.strip()) >= len(line.strip())
    )


def _section(document: Document, title: str, lines: list[str], addresses: set[str]) -> Iterator[Section]:
    body = "\n".join(lines).strip()
    if not body:
        return
    shown = _plain_words(title) or document.title
    anchor = re.sub(r"\W+", "-", shown.lower()).strip("-")
    # The first section is what the bare address shows.
    url = f"{document.url}#{anchor}" if addresses else document.url
    number = 2
    while url in addresses:
        url, number = f"{document.url}#{anchor}-{number}", number + 1
    addresses.add(url)
    yield Section(_storable(shown), _storable(url), _storable(body))


def _storable(text: str) -> str:
    # SQLite keeps what UTF-8 can say, and some of its functions read only as far as the first NUL.
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")


def _terms(query: str) -> list[str]:
    """The query's words as quoted FTS5 strings, so that no word can be an operator; the rarer words if possible."""
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", query.lower())))
    telling = [word for word in words if word not in _STOP_WORDS] or words
    return [f'"{word}"' for word in telling[:MAX_TERMS]]


_PARAGRAPH: Final = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+•]|\d+\.)\s)")
_ASIDE: Final = re.compile(
    r">>>|::=|^\s*(?:\.\.|\||\+-|:|\[|See also|\*\*PEP|(?:New|Changed|Deprecated) (?:in|since) version)"
)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)\s+(?=[\"'“‘(*`]*[A-Z0-9])")
_SENTENCE: Final = re.compile(r"^[\"'“‘(*`]*\w.*[.!?][\"'”’)*`]*$")


def _summary(section: Section, terms: list[str]) -> str:
    sentences = list(_sentences(section.body))
    stems = [term.strip('"')[:-1] if len(term) > 6 else term.strip('"') for term in terms]

    def fit(position: int) -> tuple[int, int]:
        lowered = sentences[position].lower()
        # The first sentence of a section usually says what it is about.
        return sum(stem in lowered for stem in stems) * 2 + (position == 0), -position

    best = sorted(range(len(sentences)), key=fit, reverse=True)[:SUMMARY_SENTENCES]
    return " ".join(sentences[position] for position in sorted(best)) or section.title


def _sentences(body: str) -> Iterator[str]:
    """Whole sentences of prose; code, grammar, tables and directives are passed over."""
    for paragraph in _PARAGRAPH.split(body):
        if _ASIDE.search(paragraph):
            continue
        text = re.sub(r"^\s*(?:[-*+•]|\d+\.)\s+", "", paragraph)
        # A line broken after a hyphen is joined without a blank.
        text = _plain_words(re.sub(r"(?<=\w-)\n\s*(?=[a-z])", "", text))
        for sentence in _SENTENCE_END.split(text):
            if _SENTENCE.match(sentence) and _reads_as_prose(sentence):
                yield sentence


def _reads_as_prose(sentence: str) -> bool:
    words = sentence.split()
    lettered = sum(word.strip("\"'“”‘’()*`.,;:!?—–").replace("-", "").replace("’", "").isalpha() for word in words)
    return 4 <= len(words) <= 80 and lettered >= 0.7 * len(words)


def _plain_words(text: str) -> str:
    """The text without the marks of Markdown links, images and reStructuredText roles, on one line."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r":[\w:+-]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`_+", r"\1", text)
    text = re.sub(r"\*\*(\w[^*]*)\*\*", r"\1", text)
    return " ".join(text.split())
