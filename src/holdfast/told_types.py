"""What a model is told of a type, found without loading a model package.

Rules that must stay true:
- types that are told alike here give the same schema; where that is not certain, nothing is told at all;
- it takes no package but those that the type itself comes from: a result that is found again must not cost the import
  of what would have made it.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, Final

from holdfast.canonical import identity
from holdfast.declared import Types
from holdfast.fingerprint import own_classes
from holdfast.pieces import Unidentified
from holdfast.sources import Memory, class_digest

__all__ = ["NotCertain", "function_told", "type_told"]

_PLAIN: Final = (str, int, float, bool, bytes, type(None), list, dict, tuple, set, frozenset)
_UNIONS: Final = (typing.Union, types.UnionType)


class NotCertain(Exception):
    """Only the model package itself can say what a model is told."""


def type_told(annotation: Any, inside: tuple[type, ...] = ()) -> Any:
    """What a model is told of a type, as plain data.

    Args:
        annotation: a type, a generic of types, or a list of these.
        inside: classes that it stands in, which are told by name only.

    Raises:
        NotCertain: it holds something that is not known here.

    >>> type_told(list[int] | None)
    ['union', [['list', ['int']], 'NoneType']]
    """
    if isinstance(annotation, list | tuple):
        return [type_told(item, inside) for item in annotation]
    if annotation is None:
        return "NoneType"
    if annotation is Any:
        return "Any"
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _generic_told(annotation, origin, inside)
    if isinstance(annotation, type):
        return annotation.__name__ if annotation in _PLAIN else _class_told(annotation, inside)
    raise NotCertain


def _generic_told(annotation: Any, origin: Any, inside: tuple[type, ...]) -> Any:
    given = typing.get_args(annotation)
    if origin is typing.Literal:
        return ["literal", _identified([[type(item).__name__, item] for item in given])]
    if origin is typing.Annotated:
        return ["annotated", type_told(given[0], inside), _identified(list(given[1:]))]
    told = "union" if origin in _UNIONS else type_told(origin, inside)
    return [told, [type_told(item, inside) if item is not ... else "..." for item in given]]


def _class_told(cls: type, inside: tuple[type, ...]) -> Any:
    if cls in inside:
        return cls.__qualname__
    inside = (*inside, cls)
    if _is_model(cls):
        return [cls.__qualname__, _schema_of(cls), _validators_of(cls)]
    if issubclass(cls, enum.Enum):
        return [cls.__qualname__, cls.__doc__, _identified([[member.name, member.value] for member in cls])]
    if dataclasses.is_dataclass(cls):
        defaults = {spec.name: _default_told(spec) for spec in dataclasses.fields(cls)}
        return [cls.__qualname__, cls.__doc__, _hints_told(cls, inside), defaults]
    if typing.is_typeddict(cls):
        return [cls.__qualname__, cls.__doc__, _hints_told(cls, inside), sorted(getattr(cls, "__required_keys__", ()))]
    raise NotCertain


def _is_model(cls: type) -> bool:
    module = sys.modules.get("pydantic")
    return module is not None and issubclass(cls, module.BaseModel)


_schema_of: Memory[Any] = Memory(lambda cls: cls.model_json_schema())


_validators_of: Memory[Any] = Memory(
    lambda cls: [class_digest(own) for each in Types([cls]).classes for own in (own_classes(each) or [each])]
)
"""What its text says beside the schema, those of the classes of its fields, and those of what these inherit from:
validators decide what is an answer."""


def _default_told(spec: dataclasses.Field[Any]) -> Any:
    if spec.default_factory is not dataclasses.MISSING:
        raise NotCertain
    return ["none"] if spec.default is dataclasses.MISSING else ["default", _identified(spec.default), spec.kw_only]


def _hints_told(thing: Any, inside: tuple[type, ...]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(thing, include_extras=True)
    except (NameError, AttributeError, TypeError):
        raise NotCertain from None
    return {name: type_told(hint, inside) for name, hint in hints.items()}


def _identified(value: Any) -> bytes:
    try:
        return identity(value, "value")
    except Unidentified:
        raise NotCertain from None


def function_told(function: Callable[..., Any]) -> Any:
    """What a model is told of a tool, beside what its code says: its name, its docstring and its parameters' types.

    Raises:
        NotCertain: as `type_told`.

    >>> def search(query: str) -> list[str]:
    ...     '''Look it up.'''
    >>> function_told(search)
    ['search', 'Look it up.', ['query'], {'query': 'str', 'return': ['list', ['str']]}]
    """
    inner = getattr(function, "__func__", function)
    code = inner.__code__
    names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return [inner.__name__, inner.__doc__, names, _hints_told(inner, ())]
