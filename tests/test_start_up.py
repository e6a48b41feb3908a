"""What is imported before a program or a command has done its first work: the cost of a start is what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = "import dataclasses, hashlib, inspect, msgspec, sqlite3, sys, threading, typing_extensions\n"
"""What a run needs; whatever comes with it is not ours to leave out."""

ELSEWHERE = {
    "asyncio",
    "click",
    "concurrent.futures",
    "difflib",
    "httpx2",
    "json",
    "logging",
    "pathlib",
    "psycopg",
    "pydantic",
    "pydantic_ai",
    "rich",
    "ssl",
    "subprocess",
    "tenacity",
    "traceback",
    "urllib.parse",
    "zoneinfo",
}
"""What is for agents, event loops, servers, failures or the command line."""

FIRST_RUN = """if True:
    from holdfast import SqlWorkflowStorage, Workflow
    class Note(Workflow):
        def run(self):
            self.session_state["key"] = "value"
    note = Note(session_id="s", storage=SqlWorkflowStorage(db_file="notes.db"))
    note.run()
    assert note.session_state == {"key": "value"}
"""

STEP = """if True:
    from holdfast import SqlWorkflowStorage, Workflow, step
    class Noting(Workflow):
        @step(cache="session")
        def note(self):
            return "value"
        def run(self):
            self.session_state["key"] = self.note()
    Noting(session_id="s", storage=SqlWorkflowStorage(db_file="notes.db")).run()
"""

COROUTINE = """if True:
    from holdfast import Workflow
    class Noting(Workflow):
        async def run(self):
            self.session_state["key"] = "value"
    noting = Noting().run()
    assert "asyncio" not in sys.modules
    import asyncio
    asyncio.run(noting)
"""


def command(*arguments: str) -> str:
    return (
        f"sys.argv = ['holdfast', *{arguments!r}]\nfrom holdfast.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
    )


def output(source: str, folder: Path) -> str:
    # Measuring coverage imports packages of its own into every process.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=unmeasured, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(source: str, folder: Path) -> set[str]:
    """The modules that a new process has imported when it has run this, beside what every run needs."""
    told = "\nprint('loaded:', *sys.modules)"
    bare = set(output(NEEDED + told, folder).split())
    return set(output("import sys\n" + source + told, folder).rpartition("loaded:")[2].split()) - bare


def test_importing_the_package_imports_none_of_its_modules(tmp_path: Path) -> None:
    found = loaded("import holdfast", tmp_path)
    assert found == {"holdfast"}


def test_a_first_run_imports_nothing_for_agents_event_loops_or_failures(tmp_path: Path) -> None:
    found = loaded(FIRST_RUN, tmp_path)
    assert {"holdfast.workflow", "holdfast.storage.sqlite"} <= found
    assert found & ELSEWHERE == set()
    others = ("agent_loop", "async_driver", "fingerprint", "parallel", "steps", "storage.memory")
    assert found & {f"holdfast.{name}" for name in others} == set()


def test_a_step_of_plain_code_needs_no_event_loop(tmp_path: Path) -> None:
    found = loaded(STEP, tmp_path)
    assert {"holdfast.steps", "holdfast.flights"} <= found
    assert found & {"asyncio", "holdfast.async_driver", "holdfast.awaited", "pydantic", "pydantic_ai", "ssl"} == set()


def test_a_coroutine_is_driven_by_what_is_imported_for_it(tmp_path: Path) -> None:
    found = loaded(COROUTINE, tmp_path)
    assert {"asyncio", "holdfast.async_driver"} <= found


def test_listing_sessions_imports_neither_workflows_nor_the_codec(tmp_path: Path) -> None:
    output("import sys\n" + FIRST_RUN, tmp_path)
    listing = command("sessions", "list", "--db", "notes.db")
    assert "Note" in output("import sys\n" + listing, tmp_path)
    found = loaded(listing, tmp_path)
    assert {"click", "holdfast.cli.sessions", "holdfast.storage.sqlite"} <= found
    # Options name paths, and what is printed as JSON is written by Python's own module.
    assert found & ELSEWHERE <= {"click", "json", "pathlib", "urllib.parse"}
    others = ("agent", "codec", "copying", "session", "workflow")
    assert found & {f"holdfast.{name}" for name in others} == set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_during_a_late_import_can_import_it_as_well(tmp_path: Path) -> None:
    source = """if True:
        import asyncio, os, sys, threading, time, warnings
        warnings.simplefilter("ignore")
        from holdfast import Workflow
        class Noting(Workflow):
            async def run(self):
                self.session_state["key"] = "value"
        Noting()
        importing = threading.Event()
        class Slow:
            def find_spec(self, name, path, target=None):
                if name == "holdfast.async_driver":
                    importing.set()
                    time.sleep(0.3)
        sys.meta_path.insert(0, Slow())
        threading.Thread(target=lambda: asyncio.run(Noting().run()), daemon=True).start()
        importing.wait()
        pid = os.fork()
        if pid == 0:
            asyncio.run(Noting().run())
            os._exit(0)
        deadline = time.time() + 10
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.time() > deadline:
                os.kill(pid, 9)
                os._exit(1)
            time.sleep(0.01)
        print("ended", flush=True)
        os._exit(0)
    """
    assert output(source, tmp_path).strip() == "ended"
