"""The classes whose instances may be stored because the workflow declares them.

Rules that must stay true:
- a stored name is only ever looked up among declared classes: nothing is imported, evaluated or searched for;
- a declared class covers the classes that its fields name;
- one name stands for one class.
"""

from __future__ import annotations

import enum
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from holdfast.errors import InvalidInput
from holdfast.shapes import Shape, annotations_of, shape_of


class Types:
    """The declared classes of one workflow, by class and by the name under which instances are stored.

    Args:
        annotations: classes, or annotations that name them (`list[NewsArticle] | None`). Pydantic models,
            dataclasses, named tuples and enums are declared, and what their fields name; the rest is ignored.

    Raises:
        InvalidInput: two different classes have one name.

    >>> class Colour(enum.Enum):
    ...     RED = 1
    >>> Types([list[Colour] | None, int]).classes == (Colour,)
    True
    """

    def __init__(self, annotations: Iterable[Any] = ()) -> None:
        self.by_class: dict[type, Shape] = {}
        self.by_name: dict[str, Shape] = {}
        for cls in _classes(list(annotations)):
            shape = shape_of(cls)
            assert shape is not None
            other = self.by_name.setdefault(shape.name, shape)
            if other.cls is not cls:
                raise InvalidInput(
                    f"Two classes named {shape.name!r} are declared, in the modules {other.cls.__module__!r} and "
                    f"{cls.__module__!r}. Values are stored under the name of their class: rename one of them."
                )
            self.by_class[cls] = shape

    @property
    def classes(self) -> tuple[type, ...]:
        return tuple(self.by_class)


def _classes(pending: list[Any]) -> Iterator[type]:
    """The classes that can be declared, in annotations and in the fields of such classes."""
    given = {item.__name__: item for item in pending if isinstance(item, type)}
    seen: set[int] = set()
    kept: list[Any] = []  # an id stays taken only as long as its object lives
    while pending:
        item = pending.pop(0)
        if isinstance(item, str):
            # Text of a local class, say, which only the names given beside it can explain.
            pending += [given[word] for word in re.findall(r"\w+", item) if word in given]
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        kept.append(item)
        if isinstance(item, type) and typing.get_origin(item) is None:
            shape = shape_of(item)
            if shape is not None:
                given.setdefault(item.__name__, item)
                yield item
                pending += shape.covers()
            elif typing.is_typeddict(item):
                pending += annotations_of(item, item.__annotations__)
        else:
            pending += _inside(item)


def _inside(annotation: Any) -> list[Any]:
    """The annotations that another one is made of."""
    if isinstance(annotation, list):  # the parameters of a Callable
        return annotation
    origin, arguments = typing.get_origin(annotation), list(typing.get_args(annotation))
    if origin is typing.Literal:
        return [type(argument) for argument in arguments if isinstance(argument, enum.Enum)]
    if isinstance(annotation, typing.ForwardRef):
        return [annotation.__forward_arg__]
    if origin is typing.Annotated:
        return arguments[:1]
    for attribute in ("__value__", "__supertype__"):  # of a type alias and of a NewType
        if hasattr(annotation, attribute):
            arguments.append(getattr(annotation, attribute))
    return [*arguments, origin] if origin is not None else arguments


def hints_of(function: Callable[..., Any]) -> Iterator[Any]:
    """The annotations of a function, without those whose names cannot be resolved.

    >>> def size(text: str) -> int: ...
    >>> list(hints_of(size))
    [<class 'str'>, <class 'int'>]
    """
    function = inspect.unwrap(getattr(function, "__func__", function))
    for annotation in getattr(function, "__annotations__", {}).values():
        if not isinstance(annotation, str):
            yield annotation
            continue
        try:
            yield eval(annotation, getattr(function, "__globals__", {}))  # the class's own source
        except (NameError, AttributeError):
            continue  # imported for type checkers only, so no value of it can be met here


NO_TYPES = Types()
