"""Single flight: those who ask for one result at the same time pay for it once, whatever happens to any of them."""

from __future__ import annotations

import ast
import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import postgres
from conftest import FakeClock
from holdfast import Agent, Cache, RunResponse, clock, flights, heartbeat, sources, step
from holdfast.errors import StepBusy, StepStateError
from holdfast.flights import Flight, Flights
from holdfast.response import RunEvent
from holdfast.run_steps import StepWarning
from holdfast.storage.base import Storage
from holdfast.storage.memory import MemoryStorage
from holdfast.storage.sql import SqlWorkflowStorage
from holdfast.workflow import Workflow

MANY = 16
TAKES = 0.2
"""Seconds that the steps take."""

LEASE = 0.6
"""Seconds of the leases where a test waits for their end."""

# In lower case: as a constant it would be a part of the code of the steps that name it.
computed: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_computed() -> None:
    computed.clear()


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(heartbeat, "RENEW_EVERY", LEASE / 3)


# -- forms ------------------------------------------------------------------------------------------------------------


def found(topic: str) -> dict[str, Any]:
    computed.append(topic)
    return {"topic": topic, "numbers": [1, 2]}


class Plain(Workflow):
    @step(cache="session")
    def find(self, topic: str) -> dict[str, Any]:
        time.sleep(TAKES)
        return found(topic)

    def run(self, topic: str) -> Any:
        return self.find(topic)


class Streaming(Workflow):
    @step(cache="session")
    def find(self, topic: str) -> Iterator[Any]:
        yield "first"
        time.sleep(TAKES)
        yield found(topic)

    def run(self, topic: str) -> Iterator[Any]:
        yield from self.find(topic)


class Awaited(Workflow):
    @step(cache="session")
    async def find(self, topic: str) -> dict[str, Any]:
        await asyncio.sleep(TAKES)
        return found(topic)

    async def run(self, topic: str) -> Any:
        return await self.find(topic)


class AsyncStreaming(Workflow):
    @step(cache="session")
    async def find(self, topic: str) -> AsyncIterator[Any]:
        yield "first"
        await asyncio.sleep(TAKES)
        yield found(topic)

    async def run(self, topic: str) -> AsyncIterator[Any]:
        async for piece in self.find(topic):
            yield piece


def slow_answer(message: str) -> str:
    time.sleep(TAKES)
    computed.append(message)
    return message.upper()


async def slow_async_answer(message: str) -> str:
    await asyncio.sleep(TAKES)
    computed.append(message)
    return message.upper()


class Asking(Workflow):
    writer = Agent(slow_answer, cache="session")

    def run(self, topic: str) -> Any:
        return [self.writer.run(topic).content]


class AsyncAsking(Workflow):
    writer = Agent(slow_async_answer, cache="session")

    async def run(self, topic: str) -> Any:
        return [(await self.writer.arun(topic)).content]


ASYNC_FORMS: list[type[Workflow]] = [Awaited, AsyncStreaming, AsyncAsking]
FORMS: list[type[Workflow]] = [Plain, Streaming, Asking, *ASYNC_FORMS]


async def collected(response: Any) -> Any:
    """What a run of an async workflow gives."""
    if isinstance(response, AsyncIterator):
        return [each.content async for each in response]
    return (await response).content


def answer(cls: type[Workflow], storage: Storage, *args: Any, **options: Any) -> Any:
    """What one run gives."""
    response = cls(session_id="s", storage=storage).run(*args, **options)
    if isinstance(response, Iterator):
        return [each.content for each in response]
    return response.content if isinstance(response, RunResponse) else asyncio.run(collected(response))


def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    asyncio.run(later(condition))


async def later(condition: Callable[[], Any]) -> None:
    """Wait until something is so, on an event loop."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls on as many threads, which begin together; an exception counts as a result."""
    barrier = threading.Barrier(len(calls))

    def make(call: Callable[[], Any]) -> Any:
        barrier.wait(10)
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


async def at_once(cls: type[Workflow], storage: Storage, count: int) -> list[Any]:
    return list(await asyncio.gather(*(collected(cls(session_id="s", storage=storage).run("a")) for _ in range(count))))


def require_one(answers: list[Any]) -> None:
    for each in answers:
        if isinstance(each, Exception):
            raise each
    assert computed == ["a"]
    assert [each for each in answers if each != answers[0]] == []
    assert len({id(each) for each in answers}) == len(answers)


