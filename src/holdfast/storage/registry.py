"""The engines of this process: one for each database, shared by all storage objects that name it.

Rules that must stay true:
- an engine is closed when the last storage object that uses it is closed or gone;
- before a fork every engine closes its connections, and both processes open new ones when they need them: SQLite's
  locks belong to a process, and connections that two processes share lose commits;
- a connection that was inherited all the same is neither used nor closed in the child;
- at exit the connections are closed in order, but may be opened again by what runs later.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from holdfast.storage.queries import Statements
from holdfast.storage.sqlite import keep_for_ever
from holdfast.storage.writer import busy_threads

_FORK_PATIENCE = 5.0
"""Seconds that a fork waits for writes and reads to finish."""

_EXIT_PATIENCE = 1.0

T = TypeVar("T")


class Engine(Protocol):
    """Reads and writes one database; `engine.py` has the one for SQLite, `server.py` that for a server."""

    where: str
    beats: dict[str, float]

    @property
    def statements(self) -> type[Statements]: ...
    def write(
        self,
        work: Callable[[Any], T],
        *,
        table: str | None,
        timeout: float,
        is_durable: bool,
        failures: list[BaseException],
        is_repeatable: bool = False,
    ) -> T | None: ...
    def read(
        self, work: Callable[[Any], T], *, table: str | None, timeout: float, is_one_statement: bool = False
    ) -> T: ...
    def peek(self, work: Callable[[Any], T], *, table: str) -> T | None: ...
    def mark(self, *, table: str) -> object | None: ...
    def stop(self, *, wait: float) -> None: ...
    def suspend(self, timeout: float, /) -> bool: ...
    def resume(self) -> None: ...
    def forked(self, *, was_suspended: bool) -> list[Any]: ...


_lock = threading.RLock()
_engines: dict[str, Engine] = {}
_users: dict[str, int] = {}
_suspended: list[Engine] = []


def attach(key: str, make: Callable[[], Engine]) -> Engine:
    """The engine of a database, made when this is its first user.

    Args:
        key: names the database: the real path of its file, or the URL of a server.
        make: makes the engine; it opens nothing yet.
    """
    with _lock:
        engine = _engines.setdefault(key, _engines.get(key) or make())
        _users[key] = _users.get(key, 0) + 1
        return engine


def detach(key: str, *, wait: float = 0.0) -> None:
    """Say that one user of a database is gone; the last one closes it and waits at most so many seconds for that.

    Raises:
        StorageBusy: it could not be closed in time.
    """
    with _lock:
        _users[key] -= 1
        if _users[key]:
            return
        del _users[key]
        engine = _engines.pop(key)
    engine.stop(wait=wait)


def _before_fork() -> None:
    _lock.acquire()
    _suspended[:] = [engine for engine in _engines.values() if engine.suspend(_FORK_PATIENCE)]


def _after_fork_in_parent() -> None:
    while _suspended:
        _suspended.pop().resume()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603  (the inherited lock may have waiting threads that do not exist here)
    busy_threads.clear()
    inherited: list[Any] = []
    for engine in _engines.values():
        inherited += engine.forked(was_suspended=engine in _suspended)
    keep_for_ever(inherited)
    _suspended.clear()
    _lock = threading.RLock()


def _at_exit() -> None:
    for engine in list(_engines.values()):
        if engine.suspend(_EXIT_PATIENCE):
            engine.resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
