"""The workloads of `comparison.py`: each goes through all contestants in turn and makes one table, or two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

import comparison_report as report
import contention
import contention_report
from comparison_field import ALONE, BOTH, POSTGRES, SQLITE, Field, Player, Refused, each, python_of
from comparison_report import Column, Row, Table
from comparison_worker import ITEMS
from contention import Contestant


class Extent(NamedTuple):
    """How much is measured."""

    blocks: int = 5
    runs: int = 100
    """In a block of small runs."""
    growth: tuple[int, int] = (5_000, 1_000)
    """Items of the growing list, on SQLite and on PostgreSQL."""
    patience: tuple[float, float] = (60.0, 20.0)
    """Seconds of appends until a contestant is stopped."""
    disk: float = 4e9
    """Bytes of a database at which it is stopped too."""
    large: int = 5_000
    """Items of a large state, of 2 kB each."""
    warm: int = 4
    """Runs in a block of a large state."""
    cold: int = 3
    """New processes that work on a large state."""
    starts: int = 5
    """New processes that work on a small one."""
    rounds: int = 3
    """Of a second, of 8 processes on one session."""
    steps: tuple[int, int] = (10, 50)
    """Blocks, and steps in each."""


FULL = Extent()
QUICK = Extent(2, 20, (200, 100), (6.0, 4.0), 1e9, 500, 2, 1, 2, 1, (3, 20))

PROCESSES = 8


TIMES = (Column("wall", "wall ms"), Column("cpu", "CPU ms"), Column("written", "kB written", 1))
COLD = (
    Column("cold", "cold: the run, wall ms"),
    Column("cold_cpu", "cold: CPU ms"),
    Column("whole", "cold: from nothing, ms", 0),
)


def small_runs(everybody: Field, extent: Extent) -> list[Table]:
    """On one session, and each on a new one."""
    tables = []
    for key, work, title in (
        ("small", "same", "A small run, always on the same session"),
        ("new", "new", "A small run, each on a new session"),
    ):
        with everybody.players(BOTH) as players:
            each(players, Player.start)
            each(players, lambda player, work=work: player.block(work, 0, 5))  # type: ignore[misc]
            for block in range(extent.blocks):

                def play(player: Player, work: str = work, block: int = block) -> None:
                    figures = player.block(work, 5 + block * extent.runs, extent.runs)
                    player.row.add(
                        wall=median(figures["wall"]),
                        cpu=fmean(figures["cpu"]),
                        written=figures["written"] / extent.runs / 1e3,
                    )

                each(players, play, block)
            each(players, Player.stop)
            each(players, lambda player: player.row.set(database=player.size() / 1e6))
        text = f"A run reads a small key and sets another one; {extent.blocks} blocks of {extent.runs} runs, in turn."
        columns = [*TIMES, Column("database", "database MB")]
        tables.append(Table(key, title, text, columns, [player.row for player in players]))
    return tables


def growing_list(everybody: Field, extent: Extent) -> list[Table]:
    """One more item of 2 kB in each run, until the time or the disk is up."""
    marks = [mark for mark in (100, 1_000, 5_000) if mark <= max(extent.growth)]
    edges = [*range(0, 200, 50), *range(200, 1_000, 100), *range(1_000, max(extent.growth) + 1, 250)]
    edges = [edge for edge in edges if edge <= max(extent.growth)]
    with everybody.players(BOTH) as players:
        each(players, Player.start)
        each(players, lambda player: player.block("same", 0, 3))  # what is imported when it is first used
        for player in players:
            player.spent = 0.0
        for turn, (start, end) in enumerate(pairwise(edges)):
            each(players, lambda player, start=start, end=end: _grow(player, start, end, extent), turn)  # type: ignore[misc]
        each(players, _counted)
    columns = []
    for mark in marks:
        columns.append(Column(f"at_{mark}", f"ms at item {mark:,}"))
        columns.append(Column(f"cpu_{mark}", f"CPU ms at {mark:,}"))
        columns.append(Column(f"written_{mark}", f"MB written by {mark:,}", 1))
        columns.append(Column(f"database_{mark}", f"database MB at {mark:,}", 1))
    columns.append(Column("ended", "ended", better=""))
    text = (
        f"Each run adds an item of 2 kB to a list in one session, up to {extent.growth[0]:,} items on SQLite and "
        f"{extent.growth[1]:,} on PostgreSQL. Who has worked for {extent.patience[0]:g} s ({extent.patience[1]:g} s on "
        f"PostgreSQL), or has a database of {extent.disk / 1e9:g} GB, is stopped. The time at an item is that of the "
        "last 50 runs before it, as medians of ten. The database counts with its journal, which closing it empties."
    )
    return [Table("growing", "A list that grows by 2 kB in each run", text, columns, [one.row for one in players])]


def _grow(player: Player, start: int, end: int, extent: Extent) -> None:
    on_server = player.database == POSTGRES
    if player.row.facts.get("ended") or end > extent.growth[on_server]:
        return
    patience = extent.patience[on_server]
    figures = player.block("append", start, end - start, max(patience - player.spent, 0))
    row, count = player.row, start + len(figures["wall"])
    row.written += figures["written"] / 1e6
    if figures["wall"]:
        last = figures["wall"][-10:]
        row.curve.append([count, median(last), row.written, figures["database"] / 1e6])
    if count < end or player.spent >= patience:
        row.facts["ended"] = f"stopped at item {count:,}, after {player.spent:.0f} s"
    elif figures["database"] > extent.disk:
        row.facts["ended"] = f"stopped at item {count:,}, with {figures['database'] / 1e9:.1f} GB"
    if count == end and end in (100, 1_000, 5_000):
        tens = [
            slice(place, place + 10) for place in range(max(len(figures["wall"]) - 50, 0), len(figures["wall"]), 10)
        ]
        row.figures[f"at_{end}"] = [median(figures["wall"][ten]) for ten in tens]
        row.figures[f"cpu_{end}"] = [fmean(figures["cpu"][ten]) for ten in tens]
        row.set(**{f"written_{end}": row.written, f"database_{end}": figures["database"] / 1e6})


def _counted(player: Player) -> None:
    there, count = len(player.ask("stored", session="growing")), player.row.curve[-1][0]
    player.row.facts.setdefault("ended", f"at item {count:,}, after {player.spent:.1f} s")
    if there != count:
        player.row.facts["ended"] += f", **{there:,} are there**"


def large_state(everybody: Field, extent: Extent) -> list[Table]:
    """A small change of a large state, warm and cold, and what it takes in memory."""
    with everybody.players(BOTH) as players:
        _filled(players, {"large": extent.large, "same": 10})
        _warm_and_cold(players, "change", extent)
        for number in range(extent.cold):
            each(players, _loaded, number)
    size = extent.large / 500
    rows = [player.row for player in players]
    text = (
        f"A session of {extent.large:,} items of 2 kB, of which a run reads a small key and changes another one. Warm "
        f"is in a process that has just done it, {extent.blocks} blocks of {extent.warm} runs; cold, the first run of "
        f"each of {extent.cold} new processes on that session, behind a small run on another one, for libraries import "
        "much when it is first used; from nothing is all of that process. The file is in the system's cache."
    )
    memory = (
        "By how much the memory of a new process grew when it had loaded that state, looked at each item and still "
        "held it, and at its peak. The raw row is the plain dict, made by `json.loads` of each item. "
        f"{extent.cold} processes."
    )
    loaded = [Row(row.name, row.database, row.figures, refusal=row.refusal) for row in rows if row.database == SQLITE]
    return [
        Table("large", f"{size:g} MB of state, of which a small key changes", text, [*TIMES, *COLD], rows),
        Table(
            "memory",
            f"Memory of a loaded state of {size:g} MB",
            memory,
            [Column("grown", "MB held", 1), Column("peak", "MB at the peak", 1)],
            loaded,
        ),
    ]


def _loaded(player: Player) -> None:
    if player.database == SQLITE:
        player.start()
        player.row.add(**player.ask("loaded", session="large"))
        player.stop()


def found(everybody: Field, extent: Extent) -> list[Table]:
    """One of many items."""
    with everybody.players(BOTH) as players:
        _filled(players, {"many": ITEMS})
        _warm_and_cold(players, "find", extent)
    title = f"Found among {ITEMS:,} items"
    text = f"A run finds an item by its id among {ITEMS:,} of 2 kB, and returns its text. Warm and cold as above."
    return [Table("found", title, text, [*TIMES, *COLD], [player.row for player in players])]


def _filled(players: Sequence[Player], sessions: dict[str, int]) -> None:
    each(players, Player.start)
    for session, count in sessions.items():
        each(players, lambda player, session=session, count=count: player.ask("fill", session=session, count=count))  # type: ignore[misc]


def _warm_and_cold(players: Sequence[Player], work: str, extent: Extent) -> None:
    each(players, lambda player: player.block(work, 0, 2))
    for block in range(extent.blocks):

        def play(player: Player, block: int = block) -> None:
            figures = player.block(work, 2 + block * extent.warm, extent.warm, 20)
            player.row.add(
                wall=median(figures["wall"]),
                cpu=fmean(figures["cpu"]),
                written=figures["written"] / len(figures["wall"]) / 1e3,
            )

        each(players, play, block)
    each(players, Player.stop)
    for number in range(extent.cold):
        each(players, lambda player, number=number: player.first(work, number, behind="new"), number)  # type: ignore[misc]


def at_once(everybody: Field, extent: Extent) -> list[Table]:
    """Many processes on one session, as in `contention.py`."""
    entries = [
        _Entry(one, database, Row(one.name, database))
        for database in (BOTH if everybody.server else ALONE)
        for one in everybody.contestants
        if database in one.databases
    ]
    for entry in entries:
        try:
            python_of(entry.contestant)
        except Refused as refusal:
            entry.row.refusal = str(refusal)
    playing = [entry for entry in entries if entry.row.refusal is None]
    with closing(
        contention.Stage(everybody.places, everybody.log, [one.contestant for one in playing], PROCESSES)
    ) as stage:
        for number in range(extent.rounds):
            turn = number % len(playing)
            for entry in (*playing[turn:], *playing[:turn]):
                _round(stage, entry)
    for entry in entries:
        _summed(entry)
    columns = [
        Column("kept", "kept of what was acknowledged", better=""),
        Column("errors", "errors", better=""),
        Column("rate", "kept/s", 0, better="more"),
        Column("p50", "p50 ms", 1),
        Column("p99", "p99 ms", 0),
    ]
    text = (
        f"{PROCESSES} processes append items of 200 bytes to one session for a second, in {extent.rounds} rounds; "
        "afterwards the items that were acknowledged are looked for. [Another page](contention.md) has more of this."
    )
    return [Table("at_once", f"{PROCESSES} processes on one session", text, columns, [entry.row for entry in entries])]


@dataclass
class _Entry:
    contestant: Contestant
    database: str
    row: Row
    rounds: list[contention_report.Round] = field(default_factory=list)


def _round(stage: contention.Stage, entry: _Entry) -> None:
    if entry.row.refusal is not None:
        return
    setting = contention_report.Setting(contention_report.HOT, entry.database, PROCESSES)
    try:
        played = stage.play(entry.contestant, setting, 1.0)
    except (RuntimeError, OSError) as error:
        entry.row.refusal = str(error)
        return
    entry.row.refusal = played.refusal
    if not played.refusal:
        entry.rounds.append(played)
        times = sorted(played.took)
        last = times[min(int(len(times) * 0.99), len(times) - 1)]
        entry.row.add(rate=played.kept / played.seconds, p50=median(times), p99=last)


def _summed(entry: _Entry) -> None:
    acknowledged, kept = sum(one.acknowledged for one in entry.rounds), sum(one.kept for one in entry.rounds)
    errors = sum((one.errors for one in entry.rounds), Counter[str]())
    if entry.rounds:
        entry.row.counts = {"kept": kept, "lost": acknowledged - kept, "errors": errors.total()}
        entry.row.facts["kept"] = f"all of {kept:,}" if kept == acknowledged else f"**{kept:,} of {acknowledged:,}**"
        names = " ".join(f"`{kind.split(':')[0]}`" for kind, _ in errors.most_common(1))
        entry.row.facts["errors"] = f"{errors.total():,} {names}".rstrip()


CASES = {
    "fails": "the run raises after an append",
    "closed": "the consumer stops half-way",
    "exits": "the consumer stops half-way, and the process ends",
    "dies": "kill -9 in the second step",
}


def crashes(everybody: Field, extent: Extent) -> list[Table]:  # noqa: ARG001  (there is nothing to repeat)
    """What survives of a run that does not end well."""
    order = {one.name.strip("*"): None for one in everybody.contestants}
    contestants = sorted(
        (*everybody.contestants, *everybody.stricter),
        key=lambda one: list(order).index(one.name.replace("*", "").split(",")[0]),
    )
    with everybody.players(ALONE, contestants) as players:
        each(players, _crash)
    text = (
        "An earlier run has stored an item. Told is what became of the first one that this run appended, as seen by a "
        "new process. Where a library is made of steps, nodes or actions, each append is one."
    )
    columns = [Column(case, title, better="") for case, title in CASES.items()]
    return [Table("crashes", "Runs that do not end well", text, columns, [player.row for player in players])]


def _crash(player: Player) -> None:
    seen = {case: _happens(player, case) for case in CASES}
    player.start()
    for case, told in seen.items():
        is_refused = told and not told.startswith(",")
        player.row.facts[case] = told if is_refused else _survived(player, case) + told
    player.stop()


def _happens(player: Player, case: str) -> str:
    """Let it happen in a process of its own; what is to be told of that."""
    player.start()
    player.ask("begun", session=case)
    try:
        told = player.ask(case)
    except Refused as refusal:
        told = str(refusal)
        if not told.startswith("a worker ended"):  # as it should in two cases
            player.stop()
            return report.refused(told)
    player.stop()
    return f", {told}" if case == "fails" else ""


def _survived(player: Player, case: str) -> str:
    stored = player.ask("stored", session=case, wait=1.5 if case == "dies" else 0.0)
    if "item-1" not in stored:
        return "**lost, with what earlier runs had stored**"
    copies = stored.count("item-2")
    return {0: "**lost**", 1: "kept"}.get(copies, f"**{copies} copies**")


def odd_values(everybody: Field, extent: Extent) -> list[Table]:  # noqa: ARG001  (there is nothing to repeat)
    """What comes back of values that are more than JSON."""
    names: dict[str, None] = {}

    def play(player: Player) -> None:
        player.start()
        raised = player.ask("put")
        player.stop()
        player.start()
        for name, verdict in player.ask("got").items():
            names[name] = None
            told = f"raises {raised[name]}" if name in raised else verdict
            player.row.facts[name] = f"**{told}**" if told.startswith("lost") else told
        player.stop()

    peers = [one for one in everybody.contestants if one.module != "floor"]
    with everybody.players(ALONE, peers) as players:
        each(players, play)
    text = (
        "A run puts the value and a sibling into a session that has an item already; a new process reads them. *Lost "
        "with the whole run* is a run that ended without an error, of which nothing was stored."
    )
    rows = [player.row for player in players]
    return [Table("odd", "Odd values", text, [Column(name, name, better="") for name in names], rows)]


def steps(everybody: Field, extent: Extent) -> list[Table]:
    """A step that is answered from the record, and one that is computed and recorded."""
    blocks, count = extent.steps
    with everybody.players(ALONE, everybody.caches) as players:
        each(players, Player.start)
        each(players, lambda player: [player.ask("steps", topics=["warm", "up"]) for _ in range(2)])
        for block in range(blocks):

            def play(player: Player, block: int = block) -> None:
                topics = [f"{block} {number}" for number in range(count)]
                player.row.add(miss=player.ask("steps", topics=topics))
                player.row.add(hit=player.ask("steps", topics=topics))

            each(players, play, block)
    text = (
        f"A function of one short argument that returns 1,000 characters, asked for {count} times in a run; "
        f"{blocks} blocks. diskcache and joblib do not wait for the disk, the others do. "
        "[Steps](../decisions/steps-cost.md) says what Holdfast's cost is made of."
    )
    columns = [Column("hit", "hit, us", 1), Column("miss", "miss, us", 0)]
    return [Table("steps", "A step: hit and miss", text, columns, [player.row for player in players])]


def start_up(everybody: Field, extent: Extent) -> list[Table]:
    """From nothing to the end of the first run."""
    with everybody.players(ALONE) as players:
        each(players, Player.start)
        each(players, lambda player: player.block("same", 0, 2))
        each(players, Player.stop)
        for number in range(extent.starts):
            each(players, lambda player, number=number: player.first("same", number), number)  # type: ignore[misc]
    text = (
        "A new process imports the library, opens a small database that is there and does its first run; "
        f"{extent.starts} processes. The raw row is Python itself, with what measures it."
    )
    columns = [
        Column("imports", "import, ms", 0),
        Column("opens", "open, ms", 1),
        Column("cold", "first run, ms", 1),
        Column("whole", "all, wall ms", 0),
        Column("process", "all, CPU ms", 0),
    ]
    return [Table("start", "Import and start-up", text, columns, [player.row for player in players])]


WORKLOADS: dict[str, Callable[[Field, Extent], list[Table]]] = {
    function.__name__: function
    for function in (small_runs, growing_list, large_state, found, at_once, crashes, odd_values, steps, start_up)
}
