"""`holdfast cache`, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import postgres
from cli import as_json, blog, calls, holdfast, ok
from conftest import FakeClock
from holdfast import Cache, Workflow, step
from holdfast.records import Place, Usage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing_steps import make_entry, put

pytestmark = pytest.mark.usefixtures("here")

NOBODY = Place("")


def keys(storage: SqlWorkflowStorage) -> list[str]:
    return [entry.step for entry in storage.step_cache.find(None)]


class TestList:
    def test_it_shows_what_is_kept_by_whom_and_for_how_long(self) -> None:
        blog()
        for _ in range(2):
            ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s", "--user-id", "ann")
        listed = as_json("cache", "list")
        assert [(entry["step"], entry["scope"], entry["session_id"]) for entry in listed] == [
            ("writer", "workflow", None),
            ("write", "workflow", None),
            ("outline", "session", "s"),
        ]
        assert {(entry["workflow"], entry["user_id"], entry["hits"]) for entry in listed} == {("Blog", "ann", 1)}
        assert {entry["usage"]["cost"] for entry in listed} == {0.0}
        result = holdfast("cache", "list")
        titles, *rows = result.stdout.splitlines()
        shown = ["KEY", "STEP", "SCOPE", "WORKFLOW", "USER", "COMPUTED", "EXPIRES", "SIZE", "HITS", "TOOK", "COST"]
        assert titles.split() == shown
        assert rows[0].split()[:5] == [listed[0]["key"][:16], "writer", "workflow", "Blog", "ann"]
        assert "in 59 min" in rows[0]
        assert "never" in rows[1]
        assert "3 result(s) of " in result.stderr

    def test_it_is_narrowed_and_cut(self, default_storage: SqlWorkflowStorage) -> None:
        cache = default_storage.step_cache
        put(cache, make_entry("a", step="one", workflow="W"))
        put(cache, make_entry("b", Place("ann"), step="two", workflow="W"))
        put(cache, make_entry("c", Place("", "s"), step="one", workflow="V", scope="session"))

        def steps(*words: str) -> list[str]:
            return sorted(entry["step"] + (entry["user_id"] or "") for entry in as_json("cache", "list", *words))

        assert steps() == ["one", "one", "twoann"]
        assert steps("--step", "one") == ["one", "one"]
        assert steps("--workflow", "W") == ["one", "twoann"]
        assert steps("--session-id", "s") == ["one"]
        assert steps("--user-id", "ann") == ["twoann"]
        assert steps("--user-id", "") == ["one", "one"]
        assert steps("--user-id", "bob") == []
        result = holdfast("cache", "list", "--limit", "2", "--json")
        assert len(json.loads(result.stdout)) == 2
        assert "2 of 3 shown" in result.stderr

    def test_it_belongs_to_the_database_and_not_to_a_table(self, here: Path) -> None:
        with_tables = [SqlWorkflowStorage(name, db_file="holdfast.db") for name in ("first", "second")]
        put(with_tables[0].step_cache, make_entry("a", step="everywhere"))
        for storage in with_tables:
            put(storage.step_cache, make_entry("b", Place("", "s"), step=storage.table_name, scope="session"))
            storage.close()
        assert sorted(entry["step"] for entry in as_json("cache", "list")) == ["everywhere", "first", "second"]
        assert as_json("cache", "clear", "--session-id", "s", "--yes")["deleted"] == 2
        assert [entry["step"] for entry in as_json("cache", "list")] == ["everywhere"]

    def test_an_unknown_cost_is_unknown_and_an_expired_result_says_so(
        self, default_storage: SqlWorkflowStorage, fake_clock: FakeClock
    ) -> None:
        entry = make_entry("a", usage=Usage(1, 2, 3, None))
        put(default_storage.step_cache, entry, ttl=60)
        fake_clock.seconds += 3_660
        (row,) = ok("cache", "list").splitlines()[1:]
        assert row.endswith("unknown")
        assert "expired 1 h ago" in row

    def test_nothing_is_said_to_be_nothing(self, default_storage: SqlWorkflowStorage) -> None:
        default_storage.find_sessions(None)
        result = holdfast("cache", "list")
        assert (result.stdout, result.exit_code) == ("", 0)
        assert "no results of steps" in result.stderr
        assert as_json("cache", "list") == []
        assert holdfast("cache", "list", "--db", "nowhere.db").exit_code == 3
        assert not Path("nowhere.db").exists()


class TestShow:
    def test_it_shows_the_parts_the_run_and_the_result(self) -> None:
        blog()
        ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        entries = {entry["step"]: entry for entry in as_json("cache", "list")}
        (run,) = as_json("runs", "list")
        text = ok("cache", "show", entries["outline"]["key"][:12])
        assert f"by run {run['run_id']}" in text
        assert "  argument topic: " in text
        assert "  constant `STYLE`: " in text
        assert "result:\n  - tides\n  - tides\n  - plain\n" in text
        shown = as_json("cache", "show", entries["outline"]["key"])
        assert shown["result"] == {"v": ["tides", "tides", "plain"]}
        assert set(shown["parts"]) >= {"argument topic", "argument words", "constant `STYLE`"}
        assert "result:\n  TIDES TIDES PLAIN\n" in ok("cache", "show", entries["writer"]["key"][:12])

    def test_a_key_that_none_or_several_have_is_an_error(self, default_storage: SqlWorkflowStorage) -> None:
        put(default_storage.step_cache, make_entry("a"))
        put(default_storage.step_cache, make_entry("a", Place("ann"), result=b'{"v":1}'))
        key = make_entry("a").key.hex()
        assert holdfast("cache", "show", key).exit_code == 2
        assert as_json("cache", "show", key, "--user-id", "ann")["user_id"] == "ann"
        for unknown in ("zz", ""):
            result = holdfast("cache", "show", unknown)
            assert result.exit_code == 3
            assert "There is no result of a step in holdfast.db" in result.stderr

    def test_a_stream_says_how_many_events_it_has(self, default_storage: SqlWorkflowStorage) -> None:
        class Streaming(Workflow):
            @step(cache="session")
            def letters(self) -> Any:
                yield from "abc"

            def run(self) -> Any:
                yield from self.letters()

        assert len(list(Streaming(storage=default_storage, session_id="s").run())) == 3
        (entry,) = as_json("cache", "list")
        assert "result, after 3 event(s):\n  abc\n" in ok("cache", "show", entry["key"])


class TestWhy:
    def test_it_names_the_part_of_the_key_that_differs(self) -> None:
        blog()
        ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        blog('STYLE = "plain"', 'STYLE = "fine"')
        ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        second, first = (run["run_id"] for run in as_json("runs", "list"))
        found = as_json("cache", "why", second)
        assert [(each["step"], each["reason"]) for each in found] == [
            ("outline", "constant `STYLE` changed"),
            ("write", "argument `outline` differs"),
            ("writer", "argument `message` differs"),
        ]
        assert {each["nearest_run_id"] for each in found} == {first}
        assert found[0]["differing"] == ["constant `STYLE`"]
        assert {each["reason"] for each in as_json("cache", "why", first)} == {"no earlier result"}
        (titles, row) = ok("cache", "why", second[:10], "write").splitlines()
        assert titles.split()[:4] == ["STEP", "NAME", "SCOPE", "WHY"]
        assert "argument `outline` differs" in row

    def test_a_run_that_computed_nothing_for_others_says_so(self) -> None:
        blog()
        ok("run", "work.py:Slow")
        (run,) = as_json("runs", "list")
        result = holdfast("cache", "why", run["run_id"])
        assert "the run computed no step that is kept" in result.stderr
        assert result.stdout == ""
        assert holdfast("cache", "why", "nothing").exit_code == 3

    def test_a_step_that_the_run_does_not_have_is_not_found(self) -> None:
        blog()
        ok("run", "work.py:Slow", "--session-id", "none")
        ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        second, first = (run["run_id"] for run in as_json("runs", "list"))
        result = holdfast("cache", "why", second[:10], "nosuch\x1b")
        assert (result.exit_code, result.stdout) == (3, "")
        assert f"Run '{second}' has no step 'nosuch\\x1b'. It has: fetch, outline, count, write, " in result.stderr
        assert "It has: none." in holdfast("cache", "why", first, "write").stderr

    def test_a_step_that_was_answered_or_is_not_kept_needs_no_reason(self) -> None:
        blog()
        for _ in range(2):
            ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        run_id = as_json("runs", "list")[0]["run_id"]
        for name in ("fetch", "write"):
            result = holdfast("cache", "why", run_id, name)
            assert result.exit_code == 0
            assert f"the run computed no step named {name} that is kept for later runs" in result.stderr


class TestPrune:
    def test_it_deletes_what_has_expired_and_says_how_much(
        self, default_storage: SqlWorkflowStorage, fake_clock: FakeClock
    ) -> None:
        put(default_storage.step_cache, make_entry("a", step="old", result=b"x" * 1_000), ttl=60)
        put(default_storage.step_cache, make_entry("b", Place("ann", "s"), step="old", scope="session"), ttl=60)
        put(default_storage.step_cache, make_entry("c", step="good"), ttl=600)
        fake_clock.seconds += 61
        assert ok("cache", "prune") == "deleted 2 result(s) of 1.01 kB\n"
        assert keys(default_storage) == ["good"]
        assert as_json("cache", "prune") == {"deleted": 0, "size": 0}

    def test_it_evicts_nothing_beyond_that_unless_it_is_told_to(
        self, default_storage: SqlWorkflowStorage, fake_clock: FakeClock
    ) -> None:
        for name in "abcd":
            put(default_storage.step_cache, make_entry(name, step=name, result=b"x" * 100))
            fake_clock.seconds += 20  # longer than the lease of whoever computed it
        default_storage.step_cache.count_hits({(NOBODY, make_entry("a").key): 1})
        assert as_json("cache", "prune") == {"deleted": 0, "size": 0}
        result = holdfast("cache", "prune", "--max-size", "250B")
        assert result.exit_code == 2
        assert "give --yes" in result.stderr
        assert len(keys(default_storage)) == 4
        assert as_json("cache", "prune", "--max-size", "250B", "--yes") == {"deleted": 2, "size": 200}
        assert sorted(keys(default_storage)) == ["a", "d"]

    def test_it_deletes_what_is_older_than_it_is_told(
        self, default_storage: SqlWorkflowStorage, fake_clock: FakeClock
    ) -> None:
        put(default_storage.step_cache, make_entry("a", step="old"))
        fake_clock.seconds += 3 * 86_400
        put(default_storage.step_cache, make_entry("b", step="new"))
        fake_clock.seconds += 60
        assert as_json("cache", "prune", "--older-than", "4d", "--yes")["deleted"] == 0
        assert as_json("cache", "prune", "--older-than", "2d", "--yes")["deleted"] == 1
        assert keys(default_storage) == ["new"]

    @pytest.mark.parametrize("words", [["--older-than", "soon"], ["--max-size", "100 miles"], ["--max-size", "-1"]])
    def test_what_is_no_age_or_size_is_wrong_use(self, words: list[str], default_storage: SqlWorkflowStorage) -> None:
        put(default_storage.step_cache, make_entry("a"))
        assert holdfast("cache", "prune", *words, "--yes").exit_code == 2
        assert len(keys(default_storage)) == 1


class TestClear:
    def test_it_deletes_what_it_is_told_to_and_nothing_else(self, default_storage: SqlWorkflowStorage) -> None:
        cache = default_storage.step_cache
        put(cache, make_entry("a", step="one", workflow="W"))
        put(cache, make_entry("b", step="two", workflow="V"))
        put(cache, make_entry("c", Place("", "s"), step="three", workflow="V", scope="session"))
        assert ok("cache", "clear", "--step", "one", "--yes").startswith("deleted 1 result(s) of ")
        assert sorted(keys(default_storage)) == ["three", "two"]
        assert as_json("cache", "clear", "--workflow", "V", "--session-id", "s", "--yes")["deleted"] == 1
        assert keys(default_storage) == ["two"]
        assert as_json("cache", "clear", "--all", "--user-id", "ann", "--yes")["deleted"] == 0
        assert as_json("cache", "clear", "--all", "--yes")["deleted"] == 1
        assert keys(default_storage) == []

    @pytest.mark.parametrize("words", [[], ["--all", "--step", "one"], ["--user-id", "ann"]])
    def test_it_wants_to_be_told_what(self, words: list[str], default_storage: SqlWorkflowStorage) -> None:
        put(default_storage.step_cache, make_entry("a"))
        result = holdfast("cache", "clear", "--yes", *words)
        assert result.exit_code == 2
        assert "Say what is to be deleted" in result.stderr
        assert len(keys(default_storage)) == 1

    def test_where_nobody_can_be_asked_it_needs_to_be_confirmed(self, default_storage: SqlWorkflowStorage) -> None:
        put(default_storage.step_cache, make_entry("a"))
        assert holdfast("cache", "clear", "--all").exit_code == 2
        assert len(keys(default_storage)) == 1

    def test_what_is_cleared_is_computed_again(self) -> None:
        blog()
        ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        assert calls() == ["fetch", "outline", "write"]
        ok("cache", "clear", "--step", "write", "--yes")
        ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        assert calls() == ["fetch", "write"]


class Kept(Workflow):
    @step(cache=Cache("workflow", ttl="30d"))
    def shout(self, text: str) -> str:
        return text.upper()

    @step(cache="session")
    def count(self, text: str) -> int:
        return len(text)

    def run(self, text: str) -> str:
        return f"{self.shout(text)} {self.count(text)}"


def test_every_command_does_the_same_on_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres.schema() as url:
        monkeypatch.setenv("HOLDFAST_DB", url)
        storage = SqlWorkflowStorage(db_url=url)
        for text in ("tides", "tides", "moon"):
            Kept(session_id="s", storage=storage).run(text)
        listed = as_json("cache", "list", "--workflow", "Kept")
        assert sorted((entry["step"], entry["hits"]) for entry in listed) == [
            ("count", 0),
            ("count", 1),
            ("shout", 0),
            ("shout", 1),
        ]
        assert len(as_json("cache", "list", "--session-id", "s")) == 2
        newest = as_json("runs", "list")[0]["run_id"]
        assert {each["reason"] for each in as_json("cache", "why", newest)} == {"argument `text` differs"}
        shown = next(entry for entry in listed if entry["run_id"] == newest and entry["step"] == "shout")
        assert "result:\n  MOON\n" in ok("cache", "show", shown["key"])
        assert as_json("cache", "prune", "--max-size", "0", "--yes", "--older-than", "1d")["deleted"] == 4
        Kept(session_id="s", storage=storage).run("tides")
        assert as_json("cache", "clear", "--step", "count", "--yes")["deleted"] == 1
        assert [entry["step"] for entry in as_json("cache", "list")] == ["shout"]
        storage.close()
