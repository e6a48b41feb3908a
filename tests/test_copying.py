"""Sessions copied from one storage to another."""

from __future__ import annotations

import itertools
import json
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cli import Plain, keep
from holdfast import copying, errors
from holdfast.copying import Outcome, copy_session
from holdfast.operations import pointer_of
from holdfast.records import Change, Commit, Failure, Run, RunStatus, Savings, Usage
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.testing import HOSTILE_TEXTS, Writer, adjustable_clock, claim_of, everything, make_run
from holdfast.testing_steps import make_step, resumed

MakeStorage = Callable[[], Storage]


@pytest.fixture
def make_sqlite(tmp_path: Path) -> Iterator[MakeStorage]:
    numbers = itertools.count()
    with ExitStack() as stack:

        def make() -> Storage:
            path = tmp_path / f"{next(numbers)}.db"
            return stack.enter_context(closing(SqlWorkflowStorage(db_file=path, synchronous="NORMAL")))

        yield make


@pytest.fixture(params=["memory to memory", "memory to sqlite", "sqlite to memory", "sqlite to sqlite"])
def pair(request: pytest.FixtureRequest, make_sqlite: MakeStorage) -> tuple[Storage, Storage]:
    """A source and a target, both empty."""
    source, target = (MemoryStorage() if kind == "memory" else make_sqlite() for kind in request.param.split(" to "))
    return source, target


class Patching(Writer):
    """A writer whose patches are JSON Patches as Holdfast writes them."""

    def prepared(self, state: dict[str, Any], *, snapshot: bool = False, run: Run | None = None) -> Commit:
        commit = super().prepared(state, snapshot=snapshot, run=run)
        operations = json.loads(commit.patch or b"[]")
        for operation in operations:
            operation["path"] = pointer_of((operation["path"],))
        return replace(commit, patch=json.dumps(operations).encode())


def make_history(storage: Storage, dice: random.Random, owner: str = "", session_id: str = "s") -> Patching:
    """A session with random versions, snapshots, runs and, perhaps, a forgotten beginning."""
    writer = Patching(storage, owner, session_id)
    extend_history(writer, dice, dice.randrange(1, 40))
    if dice.random() < 0.6:
        storage.prune_session(owner, session_id, dice.randrange(1, 12))
    return writer


def extend_history(writer: Patching, dice: random.Random, count: int) -> None:
    with adjustable_clock() as hands:
        hands.time += 1000 * writer.version
        for _ in range(count):
            hands.time += dice.random() * 100
            state = dict(writer.states[-1])
            for _ in range(dice.randrange(3)):
                state.pop(dice.choice(("a", "b/c", "~1", "d", "")), None)
            for _ in range(dice.randrange(3)):
                state[dice.choice(("a", "b/c", "~1", "d", ""))] = dice.choice(
                    (dice.random(), "x" * 30_000, [1, {}], None)
                )
            run = make_run(writer.owner, writer.session_id) if dice.random() < 0.3 else None
            writer.commit(state, snapshot=dice.random() < 0.3, run=run)


def every_version(storage: Storage, owner: str, session_id: str) -> dict[int, list[tuple[str, bytes]]]:
    side = copying._Side(storage, owner, session_id)
    return {at: list(side.values(at)) for at in range(max(side.forgotten, 1), side.version + 1)}


def assert_same(source: Storage, target: Storage, owner: str = "", session_id: str = "s") -> None:
    assert everything(target, owner) == everything(source, owner)
    assert every_version(target, owner, session_id) == every_version(source, owner, session_id)
    assert target.check() == ()


