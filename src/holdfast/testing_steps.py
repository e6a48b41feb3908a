"""`StepConformance` and `StepCacheConformance`: what the storage interface says of steps, as tests for any backend.

They are used as `holdfast.testing.StorageConformance` is, whose rules hold here too: `StepConformance` takes a fixture
`storage`; `StepCacheConformance` takes that and `make_cached`, which makes a new and empty storage whose step cache
keeps so many bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from holdfast import clock, errors
from holdfast.records import (
    Change,
    Commit,
    Entry,
    Place,
    Run,
    RunStatus,
    Savings,
    SessionInfo,
    StepRecord,
    Usage,
)
from holdfast.storage.base import STALE_AFTER, StepCache, Storage
from holdfast.testing import (
    HOSTILE_TEXTS,
    Writer,
    adjustable_clock,
    everything,
    make_run,
    raises,
    rebuilt,
    run_in_threads,
)

MakeCached = Callable[[int], Storage]


def key_of(name: str) -> bytes:
    """A key of a step.

    >>> len(key_of("a"))
    32
    """
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def make_step(number: int = 1, **fields: Any) -> StepRecord:
    """A step record with everything that is required filled in.

    >>> make_step(2).name
    'step 2'
    """
    required: dict[str, Any] = {
        "name": f"step {number}",
        "scope": "run",
        "key": key_of(str(number)),
        "occurrence": 0,
        "parts": b'{"argument topic":"00"}',
        "within": 0,
        "is_hit": False,
        "started_at": clock.now(),
        "seconds": 1.5,
        "usage": Usage(1, 2, 3, 0.25),
        "result": b"result %d" % number,
    }
    return StepRecord(number=number, **(required | fields))


def make_entry(name: str = "a", place: Place | None = None, **fields: Any) -> Entry:
    """An entry of the step cache with everything that is required filled in.

    >>> make_entry("a").step
    'write'
    """
    required: dict[str, Any] = {
        "scope": "workflow",
        "is_shared": False,
        "workflow": "Conformance",
        "step": "write",
        "parts": b'{"argument topic":"00"}',
        "seconds": 1.5,
        "usage": Usage(1, 2, 3, 0.25),
        "result": b"the result of " + name.encode(),
        "run_id": "run-1",
    }
    return Entry(place=place or Place(""), key=key_of(name), **(required | fields))


def put(cache: StepCache, entry: Entry, *, ttl: float | None = None) -> None:
    """Claim an entry and store it.

    >>> from holdfast.storage.memory import MemoryStorage
    >>> cache = MemoryStorage().step_cache
    >>> put(cache, make_entry("a"))
    >>> cache.read(Place(""), key_of("a")).result
    b'the result of a'
    """
    lease_id = clock.new_id()
    assert cache.claim(entry.place, entry.key, lease_id, 10.0, unless=None)
    assert cache.store(entry, lease_id, ttl=ttl)


def resumed(writer: Writer, read: Run, **changed: Any) -> Commit:
    """The commit that begins the next attempt of a run as it was read, without a patch."""
    again = replace(read, status=RunStatus.running, ended_at=None, attempt=read.attempt + 1, process_id="process-2")
    commit = replace(writer.prepared({}, run=again), patch=None, attempt=again.attempt, resumes=read)
    return replace(commit, **changed)


def _winners(storage: Storage, commit: Commit) -> int:
    """How many of several who resume a run at the same time do it."""
    won: list[int] = []

    def race() -> None:
        try:
            won.append(storage.commit(replace(commit, commit_id=clock.new_id())))
        except (errors.RunTakenOver, errors.VersionConflict):
            return

    run_in_threads(race, 4)
    return len(won)


def _claimants(cache: StepCache, entry: Entry) -> int:
    """How many of several who claim an entry at the same time compute it."""
    stored: list[bool] = []

    def race() -> None:
        lease_id = clock.new_id()
        if cache.claim(entry.place, entry.key, lease_id, 60.0, unless=0.0):
            stored.append(cache.store(entry, lease_id, ttl=None))

    run_in_threads(race, 4)
    assert all(stored)
    return len(stored)


class StepConformance:
    """Tests of what commits record of runs and steps; see the module for how to apply them to a backend."""

    # Records

    def test_a_run_keeps_its_attempt_and_what_it_saved(self, storage: Storage) -> None:
        writer = Writer(storage)
        for savings in (Savings(), Savings(3, 0.1 + 0.2, Usage(1, 2, 3, 0.5)), Savings(1, 2.0, Usage(1, 2, 3, None))):
            run = make_run(attempt=7, savings=savings)
            storage.commit(replace(writer.prepared({}), patch=None, run=run))
            assert storage.find_runs("", run_id=run.run_id) == (run,)
        assert storage.check() == ()

    def test_steps_come_back_as_they_were_recorded_in_their_order(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.running)
        storage.beat("process-1")
        steps = (
            make_step(2, scope="workflow", within=1, is_hit=True, usage=Usage(0, 0, 0, None), result=None),
            make_step(1, patch=b"[]", result=b"", occurrence=5),
            make_step(3, name="s\u00e4\U0001f600'", parts=b"{}", result=bytes(range(256))),
        )
        storage.commit(replace(writer.prepared({"a": 1}, run=run), steps=steps[:2]))
        writer.applied({"a": 1})
        alone = replace(writer.prepared({}), patch=None, run_id=run.run_id, steps=steps[2:])
        assert storage.commit(alone) == 1
        found = storage.find_steps("", "s", run.run_id, with_results=True)
        assert found == (steps[1], steps[0], steps[2])
        without = storage.find_steps("", "s", run.run_id, with_results=False)
        assert without == tuple(replace(step, result=None) for step in found)
        assert storage.find_runs("") == (run,)
        assert storage.check() == ()

    def test_there_are_no_steps_where_there_are_none(self, storage: Storage) -> None:
        assert storage.find_steps("", "s", "r", with_results=True) == ()

    def test_a_step_is_replaced_by_its_number(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run()
        commit = replace(writer.prepared({}, run=run), patch=None)
        for step in (make_step(1), make_step(1, name="again", patch=b"[]", result=b"other"), make_step(1, result=None)):
            storage.commit(replace(commit, steps=(step,)))
            assert storage.find_steps("", "s", run.run_id, with_results=True) == (step,)
        assert storage.check() == ()

    def test_results_are_forgotten_and_all_else_of_the_steps_stays(self, storage: Storage) -> None:
        writer, run, other = Writer(storage), make_run(), make_run()
        for each in (run, other):
            steps = (make_step(1, patch=b"[]"), make_step(2, result=None))
            storage.commit(replace(writer.prepared({}, run=each), patch=None, steps=steps))
        last = make_step(3)
        storage.commit(replace(writer.prepared({}, run=run), patch=None, steps=(last,), forgets_results=True))
        found = storage.find_steps("", "s", run.run_id, with_results=True)
        assert found == (make_step(1, patch=b"[]", result=None, started_at=found[0].started_at), *found[1:])
        assert [step.result for step in found] == [None, None, None]
        assert [step.result for step in storage.find_steps("", "s", other.run_id, with_results=True)] == [
            b"result 1",
            None,
        ]
        assert storage.check() == ()

    def test_steps_of_a_run_that_is_not_recorded_are_refused(self, storage: Storage) -> None:
        writer = Writer(storage)
        commit = replace(writer.prepared({"a": 1}), run_id="r", steps=(make_step(),))
        with raises(errors.RunNotFound):
            storage.commit(commit)
        assert storage.load("", "s") is None
        writer.commit({"a": 1}, run=make_run(run_id="r"))
        storage.delete_session("", "s")
        with raises(errors.RunNotFound):
            storage.commit(replace(commit, patch=None))
        assert storage.check() == ()

    def test_what_does_not_belong_together_is_refused(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(attempt=2)
        commit = writer.prepared({"a": 1})
        for changed in (
            {"steps": (make_step(),)},
            {"forgets_results": True},
            {"resumes": run},
            {"resumes": run, "run": run},
            {"resumes": run, "run": make_run(attempt=3)},
        ):
            with raises(errors.InvalidInput):
                storage.commit(replace(commit, **changed))
        assert storage.find_sessions(None) == ()

    def test_a_renamed_session_keeps_the_steps_of_its_runs(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run()
        steps = (make_step(1, patch=b"[]"), make_step(2))
        storage.commit(replace(writer.prepared({"a": 1}, run=run), steps=steps))
        storage.rename_session("", "s", "t")
        assert storage.find_steps("", "s", run.run_id, with_results=True) == ()
        assert storage.find_steps("", "t", run.run_id, with_results=True) == steps
        assert storage.check() == ()

    def test_steps_go_with_their_session(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run()
        storage.commit(replace(writer.prepared({"a": 1}, run=run), steps=(make_step(),)))
        storage.delete_session("", "s")
        assert storage.find_steps("", "s", run.run_id, with_results=True) == ()
        storage.commit(replace(Writer(storage).prepared({}), patch=None, run=run))
        assert storage.find_steps("", "s", run.run_id, with_results=True) == ()
        assert storage.check() == ()

    def test_hostile_ids_of_runs_and_names_of_steps_are_kept_apart_and_exact(self, storage: Storage) -> None:
        for text in HOSTILE_TEXTS:
            run = make_run(text, text, run_id=text)
            step = make_step(1, name=text, scope=text, result=text.encode())
            storage.commit(replace(Writer(storage, text, text).prepared({"a": 1}, run=run), steps=(step,)))
        for text in HOSTILE_TEXTS:
            (found,) = storage.find_steps(text, text, text, with_results=True)
            assert (found.name, found.scope, found.result) == (text, text, text.encode())
        assert storage.check() == ()

    # The fence

    def test_whoever_ran_a_run_before_writes_nothing_any_more(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.running)
        writer.commit({"a": 1}, run=run)
        storage.commit(resumed(writer, run))
        before = everything(storage, "")
        bare = replace(writer.prepared({"a": "zombie"}), run_id=run.run_id)
        patchless = replace(bare, patch=None)

        def rebase(info: SessionInfo, _: tuple[Change, ...]) -> Commit:
            return replace(bare, base=info.version, incarnation=info.incarnation)

        for zombie in (
            bare,
            replace(bare, run=run),
            replace(bare, run=run, steps=(make_step(),)),
            replace(bare, steps=(make_step(),)),
            replace(patchless, run=replace(run, status=RunStatus.completed)),
            replace(patchless, steps=(make_step(),)),
            replace(patchless, forgets_results=True),
            replace(writer.prepared({"a": "zombie"}, snapshot=True, run=run)),
        ):
            with raises(errors.RunTakenOver) as caught:
                storage.commit(zombie)
            assert caught[0].facts == {"run_id": run.run_id, "session_id": "s"}
            assert everything(storage, "") == before
            assert storage.find_steps("", "s", run.run_id, with_results=True) == ()
        with raises(errors.RunTakenOver):
            storage.commit(replace(bare, base=0, commit_id="rebased"), rebase=rebase)
        assert everything(storage, "") == before
        assert storage.commit(replace(bare, attempt=2, steps=(make_step(),))) == 2

    def test_a_run_of_a_session_that_is_not_stored_is_fenced_off_as_well(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.running)
        alone = replace(writer.prepared({}), patch=None, run=run)
        storage.commit(alone)
        storage.commit(resumed(writer, run))
        before = everything(storage, "")
        for zombie in (
            alone,
            replace(alone, run=None, run_id=run.run_id, steps=(make_step(),)),
            writer.prepared({"a": "zombie"}, run=run),
            replace(writer.prepared({"a": "zombie"}), run_id=run.run_id),
        ):
            with raises(errors.RunTakenOver):
                storage.commit(zombie)
            assert everything(storage, "") == before
        assert storage.load("", "s") is None

    def test_the_commits_of_an_attempt_are_recognised_after_the_next_has_begun(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.running)
        first = writer.prepared({"a": 1}, run=run)
        storage.commit(first)
        writer.applied({"a": 1})
        storage.commit(resumed(writer, run))
        assert storage.commit(first) == 1

    def test_a_run_is_resumed_with_the_change_that_undoes_what_it_did(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.failed, ended_at=5.5)
        writer.commit({"a": 1, "b": 2}, run=run)
        commit = resumed(writer, run, patch=writer.prepared({"b": 2}).patch)
        assert storage.commit(commit) == 2
        assert storage.commit(commit) == 2, "repeated, it is recognised"
        assert rebuilt(storage.load("", "s")) == {"b": 2}
        storage.beat("process-2")
        assert storage.find_runs("") == (commit.run,)

    def test_an_interrupted_run_is_resumed_as_it_is_shown(self, storage: Storage) -> None:
        with adjustable_clock() as hands:
            writer, run = Writer(storage), make_run(status=RunStatus.waiting)
            writer.commit({"a": 1}, run=run)
            hands.time += STALE_AFTER + 1
            (shown,) = storage.find_runs("")
            assert shown.status is RunStatus.interrupted
            assert storage.commit(resumed(writer, shown)) == 1
            (found,) = storage.find_runs("")
        assert (found.attempt, found.process_id, found.status) == (2, "process-2", RunStatus.running)

    def test_a_run_that_is_not_as_it_was_read_is_not_resumed(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.failed, ended_at=5.5, attempt=3)
        writer.commit({"a": 1}, run=run)
        before = everything(storage, "")
        for read in (
            replace(run, attempt=2),
            replace(run, process_id="another"),
            replace(run, ended_at=5.6),
            replace(run, status=RunStatus.cancelled),
            replace(run, status=RunStatus.interrupted),
            replace(run, run_id="no such"),
        ):
            later = replace(resumed(writer, read).run or run, attempt=4)
            for patch in (None, writer.prepared({}).patch):
                with raises(errors.RunTakenOver):
                    storage.commit(resumed(writer, read, run=later, patch=patch))
                assert everything(storage, "") == before

    def test_a_run_is_not_resumed_in_a_session_that_has_moved_on(self, storage: Storage) -> None:
        writer, run = Writer(storage), make_run(status=RunStatus.failed)
        writer.commit({"a": 1}, run=run)
        late = resumed(writer, run)
        patched = replace(late, patch=writer.prepared({}).patch)
        writer.commit({"a": 2})
        before = everything(storage, "")
        for commit in (late, patched, replace(late, base=0, incarnation="")):
            with raises(errors.VersionConflict) as caught:
                storage.commit(commit)
            assert caught[0].facts["current_version"] == 2
            assert caught[0].facts["run_id"] == run.run_id
        with raises(errors.VersionConflict):
            storage.commit(patched, rebase=lambda info, _: replace(patched, base=info.version))
        for base in (1, 2):
            with raises(errors.SessionDeleted):
                storage.commit(replace(late, base=base, incarnation="another"))
        assert everything(storage, "") == before
        assert storage.commit(resumed(writer, run)) == 2

    def test_of_those_who_resume_a_run_at_the_same_time_one_does(self, storage: Storage) -> None:
        for is_stored in (True, False):
            for has_patch in (True, False) if is_stored else (False,):
                session_id = f"{is_stored} {has_patch}"
                writer = Writer(storage, session_id=session_id)
                run = make_run(session_id=session_id, status=RunStatus.failed)
                commit = writer.prepared({"a": 1}, run=run)
                storage.commit(commit if is_stored else replace(commit, patch=None))
                if is_stored:
                    writer.applied({"a": 1})
                patch = writer.prepared({}).patch if has_patch else None
                assert _winners(storage, resumed(writer, run, patch=patch)) == 1
        assert storage.check() == ()


class StepCacheConformance:
    """Tests of the step cache; see the module for how to apply them to a backend."""

    # Reading and storing

    def test_an_entry_comes_back_as_it_was_stored(self, storage: Storage) -> None:
        cache = storage.step_cache
        entries = [
            make_entry("a", result=bytes(range(256)), usage=Usage(0, 0, 0, None), parts=b"{}"),
            make_entry("b", result=b"", is_shared=True, scope="global", run_id=""),
            make_entry("c", Place("ann", "s"), scope="session", step="s\u00e4\U0001f600'", workflow="W'"),
        ]
        with adjustable_clock() as hands:
            for entry in entries:
                put(cache, entry)
            hands.time += 5
            for entry in entries:
                stored = replace(entry, created_at=hands.time - 5, size=len(entry.result or b""))
                assert cache.read(entry.place, entry.key) == stored
                assert cache.find(entry.place.owner, step=entry.step, limit=9)
        assert cache.read(Place(""), key_of("no such")) is None
        assert storage.check() == ()

    def test_an_entry_that_has_expired_is_still_read_and_says_so(self, storage: Storage) -> None:
        cache = storage.step_cache
        with adjustable_clock() as hands:
            put(cache, make_entry(), ttl=60.0)
            hands.time += 61
            found = cache.read(Place(""), key_of("a"))
            assert found is not None
            assert found.expires_at == hands.time - 1

    def test_an_entry_is_replaced_as_a_whole(self, storage: Storage) -> None:
        cache = storage.step_cache
        put(cache, make_entry(), ttl=5.0)
        cache.count_hits({(Place(""), key_of("a")): 3})
        new = make_entry(result=b"new", step="other", parts=b"[]", run_id="run-2")
        put(cache, new)
        found = cache.read(Place(""), key_of("a"))
        assert found is not None
        assert found == replace(new, created_at=found.created_at, size=3)
        assert len(cache.find("")) == 1
        assert storage.check() == ()

    def test_an_entry_without_a_result_is_refused(self, storage: Storage) -> None:
        cache = storage.step_cache
        assert cache.claim(Place(""), key_of("a"), "x", 10.0, unless=None)
        with raises(errors.InvalidInput):
            cache.store(make_entry(result=None), "x", ttl=None)
        assert cache.read(Place(""), key_of("a")) is None

    def test_places_are_kept_apart(self, storage: Storage) -> None:
        cache = storage.step_cache
        places = [Place(owner, session) for owner in HOSTILE_TEXTS for session in ("", owner)]
        for number, place in enumerate(places):
            put(cache, make_entry("a", place, result=b"%d" % number))
        for number, place in enumerate(places):
            found = cache.read(place, key_of("a"))
            assert found is not None
            assert (found.place, found.result) == (place, b"%d" % number)
        assert len(cache.find(None)) == len(places)
        assert storage.check() == ()

    # Leases

    def test_one_computes_an_entry_and_the_others_are_told_so(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place("ann"), key_of("a")
        assert cache.claim(place, key, "x", 10.0, unless=None)
        assert cache.claim(place, key, "x", 10.0, unless=None), "it is so still"
        assert not cache.claim(place, key, "y", 10.0, unless=None)
        assert not cache.renew(place, key, "y", 10.0)
        assert not cache.store(make_entry("a", place), "y", ttl=None)
        cache.release(place, key, "y")
        assert cache.read(place, key) is None
        assert cache.find("ann") == ()
        assert cache.renew(place, key, "x", 10.0)
        assert cache.store(make_entry("a", place), "x", ttl=None)
        assert not cache.renew(place, key, "x", 10.0), "the lease ended with that"
        assert not cache.store(make_entry("a", place), "x", ttl=None)
        assert cache.claim(place, key, "y", 10.0, unless=None)

    def test_a_claim_is_for_what_is_not_there_or_older_than_was_asked_for_or_expired(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place(""), key_of("a")

        def claimed(unless: float | None) -> bool:
            is_claimed = cache.claim(place, key, "x", 10.0, unless=unless)
            cache.release(place, key, "x")
            return is_claimed

        with adjustable_clock() as hands:
            assert claimed(hands.time)
            put(cache, make_entry(), ttl=60.0)
            created = hands.time
            hands.time += 30
            assert claimed(None)
            assert claimed(created)
            assert not claimed(created - 1)
            assert not claimed(0.0)
            hands.time += 30
            assert claimed(created - 1)
            assert cache.read(place, key) is not None

    def test_whoever_is_not_heard_of_loses_the_entry_and_stores_nothing(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place(""), key_of("a")
        with adjustable_clock() as hands:
            assert cache.claim(place, key, "x", 10.0, unless=None)
            hands.time += 8
            assert cache.renew(place, key, "x", 10.0)
            hands.time += 8
            assert not cache.claim(place, key, "y", 10.0, unless=None)
            hands.time += 3
            assert cache.claim(place, key, "y", 10.0, unless=None)
            assert not cache.renew(place, key, "x", 10.0)
            assert not cache.claim(place, key, "x", 10.0, unless=None)
            assert not cache.store(make_entry(result=b"late"), "x", ttl=None)
            cache.release(place, key, "x")
            assert cache.read(place, key) is None
            assert cache.store(make_entry(result=b"in time"), "y", ttl=None)
            assert not cache.store(make_entry(result=b"later"), "x", ttl=None)
            found = cache.read(place, key)
        assert found is not None
        assert found.result == b"in time"

    def test_whoever_was_merely_slow_stores_if_nobody_came(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place(""), key_of("a")
        with adjustable_clock() as hands:
            assert cache.claim(place, key, "x", 10.0, unless=None)
            hands.time += 60
            assert cache.renew(place, key, "x", 10.0)
            hands.time += 60
            assert cache.store(make_entry(), "x", ttl=None)

    def test_a_value_is_readable_until_it_is_replaced_and_stays_if_that_is_given_up(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place(""), key_of("a")
        put(cache, make_entry(result=b"old"))
        old = cache.read(place, key)
        assert cache.claim(place, key, "x", 10.0, unless=None)
        assert cache.read(place, key) == old
        cache.release(place, key, "x")
        assert cache.read(place, key) == old
        cache.release(place, key, "x")
        assert cache.claim(place, key, "y", 10.0, unless=None)
        assert cache.store(make_entry(result=b"new"), "y", ttl=None)
        assert (cache.read(place, key) or make_entry()).result == b"new"

    def test_a_claim_that_is_given_up_leaves_nothing(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place(""), key_of("a")
        assert cache.claim(place, key, "x", 10.0, unless=None)
        cache.release(place, key, "x")
        assert not cache.renew(place, key, "x", 10.0)
        assert cache.claim(place, key, "y", 10.0, unless=None)

    def test_of_those_who_claim_at_the_same_time_one_does(self, storage: Storage) -> None:
        cache = storage.step_cache
        for number in range(8):
            assert _claimants(cache, make_entry(str(number))) == 1

    # Finding and deleting

    def test_entries_are_found_the_newest_first_without_their_results(self, storage: Storage) -> None:
        cache = storage.step_cache
        with adjustable_clock() as hands:
            for number, (owner, session, step, workflow) in enumerate(
                [("", "", "a", "W"), ("ann", "s", "a", "W"), ("ann", "t", "b", "W"), ("", "s", "a", "V")]
            ):
                hands.time += 1
                put(cache, make_entry(str(number), Place(owner, session), step=step, workflow=workflow))

        def found(*arguments: Any, **options: Any) -> list[bytes]:
            entries = cache.find(*arguments, **options)
            assert all(entry.result is None and entry.size == 15 for entry in entries)
            return [entry.key for entry in entries]

        keys = [key_of(str(number)) for number in range(4)]
        assert found(None) == keys[::-1]
        assert found("") == [keys[3], keys[0]]
        assert found("ann", step="a") == [keys[1]]
        assert found(None, workflow="W", limit=2) == [keys[2], keys[1]]
        assert found(None, session_id="s") == [keys[3], keys[1]]
        assert found("nobody") == []
        assert found(None, limit=0) == []
        for limit in (-1, True, "1"):
            with raises(errors.InvalidInput):
                cache.find(None, limit=limit)  # type: ignore[arg-type]

    def test_hits_are_counted_and_what_is_gone_is_not_missed(self, storage: Storage) -> None:
        cache, place = storage.step_cache, Place("ann")
        with adjustable_clock() as hands:
            put(cache, make_entry("a", place))
            assert cache.claim(place, key_of("claimed"), "x", 10.0, unless=None)
            hands.time += 5
            counted = {(place, key_of("a")): 2, (place, key_of("gone")): 1, (place, key_of("claimed")): 1}
            for _ in range(2):
                cache.count_hits(counted)
            cache.count_hits({})
            found = cache.read(place, key_of("a"))
            assert found is not None
            assert (found.hits, found.hit_at, found.created_at) == (4, hands.time, hands.time - 5)
            assert cache.find("ann") == (replace(found, result=None),)

    def test_deleted_entries_are_gone_and_counted(self, storage: Storage) -> None:
        cache, place = storage.step_cache, Place("ann")
        for name in "abc":
            put(cache, make_entry(name, place))
        named = [(place, key_of(name)) for name in ("a", "b", "no such", "a")]
        assert cache.delete(named) == 2
        assert [entry.key for entry in cache.find("ann")] == [key_of("c")]
        assert cache.delete([(Place("", ""), key_of("c")), (Place("ann", "s"), key_of("c"))]) == 0
        assert cache.delete([]) == 0

    def test_whoever_computes_an_entry_that_is_deleted_goes_on(self, storage: Storage) -> None:
        cache, place, key = storage.step_cache, Place(""), key_of("a")
        put(cache, make_entry())
        assert cache.claim(place, key, "x", 10.0, unless=None)
        assert cache.delete([(place, key)]) == 1
        assert cache.delete([(place, key)]) == 0
        assert cache.read(place, key) is None
        assert not cache.claim(place, key, "y", 10.0, unless=None)
        assert cache.store(make_entry(result=b"new"), "x", ttl=None)
        assert (cache.read(place, key) or make_entry()).result == b"new"
        assert storage.check() == ()

    def test_the_entries_of_a_session_go_when_it_is_deleted_or_renamed(self, storage: Storage) -> None:
        cache = storage.step_cache
        leaving: tuple[Callable[[], None], ...] = (
            lambda: storage.delete_session("", "s"),
            lambda: storage.rename_session("", "s", "renamed"),
        )
        for leave in leaving:
            Writer(storage).commit({"a": 1})
            for place in (Place("", "s"), Place("", "t"), Place("ann", "s"), Place("")):
                put(cache, make_entry("a", place))
            assert cache.claim(Place("", "s"), key_of("computed"), "x", 10.0, unless=None)
            leave()
            places = {(entry.place.owner, entry.place.session_id) for entry in cache.find(None)}
            assert places == {("", "t"), ("ann", "s"), ("", "")}
            assert not cache.store(make_entry("computed", Place("", "s")), "x", ttl=None)
        assert storage.check() == ()

    # Sweeping

    def test_what_has_expired_is_swept_and_nothing_else(self, storage: Storage) -> None:
        cache = storage.step_cache
        with adjustable_clock() as hands:
            for number in range(230):
                put(cache, make_entry(str(number)), ttl=60.0 if number % 10 else 3600.0)
            put(cache, make_entry("for ever"))
            put(cache, make_entry("computed"), ttl=1.0)
            assert cache.claim(Place(""), key_of("computed"), "x", 100.0, unless=None)
            assert cache.claim(Place(""), key_of("dead"), "y", 1.0, unless=None)
            assert cache.sweep() == 0
            hands.time += 61
            assert cache.sweep() == 207
            assert cache.sweep() == 0
            assert cache.store(make_entry("computed"), "x", ttl=1.0)
            assert not cache.store(make_entry("dead"), "y", ttl=None), "its claim was swept"
            hands.time += 1
            assert cache.sweep() == 1
        assert len(cache.find("")) == 24
        assert storage.check() == ()

    def test_what_was_not_used_for_the_longest_time_is_evicted(self, make_cached: MakeCached) -> None:
        storage = make_cached(1000)
        cache = storage.step_cache
        with adjustable_clock() as hands:
            for number in range(10):
                hands.time += 1
                put(cache, make_entry(str(number), result=b"x" * 50))
            hands.time += 1
            cache.count_hits({(Place(""), key_of(str(number))): 1 for number in (0, 3)})
            assert cache.claim(Place(""), key_of("1"), "x", 100.0, unless=None)
            hands.time += 1
            put(cache, make_entry("large", result=b"x" * 650))
            kept = {name for name in [*map(str, range(10)), "large"] if cache.read(Place(""), key_of(name))}
            assert kept == {"0", "1", "3", "6", "7", "8", "9", "large"}
            assert cache.store(make_entry("1", result=b"kept"), "x", ttl=None)
        assert storage.check() == ()

    def test_a_cache_grows_no_larger_than_it_may(self, make_cached: MakeCached) -> None:
        storage = make_cached(16_000)
        cache = storage.step_cache
        for number in range(300):
            put(cache, make_entry(str(number), Place("ann", "s" * (number % 2)), result=b"x" * 300))
            assert sum(entry.size for entry in cache.find(None)) <= 16_000 + 1000 + 300
        assert cache.read(Place("ann", "s"), key_of("299")) is not None
        assert cache.read(Place("ann"), key_of("0")) is None

    def test_a_result_larger_than_the_cache_is_stored_and_evicted(self, make_cached: MakeCached) -> None:
        cache = make_cached(10).step_cache
        put(cache, make_entry(result=b"x" * 11))
        assert cache.read(Place(""), key_of("a")) is None

    def test_small_results_are_swept_after_some_number_of_them(self, storage: Storage) -> None:
        cache = storage.step_cache
        with adjustable_clock() as hands:
            put(cache, make_entry("expired"), ttl=1.0)
            hands.time += 2
            for number in range(62):
                put(cache, make_entry(str(number)))
            assert cache.read(Place(""), key_of("expired")) is not None
            put(cache, make_entry("the 64th"))
            assert cache.read(Place(""), key_of("expired")) is None

    def test_steps_of_runs_are_not_part_of_the_cache(self, make_cached: MakeCached) -> None:
        storage = make_cached(0)
        run = make_run()
        storage.commit(replace(Writer(storage).prepared({"a": 1}, run=run), steps=(make_step(),)))
        storage.step_cache.sweep()
        assert storage.find_steps("", "s", run.run_id, with_results=True)[0].result == b"result 1"

    def test_only_sensible_sizes_are_accepted(self, make_cached: MakeCached) -> None:
        sizes: list[Any] = [-1, 1.5, True, None, "1"]
        for size in sizes:
            with raises(errors.InvalidInput):
                make_cached(size)

    # Closing

    def test_the_cache_of_a_closed_storage_refuses_every_operation(self, storage: Storage) -> None:
        cache = storage.step_cache
        put(cache, make_entry())
        storage.close()
        place, key = Place(""), key_of("a")
        calls: list[Callable[[], object]] = [
            lambda: cache.read(place, key),
            lambda: cache.claim(place, key, "x", 1.0, unless=None),
            lambda: cache.renew(place, key, "x", 1.0),
            lambda: cache.store(make_entry(), "x", ttl=None),
            lambda: cache.release(place, key, "x"),
            lambda: cache.count_hits({(place, key): 1}),
            lambda: cache.find(None),
            lambda: cache.delete([(place, key)]),
            cache.sweep,
        ]
        for call in calls:
            with raises(errors.StorageClosed):
                call()
