"""`holdfast runs resume`, also of runs whose process was killed, and what runs say of their steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

import postgres
from cli import as_json, blog, calls, holdfast, ok, process
from holdfast.cli.resuming import targets
from holdfast.records import RunStatus, Savings, Usage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, make_run

pytestmark = pytest.mark.usefixtures("here")

FAILING = ("blog.py:Blog", "--topic", "tides", "--fails")


def failed(*words: str) -> str:
    """The id of a run that failed after all of its steps."""
    blog()
    assert holdfast("run", *FAILING, *words).exit_code == 1
    assert calls() == ["fetch", "outline", "write"]
    where = words[words.index("--db") :][:2] if "--db" in words else ()
    run_id: str = as_json("runs", "list", *where)[0]["run_id"]
    return run_id


SCRIPT = """
from pydantic import BaseModel

from holdfast import SqlWorkflowStorage, Workflow, step


class Book(BaseModel):
    title: str


class Books(Workflow):
    @step
    def search(self, title: str) -> Book:
        print("search")
        return Book(title=title)

    @step
    def fetch(self, book: Book) -> str:
        print("fetch")
        return book.title

    @step(cache="workflow")
    def keep(self, book: Book) -> Book:
        print("keep")
        return Book(title=book.title)

    def run(self, title: str) -> str:
        text = self.fetch(self.keep(self.search(title)))
        if __name__ == "__main__":
            raise RuntimeError
        return text


if __name__ == "__main__":
    books = Books(storage=SqlWorkflowStorage(db_file="books.db"))
    try:
        books.run(title="tides")
    except RuntimeError:
        print(books.run_id)
