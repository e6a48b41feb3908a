"""When a run commits, what is recorded of it, and how it can end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import FakeClock
from holdfast import codec, heartbeat, running
from holdfast.errors import (
    RunInProgress,
    SessionDeleted,
    StateConflict,
    StorageBusy,
    StorageError,
    UnstorableValue,
)
from holdfast.metering import add_usage
from holdfast.records import Commit, RunStatus, Usage
from holdfast.storage.base import STALE_AFTER, Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.workflow import Workflow


class Appending(Workflow):
    """Appends each item, then hands it out."""

    def run(self, items: list[Any], fail: bool = False) -> Iterator[Any]:
        for item in items:
            self.session_state.setdefault("items", []).append(item)
            yield item
        if fail:
            raise LookupError("after the items")


def stored_items(storage: Storage, session_id: str = "s") -> Any:
    return Workflow(session_id=session_id, storage=storage).session_state.get("items")


def the_run(storage: Storage) -> Any:
    (run,) = storage.find_runs(None)
    return run


def test_a_run_that_raises_keeps_what_it_did_and_its_exception_goes_on(storage: Storage) -> None:
    with pytest.raises(LookupError, match="after the items"):
        list(Appending(session_id="s", storage=storage).run([1, 2], fail=True))
    assert stored_items(storage) == [1, 2]
    run = the_run(storage)
    assert run.status is RunStatus.failed
    assert run.error.type == "builtins.LookupError"
    assert run.error.message == "after the items"
    assert "in run" in run.error.traceback
    assert run.ended_at >= run.started_at


def test_a_consumer_that_stops_keeps_what_was_done_until_then(storage: Storage) -> None:
    workflow = Appending(session_id="s", storage=storage)
    responses = workflow.run([1, 2, 3])
    next(responses)
    responses.close()
    assert stored_items(storage) == [1]
    assert the_run(storage).status is RunStatus.cancelled
    assert the_run(storage).error is None
    list(workflow.run([4]))
    assert stored_items(storage) == [1, 4]


@pytest.mark.parametrize("form", ["generator", "returned generator"])
def test_an_abandoned_iterator_is_committed_when_it_is_collected(storage: Storage, form: str) -> None:
    class Returning(Workflow):
        def run(self) -> Any:
            self.session_state["items"] = [1]
            return (number for number in [1, 2])

    if form == "generator":
        next(Appending(session_id="s", storage=storage).run([1, 2]))
    else:
        Returning(session_id="s", storage=storage).run()
    gc.collect()
    assert stored_items(storage) == [1]
    assert the_run(storage).status is RunStatus.cancelled


def test_the_users_finally_block_runs_before_the_last_commit(storage: Storage) -> None:
    class Tidy(Workflow):
        def run(self) -> Iterator[int]:
            try:
                yield 1
            finally:
                self.session_state["tidied"] = True

    responses = Tidy(session_id="s", storage=storage).run()
    next(responses)
    responses.close()
    assert Tidy(session_id="s", storage=storage).session_state == {"tidied": True}


def test_a_generator_that_yields_while_it_is_closed_is_recorded_as_failed(storage: Storage) -> None:
    class Stubborn(Workflow):
        def run(self) -> Iterator[int]:
            try:
                yield 1
            except GeneratorExit:
                self.session_state["n"] = 1
                yield 2

    responses = Stubborn(session_id="s", storage=storage).run()
    next(responses)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        responses.close()
    assert the_run(storage).status is RunStatus.failed
    assert Stubborn(session_id="s", storage=storage).session_state == {"n": 1}


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_and_an_exit_are_cancellations(storage: Storage, end: type[BaseException]) -> None:
    class Interrupted(Workflow):
        def run(self) -> None:
            self.session_state["items"] = [1]
            raise end

    with pytest.raises(end):
        Interrupted(session_id="s", storage=storage).run()
    assert stored_items(storage) == [1]
    assert the_run(storage).status is RunStatus.cancelled


class Waiting(Workflow):
    async def run(self) -> AsyncIterator[Any]:
        self.session_state["items"] = [1]
        yield 1
        self.session_state["items"].append(2)
        await asyncio.sleep(30)
        yield 2


class WaitingOnce(Workflow):
    async def run(self) -> None:
        self.session_state["items"] = [1, 2]
        await asyncio.sleep(30)


async def _consume(workflow: Workflow) -> None:
    async for _ in workflow.run():
        pass


@pytest.mark.parametrize("form", [Waiting, WaitingOnce])
def test_a_cancelled_task_commits_before_the_cancellation_goes_on(storage: Storage, form: type[Workflow]) -> None:
    workflow = form(session_id="s", storage=storage)

    async def main() -> None:
        task = asyncio.create_task(workflow.run() if form is WaitingOnce else _consume(workflow))
        while workflow._active is None or len(workflow.session_state.get("items", [])) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert stored_items(storage) == [1, 2]
    assert the_run(storage).status is RunStatus.cancelled


def test_a_timeout_around_an_async_run_commits_as_well(storage: Storage) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.5):  # enough to begin, on a busy machine too
            await WaitingOnce(session_id="s", storage=storage).run()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert stored_items(storage) == [1, 2]


def test_an_async_generator_that_is_closed_commits(storage: Storage) -> None:
    async def main() -> None:
        responses = Waiting(session_id="s", storage=storage).run()
        await anext(responses)
        await responses.aclose()

    asyncio.run(main())
    assert stored_items(storage) == [1]
    assert the_run(storage).status is RunStatus.cancelled


def test_a_second_cancellation_does_not_tear_the_commit(storage: Storage) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MemoryStorage):
        def commit(self, commit: Commit, **given: Any) -> int:
            begun.set()
            go_on.wait(5)
            return super().commit(commit, **given)

    slow = Slow()

    async def main() -> None:
        task = asyncio.create_task(WaitingOnce(session_id="s", storage=slow).run())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert stored_items(slow) == [1, 2]


def test_changes_are_committed_about_once_a_second_between_responses(storage: Storage, fake_clock: FakeClock) -> None:
    responses = Appending(session_id="s", storage=storage).run([1, 2, 3])
    next(responses)
    assert stored_items(storage) is None
    fake_clock.seconds += running.COMMIT_EVERY
    next(responses)
    assert stored_items(storage) == [1, 2]
    assert the_run(storage).status is RunStatus.running
    next(responses)
    assert stored_items(storage) == [1, 2]
    list(responses)
    assert stored_items(storage) == [1, 2, 3]


def test_an_unstorable_value_may_be_mended_before_the_run_ends(storage: Storage, fake_clock: FakeClock) -> None:
    class Mending(Workflow):
        def run(self) -> Iterator[int]:
            self.session_state["connection"] = object()
            self.session_state["n"] = 1
            fake_clock.seconds += running.COMMIT_EVERY
            yield 1
            self.session_state["connection"] = "closed"

    list(Mending(session_id="s", storage=storage).run())
    assert Mending(session_id="s", storage=storage).session_state == {"n": 1, "connection": "closed"}
    assert the_run(storage).status is RunStatus.completed


def test_an_unstorable_value_costs_only_its_own_key_and_only_until_it_is_mended(storage: Storage) -> None:
    class Holding(Workflow):
        def run(self, value: Any, n: int) -> None:
            self.session_state["value"] = {"deep": [value]}
            self.session_state["n"] = n

    workflow = Holding(session_id="s", storage=storage)
    workflow.run("kept", 1)
    for n in (2, 3):
        with pytest.raises(UnstorableValue, match=r"session_state\['value'\]\['deep'\]\[0\]"):
            workflow.run(object(), n)
        assert Holding(session_id="s", storage=storage).session_state == {"value": {"deep": ["kept"]}, "n": n}
    workflow.run("mended", 4)
    assert Holding(session_id="s", storage=storage).session_state == {"value": {"deep": ["mended"]}, "n": 4}
    statuses = [run.status for run in storage.find_runs("")]
    assert sorted(statuses) == [RunStatus.completed] * 2 + [RunStatus.failed] * 2


def test_write_to_storage_commits_now_and_returns_the_version(storage: Storage) -> None:
    class Writing(Workflow):
        def run(self) -> Iterator[int]:
            self.session_state["n"] = 1
            yield self.write_to_storage()
            yield self.write_to_storage()
            self.session_state["n"] = 2
            yield self.write_to_storage()

    versions = []
    for response in Writing(session_id="s", storage=storage).run():
        versions.append(response.content)
        assert Writing(session_id="s", storage=storage).session_state["n"] == {1: 1, 2: 2}[response.content]
    assert versions == [1, 1, 2]


def test_write_to_storage_reports_what_cannot_be_stored_and_stores_the_rest(storage: Storage) -> None:
    workflow = Workflow(session_id="s", storage=storage)
    workflow.session_state.update(a=1, lock=threading.Lock())
    with pytest.raises(UnstorableValue, match=r"session_state\['lock'\]"):
        workflow.write_to_storage()
    assert Workflow(session_id="s", storage=storage).session_state == {"a": 1}


def test_changes_made_outside_of_runs_are_committed_when_the_next_run_begins(storage: Storage) -> None:
    workflow = Appending(session_id="s", storage=storage)
    workflow.session_state["note"] = "before"
    responses = workflow.run([1])
    next(responses)
    assert Workflow(session_id="s", storage=storage).session_state == {"note": "before"}
    responses.close()


class RollingBack(Appending):
    on_error = "rollback"


def test_rollback_keeps_nothing_of_a_failed_run_but_explicit_writes(storage: Storage, fake_clock: FakeClock) -> None:
    class Writing(Workflow):
        on_error = "rollback"

        def run(self, fail: bool) -> Iterator[int]:
            items = self.session_state.setdefault("items", [])
            items.append(1)
            self.write_to_storage()
            items.append(2)
            fake_clock.seconds += 5
            yield 1
            if fail:
                raise LookupError

    workflow = Writing(session_id="s", storage=storage)
    with pytest.raises(LookupError):
        list(workflow.run(fail=True))
    assert stored_items(storage) == [1]
    assert workflow.session_state == {"items": [1]}
    list(workflow.run(fail=False))
    assert stored_items(storage) == [1, 1, 2]


def test_rollback_undoes_a_failed_first_run_in_place(storage: Storage) -> None:
    workflow = RollingBack(session_id="s", storage=storage, session_state={"items": [0]})
    items = workflow.session_state["items"]
    with pytest.raises(LookupError):
        list(workflow.run([1], fail=True))
    assert workflow.session_state == {"items": [0]}
    assert Workflow(session_id="s", storage=storage).session_state == {}
    list(workflow.run([2]))
    assert stored_items(storage) == [0, 2]
    items_after = workflow.session_state["items"]
    with pytest.raises(LookupError):
        list(workflow.run([3], fail=True))
    assert workflow.session_state["items"] is items_after
    assert items_after == [0, 2]
    assert items is not None


class Naming(Workflow):
    """Says who ran last: two runs at the same time change one place."""

    def run(self, name: str) -> Iterator[str]:
        self.session_state["last"] = name
        yield name


def named(storage: Storage, name: str) -> None:
    list(Naming(session_id="s", storage=storage).run(name))


def test_two_runs_that_append_to_one_list_are_both_kept(storage: Storage) -> None:
    first = Appending(session_id="s", storage=storage)
    responses = first.run(["first"])
    next(responses)
    list(Appending(session_id="s", storage=storage).run(["second"]))
    assert first.session_state["items"] == ["first"], "others' changes come at the end of the run"
    list(responses)
    assert stored_items(storage) == ["second", "first"] == first.session_state["items"]
    assert not any(run.refused_patch for run in storage.find_runs(""))


def test_a_commit_that_changes_what_another_changed_is_refused_and_its_patch_is_kept(storage: Storage) -> None:
    named(storage, "nobody")
    first = Naming(session_id="s", storage=storage)
    responses = first.run("first")
    next(responses)
    named(storage, "second")
    with pytest.raises(StateConflict, match=r"session_state\['last'\] was changed by another run") as caught:
        list(responses)
    conflict = caught.value
    assert (conflict.path, conflict.base, conflict.ours, conflict.theirs) == (
        "session_state['last']",
        "nobody",
        "first",
        "second",
    )
    assert (conflict.base_version, conflict.current_version) == (1, 2)
    (refused,) = [run for run in storage.find_runs("") if run.refused_patch]
    assert refused.status is RunStatus.failed
    assert (refused.refused_version, refused.refused_patch) == (1, conflict.patch)
    assert conflict.patch == b'[{"op":"replace","path":"/last","value":"first"}]'
    # The object goes on from what is stored now.
    assert first.session_state["last"] == "first"
    list(first.run("third"))
    assert Naming(session_id="s", storage=storage).session_state == {"last": "third"}


def test_a_conflict_in_the_middle_of_a_run_is_not_lost_when_the_run_goes_on(storage: Storage) -> None:
    class Careless(Workflow):
        def run(self) -> None:
            self.session_state["last"] = "mine"
            named(self.storage, "theirs")
            with pytest.raises(StateConflict):
                self.write_to_storage()
            self.session_state["more"] = 2

    with pytest.raises(StateConflict):
        Careless(session_id="s", storage=storage).run()
    refused = next(run for run in storage.find_runs("") if run.refused_patch)
    assert b"mine" in refused.refused_patch
    assert b"more" in refused.refused_patch
    assert Naming(session_id="s", storage=storage).session_state == {"last": "theirs"}


def test_changes_outside_of_runs_that_conflict_are_refused_by_the_next_run(storage: Storage) -> None:
    workflow = Naming(session_id="s", storage=storage)
    workflow.session_state["last"] = "mine"
    named(storage, "theirs")
    with pytest.raises(StateConflict):
        list(workflow.run("x"))
    refused = next(run for run in storage.find_runs("") if run.refused_patch)
    assert b"mine" in refused.refused_patch
    list(workflow.run("y"))
    assert Naming(session_id="s", storage=storage).session_state == {"last": "y"}


def test_a_session_deleted_under_a_run_stays_deleted(storage: Storage) -> None:
    list(Appending(session_id="s", storage=storage).run([1]))
    workflow = Appending(session_id="s", storage=storage)
    responses = workflow.run([2])
    next(responses)
    storage.delete_session("", "s")
    with pytest.raises(SessionDeleted):
        list(responses)
    assert storage.find_sessions("") == ()
    assert storage.find_runs("") == ()
    list(workflow.run([3]))
    assert stored_items(storage) == [3]


def test_a_session_deleted_and_made_again_is_another_one(storage: Storage) -> None:
    list(Appending(session_id="s", storage=storage).run([1]))
    workflow = Appending(session_id="s", storage=storage)
    responses = workflow.run([2])
    next(responses)
    storage.delete_session("", "s")
    list(Appending(session_id="s", storage=storage).run([3]))
    with pytest.raises(SessionDeleted):
        list(responses)
    assert stored_items(storage) == [3]
    list(workflow.run([4]))
    assert stored_items(storage) == [3, 4]


def test_a_run_is_recorded_as_running_after_a_moment_and_interrupted_when_its_process_is_silent(
    storage: Storage, fake_clock: FakeClock
) -> None:
    responses = Appending(session_id="s", storage=storage).run([1])
    next(responses)
    assert storage.find_runs("") == ()
    fake_clock.seconds += heartbeat.RECORD_AFTER
    deadline = time.monotonic() + 10
    while not storage.find_runs("") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert the_run(storage).status is RunStatus.running
    list(responses)
    assert the_run(storage).status is RunStatus.completed


def test_a_run_of_a_killed_process_is_interrupted(
    tmp_path: Path, run_python: Callable[[str], str], fake_clock: FakeClock
) -> None:
    run_python("""if True:
        import os
        from holdfast import SqlWorkflowStorage, Workflow
        class Dying(Workflow):
            def run(self):
                self.session_state["n"] = 1
                self.write_to_storage()
                self.session_state["n"] = 2
                os._exit(0)
        Dying(session_id="s", storage=SqlWorkflowStorage(db_file="w.db")).run()
    """)
    from holdfast.storage.sql import SqlWorkflowStorage

    fake_clock.seconds = time.time()
    storage = SqlWorkflowStorage(db_file=tmp_path / "w.db")
    assert Workflow(session_id="s", storage=storage).session_state == {"n": 1}
    assert the_run(storage).status is RunStatus.running
    fake_clock.seconds += STALE_AFTER + 1
    assert the_run(storage).status is RunStatus.interrupted
    storage.close()


def test_runs_left_open_are_committed_when_the_process_exits(tmp_path: Path, run_python: Callable[[str], str]) -> None:
    run_python("""if True:
        import asyncio
        from holdfast import SqlWorkflowStorage, Workflow
        storage = SqlWorkflowStorage(db_file="w.db")
        class Open(Workflow):
            def run(self):
                self.session_state["n"] = 1
                try:
                    yield 1
                finally:
                    self.session_state["closed"] = True
        class AsyncOpen(Workflow):
            async def run(self):
                self.session_state["n"] = 1
                yield 1
                yield 2
        kept = Open(session_id="s", storage=storage).run()
        next(kept)
        async def main():
            global akept
            akept = AsyncOpen(session_id="a", storage=storage).run()
            await anext(akept)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """)
    from holdfast.storage.sql import SqlWorkflowStorage

    storage = SqlWorkflowStorage(db_file=tmp_path / "w.db")
    assert Workflow(session_id="s", storage=storage).session_state == {"n": 1, "closed": True}
    assert Workflow(session_id="a", storage=storage).session_state == {"n": 1}
    assert {run.status for run in storage.find_runs("")} == {RunStatus.cancelled}
    storage.close()


def test_what_agents_use_is_recorded_with_the_run_and_with_the_run_around_it(storage: Storage) -> None:
    class Inner(Workflow):
        def run(self) -> Iterator[int]:
            add_usage(Usage(requests=1, input_tokens=10, cost=0.25))
            yield 1

    class Outer(Workflow):
        def run(self) -> Iterator[Any]:
            add_usage(Usage(requests=1, output_tokens=5, cost=0.5))
            yield from Inner(session_id="inner", storage=self.storage).run()

    for _ in Outer(session_id="outer", storage=storage).run():
        add_usage(Usage(requests=100))
    used = {run.session_id: run.usage for run in storage.find_runs("")}
    assert used["inner"] == Usage(1, 10, 0, 0.25)
    assert used["outer"] == Usage(2, 10, 5, 0.75)


class Refusing(MemoryStorage):
    """A memory storage whose next commits fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[StorageError] = []

    def commit(self, commit: Commit, **given: Any) -> int:
        if self.failures:
            raise self.failures.pop(0)
        return super().commit(commit, **given)


