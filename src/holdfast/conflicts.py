"""What is done where two runs changed one place: the policies of `on_conflict`.

Rules that must stay true:
- without a policy nothing is decided for the user: the overlap is an error that says where, and what all have there;
- a resolver is the user's code and may take long, so it is never called inside of a transaction: an overlap that it
  has to decide is raised as `Unanswered`, and decided again once the answer is there.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

from holdfast import codec
from holdfast.declared import Types
from holdfast.display import display
from holdfast.errors import HoldfastError, InvalidInput, StateConflict, UnstorableValue
from holdfast.merging import Overlap
from holdfast.paths import step_text


class Missing(enum.Enum):
    """Stands for a value where there is none."""

    MISSING = "missing"

    def __bool__(self) -> Literal[False]:
        return False


MISSING: Final = Missing.MISSING
"""What a resolver is given for a side that has no value there, and returns to have none stored."""

Resolver: TypeAlias = Callable[[str, Any, Any, Any], Any]
"""`f(path, base, ours, theirs)` returns the value to be stored at a place that both changed.

The path is written as in errors, `session_state['posts'][3]`; base is the value before either changed it, ours that of
the run that is being committed, theirs the one that was committed first; each of them can be `MISSING`."""

Choice: TypeAlias = Literal["raise", "last_write"] | Resolver
Policy: TypeAlias = Choice | Mapping[Any, Choice]
"""What `on_conflict` may be: one choice, or one for each of some top-level keys; for others it is "raise"."""


class Refused(Exception):
    """Raised by `Settling` for an overlap that nobody may decide."""

    def __init__(self, overlap: Overlap) -> None:
        self.overlap = overlap
        super().__init__()


class Unanswered(Exception):
    """Raised by `Settling` for an overlap that a resolver has to decide, outside of transactions."""

    def __init__(self, overlap: Overlap) -> None:
        self.overlap = overlap
        super().__init__()


def valid_policy(policy: Any) -> Policy:
    """Check an `on_conflict` and return it.

    Raises:
        InvalidInput: it is none of the things that it may be.

    >>> valid_policy({"last_topic": "last_write"})
    {'last_topic': 'last_write'}
    """
    choices = list(policy.values()) if isinstance(policy, Mapping) else [policy]
    for choice in choices:
        if inspect.iscoroutinefunction(choice):
            raise InvalidInput("on_conflict is a plain function, for it is asked in the middle of a commit; not async")
        if not callable(choice) and choice not in ("raise", "last_write"):
            raise InvalidInput(
                'on_conflict is "raise", "last_write", a function of (path, base, ours, theirs), or a dict from '
                f"top-level keys to these; not {type(choice).__name__}"
            )
    return cast(Policy, policy)


def unbound(policy: Any) -> Any:
    """A plain function that a class body assigned as its `on_conflict`, without the object that Python binds it to.

    A method that takes the object itself stays as it is.
    """
    if inspect.ismethod(policy) and len(inspect.signature(policy).parameters) == RESOLVER_PARAMETERS - 1:
        return policy.__func__
    return policy


RESOLVER_PARAMETERS = 4


class Settling:
    """Decides the overlaps of one commit.

    Args:
        policy: what the workflow says.
        types: the types that it declares.
    """

    def __init__(self, policy: Policy, types: Types) -> None:
        self._policy = policy
        self._types = types
        self._answers: dict[Overlap, bytes | None] = {}

    def settle(self, overlap: Overlap) -> bytes | None:
        """What the place is to hold.

        Raises:
            Refused, Unanswered: see there.
        """
        choice = self._choice(overlap)
        if choice == "raise":
            raise Refused(overlap)
        if choice == "last_write":
            return overlap.ours
        if overlap not in self._answers:
            raise Unanswered(overlap)
        return self._answers[overlap]

    def ask(self, overlap: Overlap) -> None:
        """Ask the resolver about an overlap, and keep the answer.

        Raises:
            UnstorableValue: the answer cannot be stored.
            Exception: whatever the resolver raises.
        """
        path = self.path_text(overlap)
        resolver = cast(Resolver, self._choice(overlap))
        answer = resolver(path, *(self.value(data) for data in (overlap.base, overlap.ours, overlap.theirs)))
        self._answers[overlap] = None if answer is MISSING else codec.encode(answer, self._types, path)

    def conflict(self, overlap: Overlap, **facts: Any) -> StateConflict:
        """The error for an overlap that is not decided."""
        return StateConflict(
            path=self.path_text(overlap),
            base=self.value(overlap.base),
            ours=self.value(overlap.ours),
            theirs=self.value(overlap.theirs),
            **facts,
        )

    def path_text(self, overlap: Overlap) -> str:
        """Where an overlap is, as errors write it."""
        steps = [step if isinstance(step, int) else self._key(step) for step in overlap.path]
        return "session_state" + "".join(map(step_text, steps))

    def value(self, data: bytes | None) -> Any:
        """A value of an overlap; as it is displayed if it is of a type that is not declared here."""
        if data is None:
            return MISSING
        try:
            return codec.decode(data, self._types)
        except HoldfastError:
            return display(data)

    def _choice(self, overlap: Overlap) -> Choice:
        if not isinstance(self._policy, Mapping):
            return self._policy
        return self._policy.get(self._key(str(overlap.path[0])), "raise")

    def _key(self, name: str) -> Any:
        try:
            return codec.key_of(name, self._types)
        except HoldfastError:
            return name


def refused_answer(error: UnstorableValue | Exception) -> str:
    """What is noted on a conflict whose resolver failed."""
    return f"The function on_conflict raised {type(error).__name__} when it was asked, so nothing was decided."
