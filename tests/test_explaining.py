"""Why a step was computed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from conftest import FakeClock
from holdfast import Cache, Workflow, step
from holdfast.explaining import Earlier, ago, in_order, reason, reasons_of_run, recorded_parts
from holdfast.records import Run
from holdfast.storage.base import Storage

KEPT = {"argument topic": "1", "code of `write`": "2", "constant `STYLE`": "3", "scope": "workflow"}


def said(parts: dict[str, str | None], *earlier: Earlier, now: float = 100.0) -> str:
    asked = {label: told for label, told in {**KEPT, **parts}.items() if told is not None}
    return reason(asked, earlier or [Earlier(KEPT, 50.0)], now=now).text


class TestReason:
    @pytest.mark.parametrize(
        ("parts", "text"),
        [
            ({"argument topic": "9"}, "argument `topic` differs"),
            ({"code of `write`": "9"}, "code of `write` changed"),
            ({"constant `STYLE`": "9"}, "constant `STYLE` changed"),
            ({"constant `STYLE`": None}, "constant `STYLE` is gone"),
            ({"argument style": "9"}, "argument `style` is new"),
            ({"instructions of `writer`": "9"}, "instructions of `writer` is new"),
            ({"argument topic": None, "key": "9"}, "argument `topic` is gone, what `key=` returned is new"),
            ({"depends": "9"}, "what `depends=` returned is new"),
            ({"scope": "global"}, "kept in scope `workflow` until then"),
        ],
    )
    def test_it_names_the_part_that_differs(self, parts: dict[str, str | None], text: str) -> None:
        assert said(parts) == text

    def test_a_version_that_stands_for_the_code_hides_the_code(self) -> None:
        versioned = {"argument topic": "1", "version": "5", "scope": "workflow"}
        assert said({"code of `write`": None, "constant `STYLE`": None, "version": "5"}) == "the version is new"
        assert reason(KEPT, [Earlier(versioned, 1.0)], now=2.0).text == "the version is gone"
        assert reason({**versioned, "version": "6"}, [Earlier(versioned, 1.0)], now=2.0).text == "other version"

    def test_of_many_parts_some_are_named_and_the_rest_counted(self) -> None:
        parts = {f"argument a{number}": "1" for number in range(6)}
        assert said(parts).endswith("argument `a3` is new, and 2 more")

    def test_a_result_of_another_session_is_said_to_be_so(self) -> None:
        here = recorded_parts(b"{}", scope="session", session_id="here")
        there = recorded_parts(b"{}", scope="session", session_id="there")
        assert reason(here, [Earlier(there, 1.0)], now=2.0).text == "kept for another session only"

    def test_the_nearest_is_that_with_the_fewest_differences_and_then_the_newest(self) -> None:
        far = Earlier({**KEPT, "argument topic": "8", "constant `STYLE`": "8"}, 99.0, run_id="far")
        old = Earlier({**KEPT, "argument topic": "8"}, 10.0, run_id="old")
        new = Earlier({**KEPT, "code of `write`": "8"}, 20.0, run_id="new")
        for order in itertools.permutations([far, old, new]):
            found = reason(KEPT, order, now=100.0)
            assert (found.text, found.run_id) == ("code of `write` changed", "new")
            assert found.differing == ("code of `write`",)

    def test_the_same_key_says_whether_it_had_expired_was_gone_or_was_not_to_be_used(self) -> None:
        assert said({}, Earlier(KEPT, 0.0, expires_at=50.0), now=50.0 + 3 * 3_600) == "expired 3 h ago"
        assert said({}, Earlier(KEPT, 0.0, expires_at=100.0)) == "expired 0 s ago"
        assert said({}, Earlier(KEPT, 0.0, expires_at=101.0)).startswith("an earlier result was there, and was not")
        assert said({}, Earlier(KEPT, 0.0, is_kept=False)).startswith("an earlier result was gone")
        gone, expired = Earlier(KEPT, 60.0, is_kept=False), Earlier(KEPT, 0.0, expires_at=50.0)
        assert said({}, gone, expired) == "expired 50 s ago"

    def test_without_any_there_is_nothing_to_differ_from(self) -> None:
        assert reason(KEPT, [], now=0.0).text == "no earlier result"

    def test_times_are_said_in_their_largest_unit(self) -> None:
        assert [ago(seconds) for seconds in (-1, 59.9, 60, 86_400)] == ["0 s ago", "59 s ago", "1 min ago", "1 d ago"]

    def test_arguments_come_before_code(self) -> None:
        labels = ["version", "code of `a`", "variable `v`", "key", "argument b", "argument a"]
        assert in_order(labels) == ("argument a", "argument b", "key", "variable `v`", "code of `a`", "version")


class Writing(Workflow):
    style = "plain"

    @step(cache=Cache("workflow", ttl="1h"), depends=lambda self: self.style)
    def write(self, topic: str) -> str:
        return f"{self.style} {topic}"

    @step(cache="session")
    def title(self, topic: str) -> str:
        return topic.title()

    def run(self, topic: str) -> list[str]:
        return [self.title(topic), self.write(topic)]


def written(storage: Storage, topic: str, session_id: str = "s", **options: Any) -> Run:
    controls = {name: options.pop(name) for name in ("refresh",) if name in options}
    workflow = Writing(session_id=session_id, storage=storage, **options)
    workflow.run(topic, **controls)
    (run,) = storage.find_runs(workflow.user_id or "", run_id=workflow.run_id)
    return run


def reasons(storage: Storage, run: Run) -> dict[str, str]:
    return {record.name: why.text for record, why in reasons_of_run(storage, run)}


class TestReasonsOfARun:
    def test_the_first_run_has_nothing_to_compare_with(self, storage: Storage, fake_clock: FakeClock) -> None:
        first = written(storage, "tides")
        assert reasons(storage, first) == {"title": "no earlier result", "write": "no earlier result"}

    def test_what_was_answered_needs_no_reason(self, storage: Storage, fake_clock: FakeClock) -> None:
        written(storage, "tides")
        fake_clock.seconds += 1
        assert reasons(storage, written(storage, "tides")) == {}

    def test_each_computed_step_names_what_differs(self, storage: Storage, fake_clock: FakeClock) -> None:
        first = written(storage, "tides")
        fake_clock.seconds += 1
        other = written(storage, "tides", session_id="t", style="fine")
        assert reasons(storage, other) == {
            "title": "kept for another session only",
            "write": "what `depends=` returned differs",
        }
        assert {why.run_id for _, why in reasons_of_run(storage, other)} == {first.run_id}

    def test_later_results_are_no_reason(self, storage: Storage, fake_clock: FakeClock) -> None:
        first = written(storage, "tides")
        fake_clock.seconds += 1
        written(storage, "moon")
        assert reasons(storage, first)["write"] == "no earlier result"

    def test_an_expired_result_that_was_replaced_since_is_known_from_the_run(
        self, storage: Storage, fake_clock: FakeClock
    ) -> None:
        written(storage, "tides")
        fake_clock.seconds += 7_200
        again = written(storage, "tides")
        assert reasons(storage, again)["write"].startswith("an earlier result was gone (expired, evicted or deleted)")

    def test_a_result_that_was_not_to_be_used_is_known_from_the_run(
        self, storage: Storage, fake_clock: FakeClock
    ) -> None:
        written(storage, "tides")
        fake_clock.seconds += 1
        again = written(storage, "tides", refresh=True)
        assert set(reasons(storage, again)) == {"title", "write"}
        assert all("was not to be used" in text for text in reasons(storage, again).values())

    def test_results_of_other_users_are_not_looked_at(self, storage: Storage, fake_clock: FakeClock) -> None:
        written(storage, "tides", user_id="ann")
        fake_clock.seconds += 1
        other = written(storage, "tides", user_id="bob")
        assert reasons(storage, other) == {"title": "no earlier result", "write": "no earlier result"}


def test_other_code_for_the_same_arguments_is_nearer_than_the_same_code_for_others() -> None:
    asked = {"argument page": "1", "code of `read`": "new", "constant `STYLE`": "new"}
    sibling = Earlier({**asked, "argument page": "2"}, created_at=9.0, run_id="this")
    before = Earlier({"argument page": "1", "code of `read`": "old", "constant `STYLE`": "old"}, created_at=1.0)
    assert reason(asked, [sibling, before], now=10.0).text == "code of `read` changed, constant `STYLE` changed"
