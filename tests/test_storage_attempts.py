"""Resumed runs and the fence beyond the interface: processes that race, and answers that are lost."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast import errors
from holdfast.records import Run, RunStatus
from holdfast.storage import attempts
from holdfast.storage.postgres import PostgresStatements
from holdfast.storage.queries import Statements
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import Writer, everything, make_run
from holdfast.testing_steps import make_step, resumed
from postgres import Proxy


@pytest.fixture
def open_storage(url: str) -> Iterator[Callable[[], SqlWorkflowStorage]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(SqlWorkflowStorage("t", db_url=url)))


RACER = """
import secrets, sys

import msgspec
from holdfast import clock, errors
from holdfast.records import Commit, RunStatus
from holdfast.storage.sql import SqlWorkflowStorage

url, name = sys.argv[1:]
storage = SqlWorkflowStorage("t", db_url=url)
runs = [storage.find_runs("", run_id=f"r{number}")[0] for number in range(20)]
version = storage.find_sessions("", session_id="s")
base, incarnation = (version[0].version, version[0].incarnation) if version else (0, "")
print("ready", flush=True)
sys.stdin.readline()
for read in runs:
    run = msgspec.structs.replace(read, status=RunStatus.running, ended_at=None, attempt=2, process_id=name)
    commit = Commit("", "s", secrets.token_hex(16), base, incarnation, "C", None,
                    run=run, run_id=run.run_id, attempt=2, resumes=read)
    try:
        storage.commit(commit)
    except errors.RunTakenOver:
        continue
    print(read.run_id, flush=True)
storage.close()
"""


@pytest.mark.parametrize("is_stored", [True, False], ids=["a stored session", "runs alone"])
def test_of_two_processes_that_resume_the_same_runs_exactly_one_gets_each(
    is_stored: bool, url: str, open_storage: Callable[[], SqlWorkflowStorage]
) -> None:
    storage = open_storage()
    writer = Writer(storage)
    if is_stored:
        writer.commit({"a": 1})
    for number in range(20):
        run = make_run(run_id=f"r{number}", status=RunStatus.failed, ended_at=1.5)
        storage.commit(replace(writer.prepared({}), patch=None, run=run))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "other")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(said[0] + said[1]) == sorted(f"r{number}" for number in range(20))
    for name, won in zip(("one", "other"), said, strict=True):
        assert {run.run_id for run in storage.find_runs("") if run.process_id == name} == set(won)


def zombies(writer: Writer, run: Run) -> list[Any]:
    """The commits that whoever ran a run before could still make."""
    bare = replace(writer.prepared({"a": "zombie"}), run_id=run.run_id)
    return [
        bare,
        replace(bare, run=run),
        replace(bare, patch=None, steps=(make_step(),)),
        replace(bare, patch=None, run=run),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("is_stored", [True, False], ids=["a stored session", "runs alone"])
@pytest.mark.parametrize("has_begun", ["the resuming", "the zombie"])
def test_between_the_check_of_a_commit_and_its_end_nobody_resumes_its_run(
    has_begun: str,
    is_stored: bool,
    number: int,
    open_storage: Callable[[], SqlWorkflowStorage],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the two stops in the middle of its transaction until the other has tried for a while."""
    ours, theirs = open_storage(), open_storage()
    writer = Writer(ours)
    run = make_run(status=RunStatus.running)
    first = writer.prepared({"a": 1}, run=run)
    ours.commit(first if is_stored else replace(first, patch=None))
    if is_stored:
        writer.applied({"a": 1})
    zombie = zombies(writer, run)[number]
    resuming = resumed(writer, run)
    leader, follower = (resuming, zombie) if has_begun == "the resuming" else (zombie, resuming)
    is_inside, may_end = threading.Event(), threading.Event()
    write = attempts.write

    def slow(db: Statements, commit: Any) -> None:
        write(db, commit)
        if commit is leader:
            is_inside.set()
            may_end.wait(10)

    monkeypatch.setattr(attempts, "write", slow)
    outcomes: dict[str, str] = {}

    def make(name: str, storage: SqlWorkflowStorage, commit: Any) -> None:
        try:
            storage.commit(commit)
            outcomes[name] = "written"
        except errors.HoldfastError as error:
            outcomes[name] = type(error).__name__

    one = threading.Thread(target=make, args=("leader", ours, leader))
    one.start()
    assert is_inside.wait(10)
    other = threading.Thread(target=make, args=("follower", theirs, follower))
    other.start()
    other.join(0.2)
    assert other.is_alive(), "it has to wait for the leader"
    may_end.set()
    one.join()
    other.join()
    assert outcomes["leader"] == "written"
    (found,) = ours.find_runs("")
    if has_begun == "the resuming":
        assert outcomes["follower"] == "RunTakenOver"
        assert found.attempt == 2
        assert ours.find_steps("", "s", run.run_id, with_results=True) == ()
    elif zombie.patch is not None:
        assert outcomes["follower"] == "VersionConflict"
        assert found.attempt == 1
    else:  # the run is as it was read, whatever was recorded of it
        assert outcomes["follower"] == "written"
        assert found.attempt == 2
    assert ours.check() == ()


