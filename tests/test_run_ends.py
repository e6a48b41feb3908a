"""The many ways in which a run can end, and what is saved in each."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import FakeClock
from holdfast import codec, heartbeat
from holdfast.errors import InvalidInput, StateConflict, StorageBusy, UnstorableValue
from holdfast.records import Commit, RunStatus
from holdfast.response import RunEvent
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.workflow import Workflow


def stored(storage: Storage) -> dict[Any, Any]:
    return dict(Workflow(session_id="s", storage=storage).session_state)


def the_run(storage: Storage) -> Any:
    (run,) = storage.find_runs(None)
    return run


class Holding(Workflow):
    """Keeps its own iterator, so that both are garbage in a cycle."""

    def run(self) -> Iterator[int]:
        self.session_state["paid"] = 1
        try:
            yield 1
        finally:
            self.session_state["tidied"] = 1

    def begin(self) -> None:
        self.responses = self.run()
        next(self.responses)


class HoldingReturned(Holding):
    def run(self) -> Iterator[int]:
        return super().run()


@pytest.mark.parametrize("form", [Holding, HoldingReturned])
def test_an_abandoned_run_in_a_cycle_of_garbage_is_committed(storage: Storage, form: type[Holding]) -> None:
    workflow = form(session_id="s", storage=storage)
    workflow.begin()
    del workflow
    gc.collect()
    assert stored(storage) == {"paid": 1, "tidied": 1}
    assert the_run(storage).status is RunStatus.cancelled


def test_an_abandoned_run_whose_storage_is_garbage_too_is_committed(tmp_path: Path) -> None:
    workflow = Holding(session_id="s", storage=SqlWorkflowStorage(db_file=tmp_path / "w.db"))
    workflow.begin()
    del workflow
    gc.collect()
    storage = SqlWorkflowStorage(db_file=tmp_path / "w.db")
    assert stored(storage) == {"paid": 1, "tidied": 1}
    storage.close()


def test_a_coroutine_that_is_closed_in_the_middle_is_committed(storage: Storage) -> None:
    class Waiting(Workflow):
        async def run(self) -> None:
            self.session_state["paid"] = 1
            await asyncio.sleep(60)

    workflow = Waiting(session_id="s", storage=storage)
    coroutine = workflow.run()
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)

    async def begun() -> None:
        while "paid" not in workflow.session_state:
            await asyncio.sleep(0.001)

    loop.run_until_complete(begun())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that it is left pending is the point
    coroutine.close()
    loop.close()
    assert stored(storage) == {"paid": 1}
    assert the_run(storage).status is RunStatus.cancelled
    assert workflow._active is None


def test_an_async_generator_left_when_its_loop_is_closed_is_committed(storage: Storage) -> None:
    class Open(Workflow):
        async def run(self) -> AsyncIterator[int]:
            self.session_state["paid"] = 1
            yield 1
            yield 2

    workflow = Open(session_id="s", storage=storage)
    loop = asyncio.new_event_loop()
    responses = workflow.run()
    loop.run_until_complete(anext(responses))
    loop.close()
    sys.set_asyncgen_hooks(None, None)
    del responses
    gc.collect()
    assert stored(storage) == {"paid": 1}
    assert workflow._active is None


def test_a_stop_iteration_of_the_users_own_reaches_the_caller() -> None:
    class Plain(Workflow):
        def run(self) -> Any:
            return next(iter([]))

    class Async(Workflow):
        async def run(self) -> Any:
            async def nothing() -> AsyncIterator[int]:
                return
                yield

            return await anext(nothing())

    storage = MemoryStorage()
    with pytest.raises(StopIteration):
        Plain(storage=storage).run()
    with pytest.raises(StopAsyncIteration):
        asyncio.run(_awaited(Async(storage=storage).run()))
    assert {run.status for run in storage.find_runs("")} == {RunStatus.failed}


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def test_a_consumer_may_send_and_throw_into_the_users_generator(storage: Storage) -> None:
    class Talking(Workflow):
        def run(self) -> Iterator[Any]:
            got = yield "ready"
            try:
                yield f"got {got}"
            except LookupError as error:
                self.session_state["thrown"] = str(error)
                yield "caught"

    responses: Any = Talking(session_id="s", storage=storage).run()
    assert next(responses).content == "ready"
    assert responses.send("this").content == "got this"
    assert responses.throw(LookupError("that")).content == "caught"
    assert list(responses) == []
    assert stored(storage) == {"thrown": "that"}
    assert the_run(storage).status is RunStatus.completed


def test_an_async_consumer_may_send_and_throw_as_well(storage: Storage) -> None:
    class Talking(Workflow):
        async def run(self) -> AsyncIterator[Any]:
            got = yield "ready"
            try:
                yield f"got {got}"
            except LookupError as error:
                yield f"caught {error}"

    async def talk() -> list[Any]:
        responses: Any = Talking(session_id="s", storage=storage).run()
        first, second = await anext(responses), await responses.asend("this")
        third = await responses.athrow(LookupError("that"))
        await responses.aclose()
        return [response.content for response in (first, second, third)]

    assert asyncio.run(talk()) == ["ready", "got this", "caught that"]


class ReturnsAsync(Workflow):
    def run(self) -> Any:
        async def letters() -> AsyncIterator[str]:
            try:
                yield "a"
                yield "b"
            finally:
                self.session_state["tidied"] = 1

        self.session_state["begun"] = 1
        return letters()


class ReturnsCoroutine(Workflow):
    def run(self) -> Any:
        async def answer() -> str:
            return "a"

        self.session_state["begun"] = 1
        return answer()


def test_a_returned_async_generator_that_is_closed_is_tidied_and_cancelled(storage: Storage) -> None:
    async def one() -> None:
        responses = ReturnsAsync(session_id="s", storage=storage).run()
        await anext(responses)
        await responses.aclose()

    asyncio.run(one())
    assert stored(storage) == {"begun": 1, "tidied": 1}
    assert the_run(storage).status is RunStatus.cancelled


def test_a_returned_async_generator_that_is_never_iterated_is_cancelled(storage: Storage) -> None:
    ReturnsAsync(session_id="s", storage=storage).run()
    gc.collect()
    assert stored(storage) == {"begun": 1}
    assert the_run(storage).status is RunStatus.cancelled


@pytest.mark.parametrize("form", [ReturnsAsync, ReturnsCoroutine])
def test_events_of_a_plain_run_that_returns_something_async(storage: Storage, form: type[Workflow]) -> None:
    async def collect() -> list[Any]:
        return [response async for response in form(session_id="s", storage=storage).run(stream_events=True)]

    responses = asyncio.run(collect())
    assert responses[0].event is RunEvent.workflow_started
    assert responses[-1].event is RunEvent.workflow_completed
    assert [r.content for r in responses if r.event is RunEvent.run_response] == (
        ["a", "b"] if form is ReturnsAsync else ["a"]
    )


def test_events_of_a_plain_run_that_returns_a_generator(storage: Storage) -> None:
    class Returning(Workflow):
        def run(self) -> Any:
            return (letter for letter in "ab")

    events = [r.event for r in Returning(session_id="s", storage=storage).run(stream_events=True)]
    assert events == [
        RunEvent.workflow_started,
        RunEvent.run_response,
        RunEvent.run_response,
        RunEvent.workflow_completed,
    ]


class FailingOnce(MemoryStorage):
    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []

    def commit(self, commit: Commit, **given: Any) -> int:
        if self.failures:
            raise self.failures.pop(0)
        return super().commit(commit, **given)


@pytest.mark.parametrize("failure", [StorageBusy(where="memory", seconds=1), OSError("not one of ours")])
def test_a_failed_heartbeat_does_not_keep_the_run_from_being_saved(fake_clock: FakeClock, failure: Exception) -> None:
    class Slow(Workflow):
        def run(self) -> Iterator[int]:
            self.session_state["paid"] = 1
            yield 1

    storage = FailingOnce()
    responses = Slow(session_id="s", storage=storage).run()
    next(responses)
    storage.failures = [failure]
    fake_clock.seconds += heartbeat.RECORD_AFTER
    deadline = time.monotonic() + 10
    while storage.failures and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    with pytest.raises(type(failure)):
        list(responses)
    assert stored(storage) == {"paid": 1}
    # The thread lives on and records the next run.
    later = Slow(session_id="later", storage=storage).run()
    next(later)
    fake_clock.seconds += heartbeat.RECORD_AFTER
    deadline = time.monotonic() + 10
    while not storage.find_runs("", session_id="later") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert storage.find_runs("", session_id="later")[0].status is RunStatus.running
    list(later)


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@dataclass
class Detached:
    title: str

    def __getattribute__(self, name: str) -> Any:
        if name == "title":
            raise ConnectionError("the row is detached")
        return super().__getattribute__(name)


def test_an_exception_without_a_message_is_recorded_and_raised(storage: Storage) -> None:
    class Raising(Workflow):
        def run(self) -> None:
            self.session_state["paid"] = 1
            raise Untellable

    with pytest.raises(Untellable):
        Raising(session_id="s", storage=storage).run()
    assert stored(storage) == {"paid": 1}
    assert the_run(storage).error.type.endswith("Untellable")


def test_an_object_that_cannot_be_read_never_fails_a_run_and_costs_only_its_key(storage: Storage) -> None:
    class Odd(Workflow):
        state_types = [Detached]

        def run(self, given: Any, keep: bool = False) -> Any:
            self.session_state["paid"] = 1
            if keep:
                self.session_state["odd"] = {"row": given}
            return given

    row = Detached.__new__(Detached)
    Odd(session_id="s", storage=storage).run(row)
    assert stored(storage) == {"paid": 1}
    with pytest.raises(UnstorableValue, match=r"session_state\['odd'\]\['row'\].*ConnectionError"):
        Odd(session_id="s", storage=storage).run(row, keep=True)


def test_every_open_run_is_saved_at_exit_although_some_fail(tmp_path: Path) -> None:
    import subprocess

    program = """if True:
        from holdfast import SqlWorkflowStorage, Workflow
        storage = SqlWorkflowStorage(db_file="w.db")
        class Open(Workflow):
            def run(self, fails):
                self.session_state["paid"] = 1
                try:
                    yield 1
                finally:
                    if fails:
                        raise LookupError("in a finally block")
        kept = [Open(session_id=f"s{n}", storage=storage).run(n % 2 == 0) for n in range(6)]
        for responses in kept:
            next(responses)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "in a finally block" in done.stderr
    storage = SqlWorkflowStorage(db_file=tmp_path / "w.db")
    for number in range(6):
        assert Workflow(session_id=f"s{number}", storage=storage).session_state == {"paid": 1}
    statuses = {run.session_id: run.status for run in storage.find_runs("")}
    assert [statuses[f"s{n}"] for n in range(6)] == [RunStatus.failed, RunStatus.cancelled] * 3
    storage.close()


