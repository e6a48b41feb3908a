"""What was measured of Holdfast and its peers, as a page in Markdown that names each row which a peer wins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter
from statistics import median
from typing import Literal

from measure import markdown, spread

MANY = 100
"""Times from which on the one is nearly nothing."""

FLOOR = "raw driver"
OURS = "**Holdfast**"

CHARTS = {
    "growing": (
        ("growing.svg", "Milliseconds of a run that adds 2 kB to a list, against the items that are there"),
        ("growing-bytes.svg", "Megabytes written in all, against the items that are there"),
    ),
    "large": (("large.svg", "Milliseconds of one small change of a large state, warm and cold"),),
    "at_once": (("at-once.svg", "What became of the appends of 8 processes to one session"),),
}
"""Of tables: the file that `charts.py` draws, and what it shows."""


@dataclass
class Column:
    """Figures of one kind, or what is told in words."""

    key: str
    title: str
    digits: int = 2
    better: Literal["less", "more", ""] = "less"


@dataclass
class Row:
    """What one contestant did on one database."""

    name: str
    database: str
    figures: dict[str, list[float]] = field(default_factory=dict)
    """By column, one of each block or process."""
    facts: dict[str, str] = field(default_factory=dict)
    refusal: str | None = None
    """Why nothing, or no more, was measured."""
    curve: list[list[float]] = field(default_factory=list)
    """Of a growing list: items, milliseconds of a run there, MB written in all until there, MB of the database."""
    written: float = 0.0
    """MB, until now."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of appends: kept, lost, errors."""

    def add(self, **figures: float) -> None:
        """One more figure of each."""
        for key, figure in figures.items():
            self.figures.setdefault(key, []).append(figure)

    def set(self, **figures: float) -> None:
        """The only figure of each."""
        self.figures |= {key: [figure] for key, figure in figures.items()}


@dataclass
class Table:
    """One workload."""

    key: str
    title: str
    text: str
    columns: list[Column]
    rows: list[Row]


@dataclass
class Facts:
    """All tables, and what the figures depend on."""

    command: str
    machine: str
    disk: str
    server: list[str]
    versions: dict[str, str]
    seconds: float
    took: dict[str, float]
    tables: list[Table]
    uses: list[str] = field(default_factory=list)
    """How each library is used, in a sentence or two."""

    @classmethod
    def read(cls, text: str) -> Facts:
        """From JSON."""
        data = json.loads(text)
        tables = [
            Table(
                **{
                    **table,
                    "columns": [Column(**c) for c in table["columns"]],
                    "rows": [Row(**r) for r in table["rows"]],
                }
            )
            for table in data["tables"]
        ]
        return cls(**{**data, "tables": tables})


def page(facts: Facts) -> str:
    """The whole page."""
    return "\n\n".join([_introduction(facts), _ahead(facts), *map(_section, facts.tables)]) + "\n"


def _introduction(facts: Facts) -> str:
    versions = "\n".join(f"  - {name}: {numbers}" for name, numbers in facts.versions.items())
    uses = "\n".join(f"  - {use}" for use in facts.uses)
    server = ", ".join(facts.server) or "not measured"
    return f"""# Holdfast and its peers

Written by `{facts.command}` in {facts.seconds / 60:.0f} minutes; `make bench-peers` measures all of it again.

- Machine: {facts.machine}. The databases are on {facts.disk}.
- Versions, each in an environment of its own, exactly as in `benchmarks/peers/`:
{versions}
- SQLite is as each library sets it up, which is `synchronous=FULL` for all. PostgreSQL, on the same machine: {server}.
- Every library is used as its own documentation recommends, by the one module of its name in `benchmarks/contestants/`.
  Where a documented setting makes it faster at some price, both are here. No model is called, and nothing is sent home.
{uses}
- The raw driver writes each item as one row, reads the row that it needs, and nothing else: the floor.
- A workload goes through all contestants in turn, block by block, beginning with another one each time.
- Shown are medians of the blocks or processes, with the least and the greatest. CPU is of all threads of the process.
  Bytes written are those passed to `write()`, on PostgreSQL those of its write-ahead log.
- Not like for like: a session of OpenAI Agents is a list of items without keys; DBOS has no sessions, so that its
  workflows insert rows into a table, as its documentation does; LlamaIndex Workflows has no database of sessions, so
  that its context is stored as JSON in one row, as its documentation does."""


