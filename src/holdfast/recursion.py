"""Room on the stack for work that nests as deeply as the data does.

Rules that must stay true:
- a caller that is itself deep in recursion gets the same result as one that is not: the work is done again on
  the empty stack of a new thread;
- the work is pure, so that doing it twice is harmless, and data too deep even for an empty stack still raises
  `RecursionError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")


def with_room(work: Callable[Args, Result], /, *args: Args.args, **kwargs: Args.kwargs) -> Result:
    """Call `work`, and once more on an empty stack if the caller's stack has no room for it.

    Raises:
        RecursionError: it does not fit on an empty stack either.
        BaseException: whatever `work` raises.

    >>> with_room(max, 1, 2)
    2
    """
    try:
        return work(*args, **kwargs)
    except RecursionError:
        pass
    results: list[Result] = []
    failures: list[BaseException] = []

    def again() -> None:
        try:
            results.append(work(*args, **kwargs))
        except BaseException as failure:  # noqa: BLE001 - it is raised again, on the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=again, name="holdfast-room")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
