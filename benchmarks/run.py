"""`make bench`: Holdfast against the raw `sqlite3` module, in Markdown on standard output.

Each figure comes from a process of its own; what is compared is measured in the same run. Times are noisy on a
shared machine, bytes and CPU less so: where there is a spread, it is shown.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from measure import compile_source, machine, spread, table

HERE = Path(__file__).parent


def work(name: str, folder: str, **arguments: Any) -> dict[str, Any]:
    """One workload in a new process."""
    command = [sys.executable, str(HERE / "workloads.py"), name, folder, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cpu_of(command: list[str]) -> float:
    """CPU milliseconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


FIRST_RUN = """
import sys
from holdfast import SqlWorkflowStorage, Workflow

class Note(Workflow):
    def run(self):
        self.session_state["key"] = "value"

Note(session_id="s", storage=SqlWorkflowStorage(db_file=sys.argv[1])).run()
"""


def start_up() -> None:
    compile_source()
    python, holdfast = sys.executable, str(Path(sys.executable).with_name("holdfast"))
    with tempfile.TemporaryDirectory() as folder:
        listed = f"{folder}/listed.db"
        subprocess.run([python, "-c", FIRST_RUN, listed], check=True)
        commands = {
            "Python itself": [python, "-c", "pass"],
            "`import msgspec`, which a run cannot do without": [python, "-c", "import msgspec"],
            "`import holdfast`": [python, "-c", "import holdfast"],
            "`from holdfast import Workflow, SqlWorkflowStorage`": [
                python,
                "-c",
                "from holdfast import Workflow, SqlWorkflowStorage",
            ],
            "first run in a new process, of a new database": [python, "-c", FIRST_RUN, f"{folder}/{{}}.db"],
            "`holdfast --help`": [holdfast, "--help"],
            "`holdfast sessions list`": [holdfast, "sessions", "list", "--db", listed],
        }
        spent: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(15):  # in alternation, so that what else the machine does meets all of them
            for name, command in commands.items():
                spent[name].append(cpu_of([part.replace("{}", str(turn)) for part in command]))
    bare = median(spent["Python itself"])
    rows = [[name, spread(each), f"{median(each) - bare:.1f}"] for name, each in spent.items()]
    table("Start-up, CPU ms", ["what", "whole process", "above Python itself"], rows)


def small_run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = work("small_run", folder)
    rows = [
        [
            kind,
            *(spread(figures[what][kind]) for what in ("ours", "rows", "floor")),
            *(f"{median(figures['ours'][kind]) / median(figures[what][kind]):.2f}" for what in ("rows", "floor")),
        ]
        for kind in ("wall", "cpu")
    ]
    table(
        "A run that adds one small key, ms (FULL; 10 alternating blocks of 100)",
        ["", "Holdfast", "its rows, raw", "raw insert", "ratio to its rows", "to the insert"],
        rows,
    )


def growing_list() -> None:
    with tempfile.TemporaryDirectory() as folder:
        floor = work("growing_floor", folder)
    rows = []
    for dated in (False, True):
        for returns_post in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                ours = work("growing_list", folder, dated=dated, returns_post=returns_post)
            name = f"{'datetime in each' if dated else 'plain'}, returns {'the post' if returns_post else '20 bytes'}"
            rows.append([name, *_growth(ours), f"{ours['written'] / floor['written']:.2f}"])
    rows.append(["raw insert", *_growth(floor), "1"])
    head = ["posts", "MB written", "database MB", "CPU ms/run early", "late", "wall ms late", "bytes against raw"]
    table("1,000 runs that each append a post of 2 kB", head, rows)


def _growth(figures: dict[str, Any]) -> list[str]:
    return [
        f"{figures['written'] / 1e6:.1f}",
        f"{figures['database'] / 1e6:.1f}",
        f"{figures['early']:.2f}",
        f"{figures['late']:.2f}",
        f"{figures['late_wall']:.2f}",
    ]


def large_list() -> None:
    rows = []
    for posts in (1000, 5000):
        for dated in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                figures = work("large_list", folder, posts=posts, dated=dated)
            cpu = figures["cpu"]
            rows.append(
                [
                    f"{posts:,}, {'datetime in each' if dated else 'plain'}",
                    *(spread(cpu[job]) for job in ("append", "leaf", "search", "read")),
                    spread(cpu["search itself"], 3),
                    spread(cpu["plain search"], 3),
                    spread(cpu["encode"]),
                    f"{figures['written']['append'] / 1e3:.0f}",
                ]
            )
    head = ["posts", "append", "one leaf", "search", "small key read", "the search in its run", "in a plain list"]
    head += ["encoding it", "append, kB"]
    table("Runs on a list of posts of 2 kB, each by a new object, CPU ms (4 blocks of 40)", head, rows)


def large_state() -> None:
    rows = []
    for many in (False, True):
        for dated in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                warm = work("large_state", folder, many=many, dated=dated)
                cold = [work("large_state_cold", folder) for _ in range(5)]
            rows.append(
                [
                    f"{'5,000 values' if many else 'one value'}, {'datetime in each' if dated else 'plain'}",
                    f"{warm['wall']:.2f}",
                    f"{warm['cpu']:.2f}",
                    spread([figures["wall"] for figures in cold]),
                    spread([figures["cpu"] for figures in cold]),
                    f"{warm['written'] / 1e3:.1f}",
                ]
            )
    head = ["state", "warm wall ms", "warm CPU ms", "cold wall ms", "cold CPU ms", "kB written"]
    table("10 MB of state, one small key changes", head, rows)


def refusals() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = work("refusals", folder)
    rows = [[name, spread(wall)] for name, wall in figures.items()]
    table("Until a value beyond a limit is refused, ms (a whole run, beside 1 MB of state)", ["value", "wall"], rows)


if __name__ == "__main__":
    print(f"# Holdfast against the floor\n\n{machine()}")
    start_up()
    small_run()
    growing_list()
    large_list()
    large_state()
    refusals()
