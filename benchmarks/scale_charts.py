"""The charts of `docs/benchmarks/scale.md`, from what `scale.py` measured, in the environment `peers/charts.txt`.

    build/peers/charts/bin/python benchmarks/scale_charts.py build/scale.json docs/benchmarks

They look like those of `charts.py`, and the same figures give the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charts import plain_numbers, saved
from matplotlib import pyplot

COLOURS = ("#e8590c", "#3b82c4", "#2f9e78", "#a86fd1")
DASHES = {"SQLite": "-", "PostgreSQL": "--"}

Rows = Sequence[dict[str, Any]]

CHARTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "sessions": (
        "sessions",
        "sessions in the database",
        {"load": "load one", "run": "a run", "page_of_user": "50 newest of a user", "page": "50 newest of all"},
    ),
    "states": (
        "bytes",
        "bytes of the value",
        {"small": "small key beside it", "item": "one item in it", "whole": "all of it", "cold_read": "read it"},
    ),
    "histories": (
        "versions",
        "versions of the session",
        {"load": "load the newest", "old": "load an old one", "run": "a run", "prune": "prune"},
    ),
}
"""By part: what goes along the axis, how that is called, and the figures that are drawn."""


def curves(rows: Rows, along: str, label: str, drawn: dict[str, str], path: Path) -> None:
    """A line for each figure and engine, both scales logarithmic."""
    figure, axes = pyplot.subplots(figsize=(7.2, 4.4))
    for engine in dict.fromkeys(row["engine"] for row in rows):
        points = [row for row in rows if row["engine"] == engine]
        for colour, (key, name) in zip(COLOURS, drawn.items(), strict=True):
            axes.plot(
                [row[along] for row in points],
                [row[key] for row in points],
                color=colour,
                linestyle=DASHES[engine],
                label=f"{name}, {engine}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    _finished(figure, axes, label, path)


def waits(rows: Rows, path: Path) -> None:
    """How long runs take from their arrival on: two lines for each engine, and a mark where that was measured."""
    figure, axes = pyplot.subplots(figsize=(7.2, 4.4))
    for row in rows:
        rates = [point["rate"] for point in row["rates"]]
        measured = [point for point in row["rates"] if "tried_p50" in point]
        for colour, key in zip(COLOURS, ("p50", "p99"), strict=False):
            engine = row["engine"]
            line = {"color": colour, "linestyle": DASHES[engine], "label": f"{key}, {engine}"}
            axes.plot(rates, [point[key] for point in row["rates"]], **line)
            mark = {"color": colour, "linestyle": "none", "marker": "o" if engine == "SQLite" else "s"}
            axes.plot([point["rate"] for point in measured], [point[f"tried_{key}"] for point in measured], **mark)
    axes.set_yscale("log")
    _finished(figure, axes, "runs that arrive in a second; marks: measured", path)


def _finished(figure: Any, axes: Any, label: str, path: Path) -> None:
    plain_numbers(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("ms")
    axes.grid(which="major")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    saved(figure, path)


def main(measured: Path, folder: Path) -> None:
    """Draw what there are figures for."""
    figures = json.loads(measured.read_text(encoding="utf-8"))
    for part, (along, label, drawn) in CHARTS.items():
        if figures.get(part):
            curves(figures[part], along, label, drawn, folder / f"scale-{part}.svg")
    if figures.get("runs"):
        waits(figures["runs"], folder / "scale-runs.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
