"""Which threads could be changing a user's values at this moment, and what a fork leaves to the child.

Rules that must stay true:
- only a thread of the library's own that never runs the user's code may say that it is quiet;
- a doubt counts as yes: encoding a value twice costs time, encoding a torn one costs the value;
- a lock for forks is held for moments only, and nothing else is waited for while it is held.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakSet

_quiet: set[int] = set()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, this thread runs nothing but the library's own work."""
    ident = threading.get_ident()
    _quiet.add(ident)
    try:
        yield
    finally:
        _quiet.discard(ident)


def others_may_change_values() -> bool:
    """Whether there is any thread, other than the calling one and the quiet ones, that could change values.

    >>> with quiet():
    ...     others_may_change_values()
    True
    """
    # On a quiet thread the garbage collector is ending a run, and the thread that used its values goes on.
    if threading.get_ident() in _quiet:
        return True
    # Every thread with a Python state, also those that were not started by the threading module.
    return len(sys._current_frames()) > 1 + len(_quiet)


def thread_and_task() -> tuple[int, int]:
    """The thread and the asyncio task that the code is in; 0 for no task.

    >>> thread_and_task()[1]
    0
    """
    # Where asyncio was not imported, or not to its end, no task runs.
    current_task = getattr(sys.modules.get("asyncio"), "current_task", None)
    if current_task is None:
        return threading.get_ident(), 0
    try:
        task = current_task()
    except RuntimeError:  # no event loop runs on this thread
        task = None
    return threading.get_ident(), 0 if task is None else id(task)


_process = os.getpid()


def process_number() -> int:
    """The number of this process: `os.getpid()`, without asking the system several times in each run.

    >>> process_number() == os.getpid()
    True
    """
    return _process


def _note_process() -> None:
    global _process  # noqa: PLW0603  # there is one process
    _process = os.getpid()


_locks: WeakSet[threading.RLock] = WeakSet()
_held: list[threading.RLock] = []


def lock_for_forks() -> threading.RLock:
    """A re-entrant lock that no other thread holds when the process is forked, so that the child can take it and
    finds what it guards whole.

    >>> with lock_for_forks():
    ...     pass
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


importing: Final = lock_for_forks()
"""Held while a module of Python's own is imported that was not needed before: a child that is forked in the middle of
an import could never import that module."""


def _before_fork() -> None:
    for lock in list(_locks):
        lock.acquire()
        _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
    os.register_at_fork(after_in_child=_quiet.clear)
    os.register_at_fork(after_in_child=_note_process)
