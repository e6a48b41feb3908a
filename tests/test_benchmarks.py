"""The page that `make bench-peers` writes: what it says of figures, and what it must not leave out."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def report() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("comparison_report")
    finally:
        sys.path.remove(str(BENCHMARKS))


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