def test_a_run_method_from_anywhere_is_run_as_a_run(storage: Storage) -> None:
    class Mixin:
        session_state = {"default": 1}

        def run(self) -> str:
            self.session_state["mixed"] = 1
            return "mixed"

    class Mixed(Mixin, Workflow):  # type: ignore[misc]
        pass

    class Assigned(Workflow):
        pass

    def assigned(self: Workflow) -> str:
        self.session_state["assigned"] = 1
        return "assigned"

    Assigned.run = assigned  # type: ignore[method-assign]
    assert Mixed(session_id="s", storage=storage).run().content == "mixed"
    assert Assigned(session_id="s", storage=storage).run().content == "assigned"
    assert stored(storage) == {"default": 1, "mixed": 1, "assigned": 1}
    assert len(storage.find_runs("")) == 2

    class Decorated(Assigned):
        @functools.wraps(Assigned.run)
        def run(self) -> str:
            self.session_state["before"] = 1
            return f"decorated {super().run()}"

    assert Decorated(session_id="d", storage=storage).run().content == "decorated assigned"
    assert Decorated(session_id="d", storage=storage).session_state == {"before": 1, "assigned": 1}
    with pytest.raises(InvalidInput, match="make it a method"):

        class Cached(Workflow):
            @functools.cache  # noqa: B019
            def run(self) -> None:
                pass


