"""`make bench-contention`: many processes commit at the same time, to one session or to many, on SQLite and PostgreSQL.

    python benchmarks/contention.py [--quick] [--no-peers] [--write]

Each contestant works in processes of its own environment, which are started first and begin each round together. The
rounds of one setting go through all contestants in turn, so that what else the machine does hits all alike; each round
begins with an empty database. Afterwards everything that was acknowledged is looked for. What is compared, and how
each library is used, is told in `contestants/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import contention_report as report
from contention_report import Cell, Round, Setting
from peers import setup

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))  # for the server

PATIENCE = 120.0
"""Seconds that one answer of a worker may take."""

QUIET = {
    "AGNO_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HAMILTON_TELEMETRY_ENABLED": "false",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
    "PHI_MONITORING": "false",
    "PHI_TELEMETRY": "false",
}
"""So that no contestant calls home."""

SERVER_SETTINGS = ("shared_buffers=128MB", "max_connections=120")


class Contestant(NamedTuple):
    """Something that is compared."""

    name: str
    module: str
    kind: str
    databases: tuple[str, ...]
    environment: str = ""
    """The name of the peer's; this one when absent."""
    packages: tuple[str, ...] = ()


_SQLITE = ("SQLite FULL", "SQLite NORMAL")
_ALL = (*_SQLITE, "PostgreSQL")
_DURABLE = ("SQLite FULL", "PostgreSQL")  # the peers have no setting for NORMAL

CONTESTANTS = (
    Contestant(report.FLOOR, "floor", "SqliteInserts", _SQLITE),
    Contestant("raw insert behind a lock file", "floor", "GatedSqliteInserts", _SQLITE),
    Contestant(report.FLOOR, "floor", "PostgresInserts", ("PostgreSQL",), packages=("psycopg",)),
    Contestant("raw insert, autocommit", "floor", "AutocommittedPostgresInserts", ("PostgreSQL",)),
    Contestant(report.COMMIT, "holdfast", "Commits", _ALL),
    Contestant(report.APPEND, "holdfast", "Runs", _ALL, packages=("holdfast",)),
    Contestant(report.TRANSACTION, "holdfast", "Transactions", _ALL),
    Contestant("Agno: append", "agno", "Runs", _DURABLE, "agno", ("agno", "sqlalchemy", "psycopg")),
    Contestant(
        "LangGraph: append",
        "langgraph",
        "Runs",
        _DURABLE,
        "langgraph",
        ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "psycopg"),
    ),
)


class Extent(NamedTuple):
    """How much is measured."""

    processes: tuple[int, ...]
    workloads: tuple[str, ...]
    rounds: int
    seconds: dict[str, float]
    """Of one round of each workload."""


FULL = Extent((1, 2, 4, 8, 16), report.WORKLOADS, 3, {report.HOT: 1.0, report.OWN: 0.5, report.MANY: 0.5})
QUICK = Extent((1, 8), (report.HOT, report.OWN), 1, {report.HOT: 0.8, report.OWN: 0.4})


class Process:
    """A worker, as the driver sees it."""

    def __init__(self, python: Path, log: Any, number: int = 0, script: str = "contention_worker.py") -> None:
        self.worker = subprocess.Popen(
            [str(python), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **QUIET, "PYTHONPATH": str(HERE.parent / "src"), "DBOS__VMID": f"process-{number}"},
        )

    def ask(self, method: str, **arguments: Any) -> None:
        """Let it do something; `answer` waits for it."""
        assert self.worker.stdin is not None
        self.worker.stdin.write(json.dumps([method, arguments]) + "\n")
        self.worker.stdin.flush()

    def answer(self) -> Any:
        """What it says to the oldest question that it has not answered."""
        assert self.worker.stdout is not None
        watch = threading.Timer(PATIENCE, self.worker.kill)
        watch.start()
        try:
            line = self.worker.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise RuntimeError("a worker ended, or did not answer in time")
        return json.loads(line)

    def close(self) -> None:
        """Let it end, and do not wait for long."""
        try:
            self.worker.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.communicate()


