"""The walk that puts the values back which tags stand for.

Rules that must stay true:
- containers that the JSON reader made are filled in place; only what a tag stands for is new;
- everything wrong with the data raises an error of ours with its path, and none of its content;
- what a class of the user raises is not swallowed: its type is named, its message left out, which may quote values.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from holdfast.declared import Types
from holdfast.errors import MalformedData, StateError, UndeclaredType
from holdfast.paths import Field, Odd, Path, path_text, shorten, type_name
from holdfast.recursion import with_room
from holdfast.scalars import DECODERS, MARK, TAG, UnknownZone
from holdfast.shapes import KINDS

_COLLECTIONS = {"tuple": tuple, "set": set, "frozenset": frozenset}
_reader = msgspec.json.Decoder()


class Decoding:
    """One walk over one value as the JSON reader made it.

    Args:
        types: the classes whose instances may be in it.
    """

    def __init__(self, types: Types) -> None:
        self._types = types

    def node(self, node: Any, path: Path) -> Any:
        """The value that a node stands for.

        Raises:
            UndeclaredType, StateError, MalformedData: see `codec.decode`.
        """
        if type(node) is list:
            return self._list(node, path)
        if type(node) is not dict:
            return node
        if TAG in node:
            return self._tagged(node, path)
        marked = False
        for name, item in node.items():
            if type(item) is dict or type(item) is list:
                node[name] = self.node(item, (path, Odd() if name.startswith(TAG) else name))
            if name.startswith(TAG):
                marked = True
        return self._renamed(node, path) if marked else node

    def key(self, name: str, path: Path) -> Any:
        """The key that a name stands for; `path` is that of its dict."""
        if not name.startswith(TAG):
            return name
        if not name.startswith(MARK):
            _malformed(path, "a key has an unknown mark")
        try:
            tree = _reader.decode(name[len(MARK) :])
        except (msgspec.MsgspecError, ValueError):
            _malformed(path, "the text of a key is not JSON")
        return self.node(tree, path)

    def _list(self, items: list[Any], path: Path) -> list[Any]:
        for index, item in enumerate(items):
            if type(item) is dict or type(item) is list:
                items[index] = self.node(item, (path, index))
        return items

    def _renamed(self, node: dict[str, Any], path: Path) -> dict[Any, Any]:
        try:
            keyed = {self.key(name, path): item for name, item in node.items()}
        except TypeError:
            _malformed(path, "a key of it cannot be a key")
        if len(keyed) != len(node):
            _malformed(path, "two keys of it are equal")
        return keyed

    def _tagged(self, node: dict[str, Any], path: Path) -> Any:
        payload = node[TAG]
        if len(node) != 1 or type(payload) is not list or not payload or type(payload[0]) is not str:
            _malformed(path, "a tag is not of the known form")
        kind, *parts = payload
        if kind in _COLLECTIONS:
            return self._collection(kind, parts, path)
        if kind in KINDS:
            return self._instance(kind, parts, path)
        if kind == "omitted":
            raise StateError(f"{path_text(path)} was left out when it was recorded, because it cannot be stored.")
        return self._scalar(kind, parts, path)

    def _collection(self, kind: str, parts: list[Any], path: Path) -> Any:
        if len(parts) != 1 or type(parts[0]) is not list:
            _malformed(path, f"a {kind} is not of the known form")
        items = self._list(parts[0], path)
        try:
            collection = _COLLECTIONS[kind](items)
        except TypeError:
            _malformed(path, f"a {kind} has a member that cannot be one")
        if len(collection) != len(items):
            _malformed(path, f"a {kind} has equal members")
        return collection

    def _scalar(self, kind: str, parts: list[Any], path: Path) -> Any:
        decoder = DECODERS.get(kind)
        if decoder is None:
            _malformed(path, "a tag of an unknown kind")
        try:
            return decoder(*parts)
        except UnknownZone:
            raise StateError(
                f"{path_text(path)} holds a {kind} in a time zone that this machine does not know: "
                "install the package `tzdata`."
            ) from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
            _malformed(path, f"a {kind} is not of the known form")

    def _instance(self, kind: str, parts: list[Any], path: Path) -> Any:
        if len(parts) < 2 or type(parts[0]) is not str:
            _malformed(path, f"a {kind} is not of the known form")
        name = parts.pop(0)
        shape = self._types.by_name.get(name)
        if shape is None:
            raise UndeclaredType(path=path_text(path), kind=kind, name=shorten(name))
        values = [self._part(part, path) for part in parts]
        try:
            return shape.make(kind, *values)
        except Exception as error:  # whatever the class's own code raises  # noqa: BLE001
            raise StateError(
                f"{path_text(path)} holds a stored {kind} {name!r} that the class {name} cannot be made from "
                f"any more ({type_name(type(error))}). Give the class back the fields it had, or defaults for new ones."
            ) from None

    def _part(self, part: Any, path: Path) -> Any:
        if type(part) is dict:
            return {name: self.node(item, (path, Field(name))) for name, item in part.items()}
        return part


def parse_json(data: bytes, where: str = "JSON text") -> Any:
    """Encoded text as plain JSON values, tags and all.

    Raises:
        MalformedData: it is not JSON.

    >>> parse_json(b'[{"op":"remove","path":"/a"}]')
    [{'op': 'remove', 'path': '/a'}]
    """
    try:
        return with_room(_reader.decode, data)
    except RecursionError:
        what = "it is nested too deeply"
    except (msgspec.MsgspecError, ValueError) as error:
        what = f"it is not JSON ({type_name(type(error))})"
    raise MalformedData(where=where, what=what)


def _malformed(path: Path, what: str) -> NoReturn:
    # Without the context: what Python says of a wrong date or number quotes it.
    raise MalformedData(where=path_text(path), what=what) from None
