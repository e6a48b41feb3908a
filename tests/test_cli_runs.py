"""`holdfast runs`."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from cli import Plain, as_json, holdfast, keep, ok
from holdfast import clock
from holdfast.records import RunStatus
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, make_run

pytestmark = pytest.mark.usefixtures("here")


class TestRuns:
    def test_the_list_shows_how_runs_ended(self) -> None:
        ok("run", "work.py:Slow", "--session-id", "s")
        holdfast("run", "work.py:Fails", "--session-id", "t")
        rows = ok("runs", "list").splitlines()
        assert rows[0].split()[:3] == ["RUN", "STATUS", "SESSION"]
        assert [row.split()[1:4] for row in rows[1:]] == [["failed", "t", "Fails"], ["completed", "s", "Slow"]]
        assert [run["session_id"] for run in as_json("runs", "list", "--status", "failed")] == ["t"]
        assert [run["session_id"] for run in as_json("runs", "list", "--session-id", "s")] == ["s"]

    def test_a_run_is_shown_with_its_input_and_output(self) -> None:
        ok("run", "work.py:Notes", "--note", "salt", "--user-id", "ann")
        (run,) = as_json("runs", "list", "--user-id", "ann")
        shown = as_json("runs", "show", run["run_id"])
        assert shown["input"] == {"note": "salt", "times": 1, "loud": False}
        assert "1 notes" in json.dumps(shown["output"])
        assert shown["traceback"] is None
        text = ok("runs", "show", run["run_id"])
        assert "status: completed" in text
        assert "  note: salt\n" in text
        assert "user:         ann" in text

    def test_the_beginning_of_an_id_is_enough_if_it_is_that_of_one_run(
        self, default_storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workflow = Plain(session_id="s", storage=default_storage)
        new_id = clock.new_id
        for run_id in ("abc1", "abd2", "ab"):
            ids = iter([run_id])
            monkeypatch.setattr(clock, "new_id", lambda ids=ids: next(ids, None) or new_id())
            workflow.run(lambda state: None)
        assert as_json("runs", "show", "abc")["run_id"] == "abc1"
        assert as_json("runs", "show", "ab")["run_id"] == "ab"
        result = holdfast("runs", "show", "a")
        assert result.exit_code == 2
        assert "3 runs have ids that begin with 'a': ab, abd2, abc1" in result.stderr
        assert holdfast("runs", "show", "").exit_code == 3

    def test_one_that_did_not_end_well_shows_the_command_that_goes_on_with_it(
        self, default_storage: SqlWorkflowStorage
    ) -> None:
        writer = Writer(default_storage)
        how = {
            "done": (RunStatus.completed, "alive"),
            "goes-on": (RunStatus.running, "alive"),
            "failed": (RunStatus.failed, "alive"),
            "cancelled": (RunStatus.cancelled, "alive"),
            "killed": (RunStatus.running, "dead"),
        }
        for run_id, (status, process_id) in how.items():
            run = make_run(status=status, input=b"{}", run_id=run_id, process_id=process_id)
            default_storage.commit(replace(writer.prepared({}), patch=None, run=run))
        default_storage.beat("dead", stopped=True)
        shown = {run_id: ok("runs", "show", run_id, "--db", "./holdfast.db") for run_id in how}
        told = {run_id: "go on with it" in text for run_id, text in shown.items()}
        assert [run_id for run_id, is_told in told.items() if is_told] == ["failed", "cancelled", "killed"]
        assert "\ngo on with it: holdfast runs resume failed --db ./holdfast.db\n" in shown["failed"]

    def test_what_a_resumed_run_took_is_not_told_from_the_time_between_its_attempts(
        self, default_storage: SqlWorkflowStorage
    ) -> None:
        writer = Writer(default_storage)
        for run_id, attempt in (("once", 1), ("again", 3)):
            run = make_run(run_id=run_id, attempt=attempt, started_at=0.0, ended_at=150.0)
            default_storage.commit(replace(writer.prepared({}), patch=None, run=run))
        lines = ok("runs", "list").splitlines()
        rows = {line.split()[0]: line for line in lines}
        assert "  2 min 30 s  " in rows["once"]
        assert "  up to 2 min 30 s  " in rows["again"]
        assert "took:         2 min 30 s\n" in ok("runs", "show", "once")
        text = ok("runs", "show", "again")
        assert "took:         up to 2 min 30 s\n" in text
        assert "attempt:      3; the time between attempts is in what it took\n" in text

    def test_json_has_input_and_output_as_they_are_stored(self) -> None:
        ok("run", "work.py:Echo", "--day", "2026-02-01")
        (run,) = as_json("runs", "list")
        shown = as_json("runs", "show", run["run_id"])
        assert shown["input"] == {"day": {"$hf": ["date", "2026-02-01"]}}
        assert shown["output"] == {"$hf": ["tuple", [{"$hf": ["date", "2026-02-01"]}, 1]]}

    def test_a_session_that_was_never_stored_has_no_runs(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        assert as_json("runs", "list", "--session-id", "never") == []

    def test_an_unknown_run_is_not_found(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        result = holdfast("runs", "show", "nothing")
        assert result.exit_code == 3
        assert "There is no run 'nothing' in holdfast.db" in result.stderr
