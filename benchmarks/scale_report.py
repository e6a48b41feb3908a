"""What `scale.py` measured, as a page in Markdown: one table for each part and engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from measure import markdown

SQLITE = "SQLite"
POSTGRES = "PostgreSQL"

Row = dict[str, Any]
Column = tuple[str, str, float]
"""The key of a figure, the title of its column, and by what it is divided."""

KB, MB, SECONDS = 1e3, 1e6, 1e3

SESSIONS: dict[str, Sequence[Column]] = {
    "One session, ms": (
        ("sessions", "sessions", 0),
        ("first", "first load of a process", 1),
        ("load", "load", 1),
        ("again", "load twice, unchanged", 1),
        ("run", "run that sets a small key", 1),
        ("new", "first run of a new session", 1),
        ("written", "kB written by the run", KB),
        ("delete", "delete", 1),
    ),
    "All sessions, ms": (
        ("sessions", "sessions", 0),
        ("page_of_user", "50 newest of a user", 1),
        ("page", "50 newest of all", 1),
        ("far", "10,000 newest of all", 1),
        ("runs", "50 newest runs of all", 1),
        ("by_key", "found by user and id", 1),
        ("by_id", "found by id alone", 1),
        ("run_by_id", "run found by id alone", 1),
    ),
    "Disk and integrity": (
        ("sessions", "sessions", 0),
        ("size", "MB", MB),
        ("size_each", "bytes of each session", 1),
        ("check", "s until all is verified", SECONDS),
        ("memory", "MB of memory for that", MB),
    ),
}
STATES: dict[str, Sequence[Column]] = {
    "Time, ms": (
        ("bytes", "bytes of the value", 0),
        ("store", "first stored", 1),
        ("small", "small key beside it", 1),
        ("item", "one item in it", 1),
        ("whole", "all of it", 1),
        ("cold_small", "small key, new process", 1),
        ("cold_read", "read it, new process", 1),
    ),
    "Written and kept": (
        ("bytes", "bytes of the value", 0),
        ("store_written", "kB: first stored", KB),
        ("small_written", "kB: small key", KB),
        ("item_written", "kB: one item", KB),
        ("whole_written", "kB: all of it", KB),
        ("size", "MB on the disk", MB),
        ("memory", "MB of memory", MB),
    ),
}
HISTORIES: dict[str, Sequence[Column]] = {
    "Reading and running, ms": (
        ("versions", "versions", 0),
        ("load", "load the newest", 1),
        ("replayed", "changes replayed", 0),
        ("old", "load the old one that takes most", 1),
        ("old_replayed", "changes replayed", 0),
        ("newest_page", "50 newest changes", 1),
        ("oldest_page", "50 oldest changes", 1),
        ("find_run", "find a run", 1),
        ("run", "run that sets a small key", 1),
        ("run_written", "kB written by it", KB),
    ),
    "Pruning, deleting and verifying": (
        ("versions", "versions", 0),
        ("prune", "ms to prune", 1),
        ("forgotten", "changes forgotten", 0),
        ("delete", "ms to delete the session", 1),
        ("check", "s until all is verified", SECONDS),
        ("memory", "MB of memory for that", MB),
        ("size", "MB before", MB),
        ("pruned_size", "MB pruned", MB),
        ("compact_size", "MB after VACUUM", MB),
    ),
}
RATES: Sequence[Column] = (
    ("rate", "runs/s", 1),
    ("busy", "busy", 1),
    ("p50", "p50 ms", 1),
    ("p99", "p99 ms", 1),
    ("tried_p50", "measured p50", 1),
    ("tried_p99", "measured p99", 1),
)


def shown(row: Row, column: Column) -> str:
    """One figure, with three digits that count; a count as it is.

    >>> shown({"size": 1234567}, ("size", "MB", 1e6)), shown({"sessions": 10000}, ("sessions", "sessions", 0))
    ('1.23', '10,000')
    """
    key, _, unit = column
    if row.get(key) is None:
        return ""
    if not unit:
        return f"{row[key]:,}"
    value = float(f"{row[key] / unit:.3g}")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Iterable[Row], columns: Sequence[Column]) -> str:
    """A table of these rows."""
    return markdown([title for _, title, _ in columns], [[shown(row, column) for column in columns] for row in rows])


def page(figures: Row) -> str:
    """The whole page."""
    return (
        "\n\n".join(
            [
                _introduction(figures),
                *_sessions(figures.get("sessions", []), figures["compared"]),
                *_states(figures.get("states", [])),
                *_histories(figures.get("histories", []), figures["keep"]),
                *_runs(figures.get("runs", [])),
            ]
        )
        + "\n"
    )


def _introduction(figures: Row) -> str:
    return f"""# How cost, disk and throughput grow

