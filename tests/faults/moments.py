"""Deaths at a moment that is chosen: before or after the nth statement that a process sends to its database."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from holdfast.storage import postgres


def mortal(kind: type[Any], moment: Callable[[], None]) -> type[Any]:
    """A class of connections with a moment before and after each statement; COMMIT is one."""

    class Mortal(kind):  # type: ignore[misc]
        def execute(self, *statement: Any, **options: Any) -> Any:
            moment()
            result = super().execute(*statement, **options)
            moment()
            return result

        def executemany(self, *statement: Any) -> Any:
            moment()
            return super().executemany(*statement)

    return Mortal


@contextmanager
def dying(at: int | None, *, url: str) -> Iterator[None]:
    """Kill this process as `kill -9` does when it comes to the moment of this number; None is never."""
    if at is None:
        yield
        return
    left = at

    def moment() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with ExitStack() as patches:
        if url.startswith("sqlite"):
            connect, made = sqlite3.connect, mortal(sqlite3.Connection, moment)
            patches.enter_context(
                mock.patch.object(sqlite3, "connect", lambda *path, **more: connect(*path, factory=made, **more))
            )
        else:
            made = mortal(postgres._connection_class(), moment)
            patches.enter_context(mock.patch.object(postgres, "_connection_class", return_value=made))
        yield
