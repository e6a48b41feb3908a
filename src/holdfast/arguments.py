"""The arguments of a call by the names of the parameters, and back.

Rules that must stay true:
- defaults are filled in, so that a call says the same however it was written;
- a call that does not fit raises what Python itself would.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def _any(*args: Any, **kwargs: Any) -> None: ...


class Parameters:
    """The parameters of a function, to find out what each is given.

    Args:
        function: what is called.
        skipped: how many of its first parameters are not told of, such as `self`.

    >>> Parameters(lambda a, b=2: ...).given((1,), {}) == {"a": 1, "b": 2}
    True
    """

    def __init__(self, function: Callable[..., Any], *, skipped: int = 0) -> None:
        try:
            signature = inspect.signature(function)
        except ValueError:  # a function in C that tells nothing of its parameters
            signature = inspect.signature(_any)
        parameters = list(signature.parameters.values())[skipped:]
        self._signature = signature.replace(parameters=parameters)
        self.names = [parameter.name for parameter in parameters]
        self.takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        """Whether it may be given arguments of any name."""
        self._known = frozenset(self.names)
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self._is_simple = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The argument of each parameter by name, defaults included.

        Raises:
            TypeError: the arguments do not fit, with Python's own message.
        """
        if self._is_simple and len(args) <= len(self.names):
            if len(args) == len(self.names) and not kwargs:
                return dict(zip(self.names, args, strict=True))
            by_place = dict(zip(self.names, args, strict=False))
            given = {**self._defaults, **by_place, **kwargs}
            # In nearly every call all is well, and this costs a tenth of what `bind` does.
            if given.keys() == self._known and not (kwargs and by_place.keys() & kwargs.keys()):
                return given
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def call_with(self, given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments that give each parameter what `given` returned.

        Raises:
            TypeError: the function has other parameters.

        >>> Parameters(lambda a, *rest, b=2, **more: ...).call_with({"a": 1, "rest": (2, 3), "b": 4, "more": {"c": 5}})
        ((1, 2, 3), {'b': 4, 'c': 5})
        """
        left = dict(given)
        bound = self._signature.bind_partial()
        for parameter in self._signature.parameters.values():
            if parameter.name in left:
                bound.arguments[parameter.name] = left.pop(parameter.name)
        if left:
            raise TypeError(f"got an unexpected keyword argument {next(iter(left))!r}")
        self._signature.bind(*bound.args, **bound.kwargs)
        return bound.args, bound.kwargs
