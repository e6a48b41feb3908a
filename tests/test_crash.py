"""Real processes that fork, exit and die while they open a database, with every acknowledgement on record.

Deaths and interrupts in the middle of writing have cases of their own, in `faults/`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from holdfast.errors import StorageBusy
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, rebuilt

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and fork"),
]

PRELUDE = """
import os, secrets, signal, sys, threading, time
from holdfast import errors
from holdfast.records import Commit
from holdfast.storage import engine, reading, registry, requests, sqlite, writer, writing
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, make_run, rebuilt

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def advance(storage, session_id, token):
    \"\"\"Append a token to a session, as often as others are faster; say so before and after.\"\"\"
    commit_id = secrets.token_hex(16)
    while True:
        stored = storage.load("", session_id)
        base = stored.info.version if stored else 0
        incarnation = stored.info.incarnation if stored else secrets.token_hex(16)
        say("begin", session_id, token)
        try:
            version = storage.commit(Commit("", session_id, commit_id, base, incarnation, "Crash", token.encode()))
        except errors.StateConflict:
            say("conflict", session_id, token)
            continue
        say("done", session_id, token, version)
        return

"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


class Process:
    """A process that runs code and whose words are kept in a file, which takes them without delay."""

    def __init__(self, code: str, *arguments: object, is_measured: bool = False) -> None:
        self.words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `finish`)
        self.trouble: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, arguments)],
            stdout=self.words,
            stderr=self.trouble,
            # What measures coverage would be interrupted and killed as well, and does not always survive that.
            env={k: v for k, v in os.environ.items() if is_measured or not k.startswith("COVERAGE")},
        )

    def wait_for(self, word: str) -> None:
        """Wait until it said this word."""
        while word.encode() not in os.pread(self.words.fileno(), 2**20, 0):
            assert self.process.poll() is None, self.text(self.trouble)
            time.sleep(0.001)

    def finish(self, expected: int = 0) -> list[list[str]]:
        """What it said, once it has ended as expected."""
        assert self.process.wait(timeout=60) == expected, self.text(self.trouble)
        lines = self.text(self.words).splitlines(keepends=True)
        self.words.close()
        self.trouble.close()
        return [line.split() for line in lines if line.endswith("\n")]

    def killed(self, word: str = "done", after: float = 0) -> list[list[str]]:
        """What it said until it was killed, so many seconds after this word."""
        self.wait_for(word)
        time.sleep(after)
        self.process.kill()
        return self.finish(-signal.SIGKILL)

    @staticmethod
    def text(file: IO[bytes]) -> str:
        file.seek(0)
        return file.read().decode()


def anomalies(file: Path, session_id: str, histories: list[list[list[str]]]) -> list[str]:
    """What is wrong with a session, given what its writers said."""
    with closing(SqlWorkflowStorage(db_file=file, table_name="t")) as storage:
        changes = storage.changes("", session_id) if storage.load("", session_id) else ()
        found = [f"damage: {finding}" for finding in storage.check()]
    stored = {change.patch.decode(): change.version for change in changes}
    if len(stored) != len(changes):
        found.append("a change was stored twice")
    allowed = set()
    for history in histories:
        for kind, session, token, *version in history:
            if session != session_id:
                continue
            if kind == "done":
                allowed.add(token)
                if stored.get(token) != int(version[0]):
                    found.append(f"acknowledged, but lost or elsewhere: {token[:20]}")
        if history[-1][0] in ("begin", "interrupted"):
            allowed.add(history[-1][2])  # unacknowledged: it may be there or not
    found += [f"never acknowledged: {token[:20]}" for token in stored if token not in allowed]
    return found


# Forks


def test_parent_and_forked_child_both_write_and_lose_nothing(file: Path) -> None:
    process = Process(
        """
        storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(storage, "s", "before")
        stop = threading.Event()
        threads = [
            threading.Thread(target=lambda n=n: [advance(storage, "s", f"t{n}-{i}") for i in range(15)])
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        children = []
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                for i in range(10):
                    advance(storage, "s", f"child{child}-{i}")
                os._exit(0) if child % 2 else sys.exit(0)
            children.append(pid)
            advance(storage, "s", f"parent-{child}")
        for thread in threads:
            thread.join()
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        storage.close()
        """,
        file,
        is_measured=True,
    )
    history = process.finish()
    assert anomalies(file, "s", [history]) == []
    assert sum(line[0] == "done" for line in history) == 1 + 45 + 40 + 4


def test_a_child_keeps_its_commits_when_the_parent_closes_and_others_come_and_go(file: Path) -> None:
    process = Process(
        """
        storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(storage, "s", "before")
        ready, go = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            advance(storage, "s", "child-1")
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            advance(storage, "s", "child-2")
            storage.close()
            os._exit(0)
        os.read(ready[0], 1)
        storage.close()
        other = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(other, "s", "other")
        other.close()
        os.write(go[1], b"1")
        assert os.waitpid(pid, 0)[1] == 0
        """,
        file,
        is_measured=True,
    )
    history = process.finish()
    assert anomalies(file, "s", [history]) == []
    assert sum(line[0] == "done" for line in history) == 4


