"""Going on with runs that failed, were cancelled or were killed."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from contextvars import copy_context
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

import postgres
from holdfast import Agent, RunResponse, codec, step, turns
from holdfast.errors import (
    CacheMiss,
    InvalidInput,
    RunNotFound,
    RunNotResumable,
    RunTakenOver,
    StateConflict,
    StepKeyError,
    StepStateError,
)
from holdfast.pieces import module_of
from holdfast.records import RunStatus
from holdfast.run_steps import StepWarning
from holdfast.session import Session
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.workflow import Workflow


class Broken(Exception):
    """What the tests let runs fail with."""


done: list[Any] = []
broken: set[Any] = set()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()
    broken.clear()


def do(what: Any) -> Any:
    """Do some work that counts; it fails while it is broken."""
    if what in broken:
        raise Broken(what)
    done.append(what)
    return what


def stored(storage: Storage, session_id: str = "s") -> dict[Any, Any]:
    return dict(Workflow(session_id=session_id, storage=storage).session_state)


def failed(workflow: Workflow, *args: Any, **kwargs: Any) -> str:
    """Run a workflow that fails, and return the id of the run."""
    with pytest.raises(Broken):
        response = workflow.run(*args, **kwargs)
        if isinstance(response, Iterator):
            list(response)
    assert workflow.run_id is not None
    return workflow.run_id


class Counting(Workflow):
    def run(self) -> Any:
        self.session_state["n"] = self.session_state.get("n", 0) + 1
        return [self.a(), self.b()]

    @step
    def a(self) -> str:
        self.session_state.setdefault("steps", []).append("a")
        return do("a")

    @step
    def b(self) -> str:
        self.session_state.setdefault("steps", []).append("b")
        return do("b")


def test_what_a_run_did_before_it_failed_counts_once(storage: Storage) -> None:
    broken.add("b")
    run_id = failed(Counting(session_id="s", storage=storage))
    assert stored(storage) == {"n": 1, "steps": ["a", "b"]}
    broken.clear()
    again = Counting(session_id="s", storage=storage)
    assert again.resume(run_id).content == ["a", "b"]
    assert again.run_id == run_id
    assert again.session_state == stored(storage) == {"n": 1, "steps": ["a", "b"]}
    assert done == ["a", "b"]
    (run,) = storage.find_runs("")
    assert (run.status, run.attempt, run.error, run.savings.hits) == (RunStatus.completed, 2, None, 1)
    assert storage.check() == ()


def test_a_run_can_fail_and_be_resumed_again_and_again(storage: Storage) -> None:
    broken.update(("a", "b"))
    run_id = failed(Counting(session_id="s", storage=storage))
    for fixed in ("a", None, "b"):
        broken.discard(fixed)
        workflow = Counting(session_id="s", storage=storage)
        if broken:
            with pytest.raises(Broken):
                workflow.resume(run_id)
        else:
            assert workflow.resume(run_id).content == ["a", "b"]
    assert stored(storage) == {"n": 1, "steps": ["a", "b"]}
    assert done == ["a", "b"]
    assert storage.find_runs("")[0].attempt == 4


def test_the_object_that_failed_can_resume_itself(storage: Storage) -> None:
    workflow = Counting(session_id="s", storage=storage)
    broken.add("b")
    run_id = failed(workflow)
    state = workflow.session_state
    broken.clear()
    workflow.resume(run_id)
    assert workflow.session_state is state
    assert state == {"n": 1, "steps": ["a", "b"]}


def test_what_is_not_there_cannot_be_resumed(storage: Storage) -> None:
    with pytest.raises(RunNotFound):
        Counting(session_id="s", storage=storage).resume("unknown")
    broken.add("b")
    run_id = failed(Counting(session_id="s", storage=storage))
    with pytest.raises(RunNotFound):
        Counting(session_id="another", storage=storage).resume(run_id)
    with pytest.raises(RunNotFound):
        Counting(session_id="s", user_id="bob", storage=storage).resume(run_id)
    with pytest.raises(InvalidInput):
        Counting(session_id="s", storage=storage).resume(None)  # type: ignore[arg-type]


def test_a_run_that_is_going_on_is_not_resumed(storage: Storage) -> None:
    class Going(Workflow):
        def run(self) -> Iterator[int]:
            self.session_state["n"] = 1
            self.write_to_storage()
            yield 1
            yield 2

    first = Going(session_id="s", storage=storage)
    with closing(first.run()) as responses:
        next(responses)
        assert first.run_id is not None
        with pytest.raises(RunNotResumable, match="still running"):
            Going(session_id="s", storage=storage).resume(first.run_id)
    assert Going(session_id="s", storage=storage).resume(first.run_id) is not None  # it was cancelled by closing it


# -- forms ------------------------------------------------------------------------------------------------------------


class Streaming(Workflow):
    @step
    def write(self, topic: str) -> Iterator[RunResponse]:
        for piece in ("Hold", "fast", topic):
            yield RunResponse(content=do(piece))

    def run(self, topic: str, *more: str, last: str = "!") -> Iterator[Any]:
        yield from self.write(topic)
        yield do(last)


def test_the_stream_of_a_finished_step_is_handed_out_again(storage: Storage) -> None:
    broken.add("?")
    workflow = Streaming(session_id="s", storage=storage)
    run_id = failed(workflow, "about", "x", "y", last="?")
    broken.clear()
    responses = list(Streaming(session_id="s", storage=storage).resume(run_id))
    assert [(response.content, response.cached) for response in responses] == [
        ("Hold", True),
        ("fast", True),
        ("about", True),
        ("?", False),
    ]
    assert done == ["Hold", "fast", "about", "?"]


def test_a_stream_that_broke_off_is_begun_anew(storage: Storage) -> None:
    broken.add("about")
    run_id = failed(Streaming(session_id="s", storage=storage), "about")
    broken.clear()
    assert len(list(Streaming(session_id="s", storage=storage).resume(run_id))) == 4
    assert done == ["Hold", "fast", "Hold", "fast", "about", "!"]


def test_resuming_what_has_completed_gives_what_was_recorded(storage: Storage) -> None:
    class Awaited(Workflow):
        async def run(self) -> Any:
            return do("awaited")

    class AsyncStreaming(Workflow):
        async def run(self) -> AsyncIterator[Any]:
            yield do("a")
            yield do("b")

    async def all_of(responses: Any) -> list[Any]:
        return [response.content async for response in responses]

    plain = Counting(session_id="1", storage=storage)
    plain.run()
    streaming = Streaming(session_id="2", storage=storage)
    list(streaming.run("about"))
    awaited = Awaited(session_id="3", storage=storage)
    asyncio.run(awaited.run())
    streamed = AsyncStreaming(session_id="4", storage=storage)
    asyncio.run(all_of(streamed.run()))
    ids = [str(workflow.run_id) for workflow in (plain, streaming, awaited, streamed)]
    before = list(done)
    response = plain.resume(ids[0])
    assert (response.content, response.cached, response.event) == (["a", "b"], True, "WorkflowCompleted")
    with closing(streaming.resume(ids[1])) as responses:
        assert [response.content for response in responses] == ["Holdfastabout!"]
    assert asyncio.run(awaited.resume(ids[2])).content == "awaited"
    assert asyncio.run(all_of(streamed.resume(ids[3]))) == ["ab"]
    assert done == before


def test_an_async_run_is_resumed(storage: Storage) -> None:
    class Awaited(Workflow):
        @step
        async def fetch(self, n: int) -> int:
            await asyncio.sleep(0)
            self.session_state.setdefault("fetched", []).append(n)
            return do(n)

        async def run(self) -> Any:
            return [await self.fetch(1), await self.fetch(2)]

    broken.add(2)
    workflow = Awaited(session_id="s", storage=storage)
    with pytest.raises(Broken):
        asyncio.run(workflow.run())
    broken.clear()
    assert asyncio.run(Awaited(session_id="s", storage=storage).resume(str(workflow.run_id))).content == [1, 2]
    assert done == [1, 2]
    assert stored(storage) == {"fetched": [1, 2]}


class Reading(Workflow):
    """Changes the state while it reads a stream; so may the step."""

    @step
    def write(self, changes: bool) -> Iterator[str]:
        for piece in "abc":
            if changes:
                self.session_state["written"] = piece
            yield str(do(piece))

    @step
    async def later(self, changes: bool) -> AsyncIterator[str]:
        for piece in self.write.__wrapped__(self, changes):  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            yield piece

    def run(self, *, step_changes: bool, reader_changes: bool) -> Iterator[str]:
        for piece in self.write(step_changes):
            if reader_changes:
                self.session_state.setdefault("read", []).append(piece)
            yield piece
        yield str(do("end"))


class ReadingLater(Reading):
    async def run(self, *, step_changes: bool, reader_changes: bool) -> AsyncIterator[str]:  # type: ignore[override]
        async for piece in self.later(step_changes):
            if reader_changes:
                self.session_state.setdefault("read", []).append(piece)
            yield piece
        yield str(do("end"))


def read_all(responses: Any) -> list[Any]:
    async def collected() -> list[Any]:
        return [response.content async for response in responses]

    if isinstance(responses, AsyncIterator):
        return asyncio.run(collected())
    return [response.content for response in responses]


class Beside(Workflow):
    """Steps that run at the same time, other than by `parallel()`."""

    async def run(self, how: str, *, changes: bool = True) -> Any:
        self.session_state["n"] = 0
        self.begun, self.met = asyncio.Event(), asyncio.Event()
        if how == "tasks":
            return await asyncio.gather(self.count("a", changes=changes), self.count("b", changes=changes))
        if how == "threads":
            self.meeting = threading.Barrier(2, timeout=20)
            calls = [asyncio.to_thread(self.count_on_a_thread, name, changes=changes) for name in "ab"]
            return await asyncio.gather(*calls)
        if how == "run":
            counting = asyncio.ensure_future(self.count("a", changes=changes))
            await self.begun.wait()
            if changes:
                self.session_state["n"] += 1
            self.met.set()
            return [await counting]
        if how == "task of its own":
            return [await asyncio.wait_for(self.alone("a", changes=changes), 20)]
        if how == "inside":
            return [await self.outer(changes=changes)]
        raise AssertionError(how)

    @step
    async def count(self, name: str, *, changes: bool) -> str:
        before = self.session_state["n"] if changes else 0
        self.begun.set()
        if name == "a":
            await self.met.wait()
        else:
            self.met.set()
            await asyncio.sleep(0.01)
        if changes:
            self.session_state["n"] = before + 1
        return do(name)

    @step
    def count_on_a_thread(self, name: str, *, changes: bool) -> str:
        self.meeting.wait()
        if changes:
            self.session_state["n"] += 1
        self.meeting.wait()
        return do(name)

    @step
    async def alone(self, name: str, *, changes: bool) -> str:
        if changes:
            self.session_state["n"] += 1
        return do(name)

    @step
    async def outer(self, *, changes: bool) -> str:
        await asyncio.gather(asyncio.ensure_future(self.alone("inner", changes=changes)))
        return await self.alone("outer", changes=changes)


@pytest.mark.parametrize("changes", [True, False])
@pytest.mark.parametrize("how", ["tasks", "threads", "run", "task of its own", "inside"])
def test_of_steps_that_overlap_none_changes_the_state(storage: Storage, how: str, changes: bool) -> None:
    workflow = Beside(session_id="s", storage=storage)
    if not changes or how in ("task of its own", "inside"):
        asyncio.run(workflow.run(how, changes=changes))
        return
    with pytest.raises(StepStateError, match=r"beside .*nobody can tell by whom"):
        asyncio.run(workflow.run(how, changes=changes))
    assert workflow.run_id is not None
    assert storage.find_steps("", "s", workflow.run_id, with_results=True) == ()


class HeldOn(Workflow):
    """Holds a list of the state in its hands while a step is computed."""

    @step
    async def fetch(self, what: str) -> str:
        self.begun.set()
        await self.met.wait()
        return str(do(what))

    @step
    async def ask(self, what: str) -> str:
        self.session_state["log"].append(what)
        return await self.fetch(what)

    @step
    async def count(self, log: list[str]) -> int:
        self.begun.set()
        await self.met.wait()
        return len(log)

    @step
    async def collect(self, log: list[str], what: str) -> str:
        log.append(what)
        return str(do(what))

    @step
    def collect_at_once(self, what: str) -> str:
        self.log.append(what)
        return str(do(what))

    async def run(self, how: str) -> list[str]:
        self.log = log = self.session_state.setdefault("log", [])
        self.begun, self.met = asyncio.Event(), asyncio.Event()
        if how == "run() changes it":
            fetching = asyncio.ensure_future(self.fetch("a"))
            await self.begun.wait()
            log.append("run()")
            self.met.set()
            await fetching
        elif how == "steps beside change it":
            await asyncio.gather(asyncio.to_thread(self.collect_at_once, "a"))
        elif how == "run() changes what a step has a copy of":
            fetching = asyncio.ensure_future(self.count(list(log)))
            await self.begun.wait()
            log.append("run()")
            self.met.set()
            await fetching
        elif how == "run() changes it afterwards":
            self.met.set()
            await asyncio.ensure_future(self.fetch("a"))
            log.append("run()")
        elif how == "a step that asks for it":
            self.met.set()
            await asyncio.wait_for(self.ask("a"), 20)
        elif how == "a step that is given it":
            await asyncio.wait_for(self.collect(log, "a"), 20)
        elif how == "a step of its own task":
            await self.collect(log, "a")
            self.collect_at_once("b")
        do("end")
        return log


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("run() changes it", None),
        ("run() changes what a step has a copy of", None),
        ("steps beside change it", None),
        ("run() changes it afterwards", ["run()"]),
        ("a step that asks for it", ["a"]),
        ("a step that is given it", ["a"]),
        ("a step of its own task", ["a", "b"]),
    ],
)
def test_what_changed_while_a_step_worked_in_a_task_of_its_own_is_not_taken_for_its_own(
    how: str, expected: list[str] | None
) -> None:
    storage = MemoryStorage()
    workflow = HeldOn(session_id="s", storage=storage)
    if expected is None:
        with pytest.raises(StepStateError, match="has not asked for it"):
            asyncio.run(workflow.run(how))
        return
    broken.add("end")
    with pytest.raises(Broken):
        asyncio.run(workflow.run(how))
    broken.clear()
    assert asyncio.run(HeldOn(session_id="s", storage=storage).resume(str(workflow.run_id))).content == expected


class Left(Workflow):
    """Ends while a step goes on in another task."""

    @step
    async def count(self) -> str:
        await asyncio.sleep(0.05)
        self.session_state["n"] = self.session_state.get("n", 0) + 1
        return str(do("count"))

    async def run(self) -> str:
        self.counting = asyncio.ensure_future(self.count())
        await asyncio.sleep(0)
        do("begun")
        return await self.counting


def test_a_step_that_goes_on_after_its_run_has_failed_is_recorded_with_what_it_changed() -> None:
    storage = MemoryStorage()
    workflow = Left(session_id="s", storage=storage)
    broken.add("begun")

    async def check() -> None:
        with pytest.raises(Broken):
            await workflow.run()
        assert await workflow.counting == "count"

    asyncio.run(check())
    broken.clear()
    again = Left(session_id="s", storage=storage)
    assert asyncio.run(again.resume(str(workflow.run_id))).content == "count"
    assert (again.session_state, done) == ({"n": 1}, ["count", "begun"])


class Watched(Workflow):
    """A thread that nobody told of the run looks at the state, or changes it, while a step is computed."""

    @step
    def fetch(self, *, changes: bool) -> str:
        if changes:
            self.session_state["fetched"] = 1
        self.fetching.set()
        self.met.wait(20)
        return str(do("fetch"))

    def run(self, what: str, *, changes: bool) -> str:
        self.session_state["log"] = []
        self.fetching, self.met = threading.Event(), threading.Event()

        def beside() -> None:
            self.fetching.wait(20)
            log = self.session_state["log"]
            if what == "change":
                log.append("beside")
            self.met.set()

        thread = threading.Thread(target=beside)
        thread.start()
        try:
            return self.fetch(changes=changes)
        finally:
            thread.join()


@pytest.mark.parametrize(("what", "changes"), [("look", False), ("look", True), ("change", False), ("change", True)])
def test_a_thread_without_the_context_of_the_run_is_beside_its_steps_as_well(what: str, changes: bool) -> None:
    workflow = Watched(session_id="s", storage=MemoryStorage())
    if (what, changes) == ("look", False):
        assert workflow.run(what, changes=changes).content == "fetch"
        return
    with pytest.raises(StepStateError, match=r"beside a thread without .*nobody can tell by whom"):
        workflow.run(what, changes=changes)


@pytest.mark.parametrize("cls", [Reading, ReadingLater])
@pytest.mark.parametrize(("step_changes", "reader_changes"), [(False, True), (True, False), (False, False)])
def test_what_the_reader_of_a_stream_changed_is_not_taken_for_what_the_step_did(
    storage: Storage, cls: type[Reading], step_changes: bool, reader_changes: bool
) -> None:
    broken.add("end")
    workflow = cls(session_id="s", storage=storage)
    with pytest.raises(Broken):
        read_all(workflow.run(step_changes=step_changes, reader_changes=reader_changes))
    expected = {"written": "c"} if step_changes else {}
    expected |= {"read": ["a", "b", "c"]} if reader_changes else {}  # type: ignore[dict-item]
    assert stored(storage) == expected
    broken.clear()
    resumed = cls(session_id="s", storage=storage).resume(str(workflow.run_id))
    assert read_all(resumed) == ["a", "b", "c", "end"]
    assert stored(storage) == expected
    assert done == ["a", "b", "c", "end"]


def test_where_the_reader_and_the_step_changed_the_state_the_step_is_done_again(storage: Storage) -> None:
    broken.add("end")
    workflow = Reading(session_id="s", storage=storage)
    with pytest.warns(StepWarning, match="nobody can tell what the step did"), pytest.raises(Broken):
        list(workflow.run(step_changes=True, reader_changes=True))
    broken.clear()
    with pytest.warns(StepWarning, match="nobody can tell what the step did"):
        list(Reading(session_id="s", storage=storage).resume(str(workflow.run_id)))
    assert stored(storage) == {"written": "c", "read": ["a", "b", "c"]}
    assert done == ["a", "b", "c", "a", "b", "c", "end"]


def test_where_looking_would_cost_too_much_nothing_is_claimed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LEAST", 0.0)
    monkeypatch.setattr(turns, "SHARE", 0.0)
    broken.add("end")
    workflow = Reading(session_id="s", storage=storage)
    with pytest.warns(StepWarning, match="nobody can tell what the step did"), pytest.raises(Broken):
        list(workflow.run(step_changes=False, reader_changes=True))
    broken.clear()
    with pytest.warns(StepWarning, match="nobody can tell what the step did"):
        list(Reading(session_id="s", storage=storage).resume(str(workflow.run_id)))
    assert stored(storage) == {"read": ["a", "b", "c"]}


# -- which record answers which call ----------------------------------------------------------------------------------


class Fanning(Workflow):
    @step
    def fetch(self, url: str) -> str:
        return str(do(url))

    def run(self, *, at_once: bool) -> Any:
        urls = list(order)
        calls = [partial(self.fetch, url) for url in urls]
        fetched = self.parallel(*calls) if at_once else [call() for call in calls]
        assert fetched == urls
        return do("end")


order: list[str] = []


@pytest.mark.parametrize("at_once", [False, True])
def test_a_fan_out_of_forty_of_which_one_changed_finds_the_other_thirty_nine_in_any_order(
    storage: Storage, at_once: bool
) -> None:
    broken.add("end")
    order[:] = [f"https://example.org/{n}" for n in range(40)]
    run_id = failed(Fanning(session_id="s", storage=storage), at_once=at_once)
    assert len(done) == 40
    done.clear()
    broken.clear()
    order[7] = "https://example.org/changed"
    random.Random(1).shuffle(order)
    with pytest.warns(StepWarning, match=r"did not ask for 1 of its recorded steps \(fetch\)"):
        Fanning(session_id="s", storage=storage).resume(run_id)
    assert done == ["https://example.org/changed", "end"]
    assert storage.find_runs("")[0].savings.hits == 39


def test_identical_polls_stay_distinct(storage: Storage) -> None:
    class Polling(Workflow):
        @step
        def poll(self) -> int:
            done.append("poll")
            return len(done)

        def run(self) -> Any:
            polled = [self.poll() for _ in range(5)]
            do("end")
            return polled

    broken.add("end")
    run_id = failed(Polling(session_id="s", storage=storage))
    broken.clear()
    assert Polling(session_id="s", storage=storage).resume(run_id).content == [1, 2, 3, 4, 5]


def test_the_code_of_a_step_of_the_run_does_not_count(storage: Storage) -> None:
    def blog(paid: Callable[[str], str], fixed: bool) -> Workflow:
        class Blog(Workflow):
            @step
            def search(self, topic: str) -> str:
                return paid(topic)

            def run(self, topic: str) -> str:
                return self.search(topic) + ("" if fixed else do("bug"))

        return Blog(session_id="s", storage=storage)

    broken.add("bug")
    run_id = failed(blog(lambda topic: topic.upper(), fixed=False), "a")
    assert blog(lambda topic: "another", fixed=True).resume(run_id).content == "A"


def test_what_a_lambda_takes_from_around_it_tells_its_calls_apart(storage: Storage) -> None:
    class Inline(Workflow):
        def run(self, urls: list[str]) -> Any:
            fetched = []
            for url in reversed(urls) if "fixed" in done else urls:
                fetched.append(self.step("fetch", lambda url=url: url.upper()))
                fetched.append(self.step("count", lambda: len(url)))  # noqa: B023
            do("end")
            return fetched

    broken.add("end")
    run_id = failed(Inline(session_id="s", storage=storage), ["a", "bb"])
    broken.clear()
    done.append("fixed")
    assert Inline(session_id="s", storage=storage).resume(run_id).content == ["BB", 2, "A", 1]
    assert storage.find_runs("")[0].savings.hits == 4
    handle = object()
    with pytest.raises(StepKeyError, match="variable `handle` of step 'use'"):
        Holding(storage=MemoryStorage()).run(handle)


class Holding(Workflow):
    def run(self, handle: object) -> Any:
        return self.step("use", lambda: handle)


def test_a_step_inside_of_an_answered_step_is_not_missed(storage: Storage) -> None:
    class Nested(Workflow):
        @step
        def inner(self, n: int) -> int:
            self.session_state["inner"] = n
            return int(do(n))

        @step
        def outer(self) -> int:
            self.session_state["outer"] = 1
            return self.inner(1) + self.inner(2)

        def run(self) -> Any:
            total = self.outer()
            do("end")
            return total

    broken.add("end")
    run_id = failed(Nested(session_id="s", storage=storage))
    broken.clear()
    assert Nested(session_id="s", storage=storage).resume(run_id).content == 3
    assert stored(storage) == {"outer": 1, "inner": 2}
    broken.add(2)
    run_id = failed(Nested(session_id="t", storage=storage))
    broken.clear()
    done.clear()
    assert Nested(session_id="t", storage=storage).resume(run_id).content == 3
    assert done == [2, "end"]
    assert stored(storage, "t") == {"outer": 1, "inner": 2}


def test_calls_inside_of_an_answered_step_are_counted_as_made(storage: Storage) -> None:
    class Polling(Workflow):
        @step
        def poll(self) -> int:
            done.append("poll")
            self.session_state["polled"] = len(done)
            return len(done)

        @step
        def outer(self) -> int:
            return self.poll()

        def run(self) -> Any:
            polled = [self.outer(), self.poll()]
            do("end")
            return polled

    broken.add("end")
    run_id = failed(Polling(session_id="s", storage=storage))
    broken.clear()
    assert Polling(session_id="s", storage=storage).resume(run_id).content == [1, 2]
    assert stored(storage) == {"polled": 2}


class Polls(Workflow):
    """Polls inside of other steps, and then by itself."""

    @step
    def poll(self) -> int:
        do("poll")
        self.session_state["polled"] = self.session_state.get("polled", 0) + 1
        return done.count("poll")

    @step
    def read(self) -> int:
        do("read")
        return done.count("read")

    @step
    def fails(self) -> None:
        self.poll()
        raise ConnectionError

    @step(store_if=bool)
    def maybe(self) -> int:
        return self.poll() * 0

    @step(cache="workflow", uses=[do], ignore=["do", "done"])
    def wide(self) -> int:
        return self.read()

    @step
    def outer(self, how: str) -> int:
        if how == "called":
            self.poll()
        elif how == "in one that failed":
            with suppress(ConnectionError):
                self.fails()
        elif how == "in one that was not kept":
            self.maybe()
        elif how == "in one of wider scope":
            self.wide()
        elif how == "in a task":
            with ThreadPoolExecutor() as pool:
                pool.submit(copy_context().run, self.poll).result()
        do("outer")
        return 0

    def run(self, how: str) -> list[int]:
        polled = []
        for _ in range(2):
            if how == "in one of wider scope at the top":
                polled.append(self.wide())
            else:
                self.outer(how)
            polled.append(self.read() if "wider" in how else self.poll())
            do("middle")
        do("end")
        return polled


@pytest.mark.parametrize("failures", [["outer"], ["end"], ["outer", "end"], ["outer", "middle", "end"]])
@pytest.mark.parametrize(
    "how",
    [
        "called",
        "in a task",
        "in one that failed",
        "in one that was not kept",
        "in one of wider scope",
        "in one of wider scope at the top",
    ],
)
def test_a_call_inside_of_a_step_is_never_taken_for_one_elsewhere(how: str, failures: list[str]) -> None:
    storage = MemoryStorage()
    whole = Polls(session_id="whole", storage=MemoryStorage()).run(how).content
    done.clear()
    run_id = ""
    for failure in failures:
        broken.add("middle" if "top" in how and failure == "outer" else failure)
        if run_id:
            with pytest.raises(Broken):
                Polls(session_id="s", storage=storage).resume(run_id)
        else:
            run_id = failed(Polls(session_id="s", storage=storage), how)
        broken.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepWarning)
        workflow = Polls(session_id="s", storage=storage)
        assert workflow.resume(run_id).content == whole
    assert workflow.session_state.get("polled", 0) == done.count("poll")


def page(url: str) -> str:
    return f"page {url}"


class Page:
    """An object whose method is called, with an identity of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __cache_key__(self) -> str:
        return self.url

    def get(self) -> str:
        return page(self.url)


