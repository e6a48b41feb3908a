"""What a benchmark reads off this process and machine, and how it tells it."""

from __future__ import annotations

import compileall
import math
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


def bytes_written() -> int:
    """Bytes that this process has passed to write(), from `/proc/self/io`; 0 where there is no such file."""
    try:
        with open("/proc/self/io") as lines:
            return int(dict(line.split(": ") for line in lines)["wchar"])
    except OSError:
        return 0


def compile_source() -> None:
    """Bring the source of Holdfast into the form in which pip leaves that of an installed package."""
    compileall.compile_dir(Path(__file__).parent.parent / "src" / "holdfast", quiet=1)


def folder_size(folder: Path) -> int:
    """Of all files in a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Cost:
    """Of each call, in milliseconds, and of all calls together, in bytes."""

    wall: list[float]
    cpu: list[float]
    written: int

    def median_wall(self, part: slice = slice(None)) -> float:
        return median(self.wall[part])

    def mean_cpu(self, part: slice = slice(None)) -> float:
        """The mean: the clock of CPU time is too coarse for a median of short calls."""
        return sum(self.cpu[part]) / len(self.cpu[part])


def cost_of(calls: Iterable[Callable[[], Any]], seconds: float = math.inf) -> Cost:
    """Make each call once and measure it, until the time is up; CPU is of all threads of the process."""
    wall, cpu = [], []
    before, began = bytes_written(), time.perf_counter()
    for call in calls:
        wall_begin, cpu_begin = time.perf_counter(), time.process_time()
        if wall_begin - began > seconds:
            break
        call()
        cpu.append((time.process_time() - cpu_begin) * 1e3)
        wall.append((time.perf_counter() - wall_begin) * 1e3)
    return Cost(wall, cpu, bytes_written() - before)


def machine() -> str:
    """The machine and the versions that figures depend on, in one line."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {time.strftime('%Y-%m-%d')}"
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, with the least and the greatest."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n\n{markdown(head, rows)}", flush=True)