def test_a_child_of_multiprocessing_writes_with_the_storage_it_was_given(file: Path) -> None:
    process = Process(
        """
        import multiprocessing
        storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(storage, "s", "before")
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=advance, args=(storage, "s", f"child-{n}")) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        """,
        file,
        is_measured=True,
    )
    history = process.finish()
    assert anomalies(file, "s", [history]) == []
    assert sum(line[0] == "done" for line in history) == 4


def test_a_child_of_a_process_that_could_not_be_quiet_gets_an_error(file: Path) -> None:
    process = Process(
        """
        registry._FORK_PATIENCE = 0.05
        storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(storage, "s", "before")
        inside, leave = threading.Event(), threading.Event()
        reader = threading.Thread(
            target=lambda: storage._read(lambda db: (inside.set(), leave.wait(), db.all("beats")))
        )
        reader.start()
        inside.wait()
        pid = os.fork()
        if pid == 0:
            try:
                storage.load("", "s")
            except errors.StorageError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        leave.set()
        reader.join()
        advance(storage, "s", "after")
        """,
        file,
        is_measured=True,
    )
    assert anomalies(file, "s", [process.finish()]) == []


def test_a_child_of_a_database_in_memory_goes_on_with_a_copy() -> None:
    process = Process(
        """
        storage = SqlWorkflowStorage(db_url="sqlite://")
        advance(storage, "s", "before")
        pid = os.fork()
        advance(storage, "s", "child" if pid == 0 else "parent")
        patches = [change.patch for change in storage.changes("", "s")]
        assert patches == [b"before", b"child" if pid == 0 else b"parent"], patches
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        """,
        is_measured=True,
    )
    process.finish()


# Exits


def test_what_was_committed_at_exit_is_there(file: Path) -> None:
    process = Process(
        """
        import atexit
        storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(storage, "s", "before")
        atexit.register(advance, storage, "s", "at-exit")
        """,
        file,
    )
    history = process.finish()
    assert anomalies(file, "s", [history]) == []
    assert sum(line[0] == "done" for line in history) == 2


def test_a_commit_while_the_interpreter_is_finalized_is_made(file: Path) -> None:
    process = Process(
        """
        class Late:
            def __init__(self, storage):
                self.storage = storage
                self.advance = advance
            def __del__(self):
                self.advance(self.storage, "s", "late")
        storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
        advance(storage, "s", "before")
        late = Late(storage)
        sys.late = late  # among the last things to go
        """,
        file,
    )
    history = process.finish()
    assert anomalies(file, "s", [history]) == []


@pytest.fixture
def stored(file: Path) -> Path:
    with closing(SqlWorkflowStorage(db_file=file)) as storage:
        Writer(storage).commit({"a": 1})
    return file


def test_many_processes_may_make_a_database_at_the_same_time(file: Path) -> None:
    processes = [
        Process(
            """
            storage = SqlWorkflowStorage(db_file=sys.argv[1], table_name="t")
            advance(storage, "s", f"first-{sys.argv[2]}")
            """,
            file,
            number,
        )
        for number in range(6)
    ]
    histories = [process.finish() for process in processes]
    assert anomalies(file, "s", histories) == []
    assert sum(line[0] == "done" for history in histories for line in history) == 6


def test_a_database_survives_the_death_of_a_process_that_was_making_it(tmp_path: Path) -> None:
    dice = random.Random(4)
    for number in range(15):
        file = tmp_path / f"{number}.db"
        process = Process(
            "say('begin', 's', 'x'); SqlWorkflowStorage(db_file=sys.argv[1]).load('', 's'); time.sleep(60)", file
        )
        process.killed("begin", after=dice.random() * 0.02)
        with closing(SqlWorkflowStorage(db_file=file)) as storage:
            writer = Writer(storage)
            writer.commit({"a": number})
            assert rebuilt(storage.load("", "s")) == {"a": number}
            assert storage.check() == ()


def test_a_stopped_process_does_not_keep_others_from_writing_for_ever(stored: Path) -> None:
    """A process that is stopped while it holds the gate makes others busy; they write when it goes on or dies."""
    process = Process(
        """
        from holdfast.storage.gate import Gate
        gate = Gate(sys.argv[1])
        assert gate.acquire()
        say("held")
        time.sleep(60)
        """,
        stored,
    )
    process.wait_for("held")
    with closing(SqlWorkflowStorage(db_file=stored, lock_timeout=0.1)) as storage:
        writer = Writer(storage, "", "t")
        with pytest.raises(StorageBusy, match="nothing was written"):
            writer.commit({"a": 1})
        process.killed("held")
        patient = SqlWorkflowStorage(db_file=stored)
        assert patient.load("", "t") is None
        writer.commit({"a": 2})
        assert rebuilt(patient.load("", "t")) == {"a": 2}
        patient.close()
