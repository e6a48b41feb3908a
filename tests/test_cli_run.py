"""`holdfast run`, in this process and as a real one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli import as_json, holdfast, ok
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
        assert [response["content"] for response in responses] == ["salt", "1 notes"]
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

    @pytest.mark.parametrize(("target", "said"), [("Slow", "awaited\n"), ("Ticks", "tick 0\ntick 1\n")])
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
        with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
            holdfast("run", "broken:Anything")

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
        assert as_json("runs", "show", run["run_id"])["refused_patch"] == [{"op": "add", "path": "n", "value": 1}]
        assert "refused changes:\n  + n  1" in ok("runs", "show", run["run_id"])

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
        assert [run["status"] for run in as_json("runs", "list")] == ["cancelled"]
