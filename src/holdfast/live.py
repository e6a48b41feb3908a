"""The state that a workflow has in its hands, and how it follows what is stored without changing hands.

Rules that must stay true:
- the live state moves to another version in place, as far as that gives exactly what is stored there, so that
  references kept from an earlier run stay live. What may fail is done before anything is touched;
- which container was loaded where is known for top-level values and their members: another one that stands there now
  was assigned whole, and what others change inside of it is not mixed into it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from operator import is_
from typing import Any

from holdfast import codec, patch
from holdfast.declared import Types
from holdfast.edits import Edit, Elements, Members, apply_live, is_container
from holdfast.errors import HoldfastError, MalformedData, UnstorableValue
from holdfast.operations import Operation
from holdfast.originals import original_of
from holdfast.plain import NotPlain
from holdfast.state import UNDECODED, SessionState
from holdfast.stored import StoredDocument
from holdfast.values import StoredValues

_MEMBER_DEPTH = 2
"""Segments of the path to a member of a top-level value."""

FEW = 8
"""How often the members are looked through before it is worth making a set of them."""


class _Loaded:
    """A value that was loaded, or stored, as it stood then."""

    __slots__ = ("_asked", "_identities", "_members", "seed", "value")

    def __init__(self, value: Any, seed: bytes | None = None) -> None:
        self.value = value
        self.seed = seed
        """Of a default: what it was, encoded."""
        # The members are kept alive, so that no other object can have their identity.
        self._members: Any = value.copy() if type(value) is list or type(value) is dict else None
        self._identities: set[int] | None = None
        self._asked = 0

    def has_member(self, member: object) -> bool:
        if self._identities is None:
            members = self._members.values() if type(self._members) is dict else self._members or ()
            self._asked += 1
            if self._asked <= FEW:
                return any(map(is_, members, repeat(member)))
            self._identities = set(map(id, members))
        return id(member) in self._identities


class Live:
    """A session state in use.

    Args:
        types: the types that the workflow declares.
        values: where encoded values come from.
        defaults: the state of a session that is not stored yet; copied, never changed.
        viewed: gives the document that the state is compared with.
    """

    def __init__(
        self,
        types: Types,
        values: StoredValues,
        defaults: Mapping[Any, Any],
        viewed: Callable[[], StoredDocument],
    ) -> None:
        self.state = SessionState(self._decode, self._prefetch)
        self._types = types
        self._values = values
        self._defaults = defaults
        self._viewed = viewed
        self._loaded: dict[str, _Loaded] = {}

    def name_or_none(self, key: Any) -> str | None:
        """The name of a key; None if it cannot be stored."""
        try:
            return codec.name_of(key, self._types)
        except UnstorableValue:
            return None

    def encoded_defaults(self) -> dict[str, bytes]:
        """The defaults that can be stored; what cannot is reported when the run ends, as for any other value."""
        defaults = {}
        for key, value in self._defaults.items():
            with contextlib.suppress(UnstorableValue):
                defaults[codec.name_of(key, self._types)] = codec.encode(value, self._types)
        return defaults

    # -- what was assigned --------------------------------------------------------------------------------------

    def remember(self) -> None:
        """Note that what stands in the state now is what was stored last."""
        self._loaded = {
            name: _Loaded(value) for key, value in self.state.touched() if (name := self.name_or_none(key)) is not None
        }

    def seed_of(self, name: str, key: Any) -> bytes | None:
        """What a new top-level value was before it was changed: a default, or an empty container; else None."""
        value = dict.get(self.state, key)
        loaded = self._loaded.get(name)
        is_container_value = type(value) is list or type(value) is dict
        if loaded is not None and loaded.seed is not None and (loaded.value is value or not is_container_value):
            return loaded.seed
        if is_container_value and self.state.began_empty.get(key) is value:
            return b"[]" if type(value) is list else b"{}"
        return None

    def with_atoms(self, operations: list[Operation]) -> list[Operation]:
        """The operations, marked where they change a container that was assigned whole."""
        marked = []
        atoms: dict[tuple[str, ...], int] = {}
        for operation in operations:
            place = operation.path[:_MEMBER_DEPTH]
            is_new = operation.op == "add" and len(operation.path) == 1 and is_container(operation.value or b"")
            if len(operation.path) == 1 and not is_new:
                marked.append(operation)
                continue
            atom = atoms.get(place)
            if atom is None:
                atom = atoms[place] = self._atom(operation)
            if atom and atom <= len(operation.path):
                operation = Operation(operation.op, operation.path, operation.value, atom)  # noqa: PLW2901
            marked.append(operation)
        return marked

    def _atom(self, operation: Operation) -> int:
        name = operation.path[0]
        key = codec.key_of(name, self._types)
        value = dict.get(self.state, key)
        if len(operation.path) == 1:
            return 0 if self.seed_of(name, key) is not None else 1
        loaded = self._loaded.get(name)
        if loaded is None or loaded.value is not value:
            return 1
        if len(operation.path) == _MEMBER_DEPTH:
            return 0
        member = self._member(value, operation.path[1])
        is_assigned = (type(member) is list or type(member) is dict) and not loaded.has_member(member)
        return _MEMBER_DEPTH if is_assigned else 0

    def _member(self, value: Any, segment: str) -> Any:
        # The values may have been changed by another thread since they were compared; then nothing is certain.
        with contextlib.suppress(IndexError, ValueError, HoldfastError):
            if type(value) is list:
                return value[int(segment)]
            if type(value) is dict:
                return value.get(codec.key_of(segment, self._types))
        return None

    # -- changing -----------------------------------------------------------------------------------------------

    def assign(self, values: Mapping[str, bytes], gone: Iterable[str], moved: Iterable[str]) -> None:
        """Change the live state, in place as far as possible, as the user's own code would.

        Args:
            values: encoded values by name.
            gone: names to be removed.
            moved: names that are put at the end, in this order.
        """
        new = {codec.key_of(name, self._types): codec.decode(data, self._types) for name, data in values.items()}
        last = [codec.key_of(name, self._types) for name in moved if name in values]
        state = self.state
        for name in gone:
            state.pop(codec.key_of(name, self._types), None)
        for key, value in new.items():
            held = patch.graft(state[key], value) if key in state else value
            if key in last:
                state.pop(key, None)
            state[key] = held
        for key in last:
            state[key] = state.pop(key)

    # -- moving -------------------------------------------------------------------------------------------------

    def move_to(
        self,
        document: StoredDocument,
        edits: Members,
        place: Callable[[], None],
        *,
        before: StoredDocument | None,
        keep_unstorable: bool = True,
    ) -> None:
        """Make the live state equal to a document, keeping every container that can be kept.

        Args:
            document: what the state is to be.
            edits: how the document differs from what the state is now, as far as that is known.
            place: called when all was read that must be read, to note where the state stands then.
            before: what the state was compared with until now.
            keep_unstorable: leave a value that cannot be stored where it is, if nobody else has changed its key.
        """
        live = dict(self.state.touched())
        names: dict[Any, str] = {name: name for name in document.names()} if live else {}
        if document.has_odd_names:
            names = {codec.key_of(name, self._types): name for name in document.names()}
            if len(names) < len(document.names()):
                raise MalformedData(where="session_state", what="two keys of it are equal")
        slots: dict[Any, Any] = dict.fromkeys(names or document.names(), UNDECODED)
        if not document.version and not document.names():
            self._place_defaults(live, place)
            return
        # All that must be read is read before anything is touched.
        targets = {key: self._values.encoded(document, names[key]) for key in live if key in names}
        encoded = {key: self._encoded_or_none(value) for key, value in live.items()}
        kept = (
            self._unstorable_to_keep(live, encoded, targets, before) if keep_unstorable and before is not None else {}
        )
        outdated = [key for key, target in targets.items() if key not in kept and encoded[key] != target]
        for key in outdated:
            encoded[key] = self._updated(live, key, targets[key], edits.entries.get(names[key]))
        if outdated and len(live) > 1:
            # What was meant for one place can have reached another, because one object stood at both: stored values
            # are separate, so a change that nobody made there would be saved.
            encoded = {key: self._encoded_or_none(value) for key, value in live.items()}
        for key, target in targets.items():
            if key in kept or encoded[key] == target:
                slots[key] = live[key]
        for key, value in kept.items():
            slots.setdefault(key, value)
        self._loaded = {}
        self._place(slots, place)
        if live or self.state.is_viewed:  # else there are only marks
            self.remember()

    def _place_defaults(self, live: Mapping[Any, Any], place: Callable[[], None]) -> None:
        new = copy.deepcopy(dict(self._defaults))
        slots = {key: patch.graft(live[key], value) if key in live else value for key, value in new.items()}
        self._place(slots, place)
        self.remember()
        for name, data in self.encoded_defaults().items() if slots else ():
            self._loaded[name].seed = data

    def _place(self, slots: Mapping[Any, Any], place: Callable[[], None]) -> None:
        dict.clear(self.state)
        dict.update(self.state, slots)
        self.state.began_empty.clear()
        place()
        if self.state.is_viewed:
            # A view that was taken earlier shows raw slots; what cannot be decoded raises when it is asked for.
            with contextlib.suppress(HoldfastError):
                self.state.touch_all()

    def _unstorable_to_keep(
        self,
        live: Mapping[Any, Any],
        encoded: Mapping[Any, bytes | None],
        targets: Mapping[Any, bytes],
        before: StoredDocument,
    ) -> dict[Any, Any]:
        kept = {}
        for key, value in live.items():
            if encoded[key] is None:
                name = self.name_or_none(key)
                old = self._values.encoded_if_kept(before, name) if name is not None and name in before else None
                if targets.get(key) == old:
                    kept[key] = value
        return kept

    def _updated(self, live: dict[Any, Any], key: Any, target: bytes, edit: Edit | None) -> bytes | None:
        """Try to bring one live value to its target in place; what it is after that, encoded."""
        if isinstance(edit, Members | Elements):
            # They were made for what is stored, and the value may have been changed since then.
            with contextlib.suppress(HoldfastError, LookupError, TypeError, AttributeError):
                apply_live(edit, live[key], self._decoded, self._key_in)
            if self._encoded_or_none(live[key]) == target:
                return target
        with contextlib.suppress(HoldfastError):
            live[key] = patch.graft(live[key], codec.decode(target, self._types))
        return self._encoded_or_none(live[key])

    def _decoded(self, data: bytes) -> Any:
        return codec.decode(data, self._types)

    def _key_in(self, holder: dict[Any, Any], name: str) -> Any:
        return patch.live_key(holder, name, self._types)

    def _encoded_or_none(self, value: Any) -> bytes | None:
        """None for a value that cannot be stored: it was reported when it could not be saved."""
        try:
            return codec.encode(value, self._types)
        except UnstorableValue:
            return None

    def _decode(self, key: Any) -> Any:
        name = codec.name_of(key, self._types)
        document = self._viewed()
        original = document.original(name)
        if original is None:
            data = self._values.encoded(document, name)
            value = codec.decode(data, self._types, codec.path_of(key))
            if not document.has_been_decoded(name):
                original = original_of(value, data)
                document.keep_original(name, original)
        if original is not None:
            try:
                value = original.copy()
            except NotPlain:  # it has come to hold more than is looked at
                document.keep_original(name, None)
                value = codec.decode(self._values.encoded(document, name), self._types, codec.path_of(key))
        self._loaded[name] = _Loaded(value)
        return value

    def _prefetch(self, keys: list[Any]) -> None:
        names = [name for name in map(self.name_or_none, keys) if name is not None]
        self._values.prefetch(self._viewed(), names)
