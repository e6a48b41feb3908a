"""`make bench-scale`: how cost, disk and throughput grow, with many sessions, large states, long histories, many runs.

    python benchmarks/scale.py [--quick] [--only PART ...] [--sqlite] [--write]
    python benchmarks/scale.py --again      the page and the charts once more, from what was measured last

`scale_fill.py` makes the databases, `scale_workloads.py` is one process that measures, `scale_queue.py` simulates how
long runs wait, and `scale_report.py` and `scale_charts.py` make `docs/benchmarks/scale.md`. The server is the one that
the tests use, with `fsync` on. Each measured database is a fresh copy of the one that was filled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import scale_fill
import scale_report as report
from contention import databases_and_url
from contention_report import file_system, server_settings
from measure import machine
from peers import setup
from scale_queue import percentile, simulated, utilisation

HERE = Path(__file__).parent
MEASURED = HERE.parent / "build" / "scale.json"
PAGE = HERE.parent / "docs" / "benchmarks" / "scale.md"
PATIENCE = 900.0
"""Seconds that one workload may take."""
PROCESSES = 8
"""At which runs arrive."""

Figures = dict[str, Any]


class Extent(NamedTuple):
    """How much is measured."""

    sessions: tuple[int, ...]
    checked: int
    """The most sessions of which every row is verified."""
    sizes: tuple[int, ...]
    versions: tuple[int, ...]
    keep: int
    """Versions that stay when a long history is pruned."""
    calls: int
    """Of each thing that is measured."""
    busy: tuple[float, ...]
    """How busy the busiest station is, in the simulation."""
    tried: tuple[float, ...]
    """For which of these the simulation is compared with processes."""
    seconds: float
    """For which runs arrive at each rate, and for which it is measured what one takes."""


FULL = Extent(
    sessions=(1, 10_000, 100_000, 1_000_000),
    checked=100_000,
    sizes=(1_000, 10_000, 100_000, 1_000_000, 10_000_000, 63_900_000),
    versions=(1, 1_000, 10_000, 100_000),
    keep=100,
    calls=50,
    busy=(0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95),
    tried=(0.25, 0.5, 0.7, 0.9),
    seconds=10.0,
)
QUICK = Extent((1, 1_000), 1_000, (1_000, 1_000_000), (1, 1_000), 100, 10, (0.1, 0.5, 0.9), (0.5,), 2.0)
LEAST = Extent((1, 20), 20, (1_000,), (1, 20), 10, 2, (0.5,), (), 0.2)
"""For the tests."""


def work(name: str, **arguments: Any) -> Figures:
    """One workload in a new process."""
    return answered(began(name, **arguments))


def began(name: str, **arguments: Any) -> subprocess.Popen[str]:
    """A process that has begun with a workload."""
    command = [sys.executable, str(HERE / "scale_workloads.py"), name, json.dumps(arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def answered(process: subprocess.Popen[str]) -> Figures:
    """What a process has measured."""
    out, errors = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise SystemExit(f"{process.args} failed:\n{errors}")
    figures: Figures = json.loads(out.splitlines()[-1])
    return figures


class Places(NamedTuple):
    """Where databases go: into a folder, or to a server."""

    folder: Path
    url: str | None

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that are measured."""
        return (report.SQLITE, report.POSTGRES) if self.url else (report.SQLITE,)

    @contextmanager
    def empty(self, engine: str) -> Iterator[str]:
        """A database without tables, which is gone at the end."""
        if engine == report.POSTGRES:
            from postgres import schema

            with schema(self.url) as url:
                yield url
            return
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield str(Path(folder, "sessions.db"))

    @contextmanager
    def copied(self, source: Path, engine: str) -> Iterator[str]:
        """A copy of a SQLite database that nobody has open."""
        with self.empty(engine) as database:
            if engine == report.POSTGRES:
                scale_fill.copy(source, database)
            else:
                shutil.copy(source, database)
            yield database