class TestCopies:
    def test_a_copy_equals_its_source_on_random_histories(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        for seed in range(25):
            dice = random.Random(seed)
            owner = f"owner {seed}"
            writer = make_history(source, dice, owner)
            done = copy_session(source, target, owner, "s")
            assert (done.outcome, done.version) == (Outcome.copied, writer.version)
            assert done.changes == done.version - done.oldest
            assert_same(source, target, owner)
            extend_history(writer, dice, dice.randrange(1, 9))
            assert copy_session(source, target, owner, "s").outcome is Outcome.continued
            assert_same(source, target, owner)
            again = copy_session(source, target, owner, "s")
            assert (again.outcome, again.changes, again.runs) == (Outcome.complete, 0, 0)

    def test_what_workflows_keep_goes_on_in_the_copy(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        keep(source, "s", {"n": 1}, {7: {1, 2}, "text": "\0 \ud800", "long": "x" * 90_000}, user_id="ann")
        copy_session(source, target, "ann", "s")
        assert_same(source, target, "ann")
        keep(target, "s", {"n": "on"}, user_id="ann")
        assert dict(Plain(session_id="s", user_id="ann", storage=target).session_state) == {"n": "on"}
        assert copying._Side(target, "ann", "s").version == 3

    def test_hostile_ids_names_and_values_are_copied_apart_and_exactly(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        for number, text in enumerate(HOSTILE_TEXTS):
            for owner in ("", text):
                writer = Patching(source, owner, text)
                run = make_run(owner, text, run_id=text, error=Failure("E", "\ud800\0", text), output=b'"\x00"')
                writer.commit({text: text, "number": number}, snapshot=True, run=run)
                writer.commit({"": text, "~1/": [text]})
        for info in source.find_sessions(None):
            copy_session(source, target, info.owner, info.session_id)
        for owner in {info.owner for info in source.find_sessions(None)}:
            assert everything(target, owner) == everything(source, owner)
        assert target.check() == ()

    def test_a_session_of_which_only_runs_are_recorded_is_copied(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        run = make_run(status=RunStatus.failed, error=Failure("E", "m", "t"), usage=Usage(1, 2, 3, None), ended_at=2.5)
        source.commit(replace(Writer(source).prepared({}), patch=None, run=run))
        done = copy_session(source, target, "", "s")
        assert (done.outcome, done.version, done.runs) == (Outcome.copied, 0, 1)
        assert target.find_runs("") == (run,)
        assert copy_session(source, target, "", "s").outcome is Outcome.complete
        keep(target, "s", {"n": 1})
        with pytest.raises(errors.SessionDiffers, match="it has runs of its own"):
            copy_session(source, target, "", "s")

    def test_the_steps_of_runs_are_copied_with_their_results(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer, run = Patching(source), make_run(status=RunStatus.failed, attempt=2, savings=Savings(1, 2.5, Usage()))
        steps = (make_step(1, patch=b"[]", result=bytes(range(256))), make_step(2, result=None, is_hit=True))
        source.commit(replace(writer.prepared({"n": 1}, run=run), steps=steps[:1], attempt=2))
        writer.applied({"n": 1})
        copy_session(source, target, "", "s")
        assert target.find_steps("", "s", run.run_id, with_results=True) == steps[:1]
        source.commit(replace(writer.prepared({"n": 2}), run_id=run.run_id, steps=steps[1:], attempt=2))
        done = copy_session(source, target, "", "s")
        assert (done.outcome, done.changes, done.runs) == (Outcome.continued, 1, 1)
        assert_same(source, target)
        assert copy_session(source, target, "", "s").outcome is Outcome.complete
        source.commit(replace(writer.prepared({}), patch=None, base=2, run=run, forgets_results=True))
        assert copy_session(source, target, "", "s").runs == 1
        assert_same(source, target)

    def test_a_run_that_was_resumed_in_the_copy_is_a_difference(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer, run = Patching(source), make_run(status=RunStatus.failed)
        writer.commit({"n": 1}, run=run)
        copy_session(source, target, "", "s")
        target.commit(resumed(writer, run))
        before = everything(target, "")
        with pytest.raises(errors.SessionDiffers, match="has been resumed since"):
            copy_session(source, target, "", "s")
        assert everything(target, "") == before

    def test_a_copy_follows_a_run_that_was_resumed_in_the_source(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer, run = Patching(source), make_run(status=RunStatus.failed)
        writer.commit({"n": 1}, run=run)
        copy_session(source, target, "", "s")
        source.commit(resumed(writer, run))
        source.commit(replace(writer.prepared({"n": 2}, run=replace(run, attempt=2)), attempt=2))
        copy_session(source, target, "", "s")
        assert_same(source, target)

    def test_a_run_that_has_not_ended_has_no_process_in_the_copy(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer = Patching(source)
        runs = [make_run(status=status, run_id=str(status)) for status in RunStatus]
        for run in runs:
            writer.commit({"n": run.run_id}, run=run)
        copy_session(source, target, "", "s")
        found = {run.run_id: run.status for run in target.find_runs("")}
        assert found["completed"] == RunStatus.completed
        assert {found[name] for name in ("waiting", "running", "interrupted")} == {RunStatus.interrupted}
        ended = replace(runs[1], status=RunStatus.completed)
        source.commit(replace(writer.prepared({}), patch=None, run=ended))
        assert copy_session(source, target, "", "s").runs == 1
        assert target.find_runs("", run_id="running") == (ended,)

    def test_leases_are_not_copied(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer = Patching(source)
        writer.commit({"n": 1})
        source.claim_lease(claim_of("x", is_exclusive=True))
        copy_session(source, target, "", "s")
        assert target.claim_lease(claim_of("y")) == 0

    def test_a_session_that_is_nowhere_is_not_found(self, pair: tuple[Storage, Storage]) -> None:
        with pytest.raises(errors.SessionNotFound):
            copy_session(*pair, "", "s")

    def test_what_happens_in_the_source_meanwhile_is_left_for_the_next_time(
        self, pair: tuple[Storage, Storage], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, target = pair
        writer = Patching(source)
        for number in range(5):
            writer.commit({"n": number})
        commit = type(target).commit

        def slow(self: Storage, given: Commit, **options: Any) -> int:
            made = commit(self, given, **options)
            if self is target and made == 3:
                monkeypatch.undo()
                writer.commit({"n": "meanwhile"}, run=make_run())
            return made

        monkeypatch.setattr(type(target), "commit", slow)
        assert copy_session(source, target, "", "s").version == 5
        done = copy_session(source, target, "", "s")
        assert (done.version, done.changes, done.runs) == (6, 1, 1)
        assert_same(source, target)


class TestBrokenOff:
    @pytest.mark.parametrize("prune", [False, True])
    def test_broken_off_anywhere_it_is_continued(
        self, pair: tuple[Storage, Storage], monkeypatch: pytest.MonkeyPatch, prune: bool
    ) -> None:
        source, target = pair
        writer = Patching(source)
        for number in range(6):
            writer.commit({"n": number, "same": 1}, snapshot=number == 2, run=make_run())
        if prune:
            assert source.prune_session("", "s", 3) == 3
        whole = 4 + 6 if prune else 6 + 6
        for steps in range(whole):
            with pytest.raises(OSError, match="the end"), monkeypatch.context() as patching:
                stop_after(steps, type(target), target, patching)
                copy_session(source, target, "", "s")
            done = copy_session(source, target, "", "s")
            assert done.outcome is (Outcome.continued if steps else Outcome.copied)
            assert_same(source, target)
            target.delete_session("", "s")

    def test_a_beginning_that_the_source_has_forgotten_is_left_alone(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer = Patching(source)
        writer.commit({"n": 0})
        copy_session(source, target, "", "s")
        for number in range(5):
            writer.commit({"n": number}, snapshot=True)
        source.prune_session("", "s", 1)
        before = everything(target, "")
        with pytest.raises(errors.SessionDiffers, match="the source has forgotten what came before 6"):
            copy_session(source, target, "", "s")
        assert everything(target, "") == before

    def test_what_both_keep_is_compared_where_one_has_forgotten_more(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer = Patching(source)
        for number in range(9):
            writer.commit({"n": number}, snapshot=number in (3, 6))
        copy_session(source, target, "", "s")
        source.prune_session("", "s", 2)
        assert (copy_session(source, target, "", "s").outcome, len(target.changes("", "s"))) == (Outcome.complete, 9)
        target.prune_session("", "s", 5)
        writer.commit({"n": 9})
        done = copy_session(source, target, "", "s")
        assert (done.outcome, done.oldest, done.version) == (Outcome.continued, 7, 10)
        assert [change.version for change in target.changes("", "s")] == [5, 6, 7, 8, 9, 10]

    def test_a_gap_in_the_source_is_noticed(
        self, pair: tuple[Storage, Storage], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, target = pair
        monkeypatch.setattr(copying, "BATCH", 2)
        writer = Patching(source)
        for number in range(9):
            writer.commit({"n": number}, snapshot=number == 7)
        changes = type(source).changes

        def forgetting(self: Storage, *where: str, **options: Any) -> tuple[Change, ...]:
            if self is source and options.get("after") == 4:
                self.prune_session("", "s", 1)
            return changes(self, *where, **options)

        monkeypatch.setattr(type(source), "changes", forgetting)
        with pytest.raises(errors.VersionNotKept):
            copy_session(source, target, "", "s")


class TestDifferences:
    @pytest.fixture
    def copied(self, pair: tuple[Storage, Storage]) -> tuple[Patching, Storage]:
        source, target = pair
        writer = Patching(source)
        for number in range(3):
            writer.commit({"n": number}, run=make_run())
        copy_session(source, target, "", "s")
        return writer, target

    def refused(self, writer: Patching, target: Storage, reason: str) -> None:
        before = everything(target, "")
        with pytest.raises(errors.SessionDiffers, match=reason):
            copy_session(writer.storage, target, "", "s")
        assert everything(target, "") == before

    def test_another_session_of_the_same_id_is_left_alone(self, copied: tuple[Patching, Storage]) -> None:
        writer, target = copied
        target.delete_session("", "s")
        Patching(target).commit({"n": 0})
        self.refused(writer, target, "it was created independently")

    def test_a_target_that_is_ahead_is_left_alone(self, copied: tuple[Patching, Storage]) -> None:
        writer, target = copied
        ahead = Patching(target)
        ahead.follow(writer)
        ahead.commit({"n": "ahead"})
        self.refused(writer, target, "it is ahead, at version")

    def test_a_target_that_went_another_way_is_left_alone(self, copied: tuple[Patching, Storage]) -> None:
        writer, target = copied
        other = Patching(target)
        other.follow(writer)
        other.commit({"n": "theirs"})
        writer.commit({"n": "ours"})
        self.refused(writer, target, "it has changes of its own")
        writer.commit({"n": "on"})
        self.refused(writer, target, "it has changes of its own")

    def test_a_target_with_runs_of_its_own_is_left_alone(self, copied: tuple[Patching, Storage]) -> None:
        writer, target = copied
        target.commit(replace(writer.prepared({}), patch=None, run=make_run()))
        self.refused(writer, target, "it has runs of its own")

    def test_where_the_source_has_runs_only_a_session_is_left_alone(self, pair: tuple[Storage, Storage]) -> None:
        source, target = pair
        writer = Patching(source)
        source.commit(replace(writer.prepared({}), patch=None, run=make_run()))
        Patching(target).commit({"n": 1})
        self.refused(writer, target, "there is nothing but runs in the source")

    @pytest.mark.parametrize("field", ["run", "change", "value"])
    def test_what_reads_back_otherwise_is_noticed(
        self, copied: tuple[Patching, Storage], monkeypatch: pytest.MonkeyPatch, field: str
    ) -> None:
        writer, target = copied
        target.delete_session("", "s")
        made = itertools.count()
        commit = type(target).commit

        def wrong(self: Storage, given: Commit, **options: Any) -> int:
            if self is target and given.patch and next(made) == 1:
                if field == "run":
                    given = replace(given, run_id=secrets.token_hex(16))
                elif field == "change":
                    given = replace(given, created_at=1.0)
                else:
                    given = replace(given, patch=b'[{"op":"replace","path":"/n","value":9}]')
            return commit(self, given, **options)

        monkeypatch.setattr(type(target), "commit", wrong)
        with pytest.raises(errors.SessionDiffers, match="what was read back has another checksum"):
            copy_session(writer.storage, target, "", "s")


def stop_after(steps: int, kind: type, target: Storage, patching: pytest.MonkeyPatch) -> None:
    """Let so many writes to the target pass, and fail at the next."""
    left = iter(range(steps))

    def limited(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Storage, *arguments: Any, **options: Any) -> Any:
            if self is target and next(left, None) is None:
                raise OSError("the end")
            return original(self, *arguments, **options)

        return call

    for name in ("commit", "begin_session"):
        patching.setattr(kind, name, limited(getattr(kind, name)))
