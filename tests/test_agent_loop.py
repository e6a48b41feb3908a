"""The background loop and the bridges to it."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio.to_thread
import pytest

from holdfast import agent_loop
from holdfast.agent_loop import aiterate, from_thread, iterate
from holdfast.errors import AgentError

LONG = 60
"""Seconds after which a wait for an event gives up, so that a failing test ends."""


async def numbers(count: int = 3) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number


class Endless:
    """A source that waits after its first item, and remembers that it was ended."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.context = contextvars.ContextVar("inside", default=False)

    async def items(self) -> AsyncGenerator[int, None]:
        token = self.context.set(True)
        try:
            yield 1
            self.begun.set()
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0)
            self.context.reset(token)
            self.ended.set()


async def listed(source: AsyncGenerator[Any, None]) -> list[Any]:
    return [item async for item in source]


async def failing() -> AsyncGenerator[int, None]:
    yield 1
    raise KeyError("gone")


class TestIterate:
    def test_hands_over_all_items_in_order(self) -> None:
        assert list(iterate(numbers(100))) == list(range(100))

    def test_runs_every_source_on_one_other_thread(self) -> None:
        async def where() -> AsyncGenerator[int, None]:
            yield threading.get_ident()

        places = {next(iterate(where())) for _ in range(3)}
        assert len(places) == 1
        assert threading.get_ident() not in places

    def test_raises_what_the_source_raises(self) -> None:
        with pytest.raises(KeyError, match="gone"):
            list(iterate(failing()))

    def test_ends_the_source_before_close_returns(self) -> None:
        source = Endless()
        items = iterate(source.items())
        next(items)
        items.close()
        assert source.ended.is_set()

    def test_ends_the_source_on_an_interrupt(self) -> None:
        source = Endless()
        items = iterate(source.items())
        next(items)
        with pytest.raises(KeyboardInterrupt):
            items.throw(KeyboardInterrupt())
        assert source.ended.is_set()

    def test_one_dropped_on_a_thread_of_its_own_source_does_not_wait_for_itself(self) -> None:
        holder: list[Generator[int, None, None]] = []
        first = threading.Event()
        dropped = threading.Event()

        def drop() -> None:
            first.wait(LONG)
            holder.clear()
            dropped.set()

        async def own() -> AsyncGenerator[int, None]:
            yield 1
            await anyio.to_thread.run_sync(drop)

        holder.append(iterate(own()))
        next(holder[0])  # not in an assert, which would keep it alive
        first.set()
        assert dropped.wait(LONG)

    def test_on_the_background_loop_is_refused(self) -> None:
        async def inside() -> AsyncGenerator[int, None]:
            for number in iterate(numbers()):
                yield number

        with pytest.raises(AgentError, match=r"await agent\.arun"):
            list(iterate(inside()))

    def test_starts_in_a_copy_of_the_callers_context(self) -> None:
        name = contextvars.ContextVar("name", default="nobody")

        async def who() -> AsyncGenerator[str, None]:
            yield name.get()
            name.set("changed")

        name.set("ada")
        assert list(iterate(who())) == ["ada"]
        assert name.get() == "ada"


class TestAiterate:
    def test_hands_over_all_items_in_order(self) -> None:
        assert asyncio.run(listed(aiterate(numbers(100)))) == list(range(100))

    def test_raises_what_the_source_raises(self) -> None:
        with pytest.raises(KeyError, match="gone"):
            asyncio.run(listed(aiterate(failing())))

    def test_ends_the_source_before_a_cancelled_task_ends(self) -> None:
        source = Endless()

        async def main() -> None:
            task = asyncio.create_task(listed(aiterate(source.items())))
            await asyncio.to_thread(source.begun.wait, LONG)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert source.ended.is_set()

        asyncio.run(main())

    def test_ends_the_source_before_aclose_returns(self) -> None:
        source = Endless()

        async def main() -> None:
            items = aiterate(source.items())
            await anext(items)
            await items.aclose()
            assert source.ended.is_set()

        asyncio.run(main())

    def test_whose_loop_is_gone_ends_quietly(self) -> None:
        released = threading.Event()
        ended = threading.Event()

        async def slow() -> AsyncGenerator[int, None]:
            try:
                yield 1
                await asyncio.to_thread(released.wait, LONG)
                yield 2
            finally:
                ended.set()

        loop = asyncio.new_event_loop()
        items = aiterate(slow())
        assert loop.run_until_complete(anext(items)) == 1
        loop.close()
        released.set()
        assert ended.wait(LONG)
        with pytest.raises(RuntimeError):
            items.aclose().send(None)


class TestFromThread:
    def test_hands_over_all_items_in_order(self) -> None:
        assert asyncio.run(listed(from_thread(n for n in range(100)))) == list(range(100))

    def test_raises_what_the_generator_raises(self) -> None:
        def broken() -> Generator[int, None, None]:
            yield 1
            raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            asyncio.run(listed(from_thread(broken())))

    def test_closed_early_closes_the_generator_at_its_next_item(self) -> None:
        closed = threading.Event()

        def endless() -> Generator[int, None, None]:
            try:
                while True:
                    yield 1
                    time.sleep(0.001)
            finally:
                closed.set()

        async def main() -> None:
            items = from_thread(endless())
            await anext(items)
            await items.aclose()

        asyncio.run(main())
        assert closed.wait(LONG)


class TestShuttingDown:
    def test_cancels_what_runs_and_tells_its_caller(self) -> None:
        source = Endless()
        items = iterate(source.items())
        next(items)
        agent_loop.shut_down()
        assert source.ended.is_set()
        with pytest.raises(AgentError, match="cancelled"):
            next(items)

    def test_leaves_an_iterator_that_is_closed_afterwards_in_peace(self) -> None:
        items = iterate(Endless().items())
        next(items)
        agent_loop.shut_down()
        items.close()

    def test_runs_the_closers_on_the_loop_once(self) -> None:
        places: list[str] = []

        async def closer() -> None:
            places.append(threading.current_thread().name)

        agent_loop.add_closer(closer)
        agent_loop.shut_down()
        agent_loop.shut_down()
        assert places == ["holdfast-agents"]

    def test_is_followed_by_a_new_loop(self) -> None:
        agent_loop.shut_down()
        assert list(iterate(numbers())) == [0, 1, 2]


def run_strictly(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_process_ends_without_a_warning_while_a_run_is_open() -> None:
    code = """
import asyncio
from holdfast.agent_loop import iterate
async def endless():
    yield "begun"
    await asyncio.sleep(60)
items = iterate(endless())
print(next(items))
"""
    assert run_strictly(code) == "begun\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_a_forked_child_makes_its_own_loop_and_leaves_the_parents_alone() -> None:
    code = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
from holdfast.agent import Agent
agent = Agent("offline")
agent.run("before")
child = os.fork()
if child == 0:
    assert "offline" in agent.run("in the child").content
    print("child", [thread.name for thread in threading.enumerate()].count("holdfast-agents"), flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert "offline" in agent.run("after").content
print("parent", [thread.name for thread in threading.enumerate()].count("holdfast-agents"))
"""
    assert run_strictly(code) == "child 1\nparent 1\n"