def test_agents_without_a_name_are_told_apart_by_what_they_are_told() -> None:
    class Reviewing(Workflow):
        def run(self, text: str) -> Any:
            critic, editor = (Agent("offline", instructions=told, cache="run") for told in ("Criticise.", "Edit."))
            asked = {"editor": editor, "critic": critic} if "fixed" in done else {"critic": critic, "editor": editor}
            answers = {name: agent.run(text).agent_run_id for name, agent in asked.items()}
            done.append(answers)
            do("end")
            return answers

    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Reviewing(session_id="s", storage=storage), "a text")
    answers = done[0]
    broken.clear()
    done.append("fixed")
    assert Reviewing(session_id="s", storage=storage).resume(run_id).content == answers


def answering(reply: str) -> Any:
    return lambda messages, info: ModelResponse([TextPart(reply)])


class Callee:
    """A callable without identity."""

    def __init__(self, reply: str) -> None:
        self.reply = reply

    def __call__(self, *_: Any) -> Any:
        return ModelResponse([TextPart(self.reply)])


class OtherCallee(Callee):
    """Another one."""


def first(*_: Any) -> Any:
    return ModelResponse([TextPart("first")])


def second(*_: Any) -> Any:
    return ModelResponse([TextPart("second")])


@pytest.mark.parametrize(
    "made",
    [
        lambda: [Agent(FunctionModel(answering(reply)), cache="run") for reply in ("first", "second")],
        lambda: [Agent(FunctionModel(function), cache="run") for function in (first, second)],
        lambda: [Agent(FunctionModel(kind("any")), cache="run") for kind in (Callee, OtherCallee)],
        lambda: [Agent(TestModel(custom_output_text=reply), cache="run") for reply in ("first", "second")],
        lambda: [Agent(lambda text, reply=reply: reply, cache="run") for reply in ("first", "second")],  # type: ignore[misc]
        lambda: [Agent("offline", base_url=None, model_settings={"seed": seed}, cache="run") for seed in (1, 2)],
        lambda: [Agent(PydanticAgent(TestModel(custom_output_text=reply)), cache="run") for reply in ("a", "b")],
        lambda: [Agent("offline", output_type=kind, cache="run") for kind in (str, [str])],
    ],
)
def test_agents_without_a_name_are_told_apart_by_their_models(made: Callable[[], list[Agent]]) -> None:
    class Reviewing(Workflow):
        def run(self, text: str) -> Any:
            agents = made()
            order = [1, 0] if "fixed" in done else [0, 1]
            answers = {place: agents[place].run(text).agent_run_id for place in order}
            done.append(answers)
            do("end")
            return [answers[0], answers[1]]

    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Reviewing(session_id="s", storage=storage), "a text")
    answers = done[0]
    broken.clear()
    done.append("fixed")
    assert Reviewing(session_id="s", storage=storage).resume(run_id).content == [answers[0], answers[1]]