def _ahead(facts: Facts) -> str:
    lines = [f"- [{table.title}](#{_anchor(table)}), {told}" for table in facts.tables for told in _winners(table)]
    return "## Where a peer is ahead\n\n" + ("\n".join(lines) or "In no row.")


def _anchor(table: Table) -> str:
    kept = (letter for letter in table.title.lower().replace(" ", "-") if letter.isalnum() or letter == "-")
    return "".join(kept)


def _section(table: Table) -> str:
    winners = list(_winners(table))
    ahead = "Ahead of Holdfast:\n\n" + "\n".join(f"- {told}" for told in winners) if winners else ""
    if not ahead and any(column.better for column in table.columns):
        ahead = "No peer is ahead of Holdfast here."
    charts = "\n\n".join(f"![{shown}]({file})" for file, shown in CHARTS.get(table.key, ()))
    databases = dict.fromkeys(row.database for row in table.rows)
    shown = [
        (f"### {database}\n\n" if len(databases) > 1 else "")
        + _table(table, [row for row in table.rows if row.database == database])
        for database in databases
    ]
    return "\n\n".join(filter(None, [f"## {table.title}", table.text, charts, *shown, ahead]))


def _table(table: Table, rows: Sequence[Row]) -> str:
    columns = [column for column in table.columns if any(_cell(row, column) for row in rows)] or table.columns[:1]
    lines = []
    for row in rows:
        cells = [_cell(row, column) for column in columns]
        if row.refusal:
            cells = [refused(row.refusal) if place == 0 and not cell else cell for place, cell in enumerate(cells)]
        lines.append([row.name, *cells])
    notes = [f"- {row.name}: {refused(row.refusal)}" for row in rows if row.refusal and _cell(row, columns[0])]
    return "\n\n".join(filter(None, [markdown(["", *(column.title for column in columns)], lines), "\n".join(notes)]))


def refused(reason: str) -> str:
    """What stands in the place of a figure."""
    return reason if reason == "n/a" else f"failed: {reason.replace('|', '/')}"


def _cell(row: Row, column: Column) -> str:
    if column.key in row.facts:
        return row.facts[column.key]
    figures = row.figures.get(column.key)
    if not figures:
        return ""
    return spread(figures, column.digits) if len(figures) > 1 else f"{figures[0]:,.{column.digits}f}"


def _winners(table: Table) -> Iterator[str]:
    """Each column and database in which peers are ahead of Holdfast, with how many times."""
    for database in dict.fromkeys(row.database for row in table.rows):
        rows = [row for row in table.rows if row.database == database]
        ours = next((row for row in rows if row.name == OURS), None)
        if ours is None:
            continue
        for column in table.columns:
            peers = [(_times(ours, row, column), _titled(row), row) for row in rows if _is_peer(row)]
            told = [
                f"{name} {_shown(times)}{_overlap(ours, row, column)}"
                for times, name, row in sorted(peers, key=itemgetter(0), reverse=True)
                if times > 1
            ]
            if told:
                yield f"{database}, {column.title}: {'; '.join(told)}"


def _titled(row: Row) -> str:
    return f"{row.name}, which loses appends," if row.counts.get("lost") else row.name


def _is_peer(row: Row) -> bool:
    return row.name not in (OURS, FLOOR, "`functools.lru_cache`")


def _times(ours: Row, peer: Row, column: Column) -> float:
    """By how many times a peer is better, without end where only the peer got so far; 0 if it is not to be said."""
    here, there = ours.figures.get(column.key), peer.figures.get(column.key)
    if not (column.better and there):
        return 0.0
    if not here:
        return inf
    less, more = (median(there), median(here)) if column.better == "less" else (median(here), median(there))
    return more / less if less > 0 else (inf if more > 0 else 0.0)


def _shown(times: float) -> str:
    if times == inf:
        return "alone"
    if times > MANY:
        return f"more than {MANY} times"
    return f"{times:.1f} times" if times >= 1.1 else f"{(times - 1) * 100:.0f} %"


def _overlap(ours: Row, peer: Row, column: Column) -> str:
    here, there = ours.figures.get(column.key, []), peer.figures[column.key]
    if min(len(here), len(there)) > 1 and min(there) <= max(here) and min(here) <= max(there):
        return " (the spreads overlap)"
    return ""