def test_a_storage_failure_at_the_end_is_raised_and_the_object_can_run_again() -> None:
    storage = Refusing()
    workflow = Appending(session_id="s", storage=storage)
    storage.failures = [StorageBusy(where="memory", seconds=1)]
    with pytest.raises(StorageBusy):
        list(workflow.run([1]))
    # The change is still in the object and goes with its next run.
    list(workflow.run([2]))
    assert stored_items(storage) == [1, 2]


def test_a_storage_failure_has_the_runs_own_failure_as_its_context() -> None:
    storage = Refusing()
    storage.failures = [StorageBusy(where="memory", seconds=1)]
    with pytest.raises(StorageBusy) as caught:
        list(Appending(session_id="s", storage=storage).run([1], fail=True))
    assert isinstance(caught.value.__context__, LookupError)


def test_a_failure_of_the_heartbeat_is_raised_by_the_run(fake_clock: FakeClock) -> None:
    storage = Refusing()
    responses = Appending(session_id="s", storage=storage).run([1])
    next(responses)
    storage.failures = [StorageError("the disk is gone")]
    fake_clock.seconds += heartbeat.RECORD_AFTER
    deadline = time.monotonic() + 10
    while storage.failures and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    with pytest.raises(StorageError, match="the disk is gone"):
        list(responses)


