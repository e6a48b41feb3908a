"""`make bench-peers`: the same small jobs done by Holdfast, the raw drivers and the libraries closest to it.

    python benchmarks/comparison.py [--quick] [--only WORKLOAD ...] [--peers NAME ...] [--write]
    python benchmarks/comparison.py --again     the page and the charts once more, from what was measured last

Each contestant works in a process of its own environment. A workload goes through all of them in turn, block by block,
beginning with another one each time, so that what else the machine does hits all alike. One that cannot do something
has a row that says why. What each contestant does is told in `contestants/`; `comparison_workloads.py` has the
workloads, `comparison_worker.py` is one process, and `comparison_report.py` and `charts.py` make the page.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import comparison_report as report
import contention
import contention_report
from comparison_field import ALONE, BOTH, Field, Refused, Server, python_of
from comparison_workloads import FULL, QUICK, WORKLOADS, Extent
from contention import Contestant, Places, Process
from measure import compile_source, machine
from peers import setup

HERE = Path(__file__).parent
MEASURED = HERE.parent / "build" / "comparison.json"
PAGE = HERE.parent / "docs" / "benchmarks" / "peers.md"

CONTESTANTS = (
    Contestant(report.FLOOR, "floor", "Rows", BOTH, "holdfast", ("psycopg",)),
    Contestant(report.OURS, "holdfast", "Runs", BOTH, "holdfast", ("holdfast", "pydantic", "msgspec")),
    Contestant("Phidata", "phidata", "Runs", BOTH, "phidata", ("phidata", "sqlalchemy", "psycopg")),
    Contestant("Agno", "agno", "Runs", BOTH, "agno", ("agno", "sqlalchemy", "psycopg")),
    Contestant(
        "LangGraph",
        "langgraph",
        "Runs",
        BOTH,
        "langgraph",
        ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "psycopg"),
    ),
    Contestant("LangGraph, durability exit", "langgraph", "ExitRuns", BOTH, "langgraph"),
    Contestant("LangGraph, delta channel", "langgraph", "DeltaRuns", BOTH, "langgraph"),
    Contestant("Google ADK", "adk", "Runs", ALONE, "adk", ("google-adk", "sqlalchemy", "aiosqlite")),
    Contestant("Google ADK, a key for each item", "adk", "KeyedRuns", ALONE, "adk"),
    Contestant("OpenAI Agents", "openai_agents", "Runs", ALONE, "openai_agents", ("openai-agents",)),
    Contestant("Burr", "burr", "Runs", ALONE, "burr", ("apache-burr",)),
    Contestant("LlamaIndex Workflows", "llamaindex", "Runs", ALONE, "llamaindex", ("llama-index-workflows",)),
    Contestant("DBOS", "dbos", "Runs", BOTH, "dbos", ("dbos", "sqlalchemy", "psycopg")),
)

STRICTER = (
    Contestant("**Holdfast**, each append a step", "holdfast", "SteppedRuns", ALONE, "holdfast"),
    Contestant("Agno, no retries", "agno", "StrictRuns", ALONE, "agno"),
    Contestant("LangGraph, durability sync", "langgraph", "SyncRuns", ALONE, "langgraph"),
)
"""What more there is when runs do not end well."""

CACHES = (
    Contestant("`functools.lru_cache`", "floor", "Remembered", ALONE, "holdfast"),
    Contestant(report.FLOOR, "floor", "Selected", ALONE, "holdfast"),
    Contestant(report.OURS, "holdfast", "Cached", ALONE, "holdfast"),
    Contestant("diskcache", "caches", "DiskCache", ALONE, "caches", ("diskcache",)),
    Contestant("joblib", "caches", "Joblib", ALONE, "caches", ("joblib",)),
    Contestant("LangGraph, `@task` with `SqliteCache`", "langgraph", "Cached", ALONE, "langgraph"),
    Contestant("DBOS, replay of a step", "dbos", "Cached", ALONE, "dbos"),
)
"""Of steps."""


def versions(field: Field) -> dict[str, str]:
    """Of each environment, in a line."""
    told: dict[str, str] = {}
    for one in (*field.contestants, *field.caches):
        if one.packages:
            try:
                found = _versions(one, field)
            except (Refused, RuntimeError) as error:
                found = {"failed": str(error)}
            told[one.name.strip("*")] = ", ".join(" ".join(item) for item in found.items())
    return told


def _versions(one: Contestant, field: Field) -> dict[str, str]:
    with closing(Process(python_of(one), field.log)) as process:
        process.ask("versions", packages=one.packages)
        found: dict[str, str] = process.answer()
    return {name: number for name, number in found.items() if name not in ("Python", "SQLite")}


def measured(arguments: argparse.Namespace, extent: Extent) -> report.Facts:
    """Measure what was asked for."""
    began = time.monotonic()
    compile_source()

    def is_wanted(one: Contestant) -> bool:
        return not arguments.peers or one.environment in (*arguments.peers, "holdfast")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder, prefix="comparison-")))
        log = stack.enter_context((folder / "log").open("w+"))
        is_alone = arguments.quick and not arguments.postgres
        _, url = (ALONE, None) if is_alone else contention.databases_and_url(stack, arguments.postgres)
        server = stack.enter_context(closing(Server(url))) if url else None
        contestants = [one for one in CONTESTANTS if is_wanted(one)]
        stricter = [one for one in STRICTER if is_wanted(one)]
        caches = [one for one in CACHES if is_wanted(one)]
        field = Field(contestants, stricter, caches, Places(folder, url), log, server)
        told = versions(field)
        tables, took = [], {}
        for name in arguments.only or WORKLOADS:
            before = time.monotonic()
            tables += WORKLOADS[name](field, extent)
            took[name] = time.monotonic() - before
            print(f"{name}: {took[name]:.0f} s", file=sys.stderr, flush=True)
            for row in (row for table in tables for row in table.rows if row.refusal):
                print(f"  {row.name}, {row.database}: {row.refusal}", file=sys.stderr)
        return report.Facts(
            command=" ".join(["python benchmarks/comparison.py", *sys.argv[1:]]),
            machine=machine(),
            disk=contention_report.file_system(folder),
            server=contention_report.server_settings(url) if url else [],
            versions=told,
            seconds=time.monotonic() - began,
            took=took,
            tables=tables,
            uses=[use_of(module) for module in dict.fromkeys(one.module for one in (*contestants, *caches))],
        )


def use_of(module: str) -> str:
    """What the module of a contestant says of itself first."""
    text = ast.get_docstring(ast.parse((HERE / "contestants" / f"{module}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


def draw(page: Path) -> None:
    """The charts, beside the page, by a process that has what draws them."""
    python = setup.environment("charts")
    subprocess.run([str(python), str(HERE / "charts.py"), str(MEASURED), str(page.parent)], check=True)


def main() -> None:
    """Measure, keep the figures, print the page, and write it with its charts if asked to."""
    parser = argparse.ArgumentParser(description="The same small jobs done by Holdfast and its peers.")
    parser.add_argument("--quick", action="store_true", help="little of everything on SQLite, in a few minutes")
    parser.add_argument("--only", metavar="WORKLOAD", nargs="+", choices=WORKLOADS, help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--peers", metavar="NAME", nargs="+", choices=setup.NAMES, help="only these, beside Holdfast")
    parser.add_argument("--patience", metavar="S", type=float, help="seconds of appends to a growing list, on SQLite")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/peers.md and its charts")
    parser.add_argument("--again", action="store_true", help="write them from what was measured last")
    parser.add_argument("--postgres", metavar="URL", help="a server to use instead of one that is started")
    parser.add_argument("--folder", metavar="PATH", help="where the databases go: on the disk to be measured")
    arguments = parser.parse_args()
    if not arguments.again:
        extent = QUICK if arguments.quick else FULL
        if arguments.patience:
            extent = extent._replace(patience=(arguments.patience, extent.patience[1]))
        facts = measured(arguments, extent)
        MEASURED.parent.mkdir(exist_ok=True)
        MEASURED.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
    page = report.page(report.Facts.read(MEASURED.read_text(encoding="utf-8")))
    print(page)
    if arguments.write or arguments.again:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
        draw(PAGE)


if __name__ == "__main__":
    main()
