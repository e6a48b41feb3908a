"""Runs of one session at the same time: what merges, what is refused, and how to have a session to oneself."""

from __future__ import annotations

import asyncio
import copy
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from catalogue import same
from holdfast import RunEvent, Workflow
from holdfast.conflicts import MISSING
from holdfast.errors import InvalidInput, LeaseLost, SessionBusy, StateConflict, UnstorableValue
from holdfast.patch import apply, decode_patch
from holdfast.records import Claim, RunStatus
from holdfast.standing import Standing
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.stored import recent


class Doing(Workflow):
    def run(self, action: Callable[[Any], Any] = lambda state: None) -> Any:
        return action(self.session_state)


def doing(storage: Storage, **options: Any) -> Doing:
    return Doing(session_id="s", storage=storage, **options)


def stored(storage: Storage) -> dict[Any, Any]:
    recent.forget(storage)
    return dict(doing(storage).session_state)


def during(storage: Storage, theirs: Callable[[Any], Any], ours: Callable[[Any], Any], **options: Any) -> Doing:
    """Run `ours` in a workflow whose run began before another one did `theirs`; returns that workflow."""
    workflow = doing(storage, **options)

    def both(state: Any) -> None:
        doing(storage).run(theirs)
        ours(state)

    workflow.run(both)
    return workflow


# Merging


def test_changes_at_different_places_are_all_kept_and_come_into_the_state_in_use(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(posts=[{"id": 1}, {"id": 2}], by={"ann": {"n": 1}, "bob": {}}, a=1, b=2))
    workflow = doing(storage)
    posts, by = workflow.session_state["posts"], workflow.session_state["by"]
    second, ann = posts[1], by["ann"]

    def theirs(state: Any) -> None:
        state["posts"].insert(0, {"id": 0})
        state["posts"][2]["title"] = "two"
        state["by"]["cid"] = {"n": 3}
        del state["a"]

    def ours(state: Any) -> None:
        doing(storage).run(theirs)
        state["posts"].append({"id": 3})
        state["by"]["ann"]["n"] = 10
        state["c"] = 3

    workflow.run(ours)
    expected = {
        "posts": [{"id": 0}, {"id": 1}, {"id": 2, "title": "two"}, {"id": 3}],
        "by": {"ann": {"n": 10}, "bob": {}, "cid": {"n": 3}},
        "b": 2,
        "c": 3,
    }
    assert same(dict(workflow.session_state), expected)
    assert same(stored(storage), expected)
    assert workflow.session_state["posts"] is posts
    assert posts[2] is second
    assert workflow.session_state["by"]["ann"] is ann


def test_others_changes_come_at_the_end_of_the_run_and_not_with_its_commits(storage: Storage) -> None:
    class Committing(Workflow):
        def run(self) -> Iterator[Any]:
            items = self.session_state.setdefault("items", [])
            for number in range(4):
                doing(self.storage).run(lambda s: s["items"].append("theirs") if "items" in s else None)
                items.append(number)
                self.write_to_storage()
                yield list(items)

    workflow = Committing(session_id="s", storage=storage)
    assert [response.content for response in workflow.run()] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert workflow.session_state["items"] == [0, "theirs", 1, "theirs", 2, "theirs", 3]
    assert stored(storage) == {"items": [0, "theirs", 1, "theirs", 2, "theirs", 3]}


@pytest.mark.parametrize(
    "append",
    [
        lambda s, item: s.setdefault("posts", []).append(item),
        lambda s, item: s.update(posts=s.get("posts", [])) or s["posts"].append(item),
        lambda s, item: s.setdefault("by", {}).setdefault("topic", []).append(item),
    ],
)
def test_two_first_runs_of_a_new_session_keep_both_posts(storage: Storage, append: Callable[[Any, Any], Any]) -> None:
    workflow = during(storage, lambda s: append(s, "theirs"), lambda s: append(s, "mine"))
    assert stored(storage) in ({"posts": ["theirs", "mine"]}, {"by": {"topic": ["theirs", "mine"]}})
    assert dict(workflow.session_state) == stored(storage)


def test_two_first_runs_with_the_same_defaults_keep_both_changes(storage: Storage) -> None:
    defaults = {"config": {"lang": "en"}, "posts": [], "n": 0, "flag": True}
    workflow = doing(storage, session_state=defaults)

    def both(state: Any) -> None:
        doing(storage, session_state=defaults).run(lambda s: (s["posts"].append("theirs"), s["config"].update(a=1)))
        state["posts"].append("mine")
        state["n"] = 5

    workflow.run(both)
    expected = {"config": {"lang": "en", "a": 1}, "posts": ["theirs", "mine"], "n": 5, "flag": True}
    assert same(stored(storage), expected)
    assert same(dict(workflow.session_state), expected)