Written by `make bench-scale` in {figures["seconds"] / 60:.0f} minutes; what follows from it is in
[Scale](../scale.md).

- Machine: {figures["machine"]}. The databases are on {figures["disk"]}. SQLite has `synchronous=FULL`.
- PostgreSQL, on the same machine: {", ".join(figures["server"]) or "not measured"}.
- Each figure is the median of calls in one process, on a copy of the database that nothing else uses. A database that
  was just copied is in the memory of the system, so that no figure here is one of a disk that has to seek.
- kB written are those passed to `write()` by the process, on PostgreSQL those of the server's log, in which the first
  change of a page after a checkpoint is the whole page."""


def _by_engine(rows: Sequence[Row], tables: dict[str, Sequence[Column]]) -> list[str]:
    parts = []
    for engine in dict.fromkeys(row["engine"] for row in rows):
        parts.append(f"### {engine}")
        parts += [
            f"{title}:\n\n{table([row for row in rows if row['engine'] == engine], columns)}"
            for title, columns in tables.items()
        ]
    return parts


def _sessions(rows: Sequence[Row], compared: int) -> list[str]:
    if not rows:
        return []
    rows = [row | {"size_each": row["size"] / row["sessions"]} for row in rows]
    text = f"""## Sessions in one database

A session is a first run that stored 1 kB; ten belong to each user. They were made by the function with which the
storage commits, thousands in a transaction, and their rows were copied to PostgreSQL. Before each measurement it is
verified of {compared} such commits that the storage of each engine writes the same bytes.

![Milliseconds against the sessions in the database](scale-sessions.svg)"""
    return [text, *_by_engine(rows, SESSIONS)]


def _states(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    text = """## Bytes of state

One value, a list of texts of 1 kB, with a small key beside it; a value has at most 64 MB. Memory is the most that the
process had, which made the values as well.

![Milliseconds against the bytes of the value](scale-states.svg)"""
    return [text, *_by_engine(rows, STATES)]


def _histories(rows: Sequence[Row], keep: int) -> list[str]:
    if not rows:
        return []
    text = f"""## Versions of one session

Each version was made by a run that sets one of 50 small keys, so that the history grows and the state does not. The old
version is the one, of 16 spread over the history, for which most changes are replayed. Pruning keeps {keep} versions or
more; it and deleting are one transaction each, in which nobody else writes to the session, on SQLite to the database.
Pruned space is used again; `VACUUM` (on PostgreSQL `VACUUM FULL`) gives it back.

![Milliseconds against the versions of a session](scale-histories.svg)"""
    return [text, *_by_engine(rows, HISTORIES)]


def _runs(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    text = """## Runs per second

Runs that set a small key of one of 100 sessions arrive at random at eight processes; p50 and p99 are from the arrival
of a run to its end. They are simulated from what runs took in one process on each core, which never paused: a run needs
a core until it commits, and then the one writer (SQLite), or a core all the time (PostgreSQL, whose server is on the
same cores). All of it is stretched so that the highest rate is what the eight processes reach when they never pause, as
they hold each other up. Busy is the share of that rate; at 1 what waits grows without end. Measured are the eight
processes at the same rate. [Many processes](contention.md) has other numbers of processes that never pause.

![Milliseconds until a run has ended, against the runs that arrive in a second](scale-runs.svg)"""
    parts = [text]
    for row in rows:
        parts.append(
            f"### Runs on {row['engine']}\n\nA run: {row['run']:.2f} ms, {row['commit']:.2f} ms of these in its commit"
            + (f", {row['gate']:.2f} ms with the writer to itself" if row["engine"] == SQLITE else "")
            + f". Highest rate: {row['capacity']:,.0f} runs/s; stretched {row['slower']:.2f} times."
        )
        parts.append(table(row["rates"], RATES))
    return parts