@contextmanager
def maintained(database: str) -> Iterator[Any]:
    """A connection of the driver itself."""
    if "://" in database:
        import psycopg

        with psycopg.connect(database, autocommit=True) as server:
            yield server
        return
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


def size(database: str, *, compact: bool = False) -> int:
    """Bytes on the disk, indexes included; after giving back what is not used, if `compact`."""
    with maintained(database) as connection:
        if "://" not in database:
            if compact:
                connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return Path(database).stat().st_size
        names = [f"{scale_fill.TABLE}_{table}" for table in scale_fill.TABLES]
        if compact:
            for name in names:
                connection.execute(f"VACUUM FULL {name}")
        return int(sum(connection.execute(f"SELECT pg_total_relation_size('{name}')").fetchone()[0] for name in names))


# -- the parts ------------------------------------------------------------------------------------------------------


def many_sessions(places: Places, extent: Extent) -> list[Figures]:
    """One database with more and more sessions."""
    source, done, rows = places.folder / "sessions.db", 0, []
    for count in extent.sessions:
        work("fill", database=str(source), first=done, last=count)
        done = count
        for engine in places.engines:
            with places.copied(source, engine) as database:
                row = {"engine": engine, "sessions": count, "size": size(database)}
                row["first"] = median(work("first", database=database, count=count)["first"] for _ in range(3))
                row |= work("sessions", database=database, count=count, calls=extent.calls)
                if count <= extent.checked:
                    row |= work("check", database=database)
            rows.append(row)
            told(f"{count:,} sessions, {engine}")
    source.unlink()
    return rows


def large_states(places: Places, extent: Extent) -> list[Figures]:
    """A session of one large value."""
    rows = []
    for engine in places.engines:
        for length in extent.sizes:
            with places.empty(engine) as database:
                row = {"engine": engine, "bytes": length}
                row |= work("state", database=database, size=length, calls=min(extent.calls, 20))
                row |= work("cold_state", database=database) | {"size": size(database)}
            rows.append(row)
            told(f"a state of {length:,} bytes, {engine}")
    return rows


def long_histories(places: Places, extent: Extent) -> list[Figures]:
    """A session of more and more versions, which is read, verified, pruned and deleted."""
    source, rows = places.folder / "history.db", []
    for versions in extent.versions:
        work("lengthen", database=str(source), versions=versions)
        for engine in places.engines:
            with places.copied(source, engine) as database:
                row = {"engine": engine, "versions": versions}
                row |= work("history", database=database, versions=versions, calls=extent.calls)
                row |= work("check", database=database) | {"size": size(database)}
                row |= work("prune", database=database, keep=extent.keep)
                row |= {"pruned_size": size(database), "compact_size": size(database, compact=True)}
            with places.copied(source, engine) as database:
                row |= work("delete", database=database)
            rows.append(row)
            told(f"{versions:,} versions, {engine}")
    return rows


def many_runs(places: Places, extent: Extent) -> list[Figures]:
    """What a run takes, how long runs wait by a simulation of that, and how long they did."""
    rows = []
    for engine in places.engines:
        with places.empty(engine) as database:
            given = {"database": database, "seconds": extent.seconds}
            stages = at_once("closed_loop", cores(), **given)["stages"]
            capacity = len(at_once("closed_loop", PROCESSES, **given)["stages"]) / extent.seconds
            stations, servers = at_stations(engine, stages)
            slower = 1 / (capacity * utilisation(1.0, stations, servers))
            stations = [[seconds * slower for seconds in run] for run in stations]
            row: Figures = {"engine": engine, "capacity": capacity, "slower": slower, "rates": []}
            for place, name in enumerate(("run", "commit", "gate")):
                row[name] = median(stage[place] for stage in stages) * 1e3
            for busy in extent.busy:
                rate = busy * capacity
                waits = simulated(rate, stations, servers)
                point = {"rate": rate, "busy": busy, "p50": waits.p50 * 1e3, "p99": waits.p99 * 1e3}
                if busy in extent.tried:
                    took = at_once("arrivals", PROCESSES, rate=rate / PROCESSES, **given)["took"]
                    point |= {"tried_p50": percentile(took, 0.5) * 1e3, "tried_p99": percentile(took, 0.99) * 1e3}
                row["rates"].append(point)
        rows.append(row)
        told(f"many runs, {engine}")
    return rows


def cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1


def at_stations(engine: str, stages: Sequence[Sequence[float]]) -> tuple[list[list[float]], tuple[int, ...]]:
    """Where a run spends its time, and how many runs can be served there: see `scale_queue`."""
    if engine == report.SQLITE:
        return [[run - commit, gate] for run, commit, gate in stages], (cores(), 1)
    return [[run] for run, _, _ in stages], (cores(),)


def at_once(name: str, processes: int, **given: Any) -> dict[str, list[Any]]:
    """What several processes measure that begin together, brought together."""
    working = [began(name, **given, seed=seed) for seed in range(processes)]
    for process in working:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
    start = time.monotonic() + 0.1
    for process in working:
        assert process.stdin is not None
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    answers = [answered(process) for process in working]
    return {key: [one for answer in answers for one in answer[key]] for key in answers[0]}


PARTS: dict[str, Callable[[Places, Extent], list[Figures]]] = {
    "sessions": many_sessions,
    "states": large_states,
    "histories": long_histories,
    "runs": many_runs,
}


def told(what: str) -> None:
    """Say how far it is."""
    print(what, file=sys.stderr, flush=True)


def measured(
    extent: Extent,
    *,
    parts: Sequence[str],
    folder: str | None = None,
    url: str | None = None,
    sqlite_only: bool = False,
) -> Figures:
    """All figures of these parts, and what they depend on.

    Args:
        extent: how much is measured.
        parts: names in `PARTS`.
        folder: where the SQLite databases go.
        url: of a server to use instead of one that is started.
        sqlite_only: whether PostgreSQL is left out.
    """
    began_at = time.monotonic()
    with ExitStack() as stack:
        if sqlite_only:
            url = None
        else:
            _, url = databases_and_url(stack, url)
        places = Places(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="scale-"))), url)
        with tempfile.TemporaryDirectory(dir=places.folder) as proof, ExitStack() as schemas:
            database = schemas.enter_context(places.empty(report.POSTGRES)) if url else None
            compared = scale_fill.require_same_rows(Path(proof), database)
        figures = {part: PARTS[part](places, extent) for part in parts}
        return {
            **figures,
            "machine": machine(),
            "disk": file_system(places.folder),
            "server": server_settings(url) if url else [],
            "compared": compared,
            "keep": extent.keep,
            "seconds": time.monotonic() - began_at,
        }


def main() -> None:
    """Measure, keep the figures, print the page, and write it with its charts if asked to."""
    parser = argparse.ArgumentParser(description="How cost, disk and throughput grow.")
    parser.add_argument("--quick", action="store_true", help="little of everything, in less than a minute")
    parser.add_argument("--only", metavar="PART", nargs="+", choices=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--sqlite", action="store_true", help="only SQLite")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/scale.md and its charts")
    parser.add_argument("--again", action="store_true", help="write them from what was measured last")
    parser.add_argument("--postgres", metavar="URL", help="a server to use instead of one that is started")
    parser.add_argument("--folder", metavar="PATH", help="where the SQLite databases go: on the disk to be measured")
    arguments = parser.parse_args()
    if not arguments.again:
        figures = measured(
            QUICK if arguments.quick else FULL,
            parts=arguments.only or tuple(PARTS),
            folder=arguments.folder,
            url=arguments.postgres,
            sqlite_only=arguments.sqlite,
        )
        MEASURED.parent.mkdir(exist_ok=True)
        MEASURED.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    page = report.page(json.loads(MEASURED.read_text(encoding="utf-8")))
    print(page)
    if arguments.write or arguments.again:
        PAGE.write_text(page, encoding="utf-8")
        charts = [str(HERE / "scale_charts.py"), str(MEASURED), str(PAGE.parent)]
        subprocess.run([str(setup.environment("charts")), *charts], check=True)


if __name__ == "__main__":
    main()