def together(processes: Sequence[Process], method: str, each: Sequence[dict[str, Any]], **same: Any) -> list[Any]:
    """Let processes do something at the same time, and wait for all of them."""
    for process, arguments in zip(processes, each, strict=True):
        process.ask(method, **arguments, **same)
    return [process.answer() for process in processes]


@dataclass
class Places:
    """Where the data of a round goes: an empty folder, or an empty schema on the server."""

    folder: Path
    url: str | None
    number: int = field(default=0)

    @contextmanager
    def empty(self, database: str) -> Iterator[list[str]]:
        """What a worker needs to make its `Target`, for one round."""
        self.number += 1
        if database == "PostgreSQL":
            assert self.url is not None
            with _schema(self.url, f"round_{os.getpid()}_{self.number}") as (url, schema):
                yield ["postgres", url, schema, ""]
            return
        folder = self.folder / str(self.number)
        folder.mkdir()
        try:
            yield ["sqlite", str(folder / "data.db"), "", database.split()[1]]
        finally:
            shutil.rmtree(folder)


@contextmanager
def _schema(url: str, name: str) -> Iterator[tuple[str, str]]:
    import psycopg

    from postgres import with_options

    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        try:
            yield with_options(url, f"-c search_path={name}"), name
        finally:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA {name} CASCADE")


class Stage:
    """All workers, and the rounds that they play."""

    def __init__(self, places: Places, log: Any, contestants: Sequence[Contestant], processes: int) -> None:
        self.places = places
        self.contestants = contestants
        self.workers: dict[str, list[Process]] = {}
        for name in {contestant.environment: None for contestant in contestants}:
            python = setup.environment(name) if name else Path(sys.executable)
            self.workers[name] = [Process(python, log, number) for number in range(processes)]

    def versions(self) -> dict[str, dict[str, str]]:
        """Of each environment."""
        found: dict[str, dict[str, str]] = {}
        for contestant in self.contestants:
            process = self.workers[contestant.environment][0]
            process.ask("versions", packages=contestant.packages)
            found.setdefault(contestant.environment, {}).update(process.answer())
        return found

    def play(self, contestant: Contestant, setting: Setting, seconds: float) -> Round:
        """One round of one contestant."""
        workers = self.workers[contestant.environment][: setting.processes]
        with self.places.empty(setting.database) as target:
            try:
                refusal = self._open(workers, contestant, target)
                return Round(refusal=refusal) if refusal else self._measured(workers, setting, seconds)
            finally:
                together(workers, "close", [{}] * len(workers))

    def _open(self, workers: list[Process], contestant: Contestant, target: list[str]) -> str | None:
        each = [{"process": place} for place in range(len(workers))]
        same = {"module": contestant.module, "kind": contestant.kind, "target": target, "number": self.places.number}
        # The first makes the tables, which some cannot do at the same time.
        refusals = together(workers[:1], "open", each[:1], **same)
        if not refusals[0]:
            refusals += together(workers[1:], "open", each[1:], **same)
        return next(filter(None, refusals), None)

    def _measured(self, workers: list[Process], setting: Setting, seconds: float) -> Round:
        count = len(workers)
        sessions = [f"session-{number}" for number in range(setting.sessions)]
        together(workers, "seed", [{"sessions": sessions[place::count]} for place in range(count)])
        chosen = [sessions[place::count] if setting.workload == report.OWN else sessions for place in range(count)]
        start = time.monotonic() + 0.02 + 0.002 * count
        each = [{"process": place, "sessions": chosen[place]} for place in range(count)]
        told = together(workers, "run", each, start=start, seconds=seconds)
        (kept,) = together(workers[:1], "kept", [{"sessions": sessions}])
        return _judged(told, kept)

    def close(self) -> None:
        """End all workers."""
        for processes in self.workers.values():
            for process in processes:
                process.close()