def of_module(name: str, options: str = "") -> Callable[[str], str]:
    scope: dict[str, Any] = {"__name__": name, "page": page}
    exec(f"from holdfast import step\n@step({options})\ndef load(url): return page({name!r} + url)", scope)
    loading: Callable[[str], str] = scope["load"]
    return loading


class Loading(Workflow):
    modules = ("one", "other")
    options = ""

    def run(self) -> Any:
        loading = [of_module(name, self.options) for name in self.modules]
        loaded = [load("x") for load in (reversed(loading) if "fixed" in done else loading)]
        do("end")
        return loaded


def test_functions_of_one_name_in_two_modules_are_two_steps() -> None:
    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Loading(session_id="s", storage=storage))
    broken.clear()
    done.append("fixed")
    assert Loading(session_id="s", storage=storage).resume(run_id).content == ["page otherx", "page onex"]
    assert storage.find_runs("")[0].savings.hits == 2


@pytest.mark.parametrize(
    ("before", "after", "options", "hits"),
    [
        ("__main__", module_of(type("Made", (), {"__module__": "__main__"})), "", 1),
        ("one", "other", "name='load'", 1),
        ("one", "other", "", 0),
    ],
)
def test_a_function_that_moves_is_found_if_it_is_given_a_name(before: str, after: str, options: str, hits: int) -> None:
    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Loading(session_id="s", storage=storage, modules=(before,), options=options))
    broken.clear()
    again = Loading(session_id="s", storage=storage, modules=(after,), options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("default" if hits else "ignore")
        again.resume(run_id)
    assert storage.find_runs("")[0].savings.hits == hits


def closed_over(url: str) -> Callable[[], str]:
    def get() -> str:
        return page(url)

    return lambda: get().strip()


@pytest.mark.parametrize("made", [lambda url: partial(page, url), lambda url: Page(url).get, closed_over])
def test_what_a_callable_holds_tells_its_calls_apart(made: Callable[[str], Callable[[], str]]) -> None:
    class Fetching(Workflow):
        def run(self) -> Any:
            urls = ["b", "a"] if "fixed" in done else ["a", "b"]
            fetched = {url: self.step("fetch", made(url)) for url in urls}
            do("end")
            return fetched

    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Fetching(session_id="s", storage=storage))
    broken.clear()
    done.append("fixed")
    assert Fetching(session_id="s", storage=storage).resume(run_id).content == {"a": "page a", "b": "page b"}
    assert storage.find_runs("")[0].savings.hits == 2


