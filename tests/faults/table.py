"""The report: one table of all that was examined, as text or as Markdown."""

from __future__ import annotations

import platform
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from faults.examination import Hunt, Result

HEADINGS = (
    "promise",
    "backend",
    "what was tried",
    "found",
    "planted bugs, and the round that found each",
    "seconds",
)
BEGIN, END = "<!-- the table of `make faults` begins -->", "<!-- the table of `make faults` ends -->"


def rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """The cells of the table."""
    return [
        (
            result.case.promise,
            result.backend,
            f"not tried: {result.skipped}" if result.skipped else tried(result),
            "-" if result.skipped else f"{len(result.found)}",
            "; ".join(map(hunted, result.hunts)) or "-",
            f"{result.seconds:.0f}",
        )
        for result in results
    ]


def tried(result: Result) -> str:
    """What was tried, in words."""
    facts = "".join(f", {count:,} {name}" for name, count in sorted(result.facts.items()))
    return f"{result.tried:,} {result.case.unit}{facts}"


def hunted(hunt: Hunt) -> str:
    """What became of a planted bug, in words."""
    return f"{hunt.plant}: {f'round {hunt.rounds}' if hunt.found else 'NOT FOUND'}"


def text(results: Sequence[Result]) -> str:
    """The table for a terminal: one paragraph for each case, since its lines would be too long."""
    lines = []
    for result in results:
        promise, backend, what, found, _, seconds = rows([result])[0]
        lines += [f"{promise} [{backend}]", f"    tried    {what}", f"    found    {found}"]
        lines += [f"    planted  {hunted(hunt)}" for hunt in result.hunts]
        lines += [f"    seconds  {seconds}", *(f"    !! {each}" for each in result.found[:20]), ""]
    total = sum(result.seconds for result in results)
    sound = "nothing was lost" if all(result.is_sound for result in results) else "SOMETHING IS WRONG"
    return "\n".join([*lines, f"{len(results)} examinations in {total:.0f} s: {sound}"])


def markdown(results: Sequence[Result], command: str, machine: str) -> str:
    """The table for the page about reliability, with where it comes from."""
    lines = [f"Printed by `{command}` on {time.strftime('%Y-%m-%d', time.gmtime())}, on {machine}.", ""]
    lines += [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(results)]
    return "\n".join(lines)


def put_into(page: Path, table: str) -> None:
    """Put the table into a page, between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    assert mark, f"{page} has no place for the table"
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def machine(cores: int | None) -> str:
    """What it ran on."""
    return f"{cores} shared cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
