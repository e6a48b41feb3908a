"""One background event loop that runs every agent of the process, and the bridges to it.

Rules that must stay true:
- there is one loop, on one daemon thread, made when first needed; a forked child never touches the loop it
  inherited and makes its own;
- a source (an async generator) is driven from begin to end by one task, so that its context managers and context
  variables work; it starts in a copy of the caller's context;
- closing or cancelling a bridge cancels that task and waits for its end, except on the loop's own thread, which would
  wait for itself; a tool that is running on a thread then goes on to its own end, for a thread cannot be interrupted;
- at exit running tasks are cancelled, then the closers run on the loop, then the loop is closed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from holdfast.errors import AgentError

__all__ = ["add_closer", "aiterate", "from_thread", "iterate", "shut_down"]

T = TypeVar("T")

SECONDS_TO_END = 5.0
"""How long the exit waits for cancelled agent runs and for the closing of their clients, each."""


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _BackgroundLoop:
    """The event loop, its thread, and what is to be closed before it ends."""

    def __init__(self) -> None:
        self.closers: list[Callable[[], Awaitable[None]]] = []
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), name="holdfast-agents", daemon=True)
        self.thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        # Not with asyncio.Runner: when it closes it starts a thread to wait for the loop's own threads, which an
        # interpreter that is shutting down refuses. Closing the loop lets them end by themselves.
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._serve(started))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    async def _serve(self, started: threading.Event) -> None:
        import anyio.to_thread

        # A tool waits on its thread while an agent that it called uses further threads of the same limiter: any
        # finite number could be used up by waiting tools alone.
        anyio.to_thread.current_default_thread_limiter().total_tokens = math.inf
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set()
        await self._stop.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SECONDS_TO_END)
        for closer in self.closers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closer(), SECONDS_TO_END)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self.thread.join(3 * SECONDS_TO_END)


class _Process:
    """The loop of this process, if there is one yet."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.background: _BackgroundLoop | None = None
        self.inherited: list[_BackgroundLoop] = []

    def get(self) -> _BackgroundLoop:
        with self.guard:
            if self.background is None or not self.background.thread.is_alive():
                self.background = _BackgroundLoop()
            return self.background

    def take(self) -> _BackgroundLoop | None:
        with self.guard:
            background, self.background = self.background, None
            return background

    def forget_in_child(self) -> None:
        """After a fork: the thread is gone, and the loop's selector and sockets are shared with the parent.

        The object is kept, because finalizing it would unregister the parent's sockets.
        """
        self.guard = threading.Lock()
        if self.background is not None:
            self.inherited.append(self.background)
            self.background = None


_process = _Process()


def add_closer(closer: Callable[[], Awaitable[None]]) -> None:
    """Have `closer()` awaited on the loop before it ends, to close clients that belong to it."""
    _process.get().closers.append(closer)


def shut_down() -> None:
    """Cancel what runs, close clients and end the loop; the next agent run makes a new one. Called at exit.

    >>> shut_down()
    """
    background = _process.take()
    if background is not None and background.thread.is_alive():
        background.stop()


atexit.register(shut_down)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget_in_child)


class _Job(Generic[T]):
    """One task on the loop that drives a source and delivers its items, then always one `_End`."""

    def __init__(self, source: AsyncGenerator[T, None], deliver: Callable[[_Item[T] | _End], None]) -> None:
        self._source = source
        self._deliver = deliver
        self._background = _process.get()
        self._background.loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._drive())
        self._task.add_done_callback(self._done)

    def _stop(self) -> None:
        self._task.cancel()

    async def _drive(self) -> None:
        async with contextlib.aclosing(self._source) as source:
            async for value in source:
                self._deliver(_Item(value))

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._deliver(_End(AgentError("The agent run was cancelled: its event loop is closing.")))
        else:
            self._deliver(_End(task.exception()))

    def cancel(self) -> bool:
        """Ask the task to stop. True when the caller may wait for its end."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so the task has ended
            self._background.loop.call_soon_threadsafe(self._stop)
        return threading.current_thread() is not self._background.thread


def iterate(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Drive `source` on the background loop and hand its items to this thread, which may run a loop of its own.

    Closing the generator cancels the source and returns when it has ended. A `KeyboardInterrupt` does the same.

    Raises:
        AgentError: called on the background loop itself, as an async tool does.

    >>> async def numbers():
    ...     yield 1
    ...     yield 2
    >>> list(iterate(numbers()))
    [1, 2]
    """
    background = _process.background
    if background is not None and threading.current_thread() is background.thread:
        raise AgentError(
            "An agent's run() was called from an async tool or async function, which itself runs on the event loop "
            "that every agent needs, so it would wait for itself. Use `await agent.arun(...)` there."
        )
    inbox: queue.SimpleQueue[_Item[T] | _End] = queue.SimpleQueue()
    job = _Job(source, inbox.put)
    ended = False
    try:
        while isinstance(message := inbox.get(), _Item):
            yield message.value
        ended = True
        if message.error is not None:
            raise message.error
    finally:
        if not ended and job.cancel():
            while isinstance(inbox.get(), _Item):
                pass


async def aiterate(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Drive `source` on the background loop and hand its items to the loop that is running here.

    Cancelling the task that iterates, or closing the generator, cancels the source and waits for its end.
    """
    deliver, inbox = _async_inbox()
    job = _Job(source, deliver)
    ended = False
    try:
        while isinstance(message := await inbox.get(), _Item):
            yield message.value
        ended = True
        if message.error is not None:
            raise message.error
    finally:
        if not ended and job.cancel():
            while isinstance(await inbox.get(), _Item):
                pass


async def from_thread(source: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Drive a synchronous generator on one thread of its own and hand its items to the loop that is running here.

    Closing stops it at its next item: Python offers no way to interrupt a thread.
    """
    deliver, inbox = _async_inbox()
    stopped = threading.Event()

    def drive() -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(source):
                for value in source:
                    deliver(_Item(value))
                    if stopped.is_set():
                        break
        except BaseException as raised:  # noqa: BLE001 - it is raised again in the caller's task
            error = raised
        deliver(_End(error))

    threading.Thread(target=copy_context().run, args=(drive,), name="holdfast-function", daemon=True).start()
    try:
        while isinstance(message := await inbox.get(), _Item):
            yield message.value
        if message.error is not None:
            raise message.error
    finally:
        stopped.set()


def _async_inbox() -> tuple[Callable[[Any], None], asyncio.Queue[Any]]:
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Any] = asyncio.Queue()

    def deliver(message: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the consumer's loop is closed: nobody is waiting
            loop.call_soon_threadsafe(inbox.put_nowait, message)

    return deliver, inbox
