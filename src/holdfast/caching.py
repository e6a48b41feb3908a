"""Where the result of a step is kept, for how long, and whether a run may use what is kept.

Rules that must stay true:
- reuse in other runs is asked for, never a default; the owner is part of every key unless `shared` says otherwise;
- what forbids wins: of the block, the run and the environment, each can only take away from what the others allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from holdfast.environment import Variable
from holdfast.errors import InvalidInput

__all__ = ["Cache", "Control", "allowed", "cache_control", "cache_of"]

Scope: TypeAlias = Literal["run", "session", "workflow", "global"]

VARIABLE: Final = "HOLDFAST_CACHE"
_variable: Final = Variable(VARIABLE)

CONTROLS: Final = ("use_cache", "refresh", "only_if_cached")
"""The options of a run that say what it may do with results that are kept for other runs."""

UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
"""Seconds of each unit in which an age is written."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Where the result of a step is kept for others to find.

    Args:
        scope: `"session"` for later runs of the same session, `"workflow"` for all sessions of the workflow,
            `"global"` for other workflows that have the same step as well; `"run"` for this run only, as without it.
        ttl: how long a result is good: seconds, a timedelta, or text such as `"90s"`, `"15m"`, `"12h"`, `"30d"` or
            `"2w"`; None for as long as it is kept.
        shared: whether all users find it. Without that it is found by runs of the same `user_id` only.
        wait_timeout: seconds to wait while somebody else is computing the same; None for as long as that takes.

    Raises:
        InvalidInput: an argument cannot be used.

    >>> Cache("workflow", ttl="7d").seconds
    604800.0
    """

    scope: Scope
    ttl: float | str | timedelta | None = None
    shared: bool = False
    wait_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.scope not in get_args(Scope):
            raise InvalidInput(f"The scope of a Cache is one of {', '.join(get_args(Scope))}; not {self.scope!r}.")
        if self.shared and self.scope in ("run", "session"):
            raise InvalidInput("A session belongs to one user: only results of wider scope can be shared.")
        if self.wait_timeout is not None and not (_is_number(self.wait_timeout) and self.wait_timeout >= 0):
            raise InvalidInput("wait_timeout must be a number of seconds from 0, or None.")
        if self.seconds is not None and self.scope == "run":
            raise InvalidInput('A result of scope "run" is good for as long as its run; leave out the ttl.')

    @property
    def seconds(self) -> float | None:
        """How long a result is good, in seconds."""
        return None if self.ttl is None else _seconds(self.ttl)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(ttl: object) -> float:
    seconds = 0.0
    if isinstance(ttl, timedelta):
        seconds = ttl.total_seconds()
    elif isinstance(ttl, str):
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([smhdw])", ttl.strip())
        seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    elif _is_number(ttl):
        seconds = float(ttl)  # type: ignore[arg-type]
    if not 0 < seconds < float("inf"):
        raise InvalidInput(
            "ttl must be seconds above 0, a timedelta, or text such as '90s', '15m', '12h', '30d', '2w'."
        )
    return seconds


def as_cache(given: Cache | Scope | None) -> Cache | None:
    """What `cache=` was given, the name of a scope as the cache of that scope.

    Raises:
        InvalidInput: it is neither, or there is no such scope.

    >>> as_cache("run")
    Cache(scope='run', ttl=None, shared=False, wait_timeout=None)
    """
    if isinstance(given, str):
        given = Cache(given)
    if given is not None and not isinstance(given, Cache):
        raise InvalidInput(
            f'cache must be a Cache or the name of a scope such as "session"; not {type(given).__name__}.'
        )
    return given


def cache_of(given: Cache | Scope | None) -> Cache | None:
    """The cache that is meant by what `cache=` was given; None for the scope of the run.

    >>> cache_of("session"), cache_of("run"), cache_of(None)
    (Cache(scope='session', ttl=None, shared=False, wait_timeout=None), None, None)
    """
    cache = as_cache(given)
    return None if cache is None or cache.scope == "run" else cache


class Control(msgspec.Struct, frozen=True):
    """What may be done with results of wider scope than the run."""

    reads: bool = True
    """Whether one that is kept may be used."""
    writes: bool = True
    """Whether one that is computed may be kept."""
    computes: bool = True
    """Whether one may be computed."""

    def __and__(self, other: Control) -> Control:
        if self == other:
            return self  # so that what nobody restricts is `ALL` itself, for which is looked often
        return Control(self.reads and other.reads, self.writes and other.writes, self.computes and other.computes)


ALL: Final = Control()

_BY_NAME: Final = {
    "on": ALL,
    "off": Control(reads=False, writes=False),
    "refresh": Control(reads=False),
    "readonly": Control(writes=False),
}

_control: ContextVar[Control] = ContextVar("holdfast_cache_control", default=ALL)


def control_of(*, use_cache: bool = True, refresh: bool = False, only_if_cached: bool = False) -> Control:
    """What the options of `cache_control` and of a run stand for.

    Raises:
        InvalidInput: they contradict each other.
    """
    if only_if_cached and (refresh or not use_cache):
        raise InvalidInput(
            "only_if_cached cannot be kept together with refresh or without the cache; give one of them."
        )
    return Control(reads=use_cache and not refresh, writes=use_cache, computes=not only_if_cached)


@contextmanager
def cache_control(*, use_cache: bool = True, refresh: bool = False, only_if_cached: bool = False) -> Iterator[None]:
    """Say what steps in the block may do with results that are kept beyond their run.

    Args:
        use_cache: False neither uses nor keeps any.
        refresh: compute anew; what was kept stays readable for others until it is replaced.
        only_if_cached: raise `CacheMiss` instead of computing.

    Raises:
        InvalidInput: the options contradict each other.

    >>> with cache_control(refresh=True):
    ...     allowed()
    Control(reads=False, writes=True, computes=True)
    """
    with controlled(control_of(use_cache=use_cache, refresh=refresh, only_if_cached=only_if_cached)):
        yield


@contextmanager
def controlled(control: Control) -> Iterator[None]:
    """Take away, in the block, what this control does not allow."""
    before = _control.get()
    _control.set(before & control)
    try:
        yield
    finally:
        _control.set(before)  # not by a token: a generator may be closed in another context than it began in


def allowed() -> Control:
    """What may be done here, by the blocks around and the environment variable `HOLDFAST_CACHE`.

    Raises:
        InvalidInput: the variable has a value that is not known.
    """
    control = _control.get()
    named = _variable.value
    if not named:
        return control
    if named not in _BY_NAME:
        raise InvalidInput(f"{VARIABLE} is {', '.join(_BY_NAME)} or not set at all; not {named!r}.")
    return control & _BY_NAME[named]


def control_in(given: dict[str, Any]) -> Control:
    """What the arguments of a run say, as far as they have these names."""
    named = {name: given[name] for name in CONTROLS if type(given.get(name)) is bool}
    return control_of(**named) if named else ALL
