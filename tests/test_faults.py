"""A small sample of each fault test, and the history checker that judges them; `make faults` runs the whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from faults import table
from faults.backends import backend_named, is_there
from faults.case import Amounts, Case, Round, Workshop
from faults.cases.all import CASES
from faults.examination import Result, examine
from faults.history import Event, Final, Log, anomalies, chain, events
from faults.places import SQLite

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and fork"),
]

SAMPLED = [
    (case, backend)
    for case in CASES
    for backend in case.backends
    if case.amounts_on(backend).sample and is_there(backend)
]


@pytest.mark.parametrize(("case", "backend"), SAMPLED, ids=[f"{case.name}-{name}" for case, name in SAMPLED])
def test_a_sample_of_faults_loses_nothing_and_finds_every_planted_bug(case: Case, backend: str) -> None:
    with closing(backend_named(backend)) as started:
        result = examine(case, started, case.amounts_on(backend).sample)
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.found == []
    assert [hunt.plant for hunt in result.hunts if not hunt.found] == []
    assert result.tried >= case.amounts_on(backend).sample


# The checker

A = Event("send", 1.0, "s", "a"), Event("ok", 2.0, "s", "a", version=1)
B = Event("send", 3.0, "s", "b"), Event("ok", 4.0, "s", "b", version=2)
SOUND = Final(versions=(("a",), ("b",)), state=("a", "b"), numbers=(1, 2))


def read(tokens: str, at: float = 5.0, version: int | None = None) -> Event:
    return Event("read", at, "s", version=version, length=len(tokens), chain=chain(tokens))


def with_length(event: Event, length: int) -> Event:
    return Event(event.kind, event.at, event.session, event.token, event.version, length)


def test_a_sound_history_has_no_anomaly() -> None:
    histories = [[*A, read("a", 2.5, 1)], [*B, read("ab", 5.0, 2)], [Event("send", 6.0, "s", "unanswered")]]
    assert anomalies(histories, {"s": SOUND}) == []


@pytest.mark.parametrize(
    ("expected", "history", "final"),
    [
        ("acknowledged, but lost: b", [*A, *B], Final((("a",),), ("a",))),
        ("applied twice: a", [*A], Final((("a",), ("a",)), ("a", "a"))),
        ("acknowledged at version 2, but is in 1: b", [A[0], *B], Final((("b",), ("a",)), ("b", "a"))),
        (
            "made from 0 tokens, but stands elsewhere: b",
            [*A, B[0], with_length(B[1], 1)],
            SOUND,
        ),
        ("refused, but applied: a", [A[0], Event("refused", 2.0, "s", "a")], Final((("a",),), ("a",))),
        ("never sent: b", [*A], SOUND),
        ("a version is missing", [*A, *B], replace(SOUND, numbers=(1, 3))),
        ("the state is not what its history makes", [*A, *B], replace(SOUND, state=("b", "a"))),
        ("a read of 1 tokens at version None is no prefix", [*A, *B, read("b")], SOUND),
        ("a read of 2 tokens at version 1 is no prefix", [*A, *B, read("ab", version=1)], SOUND),
        ("a read of 1 tokens lacks what was acknowledged before", [*A, *B, read("a")], SOUND),
        ("a read goes back from 2 to 1 tokens", [*A, B[0], read("ab", 2.5), read("a", 2.6)], SOUND),
    ],
)
def test_each_kind_of_anomaly_is_found(expected: str, history: Sequence[Event], final: Final) -> None:
    assert f"{expected} of s" in anomalies([history], {"s": final})


def test_what_a_writer_could_not_cope_with_is_an_anomaly() -> None:
    assert anomalies([[Event("trouble", 1.0, "", "StorageBusy")]], {}) == ["trouble: StorageBusy"]


def test_a_note_that_was_cut_off_counts_as_not_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "notes")
    for event in A:
        log.note(event)
    log.close()
    content = (tmp_path / "notes").read_bytes()
    (tmp_path / "notes").write_bytes(content[:-3])
    assert events(tmp_path / "notes") == [A[0]]
    assert events(tmp_path / "nothing") == []


# The examination and its table


class Scripted(Case):
    """Finds something in round 3, and its bug in round 1."""

    name = "scripted"
    promise = "a promise"
    unit = "tries"
    amounts = Amounts(sample=1, full=10, soak=100)
    plants = {"a bug": 3, "an invisible bug": 3}

    def round(self, workshop: Workshop, number: int, plant: str | None) -> Round:
        wrong = plant == "a bug" if number == 1 else number == 3
        return Round(2, ["wrong"] if wrong and plant != "an invisible bug" else [], {"noises": 1})


@pytest.fixture
def results() -> list[Result]:
    return [examine(Scripted(), SQLite(), amount) for amount in (4, 10)]


def test_an_examination_ends_when_enough_was_tried_or_something_was_found(results: list[Result]) -> None:
    enough, broken = results
    assert (enough.tried, enough.following, enough.found) == (4, 2, [])
    assert (broken.tried, broken.following, broken.found) == (8, 4, ["round 3: wrong"])
    assert examine(Scripted(), SQLite(), 4, first=2, with_plants=False).found == ["round 3: wrong"]


def test_a_planted_bug_that_is_not_found_fails_the_examination(results: list[Result]) -> None:
    assert [(hunt.plant, hunt.rounds, hunt.found) for hunt in results[0].hunts] == [
        ("a bug", 2, "wrong"),
        ("an invisible bug", 3, None),
    ]
    assert not results[0].is_sound


def test_the_table_says_what_was_tried_and_found(results: list[Result], tmp_path: Path) -> None:
    shown = table.text(results)
    assert "4 tries, 2 noises" in shown
    assert "an invisible bug: NOT FOUND" in shown
    assert shown.endswith("SOMETHING IS WRONG")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.put_into(page, table.markdown(results, "make faults", "a machine"))
    text = page.read_text()
    assert "| a promise | SQLite | 8 tries, 4 noises | 1 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