def test_a_rolled_back_run_leaves_nothing_behind_however_it_fails(storage: Storage) -> None:
    class RollingBack(Workflow):
        on_error = "rollback"

        def run(self, action: Callable[[Any], Any]) -> None:
            action(self.session_state)

    workflow = RollingBack(session_id="s", storage=storage)
    workflow.run(lambda s: s.update(kept=1))
    with pytest.raises(UnstorableValue, match="bad"):
        workflow.run(lambda s: s.update(half=1, bad=object()))
    assert stored(storage) == {"kept": 1}
    assert workflow.session_state == {"kept": 1}

    def conflict(state: Any) -> None:
        Workflow(session_id="s", storage=storage).session_state  # noqa: B018
        other = RollingBack(session_id="s", storage=storage)
        other.run(lambda s: s.update(theirs=1))
        state["theirs"] = 2

    with pytest.raises(StateConflict):
        workflow.run(conflict)
    assert workflow.session_state == {"kept": 1}
    workflow.run(lambda s: s.update(mine=1))
    assert stored(storage) == {"kept": 1, "theirs": 1, "mine": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_leaves_the_parents_open_run_alone(tmp_path: Path, run_python: Callable[[str], str]) -> None:
    run_python("""if True:
        import os, warnings
        warnings.simplefilter("ignore")
        from holdfast import SqlWorkflowStorage, Workflow
        class Open(Workflow):
            def run(self):
                self.session_state["items"] = [1]
                yield 1
                self.session_state["items"].append(2)
        responses = Open(session_id="s", storage=SqlWorkflowStorage(db_file="w.db")).run()
        next(responses)
        pid = os.fork()
        if pid == 0:
            del responses
            os._exit(0)
        os.waitpid(pid, 0)
        list(responses)
    """)
    storage = SqlWorkflowStorage(db_file=tmp_path / "w.db")
    assert stored(storage) == {"items": [1, 2]}
    assert the_run(storage).status is RunStatus.completed
    assert codec.decode(the_run(storage).output) == 1
    storage.close()


def test_a_database_that_is_busy_when_a_run_begins_is_waited_for_once() -> None:
    class Busy(MemoryStorage):
        asked = 0

        def load(self, *args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            raise StorageBusy(where="memory", seconds=1)

        def commit(self, commit: Commit, **given: Any) -> int:
            self.asked += 1
            raise StorageBusy(where="memory", seconds=1)

    storage = Busy()
    with pytest.raises(StorageBusy):
        Holding(session_id="s", storage=storage).begin()
    assert storage.asked == 1


def test_every_change_names_the_run_that_made_it(storage: Storage) -> None:
    class Writing(Workflow):
        def run(self) -> None:
            for number in range(3):
                self.session_state["n"] = number
                self.write_to_storage()
            self.session_state["n"] = "last"

    workflow = Writing(session_id="s", storage=storage)
    workflow.run()
    first = workflow.run_id
    workflow.session_state["outside"] = 1
    workflow.write_to_storage()
    assert [change.run_id for change in storage.changes("", "s")] == [first] * 4 + [""]


def test_a_busy_storage_does_not_keep_the_runs_of_others_from_being_recorded(fake_clock: FakeClock) -> None:
    go_on = threading.Event()

    class Blocked(MemoryStorage):
        def commit(self, commit: Commit, **given: Any) -> int:
            go_on.wait(20)
            return super().commit(commit, **given)

    class Open(Workflow):
        def run(self) -> Iterator[int]:
            yield 1

    blocked, free = Blocked(), MemoryStorage()
    open_runs = [Open(session_id="s", storage=storage).run() for storage in (blocked, free)]
    for responses in open_runs:
        next(responses)
    fake_clock.seconds += heartbeat.RECORD_AFTER
    deadline = time.monotonic() + 10
    while not free.find_runs("") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert the_run(free).status is RunStatus.running
    assert blocked.find_runs("") == ()
    go_on.set()
    for responses in open_runs:
        list(responses)
    assert the_run(blocked).status is RunStatus.completed
