"""`holdfast sessions copy`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from cli import Plain, as_json, damage, holdfast, keep, ok, process
from holdfast import clock
from holdfast.records import Commit
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import everything, make_run

pytestmark = pytest.mark.usefixtures("here")

BOTH = ("--from", "holdfast.db", "--to", "new/copy.db")


def same(table: str = "workflow_sessions", user_id: str = "") -> bool:
    with (
        closing(SqlWorkflowStorage(table, db_file="holdfast.db")) as source,
        closing(SqlWorkflowStorage(table, db_file="new/copy.db")) as copy,
    ):
        assert copy.check() == ()
        return everything(source, user_id) == everything(copy, user_id)


class TestCopy:
    def test_everything_of_all_tables_and_users_is_copied_and_said(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "a", {"n": 1}, {"n": 2, "long": "x" * 90_000})
        keep(default_storage, "a", {"n": 3}, user_id="ann")
        with closing(SqlWorkflowStorage("others", db_file="holdfast.db")) as others:
            keep(others, "b", {"n": 4})
            run = make_run("", "only a run", run_id="r")
            others.commit(Commit("", "only a run", clock.new_id(), 0, "", "Plain", None, run=run))
        told = as_json("sessions", "copy", *BOTH)
        found = [
            (each["table"], each["session_id"], each["user_id"], each["outcome"], each["version"], each["written_runs"])
            for each in told
        ]
        assert found == [
            ("others", "b", None, "copied", 1, 1),
            ("others", "only a run", None, "copied", 0, 1),
            ("workflow_sessions", "a", None, "copied", 2, 2),
            ("workflow_sessions", "a", "ann", "copied", 1, 1),
        ]
        assert all(len(each["sha256"]) == 64 and each["error"] is None for each in told)
        assert same()
        assert same("others")
        assert same(user_id="ann")
        again = as_json("sessions", "copy", *BOTH)
        assert {each["outcome"] for each in again} == {"complete"}
        assert [each["sha256"] for each in again] == [each["sha256"] for each in told]

    def test_it_is_narrowed_to_a_table_a_user_or_named_sessions(self, default_storage: SqlWorkflowStorage) -> None:
        for user_id in (None, "ann"):
            for name in ("a", "b", "c"):
                keep(default_storage, name, {"n": 1}, user_id=user_id)
        with closing(SqlWorkflowStorage("others", db_file="holdfast.db")) as others:
            keep(others, "a", {"n": 4})
        table = ("--table", "workflow_sessions")
        named = as_json("sessions", "copy", *BOTH, "a", "b", *table, "--user-id", "ann")
        assert [(each["session_id"], each["user_id"]) for each in named] == [("a", "ann"), ("b", "ann")]
        listed = as_json("sessions", "list", "--db", "new/copy.db")
        assert sorted((each["session_id"], each["table"]) for each in listed) == [
            ("a", "workflow_sessions"),
            ("b", "workflow_sessions"),
        ]
        assert holdfast("sessions", "copy", *BOTH, "a", "never").exit_code == 3
        rows = ok("sessions", "copy", *BOTH, "--user-id", "ann").splitlines()
        assert rows[0].split() == ["SESSION", "USER", "TABLE", "OUTCOME", "VERSION", "CHANGES", "RUNS", "SHA-256"]
        assert [row.split()[:6] for row in rows[1:]] == [
            ["a", "ann", "workflow_sessions", "complete", "1", "0"],
            ["b", "ann", "workflow_sessions", "complete", "1", "0"],
            ["c", "ann", "workflow_sessions", "copied", "1", "1"],
        ]

    def test_one_that_is_something_else_there_is_left_alone_and_told(self, default_storage: SqlWorkflowStorage) -> None:
        for name in ("a", "b", "c"):
            keep(default_storage, name, {"n": 1})
        with closing(SqlWorkflowStorage(db_file="new/copy.db")) as copy:
            keep(copy, "b", {"n": "theirs"})
        result = holdfast("sessions", "copy", *BOTH)
        assert result.exit_code == 5
        assert [row.split()[3:5] for row in result.stdout.splitlines()[1:]] == [
            ["copied", "1"],
            ["not", "copied"],
            ["copied", "1"],
        ]
        assert "it was created independently. It was left as it is" in " ".join(result.stderr.split())
        assert "1 of 3 sessions were not copied" in result.stderr
        told = json.loads(holdfast("sessions", "copy", *BOTH, "--json").stdout)
        assert [each["outcome"] for each in told] == ["complete", None, "complete"]
        assert told[1]["error"]["type"] == "SessionDiffers"
        assert as_json("sessions", "show", "b", "--db", "new/copy.db")["state"] == {"n": "theirs"}

    def test_a_damaged_session_holds_up_no_other(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "a", {"text": "a well known text"})
        keep(default_storage, "b", {"n": 1})
        default_storage.close()
        damage(b"a well known text", b"a well kn0wn text")
        result = holdfast("sessions", "copy", *BOTH)
        assert result.exit_code == 6
        assert "1 problem with holdfast.db" in result.stderr
        assert [row.split()[3] for row in result.stdout.splitlines()[1:]] == ["not", "copied"]

    def test_a_copy_is_brought_up_to_date(self, default_storage: SqlWorkflowStorage) -> None:
        keep(default_storage, "s", {"n": 1})
        ok("sessions", "copy", *BOTH)
        keep(default_storage, "s", {"n": 2}, {"n": 3})
        (told,) = as_json("sessions", "copy", *BOTH)
        assert (told["outcome"], told["version"], told["written_changes"], told["written_runs"]) == (
            "continued",
            3,
            2,
            2,
        )
        assert same()

    @pytest.mark.parametrize("to", ["holdfast.db", "./holdfast.db", "sqlite:///holdfast.db", "sqlite://"])
    def test_the_target_is_another_database_that_lasts(self, default_storage: SqlWorkflowStorage, to: str) -> None:
        keep(default_storage, "s", {"n": 1})
        result = holdfast("sessions", "copy", "--from", "holdfast.db", "--to", to)
        assert result.exit_code == 2
        assert "--to must name another database" in result.stderr

    def test_a_source_that_does_not_exist_is_not_made(self, here: Path) -> None:
        assert holdfast("sessions", "copy", "--from", "nowhere.db", "--to", "new.db").exit_code == 3
        assert not Path("nowhere.db").exists()
        assert not Path("new.db").exists()

    @pytest.mark.crash
    @pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
    def test_killed_in_the_middle_it_is_continued(self, default_storage: SqlWorkflowStorage) -> None:
        for name in ("a", "b"):
            workflow = Plain(session_id=name, storage=default_storage)
            for number in range(150):
                workflow.session_state["n"] = number
                workflow.session_state.setdefault("all", []).append("x" * 200)
                workflow.write_to_storage()
        script = Path(sys.executable).parent / "holdfast"
        kills = 0
        for delay in (0.0, 0.05, 0.1):
            seen = versions()
            running = subprocess.Popen(
                [str(script), "sessions", "copy", *BOTH], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while running.poll() is None and versions() == seen:
                time.sleep(0.005)
            time.sleep(delay)
            if running.poll() is None:
                os.kill(running.pid, signal.SIGKILL)
                kills += 1
            running.wait()
            with closing(SqlWorkflowStorage(db_file="new/copy.db")) as copy:
                assert copy.check() == ()
        assert kills
        partial = versions()
        done = process("sessions", "copy", *BOTH, "--json")
        assert done.returncode == 0, done.stderr
        assert sum(each["written_changes"] for each in json.loads(done.stdout)) == 300 - sum(partial.values())
        assert same()


def versions() -> dict[str, int]:
    """How far the copy has come."""
    if not Path("new/copy.db").exists():
        return {}
    with closing(SqlWorkflowStorage(db_file="new/copy.db")) as copy:
        return {info.session_id: info.version for info in copy.find_sessions(None)}
