"""Where a value is, as people write it: `session_state['posts'][3].title`.

Rules that must stay true:
- while values are walked a path is a chain of pairs `(parent, step)`, which costs nothing; text is made only for
  an error;
- text shows str and int keys and field names, shortened; of every other key it shows the type only, because a
  key can be large and its `repr` can fail.
"""

from __future__ import annotations

from typing import Any

Path = tuple[Any, ...]
"""`(root,)` or `(parent path, step)`; a step is a key, an index, a `Field` or a `Member`."""

SHOWN_KEY = 60
SHOWN_STEPS = 20
LARGEST_SHOWN_INT = 10**18


class Field(str):
    """A step to a field of an object."""

    __slots__ = ()


class Odd:
    """A step to a member whose key is no plain text: the text that stands for it says what the key is."""

    __slots__ = ()


class Member:
    """A step to a member of a set, which has no key."""

    __slots__ = ("kind",)

    def __init__(self, value: object) -> None:
        self.kind = type_name(type(value))


def type_name(kind: type) -> str:
    """The name of a class, shortened; never fails and never runs code of the class.

    >>> type_name(int)
    'int'
    """
    return shorten(str(type.__getattribute__(kind, "__name__")))


def shorten(text: str) -> str:
    """At most 60 characters of a text.

    >>> len(shorten("x" * 100))
    60
    """
    return text if len(text) <= SHOWN_KEY else text[: SHOWN_KEY - 3] + "..."


def step_text(step: object) -> str:
    """One step as text.

    >>> step_text("posts"), step_text(3), step_text((1, 2)), step_text(Field("title"))
    ("['posts']", '[3]', '[<tuple>]', '.title')
    """
    if isinstance(step, Member):
        return f"{{<{step.kind}>}}"
    if isinstance(step, Odd):
        return "[<key>]"
    if isinstance(step, Field):
        return f".{shorten(step)}"
    if type(step) is str:
        return f"[{shorten(ascii(step[:SHOWN_KEY]) if not step.isprintable() else repr(step))}]"
    if type(step) is int and abs(step) < LARGEST_SHOWN_INT:
        return f"[{step}]"
    return f"[<{type_name(type(step))}>]"


def path_text(path: Path) -> str:
    """A whole path as text; the middle of a very long one is left out.

    >>> path_text(((("session_state",), "posts"), 3))
    "session_state['posts'][3]"
    """
    steps: list[str] = []
    while len(path) > 1:
        path, step = path
        steps.append(step_text(step))
    steps.reverse()
    if len(steps) > SHOWN_STEPS:
        half = SHOWN_STEPS // 2
        steps = [*steps[:half], f"[... {len(steps) - 2 * half} more ...]", *steps[-half:]]
    return str(path[0]) + "".join(steps)


def path_to(key: object, root: str = "session_state") -> str:
    """The text of the path from `root` to its member `key`.

    >>> path_to("posts")
    "session_state['posts']"
    """
    return root + step_text(key)
