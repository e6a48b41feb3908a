"""How instances of a class that can be declared are taken apart and put together.

Rules that must stay true:
- an instance is taken apart and put together as it is, without validators, serializers, aliases or
  `__post_init__`. Only when the class has other fields than were stored is it built in the ordinary way;
- what an instance holds beyond its fields would be lost, so it is refused;
- pydantic is never imported here: where nobody imported it, there are no models.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from holdfast.refusals import BASES, Refused
from holdfast.response import RunResponse

_LOCAL = re.compile(r"(?:[\w.]*<locals>\.)+")


class Shape:
    """How instances of one class are taken apart and put together. Subclasses do it for one kind of class each.

    Args:
        cls: the class.
    """

    kind: ClassVar[str]

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self.name = _LOCAL.sub("", cls.__qualname__)

    def take(self, value: Any) -> list[Any]:
        """The parts of an instance: plain values and dicts of values still to be encoded. Raises `Refused`."""
        raise NotImplementedError

    def outline(self, value: Any) -> dict[str, Any]:
        """What an instance holds, to be read by people; it need not be enough to make the instance again."""
        raise NotImplementedError

    def make(self, kind: str, *parts: Any) -> Any:
        """An instance from decoded parts, which may have been taken from an older class of another kind.

        Raises:
            Exception: whatever the class's own code raises when it has changed and refuses the parts.
        """
        raise NotImplementedError

    def covers(self) -> Iterable[Any]:
        """Annotations of what instances hold."""
        return ()


class _Record(Shape):
    """A class with named fields."""

    fields: tuple[str, ...]

    def take(self, value: Any) -> list[Any]:
        try:
            fields = {name: getattr(value, name) for name in self.fields}
        except AttributeError:
            missing = next(name for name in self.fields if not hasattr(value, name))
            raise Refused(f"{self.name} without a value of its field {missing!r}: give the field a value") from None
        self._refuse_others(value)
        return [fields]

    def outline(self, value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in self.fields if hasattr(value, name)}

    def make(self, kind: str, *parts: Any) -> Any:
        if kind in (EnumShape.kind, FlagShape.kind):
            raise TypeError("an enum became a class with fields")
        fields, *others = parts
        if fields.keys() == set(self.fields):
            return self._assemble(fields, *others)
        return self._build(fields, *others)

    def _assemble(self, fields: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _build(self, fields: dict[str, Any]) -> Any:
        return self.cls(**fields)

    def _refuse_others(self, value: Any) -> None:
        held = [name for name in getattr(value, "__dict__", ()) if name not in self._known]
        held += [name for name in self._slots if hasattr(value, name)]
        if held:
            raise Refused(
                f"{self.name} with an attribute {held[0]!r} that is not a field: declare the field in the class"
            )

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        # A cached property is derived from the fields and comes back when it is asked for.
        derived = (
            name for name, attribute in _attributes(self.cls) if isinstance(attribute, functools.cached_property)
        )
        return frozenset((*self.fields, *derived))

    @functools.cached_property
    def _slots(self) -> tuple[str, ...]:
        slots = (name for name, attribute in _attributes(self.cls) if isinstance(attribute, types.MemberDescriptorType))
        return tuple(name for name in slots if name not in self.fields and not name.startswith("__pydantic_"))


class DataclassShape(_Record):
    kind = "dataclass"

    def __init__(self, cls: type[Any]) -> None:
        super().__init__(cls)
        self._specs = dataclasses.fields(cls)
        self.fields = tuple(spec.name for spec in self._specs)

    def _assemble(self, fields: dict[str, Any]) -> Any:
        instance = object.__new__(self.cls)
        for name in self.fields:
            object.__setattr__(instance, name, fields[name])
        return instance

    def _build(self, fields: dict[str, Any]) -> Any:
        later = {spec.name for spec in self._specs if not spec.init}
        instance = self.cls(**{name: value for name, value in fields.items() if name not in later})
        for name in later & fields.keys():
            object.__setattr__(instance, name, fields[name])
        return instance

    def covers(self) -> Iterable[Any]:
        return annotations_of(self.cls, self.fields)


class NamedTupleShape(_Record):
    kind = "namedtuple"

    def __init__(self, cls: type[Any]) -> None:
        super().__init__(cls)
        self.fields = cls._fields

    def take(self, value: Any) -> list[Any]:
        self._refuse_others(value)
        return [dict(zip(self.fields, value, strict=True))]

    def _assemble(self, fields: dict[str, Any]) -> Any:
        return tuple.__new__(self.cls, [fields[name] for name in self.fields])

    def covers(self) -> Iterable[Any]:
        return annotations_of(self.cls, self.fields)


class ModelShape(_Record):
    kind = "model"

    def __init__(self, cls: type[Any]) -> None:
        super().__init__(cls)
        if not cls.__pydantic_complete__:
            cls.model_rebuild(raise_errors=False)
        self.fields = tuple(cls.model_fields)
        self._private: dict[str, Any] = cls.__private_attributes__
        self._root: bool = cls.__pydantic_root_model__

    def take(self, value: Any) -> list[Any]:
        parts = super().take(value)
        rest: dict[str, Any] = {}
        extra = value.__pydantic_extra__
        if value.__pydantic_fields_set__ != {*self.fields, *(extra or ())}:
            rest["fields_set"] = sorted(value.__pydantic_fields_set__)
        if extra:
            rest["extra"] = extra
        if value.__pydantic_private__ is not None:
            rest["private"] = value.__pydantic_private__
        return [*parts, rest] if rest else parts

    def outline(self, value: Any) -> dict[str, Any]:
        return {**super().outline(value), **(value.__pydantic_extra__ or {})}

    def _assemble(self, fields: dict[str, Any], rest: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
        instance = object.__new__(self.cls)
        extra = rest.get("extra", {} if self.cls.model_config.get("extra") == "allow" else None)
        fields_set = set(rest.get("fields_set", [*fields, *(extra or ())]))
        object.__setattr__(instance, "__dict__", {name: fields[name] for name in self.fields})
        object.__setattr__(instance, "__pydantic_fields_set__", fields_set)
        if not self._root:
            object.__setattr__(instance, "__pydantic_extra__", extra)
            object.__setattr__(instance, "__pydantic_private__", self._with_defaults(rest.get("private"), fields))
        return instance

    def _build(self, fields: dict[str, Any], rest: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
        given = {**fields, **rest.get("extra", {})}
        instance = self.cls.model_validate(given, by_alias=False, by_name=True)
        for name, value in rest.get("private", {}).items():
            setattr(instance, name, value)
        return instance

    def _with_defaults(self, private: dict[str, Any] | None, fields: dict[str, Any]) -> dict[str, Any] | None:
        """The stored private attributes, and the defaults of those that the class has got since."""
        undefined = sys.modules["pydantic_core"].PydanticUndefined
        with_default = {
            name for name, spec in self._private.items() if spec.default is not undefined or spec.default_factory
        }
        if with_default <= (private or {}).keys():
            return private
        fresh = self.cls.model_construct(**fields).__pydantic_private__
        return {**fresh, **(private or {})}

    def covers(self) -> Iterable[Any]:
        yield from (spec.annotation for spec in self.cls.model_fields.values())
        yield from annotations_of(self.cls, self._private)


class EnumShape(Shape):
    kind = "enum"

    def take(self, value: Any) -> list[Any]:
        if self.cls.__members__.get(value._name_) is not value:
            raise Refused(f"a {self.name} that is not one of its members: store its value")
        return [value._name_]

    def outline(self, value: Any) -> dict[str, Any]:
        return {"name": value._name_, "value": value.value}

    def make(self, kind: str, *parts: Any) -> Any:
        (name,) = parts
        if kind != self.kind:
            raise TypeError("a class of another kind became an enum")
        return self.cls.__members__[name]


class FlagShape(EnumShape):
    kind = "flag"

    def take(self, value: Any) -> list[Any]:
        return [int(value.value)]

    def make(self, kind: str, *parts: Any) -> Any:
        (number,) = parts
        if kind != self.kind or type(number) is not int:
            raise TypeError("something else became a flag")
        return self.cls(number)


KINDS = frozenset(shape.kind for shape in (DataclassShape, NamedTupleShape, ModelShape, EnumShape, FlagShape))


def shape_of(cls: type[Any]) -> Shape | None:
    """The shape of a class that can be declared, else None.

    >>> shape_of(int) is None
    True
    """
    if issubclass(cls, enum.Enum):
        return FlagShape(cls) if issubclass(cls, enum.Flag) else EnumShape(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make"):
        return NamedTupleShape(cls)
    if issubclass(cls, (*BASES, BaseException, RunResponse)):
        return None
    pydantic = sys.modules.get("pydantic.main")
    if pydantic is not None and issubclass(cls, pydantic.BaseModel) and cls is not pydantic.BaseModel:
        return ModelShape(cls)
    return DataclassShape(cls) if dataclasses.is_dataclass(cls) else None


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__:
        yield from vars(base).items()


def annotations_of(cls: type, names: Iterable[str]) -> Iterator[Any]:
    """The annotations of these names; one that names nothing known is passed on as the text that it is."""
    wanted = set(names)
    for base in cls.__mro__:
        scope = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        for name, annotation in getattr(base, "__annotations__", {}).items():
            if name not in wanted:
                continue
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                yield typing.get_type_hints(holder, scope, dict(vars(base)), include_extras=True)[name]
            except (NameError, AttributeError, TypeError, SyntaxError):
                yield annotation