@contextmanager
def everybody_leads(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> Iterator[None]:
    """The planted bug: nobody is asked to wait, in the process or by the storage."""
    with monkeypatch.context() as patched:
        patched.setattr(Flights, "join", lambda self, storage, which, own, around: own)
        patched.setattr(storage.step_cache, "claim", lambda *_, **__: True)
        yield


@pytest.mark.parametrize("cls", FORMS, ids=lambda cls: cls.__name__)
def test_of_many_threads_one_computes_and_all_get_a_value_of_their_own(cls: type[Workflow], storage: Storage) -> None:
    require_one(together(*[partial(answer, cls, storage, "a")] * MANY))


@pytest.mark.parametrize("cls", FORMS, ids=lambda cls: cls.__name__)
def test_without_single_flight_that_test_fails(cls: type[Workflow], monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    with everybody_leads(monkeypatch, storage):
        together(*[partial(answer, cls, storage, "a")] * MANY)
    assert len(computed) > 1


@pytest.mark.parametrize("cls", ASYNC_FORMS, ids=lambda cls: cls.__name__)
def test_of_many_tasks_one_computes_and_all_get_a_value_of_their_own(cls: type[Workflow], storage: Storage) -> None:
    require_one(asyncio.run(at_once(cls, storage, MANY)))


@pytest.mark.parametrize("cls", ASYNC_FORMS, ids=lambda cls: cls.__name__)
def test_threads_and_tasks_of_several_loops_share_one_execution(cls: type[Workflow], storage: Storage) -> None:
    loops = [lambda: asyncio.run(at_once(cls, storage, 4))] * 2
    *single, first, second = together(*[partial(answer, cls, storage, "a")] * 4, *loops)
    require_one([*single, *first, *second])


def test_an_agent_that_is_asked_by_threads_and_awaited_by_tasks_answers_once(storage: Storage) -> None:
    class Later(Asking):
        async def run(self, topic: str) -> Any:
            return [(await self.writer.arun(topic)).content]

    def awaiting() -> Any:
        async def several() -> Any:
            return await asyncio.gather(
                *(Later(session_id="s", name="Asking", storage=storage).run("a") for _ in range(4))
            )

        return [response.content for response in asyncio.run(several())]

    *asked, awaited = together(*[partial(answer, Asking, storage, "a")] * 4, awaiting)
    require_one([*asked, *awaited])


def test_storages_that_are_several_objects_share_one_execution(tmp_path: Path) -> None:
    storages = [SqlWorkflowStorage(db_file=tmp_path / "workflows.db") for _ in range(4)]
    require_one(together(*(partial(answer, Plain, storage, "a") for storage in storages)))
    for storage in storages:
        storage.close()


def test_a_class_may_be_used_by_a_thread_while_another_sets_an_attribute_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class New(Plain):
        def run(self, topic: str) -> Any:
            return self.find(topic)

    def hints_of(function: Any) -> list[Any]:
        setattr(New, f"set_beside_{len(vars(New))}", None)
        return []

    monkeypatch.setattr("holdfast.workflow.hints_of", hints_of)
    assert answer(New, MemoryStorage(), "a") == {"topic": "a", "numbers": [1, 2]}


def test_a_parser_that_was_disturbed_by_another_thread_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parse = ast.parse
    disturbed: list[bool] = []

    def parse_disturbed(text: str) -> ast.AST:
        if not disturbed:
            disturbed.append(True)
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(text)

    monkeypatch.setattr(ast, "parse", parse_disturbed)
    path = tmp_path / "edited.py"
    path.write_text("def double(n):\n    return n * 2\n")
    namespace: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    assert sources.tree_of(namespace["double"].__code__) is not None
    assert disturbed


# -- cancelling and failing -------------------------------------------------------------------------------------------


class Slow(Workflow):
    """A coroutine step that notes how it ends."""

    seconds = 0.3

    @step(cache="session", ignore=["seconds"])
    async def fetch(self) -> int:
        computed.append("began")
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            computed.append("cancelled")
            raise
        return len(computed)

    async def run(self) -> int:
        return await self.fetch()


async def begun(storage: Storage, count: int, cls: type[Workflow] = Slow) -> list[asyncio.Task[Any]]:
    """So many tasks that want one result, of which the first leads."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.ensure_future(cls(session_id="s", storage=storage).run()))
        await later(lambda: computed)
    await later(lambda: waiting(storage) == count - 1)
    return tasks


def waiting(storage: Storage) -> int:
    """How many wait for somebody else of this process."""
    return sum(flight.waiting for flight in flights.flights._by_storage.get(storage, {}).values())


def flying(storage: Storage) -> list[Flight]:
    return list(flights.flights._by_storage.get(storage, {}).values())


def test_a_waiter_that_is_cancelled_harms_nobody(storage: Storage) -> None:
    async def check() -> None:
        leader, cancelled, *others = await begun(storage, 4)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert waiting(storage) == 2
        assert [response.content for response in await asyncio.gather(leader, *others)] == [1, 1, 1]

    asyncio.run(check())
    assert computed == ["began"]


def test_the_leaders_caller_is_cancelled_and_the_step_goes_on_for_those_who_wait(storage: Storage) -> None:
    async def check() -> None:
        leader, *others = await begun(storage, 3)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert [response.content for response in await asyncio.gather(*others)] == [1, 1]

    asyncio.run(check())
    assert computed == ["began"]


def test_that_test_fails_where_cancelling_does_not_look_at_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flight, "waiting", property(lambda self: 0, lambda self, count: None), raising=False)

    async def check() -> None:
        storage = MemoryStorage()
        leader = asyncio.ensure_future(Slow(session_id="s", storage=storage).run())
        other = asyncio.ensure_future(Slow(session_id="s", storage=storage).run())
        await asyncio.sleep(0.1)
        leader.cancel()
        await other

    asyncio.run(check())
    assert computed == ["began", "cancelled", "began"]


def test_a_step_that_nobody_else_waits_for_is_cancelled_at_once_and_leaves_nothing(storage: Storage) -> None:
    async def check() -> None:
        (leader,) = await begun(storage, 1)
        began = time.monotonic()
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert computed == ["began", "cancelled"]
        assert storage.step_cache.find(None) == ()
        assert (await Slow(session_id="s", storage=storage).run()).content == 3
        assert time.monotonic() - began < flights.LEASE_SECONDS / 2

    asyncio.run(check())
    assert flying(storage) == []


def test_a_cancelled_step_ends_as_its_function_does() -> None:
    class Stubborn(Workflow):
        @step(cache="session", ignore=["self"])
        async def fetch(self, ending: str) -> str:
            computed.append(ending)
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                if ending == "fails":
                    raise ConnectionError from None
            return ending

        async def run(self, ending: str) -> str:
            return await self.fetch(ending)

    async def check(ending: str) -> Any:
        task = asyncio.ensure_future(Stubborn(storage=MemoryStorage()).run(ending))
        while ending not in computed:
            await asyncio.sleep(0.001)
        task.cancel()
        return (await task).content

    assert asyncio.run(check("goes on")) == "goes on"
    with pytest.raises(ConnectionError):
        asyncio.run(check("fails"))


class Failing(Workflow):
    """A step that fails three times, and notes whether it is computed by several at the same time."""

    at_once: list[int]

    @step(cache="session", ignore=["self"])
    def fetch(self) -> int:
        running.append(1)
        computed.append(sum(running))
        number = len(computed)
        time.sleep(0.05)
        running.append(-1)
        if number <= 3:
            raise ConnectionError(str(number))
        return number

    def run(self) -> int:
        return self.fetch()


running: list[int] = []


def test_when_the_leader_fails_those_who_wait_try_themselves_one_at_a_time(storage: Storage) -> None:
    running.clear()
    calls = [lambda: Failing(session_id="s", storage=storage).run().content] * 8
    answers = together(*calls)
    assert sorted(str(each) for each in answers) == ["1", "2", "3", *["4"] * 5]
    assert computed == [1, 1, 1, 1]
    assert flying(storage) == []
    assert len(storage.step_cache.find(None)) == 1


going = threading.Event()


def test_an_interrupt_of_a_thread_that_waits_harms_nobody() -> None:
    storage = MemoryStorage()
    going.clear()

    class Held(Workflow):
        @step(cache="session", ignore=["self"])
        def fetch(self) -> int:
            computed.append("began")
            going.wait(10)
            return 1

        def run(self) -> int:
            return self.fetch()

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(Held(session_id="s", storage=storage).run)
        until(lambda: computed)

        def interrupt() -> None:
            until(lambda: waiting(storage))
            signal.raise_signal(signal.SIGINT)

        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            Held(session_id="s", storage=storage).run()
        assert waiting(storage) == 0
        going.set()
        assert leader.result(10).content == 1
    assert computed == ["began"]


def test_an_interrupt_while_a_flight_is_joined_leaves_no_flight_without_a_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = MemoryStorage()
    join = Flights.join

    def joined(*args: Any) -> Any:
        join(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Flights, "join", joined)
        with pytest.raises(KeyboardInterrupt):
            answer(Plain, storage, "a")
    assert flying(storage) == []
    assert answer(Plain, storage, "a") == {"topic": "a", "numbers": [1, 2]}


# -- streams that are left half-way -----------------------------------------------------------------------------------


class Counted(Workflow):
    """A stream that says which execution it is of."""

    @step(cache="session", ignore=["self"])
    def write(self) -> Iterator[RunResponse]:
        computed.append("began")
        number = len(computed)
        for place in range(3):
            yield RunResponse(content=(number, place))

    def run(self) -> Iterator[RunResponse]:
        yield from self.write()


class AsyncCounted(Workflow):
    @step(cache="session", ignore=["self"])
    async def write(self) -> AsyncIterator[RunResponse]:
        computed.append("began")
        number = len(computed)
        for place in range(3):
            yield RunResponse(content=(number, place))

    async def run(self) -> AsyncIterator[RunResponse]:
        async for response in self.write():
            yield response


def counted(storage: Storage) -> list[Any]:
    return [response.content for response in Counted(session_id="s", storage=storage).run()]


def of(number: int) -> list[Any]:
    return [(number, place) for place in range(3)]


@pytest.mark.usefixtures("short_leases")
def test_a_consumer_that_stops_reading_keeps_others_waiting_for_one_lease_only(storage: Storage) -> None:
    responses = Counted(session_id="s", storage=storage).run(stream_events=True)
    pieces = [response for response in (next(responses), next(responses), next(responses)) if response.content]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(counted, storage) for _ in range(4)]
        assert [other.result(20) for other in others] == [of(2)] * 4
    assert time.monotonic() - began > LEASE * 0.8
    rest = list(responses)
    assert [response.content for response in [*pieces, *rest] if response.content] == of(1)
    (told,) = [response for response in rest if response.event is RunEvent.step_completed]
    assert told.data["stored"] is False
    assert counted(storage) == of(2)
    assert computed == ["began", "began"]


@pytest.mark.usefixtures("short_leases")
def test_a_stalled_stream_that_was_never_begun_keeps_others_waiting_for_one_lease_only(storage: Storage) -> None:
    def pieces() -> Any:
        computed.append("made")
        return (piece for piece in "ab")

    class Returned(Workflow):
        def run(self) -> Any:
            return self.step("pieces", step(pieces, cache="session"))

    class Dropping(Returned):
        def run(self) -> Any:
            kept.append(self.step("pieces", step(pieces, cache="session")))

    kept: list[Any] = []
    Dropping(session_id="s", name="Returned", storage=storage).run()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: list(Returned(session_id="s", storage=storage).run()))
        assert [response.content for response in other.result(20)] == ["a", "b"]
    assert computed == ["made", "made"]
    kept[0].close()


def test_a_stream_that_is_closed_half_way_keeps_nothing_and_lets_others_go_on_at_once(storage: Storage) -> None:
    responses = Counted(session_id="s", storage=storage).run()
    next(responses)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(counted, storage)
        until(lambda: waiting(storage))
        began = time.monotonic()
        with closing(responses):
            assert storage.step_cache.find(None) == ()
        assert other.result(20) == of(2)
        assert time.monotonic() - began < flights.LEASE_SECONDS / 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_is_dropped_half_way_lets_others_go_on_at_once(storage: Storage, is_async: bool) -> None:
    began = time.monotonic()

    async def dropped() -> None:
        responses = AsyncCounted(session_id="s", name="Counted", storage=storage).run()
        await anext(responses)
        del responses
        gc.collect()
        await later(lambda: not flying(storage))

    if is_async:
        asyncio.run(dropped())
    else:
        responses = Counted(session_id="s", storage=storage).run()
        next(responses)
        del responses
        gc.collect()
    assert flying(storage) == []
    assert counted(storage) == of(2)
    assert time.monotonic() - began < flights.LEASE_SECONDS / 2


def test_a_stream_that_was_left_half_way_by_the_same_thread_is_not_waited_for(storage: Storage) -> None:
    first = Counted(session_id="s", storage=storage).run()
    pieces = [next(first).content]
    began = time.monotonic()
    assert counted(storage) == of(2)
    assert time.monotonic() - began < flights.LEASE_SECONDS / 2
    assert pieces + [response.content for response in first] == of(1)
    assert counted(storage) == of(1)
    assert computed == ["began", "began"]


def test_a_plain_call_does_not_wait_for_a_task_of_its_own_thread(storage: Storage) -> None:
    class Both(Workflow):
        writer = Agent(slow_async_answer, cache="session")

        async def run(self) -> Any:
            later = asyncio.ensure_future(self.writer.arun("a"))
            await asyncio.sleep(TAKES / 2)
            return [self.writer.run("a").content, (await later).content]

    assert asyncio.run(Both(session_id="s", storage=storage).run()).content == ["A", "A"]
    assert computed == ["a", "a"]


def test_a_leader_whose_event_loop_is_closed_is_not_waited_for() -> None:
    storage = MemoryStorage()
    loop = asyncio.new_event_loop()
    task = loop.create_task(begun(storage, 1))
    (leader,) = loop.run_until_complete(task)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(answer, Slow, storage)
        until(lambda: waiting(storage))
        loop.close()
        assert other.result(20) == 2
    assert computed == ["began", "began"]
    leader._log_destroy_pending = False  # type: ignore[attr-defined]


def test_the_collector_may_end_a_leader_while_its_lease_is_renewed(storage: Storage) -> None:
    responses = Counted(session_id="s", storage=storage).run()
    next(responses)
    (flight,) = flying(storage)
    lease = flight.lease
    assert lease is not None
    with ThreadPoolExecutor(1) as pool:

        def collected() -> None:
            with lease._lock:  # as the thread that renews it does
                responses.close()

        pool.submit(collected).result(10)
    assert flying(storage) == []


# -- itself, and others in turn ---------------------------------------------------------------------------------------


class Recursive(Workflow):
    @step(cache="session")
    def count(self, n: int, ends: int) -> int:
        return self.count(n - 1 if n > ends else n, ends) + 1 if n else 0

    @step(cache="session")
    async def later(self, n: int) -> int:
        return await self.later(n) + 1

    @step(cache="session")
    def beside(self, n: int) -> int:
        return self.parallel(partial(self.beside, n), partial(self.even, n))[0]

    @step(cache="session")
    def even(self, n: int) -> bool:
        return n == 0 or self.odd(n - 1)

    @step(cache="session")
    def odd(self, n: int) -> bool:
        return n != 0 and self.even(n - 1)

    def run(self, name: str, *args: int) -> Any:
        return getattr(self, name)(*args)


def test_a_step_that_asks_for_itself_raises_and_one_that_asks_for_less_does_not(storage: Storage) -> None:
    def recursive(*args: Any) -> Any:
        return Recursive(session_id="s", storage=storage).run(*args).content

    assert recursive("count", 3, 0) == 3
    for asked in (("count", 3, 2), ("beside", 4)):
        with pytest.raises(StepStateError, match="calls itself with the same arguments"):
            recursive(*asked)
    with pytest.raises(StepStateError, match="calls itself with the same arguments"):
        asyncio.run(Recursive(session_id="s", storage=storage).later(3))
    assert flying(storage) == []


class Crosswise(Workflow):
    """Two steps each of which asks for the other, begun at the same time."""

    @step(cache="session", ignore=["met"], depends=lambda self: None)
    def one(self) -> str:
        return self.asks_after_both_have_begun(self.other)

    @step(cache="session", ignore=["met"], depends=lambda self: None)
    def other(self) -> str:
        return self.asks_after_both_have_begun(self.one)

    def asks_after_both_have_begun(self, step: Callable[[], str]) -> str:
        name = sys._getframe(1).f_code.co_name
        if name not in have_begun:
            have_begun.add(name)
            self.met.wait()  # type: ignore[attr-defined]
        return step()


have_begun: set[str] = set()


def test_of_two_steps_that_wait_for_each_other_one_is_told(storage: Storage) -> None:
    have_begun.clear()
    Crosswise.met = threading.Barrier(2, timeout=20)  # type: ignore[attr-defined]
    workflow = Crosswise(session_id="s", storage=storage)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(workflow.one), pool.submit(workflow.other)]
        failures = [future.exception(timeout=60) for future in asked]
    assert any("waits for the step which this was called from" in str(failure) for failure in failures)
    assert all(isinstance(failure, StepStateError) for failure in failures)
    assert flying(storage) == []


def test_a_step_that_asks_for_itself_through_another_storage_object_raises(tmp_path: Path) -> None:
    def nested() -> Any:
        with closing(SqlWorkflowStorage(db_file=tmp_path / "workflows.db")) as storage:
            return Nested(storage=storage).run().content

    class Nested(Workflow):
        @step(cache="workflow", version=1)
        def find(self) -> Any:
            computed.append("find")
            return nested()

        def run(self) -> Any:
            return self.find()

    with pytest.raises(StepStateError, match="calls itself with the same arguments"):
        nested()
    assert computed == ["find"]


def test_steps_that_call_each_other_in_turn_work_from_many_threads(storage: Storage) -> None:
    answers = together(
        *(
            partial(lambda name, n: Recursive(session_id="s", storage=storage).run(name, n).content, name, n)
            for name in ("even", "odd")
            for n in (7, 8, 6, 7)
        )
    )
    assert answers == [False, True, True, False, True, False, False, True]
    assert len(storage.step_cache.find(None)) <= 18


def test_parallel_steps_inside_of_parallel_steps_that_want_the_same_compute_it_once(storage: Storage) -> None:
    class Fanning(Workflow):
        @step(cache="session")
        def leaf(self, n: int) -> int:
            computed.append(n)
            time.sleep(0.02)
            return n

        @step(cache="session")
        def branch(self, n: int) -> int:
            return sum(self.parallel(*(partial(self.leaf, each) for each in (1, 2, 3, 1))))

        def run(self) -> int:
            return sum(self.parallel(*(partial(self.branch, n) for n in (1, 1, 2, 3)), limit=3))

    assert Fanning(session_id="s", storage=storage).run().content == 28
    assert sorted(computed) == [1, 2, 3]


# -- waiting ----------------------------------------------------------------------------------------------------------


class Patient(Workflow):
    @step(cache=Cache("session", wait_timeout=0.1), ignore=["self"])
    def find(self) -> str:
        computed.append("began")
        time.sleep(1.2)
        return "found"

    def run(self) -> str:
        return self.find()


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_who_waits_for_longer_than_it_was_ready_to_is_told(tmp_path: Path, is_elsewhere: bool) -> None:
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage, ThreadPoolExecutor(1) as pool:
        leader = pool.submit(Patient(session_id="s", storage=storage).run)
        until(lambda: computed)
        other = SqlWorkflowStorage(db_file=tmp_path / "a.db") if is_elsewhere else storage
        began = time.monotonic()
        with pytest.raises(StepBusy) as caught:
            Patient(session_id="s", storage=other).run()
        assert 0.1 <= caught.value.seconds <= time.monotonic() - began < 0.9
        assert leader.result(10).content == "found"
        assert Patient(session_id="s", storage=other).run().content == "found"
        other.close()


def test_it_waits_for_no_longer_when_one_leader_after_the_other_fails() -> None:
    class Failing(Workflow):
        @step(cache=Cache("session", wait_timeout=0.25), ignore=["self"])
        def find(self) -> None:
            time.sleep(0.1)
            raise ConnectionError

        def run(self) -> None:
            self.find()

    storage = MemoryStorage()
    answers = together(*[lambda: Failing(session_id="s", storage=storage).run()] * 8)
    kinds = [type(each) for each in answers]
    assert kinds.count(ConnectionError) <= 4
    assert set(kinds) == {ConnectionError, StepBusy}


# -- refresh, and what is kept by clocks that differ ------------------------------------------------------------------


class Numbered(Workflow):
    """A step that notes when it is computed by several at the same time."""

    @step(cache=Cache("session", ttl="15m"), ignore=["self"])
    def number(self) -> int:
        running.append(1)
        assert sum(running) == 1
        computed.append("began")
        number = len(computed)
        time.sleep(0.1)
        running.append(-1)
        return number

    def run(self) -> int:
        return self.number()


def test_of_many_who_refresh_at_the_same_time_one_computes_at_a_time_and_nobody_gets_what_was_there(
    storage: Storage,
) -> None:
    running.clear()

    def refreshed() -> Any:
        return Numbered(session_id="s", storage=storage).run(refresh=True).content

    assert Numbered(session_id="s", storage=storage).run().content == 1
    answers = together(*[refreshed] * 8)
    assert min(answers) > 1
    assert max(answers) == len(computed) <= 3
    before = len(computed)
    assert refreshed() == before + 1
    assert Numbered(session_id="s", storage=storage).run().content == before + 1


class Begun(Workflow):
    """A step that goes on when it is told to, the first time."""

    @step(cache="session", ignore=["self"])
    def number(self) -> int:
        computed.append("began")
        number = len(computed)
        if number == 1:
            going.wait(10)
        return number

    def run(self) -> int:
        return self.number()


class AwaitedBegun(Workflow):
    @step(cache="session", ignore=["self"])
    async def number(self) -> int:
        computed.append("began")
        number = len(computed)
        if number == 1:
            await later(going.is_set)
        return number

    async def run(self) -> int:
        return await self.number()


@pytest.mark.parametrize("cls", [Begun, AwaitedBegun], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("is_beside", [False, True], ids=["in one process", "beside another"])
def test_who_refreshes_does_not_take_what_had_begun_before(
    cls: type[Workflow], is_beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going.clear()
    asks: list[float | None] = []
    ask = flights.EntryLease.ask
    monkeypatch.setattr(flights.EntryLease, "ask", lambda lease, unless: asks.append(unless) or ask(lease, unless))
    with ExitStack() as stack:
        storage = stack.enter_context(closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")))
        other = stack.enter_context(closing(SqlWorkflowStorage(db_file=tmp_path / "a.db"))) if is_beside else storage
        pool = stack.enter_context(ThreadPoolExecutor(4))
        leader = pool.submit(answer, cls, other)
        until(lambda: computed)
        began = len(asks)
        refreshing = [pool.submit(answer, cls, storage, refresh=True) for _ in range(3)]
        until(lambda: waiting(storage) == (2 if is_beside else 3) and (not is_beside or len(asks) > began))
        going.set()
        assert leader.result(10) == 1
        assert {each.result(10) for each in refreshing} <= {2, 3}
        assert len(computed) <= 3
        assert answer(cls, storage) == len(computed)


def test_those_whose_runs_refresh_share_what_begins_after_they_did(storage: Storage) -> None:
    """The execution of one of them is new enough for the others, that began before it."""
    barrier = threading.Barrier(4)

    class Together(Plain):
        name = "Plain"

        def run(self, topic: str) -> Any:
            barrier.wait(10)
            return self.find(topic)

    assert answer(Plain, storage, "a")
    computed.clear()
    together(*[partial(answer, Together, storage, "a", refresh=True)] * 4)
    assert computed == ["a"]


def test_who_refreshes_does_not_take_what_a_leader_found_that_had_waited_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.clear()
    with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as storage, ThreadPoolExecutor(2) as pool:
        is_asking, is_stored = threading.Event(), threading.Event()
        ask = flights.EntryLease.ask

        def ask_late(lease: flights.EntryLease, unless: float | None) -> bool:
            if lease.storage is storage and not is_asking.is_set():
                is_asking.set()
                is_stored.wait(10)
            return ask(lease, unless)

        monkeypatch.setattr(flights.EntryLease, "ask", ask_late)
        leader = pool.submit(answer, Numbered, storage)
        assert is_asking.wait(10)
        with closing(SqlWorkflowStorage(db_file=tmp_path / "a.db")) as other:
            assert answer(Numbered, other) == 1
        refreshing = pool.submit(answer, Numbered, storage, refresh=True)
        until(lambda: waiting(storage))
        is_stored.set()
        assert leader.result(10) == 1
        assert refreshing.result(10) == 2


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_machine_whose_clock_differs_from_that_of_the_storage_finds_and_refreshes_results(
    skew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.clear()
    storage = MemoryStorage()
    fake = FakeClock()

    class Machine(clock.Clock):
        def now(self) -> float:
            return fake.seconds + (0 if "memory" in caller() else skew)

    def caller() -> str:
        import sys

        return sys._getframe(3).f_code.co_filename

    monkeypatch.setattr(clock, "current", Machine())

    def number(**options: bool) -> Any:
        fake.seconds += 1
        return Numbered(session_id="s", storage=storage).run(**options).content

    first = number()
    assert number(refresh=True) == first + 1
    assert number(refresh=True) == first + 2
    assert number() == (first + 2 if skew < 0 else first + 3)


@pytest.mark.parametrize("mode", ["off", "readonly"])
def test_where_nothing_is_to_be_kept_nobody_claims_anything(
    storage: Storage, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("claimed")

    monkeypatch.setenv("HOLDFAST_CACHE", mode)
    for name in ("claim", "renew", "store", "release"):
        monkeypatch.setattr(storage.step_cache, name, fail)
    for cls in FORMS:
        assert answer(cls, storage, "a")
    assert computed == ["a"] * len(FORMS)


def test_a_storage_that_is_closed_while_a_step_runs_makes_a_warning_and_the_value_is_returned(tmp_path: Path) -> None:
    class Closing(Workflow):
        @step(cache="session", ignore=["storage"])
        def find(self) -> int:
            self.storage.close()
            return 1

        def run(self) -> int:
            return self.find()

    storage = SqlWorkflowStorage(db_file=tmp_path / "a.db")
    with pytest.warns(StepWarning, match="not kept for other runs"):
        assert Closing(session_id="s", storage=storage).find() == 1
    assert flying(storage) == []


# -- processes --------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading, time
from contextlib import closing

from holdfast import Cache, flights, heartbeat, step, SqlWorkflowStorage
from holdfast.storage.step_cache import SqlStepCache
from holdfast.workflow import Workflow

url, mode, lease = {url!r}, sys.argv[1], float(sys.argv[2])
if lease:
    flights.LEASE_SECONDS, heartbeat.RENEW_EVERY = lease, lease / 3

if mode == "unclaimed":
    SqlStepCache.claim = lambda *args, **options: True
if mode == "unfenced":
    claim, store = SqlStepCache.claim, SqlStepCache.store

    def store_anyway(cache, entry, lease_id, **options):
        claim(cache, entry.place, entry.key, lease_id, 10, unless=None)
        return store(cache, entry, lease_id, **options)

    SqlStepCache.store = store_anyway
    SqlStepCache.renew = lambda *args, **options: True


def note(text):
    with open({log!r}, "ab", buffering=0) as log:
        log.write(text.encode())


class Searching(Workflow):
    @step(cache="workflow", version=1, ignore=["seconds"])
    def search(self, topic, seconds):
        note(".")
        print("began", flush=True)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
        return [topic, os.getpid()]

    @step(cache="workflow", version=1, ignore=["seconds"])
    def write(self, topic, seconds):
        note(".")
        yield os.getpid()
        yield topic

    def run(self, name, topic, seconds):
        if name == "search":
            return self.search(topic, seconds)
        return self.written(topic, seconds)

    def written(self, topic, seconds):
        pieces = []
        for piece in self.write(topic, seconds):
            pieces.append(piece)
            print("began", flush=True)
            if seconds and len(pieces) == 1:
                sys.stdin.readline()
        return list(reversed(pieces))


storage = SqlWorkflowStorage(db_url=url)
workflow = Searching(storage=storage)
storage.find_runs(None)
print("ready", flush=True)
_, name, seconds = sys.stdin.readline().split()
if mode == "forking":
    thread = threading.Thread(target=workflow.run, args=(name, "a", float(seconds)))
    thread.start()
    time.sleep(0.2)
    if os.fork() == 0:
        workflow = Searching(storage=storage)
        print("child", workflow.run(name, "a", float(seconds)).content, flush=True)
        os._exit(0)
    thread.join()
    os.wait()
    sys.exit()
told = []
for response in workflow.run(name, "a", float(seconds), stream_events=True):
    if response.event == "StepCompleted":
        told += [response.data.get("cached"), response.data.get("stored")]
    elif response.event == "RunResponse":
        content = response.content
print("answer", *content, *told, flush=True)
"""


class Answer(NamedTuple):
    """What a process says in the end."""

    topic: str
    computed_by: int
    is_cached: bool
    is_stored: bool | None


class Processes:
    """Processes that ask for a result at the same time."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.log = folder / "executions"
        self.program = folder / "searching.py"
        self.program.write_text(textwrap.dedent(PROGRAM).format(url=url, log=str(self.log)))
        self.all: list[subprocess.Popen[str]] = []

    def start(self, count: int = 1, *, mode: str = "right", lease: float = 0) -> list[subprocess.Popen[str]]:
        """Processes that are ready and wait for `go`."""
        started = [
            subprocess.Popen(
                [sys.executable, str(self.program), mode, str(lease)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for _ in range(count)
        ]
        self.all += started
        for process in started:
            assert said(process) == "ready"
        return started

    @property
    def executions(self) -> int:
        return len(self.log.read_bytes())

    def close(self) -> None:
        for process in self.all:
            with suppress(ProcessLookupError):  # with its children, which hold its output open
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(processes: list[subprocess.Popen[str]], what: str = "search", seconds: float = 1) -> None:
    """Let them ask."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"go {what} {seconds}\n")
        process.stdin.flush()


def answer_of(process: subprocess.Popen[str]) -> Answer:
    """What it says in the end."""
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    _, topic, computed_by, is_cached, *is_stored = lines[-1].split()
    return Answer(topic, int(computed_by), is_cached == "True", is_stored == ["True"])


@pytest.fixture(params=["sqlite", "postgres"])
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Processes]:
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/workflows.db"
        if request.param == "postgres":
            url = stack.enter_context(postgres.schema(postgres.shared_url(over_tcp=True)))
        yield stack.enter_context(closing(Processes(tmp_path, url)))


@pytest.mark.crash
def test_of_twenty_four_cold_processes_one_computes_and_all_get_the_value(processes: Processes) -> None:
    started = processes.start(24)
    go(started)
    answers = [answer_of(process) for process in started]
    assert processes.executions == 1
    assert {(each.topic, each.computed_by) for each in answers} == {("a", answers[0].computed_by)}
    assert sorted(each.is_cached for each in answers) == [False, *[True] * 23]


def test_that_test_fails_where_everybody_gets_the_lease(tmp_path: Path) -> None:
    with closing(Processes(tmp_path, f"sqlite:///{tmp_path}/workflows.db")) as processes:
        started = processes.start(3, mode="unclaimed")
        go(started, seconds=0.2)
        for process in started:
            process.communicate(timeout=60)
        assert processes.executions == 3


@pytest.mark.crash
def test_when_the_leader_is_killed_others_have_a_result_one_lease_later(processes: Processes) -> None:
    leader, *others = processes.start(4, lease=1.5)
    go([leader], seconds=60)
    assert said(leader) == "began"
    go(others, seconds=0.1)
    time.sleep(0.5)
    leader.send_signal(signal.SIGKILL)
    began = time.monotonic()
    answers = [answer_of(process) for process in others]
    assert time.monotonic() - began < 1.5 + 4
    assert processes.executions == 2
    assert len({each.computed_by for each in answers}) == 1
    assert leader.pid not in {each.computed_by for each in answers}


@pytest.mark.crash
@pytest.mark.parametrize("mode", ["right", "unfenced"])
def test_a_leader_that_slept_for_longer_than_its_lease_has_its_result_for_itself(
    processes: Processes, mode: str
) -> None:
    (leader,) = processes.start(lease=0.6, mode=mode)
    other, late = processes.start(2)
    go([leader], seconds=0.2)
    assert said(leader) == "began"
    leader.send_signal(signal.SIGSTOP)
    time.sleep(0.8)
    go([other], seconds=0.2)
    assert answer_of(other) == ("a", other.pid, False, True)
    leader.send_signal(signal.SIGCONT)
    is_fenced = mode == "right"
    assert answer_of(leader) == ("a", leader.pid, False, not is_fenced)
    go([late])
    assert answer_of(late).computed_by == (other.pid if is_fenced else leader.pid)
    assert processes.executions == 2


def test_a_consumer_that_stops_reading_does_not_keep_other_processes_waiting(processes: Processes) -> None:
    leader, *others = processes.start(3, lease=1)
    go([leader], "write")
    assert said(leader) == "began"
    began = time.monotonic()
    go(others, "write", 0)
    answers = [answer_of(process) for process in others]
    assert 0.9 < time.monotonic() - began < 6
    assert processes.executions == 2
    assert len({each.computed_by for each in answers} | {leader.pid}) == 2
    go([leader])
    assert answer_of(leader) == ("a", leader.pid, False, False)


def test_a_child_that_was_forked_while_a_thread_leads_has_the_result_as_well(processes: Processes) -> None:
    (forking,) = processes.start(mode="forking", lease=1)
    go([forking])
    lines = forking.communicate(timeout=60)[0].splitlines()
    assert forking.returncode == 0
    assert [line for line in lines if line.startswith("child")] == [f"child ['a', {forking.pid}]"]
    assert processes.executions == 1
