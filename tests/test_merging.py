"""What two or three runs changed, brought together: against the edits themselves, which are random programs."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import codec
from holdfast.difference import diff
from holdfast.edits import Document, Members, applied, apply_live, edits_of, extend, operations_of
from holdfast.merging import Overlap, last_write, merge
from holdfast.operations import Operation, decode_patch, encode_patch
from holdfast.patch import apply

State = dict[Any, Any]


class Overlapping(Exception):
    """Raised by the tests' settling, as the library's own raises."""


def refuse(overlap: Overlap) -> bytes | None:
    raise Overlapping(overlap)


def encoded(state: State) -> dict[str, bytes]:
    return {codec.name_of(key): codec.encode(value) for key, value in state.items()}


def decoded(document: dict[str, bytes]) -> State:
    return {codec.key_of(name): codec.decode(data) for name, data in document.items()}


def edits(before: State, after: State) -> Members:
    return edits_of(diff(encoded(before), encoded(after)), Document(encoded(before).__getitem__))


def after(state: State, changes: Members) -> State:
    """A state after edits, made by their operations and checked against the edits themselves."""
    document = encoded(state)
    operations = operations_of(changes)
    assert decode_patch(encode_patch(operations)) == operations
    apply(document, operations)
    for name, edit in changes.entries.items():
        assert applied(edit, encoded(state).get(name)) == document.get(name)
    return decoded(document)


def live(state: State, changes: Members) -> State:
    """A state after edits that were made in place, checked against the edits of encoded values."""
    now = copy.deepcopy(state)
    apply_live(changes, now, codec.decode, lambda holder, name: codec.key_of(name))
    for name, edit in changes.entries.items():
        document = decoded({name: data} if (data := applied(edit, encoded(state).get(name))) is not None else {})
        assert normal(document) == normal({key: now[key] for key in document})
    return now


def merged(base: State, ours: State, theirs: State, settle: Any = refuse) -> State:
    """The state that comes out when `theirs` is committed first."""
    on_theirs, _ = merge(edits(base, ours), edits(base, theirs), Document(encoded(base).__getitem__), settle)
    return after(theirs, on_theirs)


# Random programs. Every value that is put in is a token that occurs once, so that a loss or a double shows.


def program(state: State, seed: int, side: str, steps: int) -> State:
    """A state after a random edit program."""
    chance = random.Random(f"{seed}{side}")
    state = copy.deepcopy(state)
    tokens = (f"{side}{number}" for number in itertools.count())
    for _ in range(steps):
        change(chance, state, next(tokens))
    return state


def change(chance: random.Random, state: State, token: str) -> None:
    holder: Any = state
    while True:
        inner = [
            item
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if item and type(item) in (list, dict)
        ]
        if not inner or chance.random() < 0.35:
            break
        holder = chance.choice(inner)
    if isinstance(holder, dict):
        change_dict(chance, holder, token)
    else:
        change_list(chance, holder, token)


def change_dict(chance: random.Random, holder: dict[Any, Any], token: str) -> None:
    kind = chance.random()
    if kind < 0.4 or not holder:
        holder[token] = chance.choice([f"{token}v", [f"{token}v"], {f"{token}k": f"{token}v"}])
    elif kind < 0.5:
        del holder[chance.choice(list(holder))]
    elif kind < 0.7:
        holder[chance.choice(list(holder))] = token
    else:
        holder.setdefault("made", []).append(token) if isinstance(holder.get("made", []), list) else None


def change_list(chance: random.Random, holder: list[Any], token: str) -> None:
    kind = chance.random()
    if kind < 0.4 or not holder:
        holder.append(token)
    elif kind < 0.65:
        holder.insert(chance.randrange(len(holder)), token)
    elif kind < 0.8:
        del holder[chance.randrange(len(holder))]
    else:
        holder[chance.randrange(len(holder))] = {"by": token}


BASE: State = {
    "posts": [{"id": f"p{n}", "tags": [f"t{n}", f"u{n}"]} for n in range(6)],
    "log": [f"l{n}" for n in range(8)],
    "by": {"ann": {"n": "n1", "seen": ["s1", "s2"]}, "bob": {"n": "n2"}},
    "plain": "x",
}


NAMES = {"posts", "log", "by", "plain", "id", "tags", "ann", "bob", "n", "seen", "made"}
"""Keys that stand in several places, so that they say nothing about one of them."""


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in [*({key} - NAMES), *leaves(item)]]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def tokens_of(value: Any) -> set[Any]:
    return set(leaves(value))


def normal(value: Any) -> Any:
    """A value without the order of keys."""
    if isinstance(value, dict):
        return {key: normal(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [normal(item) for item in value]
    return value


def unordered(value: Any) -> Any:
    """A value without the order of keys, and of what was inserted at one place of a list by two sides."""
    if isinstance(value, dict):
        return {key: unordered(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return sorted((unordered(item) for item in value), key=repr)
    return value


def in_order(part: list[Any], whole: list[Any]) -> bool:
    """Whether the texts of one list that another has as well stand there in the same order."""
    shared = [item for item in part if isinstance(item, str) and item in whole]
    return [item for item in whole if item in shared] == shared


def check_pair(base: State, ours: State, theirs: State) -> bool:
    """Whether they merged; if so, everything that must hold of a merge does."""
    mine, other = edits(base, ours), edits(base, theirs)
    document = Document(encoded(base).__getitem__)
    try:
        on_theirs, on_ours = merge(mine, other, document, refuse)
    except Overlapping:
        with pytest.raises(Overlapping):
            merge(other, mine, document, refuse)
        return False
    result = after(theirs, on_theirs)
    assert normal(live(ours, on_ours)) == normal(result), "both ways give one document"
    opposite, _ = merge(edits(base, theirs), edits(base, ours), document, refuse)
    assert unordered(after(ours, opposite)) == unordered(result), "whoever commits first"
    before, mine_now, other_now = tokens_of(base), tokens_of(ours), tokens_of(theirs)
    added = (mine_now | other_now) - before
    removed = (before - mine_now) | (before - other_now)
    assert tokens_of(result) == (before | added) - removed
    assert sorted(leaf for leaf in leaves(result) if leaf in added) == sorted(added)
    for side in (ours, theirs):
        for name in ("log",):
            if isinstance(side.get(name), list) and isinstance(result.get(name), list):
                assert in_order(side[name], result[name])
    for name in base:
        if name not in mine.entries and name not in other.entries:
            assert encoded(result)[name] == encoded(base)[name]
    return True


def test_random_pairs_merge_with_everything_once_or_are_refused_whole() -> None:
    outcomes = [
        check_pair(BASE, program(BASE, seed, "a", 1 + seed % 4), program(BASE, seed, "b", 1 + seed % 3))
        for seed in range(1500)
    ]
    assert 400 < sum(outcomes) < 1400, "both outcomes are common"


def check_triple(seed: int) -> bool:
    """Three runs from one base, and one of them commits twice: a third is merged over two, as in a long run."""
    first, second, third = (program(BASE, seed, side, 2) for side in "abc")
    base = Document(encoded(BASE).__getitem__)
    try:
        over_first, _ = merge(edits(BASE, second), edits(BASE, first), base, refuse)
        both = after(first, over_first)
        others = edits(BASE, first)
        extend(others, operations_of(over_first), base)
        over_both, theirs = merge(edits(BASE, third), others, base, refuse)
    except Overlapping:
        return False
    result = after(both, over_both)
    expected = set().union(*(tokens_of(side) for side in (first, second, third))) - {
        token for side in (first, second, third) for token in tokens_of(BASE) - tokens_of(side)
    }
    assert tokens_of(result) == expected
    # The third goes on without having seen the others, and commits again.
    again = program(third, seed, "d", 2)
    view = Document(encoded(third).__getitem__)
    try:
        over, _ = merge(edits(third, again), theirs, view, refuse)
    except Overlapping:
        return True
    final = after(result, over)
    gone = tokens_of(third) - tokens_of(again)
    assert tokens_of(final) == (expected | (tokens_of(again) - tokens_of(third))) - gone
    return True


def test_random_triples_merge_and_go_on() -> None:
    assert sum(check_triple(seed) for seed in range(800)) > 200


def test_a_planted_fault_that_drops_what_is_inserted_at_one_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast import merging

    right = merging._Laid.__init__

    def forgetful(laid: Any, *arguments: Any) -> None:
        right(laid, *arguments)
        laid.inserted = {after: news[:1] for after, news in laid.inserted.items()}

    monkeypatch.setattr(merging._Laid, "__init__", forgetful)
    with pytest.raises(AssertionError):
        test_random_pairs_merge_with_everything_once_or_are_refused_whole()


@settings(max_examples=150)
@given(st.lists(st.integers(0, 3), max_size=6), st.data())
def test_lists_with_equal_elements_merge_to_what_both_asked_for(base: list[int], data: st.DataObject) -> None:
    """Equal elements are told apart by their place only, so counts are what can be checked."""

    def edited(label: str) -> list[int]:
        items = list(base)
        for _ in range(data.draw(st.integers(0, 3), label)):
            at = data.draw(st.integers(0, len(items)), label)
            if at < len(items) and data.draw(st.booleans(), label):
                del items[at]
            else:
                items.insert(at, data.draw(st.integers(0, 9), label))
        return items

    ours, theirs = edited("ours"), edited("theirs")
    try:
        result = merged({"n": base}, {"n": ours}, {"n": theirs})["n"]
    except Overlapping:
        return
    assert len(result) == len(ours) + len(theirs) - len(base)
    for number in range(10):
        assert result.count(number) == ours.count(number) + theirs.count(number) - base.count(number)


# Particular cases.


def test_appends_to_one_list_stand_in_the_order_of_the_commits() -> None:
    assert merged({"n": [1]}, {"n": [1, 2, 3]}, {"n": [1, 4]}) == {"n": [1, 4, 2, 3]}


def test_insertions_and_removals_in_different_parts_are_all_kept() -> None:
    base = {"n": list("abcdef")}
    assert merged(base, {"n": list("axcdef")[:2] + list("bcdef")}, {"n": list("abcdf")}) == {"n": list("axbcdf")}


def test_keys_added_by_both_stand_in_the_order_of_the_commits() -> None:
    assert list(merged({"z": 1}, {"z": 1, "b": 2}, {"z": 1, "c": 3})) == ["z", "c", "b"]


@pytest.mark.parametrize(
    ("base", "ours", "theirs"),
    [
        ({"n": 1}, {"n": 2}, {"n": 2}),
        ({"n": 1}, {"n": 2}, {}),
        ({"n": [1]}, {"n": [2]}, {"n": [3]}),
        ({"n": [1, 2]}, {"n": [2]}, {"n": [2]}),
        ({"n": (1, 2)}, {"n": (1, 3)}, {"n": (2, 2)}),
        ({"n": {1}}, {"n": {1, 2}}, {"n": {1, 3}}),
        ({"a": {"n": 1}}, {"a": {"n": 2}}, {"a": {"n": 3}}),
        ({"a": {"n": 1}}, {"a": {"n": 2}}, {}),
        ({}, {"n": 1}, {"n": 1}),
        ({}, {1: "a"}, {True: "b"}),
    ],
)
def test_what_overlaps_is_never_settled_in_silence(base: State, ours: State, theirs: State) -> None:
    with pytest.raises(Overlapping) as caught:
        merged(base, ours, theirs)
    overlap = caught.value.args[0]
    assert (overlap.ours, overlap.theirs) != (None, overlap.base)
    settled = merged(base, ours, theirs, last_write)
    for key in ours:
        assert codec.encode(settled[key]) == codec.encode(ours[key])


def test_an_overlap_says_where_it_is_and_what_all_have_there() -> None:
    base = {"posts": [{"title": "a"}, {"title": "b"}]}
    with pytest.raises(Overlapping) as caught:
        merged(
            base,
            {"posts": [{"title": "a"}, {"title": "mine"}]},
            {"posts": [{"title": "a"}, {"title": "yours"}]},
        )
    assert caught.value.args[0] == Overlap(("posts", 1, "title"), b'"b"', b'"mine"', b'"yours"')


def test_two_that_remove_one_key_agree() -> None:
    assert merged({"a": 1, "b": 2}, {"b": 2}, {"b": 2}) == {"b": 2}


def whole(before: State, now: State, atom: int) -> Members:
    """Edits whose first `atom` segments lead to something that was assigned whole."""
    operations = [
        Operation(operation.op, operation.path, operation.value, atom)
        for operation in diff(encoded(before), encoded(now))
    ]
    return edits_of(decode_patch(encode_patch(operations)), Document(encoded(before).__getitem__))


def test_nothing_is_mixed_into_a_value_that_was_assigned_whole() -> None:
    base = {"config": {"a": 1, "b": 2}}
    document = Document(encoded(base).__getitem__)
    assigned = whole(base, {"config": {"a": 1, "b": 3}}, 1)
    edited = edits(base, {"config": {"a": 1, "b": 2, "c": 3}})
    for ours, theirs in ((assigned, edited), (edited, assigned)):
        with pytest.raises(Overlapping):
            merge(ours, theirs, document, refuse)
    assert whole(base, {"config": {"a": 1, "b": 3}}, 1) == edits_of(operations_of(assigned), document)


def test_containers_that_both_made_empty_are_one() -> None:
    base, ours, theirs = {}, {"posts": ["a"]}, {"posts": ["b", "c"]}
    mine, other = edits(base, ours), edits(base, theirs)
    on_theirs, on_ours = merge(mine, other, Document({}.__getitem__), refuse)
    assert after(theirs, on_theirs) == {"posts": ["b", "c", "a"]} == live(ours, on_ours)


def test_of_two_that_start_from_one_default_each_change_is_kept() -> None:
    base, default = {}, {"lang": "en", "tags": ["x"]}
    ours, theirs = {"config": {**default, "size": 1}}, {"config": {"lang": "de", "tags": ["x"]}}
    mine, other = edits(base, ours), edits(base, theirs)
    mine.entries["config"].seed = codec.encode(default)  # type: ignore[union-attr]
    on_theirs, on_ours = merge(mine, other, Document({}.__getitem__), refuse)
    expected = {"config": {"lang": "de", "tags": ["x"], "size": 1}}
    assert after(theirs, on_theirs) == expected == live(ours, on_ours)