def scaling(by: Any, log: list[Any], client: object) -> Callable[[int], Any]:
    total = 0

    @step
    def scale(number: int) -> Any:
        nonlocal total
        total += 1
        log.append(number)
        assert client is not None
        return do((number, by(number) if callable(by) else str(by)))

    return scale


@pytest.mark.parametrize("values", [(2, 3), ({"by": 2}, {"by": 3}), (partial(pow, 2), partial(pow, 3))])
def test_what_a_declared_step_takes_from_around_it_tells_it_from_another(values: tuple[Any, Any]) -> None:
    class Scaling(Workflow):
        def run(self) -> Any:
            one, other = (scaling(by, [], object()) for by in values)
            called = [other, one] if "fixed" in done else [one, other]
            answers = [[scale(1), scale(2)] for scale in called]
            do("end")
            return answers[::-1]

    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Scaling(session_id="s", storage=storage))
    made = done.copy()
    broken.clear()
    done.append("fixed")
    assert Scaling(session_id="s", storage=storage).resume(run_id).content == [made[:2], made[2:]]
    assert done == [*made, "fixed", "end"], "what was collected meanwhile, and what has no identity, is no argument"


def test_a_variable_that_is_assigned_anew_before_each_call_counts_with_its_value() -> None:
    class Polling(Workflow):
        def run(self) -> Any:
            @step
            def poll() -> Any:
                return do(topic["name"])

            answers = {}
            for topic in [{"name": "b"}, {"name": "a"}] if "fixed" in done else [{"name": "a"}, {"name": "b"}]:
                answers[topic["name"]] = poll()
            do("end")
            return answers

    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Polling(session_id="s", storage=storage))
    broken.clear()
    done.append("fixed")
    assert Polling(session_id="s", storage=storage).resume(run_id).content == {"a": "a", "b": "b"}
    assert done == ["a", "b", "fixed", "end"]


