"""What a live state has that is not stored, found by comparing the two.

Rules that must stay true:
- every value that was handed out is looked at as a whole, by its original or by its text; nothing else is trusted, so
  no change can escape;
- an unstorable value keeps the last stored value of its own top-level key and holds up no other key;
- nothing is changed: neither the live state nor what it is compared with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, TypeAlias

from holdfast import codec, patch
from holdfast.declared import Types
from holdfast.encoding import MAX_BYTES
from holdfast.errors import UnstorableValue
from holdfast.live import Live
from holdfast.operations import Operation
from holdfast.originals import Original
from holdfast.plain import NotPlain
from holdfast.standing import Pending, Problems
from holdfast.stored import StoredDocument
from holdfast.values import StoredValues

MAX_STATE_SIZE = MAX_BYTES
"""Bytes that all values of a session may have together, encoded."""

Inside: TypeAlias = tuple[list[Operation], Original]
"""What was changed inside of a value, and what that makes of it."""


def pending_in(live: Live, document: StoredDocument, values: StoredValues, types: Types) -> Pending:
    """What a live state has that a document has not.

    Args:
        live: the state.
        document: what it was when it was loaded, or stored last.
        values: where encoded values come from.
        types: the types that the workflow declares.
    """
    return _Comparison(live, document, values, types).found(by_originals=True)


def operations_between(before: StoredDocument, after: StoredDocument, values: StoredValues) -> list[Operation]:
    """What makes a document a later one."""
    if after is before:
        return []
    texts: dict[str, bytes] = {}
    inside: dict[str, Inside] = {}
    for name in after.names_changed_since(before):
        old, new = before.original(name), after.original(name)
        if old is not None and new is not None:
            with contextlib.suppress(NotPlain, UnstorableValue):
                inside[name] = old.changes_to(new, (name,)), new
                continue
        data = values.encoded(after, name)
        if name not in before or values.encoded(before, name) != data:
            texts[name] = data
    return _difference(before, after.names(), texts, inside, values)


class _Comparison:
    """One look at a live state."""

    def __init__(self, live: Live, document: StoredDocument, values: StoredValues, types: Types) -> None:
        self._live = live
        self._document = document
        self._values = values
        self._types = types

    def found(self, *, by_originals: bool) -> Pending:
        """What is pending.

        Args:
            by_originals: whether values that have one are compared with their original, and not their text.
        """
        document = self._document
        keys, touched = self._live.state.snapshot()
        texts: dict[str, bytes] = {}
        inside: dict[str, Inside] = {}
        problems: list[tuple[str, str]] = []
        refused: set[str | None] = set()
        seen: set[str] = set()
        for key, value in touched:
            path = codec.path_of(key)
            try:
                name = codec.name_of(key, self._types, path)
                original = document.original(name) if by_originals and name not in seen else None
                changes = None if original is None else _changes(original, value, name, path)
                data = codec.stable_encode(value, self._types, path) if changes is None else b""
            except UnstorableValue as error:
                problems += error.problems
                refused.add(self._live.name_or_none(key))
                continue
            if name in seen:
                problems.append((path, "two keys that are stored alike, as two NaNs are: keep one of them"))
                refused.add(name)
            elif changes is not None:
                if changes[0]:
                    inside[name] = changes
            elif name not in document or self._values.encoded_if_kept(document, name) != data:
                texts[name] = data
            seen.add(name)
        names = document.names()
        if refused or keys != names:
            named = [self._live.name_or_none(key) for key in keys]
            known = [name for name in named if name is not None and (name not in refused or name in document)]
            names = list(dict.fromkeys(known))
            texts = {name: data for name, data in texts.items() if name not in refused}
            inside = {name: changes for name, changes in inside.items() if name not in refused}
        elif not texts and not inside and not problems:
            return Pending([], {}, ())
        if inside and self._size_after(texts, inside.values()) > MAX_STATE_SIZE:
            # What is known of sizes without the texts is an estimate.
            return self.found(by_originals=False)
        self._refuse_too_large(names, texts, problems)
        return self._pending(names, texts, inside, tuple(problems))

    def _size_after(self, texts: dict[str, bytes], inside: Iterable[Inside] = ()) -> int:
        """Bytes of the state at most."""
        added = sum(len(operation.value or b"") + 1 for operations, _ in inside for operation in operations)
        return self._document.size + sum(map(len, texts.values())) + added

    def _refuse_too_large(self, names: list[str], texts: dict[str, bytes], problems: list[tuple[str, str]]) -> None:
        if self._size_after(texts) <= MAX_STATE_SIZE:
            return
        document = self._document
        # Near the limit every size is looked at, also those that are estimates, replaced or removed.
        size = sum(len(texts[name]) if name in texts else self._values.size_of(document, name) for name in names)
        for name in sorted(texts, key=lambda changed: -len(texts[changed])):
            if size <= MAX_STATE_SIZE:
                return
            problems.append(
                (
                    codec.path_of(codec.key_of(name, self._types)),
                    (
                        f"with its {len(texts[name]):,} bytes the state would have {size:,}, more than the limit of "
                        f"{MAX_STATE_SIZE:,}; keep large material elsewhere and its name here"
                    ),
                )
            )
            size -= len(texts.pop(name))
            if name in document:
                size += self._values.size_of(document, name)
            else:
                names.remove(name)

    def _pending(
        self,
        names: list[str],
        texts: dict[str, bytes],
        inside: dict[str, Inside],
        problems: Problems,
    ) -> Pending:
        document = self._document
        operations = self._live.with_atoms(_difference(document, names, texts, inside, self._values))
        seeds = {}
        for operation in operations:
            if operation.op == "add" and len(operation.path) == 1 and operation.path[0] not in document:
                name = operation.path[0]
                seed = self._live.seed_of(name, codec.key_of(name, self._types))
                if seed is not None:
                    seeds[name] = seed
        originals = {name: original for name, (_, original) in inside.items() if name not in texts}
        return Pending(operations, texts, problems, seeds, originals)


def _difference(
    document: StoredDocument,
    names: list[str],
    texts: dict[str, bytes],
    inside: dict[str, Inside],
    values: StoredValues,
) -> list[Operation]:
    """The operations that make a document another one.

    Args:
        document: the one.
        names: those of the other, in order.
        texts: its values that are new, or others; those that have to be added anew are put there.
        inside: what was changed inside of values.
        values: where encoded values come from.
    """
    old_names = document.names()
    removed, added = patch.displaced(old_names, names) if names != old_names else ([], [])
    fresh = set(added)
    operations = [Operation("remove", (name,), None) for name in removed]
    old = {name: values.encoded_if_kept(document, name) for name in texts if name not in fresh}
    readable = {name: data for name, data in old.items() if data is not None}
    operations += patch.diff(readable, {name: texts[name] for name in readable})
    operations += [Operation("replace", (name,), texts[name]) for name in old if name not in readable]
    for name in inside:
        if name not in fresh:
            operations += inside[name][0]
    for name in added:
        if name in inside:
            texts[name] = inside[name][1].text()
        elif name not in texts:
            texts[name] = values.encoded(document, name)
        operations.append(Operation("add", (name,), texts[name]))
    return operations


def _changes(original: Original, value: Any, name: str, path: str) -> Inside | None:
    """What was changed inside of a value; None where that is left to the comparison of texts."""
    with contextlib.suppress(NotPlain, UnstorableValue):  # the texts tell everything that cannot be stored
        return codec.stable(lambda: original.changes(value, (name,)), itemgetter(0), path)
    return None
