"""`holdfast plan`, and the planning behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import postgres
from cli import as_json, blog, calls, holdfast, ok
from conftest import FakeClock
from holdfast import Agent, Cache, Workflow, step
from holdfast.planning import Plan, plan
from holdfast.records import Usage
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage

TIDES = ("blog.py:Blog", "--topic", "tides")


def verdicts(*words: str) -> dict[str, str]:
    return {each["name"]: each["verdict"] for each in as_json("plan", *words)["steps"]}


def reasons(*words: str) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in as_json("plan", *words)["steps"]}


@pytest.mark.usefixtures("here")
class TestCommand:
    def test_it_runs_nothing_and_writes_nothing(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        calls()
        before = as_json("runs", "list"), as_json("cache", "list"), as_json("sessions", "list")
        ok("plan", *TIDES)
        assert calls() == []
        assert before == (as_json("runs", "list"), as_json("cache", "list"), as_json("sessions", "list"))

    def test_it_says_of_each_step_what_would_become_of_it(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        assert verdicts(*TIDES) == {
            "fetch": "runs",
            "outline": "hit",
            "count": "runs",
            "write": "hit",  # it is given what `outline` would give
            "writer": "hit",
        }
        result = holdfast("plan", *TIDES)
        (run,) = as_json("runs", "list")
        assert f"as run {run['run_id']} of session s, completed" in result.stderr
        titles, *rows, total = result.stdout.splitlines()
        assert titles.split() == ["STEP", "SCOPE", "WOULD", "BE", "TOOK", "TOKENS", "COST", "WHY"]
        assert rows[0].endswith("recorded for resuming only")
        assert total.startswith("as of last time: spent $0 · saved $0 and ")

    def test_what_a_run_then_does_is_what_was_planned(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        certain = []
        for old, new in (
            ("", ""),
            ('" ".join', '"-".join'),
            ("words: int = 2", "words: int = 3"),
            ("message.upper()", "message.title()"),
            ('@step(cache="workflow")', '@step(cache="workflow", version="2")'),
        ):
            blog(old, new)
            planned = verdicts(*TIDES)
            ok("run", *TIDES, "--session-id", "s")
            (run,) = as_json("runs", "list", "--limit", "1")
            shown = as_json("runs", "show", run["run_id"])["steps"]
            for each in shown:
                expected = "hit" if each["hit"] else "miss" if each["scope"] != "run" else "runs"
                assert planned[each["name"]] in (expected, "unknown"), (new, each["name"])
            certain += [verdict for verdict in planned.values() if verdict in ("hit", "miss")]
        assert (certain.count("hit"), certain.count("miss")) == (5, 4)

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ('STYLE = "plain"', 'STYLE = "fine"', "constant `STYLE` changed"),
            ("return [topic] * words", "return [topic] * words * 1", "code of `outline` changed"),
            ('ttl="30d"))\n', 'ttl="30d"), version="7")\n', "the version is new"),
            ("words: int = 2", "words: int = 2, more: int = 1", "argument `more` is new"),
        ],
    )
    def test_a_miss_names_what_changed_and_what_depends_on_it_is_unknown(self, old: str, new: str, reason: str) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        blog(old, new)
        found = verdicts(*TIDES)
        assert reason in reasons(*TIDES)["outline"]
        assert (found["outline"], found["write"], found["writer"]) == ("miss", "unknown", "unknown")
        assert "2 unknown step(s) for $0" in ok("plan", *TIDES)

    def test_what_is_unknown_names_what_it_may_depend_on(self) -> None:
        blog("outline = self.outline(topic)", "outline = self.outline(self.fetch(fetched))")
        ok("run", *TIDES, "--session-id", "s")
        found = reasons(*TIDES)
        assert found["outline"] == "may depend on `fetch` (kept for its run only)"
        assert found["write"] == "may depend on `fetch`, `count` (kept for its run only)"
        said = holdfast("plan", *TIDES).stderr
        assert "give `fetch` a cache= beyond its run, and plans look through it" in said
        blog('STYLE = "plain"', 'STYLE = "fine"')
        ok("run", *TIDES, "--session-id", "s")
        blog('STYLE = "plain"', 'STYLE = "third"')
        assert reasons(*TIDES)["write"] == (
            "may depend on `fetch`, `count` (kept for its run only), `outline` (computed anew)"
        )

    def test_nothing_is_advised_where_plans_look_through_everything(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        assert "cache=" not in holdfast("plan", *TIDES).stderr
        assert as_json("plan", *TIDES)["hiding"] == []

    def test_taking_an_edit_back_hits_again(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        blog('STYLE = "plain"', 'STYLE = "fine"')
        ok("run", *TIDES, "--session-id", "s")
        assert verdicts(*TIDES)["outline"] == "hit"
        blog()
        assert verdicts(*TIDES)["outline"] == "hit"

    def test_without_a_run_of_this_input_there_is_nothing_to_go_by(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        for words in (["--topic", "moon"], ["--topic", "tides", "--session-id", "t"], ["--topic", "tides", "--fails"]):
            result = holdfast("plan", "blog.py:Blog", *words)
            assert result.exit_code == 0
            assert "no recorded run of this input" in result.stderr
            assert as_json("plan", "blog.py:Blog", *words) == {"run_id": None, "session_id": None, "steps": []}
        assert as_json("plan", *TIDES, "--user-id", "ann")["run_id"] is None

    def test_a_database_or_table_that_is_not_there_is_not_made(self) -> None:
        blog()
        assert holdfast("plan", *TIDES).exit_code == 3
        assert holdfast("plan", "work.py:Declares").exit_code == 3
        assert not list(Path().glob("*.db"))
        ok("run", *TIDES, "--session-id", "s")
        result = holdfast("plan", *TIDES, "--table", "elsewhere")
        assert result.exit_code == 2
        assert "has no table 'elsewhere'" in result.stderr

    def test_a_class_that_declares_its_storage_is_looked_up_there(self) -> None:
        ok("run", "work.py:Declares")
        result = holdfast("plan", "work.py:Declares")
        assert "declared.db" in result.stderr
        assert "it had no steps" in result.stderr

    def test_options_stand_on_either_side_and_arguments_are_checked(self) -> None:
        blog()
        ok("run", *TIDES, "--session-id", "s")
        assert json.loads(ok("plan", "--json", "--session-id", "s", *TIDES))["session_id"] == "s"
        assert "Missing option '--topic'" in holdfast("plan", "blog.py:Blog").stderr
        assert "--topic TEXT" in ok("plan", "blog.py:Blog", "--help")
        assert holdfast("plan", "blog.py:Nothing").exit_code == 2

    def test_what_the_class_raises_is_told(self) -> None:
        blog('    @step(cache="workflow")\n', '    @step(cache="workflow", depends=lambda self: self.ready())\n')
        source = Path("blog.py").read_text(encoding="utf-8")
        Path("blog.py").write_text(source.replace("def run(", "def ready(self):\n        return 1\n\n    def run("))
        ok("run", *TIDES, "--session-id", "s")
        Path("blog.py").write_text(source.replace("def run(", "def ready(self):\n        1 / 0\n\n    def run("))
        result = holdfast("plan", *TIDES)
        assert result.exit_code == 1
        assert "ZeroDivisionError" in result.stderr

    def test_on_a_server_it_says_the_same(self) -> None:
        blog()
        with postgres.schema() as url:
            ok("run", *TIDES, "--session-id", "s", "--db", url)
            assert verdicts(*TIDES, "--db", url)["write"] == "hit"
            blog('STYLE = "plain"', 'STYLE = "fine"')
            assert reasons(*TIDES, "--db", url)["outline"] == "constant `STYLE` changed"


def shout(message: str) -> str:
    return message.upper()


class Priced(Workflow):
    """Steps of every kind."""

    helper = Agent(shout, cache=Cache("workflow", ttl="1h"))
    again = True

    @step(cache="workflow")
    def outer(self, topic: str) -> str:
        return self.inner(topic) + "!"

    @step(cache="workflow")
    def inner(self, topic: str) -> str:
        return topic.upper()

    @step(cache="session", key=lambda topic: topic.lower())
    def keyed(self, topic: str) -> str:
        return topic

    @step(cache=Cache("global", shared=True))
    def shared(self, topic: str) -> str:
        return topic

    def run(self, topic: str) -> list[str]:
        found = [self.outer(topic), self.keyed(topic), self.shared(topic), self.helper.run(topic).content]
        return [*found, self.shared(topic)] if self.again else found


def planned(storage: Storage, **options: Any) -> Plan:
    found = plan(Priced, {"topic": "tides"}, storage=storage, **options)
    assert found is not None
    return found


def told(found: Plan) -> list[tuple[str, str]]:
    return [(each.record.name, each.verdict) for each in found.steps]


class TestPlanning:
    def test_what_is_inside_of_a_hit_is_not_asked_for(self, storage: Storage) -> None:
        Priced(storage=storage, user_id="ann").run("tides")
        found = planned(storage, user_id="ann")
        assert [name for name, verdict in told(found) if verdict == "hit"] == [
            "outer",
            "inner",
            "keyed",
            "shared",
            "helper",
            "shared",
        ]
        assert found.steps[1].reason == "inside of `outer`, which is answered"
        # what stands inside of another step is a part of its cost
        assert found.cost("hit").hits == 5

    def test_an_expired_result_is_a_miss(self, storage: Storage, fake_clock: FakeClock) -> None:
        Priced(storage=storage).run("tides")
        fake_clock.seconds += 3_600 + 120
        (helper,) = (each for each in planned(storage).steps if each.record.name == "helper")
        assert (helper.verdict, helper.reason) == ("miss", "expired 2 min ago")

    def test_what_is_asked_for_twice_is_computed_once(self, storage: Storage) -> None:
        Priced(storage=storage).run("tides")
        storage.step_cache.delete((entry.place, entry.key) for entry in storage.step_cache.find(None, step="shared"))
        found = [each for each in planned(storage).steps if each.record.name == "shared"]
        assert [each.verdict for each in found] == ["miss", "hit"]
        assert found[0].reason == "no earlier result"
        assert found[1].reason == f"the same as step {found[0].record.number}, which is computed"

    def test_after_a_miss_only_what_depends_on_known_values_is_known(self, storage: Storage) -> None:
        Priced(storage=storage).run("tides")
        storage.step_cache.delete((entry.place, entry.key) for entry in storage.step_cache.find(None, step="outer"))
        assert told(planned(storage)) == [
            ("outer", "miss"),
            ("inner", "hit"),
            ("keyed", "unknown"),  # what its `key=` was given is not recorded
            ("shared", "hit"),
            ("helper", "hit"),
            ("shared", "hit"),
        ]

    def test_what_an_agent_would_answer_is_known_by_its_content(self) -> None:
        class Titled(Workflow):
            writer = Agent(shout, cache="workflow")

            @step(cache="workflow")
            def title(self, text: str) -> str:
                return text.title()

            def run(self, topic: str) -> str:
                self.step("look", len, topic)
                return self.title(self.writer.run(topic).content)

        storage = MemoryStorage()
        Titled(storage=storage).run("tides")
        found = plan(Titled, {"topic": "tides"}, storage=storage)
        assert found is not None
        assert told(found) == [("look", "runs"), ("writer", "hit"), ("title", "hit")]

    def test_of_runs_of_the_same_input_the_last_that_completed_is_gone_by(self, storage: Storage) -> None:
        done = Priced(storage=storage, session_id="s")
        done.run("tides")
        with pytest.raises(TypeError):
            type("Failing", (Priced,), {"name": "Priced", "run": _failing})(storage=storage).run("tides")
        assert planned(storage).run.run_id == done.run_id

    def test_the_order_in_which_arguments_were_given_does_not_matter(self, storage: Storage) -> None:
        class Two(Workflow):
            def run(self, a: int, b: dict[str, int], c: int = 3) -> None: ...

        Two(storage=storage).run(b={"x": 1, "y": 2}, a=1)
        assert plan(Two, {"a": 1, "b": {"y": 2, "x": 1}}, storage=storage) is not None
        assert plan(Two, {"a": True, "b": {"y": 2, "x": 1}}, storage=storage) is None
        with pytest.raises(TypeError, match="missing a required argument"):
            plan(Two, {"a": 1}, storage=storage)

    def test_a_step_that_cannot_be_found_or_keyed_is_unknown(self) -> None:
        storage = MemoryStorage()

        @step(cache="workflow", name="elsewhere")
        def elsewhere(topic: str) -> str:
            return topic

        class Moving(Workflow):
            @step(cache="workflow")
            def write(self, topic: str) -> str:
                return topic

            def run(self, topic: str) -> str:
                return elsewhere(topic) + self.write(topic)

        Moving(storage=storage).run("tides")

        class Changed(Workflow):
            name = "Moving"

            @step(cache="workflow")
            def write(self, topic: str) -> str:
                return topic + self.session_id

            def run(self, topic: str) -> str:
                return elsewhere(topic) + self.write(topic)

        found = plan(Moving, {"topic": "tides"}, storage=storage)
        assert found is not None
        assert found.steps[0].verdict == "unknown"
        assert found.steps[0].reason == "called inline, or not there any more"
        assert found.steps[1].verdict == "hit"
        changed = plan(Changed, {"topic": "tides"}, storage=storage)
        assert changed is not None
        assert changed.steps[1].verdict == "unknown"
        assert "it would fail: self.session_id of step 'write'" in changed.steps[1].reason

    def test_a_change_of_scope_is_said(self) -> None:
        storage = MemoryStorage()

        def made(scope: Any) -> type[Workflow]:
            class Scoped(Workflow):
                @step(cache=scope)
                def write(self, topic: str) -> str:
                    return topic

                def run(self, topic: str) -> str:
                    return self.write(topic)

            return Scoped

        def found(scope: Any) -> tuple[str, str]:
            planned = plan(made(scope), {"topic": "tides"}, storage=storage)
            assert planned is not None
            return planned.steps[0].verdict, planned.steps[0].reason

        made("session")(storage=storage).run("tides")
        assert found("session")[0] == "hit"
        assert found("workflow") == ("miss", "kept in scope `session` until then")
        assert found("run") == ("runs", "recorded for resuming only, since it has no `cache=` any more")

    def test_a_cache_that_is_not_to_be_read_answers_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = MemoryStorage()
        Priced(storage=storage).run("tides")
        monkeypatch.setenv("HOLDFAST_CACHE", "refresh")
        assert planned(storage).steps[0].verdict == "miss"

    def test_an_unknown_cost_stays_unknown(self) -> None:
        storage = MemoryStorage()
        Priced(storage=storage).run("tides")
        found = planned(storage)
        steps = [
            replace(each, record=structs.replace(each.record, usage=Usage(cost=None)))
            if each.record.name == "helper"
            else each
            for each in found.steps
        ]
        found = replace(found, steps=tuple(steps))
        assert found.cost("hit").usage.cost is None
        assert found.cost("miss").usage.cost == 0.0

    def test_what_a_resumed_run_asked_for_again_is_planned_once(self, tmp_path: Path) -> None:
        storage = SqlWorkflowStorage(db_file=tmp_path / "a.db")

        class Failing(Workflow):
            is_mended = False

            @step(cache="workflow")
            def write(self, topic: str) -> str:
                return topic

            def run(self, topic: str) -> str:
                text = self.write(topic)
                if not Failing.is_mended:
                    raise ValueError("not yet")
                return text

        failing = Failing(storage=storage)
        with pytest.raises(ValueError, match="not yet"):
            failing.run("tides")
        Failing.is_mended = True
        failing.resume(failing.run_id)  # type: ignore[arg-type]
        found = plan(Failing, {"topic": "tides"}, storage=storage)
        assert found is not None
        assert found.run.attempt == 2
        assert [each.record.name for each in found.steps] == ["write"]
        storage.close()


def _failing(self: Priced, topic: str) -> list[str]:
    self.outer(topic)
    raise TypeError("as asked")