def test_a_variable_to_be_ignored_is_no_argument_of_a_declared_step() -> None:
    class Ignoring(Workflow):
        def run(self) -> Any:
            started = len(done)

            @step(ignore=["started"])
            def fetch() -> Any:
                return do("fetched") and started

            fetched = fetch()
            do("end")
            return fetched

    storage = MemoryStorage()
    broken.add("end")
    run_id = failed(Ignoring(session_id="s", storage=storage))
    broken.clear()
    assert Ignoring(session_id="s", storage=storage).resume(run_id).content == 0


# -- with others ------------------------------------------------------------------------------------------------------


class Setting(Workflow):
    def run(self, **values: Any) -> None:
        self.session_state.update(values)


class Listing(Workflow):
    """Puts something in front of a list that others append to."""

    def run(self) -> None:
        self.session_state.setdefault("items", []).insert(0, "mine")
        self.change(do("x"))
        do("end")

    @step
    def change(self, to: str) -> None:
        self.session_state["items"][0] = f"mine, {to}"


def test_what_others_changed_meanwhile_stays(storage: Storage) -> None:
    Setting(session_id="s", storage=storage).run(items=["first"], other=1)
    broken.add("end")
    run_id = failed(Listing(session_id="s", storage=storage))
    other = Setting(session_id="s", storage=storage)
    other.session_state["items"].append("theirs")
    other.run(other=2)
    broken.clear()
    assert stored(storage)["items"] == ["mine, x", "first", "theirs"]
    with pytest.raises(StepStateError, match="at /items of the session state"):
        # The list is another one now, and the step had changed an element of it.
        Listing(session_id="s", storage=storage).resume(run_id)
    assert stored(storage) == {"items": ["mine", "first", "theirs"], "other": 2}