"""


class TestResume:
    def test_a_failed_run_goes_on_and_computes_nothing_again(self) -> None:
        run_id = failed("--session-id", "s", "--user-id", "ann")
        Path("mended").touch()
        result = holdfast("runs", "resume", run_id, "blog.py:Blog")
        assert (result.exit_code, result.stdout) == (0, "TIDES TIDES PLAIN\n")
        assert f"run: {run_id}" in result.stderr
        assert "spent $0 · saved $0 and " in result.stderr
        assert calls() == []
        (run,) = as_json("runs", "list")
        assert (run["status"], run["attempt"], run["savings"]["hits"]) == ("completed", 2, 5)
        assert (run["session_id"], run["user_id"]) == ("s", "ann")
        assert as_json("sessions", "show", "s")["state"] == {"topics": ["tides"]}
        text = ok("runs", "show", run_id[:10])
        assert "attempt:      2" in text
        assert "cost:         spent $0 · saved $0 and " in text

    def test_a_run_that_a_script_started_finds_steps_that_were_given_its_classes(self) -> None:
        Path("books.py").write_text(SCRIPT, encoding="utf-8")
        first = subprocess.run([sys.executable, "books.py"], capture_output=True, text=True, check=True)
        *done, run_id = first.stdout.split()
        assert done == ["search", "keep", "fetch"]
        result = holdfast("runs", "resume", run_id, "books.py:Books", "--db", "books.db")
        assert (result.exit_code, result.stdout) == (0, "tides\n")

    def test_without_a_target_the_class_is_looked_for_in_this_folder(self) -> None:
        run_id = failed()
        Path("mended").touch()
        Path("broken.py").write_text("class Blog(:\n", encoding="utf-8")
        result = holdfast("runs", "resume", run_id[:10])
        assert (result.exit_code, result.stdout) == (0, "TIDES TIDES PLAIN\n")
        assert "target: blog.py:Blog" in result.stderr
        assert "broken.py is left out" in result.stderr

    def test_nothing_is_imported_while_it_is_looked_for(self) -> None:
        run_id = failed()
        Path("mended").touch()
        Path("trap.py").write_text("open('sprung', 'w')\nclass Trap:\n    def run(self): ...\n", encoding="utf-8")
        ok("runs", "resume", run_id)
        assert not Path("sprung").exists()

    def test_where_none_or_several_fit_a_target_is_asked_for(self) -> None:
        run_id = failed()
        Path("other.py").write_text("class Blog:\n    def run(self): ...\n", encoding="utf-8")
        result = holdfast("runs", "resume", run_id)
        assert result.exit_code == 2
        assert "2 classes could be workflow Blog: blog.py:Blog, other.py:Blog" in result.stderr
        Path("other.py").unlink()
        Path("blog.py").unlink()
        Path("deeper").mkdir()
        Path("deeper", "blog.py").write_text("class Blog:\n    def run(self): ...\n", encoding="utf-8")
        result = holdfast("runs", "resume", run_id)
        assert result.exit_code == 2
        assert f"holdfast runs resume {run_id} file.py:Class" in result.stderr

    def test_a_class_counts_by_the_name_that_it_declares(self, here: Path) -> None:
        (here / "names.py").write_text(
            "class A:\n    name = 'Blog'\n    def run(self): ...\n"
            "class B:\n    name: str = 'Blog'\n    async def run(self): ...\n"
            "class Blog:\n    name = 'Other'\n    def run(self): ...\n"
            "class C:\n    name = 'Blog'\n"
            "if True:\n    class Blog:\n        def run(self): ...\n",
            encoding="utf-8",
        )
        assert [Path(target).name for target in targets("Blog", here)] == ["names.py:A", "names.py:B"]
        assert [Path(target).name for target in targets("Other", here)] == ["names.py:Blog"]

    def test_a_name_in_the_database_reaches_no_file_but_those_of_this_folder(
        self, default_storage: SqlWorkflowStorage
    ) -> None:
        Path("elsewhere").mkdir()
        Path("elsewhere", "evil.py").write_text("class Evil:\n    def run(self): ...\n", encoding="utf-8")
        for number, name in enumerate(("elsewhere/evil.py:Evil", "os:system", "\x1b[31mEvil", "../*", "")):
            run = make_run(workflow=name, status=RunStatus.failed, run_id=f"{number}" * 8)
            default_storage.commit(replace(Writer(default_storage).prepared({}), patch=None, run=run))
            result = holdfast("runs", "resume", run.run_id)
            assert result.exit_code == 2
            assert "No .py file of this folder" in result.stderr
            assert "\x1b[31mEvil" not in result.stderr

    def test_a_completed_run_gives_its_recorded_result_and_says_so(self) -> None:
        blog()
        ok("run", "blog.py:Blog", "--topic", "tides")
        calls()
        (run,) = as_json("runs", "list")
        result = holdfast("runs", "resume", run["run_id"])
        assert (result.exit_code, result.stdout) == (0, "TIDES TIDES PLAIN\n")
        assert "has completed: this is its recorded result" in result.stderr
        assert calls() == []
        (response,) = map(json.loads, ok("runs", "resume", run["run_id"], "--json").splitlines())
        assert (response["content"], response["cached"]) == ("TIDES TIDES PLAIN", True)

    def test_a_run_that_fails_again_is_told_as_a_failed_run(self) -> None:
        run_id = failed()
        result = holdfast("runs", "resume", run_id)
        assert result.exit_code == 1
        assert "ValueError: cannot print tidestides" in result.stderr
        assert result.stderr.splitlines()[-2:] == [
            f"run {run_id} failed; holdfast runs show {run_id}",
            f"to go on with it: holdfast runs resume {run_id} blog.py:Blog",
        ]
        Path("mended").touch()
        ok("runs", "resume", run_id)
        assert as_json("runs", "show", run_id)["attempt"] == 3

    def test_what_cannot_be_resumed_is_said_in_a_sentence(self) -> None:
        run_id = failed("--session-id", "s")
        blog("topics", "others")
        Path("mended").touch()
        ok("run", "blog.py:Blog", "--topic", "moon", "--session-id", "s")
        source = Path("blog.py").read_text(encoding="utf-8")
        Path("blog.py").write_text(source.replace("topic: str, fails", "title: str, fails"), encoding="utf-8")
        result = holdfast("runs", "resume", run_id)
        assert result.exit_code == 5
        assert f"Error: Run '{run_id}' of session 's' cannot be resumed: run() takes other arguments" in result.stderr
        assert "failed; holdfast runs show" not in result.stderr
        assert holdfast("runs", "resume", "nothing").exit_code == 3

    def test_a_run_whose_changes_others_have_changed_is_left_as_it_is(self) -> None:
        run_id = failed("--session-id", "s")
        Path("mended").touch()
        ok("run", "blog.py:Blog", "--topic", "moon", "--session-id", "s")
        other = as_json("runs", "list")[0]["run_id"]
        before = as_json("runs", "show", run_id), as_json("sessions", "show", "s")["state"]
        result = holdfast("runs", "resume", run_id)
        assert result.exit_code == 5
        assert f"cannot be resumed: run '{other}' (version 2) changed /topics since" in result.stderr
        assert "failed; holdfast runs show" not in result.stderr
        assert before == (as_json("runs", "show", run_id), as_json("sessions", "show", "s")["state"])

    @pytest.mark.crash
    @pytest.mark.parametrize("server", [False, True], ids=["sqlite", "postgres"])
    def test_a_run_whose_process_was_killed_goes_on_in_another_one(self, server: bool) -> None:
        blog("        post = ", "        told('waiting')\n        wait()\n        post = ")
        source = Path("blog.py").read_text(encoding="utf-8")
        waiting = "\n\ndef wait():\n    import time\n    while not Path('mended').exists():\n        time.sleep(0.01)\n"
        Path("blog.py").write_text(source + waiting, encoding="utf-8")
        with postgres.schema() as url:
            db = url if server else "holdfast.db"
            script = Path(sys.executable).parent / "holdfast"
            words = [str(script), "run", *FAILING, "--session-id", "s", "--db", db]
            running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                deadline = time.monotonic() + 60
                while "waiting" not in (Path("calls.txt").read_text() if Path("calls.txt").exists() else ""):
                    assert time.monotonic() < deadline
                    assert running.poll() is None
                    time.sleep(0.02)
                (run,) = as_json("runs", "list", "--db", db)
                refused = holdfast("runs", "resume", run["run_id"], "--db", db)
                assert refused.exit_code == 5
                assert "it is still running" in refused.stderr
            finally:
                os.kill(running.pid, signal.SIGKILL)
                running.wait()
            calls()
            _forget_beats(db)
            Path("mended").touch()
            done = process("runs", "resume", run["run_id"], "--db", db)
            assert (done.returncode, done.stdout) == (0, "TIDES TIDES PLAIN\n"), done.stderr
            assert "target: blog.py:Blog" in done.stderr
            assert calls() == ["waiting", "write"]
            assert as_json("sessions", "show", "s", "--db", db)["state"] == {"topics": ["tides"]}


def _forget_beats(db: str) -> None:
    """Let the processes that were heard of count as dead, without waiting until they do."""
    storage = SqlWorkflowStorage(db_url=db) if "://" in db else SqlWorkflowStorage(db_file=db)
    for run in storage.find_runs(None):
        storage.beat(run.process_id, stopped=True)
    storage.close()


class TestControls:
    def test_a_run_can_be_told_what_it_may_do_with_kept_results(self) -> None:
        blog()
        tides = ("blog.py:Blog", "--topic", "tides", "--session-id", "s")
        missed = holdfast("run", *tides, "--only-if-cached")
        assert missed.exit_code == 3
        assert "step 'outline' for topic (str of 5) and words (int) is not in the cache" in missed.stderr
        assert '\n  topic: "tides"\n  words: 2\n' in missed.stderr
        assert calls() == ["fetch"]
        assert "saved" not in holdfast("run", *tides).stderr
        assert "spent $0 · saved $0 and " in holdfast("run", *tides).stderr
        calls()
        for words, expected in (
            (["--no-use-cache"], ["fetch", "outline", "write"]),
            (["--refresh"], ["fetch", "outline", "write"]),
            (["--use-cache"], ["fetch"]),
            (["--only-if-cached"], ["fetch"]),
        ):
            ok("run", *tides, *words)
            assert calls() == expected, words
            ok("run", *words, *tides)
            assert calls() == expected, words
        assert holdfast("run", *tides, "--only-if-cached", "--refresh").exit_code == 2

    def test_where_run_has_a_parameter_of_that_name_it_is_that(self) -> None:
        blog(
            "fails: bool = False) -> str:",
            "fails: bool = False, use_cache: bool = True) -> str:\n        told(use_cache)",
        )
        source = Path("blog.py").read_text(encoding="utf-8").replace("write(step", "write(str(step)")
        Path("blog.py").write_text(source, encoding="utf-8")
        tides = ("blog.py:Blog", "--topic", "tides", "--session-id", "s")
        ok("run", *tides)
        ok("run", *tides, "--no-use-cache")
        ok("run", "--no-use-cache", *tides)
        assert [call for call in calls() if call in ("True", "False")] == ["True", "False", "False"]
        assert "--refresh" in ok("run", "blog.py:Blog", "--help")


class TestSavings:
    def test_a_run_shows_its_steps(self) -> None:
        blog()
        for _ in range(2):
            ok("run", "blog.py:Blog", "--topic", "tides", "--session-id", "s")
        second, first = as_json("runs", "list")
        assert (first["savings"]["hits"], second["savings"]["hits"], second["attempt"]) == (0, 3, 1)
        text = ok("runs", "show", second["run_id"])
        lines = text[text.index("steps:\n") :].splitlines()
        assert lines[1].split() == ["STEP", "SCOPE", "TOOK", "TOKENS", "COST"]
        assert [line.split()[:3] for line in lines[2:7]] == [
            ["fetch", "run", "computed"],
            ["outline", "session", "hit"],
            ["count", "run", "computed"],
            ["write", "workflow", "hit"],
            ["writer", "workflow", "hit"],
        ]
        assert "attempt" not in text
        steps = as_json("runs", "show", second["run_id"])["steps"]
        assert [step["number"] for step in steps] == [1, 2, 3, 4, 5]
        assert {step["within"] for step in steps} == {None}

    def test_a_session_sums_up_what_its_runs_spent_and_saved(self, default_storage: SqlWorkflowStorage) -> None:
        writer = Writer(default_storage)
        writer.commit({"a": 1}, snapshot=True)

        def record(usage: Usage, savings: Savings) -> str:
            run = make_run(usage=usage, savings=savings)
            default_storage.commit(replace(writer.prepared({"a": 1}), patch=None, run=run))
            return run.run_id

        record(Usage(1, 100, 20, 0.1), Savings())
        record(Usage(1, 100, 20, 0.02), Savings(2, 41.0, Usage(2, 9, 9, 0.84)))
        assert "runs:     spent $0.12 · saved $0.84 and 41 s" in ok("sessions", "show", "s")
        shown = as_json("sessions", "show", "s")
        assert shown["savings"]["hits"] == 2
        assert shown["usage"]["cost"] == pytest.approx(0.12)
        run_id = record(Usage(1, 1, 1, None), Savings(1, 1.0, Usage(1, 1, 1, None)))
        assert "spent unknown · saved unknown and 42 s" in ok("sessions", "show", "s")
        assert "cost:         spent unknown · saved unknown and 1 s" in ok("runs", "show", run_id)
        assert as_json("sessions", "show", "s")["savings"]["usage"]["cost"] is None

    def test_a_session_whose_runs_used_nothing_says_nothing_of_it(self) -> None:
        ok("run", "work.py:Slow", "--session-id", "s")
        assert "spent" not in ok("sessions", "show", "s")
        assert "spent" not in holdfast("run", "work.py:Slow", "--session-id", "s").stderr