def test_a_run_whose_session_cannot_be_loaded_fails_before_its_code() -> None:
    class Unreadable(MemoryStorage):
        def load(self, *args: Any, **kwargs: Any) -> Any:
            raise StorageError("cannot be read")

    storage = Unreadable()
    workflow = Appending(session_id="s", storage=storage)
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot be read"):
            list(workflow.run([1]))
    assert [run.status for run in storage.find_runs("")] == [RunStatus.failed] * 2


def test_threads_may_use_objects_of_different_sessions_at_once(storage: Storage) -> None:
    def work(number: int) -> None:
        workflow = Appending(session_id=f"s{number}", storage=storage)
        for item in range(10):
            list(workflow.run([item]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert stored_items(storage, f"s{number}") == list(range(10))


def test_a_tool_thread_that_changes_the_state_during_a_commit_tears_nothing(storage: Storage) -> None:
    class Busy(Workflow):
        def run(self) -> Iterator[int]:
            pair = self.session_state["pair"] = [[0] * 200, [0] * 200]
            stop = threading.Event()

            def change() -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    pair[:] = [[number] * 200, [number] * 200]
                    time.sleep(0.0005)

            thread = threading.Thread(target=change)
            thread.start()
            try:
                for number in range(20):
                    self.session_state["n"] = number
                    self.write_to_storage()
                    yield number
            finally:
                stop.set()
                thread.join()

    for _ in Busy(session_id="s", storage=storage).run():
        seen = Workflow(session_id="s", storage=storage).session_state["pair"]
        assert len({number for side in seen for number in side}) == 1


def test_two_objects_used_alternately_start_from_what_is_stored_now(storage: Storage) -> None:
    first, second = (Appending(session_id="s", storage=storage) for _ in range(2))
    for number in range(3):
        list(first.run([f"first {number}"]))
        list(second.run([f"second {number}"]))
    assert stored_items(storage) == [f"{who} {number}" for number in range(3) for who in ("first", "second")]


def test_references_from_an_earlier_run_stay_live(storage: Storage) -> None:
    workflow = Appending(session_id="s", storage=storage)
    list(workflow.run([{"n": 1}]))
    items = workflow.session_state["items"]
    entry = items[0]
    list(Appending(session_id="s", storage=storage).run([{"n": 2}]))
    list(workflow.run([{"n": 3}]))
    assert workflow.session_state["items"] is items
    assert items == [{"n": 1}, {"n": 2}, {"n": 3}]
    entry["n"] = 10
    workflow.write_to_storage()
    assert stored_items(storage)[0] == {"n": 10}


def test_a_run_in_progress_names_the_run_that_is_in_the_way() -> None:
    workflow = Appending(session_id="s")
    responses = workflow.run([1])
    next(responses)
    with pytest.raises(RunInProgress) as caught:
        list(workflow.run([2]))
    assert caught.value.run_id == workflow.run_id
    responses.close()


def test_the_input_is_recorded_as_it_was_when_the_run_began(storage: Storage) -> None:
    given: list[Any] = [1]
    responses = Appending(session_id="s", storage=storage).run(given)
    given.append(2)
    list(responses)
    assert codec.decode(the_run(storage).input) == {"items": [1], "fail": False}
