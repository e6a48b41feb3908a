"""What was measured under contention, as a page in Markdown."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from measure import machine, markdown

HOT, OWN, MANY = "one hot session", "a session for each process", "100 sessions at random"
WORKLOADS = (HOT, OWN, MANY)

FLOOR = "raw insert"
COMMIT = "**Holdfast: commit**"
APPEND = "**Holdfast: run that appends**"
TRANSACTION = "**Holdfast: run with a transaction**"
OURS = (COMMIT, APPEND, TRANSACTION)

RATIO_GOAL = 0.5
"""Of the floor's throughput."""

WAIT_GOAL = 300.0
"""Milliseconds that 99 of 100 commits to one hot session take at most, with 8 processes."""


class Setting(NamedTuple):
    """Under which circumstances."""

    workload: str
    database: str
    processes: int

    @property
    def sessions(self) -> int:
        """How many there are."""
        return {HOT: 1, OWN: self.processes, MANY: 100}[self.workload]

    def __str__(self) -> str:
        return f"{self.workload}, {self.database}, {self.processes} processes"


@dataclass
class Round:
    """What the processes of one contestant did together for about a second."""

    seconds: float = 0.0
    took: Sequence[float] = ()
    """Milliseconds of each operation, those that failed included."""
    acknowledged: int = 0
    kept: int = 0
    """Of what was acknowledged."""
    surplus: int = 0
    """Stored without having been acknowledged, or more than once."""
    longest: int = 0
    """The length of the longest list at the end."""
    errors: Counter[str] = field(default_factory=Counter)
    refusal: str | None = None
    """Why nothing was measured."""

    @property
    def rate(self) -> float:
        """Acknowledged operations for each second."""
        return self.acknowledged / self.seconds if self.seconds else 0.0


@dataclass
class Cell:
    """All rounds of one contestant in one setting."""

    name: str
    setting: Setting
    rounds: list[Round] = field(default_factory=list)

    @property
    def refusal(self) -> str | None:
        return next((one.refusal for one in self.rounds if one.refusal), None)

    @property
    def rate(self) -> float:
        return median(one.rate for one in self.rounds)

    @property
    def rates(self) -> list[float]:
        return [one.rate for one in self.rounds]

    def total(self, what: str) -> int:
        """Over all rounds."""
        return sum(getattr(one, what) for one in self.rounds)

    @property
    def errors(self) -> Counter[str]:
        return sum((one.errors for one in self.rounds), Counter())

    def took(self, part: float) -> float:
        """The milliseconds that this part of all operations took at most."""
        times = sorted(time for one in self.rounds for time in one.took)
        return times[min(int(len(times) * part), len(times) - 1)] if times else 0.0


class Facts(NamedTuple):
    """What the figures depend on."""

    options: Sequence[str]
    versions: dict[str, dict[str, str]]
    server: Sequence[str]
    disk: str
    rounds: int
    seconds: dict[str, float]
    duration: float


def page(cells: Sequence[Cell], facts: Facts) -> str:
    """The whole page."""
    measured = [cell for cell in cells if not cell.refusal]
    parts = [_introduction(facts), _goals(measured)]
    for workload in WORKLOADS:
        databases = dict.fromkeys(cell.setting.database for cell in cells if cell.setting.workload == workload)
        if databases:
            parts.append(f"## {workload.capitalize()}")
        for database in databases:
            chosen = [cell for cell in cells if cell.setting[:2] == (workload, database)]
            parts.append(f"### {database}\n\n{_cells(chosen)}")
    return "\n\n".join(parts) + "\n"


def _introduction(facts: Facts) -> str:
    versions = "\n".join(
        f"  - {name or 'Holdfast'}: " + ", ".join(f"{package} {number}" for package, number in found.items())
        for name, found in facts.versions.items()
    )
    seconds = ", ".join(f"{length:g} s for {workload}" for workload, length in facts.seconds.items())
    command = " ".join(["python benchmarks/contention.py", *facts.options])
    server = ", ".join(facts.server) or "not measured"
    return f"""# Many processes at the same time

Written by `{command}` in {facts.duration / 60:.1f} minutes; `make bench-contention` does it again.

- Machine: {machine()}. The databases are on {facts.disk}.
- Versions, each in an environment of its own:
{versions}
- SQLite in write-ahead mode. PostgreSQL, on the same machine: {server}.
- Rounds: {facts.rounds} for each setting, in turn with those of the other contestants.
  They last {seconds}.
  Each begins with an empty database and sessions of one item, in processes that run already and begin together.
- An operation appends an item of about 200 bytes to a list in the session, or, for a transaction, increments a
  counter. The floor inserts the same item as a row and reads nothing. For Holdfast that is once a commit to the
  storage alone, and once a whole run: the session is loaded, `run()` is called, its changes are found, merged and
  committed, and the run is recorded with its input, output and times. Whoever is faster ends with a longer list: its
  length is shown.
- Commits are those that were acknowledged, the median of the rounds; behind them the slowest and the fastest round.
  Times are of all operations of all rounds, failed ones included. Nobody can wait for longer than a round lasts.
- Kept is what was found afterwards, of what had been acknowledged.
- The peers are used as their documentation recommends, with their own settings: FULL on SQLite, and no other."""


