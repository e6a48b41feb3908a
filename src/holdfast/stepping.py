"""What a workflow does with steps, of which nothing is loaded before it does.

Rules that must stay true:
- a program without steps pays nothing for them when it starts;
- an agent that is a step finds whoever answers it from the moment at which there can be a workflow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

from holdfast import frames
from holdfast.step_owner import StepOwner

if TYPE_CHECKING:
    from holdfast.agent import Agent

__all__ = ["Stepping"]

P = ParamSpec("P")
T = TypeVar("T")

MOST_AT_ONCE: Final = 8
"""How many steps `parallel` runs at the same time."""


class Stepping(StepOwner):
    """What a workflow does with steps; the base of `Workflow`."""

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function as a step of the run: any callable, also an agent's `run`.

        Args:
            name: the name of the step.
            function: plain, a generator, a coroutine function or an async generator. One that was made a step with
                options, `step(fetch, cache="session")` say, keeps them.
            args, kwargs: its arguments. They identify the step, with the values of variables around a lambda, so that
                each of them must have an identity.

        Returns:
            what the function gives: its value, an iterator, an awaitable or an async iterator.

        Raises:
            StepKeyError: an argument has no identity.
            StepPersistError: the result could not be kept; the error has it.

        >>> from holdfast.workflow import Workflow
        >>> class Searching(Workflow):
        ...     def run(self, topic: str) -> list[str]:
        ...         return self.step("search", sorted, topic)
        >>> Searching().run("cab").content
        ['a', 'b', 'c']
        """
        from holdfast import steps

        result: T = steps.called_inline(self, name, function, args, kwargs)
        return result

    @overload
    def parallel(  # type: ignore[overload-overlap]  # an awaitable is a value as well
        self, *calls: Callable[[], Awaitable[T]], limit: int = MOST_AT_ONCE
    ) -> Awaitable[list[T]]: ...
    @overload
    def parallel(self, *calls: Callable[[], T], limit: int = MOST_AT_ONCE) -> list[T]: ...
    def parallel(self, *calls: Callable[[], Any], limit: int = MOST_AT_ONCE) -> Any:
        """Run several steps at the same time: on threads, or as tasks if they are coroutine functions.

        Steps that run so return values and leave the session state alone. When one fails, those that have begun go on
        to their end and are recorded, no other is begun, and the failure of the first in order is raised.

        Args:
            calls: functions without arguments, such as `functools.partial(self.fetch, url)`; all of them coroutine
                functions, or none.
            limit: how many run at the same time at most.

        Returns:
            their values in order; for coroutine functions an awaitable of that.

        Raises:
            InvalidInput: the calls or the limit cannot be used.

        >>> from functools import partial
        >>> from holdfast import Workflow, step
        >>> class Fetching(Workflow):
        ...     @step
        ...     def fetch(self, url: str) -> int:
        ...         return len(url)
        ...     def run(self, *urls: str) -> list[int]:
        ...         return self.parallel(*(partial(self.fetch, url) for url in urls), limit=4)
        >>> Fetching().run("a", "bb").content
        [1, 2]
        """
        from holdfast.parallel import all_at_once

        return all_at_once(calls, limit)


def _answered(agent: Agent, question: frames.Question, is_async: bool) -> Any:
    from holdfast import steps

    return steps.answered(agent, question, is_async)


frames.answering[:] = [_answered]