WHOLE: list[tuple[dict[str, Any], Callable[[Any], Any], Callable[[Any], Any]]] = [
    ({"c": {"a": 1, "b": 2}}, lambda s: s.update(c={"a": 1, "b": 3}), lambda s: s["c"].update(x=1)),
    ({"c": {"a": 1, "b": 2}}, lambda s: s["c"].update(x=1), lambda s: s.update(c={"a": 1, "b": 3})),
    ({"c": {"a": {"b": 1, "x": 1}}}, lambda s: s["c"].update(a={"b": 1, "x": 2}), lambda s: s["c"]["a"].update(y=1)),
    ({"c": [{"a": 1, "b": 2}]}, lambda s: s["c"].__setitem__(0, {"a": 1, "b": 3}), lambda s: s["c"][0].update(x=1)),
    ({}, lambda s: s.update(c={"a": 1}), lambda s: s.update(c={"b": 1})),
    ({}, lambda s: s.update(c=["a"]), lambda s: s.setdefault("c", []).append("b")),
    ({"c": timedelta(1)}, lambda s: s.update(c=timedelta(2)), lambda s: s.update(c=timedelta(1, 5))),
]


@pytest.mark.parametrize(("base", "theirs", "ours"), WHOLE)
def test_nothing_is_mixed_into_a_value_that_was_assigned_whole(
    storage: Storage, base: dict[str, Any], theirs: Callable[[Any], Any], ours: Callable[[Any], Any]
) -> None:
    base = copy.deepcopy(base)
    doing(storage).run(lambda s: s.update(copy.deepcopy(base)))
    with pytest.raises(StateConflict, match=r"session_state\['c'\]"):
        during(storage, theirs, ours)
    expected: dict[str, Any] = {**base}
    check = doing(MemoryStorage())
    check.run(lambda s: s.update(base))
    check.run(theirs)
    expected = dict(check.session_state)
    assert same(stored(storage), expected)


def test_a_refused_commit_applies_nothing_and_can_be_applied_by_hand(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(n=1, posts=[]))
    with pytest.raises(StateConflict) as caught:
        during(storage, lambda s: s.update(n=2), lambda s: (s.update(n=3), s["posts"].append("mine")))
    conflict = caught.value
    assert (conflict.path, conflict.base, conflict.ours, conflict.theirs) == ("session_state['n']", 1, 3, 2)
    assert stored(storage) == {"n": 2, "posts": []}
    (run,) = [run for run in storage.find_runs("") if run.refused_patch]
    assert (run.refused_version, run.refused_patch) == (1, conflict.patch)
    document = {"n": b"1", "posts": b"[]"}
    apply(document, decode_patch(run.refused_patch or b""))
    assert document == {"n": b"3", "posts": b'["mine"]'}
    assert "2" not in str(conflict).replace("version 2", "")


def test_where_there_is_no_value_a_conflict_says_missing(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(n=[1]))
    with pytest.raises(StateConflict) as caught:
        during(storage, lambda s: s.pop("n"), lambda s: s["n"].append(2))
    assert (caught.value.base, caught.value.ours, caught.value.theirs) == ([1], [1, 2], MISSING)
    assert not MISSING


# What on_conflict says


def test_the_last_write_wins_where_that_is_said(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(last="", n=0, log=[]))
    policy = {"last": "last_write"}
    during(storage, lambda s: s.update(last="theirs", log=["t"]), lambda s: s.update(last="mine"), on_conflict=policy)
    assert stored(storage) == {"last": "mine", "n": 0, "log": ["t"]}
    with pytest.raises(StateConflict, match=r"\['n'\]"):
        during(storage, lambda s: s.update(last="a", n=1), lambda s: s.update(last="b", n=2), on_conflict=policy)
    during(storage, lambda s: s.update(n=1), lambda s: s.update(n=7), on_conflict="last_write")
    assert stored(storage)["n"] == 7
    during(storage, lambda s: s.pop("n"), lambda s: s.update(n=8), on_conflict="last_write")
    assert stored(storage)["n"] == 8


def test_a_resolver_decides_outside_of_transactions(storage: Storage) -> None:
    asked: list[Any] = []

    def add(path: str, base: int, ours: int, theirs: int) -> int:
        asked.append((path, base, ours, theirs))
        Doing(session_id="other", storage=storage).run(lambda s: s.update(busy=1))  # nothing is locked
        return ours + theirs - base

    doing(storage).run(lambda s: s.update(n=10))
    workflow = during(storage, lambda s: s.update(n=13), lambda s: s.update(n=15), on_conflict=add)
    assert stored(storage) == {"n": 18} == dict(workflow.session_state)
    assert asked == [("session_state['n']", 10, 15, 13)]