def breaches(storage: SqlWorkflowStorage) -> list[int]:
    """Which commits go through that must not: those of zombies, and last that of a second who resumes the run."""
    found = []
    for number in range(5):
        session_id = secrets.token_hex(8)
        writer = Writer(storage, session_id=session_id)
        run = make_run(session_id=session_id, status=RunStatus.running)
        writer.commit({"a": 1}, run=run)
        storage.commit(resumed(writer, run))
        try:
            storage.commit([*zombies(writer, run), resumed(writer, run, commit_id="second")][number])
        except errors.RunTakenOver:
            continue
        found.append(number)
    return found


def unfenced(db: Statements, query: str, row: Any, refusal: errors.HoldfastError) -> None:
    db._execute(re.sub(r"\(CASE .*? END\)", "1", db._texts[query]), row)


def test_a_fence_that_is_left_out_is_noticed(
    open_storage: Callable[[], SqlWorkflowStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage()
    assert breaches(storage) == []
    for statements in (Statements, PostgresStatements):
        monkeypatch.setattr(statements, "send_or_refuse", unfenced)
    assert breaches(storage) == [1, 3]
    monkeypatch.undo()
    monkeypatch.setattr(attempts, "_require_attempt", lambda db, commit: None)
    assert breaches(storage) == [0, 2]
    monkeypatch.undo()
    monkeypatch.setattr(attempts, "require_resumable", lambda *arguments, **options: None)
    assert breaches(storage) == [4]


def test_a_resuming_commit_whose_answer_is_lost_is_made_exactly_once(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        writer, run = Writer(storage), make_run(status=RunStatus.failed)
        writer.commit({"a": 1, "b": 2}, run=run)
        for patch in (None, writer.prepared({"b": 2}).patch):
            for when in ("before", "after"):
                (read,) = storage.find_runs("")
                proxy.drops = [when]
                version = storage.commit(resumed(writer, read, patch=patch, commit_id=f"{patch!r} {when}"))
                assert not proxy.drops
                assert version == writer.version + (patch is not None)
                (found,) = storage.find_runs("")
                assert found.attempt == read.attempt + 1
                if patch is not None:
                    writer.applied({"b": 2})
                    patch = writer.prepared({"b": 3}).patch  # noqa: PLW2901
        assert storage.check() == ()


def test_a_zombie_whose_answer_is_lost_is_told_so(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    with closing(SqlWorkflowStorage(db_url=url, lock_timeout=20)) as storage:
        writer, run = Writer(storage), make_run(status=RunStatus.running)
        writer.commit({"a": 1}, run=run)
        storage.commit(resumed(writer, run))
        before = everything(storage, "")
        proxy.drops = ["before"]
        with pytest.raises((errors.RunTakenOver, errors.OutcomeUnknown)):
            storage.commit(writer.prepared({"a": 2}, run=run))
        proxy.drops = []
        assert everything(storage, "") == before
