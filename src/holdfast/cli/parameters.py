"""Options of a command out of the parameters of a function.

Rules that must stay true:
- a parameter without a default is required; one that is left out is not passed, so that its own default holds;
- a value that does not fit its annotation is refused before the function is called.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

_PLAIN: Final[dict[Any, Any]] = {str: click.STRING, int: click.INT, float: click.FLOAT, bool: click.BOOL}
_MULTIPLE: Final[dict[Any, Callable[[Any], Any]]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
}


class Checked(click.ParamType[Any]):
    """A value of any annotation, written as JSON or, where it is not JSON, as text: a date, a dict, a model."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.name = inspect.formatannotation(annotation)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pydantic import TypeAdapter, ValidationError
        from pydantic_core import from_json

        with suppress(ValueError):  # what is not JSON is the text itself
            value = from_json(value, allow_inf_nan=False)
        try:
            return TypeAdapter(self.annotation).validate_python(value)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, found["loc"]))
            self.fail(f"is no {self.name}: {f'{place}: ' if place else ''}{found['msg']}", param, ctx)


def option_for(parameter: inspect.Parameter, function: Callable[..., Any]) -> click.Option:
    """The option that stands for a parameter of a function.

    Args:
        parameter: one that can be given by keyword.
        function: whose it is; its annotations and the `Args:` of its docstring tell type and help.

    >>> def greet(name: str, times: int = 1): ...
    >>> option = option_for(inspect.signature(greet).parameters["times"], greet)
    >>> option.opts, option.type.name, option.help
    (['--times'], 'integer', '[default: 1]')
    """
    annotation = annotation_of(parameter, function)
    required = parameter.default is parameter.empty
    flag = parameter.name.replace("_", "-")
    help_text = descriptions(function).get(parameter.name, "")
    if not required and parameter.default is not None:
        shown = parameter.default.name if isinstance(parameter.default, enum.Enum) else parameter.default
        help_text = f"{help_text}  [default: {shown}]".strip()
    if annotation is bool:
        return click.Option([f"--{flag}/--no-{flag}", parameter.name], required=required, help=help_text or None)
    collect = _MULTIPLE.get(typing.get_origin(annotation) or annotation)
    if collect is None:
        return click.Option(
            [f"--{flag}", parameter.name], type=type_for(annotation), required=required, help=help_text or None
        )
    item = (*typing.get_args(annotation), str)[0]
    return click.Option(
        [f"--{flag}", parameter.name],
        type=type_for(item),
        multiple=True,
        required=required,
        help=f"{help_text}  May be repeated.".strip(),
        callback=lambda _ctx, _param, values: collect(values),
    )


def annotation_of(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The type of a parameter, without `None` beside it: from its annotation, else from its default, else str."""
    try:
        annotation = typing.get_type_hints(function)[parameter.name]
    except (NameError, KeyError):
        # NameError: an annotation is imported for type checkers only.
        guessed = type(parameter.default)
        return guessed if guessed in _PLAIN else str
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return members[0]
    return annotation


def type_for(annotation: Any) -> click.ParamType[Any]:
    """The click type that makes values of an annotation.

    >>> type_for(int).name, type_for(dict[str, int]).name
    ('integer', 'dict[str, int]')
    """
    if annotation in _PLAIN:
        plain: click.ParamType[Any] = _PLAIN[annotation]
        return plain
    if annotation is Path:
        return click.Path(path_type=Path)
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return click.Choice(annotation)
    choices = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal and all(isinstance(choice, str) for choice in choices):
        return click.Choice(choices)
    return Checked(annotation)


def descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """What the `Args:` section of a docstring says about each parameter.

    >>> def greet(name):
    ...     '''Greet.
    ...
    ...     Args:
    ...         name: whom to greet,
    ...             by name.
    ...     '''
    >>> descriptions(greet)
    {'name': 'whom to greet, by name.'}
    """
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", inspect.getdoc(function) or "", re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