class Collecting(Workflow):
    @step
    def collect(self, out: Any, what: str) -> None:
        if out is not None:
            out.append(what)

    def run(self, how: str) -> None:
        if how == "state":
            self.collect(self.session_state.setdefault("out", []), "a")
        elif how == "local":
            self.collect([], "a")
        else:
            self.collect(None, "a")


def test_a_change_of_an_argument_that_no_record_makes_again_is_warned_about(storage: Storage) -> None:
    with pytest.warns(StepWarning, match="'collect' has changed its argument 'out'"):
        Collecting(storage=storage).run("local")
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepWarning)
        Collecting(storage=storage).run("state")
        Collecting(storage=storage).run("none")


class Ordered(Workflow):
    """Steps that change the state, in an order that is another one when the run is resumed."""

    start: Any = None

    @step
    def change(self, how: str, name: str) -> None:
        do(name)
        state = self.session_state
        if how == "count":
            state["count"] = state.get("count", 0) + 1
        elif how == "remove":
            state.pop(f"old {name}")
        elif how == "own name":
            state[name] = 1
        elif how == "inside":
            state.setdefault("pages", {})[name] = 1
        elif how == "number":
            state["pages"][str("abc".index(name))] = [name]
        elif how == "append":
            state["log"].append(name)
        elif how == "replace":
            state["deep"]["er"] = {"by": name}
        elif how == "move":
            state["moved"] = state.pop("moved", 0)

    def run(self, how: str) -> None:
        self.session_state.update(deepcopy(self.start or {}))
        for name in list(order):
            self.change(how, name)
        do("end")


def reordered(how: str, start: dict[str, Any], names: str) -> Any:
    storage = MemoryStorage()
    order[:] = "abc"
    broken.add("c")
    run_id = failed(Ordered(session_id="s", storage=storage, start=start), how)
    broken.clear()
    order[:] = names
    Ordered(session_id="s", storage=storage, start=start).resume(run_id)
    assert sorted(done) == ["a", "b", "c", "end"]
    return stored(storage)


@pytest.mark.parametrize("names", ["abc", "cab", "bca", "cba"])
@pytest.mark.parametrize(
    ("how", "start", "expected"),
    [
        ("remove", {"old a": 1, "old b": 2, "old c": 3}, {}),
        ("own name", {}, {"a": 1, "b": 1, "c": 1}),
        ("inside", {"pages": {"z": [1]}}, {"pages": {"z": [1], "a": 1, "b": 1, "c": 1}}),
        ("move", {"moved": 0, "last": 1}, {"last": 1, "moved": 0}),
        ("number", {"pages": {}}, {"pages": {"0": ["a"], "1": ["b"], "2": ["c"]}}),
    ],
)
def test_what_steps_changed_at_places_of_their_own_is_changed_again_in_any_order(
    how: str, start: dict[str, Any], expected: dict[str, Any], names: str
) -> None:
    assert reordered(how, start, names) == expected


@pytest.mark.parametrize(
    ("how", "start"),
    [
        ("count", {}),
        ("count", {"count": 0}),
        ("inside", {}),
        ("replace", {"deep": {"er": 1}}),
        ("append", {"log": []}),
    ],
)
def test_what_steps_changed_at_one_place_is_changed_again_in_the_same_order_only(
    how: str, start: dict[str, Any]
) -> None:
    expected = Ordered(start=start)
    order[:] = "abc"
    expected.run(how)
    done.clear()
    assert reordered(how, start, "abc") == expected.session_state
    for names in ("cab", "cba", "bca", "bac"):
        done.clear()
        if how == "append":  # to which each adds at the end, whatever others have added
            assert reordered(how, start, names)["log"] == list(names)
            continue
        with pytest.raises(StepStateError, match=r"changed something at /\w+ of the session state"):
            reordered(how, start, names)


def test_where_others_changed_the_same_place_nothing_is_done(storage: Storage) -> None:
    broken.add("b")
    run_id = failed(Counting(session_id="s", storage=storage))
    before = storage.find_runs("")[0]
    other = Setting(session_id="s", storage=storage)
    other.run(n=7)
    version = storage.find_sessions("")[0].version
    broken.clear()
    with pytest.raises(RunNotResumable, match=rf"run '{other.run_id}' \(version {version}\) changed /n since"):
        Counting(session_id="s", storage=storage).resume(run_id)
    assert storage.find_sessions("")[0].version == version
    assert storage.find_runs("")[-1] == before
    assert stored(storage) == {"n": 7, "steps": ["a", "b"]}


def test_a_run_is_resumed_by_its_own_workflow_only(storage: Storage) -> None:
    class Other(Counting):
        pass

    class Renamed(Counting):
        name = "Counting"

    broken.add("b")
    run_id = failed(Counting(session_id="s", storage=storage))
    broken.clear()
    with pytest.raises(RunNotResumable, match=r"workflow 'Counting', and this is 'Other'.* name = 'Counting'"):
        Other(session_id="s", storage=storage).resume(run_id)
    assert Renamed(session_id="s", storage=storage).resume(run_id).content == ["a", "b"]


def test_what_was_changed_outside_of_runs_is_told_from_what_another_run_changed(storage: Storage) -> None:
    broken.add("b")
    workflow = Counting(session_id="s", storage=storage)
    run_id = failed(workflow)
    workflow.session_state["n"] = 70
    broken.clear()
    with pytest.raises(RunNotResumable, match=r"code outside of runs \(version 3\) changed /n since"):
        workflow.resume(run_id)
    assert stored(storage)["n"] == 70


def test_history_that_is_gone_makes_a_run_not_resumable(storage: Storage) -> None:
    broken.add("b")
    run_id = failed(Counting(session_id="s", storage=storage))
    storage.prune_session("", "s", 1)
    Setting(session_id="s", storage=storage).run(big="x" * 200_000)
    Setting(session_id="s", storage=storage).run(big="y" * 200_000)
    storage.prune_session("", "s", 1)
    broken.clear()
    with pytest.raises(RunNotResumable, match="keep_history"):
        Counting(session_id="s", storage=storage).resume(run_id)
    storage.delete_session("", "s")
    with pytest.raises(RunNotFound):
        Counting(session_id="s", storage=storage).resume(run_id)


def test_arguments_that_were_not_recorded_as_they_were_are_not_guessed(storage: Storage) -> None:
    class Handed(Workflow):
        def run(self, handle: Any) -> None:
            do("end")

    @dataclass
    class Undeclared:
        n: int

    broken.add("end")
    for index, handle in enumerate((object(), Undeclared(1))):
        workflow = Handed(session_id=str(index), storage=storage)
        run_id = failed(workflow, handle)
        with pytest.raises(RunNotResumable, match="could not be recorded"):
            workflow.resume(run_id)

    class Other(Workflow):
        name = "Handed"

        def run(self, another: Any) -> None: ...

    run_id = failed(Handed(session_id="t", storage=storage), 1)
    with pytest.raises(RunNotResumable, match="takes other arguments now"):
        Other(session_id="t", storage=storage).resume(run_id)