def _goals(cells: Sequence[Cell]) -> str:
    counts = sorted({cell.setting.processes for cell in cells})
    rows = [
        ["Holdfast's commits against the floor's, at least 0.5", *[""] * len(counts)],
        *_ratios(cells, counts, HOT, "SQLite FULL"),
        *_ratios(cells, counts, HOT, "SQLite NORMAL"),
        *_ratios(cells, counts, OWN, "PostgreSQL"),
        *_ratios(cells, counts, MANY, "PostgreSQL"),
        [f"99 of 100 within {WAIT_GOAL:.0f} ms, with 8 processes", *[""] * len(counts)],
        *_waits(cells, counts, HOT, "SQLite FULL"),
        ["everything that Holdfast acknowledged was kept, once", *[_kept_by_us(cells, count) for count in counts]],
    ]
    return "## Goals\n\n" + markdown(["processes", *map(str, counts)], rows)


def _found(cells: Iterable[Cell], name: str, *setting: object) -> Cell | None:
    return next((cell for cell in cells if cell.name == name and cell.setting == setting), None)


def _ratios(cells: Sequence[Cell], counts: Sequence[int], workload: str, database: str) -> list[list[str]]:
    rows = []
    for name in OURS:
        row = [f"{workload}, {database}: {name.strip('*').removeprefix('Holdfast: ')}"]
        for count in counts:
            ours = _found(cells, name, workload, database, count)
            floor = _found(cells, FLOOR, workload, database, count)
            row.append(f"{ours.rate / floor.rate:.2f}" if ours and floor and floor.rate else "")
        if any(row[1:]):
            rows.append(row)
    return rows


def _waits(cells: Sequence[Cell], counts: Sequence[int], workload: str, database: str) -> list[list[str]]:
    rows = []
    for name in OURS:
        found = [_found(cells, name, workload, database, count) for count in counts]
        shown = [f"{cell.took(0.99):.0f} ms" if cell else "" for cell in found]
        rows.append([f"{workload}, {database}: {name.strip('*').removeprefix('Holdfast: ')}", *shown])
    return rows


def _kept_by_us(cells: Sequence[Cell], count: int) -> str:
    ours = [cell for cell in cells if cell.name in OURS and cell.setting.processes == count]
    expected, kept = sum(cell.total("acknowledged") for cell in ours), sum(cell.total("kept") for cell in ours)
    surplus = sum(cell.total("surplus") for cell in ours)
    return f"{kept:,} of {expected:,}" + (f", {surplus} too many" if surplus else "")


def _cells(cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        floor = _found(cells, FLOOR, *cell.setting)
        if not cell.refusal:
            rows.append(_row(cell, floor))
    head = ["processes", "", "commits/s", "of floor", "p50 ms", "p99 ms", "max ms", "kept", "errors", "list"]
    notes = dict.fromkeys(f"- {cell.name}: not measured, {cell.refusal}" for cell in cells if cell.refusal)
    for name in dict.fromkeys(cell.name for cell in cells):
        errors = sum((cell.errors for cell in cells if cell.name == name), Counter[str]())
        notes |= dict.fromkeys(f"- {name}: {times} times `{error}`" for error, times in errors.most_common(3))
    return "\n\n".join(filter(None, [markdown(head, rows), "\n".join(notes)]))


def _row(cell: Cell, floor: Cell | None) -> list[str]:
    expected, kept, surplus = cell.total("acknowledged"), cell.total("kept"), cell.total("surplus")
    is_everything = kept == expected
    told = f"all of {expected:,}" if is_everything else f"**{kept:,} of {expected:,}**"
    return [
        str(cell.setting.processes),
        cell.name,
        f"{cell.rate:,.0f} ({min(cell.rates):,.0f}-{max(cell.rates):,.0f})",
        f"{cell.rate / floor.rate:.2f}" if floor and floor.rate else "",
        f"{cell.took(0.5):.2f}",
        f"{cell.took(0.99):.1f}",
        f"{cell.took(1):.0f}",
        told + (f", {surplus} too many" if surplus else ""),
        str(cell.errors.total()),
        f"{max(one.longest for one in cell.rounds):,}",
    ]


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, as far as the system tells."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "a file system of unknown kind"
    path = os.path.realpath(folder)
    found = [(len(where), kind) for _, where, kind, *_ in mounts if os.path.commonpath([path, where]) == where]
    return max(found)[1] if found else "a file system of unknown kind"


def server_settings(url: str) -> list[str]:
    """The version of a server and the settings that its commits depend on."""
    import psycopg

    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
    with psycopg.connect(url) as connection:
        return [f"{name} {connection.execute(f'SHOW {name}').fetchone()[0]}" for name in names]  # type: ignore[index]
