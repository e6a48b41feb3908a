"""`holdfast runs`."""

from __future__ import annotations

import json

import pytest

from cli import as_json, holdfast, keep, ok
from holdfast.storage.sql import SqlWorkflowStorage

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

    def test_an_unknown_run_is_not_found(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        result = holdfast("runs", "show", "nothing")
        assert result.exit_code == 3
        assert "There is no run 'nothing' in holdfast.db" in result.stderr
