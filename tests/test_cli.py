"""The command `holdfast`, in this process and as a real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from holdfast import Workflow
from holdfast.cli import COMMANDS, command
from holdfast.cli.database import narrowing_options
from holdfast.cli.exit_status import exit_status
from holdfast.cli.output import aligned, brief, cost, duration, moment, printable, readable
from holdfast.cli.sessions import keep_history
from holdfast.errors import HoldfastError, InvalidInput, StateConflict
from holdfast.storage.sql import SqlWorkflowStorage

ROOT = Path(__file__).parent.parent

WORKFLOWS = '''
import asyncio, datetime, enum
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from holdfast import Agent, RunResponse, Workflow


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Place(BaseModel):
    name: str
    height: float = 0.0


class Notes(Workflow):
    """Keeps notes."""

    def run(self, note: str, times: int = 1, loud: bool = False) -> Iterator[str]:
        """Keep a note.

        Args:
            note: what to remember.
            times: how often,
                at least once.
        """
        for _ in range(times):
            self.session_state.setdefault("notes", []).append(note)
        yield note.upper() if loud else note
        yield f"{len(self.session_state['notes'])} notes"


class Everything(Workflow):
    def run(
        self,
        ratio: float,
        on: bool,
        colour: Colour,
        size: Literal["s", "m"],
        day: datetime.date,
        file: Path,
        tags: list[str],
        numbers: set[int],
        place: Place | None = None,
        sizes: dict[str, int] | None = None,
        default: Colour = Colour.BLUE,
        untyped=3,
    ) -> dict:
        return {name: repr(value) for name, value in locals().items() if name not in ("self", "__class__")}


class Shadow(Workflow):
    def run(self, db: str, json: int = 0) -> str:
        return f"db is {db} and json is {json}"


class Slow(Workflow):
    async def run(self) -> str:
        await asyncio.sleep(0)
        self.session_state["slow"] = True
        return "awaited"


class Ticks(Workflow):
    async def run(self, n: int = 2) -> AsyncIterator[str]:
        for i in range(n):
            yield f"tick {i}"


class Streams(Workflow):
    echo = Agent(lambda message: iter(message.split("|")))

    def run(self) -> Iterator[RunResponse]:
        yield from self.echo.run("one |two |three", stream=True)
        yield RunResponse(content={"then": ["a", "dict"]})
        yield RunResponse()
        yield from self.echo.run("four", stream=True)


class Fails(Workflow):
    def run(self) -> None:
        self.session_state["before"] = 1
        raise ValueError("the oven is cold")


class Unstorable(Workflow):
    def run(self) -> None:
        self.session_state["lock"] = object()


class Conflicted(Workflow):
    def run(self) -> None:
        self.session_state["n"] = 1
        other = Conflicted(session_id=self.session_id, storage=self.storage)
        other.session_state["n"] = 2
        other.write_to_storage()


class Waits(Workflow):
    def run(self) -> Iterator[str]:
        self.session_state["begun"] = True
        yield "waiting"
        import time
        time.sleep(60)
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the workflows above, and no settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("HOLDFAST_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "work.py").write_text(WORKFLOWS, encoding="utf-8")
    return tmp_path


def holdfast(*words: str, given: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(command, list(words), input=given, prog_name="holdfast")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*words: str, given: str | bytes | None = None) -> str:
    result = holdfast(*words, given=given)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*words: str) -> Any:
    return json.loads(ok(*words, "--json"))


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / "holdfast"
    return subprocess.run(
        [str(script), *words], capture_output=True, text=True, timeout=120, check=False, encoding="utf-8", **options
    )


class Plain(Workflow):
    """Lets a test put anything into a session."""

    def run(self, change: Callable[[dict[Any, Any]], None]) -> None:
        change(self.session_state)


@pytest.fixture
def storage(here: Path) -> Iterator[SqlWorkflowStorage]:
    """The storage that the commands find without options."""
    storage = SqlWorkflowStorage(db_file="holdfast.db")
    yield storage
    storage.close()


def keep(storage: SqlWorkflowStorage, session_id: str, *states: dict[Any, Any], user_id: str | None = None) -> str:
    """Make one version for each state; returns the id of the last run."""
    workflow = Plain(session_id=session_id, user_id=user_id, storage=storage)
    for state in states:
        workflow.run(lambda live, state=state: (live.clear(), live.update(state)))
    assert workflow.run_id is not None
    return workflow.run_id


class TestHelp:
    def test_it_lists_every_command_and_loads_no_heavy_package(self) -> None:
        code = (
            "import sys\nfrom holdfast.cli import main\nsys.argv = ['holdfast', '--help']\n"
            "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert all(name in done.stdout for name in COMMANDS)
        loaded = set(done.stderr.split())
        assert "click" in loaded
        assert not loaded & {"pydantic", "pydantic_ai", "rich", "msgspec", "holdfast.workflow"}

    def test_the_text_of_the_list_is_that_of_the_commands(self) -> None:
        context = click.Context(command)
        for name, text in COMMANDS.items():
            loaded = command.get_command(context, name)
            assert loaded is not None
            assert loaded.name == name
            assert loaded.get_short_help_str(200) == text

    def test_every_command_and_option_has_help(self) -> None:
        def walk(found: click.Command, path: str) -> None:
            context = click.Context(found)
            assert found.get_short_help_str(), path
            for parameter in found.params:
                if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
                    assert parameter.help, f"{path} {parameter.opts}"
            if isinstance(found, click.Group):
                for name in found.list_commands(context):
                    walk(found.get_command(context, name), f"{path} {name}")  # type: ignore[arg-type]

        walk(command, "holdfast")

    def test_every_command_stands_on_the_page_about_the_command_line(self) -> None:
        page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            inner = found.list_commands(context) if isinstance(found, click.Group) else []
            for path in [f"{name} {sub}" for sub in inner] or [name]:
                assert f"`holdfast {path}" in page

    def test_every_exit_status_stands_on_the_page_about_the_command_line(self) -> None:
        def below(kind: type[HoldfastError]) -> Iterator[type[HoldfastError]]:
            yield kind
            for inner in kind.__subclasses__():
                yield from below(inner)

        page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
        documented = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
        used = {exit_status(kind.__new__(kind)) for kind in below(HoldfastError)}
        assert documented == used | {0, 130}

    def test_an_unknown_command_is_wrong_use(self) -> None:
        result = holdfast("fly")
        assert result.exit_code == 2
        assert "No such command 'fly'" in result.stderr

    def test_the_version_is_told(self) -> None:
        assert re.fullmatch(r"holdfast \d+\.\d+\.\d+\n", ok("--version"))


class TestRun:
    def test_the_parameters_of_run_are_options_with_types_defaults_and_help(self) -> None:
        text = " ".join(ok("run", "work.py:Notes", "--help").split())
        assert "Keep a note." in text
        assert "--note TEXT what to remember. [required]" in text
        assert "--times INTEGER how often, at least once. [default: 1]" in text
        assert "--loud / --no-loud [default: False]" in text
        assert "--session-id" in text
        assert "Args:" not in text

    def test_what_is_yielded_is_printed_and_the_state_is_kept(self, storage: SqlWorkflowStorage) -> None:
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

    def test_a_failed_run_exits_1_with_its_traceback_and_is_recorded(self, storage: SqlWorkflowStorage) -> None:
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


class TestSessions:
    def test_the_list_spans_users_and_tables_and_is_narrowed_by_options(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "a", {"n": 1})
        keep(storage, "b", {"n": 1}, {"n": 2}, user_id="ann")
        other = SqlWorkflowStorage(table_name="others", db_file="holdfast.db")
        keep(other, "c", {"n": 1})
        other.close()
        found = as_json("sessions", "list")
        assert [(entry["session_id"], entry["user_id"], entry["version"], entry["table"]) for entry in found] == [
            ("c", None, 1, "others"),
            ("b", "ann", 2, "workflow_sessions"),
            ("a", None, 1, "workflow_sessions"),
        ]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--user-id", "ann")] == ["b"]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--user-id", "")] == ["c", "a"]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--table", "others")] == ["c"]
        assert [entry["session_id"] for entry in as_json("sessions", "list", "--limit", "1")] == ["c"]
        table = ok("sessions", "list").splitlines()
        assert table[0].split()[:4] == ["SESSION", "USER", "WORKFLOW", "VERSION"]
        assert table[2].split()[:4] == ["b", "ann", "Plain", "2"]

    def test_an_empty_database_lists_nothing(self, storage: SqlWorkflowStorage) -> None:
        storage.find_sessions(None)
        keep(storage, "a", {"n": 1})
        ok("sessions", "delete", "a", "--yes")
        assert ok("sessions", "list") == ""
        assert as_json("sessions", "list") == []
        assert ok("runs", "list") == ""

    def test_an_id_that_several_owners_have_must_be_narrowed(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "same", {"of": "nobody"})
        keep(storage, "same", {"of": "ann"}, user_id="ann")
        result = holdfast("sessions", "show", "same")
        assert result.exit_code == 2
        assert "--user-id 'ann'" in result.stderr
        assert as_json("sessions", "show", "same", "--user-id", "ann")["state"] == {"of": "ann"}
        assert as_json("sessions", "show", "same", "--user-id", "")["state"] == {"of": "nobody"}

    def test_the_state_is_shown_readably_and_as_it_was_at_a_version(self, storage: SqlWorkflowStorage) -> None:
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        keep(storage, "s", {"posts": [{"topic": "tides", "text": "one\ntwo"}], 7: {1, 2}}, {"at": at, "none": None})
        first = ok("sessions", "show", "s", "--version", "1")
        assert "version:  1 of 2" in first
        assert "posts:\n  - topic: tides\n    text:\n      one\n      two\n7: {1, 2}\n" in first
        second = ok("sessions", "show", "s")
        assert "at: 2026-01-31" in second
        assert "none: null" in second
        assert as_json("sessions", "show", "s", "--version", "1")["state"]["7"] == "{1, 2}"

    def test_large_values_are_shown_whole(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"large": "x" * 100_000, "small": 1})
        assert as_json("sessions", "show", "s")["state"]["large"] == "x" * 100_000

    def test_history_says_what_changed_at_which_version_by_which_run(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"posts": ["a"], "draft": 1}, {"posts": ["a", "b"], "draft": 1})
        last = keep(storage, "s", {"posts": ["a", "b"], "new": True})
        entries = as_json("sessions", "history", "s")
        assert [entry["version"] for entry in entries] == [3, 2, 1]
        assert entries[0]["run_id"] == last
        assert entries[1]["patch"] == [{"op": "add", "path": "posts/-", "value": "b"}]
        text = ok("sessions", "history", "s", "--limit", "2").splitlines()
        assert text[0].startswith("version 3  ")
        assert text[0].endswith(f"run {last}")
        assert text[1:3] == ["  - draft", "  + new  true"]
        assert text[4] == '  + posts/-  "b"'
        assert len(text) == 5

    def test_a_change_made_outside_of_a_run_says_so(self, storage: SqlWorkflowStorage) -> None:
        workflow = Plain(session_id="s", storage=storage)
        workflow.session_state["n"] = 1
        workflow.write_to_storage()
        assert "outside a run" in ok("sessions", "history", "s")

    def test_diff_shows_values_before_and_after(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1, "posts": [{"t": "a"}, {"t": "b"}], "old": 0})
        keep(storage, "s", {"n": 1.0, "posts": [{"t": "b"}, {"t": "c"}], "new": {"k": 1}})
        keep(storage, "s", {"n": 1.0})
        lines = ok("sessions", "diff", "s", "1", "2").splitlines()
        assert lines[0] == "version 1 to version 2"
        assert lines[1:3] == ["- old", "    - 0"]
        assert "~ n" in lines
        assert lines[lines.index("~ n") + 1 :][:2] == ["    - 1", "    + 1.0"]
        assert lines[-2:] == ["+ new", '    + {"k": 1}']
        removed = as_json("sessions", "diff", "s")
        assert (removed["old"], removed["new"]) == (2, 3)
        assert {operation["op"] for operation in removed["patch"]} == {"remove"}
        assert as_json("sessions", "diff", "s", "0", "1")["patch"][0] == {"op": "add", "path": "n", "value": 1}

    def test_diff_finds_the_value_before_inside_of_nested_values(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"d": {"list": [0, {"deep": "x" * 50, 5: "five"}], "rest": "y" * 200}})
        keep(storage, "s", {"d": {"list": [0, {"deep": "x" * 50, 5: "FIVE"}], "rest": "y" * 200}})
        assert ok("sessions", "diff", "s").splitlines()[1:] == ["~ d/list/1/5", '    - "five"', '    + "FIVE"']

    def test_a_version_that_is_not_kept_is_not_found(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        for words in (["show", "s", "--version", "9"], ["diff", "s", "1", "9"]):
            result = holdfast("sessions", *words)
            assert result.exit_code == 3
            assert "Version 9 of session 's' is not kept" in result.stderr

    def test_rename_keeps_history_and_runs(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "old", {"n": 1}, {"n": 2})
        assert ok("sessions", "rename", "old", "new") == ""
        assert len(as_json("sessions", "history", "new")) == 2
        assert len(as_json("runs", "list", "--session-id", "new")) == 2
        keep(storage, "third", {"n": 1})
        assert holdfast("sessions", "rename", "third", "new").exit_code == 2
        assert holdfast("sessions", "rename", "old", "x").exit_code == 3
        assert holdfast("sessions", "rename", "new", "").exit_code == 2

    def test_delete_needs_yes_where_nobody_can_be_asked(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        result = holdfast("sessions", "delete", "s")
        assert result.exit_code == 2
        assert "--yes" in result.stderr
        ok("sessions", "delete", "s", "--yes")
        assert as_json("sessions", "list") == []
        assert as_json("runs", "list") == []
        assert holdfast("sessions", "delete", "s", "--yes").exit_code == 3

    def test_prune_forgets_history_of_one_session_or_of_all(self, storage: SqlWorkflowStorage) -> None:
        for name in ("a", "b"):
            keep(storage, name, *({"n": n, "text": "x" * 9_000 + str(n)} for n in range(12)))
        one = as_json("sessions", "prune", "a", "--keep", "1", "--yes")
        assert one["sessions"] == 1
        assert one["forgotten_changes"] > 0
        assert as_json("sessions", "show", "a")["state"]["n"] == 11
        assert "of 2 session(s)" in ok("sessions", "prune", "--keep", "1w", "--yes")
        assert len(as_json("sessions", "history", "b")) == 12
        assert holdfast("sessions", "prune", "--keep", "1").exit_code == 2

    @pytest.mark.parametrize("text", ["", "0", "-1", "3y", "1.5d", "ten", "9999999999"])
    def test_what_is_neither_a_number_nor_an_age_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="--keep is a number of versions"):
            keep_history(text)


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

    def test_an_unknown_run_is_not_found(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        result = holdfast("runs", "show", "nothing")
        assert result.exit_code == 3
        assert "There is no run 'nothing' in holdfast.db" in result.stderr


class TestDatabase:
    READING = (
        ["sessions", "list"],
        ["sessions", "show", "s"],
        ["sessions", "history", "s"],
        ["sessions", "diff", "s"],
        ["sessions", "rename", "s", "t"],
        ["sessions", "export", "s"],
        ["sessions", "delete", "s", "--yes"],
        ["sessions", "prune", "--keep", "1", "--yes"],
        ["runs", "list"],
        ["runs", "show", "r"],
    )

    @pytest.mark.parametrize("words", READING, ids=" ".join)
    @pytest.mark.parametrize("db", ["missing.db", "sqlite:///missing.db"])
    def test_a_missing_database_is_not_found_and_not_made(self, words: list[str], db: str) -> None:
        result = holdfast(*words, "--db", db)
        assert result.exit_code == 3
        assert "There is no database at missing.db" in result.stderr
        assert not list(Path().glob("missing*"))

    @pytest.mark.parametrize("words", READING, ids=" ".join)
    def test_a_foreign_database_gives_a_sentence_and_stays_untouched(self, words: list[str]) -> None:
        Path("notes.db").write_bytes(b"My notes, which are not a database. " * 200)
        before = Path("notes.db").read_bytes()
        result = holdfast(*words, "--db", "notes.db")
        assert result.exit_code == 4
        assert "is not a Holdfast database" in result.stderr
        assert Path("notes.db").read_bytes() == before

    @pytest.mark.parametrize("words", READING, ids=" ".join)
    def test_another_programs_sqlite_database_stays_untouched(self, words: list[str]) -> None:
        import sqlite3

        connection = sqlite3.connect("theirs.db")
        connection.execute("CREATE TABLE accounts (id INTEGER)")
        connection.commit()
        connection.close()
        before = Path("theirs.db").read_bytes()
        assert holdfast(*words, "--db", "theirs.db").exit_code in (0, 3, 4)
        assert Path("theirs.db").read_bytes() == before

    def test_it_is_named_by_option_then_environment_then_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_DB", "sqlite:///env.db")
        ok("run", "work.py:Slow", "--session-id", "env")
        assert [found["session_id"] for found in as_json("sessions", "list")] == ["env"]
        ok("run", "work.py:Slow", "--session-id", "opt", "--db", "opt.db")
        assert [found["session_id"] for found in as_json("sessions", "list", "--db", "opt.db")] == ["opt"]
        monkeypatch.delenv("HOLDFAST_DB")
        assert "database: holdfast.db" in holdfast("run", "work.py:Slow").stderr
        assert {path.name for path in Path().glob("*.db")} == {"env.db", "opt.db", "holdfast.db"}

    def test_a_table_that_is_not_there_is_wrong_use(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        result = holdfast("sessions", "list", "--table", "elsewhere")
        assert result.exit_code == 2
        assert "It has: workflow_sessions" in result.stderr

    def test_a_damaged_value_is_named_and_exits_6(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"word": "harmless"})
        storage.close()
        damage(b"harmless", b"harmful!")
        result = holdfast("sessions", "show", "s")
        assert result.exit_code == 6
        assert "does not match its checksum" in result.stderr
        result = holdfast("doctor")
        assert result.exit_code == 6
        assert "PROBLEM" in result.stdout
        assert "harm" not in result.output

    @pytest.mark.skipif(sys.platform == "win32", reason="the gate is a lock of POSIX")
    @pytest.mark.parametrize("words", [["sessions", "delete", "s", "--yes"], ["run", "work.py:Slow"]], ids=" ".join)
    def test_a_busy_database_gives_a_sentence(
        self, words: list[str], storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        keep(storage, "s", {"n": 1})
        storage.close()
        monkeypatch.setattr("holdfast.cli.database.LOCK_TIMEOUT", 0.2)
        with open("holdfast.db-gate", "rb") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            result = holdfast(*words)
        assert result.exit_code == 4
        assert "was busy for 0.2 s" in result.stderr

    def test_a_session_that_is_deleted_while_it_is_read_is_not_found(
        self, storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(storage, "s", {"large": "x" * 100_000})
        with monkeypatch.context() as patched:
            patched.setattr(SqlWorkflowStorage, "read_values", lambda *_, **__: {})
            assert holdfast("sessions", "show", "s").exit_code == 3
            patched.setattr(SqlWorkflowStorage, "load", lambda *_, **__: None)
            assert holdfast("sessions", "show", "s").exit_code == 3

    def test_a_database_in_memory_is_not_there_for_another_process(self) -> None:
        assert holdfast("sessions", "list", "--db", "sqlite://").exit_code == 3
        assert "There is no database at sqlite://" in ok("doctor", "--db", "sqlite://")

    def test_postgresql_is_said_to_be_unsupported(self) -> None:
        result = holdfast("sessions", "list", "--db", "postgresql://localhost/notes")
        assert result.exit_code == 2
        assert "not supported in this release" in result.stderr

    def test_all_reading_commands_take_the_same_options(self) -> None:
        @narrowing_options
        def probe() -> None: ...

        names = {parameter.name for parameter in probe.__click_params__}  # type: ignore[attr-defined]
        assert names == {"db", "table", "user_id"}


def damage(old: bytes, new: bytes) -> None:
    """Change stored bytes behind SQLite's back."""
    changed = 0
    for path in (Path("holdfast.db"), Path("holdfast.db-wal")):
        if path.exists():
            data = path.read_bytes()
            changed += data.count(old)
            path.write_bytes(data.replace(old, new))
    assert changed


