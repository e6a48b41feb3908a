"""Encoded values as people read them, without the classes they were made of.

Rules that must stay true:
- it never fails on a text that the codec wrote, whatever classes are gone and however old it is; a tag of another
  form is shown as the JSON that it is;
- plain values stay what they are, so that the result can be printed as JSON or by any pretty printer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.decoding import parse_json
from holdfast.recursion import with_room
from holdfast.scalars import DECODERS, MARK, TAG

SHOWN_BYTES = 80
"""Bytes values up to this length are shown, of longer ones only their size."""


def display(data: bytes) -> Any:
    """An encoded value with readable text in place of every tag.

    Raises:
        MalformedData: it is not JSON.

    >>> display(b'{"at":{"$hf":["date","2026-01-31"]},"tags":{"$hf":["set",["a","b"]]}}')
    {'at': '2026-01-31', 'tags': "{'a', 'b'}"}
    >>> display(b'{"$hf":["model","Post",{"title":"Hi","size":{"$hf":["tuple",[1,2]]}}]}')
    "Post(title='Hi', size=(1, 2))"
    """
    return with_room(_shown, parse_json(data))


def display_name(name: str) -> str:
    """The name of a top-level key, or of any key, as people read it.

    >>> display_name("posts"), display_name("$hf:1"), display_name('$hf:{"$hf":["tuple",[1,"a"]]}')
    ('posts', '1', "(1, 'a')")
    """
    if not name.startswith(MARK):
        return name
    return with_room(_text, _parsed_key(name))


def _parsed_key(name: str) -> Any:
    try:
        return msgspec.json.decode(name[len(MARK) :].encode())
    except (msgspec.MsgspecError, ValueError):
        return name


def _shown(node: Any) -> Any:
    if type(node) is list:
        return [_shown(item) for item in node]
    if type(node) is not dict:
        return node
    if TAG in node:
        return _tagged(node)
    return {display_name(name): _shown(item) for name, item in node.items()}


def _text(node: Any) -> str:
    """A node as it would be written in Python."""
    if type(node) is list:
        return f"[{_joined(node)}]"
    if type(node) is not dict:
        return repr(node)
    if TAG in node:
        return _tagged(node)
    return "{" + ", ".join(f"{_key_text(name)}: {_text(item)}" for name, item in node.items()) + "}"


def _key_text(name: str) -> str:
    return display_name(name) if name.startswith(MARK) else repr(name)


def _joined(items: list[Any]) -> str:
    return ", ".join(map(_text, items))


def _tagged(node: dict[str, Any]) -> str:
    payload = node[TAG]
    try:
        kind, *parts = payload
        return _BY_KIND[kind](*parts) if kind in _BY_KIND else _scalar(kind, parts)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
        return msgspec.json.encode(node).decode()


def _scalar(kind: str, parts: list[Any]) -> str:
    if kind in ("datetime", "time"):
        text, *marks = parts
        return " ".join(
            (text, *(str(value) for mark in marks for key, value in mark.items() if key in ("zone", "name")))
        )
    if kind in ("date", "decimal", "uuid", "float"):
        return str(parts[0])
    return str(DECODERS[kind](*parts))


def _bytes(text: str) -> str:
    value = DECODERS["bytes"](text)
    return repr(value) if len(value) <= SHOWN_BYTES else f"<{len(value):,} bytes>"


def _surrogates(pieces: list[Any]) -> str:
    return "".join(f"\\u{piece:04x}" if type(piece) is int else piece for piece in pieces)


def _tuple(items: list[Any]) -> str:
    return f"({_text(items[0])},)" if len(items) == 1 else f"({_joined(items)})"


def _set(items: list[Any]) -> str:
    return f"{{{_joined(items)}}}" if items else "set()"


def _frozenset(items: list[Any]) -> str:
    return f"frozenset({_set(items)})" if items else "frozenset()"


def _record(name: str, fields: dict[str, Any], rest: dict[str, Any] | None = None) -> str:
    shown = {**fields, **(rest or {}).get("extra", {})}
    return f"{name}({', '.join(f'{field}={_text(item)}' for field, item in shown.items())})"


_BY_KIND: dict[str, Callable[..., str]] = {
    "bytes": _bytes,
    "str": _surrogates,
    "tuple": _tuple,
    "set": _set,
    "frozenset": _frozenset,
    "model": _record,
    "dataclass": _record,
    "namedtuple": _record,
    "enum": lambda name, member: f"{name}.{member}",
    "flag": lambda name, number: f"{name}({number})",
    "omitted": lambda name: f"<{name}, not recorded>",
}
