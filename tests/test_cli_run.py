"""`holdfast run`, in this process and as a real one."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli import as_json, holdfast, ok
from holdfast.cli import failures
from holdfast.errors import StorageReadOnly
from holdfast.storage.sql import SqlWorkflowStorage

pytestmark = pytest.mark.usefixtures("here")


class TestRun:
    def test_the_parameters_of_run_are_options_with_types_defaults_and_help(self) -> None:
        text = " ".join(ok("run", "work.py:Notes", "--help").split())
        assert "Keep a note." in text
        assert "--note TEXT what to remember. [required]" in text
        assert "--times INTEGER how often, at least once. [default: 1]" in text
        assert "--loud / --no-loud [default: False]" in text
        assert "--session-id" in text
        assert "Args:" not in text

    def test_what_is_yielded_is_printed_and_the_state_is_kept(self, default_storage: SqlWorkflowStorage) -> None:
        result = holdfast("run", "work.py:Notes", "--note", "salt", "--times", "2", "--session-id", "s")
        assert result.stdout == "salt\n2 notes\n"
        assert "database: holdfast.db" in result.stderr
        assert "session: s" in result.stderr
        assert ok("run", "work.py:Notes", "--note", "rice", "--loud", "--session-id", "s") == "RICE\n3 notes\n"
        assert as_json("sessions", "show", "s")["state"] == {"notes": ["salt", "salt", "rice"]}

    def test_json_is_one_object_for_each_response(self) -> None:
        lines = ok("run", "work.py:Notes", "--note", "salt", "--json", "--session-id", "s").splitlines()
        responses = [json.loads(line) for line in lines]
        assert [response["content"] for response in responses] == ["salt\n", "1 notes"]
        assert [response["sequence"] for response in responses] == [1, 2]
        assert {response["session_id"] for response in responses} == {"s"}

    def test_the_common_options_may_stand_before_the_target(self) -> None:
        lines = ok(
            "run", "--json", "--session-id", "s", "--db", "other.db", "work.py:Notes", "--note", "x"
        ).splitlines()
        assert json.loads(lines[0])["session_id"] == "s"
        assert Path("other.db").exists()
        assert not Path("holdfast.db").exists()

    def test_every_type_arrives_as_what_the_annotation_says(self) -> None:
        words = ["--ratio", "0.5", "--no-on", "--colour", "RED", "--size", "m", "--day", "2026-02-01", "--file", "a/b"]
        words += ["--tags", "x", "--tags", "y", "--numbers", "1", "--numbers", "1", "--numbers", "2"]
        words += ["--place", '{"name": "Hill", "height": 12}', "--sizes", '{"a": 1}']
        (response,) = map(json.loads, ok("run", "work.py:Everything", *words, "--json").splitlines())
        assert response["content"] == {
            "ratio": "0.5",
            "on": "False",
            "colour": "<Colour.RED: 1>",
            "size": "'m'",
            "day": "datetime.date(2026, 2, 1)",
            "file": f"{type(Path())().__class__.__name__}('a/b')",
            "tags": "['x', 'y']",
            "numbers": "{1, 2}",
            "place": "Place(name='Hill', height=12.0)",
            "sizes": "{'a': 1}",
            "default": "<Colour.BLUE: 2>",
            "untyped": "3",
        }

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["work.py:Notes"], "Missing option '--note'"),
            (["work.py:Notes", "--note", "x", "--times", "many"], "not a valid integer"),
            (["work.py:Notes", "--note", "x", "--colour", "red"], "No such option"),
            (["work.py:Everything", "--size", "xl"], "is not one of"),
            (["work.py:Everything", "--day", "tomorrow"], "is no datetime.date"),
            (["work.py:Everything", "--place", '{"height": "tall"}'], "name: Field required"),
            (["work.py:Noted", "--note", "x"], "It has: Notes, Everything"),
            (["work.py:Colour"], "no workflow class 'Colour'"),
            (["nowhere.py:Notes"], "There is no file nowhere.py"),
            (["no.such.module:Notes"], "There is no module 'no.such.module'"),
            (["work.py"], "does not name a workflow"),
            (["work.py:Notes", "--note", "x", "--session-id", "s" * 256], "session_id must have 1 to 255 characters"),
        ],
    )
    def test_wrong_use_says_what_is_wrong_and_exits_2(self, words: list[str], said: str) -> None:
        result = holdfast("run", *words)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stdout == ""

    def test_a_bool_without_a_default_is_required(self) -> None:
        words = ["--ratio", "1", "--colour", "RED", "--size", "s", "--day", "2026-01-01", "--file", "f"]
        result = holdfast("run", "work.py:Everything", *words, "--tags", "a", "--numbers", "1")
        assert result.exit_code == 2
        assert "--on" in result.stderr

    def test_a_parameter_that_is_named_as_an_option_of_ours_stands_after_the_target(self) -> None:
        assert ok("run", "--db", "mine.db", "work.py:Shadow", "--db", "theirs") == "db is theirs and json is 0\n"
        assert Path("mine.db").exists()

    @pytest.mark.parametrize(("target", "said"), [("Slow", "awaited\n"), ("Ticks", "tick 0 tick 1 \n")])
    def test_async_workflows_run_as_others_do(self, target: str, said: str) -> None:
        assert ok("run", f"work.py:{target}") == said

    def test_an_agents_pieces_are_joined_and_other_content_has_lines_of_its_own(self) -> None:
        assert ok("run", "work.py:Streams") == "one two three\nthen:\n  - a\n  - dict\nfour\n"

    def test_a_module_is_found_in_the_working_folder(self, here: Path) -> None:
        (here / "parcel").mkdir()
        (here / "parcel" / "__init__.py").touch()
        shutil.copy(here / "work.py", here / "parcel" / "flows.py")
        assert ok("run", "parcel.flows:Slow") == "awaited\n"

    def test_a_module_that_imports_what_is_missing_shows_its_own_error(self, here: Path) -> None:
        (here / "broken.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
        result = holdfast("run", "broken:Anything")
        assert result.exit_code == 1
        assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in result.stderr
        assert result.stderr.count("  File ") == 1
        assert "broken.py" in result.stderr
        whole = holdfast("run", "--traceback", "broken:Anything").stderr
        assert whole.count("  File ") > 1

    def test_a_failed_run_exits_1_with_its_traceback_and_is_recorded(self, default_storage: SqlWorkflowStorage) -> None:
        result = holdfast("run", "work.py:Fails", "--session-id", "s")
        assert result.exit_code == 1
        assert "ValueError: the oven is cold" in result.stderr
        assert "work.py" in result.stderr
        (run,) = as_json("runs", "list")
        assert run["status"] == "failed"
        assert run["run_id"] in result.stderr
        shown = ok("runs", "show", run["run_id"])
        assert "ValueError: the oven is cold" in shown
        assert as_json("sessions", "show", "s")["state"] == {"before": 1}

    def test_a_value_that_cannot_be_stored_and_a_conflict_exit_5_with_a_sentence(self) -> None:
        result = holdfast("run", "work.py:Unstorable", "--session-id", "s")
        assert result.exit_code == 5
        assert "session_state['lock']" in result.stderr
        assert "Traceback" not in result.stderr
        result = holdfast("run", "work.py:Conflicted", "--session-id", "t")
        assert result.exit_code == 5
        (run,) = as_json("runs", "list", "--session-id", "t")
        assert as_json("runs", "show", run["run_id"])["refused_patch"] == [{"op": "add", "path": "/n", "value": 1}]
        shown = ok("runs", "show", run["run_id"])
        assert "refused changes, made from version 0:\n  + n  1" in shown
        assert f"holdfast sessions apply t {run['run_id']}" in shown

    def test_stored_text_cannot_steer_the_terminal(self) -> None:
        assert ok("run", "work.py:Notes", "--note", "\x1b[31mred") == "\\x1b[31mred\n1 notes\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
    def test_an_interrupt_exits_130_and_keeps_what_the_run_did(self) -> None:
        script = Path(sys.executable).parent / "holdfast"
        running = subprocess.Popen(
            [str(script), "run", "work.py:Waits", "--session-id", "s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        assert running.stdout.readline() == "waiting\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 130, said
        assert "Traceback" not in said
        assert as_json("sessions", "show", "s")["state"] == {"begun": True}
        (run,) = as_json("runs", "list")
        assert run["status"] == "cancelled"
        assert said.splitlines()[-3:] == [
            "cancelled by Ctrl-C; session s is saved at version 1",
            f"run {run['run_id']} cancelled; holdfast runs show {run['run_id']}",
            f"to go on with it: holdfast runs resume {run['run_id']} work.py:Waits",
        ]

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
    def test_closed_output_ends_the_run_in_order(self) -> None:
        script = Path(sys.executable).parent / "holdfast"
        running = subprocess.Popen(
            [str(script), "run", "work.py:Endless", "--session-id", "s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "on and on\n"
        running.stdout.close()
        said = running.stderr.read()
        running.stderr.close()
        assert running.wait(timeout=60) == 1
        assert "Traceback" not in said
        assert "cancelled by whoever read its output; session s is saved at version 1" in said
        (run,) = as_json("runs", "list")
        assert run["status"] == "cancelled"


class TestText:
    def test_pieces_are_joined_and_what_is_not_text_has_lines_of_its_own(self) -> None:
        assert ok("run", "work.py:Pieces") == "Hello\na: 1\n\none two\n"


class TestFailures:
    def told(self, *words: str) -> list[str]:
        """What is said about the failure: stderr without the lines that name the database and the session."""
        result = holdfast("run", *words, "--session-id", "s")
        assert result.exit_code == 1
        return result.stderr.splitlines()[2:]

    def test_the_last_lines_name_the_run_and_what_goes_on_with_it(self) -> None:
        for words, db in (([], ""), (["--db", "my notes.db"], " --db 'my notes.db'")):
            last = self.told("work.py:Fails", *words)[-2:]
            (run,) = as_json("runs", "list", *words)
            assert last == [
                f"run {run['run_id']} failed; holdfast runs show {run['run_id']}{db}",
                f"to go on with it: holdfast runs resume {run['run_id']} work.py:Fails{db}",
            ]

    def test_what_is_said_to_go_on_with_a_run_does_so(self, here: Path) -> None:
        words = shlex.split(self.told("work.py:Fails", "--db", "my notes.db")[-1].partition(": holdfast ")[2])
        text = (here / "work.py").read_text(encoding="utf-8")
        (here / "work.py").write_text(text.replace('raise ValueError("the oven is cold")', "pass"), encoding="utf-8")
        ok(*words)
        assert [run["status"] for run in as_json("runs", "list", "--db", "my notes.db")] == ["completed"]

    def test_of_a_run_that_cannot_be_resumed_nothing_is_said_to_go_on_with_it(self, here: Path) -> None:
        with (here / "work.py").open("a", encoding="utf-8") as file:
            file.write("class Forgetful(Workflow):\n    def run(self, lock=object()) -> None:\n        1 / 0\n")
        said = self.told("work.py:Forgetful")
        (run,) = as_json("runs", "list")
        assert said[-1] == f"run {run['run_id']} failed; holdfast runs show {run['run_id']}"
        assert "runs resume" not in ok("runs", "show", run["run_id"])

    def test_a_traceback_has_the_users_frames_only(self) -> None:
        lines = self.told("work.py:Fails")
        files = [line for line in lines if line.startswith("  File ")]
        assert len(files) == 1
        assert "work.py" in files[0]
        assert lines[-3] == "ValueError: the oven is cold"
        whole = self.told("--traceback", "work.py:Fails")
        assert any("drivers.py" in line for line in whole)

    def test_a_tools_error_has_the_users_frames_only(self) -> None:
        lines = self.told("work.py:AsksATool")
        files = [line for line in lines if line.startswith("  File ")]
        assert len(files) == 2
        assert all("work.py" in file for file in files)
        assert lines[-3] == "ValueError: the library is closed"

    def test_an_error_with_a_note_of_ours_has_no_traceback(self) -> None:
        lines = self.told("work.py:Explained")
        assert lines[:-2] == ["ValueError: 401", "Holdfast: the server refused the key."]
        assert "Traceback (most recent call last):" in self.told("--traceback", "work.py:Explained")

    def test_a_long_traceback_is_cut_in_front(self) -> None:
        lines = self.told("work.py:Deep", "--depth", "40")
        assert lines[0].endswith("lines are left out; --traceback shows them")
        assert len(lines) == 1 + 25 + 2
        assert lines[-3] == "ValueError: too deep"
        assert "KeyError: 'nothing'" in lines

    def test_an_error_of_the_framework_itself_keeps_all_frames(self) -> None:
        lines = self.told("work.py:Inside")
        assert any("drivers.py" in line for line in lines)

    def test_a_group_of_errors_is_told_without_the_machinery(self) -> None:
        def fail() -> None:
            raise ValueError("one of several")

        try:
            click.Context(click.Command("x")).invoke(fail)
        except ValueError as error:
            group = ExceptionGroup("several", [error])
        files = [[line for line in failures.lines(group, whole=whole) if "File " in line] for whole in (False, True)]
        assert len(files[0]) == 2
        assert len(files[1]) > 2

    def test_ours_are_sentences_and_name_the_run_too(self) -> None:
        result = holdfast("run", "work.py:Unstorable", "--session-id", "s")
        (run,) = as_json("runs", "list")
        assert "Traceback" not in result.stderr
        assert result.stderr.splitlines()[-2] == f"run {run['run_id']} failed; holdfast runs show {run['run_id']}"
        assert "Traceback" in holdfast("run", "--traceback", "work.py:Unstorable").stderr

    def test_a_run_that_was_never_recorded_is_not_named(self) -> None:
        assert "failed" not in holdfast("run", "work.py:Notes", "--note", "x", "--session-id", "s" * 256).stderr

    def test_a_database_that_broke_meanwhile_is_told_beside_the_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(*_: object, **__: object) -> None:
            raise StorageReadOnly(where="holdfast.db", reason="the disk is gone")

        monkeypatch.setattr(SqlWorkflowStorage, "find_runs", gone)
        lines = self.told("work.py:Fails")
        assert lines[-2] == "ValueError: the oven is cold"
        assert "could not be looked up: holdfast.db cannot be written" in lines[-1]


class TestStorage:
    def test_what_the_class_declares_is_used_unless_a_database_is_named(self, here: Path) -> None:
        result = holdfast("run", "work.py:Declares")
        assert f"database: {here / 'declared.db'}, as Declares declares it" in result.stderr
        assert not Path("holdfast.db").exists()
        (found,) = as_json("sessions", "list", "--db", "declared.db")
        assert (found["session_id"], found["table"]) == ("declared", "declared")
        ok("run", "work.py:Declares", "--db", "other.db", "--session-id", "s")
        assert [found["session_id"] for found in as_json("sessions", "list", "--db", "other.db")] == ["s"]

    def test_a_failure_names_the_declared_database(self, here: Path) -> None:
        for line in holdfast("run", "work.py:Declares", "--fail").stderr.splitlines()[-2:]:
            assert line.endswith(f"--db {here / 'declared.db'}")

    def test_a_storage_in_memory_cannot_be_looked_at(self, here: Path) -> None:
        with (here / "work.py").open("a", encoding="utf-8") as file:
            file.write("Declares.storage = SqlWorkflowStorage(db_url='sqlite://')\n")
        last = holdfast("run", "work.py:Declares", "--fail").stderr.splitlines()[-1]
        assert last.endswith(" failed")
