"""The charts of `docs/benchmarks/`, drawn from what `comparison.py` measured, in the environment `peers/charts.txt`.

    build/peers/charts/bin/python benchmarks/charts.py build/comparison.json docs/benchmarks

The same figures give the same bytes. Text stays text. The background is transparent, and all colours can be read on a
white page and on a dark one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from comparison_report import FLOOR, OURS
from matplotlib import pyplot

pyplot.switch_backend("svg")

INK = "#7d8590"
"""Of text and axes: as far from white as from GitHub's dark page."""
COLOURS = {FLOOR: INK, OURS: "#e8590c"}
OTHERS = ("#3b82c4", "#2f9e78", "#a86fd1", "#c98a1b", "#d6588f", "#5b8f2f", "#2aa3b3", "#9a6b4f", "#7a7fd6", "#c2603c")
DASHES = ("-", "--", "-.", ":")

mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "holdfast",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": INK,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "path.simplify_threshold": 1.0,
    }
)

Rows = Sequence[dict[str, Any]]


def colours(rows: Rows) -> dict[str, str]:
    """Of each contestant: Holdfast and the floor stand out."""
    others = [row["name"] for row in rows if row["name"] not in COLOURS]
    return COLOURS | {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(others)}


def plain(name: str) -> str:
    """A name without its marks."""
    return name.replace("*", "").replace("`", "")


def saved(figure: Any, path: Path) -> None:
    """Write a figure, without a date."""
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def lines(rows: Rows, which: int, label: str, path: Path) -> None:
    """A line for each contestant, over the items of the growing list, both on logarithmic scales."""
    figure, axes = pyplot.subplots(figsize=(7.2, 4.4))
    colour = colours(rows)
    for place, row in enumerate(row for row in rows if row["curve"]):
        points = _thinned(row["curve"])
        name = row["name"]
        is_marked = name in COLOURS
        axes.plot(
            [point[0] for point in points],
            [point[which] for point in points],
            color=colour[name],
            linewidth=2.6 if name == OURS else 1.5,
            linestyle="--" if name == FLOOR else "-" if is_marked else DASHES[place // len(OTHERS)],
            label=plain(name),
            zorder=3 if is_marked else 2,
        )
        if row["facts"].get("ended", "").startswith("stopped"):
            axes.plot(*[[points[-1][at]] for at in (0, which)], marker="x", color=colour[name], linestyle="none")
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes)
    axes.set_xlabel("items in the list, 2 kB each; x: stopped")
    axes.set_ylabel(label)
    axes.grid(which="major")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    saved(figure, path)


def _thinned(points: Sequence[Any], most: int = 24) -> list[Any]:
    """No more points than can be seen, the last one among them."""
    step = max(1, -(-len(points) // most))
    return [*points[:-1:step], points[-1]]


def plain_numbers(axes: Any) -> None:
    """Numbers along both axes as they are read, not as powers of ten."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda number, _: f"{number:,g}"))
        axis.set_minor_formatter(mpl.ticker.NullFormatter())


def bars(rows: Rows, path: Path) -> None:
    """Two bars for each contestant, warm and cold, on a logarithmic scale."""
    shown = [row for row in rows if row["figures"].get("wall") and row["figures"].get("cold")]
    figure, axes = pyplot.subplots(figsize=(7.2, 0.42 * len(shown) + 1))
    colour = colours(rows)
    for place, row in enumerate(shown):
        for offset, key, alpha in ((-0.19, "wall", 1.0), (0.19, "cold", 0.5)):
            value = median(row["figures"][key])
            axes.barh(place + offset, value, height=0.36, color=colour[row["name"]], alpha=alpha)
            axes.annotate(
                f"{value:,.3g} {'warm' if key == 'wall' else 'cold'}",
                (value, place + offset),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 3)
    plain_numbers(axes)
    _named(axes, shown)
    axes.set_xlabel("ms of a run that changes one small key")
    saved(figure, path)


def shares(rows: Rows, path: Path) -> None:
    """What became of all appends: kept, failed with an error, or lost without one."""
    shown = [row for row in rows if sum(row["counts"].values())]
    figure, axes = pyplot.subplots(figsize=(7.2, 0.34 * len(shown) + 1.2))
    left = [0.0] * len(shown)
    for key, label, colour in (
        ("kept", "kept", "#2f9e78"),
        ("errors", "failed with an error", "#c98a1b"),
        ("lost", "acknowledged, then lost", "#e03e3e"),
    ):
        widths = [100 * row["counts"][key] / sum(row["counts"].values()) for row in shown]
        axes.barh(range(len(shown)), widths, left=left, height=0.66, color=colour, label=label)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    _named(axes, shown)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the appends of 8 processes to one session, SQLite")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    saved(figure, path)


def _named(axes: Any, rows: Rows) -> None:
    axes.set_yticks(range(len(rows)), [plain(row["name"]) for row in rows])
    axes.invert_yaxis()
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if row["name"] == OURS else "normal")


CHARTS: dict[str, Sequence[tuple[str, Callable[[Rows, Path], None]]]] = {
    "growing": (
        ("growing.svg", lambda rows, path: lines(rows, 1, "ms of one run", path)),
        ("growing-bytes.svg", lambda rows, path: lines(rows, 2, "MB written in all", path)),
    ),
    "large": (("large.svg", bars),),
    "at_once": (("at-once.svg", shares),),
}


def main(measured: Path, folder: Path) -> None:
    """Draw what there are figures for."""
    for table in json.loads(measured.read_text(encoding="utf-8"))["tables"]:
        rows = [row for row in table["rows"] if row["database"] != "PostgreSQL"]
        for file, draw in CHARTS.get(table["key"], ()):
            draw(rows, folder / file)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