class TestTransfer:
    STATE: dict[Any, Any] = {
        "at": datetime(2026, 1, 31, tzinfo=UTC),
        "numbers": [1, True, 1.0, -0.0, 1e22, 2**70, float("inf")],
        7: {"tuple": (1, 2), "set": {3}},
        "text": "NUL \0 and \ud800 and \u2028",
        "empty": {},
    }

    def test_an_exported_session_is_imported_exactly(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1}, self.STATE, user_id="ann")
        ok("sessions", "export", "s", "s.json")
        assert as_json("sessions", "import", "s.json", "--db", "new.db") == {
            "session_id": "s",
            "user_id": "ann",
            "version": 1,
        }
        copy = SqlWorkflowStorage(db_file="new.db")
        state = Plain(session_id="s", user_id="ann", storage=copy).session_state
        assert repr(dict(state)) == repr(self.STATE)
        assert copy.check() == ()
        copy.close()

    def test_history_is_imported_as_versions(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1}, {"n": 2, "long": "x" * 50_000}, self.STATE)
        text = ok("sessions", "export", "s", "--history")
        ok("sessions", "import", "-", "--session-id", "copy", given=text)
        for version in ("1", "2", "3"):
            old = as_json("sessions", "show", "s", "--version", version)["state"]
            assert as_json("sessions", "show", "copy", "--version", version)["state"] == old
        assert as_json("doctor")

    def test_a_pruned_history_is_imported_from_where_it_begins(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", *({"n": n, "text": "x" * 9_000 + str(n)} for n in range(12)))
        ok("sessions", "prune", "s", "--keep", "2", "--yes")
        kept = len(as_json("sessions", "history", "s"))
        assert kept < 12
        text = ok("sessions", "export", "s", "--history")
        ok("sessions", "import", "-", "--session-id", "copy", given=text)
        assert as_json("sessions", "show", "copy")["version"] == kept + 1
        assert as_json("sessions", "show", "copy")["state"]["n"] == 11

    def test_an_empty_state_is_imported_as_such(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1}, {})
        ok("sessions", "import", "-", "--session-id", "copy", given=ok("sessions", "export", "s"))
        assert as_json("sessions", "show", "copy")["state"] == {}

    def test_a_reformatted_file_is_still_exact(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", self.STATE)
        text = json.dumps(json.loads(ok("sessions", "export", "s")), indent=7, sort_keys=True)
        ok("sessions", "import", "-", "--session-id", "copy", given=text)
        assert as_json("sessions", "show", "copy")["state"] == as_json("sessions", "show", "s")["state"]

    def test_a_session_that_exists_is_not_overwritten(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        text = ok("sessions", "export", "s")
        keep(storage, "s", {"n": 2})
        result = holdfast("sessions", "import", "-", given=text)
        assert result.exit_code == 2
        assert "exists already" in result.stderr
        assert as_json("sessions", "show", "s")["state"] == {"n": 2}
        assert "imported s at version 1" in ok("sessions", "import", "-", "--user-id", "ben", given=text)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda package: package["values"].append(["k", "1"]), "its checksum does not match"),
            (lambda package: package.update(session_id="other"), "its checksum does not match"),
            (lambda package: package.update(holdfast_session=2), "format 2"),
            (lambda package: package.update(extra=1), "is not a session that"),
            (lambda package: package.pop("values"), "is not a session that"),
        ],
    )
    def test_a_changed_file_is_refused(
        self, storage: SqlWorkflowStorage, change: Callable[[dict[str, Any]], None], said: str
    ) -> None:
        keep(storage, "s", {"n": 1})
        package = json.loads(ok("sessions", "export", "s"))
        change(package)
        result = holdfast("sessions", "import", "-", "--db", "new.db", given=json.dumps(package))
        assert result.exit_code == 2
        assert said in result.stderr
        assert not Path("new.db").exists()

    @pytest.mark.parametrize(
        "values",
        [
            [["a", "1"], ["a", "2"]],
            [["a", '{"k":1,"k":2}']],
            [["a", "1e400"]],
            [["a", "NaN"]],
            [["a", " 1"]],
            [["a", "[1"]],
            [["a", ""]],
            [["a", "[" * 5000 + "]" * 5000]],
        ],
        ids=["repeated name", "repeated key", "1e400", "NaN", "spelling", "cut off", "nothing", "deep"],
    )
    def test_a_file_made_by_hand_is_held_to_what_holdfast_writes(self, values: list[list[str]]) -> None:
        result = holdfast("sessions", "import", "-", given=json.dumps(packaged(values=values)))
        assert result.exit_code == 2
        assert "of this file" in result.stderr
        assert not Path("holdfast.db").exists()

    @pytest.mark.parametrize("patch", ['[{"op":"add","path":"/n","value":2}]', '[{"op":"remove","path":"/x"}]', "no"])
    def test_a_history_that_does_not_lead_to_the_values_is_refused(self, patch: str) -> None:
        package = packaged(values=[["n", "1"]], base=[], history=[patch])
        result = holdfast("sessions", "import", "-", given=json.dumps(package))
        assert result.exit_code == 2
        assert "The history in this file" in result.stderr

    @pytest.mark.parametrize("text", [b"", b"not json", b"[]", b'{"session_id": "\xff"}', b"[" * 100_000])
    def test_what_is_no_export_is_refused(self, text: bytes) -> None:
        result = holdfast("sessions", "import", "-", given=text)
        assert result.exit_code == 2
        assert "is not a session that" in result.stderr

    def test_an_import_that_fails_half_way_leaves_nothing_behind(
        self, storage: SqlWorkflowStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(storage, "s", {"n": 1}, {"n": 2}, {"n": 3})
        text = ok("sessions", "export", "s", "--history")
        commit, made = SqlWorkflowStorage.commit, []

        def failing(self: SqlWorkflowStorage, given: Any) -> int:
            made.append(1)
            if len(made) == 3:
                raise OSError("the disk is gone")
            return commit(self, given)

        monkeypatch.setattr(SqlWorkflowStorage, "commit", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            holdfast("sessions", "import", "-", "--session-id", "copy", given=text)
        assert [entry["session_id"] for entry in as_json("sessions", "list")] == ["s"]


def packaged(**fields: Any) -> dict[str, Any]:
    """An export made by hand, with a right checksum."""
    import msgspec

    from holdfast.cli.transfer import Package, checksum

    head = {"holdfast_session": 1, "session_id": "s", "user_id": "", "workflow": "W", "version": 1}
    package = msgspec.convert(head | {"created_at": 0.0, "exported_at": 0.0} | fields, Package)
    package.sha256 = checksum(package)
    made: dict[str, Any] = msgspec.to_builtins(package)
    return made


class TestDoctor:
    def test_a_sound_database_is_said_to_be_sound(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        text = ok("doctor")
        assert "1 session(s), all checksums match" in text
        assert re.search(r"journal mode: wal", text)
        assert "free disk" in text
        assert "HOLDFAST_MODEL is not set" in text

    def test_a_missing_database_is_a_warning_and_is_not_made(self) -> None:
        checks = as_json("doctor", "--db", "folder/none.db")
        (found,) = [check for check in checks if check["name"] == "database"]
        assert found["state"] == "warning"
        assert not Path("folder").exists()

    def test_a_foreign_database_is_a_problem(self) -> None:
        Path("notes.db").write_text("not a database at all " * 100, encoding="utf-8")
        result = holdfast("doctor", "--db", "notes.db")
        assert result.exit_code == 6
        assert "is not a Holdfast database" in result.stdout

    def test_keys_are_never_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "canary-value")
        monkeypatch.setenv("HOLDFAST_MODEL", "openai:gpt-5-mini")
        result = holdfast("doctor")
        assert "OPENAI_API_KEY set" in result.stdout
        assert "ANTHROPIC_API_KEY not set" in result.stdout
        assert "openai-chat:" in result.stdout
        assert "canary" not in result.output

    def test_a_model_without_its_key_is_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_MODEL", "anthropic:claude-sonnet-4-5")
        states = [check["state"] for check in as_json("doctor") if check["name"] == "model"]
        assert "warning" in states
        monkeypatch.setenv("HOLDFAST_MODEL", "offline")
        assert [check["state"] for check in as_json("doctor") if check["name"] == "model"] == ["ok"]


class TestQuickstart:
    def test_the_second_call_in_another_process_finds_the_post_in_the_session(self) -> None:
        first = process("quickstart", "--db", "q.db")
        assert first.returncode == 0, first.stderr
        assert first.stdout.startswith("# ")
        assert "searching ..." in first.stderr
        assert re.search(r"[1-5] sources; writing", first.stderr)
        assert "saved as version 1 of session 'quickstart'" in first.stderr
        second = process("quickstart", "--db", "q.db")
        assert second.returncode == 0, second.stderr
        assert second.stdout == first.stdout
        assert "searching" not in second.stderr
        assert "from the session 'quickstart', version 1" in second.stderr
        assert re.search(r"saved .* s, \d+ model requests, [\d,]+ tokens and \$0", second.stderr)

    def test_json_tells_the_same(self) -> None:
        first = as_json("quickstart", "Exceptions")
        assert (first["from_session"], first["saved"], first["version"]) == (False, None, 1)
        second = as_json("quickstart", "Exceptions")
        assert second["from_session"]
        assert second["blog_post"] == first["blog_post"]
        assert second["saved"]["requests"] >= 2
        assert second["saved"]["cost"] == 0
        assert as_json("quickstart", "Generators")["version"] == 2

    def test_a_folder_of_ones_own_is_the_material(self, here: Path) -> None:
        (here / "texts").mkdir()
        (here / "texts" / "tides.md").write_text("# Tides\n\nThe moon pulls the sea. The water rises twice a day.\n")
        made = as_json("quickstart", "Tides", "--docs", "texts")
        assert made["session_id"] == "quickstart-texts"
        assert made["sources"] == 1
        assert "The moon pulls the sea." in made["blog_post"]
        assert "tides.md" in made["blog_post"]

    def test_a_topic_without_sources_still_makes_an_honest_post(self) -> None:
        made = as_json("quickstart", "zzzqqqxxx")
        assert made["sources"] == 0
        assert made["blog_post"]

    def test_another_model_may_be_named(self) -> None:
        result = holdfast("quickstart", "--model", "no-such-provider:model")
        assert result.exit_code == 1
        assert "no-such-provider" in result.stderr

    def test_another_run_of_the_session_does_not_count_as_the_one_that_wrote_the_post(self) -> None:
        ok("quickstart", "Exceptions")
        found = [as_json("quickstart", topic) for topic in ("Generators", "Exceptions", "Exceptions")]
        assert found[1]["saved"]["tokens"] == found[2]["saved"]["tokens"] > 0

    def test_an_error_of_ours_ends_with_its_own_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def conflict(*_: object) -> int:
            raise StateConflict(session_id="quickstart", base=0, current=1, run_id="r")

        monkeypatch.setattr(SqlWorkflowStorage, "commit", conflict)
        assert holdfast("quickstart").exit_code == 5

    def test_a_post_whose_run_is_gone_is_still_found(self, storage: SqlWorkflowStorage) -> None:
        ok("quickstart", "--session-id", "s")
        text = ok("sessions", "export", "s")
        ok("sessions", "import", "-", "--session-id", "copy", "--table", "generate_blog_post_workflows", given=text)
        found = as_json("quickstart", "--session-id", "copy")
        assert found["from_session"]
        assert found["saved"] is None
        assert "from the session 'copy'" in holdfast("quickstart", "--session-id", "copy").stderr

    def test_the_example_runs_as_a_script(self, here: Path) -> None:
        script = ROOT / "examples" / "blog_post_generator.py"
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, str(script), "Exceptions"], capture_output=True, text=True, check=True, cwd=here
            )
            assert "xception" in done.stdout
        assert (here / "tmp" / "workflows.db").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestTerminal:
    def spawn(self, *words: str) -> Any:
        import pexpect

        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        environment.pop("NO_COLOR", None)
        script = Path(sys.executable).parent / "holdfast"
        return pexpect.spawn(
            str(script), list(words), env=environment, dimensions=(40, 100), timeout=60, encoding="utf-8"
        )

    def read(self, *words: str) -> str:
        import pexpect

        child = self.spawn(*words)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0, child.before
        return str(child.before)

    def test_the_quickstart_previews_renders_and_finds_again(self) -> None:
        first = self.read("quickstart", "--db", "q.db")
        assert first.index("searching") < first.index("sources") < first.index("saved as version 1")
        assert "\x1b[" in first
        assert "# " not in re.sub(r"\x1b\[[\d;?]*\w", "", first).split("saved as version")[0].splitlines()[-1]
        second = self.read("quickstart", "--db", "q.db")
        assert "from the session" in second

    def test_history_is_coloured(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1}, {"n": 2}, {})
        text = self.read("sessions", "history", "s")
        assert "\x1b[32m  + n" in text
        assert "\x1b[33m  ~ n" in text
        assert "\x1b[31m  - n" in text

    def test_delete_asks_and_does_what_it_is_told(self, storage: SqlWorkflowStorage) -> None:
        keep(storage, "s", {"n": 1})
        for answer, left in (("n", 1), ("y", 0)):
            child = self.spawn("sessions", "delete", "s")
            child.expect(r"Delete session s at version 1, with its runs\? \[y/N\]")
            child.sendline(answer)
            child.expect("Aborted" if left else "deleted s")
            child.wait()
            child.close()
            assert child.exitstatus == (1 if left else 0)
            assert len(as_json("sessions", "list")) == left


class TestOutput:
    def test_nothing_unprintable_is_printed(self) -> None:
        assert printable("a\x1b\x07\u202eb\n") == "a\\x1b\\x07\\u202eb\\n"
        assert printable("a\n\tb\x9b", lines=True) == "a\n\tb\\x9b"

    def test_values_are_laid_out_in_lines(self) -> None:
        value = {"a": [], "b": {}, "c": "", "d": [[1], "two\nlines"], "e\x1b": 0.5}
        assert list(readable(value)) == [
            "a: []",
            "b: {}",
            'c: ""',
            "d:",
            "  - - 1",
            "  - two",
            "    lines",
            "e\\x1b: 0.5",
        ]

    def test_figures_are_written_for_people(self) -> None:
        assert moment(None) == duration(None) == "-"
        assert duration(0.00321) == "0.00321 s"
        assert duration(3725) == "62 min 5 s"
        assert cost(None) == "unknown"
        assert brief("x" * 500).endswith("…")
        assert aligned(["a", "b"], [2, 2]) == "a   b"