def test_a_refused_commit_keeps_the_record_of_the_step(storage: Storage) -> None:
    class Refused(Workflow):
        @step
        def pay(self) -> str:
            return str(do("paid"))

        def run(self) -> str:
            self.session_state["n"] = 1
            if "others" not in done:
                done.append("others")
                Setting(session_id="s", storage=storage).run(n=2)
            return self.pay()

    workflow = Refused(session_id="s", storage=storage)
    with pytest.raises(StateConflict):
        workflow.run()
    again = Refused(session_id="s", storage=storage)
    assert again.resume(str(workflow.run_id)).content == "paid"
    assert done == ["others", "paid"]
    assert stored(storage) == {"n": 1}


def test_a_run_that_rolls_back_keeps_its_finished_steps(storage: Storage) -> None:
    class Rolling(Counting):
        on_error = "rollback"

    broken.add("b")
    run_id = failed(Rolling(session_id="s", storage=storage))
    assert stored(storage) == {"n": 1, "steps": ["a"]}
    broken.clear()
    Rolling(session_id="s", storage=storage).resume(run_id)
    assert stored(storage) == {"n": 1, "steps": ["a", "b"]}
    assert done == ["a", "b"]


def test_a_resumed_run_counts_what_it_used_before(storage: Storage) -> None:
    class Asking(Workflow):
        writer = Agent("offline", cache="run")

        def run(self) -> str:
            text = self.writer.run("Hello").content
            return str(do("end")) + text[:0]

    broken.add("end")
    run_id = failed(Asking(session_id="s", storage=storage))
    broken.clear()
    Asking(session_id="s", storage=storage).resume(run_id)
    (run,) = storage.find_runs("")
    assert (run.usage.requests, run.savings.usage.requests) == (1, 1)


def test_results_are_dropped_when_the_run_has_completed(storage: Storage) -> None:
    broken.add("b")
    run_id = failed(Counting(session_id="s", storage=storage))

    def results() -> list[bool]:
        return [record.result is not None for record in storage.find_steps("", "s", run_id, with_results=True)]

    assert results() == [True]
    broken.clear()
    Counting(session_id="s", storage=storage).resume(run_id)
    assert results() == [False, False]


def test_a_result_of_fifty_megabytes_is_kept_apart_from_the_state(tmp_path: Path) -> None:
    big = "x" * 50_000_000

    class Big(Workflow):
        @step
        def fetch(self) -> str:
            done.append("fetch")
            return big

        def run(self) -> int:
            size = len(self.fetch())
            do("end")
            return size

    with closing(SqlWorkflowStorage(db_file=tmp_path / "big.db")) as storage:
        broken.add("end")
        run_id = failed(Big(session_id="s", storage=storage))
        broken.clear()
        assert Big(session_id="s", storage=storage).resume(run_id).content == 50_000_000
        assert done == ["fetch", "end"]
        assert stored(storage) == {}


# -- takeover ---------------------------------------------------------------------------------------------------------


def test_whoever_was_taken_over_commits_nothing_more(storage: Storage) -> None:
    class Slow(Workflow):
        @step
        def first(self) -> int:
            return 1

        @step
        def second(self) -> int:
            if "resumed" not in done:
                done.append("resumed")
                take_over()
            return 2

        def run(self) -> Any:
            self.session_state.setdefault("log", []).append("run")
            return [self.first(), self.second()]

    def take_over() -> None:
        """Resume the run as somebody would who takes this process for dead."""
        (record,) = storage.find_runs("")
        dead = replace(record, status=RunStatus.interrupted)
        find_runs = storage.find_runs
        storage.find_runs = lambda *args, **kwargs: (dead,)  # type: ignore[method-assign]
        try:
            other = Slow(session_id="s", storage=storage)
            thread = threading.Thread(target=lambda: done.append(other.resume(record.run_id).content))
            thread.start()
            thread.join(20)
        finally:
            storage.find_runs = find_runs  # type: ignore[method-assign]

    with pytest.raises(RunTakenOver):
        Slow(session_id="s", storage=storage).run()
    assert done == ["resumed", [1, 2]]
    assert stored(storage) == {"log": ["run"]}
    (run,) = storage.find_runs("")
    assert (run.status, run.attempt) == (RunStatus.completed, 2)


@pytest.mark.parametrize("changes", [False, True])
def test_a_step_that_a_process_thought_dead_finishes_while_its_run_is_taken_over_is_not_done_again(
    storage: Storage, changes: bool
) -> None:
    class Sleeping(Workflow):
        @step
        def pay(self, changes: bool) -> str:
            if changes:
                self.session_state["paid"] = 1
            do("paid")
            asleep.set()
            awake.wait(10)
            return "paid"

        def run(self, changes: bool) -> str:
            paid = self.pay(changes)
            if self is sleeper:
                over.wait(10)
            return paid

    asleep, awake, over = threading.Event(), threading.Event(), threading.Event()
    find_runs, find_steps = storage.find_runs, storage.find_steps
    sleeper = Sleeping(session_id="s", storage=storage)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sleeper.run, changes)
        assert asleep.wait(10)
        until(lambda: find_runs(""))

        def find_steps_slowly(*args: Any, **options: Any) -> Any:
            found = find_steps(*args, **options)
            awake.set()
            until(lambda: find_steps(*args, **options))
            return found

        dead = replace(find_runs("")[0], status=RunStatus.interrupted)
        storage.find_runs = lambda *args, **kwargs: (dead,)  # type: ignore[method-assign]
        storage.find_steps = find_steps_slowly  # type: ignore[method-assign]
        assert Sleeping(session_id="s", storage=storage).resume(dead.run_id).content == "paid"
        over.set()
        with pytest.raises(RunTakenOver):
            running.result(10)
    storage.find_runs, storage.find_steps = find_runs, find_steps  # type: ignore[method-assign]
    assert done == ["paid"]
    assert stored(storage) == ({"paid": 1} if changes else {})


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


PROGRAM = """
import os, sys, time
sys.path.insert(0, {folder!r})
from holdfast import step, SqlWorkflowStorage
from holdfast.workflow import Workflow

class Killed(Workflow):
    def run(self):
        self.session_state["n"] = self.session_state.get("n", 0) + 1
        return [self.a(), self.b()]

    @step
    def a(self):
        open("a.log", "a").write("a")
        return "a"

    @step
    def b(self):
        self.session_state["b"] = "begun"
        self.write_to_storage()
        if not os.path.exists("fixed"):
            print("in b", self.run_id, flush=True)
            time.sleep(60)
        open("b.log", "a").write("b")
        time.sleep(0.2)
        return "b"

storage = SqlWorkflowStorage(db_url={url!r})
if __name__ == "__main__":
    if len(sys.argv) > 1:
        from holdfast.errors import RunError
        while not os.path.exists("go"):
            time.sleep(0.001)
        try:
            print("did", Killed(session_id="s", storage=storage).resume(sys.argv[1]).content)
        except RunError as error:
            print("told", type(error).__name__)
    else:
        Killed(session_id="s", storage=storage).run()
"""


@pytest.mark.crash
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_killed_in_its_second_step_and_resumed_by_two_processes(tmp_path: Path, backend: str) -> None:
    if backend == "sqlite":
        check_killed(tmp_path, f"sqlite:///{tmp_path}/workflows.db")
    else:
        with postgres.schema(postgres.shared_url(over_tcp=True)) as url:
            check_killed(tmp_path, url)