def test_a_resolver_may_be_a_method_and_may_say_that_nothing_stays(storage: Storage) -> None:
    class Resolving(Doing):
        def on_conflict(self, path: str, base: Any, ours: Any, theirs: Any) -> Any:  # type: ignore[override]
            return MISSING if path == "session_state['gone']" else self.session_id

    class Plain(Doing):
        on_conflict = lambda path, base, ours, theirs: "plain"  # type: ignore[assignment]  # noqa: E731

    for kind, expected in ((Resolving, "s"), (Plain, "plain")):
        storage_of_its_own = MemoryStorage()
        doing(storage_of_its_own).run(lambda s: s.update(n=1, gone=1))
        workflow = kind(session_id="s", storage=storage_of_its_own)
        workflow.run(lambda s: (doing(storage_of_its_own).run(lambda t: t.update(n=2, gone=2)), s.update(n=3, gone=3)))  # noqa: B023
        assert stored(storage_of_its_own)["n"] == expected
        assert ("gone" in stored(storage_of_its_own)) is (kind is Plain)


def test_a_resolver_that_fails_leaves_a_conflict(storage: Storage) -> None:
    def fail(*values: Any) -> None:
        raise LookupError("no idea")

    for resolver in (fail, lambda *values: object()):
        doing(storage).run(lambda s: s.update(n=1))
        with pytest.raises(StateConflict) as caught:
            during(storage, lambda s: s.update(n=2), lambda s: s.update(n=3), on_conflict=resolver)
        assert isinstance(caught.value.__cause__, LookupError | UnstorableValue)
        assert "on_conflict raised" in caught.value.__notes__[0]
        assert stored(storage) == {"n": 2}


@pytest.mark.parametrize("wrong", ["merge", 1, None, {"n": "ours"}, ["raise"]])
def test_an_on_conflict_that_means_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="on_conflict is"):
        Doing(on_conflict=wrong)


# refresh()


def test_refresh_brings_others_changes_in_and_keeps_what_is_not_committed(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(log=["a"], n=1))
    workflow = doing(storage)
    log = workflow.session_state["log"]
    log.append("mine")
    doing(storage).run(lambda s: (s["log"].insert(0, "theirs"), s.update(new=[1])))
    assert workflow.refresh() == 2
    assert log == ["theirs", "a", "mine"]
    assert workflow.session_state["log"] is log
    assert workflow.session_state["new"] == [1]
    assert stored(storage)["log"] == ["theirs", "a"], "what is pending stays so"
    assert workflow.write_to_storage() == 3
    assert stored(storage)["log"] == ["theirs", "a", "mine"]
    workflow.session_state["n"] = 5
    doing(storage).run(lambda s: s.update(n=6))
    with pytest.raises(StateConflict):
        workflow.refresh()
    assert workflow.session_state["n"] == 5


def test_refresh_of_what_has_not_changed_changes_nothing(storage: Storage) -> None:
    workflow = doing(storage)
    assert workflow.refresh() == 0
    workflow.session_state["n"] = [1]
    assert workflow.refresh() == 0
    workflow.write_to_storage()
    assert workflow.refresh() == 1
    assert workflow.session_state == {"n": [1]}


# Random programs of several objects that run at the same time


