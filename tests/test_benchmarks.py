"""The pages that `make bench-peers` and `make bench-scale` write: what they say of figures, and what they must not
leave out; and that filled databases and the simulation are like what they stand for."""

from __future__ import annotations

import doctest
import importlib
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the modules of the benchmarks importable."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def report(benchmarks: None) -> Any:
    return importlib.import_module("comparison_report")


def page(report: Any, *rows: Any) -> str:
    columns = [report.Column("wall", "wall ms"), report.Column("rate", "kept/s", 0, "more")]
    table = report.Table("small", "Small runs", "A run.", columns, list(rows))
    facts = report.Facts("a command", "a machine", "a disk", [], {}, 60.0, {}, [table])
    return str(report.page(report.Facts.read(json.dumps(asdict(facts)))))


def row(report: Any, name: str, database: str = "SQLite", **figures: list[float]) -> Any:
    return report.Row(name, database, figures)


def test_a_row_shows_the_median_with_the_least_and_the_greatest(report: Any) -> None:
    assert "| Peer | 2.00 (1.00-7.00) |" in page(report, row(report, "Peer", wall=[7.0, 1.0, 2.0]))


def test_a_peer_that_is_faster_is_named_with_how_many_times(report: Any) -> None:
    ours = row(report, report.OURS, wall=[3.0], rate=[100.0])
    told = page(report, ours, row(report, "Faster", wall=[1.5], rate=[150.0]), row(report, "Slower", wall=[4.0]))
    assert "- SQLite, wall ms: Faster 2.0 times\n- SQLite, kept/s: Faster 1.5 times" in told
    assert "Slower 0" not in told
    assert "(#small-runs), SQLite, wall ms: Faster 2.0 times" in told.split("## Small runs")[0]


def test_a_peer_that_got_farther_than_holdfast_is_said_to(report: Any) -> None:
    told = page(report, row(report, report.OURS, wall=[1.0]), row(report, "Peer", wall=[2.0], rate=[5.0]))
    assert "- SQLite, kept/s: Peer alone" in told


def test_a_lead_within_the_spread_is_said_to_be_one(report: Any) -> None:
    told = page(report, row(report, report.OURS, wall=[1.0, 3.0, 4.0]), row(report, "Peer", wall=[1.0, 2.0, 3.0]))
    assert "Peer 1.5 times (the spreads overlap)" in told


def test_the_floor_and_another_database_are_not_ahead(report: Any) -> None:
    ours = row(report, report.OURS, wall=[3.0])
    other = row(report, "Peer", "PostgreSQL", wall=[1.0])
    told = page(report, ours, row(report, report.FLOOR, wall=[0.1]), other)
    assert "No peer is ahead of Holdfast here." in told
    assert "In no row." in told


def test_a_peer_that_is_faster_and_loses_appends_is_said_to(report: Any) -> None:
    peer = row(report, "Peer", wall=[1.0])
    peer.counts = {"kept": 1, "errors": 0, "lost": 9}
    assert "Peer, which loses appends, 3.0 times" in page(report, row(report, report.OURS, wall=[3.0]), peer)


def test_a_contestant_that_failed_has_a_row_that_says_why(report: Any) -> None:
    never, later = report.Row("Never", "SQLite"), row(report, "Later", wall=[1.0])
    never.refusal, later.refusal = "ImportError: no | package", "a worker ended"
    told = page(report, never, later)
    assert "| Never | failed: ImportError: no / package |" in told
    assert "| Later | 1.00 |" in told
    assert "- Later: failed: a worker ended" in told


def test_a_table_of_which_everything_failed_is_shown(report: Any) -> None:
    never = report.Row("Never", "SQLite")
    never.refusal = "n/a"
    assert "| Never | n/a |" in page(report, never)


# How cost grows


@pytest.mark.parametrize("name", ["scale_queue", "scale_report"])
def test_the_examples_of_a_module_are_right(benchmarks: None, name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_filled_sessions_have_the_rows_that_both_storages_write(benchmarks: None, tmp_path: Path, pg_url: str) -> None:
    assert importlib.import_module("scale_fill").require_same_rows(tmp_path, pg_url) == 20


def test_every_part_of_the_scale_benchmark_is_measured_and_has_its_tables(benchmarks: None) -> None:
    scale = importlib.import_module("scale")
    figures = scale.measured(scale.LEAST, parts=tuple(scale.PARTS), sqlite_only=True)
    page = importlib.import_module("scale_report").page(json.loads(json.dumps(figures)))
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if line.startswith("| ")}
    for title in ("Sessions in one database", "Bytes of state", "Versions of one session", "Runs per second"):
        assert f"## {title}\n" in page
    assert len(rows["20"]) == 8, "the versions, in the last of their tables"
    assert all(cell.strip() for cell in rows["20"])
    assert figures["histories"][1]["forgotten"] == 0


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_the_simulation_agrees_with_what_is_known_of_a_single_server(benchmarks: None, busy: float) -> None:
    queue = importlib.import_module("scale_queue")
    chance = random.Random(1)
    measured = [(chance.expovariate(1000),) for _ in range(20_000)]
    waits = queue.simulated(busy * 1000, measured, (1,))
    assert waits.utilisation == pytest.approx(busy, rel=0.05)
    # Of arrivals and services that are both random, the time until the end is exponential as well: M/M/1.
    assert waits.p50 == pytest.approx(0.6931 / (1000 * (1 - busy)), rel=0.2)
    assert waits.p99 == pytest.approx(4.605 / (1000 * (1 - busy)), rel=0.2)