def check_killed(folder: Path, url: str) -> None:
    program = folder / "killed.py"
    program.write_text(textwrap.dedent(PROGRAM).format(folder=str(folder), url=url))
    started = subprocess.Popen([sys.executable, str(program)], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    with started.stdout:
        _, _, run_id = started.stdout.readline().split()
    started.send_signal(signal.SIGKILL)
    started.wait()
    with closing(SqlWorkflowStorage(db_url=url)) as storage:
        assert stored(storage) == {"n": 1, "b": "begun"}
        deadline = time.monotonic() + 60
        while storage.find_runs("")[0].status is not RunStatus.interrupted:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        (folder / "fixed").touch()
        racing = [
            subprocess.Popen([sys.executable, str(program), run_id], cwd=folder, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        time.sleep(1)
        (folder / "go").touch()
        told = sorted(process.communicate(timeout=60)[0].strip() for process in racing)
        assert told[0] == "did ['a', 'b']"
        assert told[1] in ("told RunNotResumable", "told RunTakenOver", "did ['a', 'b']")
        assert (folder / "a.log").read_text() == "a"
        assert (folder / "b.log").read_text() == "b"
        assert stored(storage) == {"n": 1, "b": "begun"}
        assert storage.find_runs("")[0].attempt == 2
        assert storage.check() == ()


# -- any program ------------------------------------------------------------------------------------------------------

KEYS = ["a", "b", "c"]

changes = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(KEYS), st.integers(0, 3)),
    st.tuples(st.just("append"), st.sampled_from(KEYS), st.integers(0, 3)),
    st.tuples(st.just("raise"), st.sampled_from(KEYS), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.just(0)),
    st.tuples(st.just("nest"), st.sampled_from(KEYS), st.integers(0, 3)),
)
acts = st.one_of(
    st.tuples(st.just("change"), changes),
    st.tuples(st.just("step"), st.lists(changes, max_size=2)),
    st.tuples(st.just("write"), st.none()),
    st.tuples(st.just("other"), st.integers(0, 3)),
)


def change(state: Any, what: tuple[str, str, int]) -> None:
    kind, key, n = what
    if kind == "set":
        state[key] = n
    elif kind == "append":
        if not isinstance(state.get(key), list):
            state[key] = []
        state[key].append(n)
    elif kind == "raise":
        state[key] = (state[key] if isinstance(state.get(key), int) else 0) + n
    elif kind == "delete":
        state.pop(key, None)
    else:
        if not isinstance(state.get(key), dict):
            state[key] = {}
        state[key][str(n)] = [n]


class Programmed(Workflow):
    """Does what it is told, and fails before the act of a number."""

    fails_at: int = -1
    others: Any = None

    @step
    def act(self, number: int, wanted: list[Any]) -> int:
        done.append(number)
        for what in wanted:
            change(self.session_state, tuple(what))
        return number * 10

    def run(self, program: list[Any]) -> Any:
        results = []
        for number, (kind, what) in enumerate(program):
            if number == self.fails_at:
                raise Broken
            if kind == "change":
                change(self.session_state, tuple(what))
            elif kind == "step":
                results.append(self.act(number, what))
            elif kind == "write":
                self.write_to_storage()
            elif number not in self.others:
                self.others.add(number)
                Setting(session_id="s", storage=self.storage).run(**{f"other{what}": number})
        return results


LATE = [  # a key comes back that was in front of one that others have changed since
    ("change", ("set", "a", 0)),
    ("write", None),
    ("other", 3),
    ("change", ("delete", "a", 0)),
    ("write", None),
    ("other", 3),
    ("write", None),
]


@example(program=LATE, first=6, second=10)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(program=st.lists(acts, max_size=10), first=st.integers(0, 10), second=st.integers(0, 10))
def test_a_run_that_broke_off_anywhere_and_was_resumed_ends_as_one_that_did_not(
    program: list[Any], first: int, second: int
) -> None:
    done.clear()
    whole = Programmed(session_id="s", storage=MemoryStorage(), others=set())
    expected = whole.run(program).content
    paid = list(done)
    done.clear()
    storage = MemoryStorage()
    others: set[int] = set()
    workflow = Programmed(session_id="s", storage=storage, fails_at=first, others=others)
    try:
        result = workflow.run(program).content
    except Broken:
        workflow = Programmed(session_id="s", storage=storage, fails_at=second, others=others)
        run_id = storage.find_runs("")[-1].run_id
        runs = {run.run_id for run in storage.find_runs("") if run.workflow == "Programmed"}
        assert len(runs) == 1
        (run_id,) = runs
        try:
            result = workflow.resume(run_id).content
        except Broken:
            workflow = Programmed(session_id="s", storage=storage, others=others)
            result = workflow.resume(run_id).content
    assert result == expected
    assert done == paid
    assert stored(storage) == stored(whole.storage)
    assert list(stored(storage)) == list(stored(whole.storage)) or any(kind == "other" for kind, _ in program)
    assert storage.check() == ()


class Refreshing(Workflow):
    @step(cache="session")
    def fetch(self, url: str) -> str:
        return str(do(url))

    def run(self, *urls: str) -> list[str]:
        return [self.fetch(url) for url in urls]


@pytest.mark.parametrize("option", [{"refresh": True}, {"use_cache": False}])
def test_a_run_that_was_not_to_use_results_does_not_use_them_when_it_is_resumed(
    storage: Storage, option: dict[str, bool]
) -> None:
    Refreshing(session_id="s", storage=storage).run("a", "b")
    broken.add("b")
    run_id = failed(Refreshing(session_id="s", storage=storage), "a", "b", **option)
    broken.clear()
    done.clear()
    again = Refreshing(session_id="s", storage=storage)
    assert again.resume(run_id).content == ["a", "b"]
    assert "b" in done
    (recorded,) = storage.find_runs("", run_id=run_id)
    assert codec.decode(recorded.input or b"") == {"urls": ("a", "b"), **option}


def test_a_run_that_was_not_to_pay_does_not_when_it_is_resumed(storage: Storage) -> None:
    workflow = Refreshing(session_id="s", storage=storage)
    for ask in (lambda: workflow.run("a", only_if_cached=True), lambda: workflow.resume(workflow.run_id or "")):
        with pytest.raises(CacheMiss):
            ask()
    assert done == []
    workflow.run("a")
    assert workflow.run("a", only_if_cached=True).content == ["a"]


def test_a_step_that_is_cancelled_while_it_is_recorded_is_recorded(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Session.changes_since
    looking = threading.Event()

    def slow(session: Session, mark: Any) -> Any:
        looking.set()
        time.sleep(0.2)
        return right(session, mark)

    class Cancelling(Workflow):
        async def run(self) -> Any:
            asked = asyncio.ensure_future(self.ask())
            if "cancel" not in broken:
                return await asked
            await asyncio.to_thread(looking.wait, 20)
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked
            raise Broken("cancelled")

        @step
        async def ask(self) -> str:
            return str(do("ask"))

    monkeypatch.setattr(Session, "changes_since", slow)
    broken.add("cancel")
    workflow = Cancelling(session_id="s", storage=storage)
    with pytest.raises(Broken):
        asyncio.run(workflow.run())
    broken.clear()
    assert asyncio.run(workflow.resume(workflow.run_id or "")).content == "ask"
    assert done == ["ask"]
