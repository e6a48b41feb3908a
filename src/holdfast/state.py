"""The top-level dict that a workflow sees as `session_state`.

Rules that must stay true:
- it behaves as the plain dict it looks like; only the top level is a subclass, everything nested is an exact built-in;
- a slot holds either a value, or an `Undecoded` mark for a stored value that nobody has asked for yet. A value
  that was handed out once may be changed through any alias, so only marks count as untouched;
- a mark never leaves through a method of the dict. C code that reads the raw slots of a dict subclass (an encoder,
  a validator) meets the mark itself, whose type says what to do instead;
- a value that cannot be decoded raises when it is asked for, and stays stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from itertools import compress, repeat
from operator import is_not
from typing import Any, Final, NoReturn

_ABSENT: Any = object()

SNAPSHOT_TRIES = 5


class Undecoded:
    """Stands in a slot for a stored value that has not been asked for; there is one, `UNDECODED`."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(type(self).__qualname__)


# Encoders quote the type's name when they meet a mark in a raw slot; this is the only place for a hint.
Undecoded.__name__ = Undecoded.__qualname__ = "an undecoded value: pass dict(session_state), not session_state itself"

UNDECODED: Final = Undecoded()


class SessionState(dict[Any, Any]):
    """A dict whose stored values are decoded when they are first asked for.

    Args:
        decode: makes the stored value of a key; called at most once for each.
        prefetch: told which keys are going to be decoded one after the other, so that they can be read together.

    >>> state = SessionState()
    >>> state["topics"] = ["sqlite"]
    >>> state | {"n": 1}
    {'topics': ['sqlite'], 'n': 1}
    """

    __slots__ = ("_decode", "_lock", "_prefetch", "began_empty", "is_viewed")

    def __init__(
        self, decode: Callable[[Any], Any] | None = None, prefetch: Callable[[list[Any]], None] | None = None
    ) -> None:
        super().__init__()
        self._decode = decode
        self._prefetch = prefetch
        # Two threads that touch one value for the first time must be given one object. Re-entrant, because the
        # garbage collector may finalise another run while a value is being decoded.
        self._lock = threading.RLock()
        self.is_viewed = False
        """Whether a live view of the values was handed out: from then on there may be no mark that it could show."""
        self.began_empty: dict[Any, Any] = {}
        """By key, the lists and dicts that were empty when they were put here: two runs may both begin one so."""

    def _touch(self, key: Any, slot: Any) -> Any:
        if slot is not UNDECODED:
            return slot
        with self._lock:
            current = dict.get(self, key, _ABSENT)
            if current is not UNDECODED:
                return slot if current is _ABSENT else current
            if self._decode is None:
                raise TypeError("this session_state has no storage to decode from")
            value = self._decode(key)
            dict.__setitem__(self, key, value)
            return value

    def touch_all(self) -> None:
        """Decode every value that has not been asked for."""
        undecoded = [key for key, slot in list(dict.items(self)) if slot is UNDECODED]
        if len(undecoded) > 1 and self._prefetch is not None:
            self._prefetch(undecoded)
        for key in undecoded:
            self._touch(key, UNDECODED)

    def touched(self) -> list[tuple[Any, Any]]:
        """The keys of values that were asked for or put here, with these."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[list[Any], list[tuple[Any, Any]]]:
        """All keys, and the touched ones with their values, at one moment.

        Each list is made in one step. That no other thread came between two of them is looked at afterwards. No
        code of Python's own runs for each of the untouched keys, of which there can be many: it would be most of
        what a small change costs.
        """
        for _ in range(SNAPSHOT_TRIES):
            keys = list(dict.keys(self))
            slots = list(dict.values(self))
            touched = list(compress(zip(keys, slots, strict=False), map(is_not, slots, repeat(UNDECODED))))
            if keys == list(dict.keys(self)) and all(dict.get(self, key) is slot for key, slot in touched):
                return keys, touched
        items = list(dict.items(self))
        return [key for key, _ in items], [item for item in items if item[1] is not UNDECODED]

    def __getitem__(self, key: Any) -> Any:
        slot = dict.__getitem__(self, key)
        return self._touch(key, slot) if slot is UNDECODED else slot

    def get(self, key: Any, default: Any = None, /) -> Any:
        slot = dict.get(self, key, _ABSENT)
        return default if slot is _ABSENT else self._touch(key, slot)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not value and (type(value) is list or type(value) is dict):
            self.began_empty[key] = value
        dict.__setitem__(self, key, value)

    def setdefault(self, key: Any, default: Any = None, /) -> Any:
        if key not in self:
            self[key] = default
        return self._touch(key, dict.setdefault(self, key, default))

    def update(self, *given: Any, **named: Any) -> None:
        for key, value in dict(*given, **named).items():
            self[key] = value

    def __ior__(self, other: Any) -> SessionState:
        self.update(other)
        return self

    def pop(self, key: Any, default: Any = _ABSENT, /) -> Any:
        if key in self:
            self._touch(key, dict.get(self, key))
        return dict.pop(self, key) if default is _ABSENT else dict.pop(self, key, default)

    def popitem(self) -> tuple[Any, Any]:
        if self:
            last = next(reversed(self))
            self._touch(last, dict.get(self, last))
        return dict.popitem(self)

    # The presence of __iter__ also makes dict(state), {**state} and f(**state) take the way through the methods
    # above instead of copying raw slots.
    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # dict's own view type cannot be subclassed
        self.touch_all()
        self.is_viewed = True
        return dict.values(self)

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
        self.touch_all()
        self.is_viewed = True
        return dict.items(self)

    def copy(self) -> dict[Any, Any]:
        return dict(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        from copy import deepcopy

        return deepcopy(dict(self), memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __eq__(self, other: object) -> bool:
        self.touch_all()
        if isinstance(other, SessionState):
            other.touch_all()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as for any dict

    def __or__(self, other: Any) -> Any:
        return dict(self) | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return other | dict(self) if isinstance(other, dict) else NotImplemented

    def __repr__(self) -> str:
        self.touch_all()
        return dict.__repr__(self)