def _judged(told: list[dict[str, Any]], kept: dict[str, list[str] | int]) -> Round:
    """Compare what was acknowledged with what is stored."""
    acknowledged = Counter((session, item) for each in told for session, item in each["acknowledged"])
    found, surplus, longest = 0, 0, 0
    for session, items in kept.items():
        expected = Counter(item for (where, item) in acknowledged if where == session)
        if isinstance(items, int):  # a counter, which the seed has made 1
            there, longest = items - 1, max(longest, items)
            found += min(there, expected.total())
            surplus += max(there - expected.total(), 0)
        else:
            stored = Counter(item for item in items if item != "seed")
            longest = max(longest, len(items))
            found += (stored & expected).total()
            surplus += (stored - expected).total()
    errors: Counter[str] = Counter()
    for each in told:
        errors.update(each["errors"])
    return Round(
        seconds=max(each["ended"] for each in told) - min(each["began"] for each in told),
        took=[one for each in told for one in each["took"]],
        acknowledged=acknowledged.total(),
        kept=found,
        surplus=surplus,
        longest=longest,
        errors=errors,
    )


def measured(stage: Stage, extent: Extent, databases: Sequence[str]) -> list[Cell]:
    """All settings, each in rounds that go through the contestants from another one on each time."""
    cells = []
    settings = [
        Setting(workload, database, processes)
        for workload in extent.workloads
        for database in databases
        for processes in extent.processes
    ]
    for place, setting in enumerate(settings):
        playing = [contestant for contestant in stage.contestants if setting.database in contestant.databases]
        made = {contestant.name: Cell(contestant.name, setting) for contestant in playing}
        for number in range(extent.rounds):
            turn = number % len(playing)
            for contestant in (*playing[turn:], *playing[:turn]):
                cell = made[contestant.name]
                if not cell.refusal:
                    cell.rounds.append(stage.play(contestant, setting, extent.seconds[setting.workload]))
        cells += made.values()
        print(f"{place + 1} of {len(settings)}: {setting}", file=sys.stderr, flush=True)
    return cells


def databases_and_url(stack: ExitStack, given: str | None) -> tuple[tuple[str, ...], str | None]:
    """What there is to be measured, and the URL of a PostgreSQL server, which is started unless one is given."""
    if given:
        return _ALL, given
    try:
        from postgres import Server
    except ImportError:
        print("no PostgreSQL: it comes with the development tools", file=sys.stderr)
        return _SQLITE, None
    return _ALL, stack.enter_context(Server(*SERVER_SETTINGS, is_durable=True)).url


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description="Many processes commit at the same time.")
    parser.add_argument("--quick", action="store_true", help="fewer settings, in two minutes")
    parser.add_argument("--no-peers", action="store_true", help="only Holdfast and the floor")
    parser.add_argument("--processes", metavar="N", type=int, nargs="+", help="how many, instead of 1 2 4 8 16")
    parser.add_argument("--rounds", metavar="N", type=int, help="of each setting")
    parser.add_argument("--write", action="store_true", help="write the page docs/benchmarks/contention.md too")
    parser.add_argument("--postgres", metavar="URL", help="a server to use instead of one that is started")
    parser.add_argument("--folder", metavar="PATH", help="where the SQLite databases go: on the disk to be measured")
    arguments = parser.parse_args()
    extent = QUICK if arguments.quick else FULL
    extent = extent._replace(
        processes=tuple(arguments.processes or extent.processes), rounds=arguments.rounds or extent.rounds
    )
    contestants = [one for one in CONTESTANTS if not (arguments.no_peers and one.environment)]
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder, prefix="contention-")))
        log = stack.enter_context((folder / "log").open("w+"))
        databases, url = databases_and_url(stack, arguments.postgres)
        try:
            stage = stack.enter_context(closing(Stage(Places(folder, url), log, contestants, max(extent.processes))))
            versions = stage.versions()
            cells = measured(stage, extent, databases)
        except BaseException:
            log.seek(0)
            print(log.read()[-2000:], file=sys.stderr)
            raise
        server = report.server_settings(url) if url else []
        disk = report.file_system(folder)
    facts = report.Facts(sys.argv[1:], versions, server, disk, extent.rounds, extent.seconds, time.monotonic() - began)
    page = report.page(cells, facts)
    print(page)
    if arguments.write:
        target = HERE.parent / "docs" / "benchmarks" / "contention.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