class Model:
    """What must be stored once all is committed: every token that was put in, but those that were taken out."""

    def __init__(self) -> None:
        self.added: dict[str, list[str]] = {"a": [], "b": []}
        self.removed: set[str] = set()

    def change(self, chance: random.Random, workflow: Workflow, token: str) -> None:
        name = chance.choice("ab")
        items = workflow.session_state.setdefault(name, [])
        mine = [item for item in items if item not in self.removed]
        if mine and chance.random() < 0.2:
            gone = chance.choice(mine)
            items.remove(gone)
            self.removed.add(gone)
        else:
            items.insert(chance.choice([0, len(items) // 2, len(items)]), token)
            self.added[name].append(token)

    def check(self, state: dict[Any, Any]) -> None:
        for name, tokens in self.added.items():
            assert sorted(state.get(name, [])) == sorted(token for token in tokens if token not in self.removed)


def check_program(storage: Storage, seed: int) -> bool:
    """Interleaved commits of several objects on one session: each addition is there once. Whether it came to its
    end: two that remove one element conflict, which loses nothing, but ends the program."""
    chance = random.Random(seed)
    session_id = f"program-{seed}"
    objects = [Doing(session_id=session_id, storage=storage) for _ in range(3)]
    model = Model()
    try:
        for step in range(30):
            workflow = chance.choice(objects)
            model.change(chance, workflow, f"t{step}")
            act = chance.choice([workflow.write_to_storage, workflow.refresh, workflow.run, lambda: None])
            act()
            if chance.random() < 0.1:
                recent.forget(storage)
        for workflow in objects:
            workflow.write_to_storage()
    except StateConflict:
        return False
    recent.forget(storage)
    final = Doing(session_id=session_id, storage=storage).session_state
    model.check(final)
    for workflow in objects:
        workflow.run()
        assert same(dict(workflow.session_state), dict(final)), f"seed {seed}: the state in use"
    return True


def test_random_programs_of_several_objects_lose_and_double_nothing(storage: Storage) -> None:
    assert sum(check_program(storage, seed) for seed in range(60)) > 20
    assert storage.check() == ()


def test_a_merge_that_forgets_what_others_changed_would_be_found(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Standing,
        "moved",
        lambda standing, info, changes: Standing(standing.view, standing.stored.after_changes(changes)),
    )
    with pytest.raises(AssertionError):
        for seed in range(60):
            check_program(storage, seed)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(10))
def test_many_random_programs_of_several_objects(storage: Storage, block: int) -> None:
    for seed in range(1000 + block * 200, 1200 + block * 200):
        check_program(storage, seed)


def in_threads(work: Callable[[int], None], count: int) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_threads_that_append_to_one_session_lose_nothing(storage: Storage) -> None:
    in_threads(
        lambda n: [doing(storage).run(lambda s, i=i: s.setdefault("items", []).append((n, i))) for i in range(10)], 6
    )
    items = stored(storage)["items"]
    assert sorted(items) == [(n, i) for n in range(6) for i in range(10)]
    for number in range(6):
        assert [i for n, i in items if n == number] == list(range(10))


def test_asyncio_tasks_that_append_to_one_session_lose_nothing(storage: Storage) -> None:
    class Appending(Workflow):
        async def run(self, item: int) -> AsyncIterator[int]:
            items = self.session_state.setdefault("items", [])
            await asyncio.sleep(0)
            items.append(item)
            yield item

    async def one(item: int) -> None:
        async for _ in Appending(session_id="s", storage=storage).run(item):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(one(item) for item in range(20)))

    asyncio.run(main())
    assert sorted(stored(storage)["items"]) == list(range(20))


# Transactions


class Counting(Workflow):
    def run(self, times: int = 1) -> int:
        for _ in range(times):
            with self.transaction() as state:
                state["n"] = state.get("n", 0) + 1
        return self.session_state["n"]


def counting(storage: Storage) -> Counting:
    return Counting(session_id="s", storage=storage)


def test_a_transaction_reads_and_writes_as_one(storage: Storage) -> None:
    in_threads(lambda _: counting(storage).run(10) and None, 5)
    assert stored(storage) == {"n": 50}
    assert storage.check() == ()


def test_a_transaction_in_coroutines(storage: Storage) -> None:
    class Async(Workflow):
        async def run(self) -> int:
            async with self.transaction() as state:
                before = state.get("n", 0)
                await asyncio.sleep(0.001)
                state["n"] = before + 1
            return state["n"]

    async def main() -> list[int]:
        done = await asyncio.gather(*(Async(session_id="s", storage=storage).run() for _ in range(8)))
        return sorted(response.content for response in done)

    assert asyncio.run(main()) == list(range(1, 9))


def test_a_transaction_commits_what_is_pending_first_and_sees_what_others_committed(storage: Storage) -> None:
    def ours(state: Any) -> None:
        state["mine"] = [1]
        with workflow.transaction() as inside:
            assert inside is state
            assert inside["theirs"] == 1
            assert storage.load("", "s").info.version == 2  # type: ignore[union-attr]
            inside["mine"].append(2)
        assert stored(storage) == {"theirs": 1, "mine": [1, 2]}

    workflow = doing(storage)
    workflow.run(lambda s: (doing(storage).run(lambda t: t.update(theirs=1)), ours(s)))
    assert [run.status for run in storage.find_runs("")] == [RunStatus.completed] * 2


def test_an_exception_in_a_transaction_restores_the_state(storage: Storage) -> None:
    workflow = doing(storage)
    workflow.run(lambda s: s.update(items=[1]))
    items = workflow.session_state["items"]
    with pytest.raises(LookupError), workflow.transaction() as state:
        state["items"].append(2)
        state["half"] = True
        raise LookupError
    assert workflow.session_state == {"items": [1]}
    assert workflow.session_state["items"] is items
    assert stored(storage) == {"items": [1]}
    with workflow.transaction() as state:
        state["items"].append(3)
    assert stored(storage) == {"items": [1, 3]}


def test_other_commits_wait_for_a_transaction_and_then_go_on(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(n=0))
    inside, done = threading.Event(), []

    def hold() -> None:
        with doing(storage).transaction() as state:
            inside.set()
            time.sleep(0.2)
            state["held"] = True
            done.append("transaction")

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(5)
    doing(storage).run(lambda s: s.update(other=1))
    done.append("other")
    thread.join()
    assert done == ["transaction", "other"]
    assert stored(storage) == {"n": 0, "held": True, "other": 1}


def test_who_waits_too_long_for_a_transaction_is_told(storage: Storage) -> None:
    storage.lock_timeout = 0.15
    with doing(storage).transaction() as state:
        state["n"] = 1
        with pytest.raises(SessionBusy, match="in use by a transaction") as caught:
            doing(storage).run(lambda s: s.update(other=1))
        assert caught.value.facts["seconds"] == 0.15
        with pytest.raises(SessionBusy), doing(storage).transaction():
            pass
    assert stored(storage) == {"n": 1}


def test_a_transaction_is_not_opened_in_a_transaction_nor_saved_by_halves(storage: Storage) -> None:
    workflow = doing(storage)
    with workflow.transaction() as state:
        state["n"] = 1
        with pytest.raises(InvalidInput, match="holds no other"), workflow.transaction():
            pass
        with pytest.raises(InvalidInput, match="committed when its block is left"):
            workflow.write_to_storage()
        assert workflow.refresh() == 0
    assert stored(storage) == {"n": 1}


def test_threads_of_one_object_take_turns_in_transactions(storage: Storage) -> None:
    workflow = doing(storage)

    def work(_: int) -> None:
        for _ in range(5):
            with workflow.transaction() as state:
                state["n"] = state.get("n", 0) + 1

    workflow.run(lambda s: in_threads(work, 4))
    assert stored(storage) == {"n": 20}


def test_a_transaction_with_what_cannot_be_stored_commits_nothing(storage: Storage) -> None:
    workflow = doing(storage)
    workflow.run(lambda s: s.update(good=0))
    with (
        pytest.raises(UnstorableValue, match=r"bad(.|\n)*Nothing of this transaction"),
        workflow.transaction() as state,
    ):
        state.update(bad=object(), good=1)
    assert workflow.session_state == {"good": 0} == stored(storage)
    workflow.session_state["bad"] = object()
    with pytest.raises(UnstorableValue, match="was not begun"), workflow.transaction():
        raise AssertionError("the block was entered")
    del workflow.session_state["bad"]
    with workflow.transaction() as state:
        state["good"] = 2
    assert stored(storage) == {"good": 2}


def test_a_transaction_object_can_be_used_again(storage: Storage) -> None:
    transaction = doing(storage).transaction()
    for _ in range(3):
        with transaction as state:
            state["n"] = state.get("n", 0) + 1
    assert stored(storage) == {"n": 3}


def test_a_task_made_inside_of_a_transaction_can_open_one_later(storage: Storage) -> None:
    class Async(Workflow):
        async def run(self) -> None:
            begun = asyncio.Event()

            async def later() -> None:
                await begun.wait()
                async with self.transaction() as state:
                    state["later"] = 1

            async with self.transaction() as state:
                state["first"] = 1
                task = asyncio.create_task(later())
                await asyncio.sleep(0)
            begun.set()
            await task

    asyncio.run(Async(session_id="s", storage=storage).run())
    assert stored(storage) == {"first": 1, "later": 1}


def test_a_transaction_that_another_thread_ended_is_over_here_too(storage: Storage) -> None:
    class Yielding(Workflow):
        def run(self) -> Iterator[int]:
            with self.transaction() as state:
                state["half"] = 1
                yield 1

    workflow = Yielding(session_id="s", storage=storage)
    responses = workflow.run()
    next(responses)
    in_threads(lambda _: responses.close(), 1)
    with workflow.transaction() as state:
        state["whole"] = 1
    assert stored(storage) == {"whole": 1}


def test_a_queued_run_that_is_called_from_one_of_the_same_session_is_refused(storage: Storage) -> None:
    class Nested(Workflow):
        concurrency = "queue"

        def run(self, session_id: str, deep: bool) -> None:
            self.session_state["ran"] = True
            if deep:
                Nested(session_id=session_id, storage=self.storage).run(session_id, False)

    with pytest.raises(InvalidInput, match="would wait for ever"):
        Nested(session_id="s", storage=storage).run("s", True)
    Nested(session_id="s", storage=storage).run("another", True)


def test_an_async_resolver_is_refused() -> None:
    async def later(*values: Any) -> None: ...

    with pytest.raises(InvalidInput, match="not async"):
        Doing(on_conflict={"n": later})


def test_a_slow_resolver_does_not_stop_the_heartbeat(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[str] = []
    original = storage.beat
    monkeypatch.setattr("holdfast.heartbeat.BEAT_EVERY", 0.2)
    monkeypatch.setattr(storage, "beat", lambda process, **given: (beats.append(process), original(process, **given)))

    def slow(path: str, base: Any, ours: Any, theirs: Any) -> Any:
        del beats[:]
        deadline = time.monotonic() + 10
        while not beats and time.monotonic() < deadline:
            time.sleep(0.05)
        return ours

    workflow = doing(storage, on_conflict=slow)
    workflow.run(lambda s: (doing(storage).run(lambda t: t.update(n=1)), s.update(n=2), workflow.write_to_storage()))
    assert beats
    assert stored(storage) == {"n": 2}


def test_a_transaction_that_lost_its_lease_commits_nothing(storage: Storage) -> None:
    doing(storage).run(lambda s: s.update(n=0))
    workflow = doing(storage)

    def suspended(state: Any) -> None:
        with workflow.transaction() as inside:
            inside["n"] += 1
            (lease,) = [workflow._session.lease_id]
            storage.release_lease("", "s", lease)  # as when nothing was heard of it for a lease
            counting(storage).run()

    with pytest.raises(LeaseLost):
        workflow.run(suspended)
    assert stored(storage) == {"n": 1}
    (run,) = [run for run in storage.find_runs("") if run.refused_patch]
    assert b'"/n"' in (run.refused_patch or b"")
    workflow.run(lambda s: s.update(more=1))
    assert stored(storage) == {"n": 1, "more": 1}


# One run at a time


class Queueing(Workflow):
    concurrency = "queue"

    def run(self, name: str, seconds: float = 0.0) -> Iterator[Any]:
        log = self.session_state.setdefault("log", [])
        log.append(f"{name} begins")
        time.sleep(seconds)
        yield name
        log.append(f"{name} ends")


def queueing(storage: Storage, **options: Any) -> Queueing:
    return Queueing(session_id="s", storage=storage, **options)


def test_queued_runs_are_made_one_at_a_time_in_the_order_in_which_they_came(storage: Storage) -> None:
    names = [f"r{number}" for number in range(5)]
    runs = [queueing(storage).run(name, 0.02, stream_events=True) for name in names]
    events = [next(run).event for run in runs]
    assert events == [RunEvent.workflow_started] + [RunEvent.run_paused] * 4
    threads = [threading.Thread(target=list, args=(run,)) for run in reversed(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored(storage)["log"] == [f"{name} {what}" for name in names for what in ("begins", "ends")]


def test_a_waiting_run_shows_that_it_waits_and_can_be_cancelled(storage: Storage) -> None:
    first = queueing(storage).run("first")
    next(first)
    waiting = queueing(storage).run("waiting", stream_events=True)
    paused = next(waiting)
    assert (paused.event, paused.data) == (RunEvent.run_paused, {"ahead": 1})
    deadline = time.monotonic() + 5
    while not storage.find_runs("", run_id=paused.run_id) and time.monotonic() < deadline:
        time.sleep(0.02)
    (run,) = storage.find_runs("", run_id=paused.run_id)
    assert run.status is RunStatus.waiting
    waiting.close()
    assert storage.find_runs("", run_id=paused.run_id)[0].status is RunStatus.cancelled
    list(first)
    assert [response.content for response in queueing(storage).run("third")] == ["third"]
    assert stored(storage)["log"][0] == "first begins"


def test_a_waiting_task_can_be_cancelled(storage: Storage) -> None:
    class AsyncQueueing(Workflow):
        concurrency = "queue"

        async def run(self, seconds: float) -> None:
            self.session_state.setdefault("done", []).append(seconds)
            await asyncio.sleep(seconds)

    async def main() -> None:
        first = asyncio.create_task(AsyncQueueing(session_id="s", storage=storage).run(0.2))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(AsyncQueueing(session_id="s", storage=storage).run(1.0))
        third = asyncio.create_task(AsyncQueueing(session_id="s", storage=storage).run(0.0))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        await third

    asyncio.run(main())
    assert stored(storage)["done"] == [0.2, 0.0]


def test_a_run_that_waited_is_running_and_then_completed(storage: Storage) -> None:
    first = queueing(storage).run("first")
    next(first)
    second = queueing(storage)
    thread = threading.Thread(target=lambda: list(second.run("second", 0.5)))
    thread.start()
    time.sleep(0.4)
    list(first)
    deadline = time.monotonic() + 5
    statuses = set()
    while thread.is_alive() and time.monotonic() < deadline:
        statuses |= {run.status for run in storage.find_runs("", run_id=second.run_id)}
        time.sleep(0.02)
    thread.join()
    assert RunStatus.running in statuses
    assert storage.find_runs("", run_id=second.run_id)[0].status is RunStatus.completed


def test_a_run_that_is_not_to_wait_is_refused_at_once(storage: Storage) -> None:
    first = queueing(storage).run("first")
    next(first)
    with pytest.raises(SessionBusy, match="in use by another run"):
        next(queueing(storage, concurrency="reject").run("second"))
    list(first)
    assert len(list(queueing(storage, concurrency="reject").run("third"))) == 1
    assert len(storage.find_runs("")) == 2


def test_a_dead_holder_delays_the_next_run_by_one_lease_at_most(storage: Storage) -> None:
    storage.claim_lease(Claim("", "s", "of a process that was killed", seconds=0.5))
    began = time.monotonic()
    list(queueing(storage).run("next"))
    assert 0.3 < time.monotonic() - began < 5


def test_runs_that_merge_are_not_held_up_by_a_queued_run(storage: Storage) -> None:
    first = queueing(storage).run("first")
    next(first)
    doing(storage).run(lambda s: s.update(merged=1))
    list(first)
    assert stored(storage) == {"merged": 1, "log": ["first begins", "first ends"]}


def test_a_queued_run_can_open_transactions(storage: Storage) -> None:
    class Both(Counting):
        concurrency = "queue"

    in_threads(lambda _: Both(session_id="s", storage=storage).run(3) and None, 4)
    assert stored(storage) == {"n": 12}


def test_a_queued_run_that_lost_its_turn_commits_nothing(storage: Storage) -> None:
    workflow = queueing(storage)
    responses = workflow.run("zombie")
    next(responses)
    storage.release_lease("", "s", workflow._session.lease_id)
    list(queueing(storage).run("next"))
    with pytest.raises(LeaseLost):
        list(responses)
    assert stored(storage)["log"] == ["next begins", "next ends"]


def test_a_concurrency_that_means_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="concurrency is"):
        Doing(concurrency="parallel")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_end_the_transaction_of_its_parent(run_python: Callable[[str], str]) -> None:
    printed = run_python("""if True:
        import os, warnings
        warnings.simplefilter("ignore")
        from holdfast import SqlWorkflowStorage, Workflow
        from holdfast.errors import InvalidInput
        storage = SqlWorkflowStorage(db_file="w.db")
        workflow = Workflow(session_id="s", storage=storage)
        with workflow.transaction() as state:
            state["n"] = 1
            pid = os.fork()
            if pid == 0:
                try:
                    workflow.transaction  # the block is left below, in the child as well
                finally:
                    pass
        if pid == 0:
            os._exit(9)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), Workflow(session_id="s", storage=storage).session_state)
    """)
    assert printed.split(maxsplit=1) == ["1", "{'n': 1}\n"]


def test_a_change_inside_of_a_value_whose_old_version_is_forgotten_is_a_conflict(tmp_path: Path) -> None:
    with closing(SqlWorkflowStorage(db_file=tmp_path / "w.db", keep_history=1)) as storage:
        doing(storage).run(lambda s: s.update(big=["b" * 70_000], n=0))
        recent.forget(storage)
        workflow = doing(storage)
        assert workflow.session_state["n"] == 0
        recent.forget(storage)
        doing(storage).run(lambda s: s.update(big=["c" * 70_000]))
        doing(storage).run(lambda s: s["big"].append("theirs"))
        workflow.session_state["big"] = "mine"
        with pytest.raises(StateConflict) as caught:
            workflow.write_to_storage()
        assert (caught.value.ours, caught.value.theirs) == ("mine", ["c" * 70_000, "theirs"])


def test_a_waiting_run_that_nobody_goes_on_with_does_not_come_to_hold_the_session(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.leases.LEASE_SECONDS", 0.5)
    first = queueing(storage).run("first")
    next(first)
    left_alone = queueing(storage).run("left alone", stream_events=True)
    assert next(left_alone).event is RunEvent.run_paused
    list(first)
    assert [response.content for response in queueing(storage).run("third")] == ["third"]
    assert [response.content for response in left_alone if response.content] == ["left alone"]
    assert [entry.split(" ")[0] for entry in stored(storage)["log"]] == [
        "first",
        "first",
        "third",
        "third",
        "left",
        "left",
    ]


INCREMENTS = """if True:
    import sys
    from holdfast import SqlWorkflowStorage, Workflow
    class Counting(Workflow):
        def run(self):
            with self.transaction() as state:
                state["n"] += 1
            self.session_state.setdefault("log", []).append(sys.argv[2])
    storage = SqlWorkflowStorage(db_url=sys.argv[1])
    for _ in range(int(sys.argv[3])):
        Counting(session_id="s", storage=storage).run()
    storage.close()
"""


def increment_in_processes(storage: SqlWorkflowStorage, processes: int, times: int) -> None:
    doing(storage).run(lambda s: s.update(n=0, log=[]))
    words = [sys.executable, "-c", INCREMENTS, storage.url]
    running = [subprocess.Popen([*words, str(number), str(times)]) for number in range(processes)]
    assert [process.wait(timeout=600) for process in running] == [0] * processes
    state = stored(storage)
    assert state["n"] == processes * times
    assert sorted(state["log"]) == sorted(str(number) for number in range(processes) for _ in range(times))
    assert storage.check() == ()


@pytest.mark.parametrize("storage", ["sqlite", "postgres"], indirect=True)
def test_processes_that_increment_and_append_lose_nothing(storage: SqlWorkflowStorage) -> None:
    increment_in_processes(storage, 4, 15)


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["sqlite", "postgres"], indirect=True)
def test_eight_processes_that_increment_five_hundred_times_each_count_to_four_thousand(
    storage: SqlWorkflowStorage,
) -> None:
    increment_in_processes(storage, 8, 500)


def test_a_removal_by_others_is_known_as_one_when_more_is_changed_beside_it(storage: Storage) -> None:
    class Twice(Workflow):
        def run(self) -> None:
            inner = self.session_state["d"]
            inner["a"] = 1
            doing(storage).run(lambda state: state["d"].pop("x"))
            self.write_to_storage()
            inner["b"] = 2
            doing(storage).run(lambda state: state["d"].update(y=1))
            self.write_to_storage()

    doing(storage).run(lambda state: state.update(d={"x": 0}))
    twice = Twice(session_id="s", storage=storage)
    twice.run()
    assert twice.session_state == stored(storage) == {"d": {"a": 1, "b": 2, "y": 1}}


def test_what_a_resolver_changes_during_the_last_commit_is_kept_for_the_next(storage: Storage) -> None:
    def resolver(path: str, base: Any, ours: Any, theirs: Any) -> Any:
        workflow.session_state["asked"] = path
        return ours

    workflow = doing(storage, on_conflict=resolver)

    def both(state: Any) -> None:
        doing(storage).run(lambda other: other.update(n=1, x=1))
        state["n"] = 2

    workflow.run(both)
    assert workflow.session_state == {"n": 2, "x": 1, "asked": "session_state['n']"}
    workflow.write_to_storage()
    assert stored(storage) == {"n": 2, "x": 1, "asked": "session_state['n']"}


@pytest.mark.parametrize("place", [lambda state: state, lambda state: state["d"]], ids=["top", "member"])
@pytest.mark.parametrize("wins", ["ours", "theirs"])
@pytest.mark.parametrize("swaps", ["ours", "theirs"])
def test_a_key_that_is_settled_to_stay_never_stands_beside_an_equal_one(
    storage: Storage, place: Callable[[Any], Any], wins: str, swaps: str
) -> None:
    def swap(state: Any) -> None:
        del place(state)[1]
        place(state)[True] = "swapped"

    def change(state: Any) -> None:
        place(state)[1] = "changed"

    doing(storage).run(lambda state: state.update(d={}))
    doing(storage).run(lambda state: place(state).update({1: "old"}))
    ours, theirs = (swap, change) if swaps == "ours" else (change, swap)
    workflow = during(
        storage, theirs, ours, on_conflict=lambda path, base, ours, theirs: ours if wins == "ours" else theirs
    )
    expected = {1: "changed"} if wins != swaps else {True: "swapped"}
    assert same(place(stored(storage))[1], expected[1])
    assert list(map(type, (key for key in place(stored(storage)) if key == 1))) == [type(next(iter(expected)))]
    assert workflow.session_state == stored(storage)
