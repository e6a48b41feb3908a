"""Originals: what was changed in a value, found without encoding all of it."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import codec, originals, patch
from holdfast.errors import UnstorableValue
from holdfast.originals import Original, original_of
from holdfast.plain import NotPlain, Values, are_same


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few members make several parts."""
    monkeypatch.setattr(originals, "LEAST_SIZE", 0)
    monkeypatch.setattr(originals, "LEAST_EACH", 0)
    monkeypatch.setattr(originals, "TOGETHER", 3)
    monkeypatch.setattr(originals, "LATEST", 2)
    monkeypatch.setattr(originals, "BIG", 4)


def copied(value: Any) -> Any:
    return Values([value]).copies()[0]


def original(value: Any) -> Original:
    data = codec.encode(value)
    found = original_of(codec.decode(data), data)
    assert found is not None
    return found


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.0, -0.0, 1.0, float("nan"), 1.5]),
    st.sampled_from(["", "a", "1", "true", "é"]),
    st.sampled_from([b"", b"a"]),
    st.sampled_from([datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, fold=1)]),
    st.sampled_from([Decimal(1), Decimal("1.0"), timedelta(1)]),
)
names = st.sampled_from(list("abcdefgh"))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.dictionaries(names, inner, max_size=8),
        st.lists(st.dictionaries(names, leaves, max_size=3), max_size=8),
        st.lists(
            st.one_of(
                st.fixed_dictionaries({"a": leaves, "b": inner, "c": inner}),
                st.fixed_dictionaries({"b": inner, "a": leaves}),
            ),
            max_size=8,
        ),
        st.tuples(inner, inner),
    ),
    max_leaves=40,
)
roots = values.filter(lambda value: type(value) in (list, dict))


def containers(value: Any) -> Iterator[Any]:
    if type(value) in (list, dict):
        yield value
        for member in value.values() if type(value) is dict else value:
            yield from containers(member)


def changed(value: Any, data: st.DataObject) -> Any:
    """The value after a few changes made in it."""
    value = copied(value)
    for _ in range(data.draw(st.integers(0, 4))):
        holder = data.draw(st.sampled_from(list(containers(value))))
        new = data.draw(values)
        if type(holder) is list:
            place = data.draw(st.integers(0, len(holder)))
            how = data.draw(st.sampled_from(["insert", "append", "set", "remove", "reverse"]))
            if how == "insert":
                holder.insert(place, new)
            elif how == "append":
                holder.append(new)
            elif how == "reverse":
                holder.reverse()
            elif place < len(holder):
                holder[place : place + 1] = [new] if how == "set" else []
        else:
            name = data.draw(names)
            how = data.draw(st.sampled_from(["set", "remove", "again"]))
            removed = holder.pop(name, None) if how != "set" else None
            if how != "remove":
                holder[name] = new if how == "set" else removed
    return value


def require_right(old: Any, new: Any) -> None:
    """Require that the operations lead from one to the other, and the new original to the other again."""
    before, after = codec.encode(old), codec.encode(new)
    operations, following = original(old).changes(new, ("v",))
    texts = {"v": before}
    if operations:
        patch.apply(texts, operations)
    assert texts["v"] == after
    assert (operations == []) == (before == after) == original(old).is_same(new)
    assert codec.encode(following.copy()) == after
    assert following.is_same(new)
    assert following.changes(new, ("v",))[0] == []
    assert following.changes(old, ("v",))[0] == original(new).changes(old, ("v",))[0]


@given(roots, st.data())
def test_the_operations_lead_to_the_new_value(old: Any, data: st.DataObject) -> None:
    require_right(old, changed(old, data))


@given(roots, roots)
def test_any_two_values_can_be_compared(old: Any, new: Any) -> None:
    if type(old) is type(new):
        require_right(old, new)
    else:
        with pytest.raises(NotPlain):
            original(old).changes(new, ("v",))


@given(st.lists(values, min_size=1, max_size=12), st.lists(values, min_size=1, max_size=12), st.data())
def test_values_laid_out_together_are_told_from_others(old: list[Any], other: list[Any], data: st.DataObject) -> None:
    laid_out = Values(old)
    new = changed(old, data)
    for others in (copied(old), new, other[: len(old)]):
        if len(others) == len(old):
            differ = [place for place, item in enumerate(old) if codec.encode(item) != codec.encode(others[place])]
            assert laid_out.are(others) == (not differ)
            suspects = laid_out.suspects(others)
            assert suspects is None or (set(differ) <= set(suspects) and suspects == sorted(set(suspects)))
    assert codec.encode(laid_out.copies()) == codec.encode(old)


@pytest.mark.parametrize("sorts", [1, 2, 40])
def test_dicts_with_the_same_names_are_laid_out_by_them(sorts: int) -> None:
    posts = [{"n": n, f"tags{n % sorts}": [n], "by": {"name": f"n{n}", "likes": [n]}} for n in range(80)]
    laid_out = Values(posts)
    assert laid_out.are(copied(posts))
    copies = laid_out.copies()
    assert copies == posts
    for place, post in enumerate(copies):
        post["by"]["likes"].append(place)
        assert not laid_out.are(copies)
        del post["by"]["likes"][-1]
    posts[0]["by"]["likes"].append("of the posts only")
    assert copies[0]["by"]["likes"] == [0]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"n": n, "text": f"text {n}", "tags": [n, n + 1]} for n in range(count)]


def swap(posts: list[Any]) -> None:
    posts[2], posts[7] = posts[7], posts[2]


CHANGES: list[Callable[[list[Any]], Any]] = [
    lambda posts: posts.append({"n": 100}),
    lambda posts: posts.extend(numbered(7)),
    lambda posts: posts.insert(0, {"n": 100}),
    lambda posts: posts.insert(6, {"n": 100}),
    lambda posts: posts.pop(),
    lambda posts: posts.pop(4),
    lambda posts: posts.clear(),
    lambda posts: posts[3].update(n=-1),
    lambda posts: posts[3]["tags"].append(9),
    lambda posts: [post.update(n=-1) for post in posts],
    lambda posts: (posts[0].update(n=-1), posts.append({"n": 7}), posts.append({"n": 8})),
    lambda posts: (posts[9].pop("text"), posts[0].update(text="new")),
    lambda posts: posts.sort(key=lambda post: -post["n"]),
    lambda posts: posts.insert(2, posts.pop(7)),
    lambda posts: posts.append(posts.pop(0)),
    swap,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("text", ["", "long " * 2_000])
def test_the_operations_are_those_that_the_texts_give(change: Callable[[list[Any]], Any], text: str) -> None:
    for wrap in (lambda posts: posts, lambda posts: {"meta": 1, "posts": posts}, lambda posts: [[posts], 1]):
        posts = numbered(20)
        posts[0]["text"] = text
        old: Any = copied(wrap(posts))
        change(posts)
        new: Any = wrap(posts)
        expected = patch.diff({"v": codec.encode(old)}, {"v": codec.encode(new)})
        assert original(old).changes(new, ("v",))[0] == expected
        require_right(old, new)


class Colour(Enum):
    RED = "a"


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


class Unequal:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("user code was run")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "other", [Colour.RED, Number.ONE, Text("a"), Unequal(), OrderedDict(a=1), {1: 1}, {"$hf": 1}, {Text("a"): 1}, {1}]
)
def test_what_is_not_plain_is_left_to_the_texts(other: Any) -> None:
    for old in ([1, "a", {"a": 1}], {"a": 1, "b": ["a"], "c": {"a": 1}}):
        for new in changed_to(old, other):
            with pytest.raises(NotPlain):
                original(old).changes(new, ("v",))
            assert not original(old).is_same(new)
    with pytest.raises(NotPlain):
        Values([other])


def changed_to(value: Any, other: Any) -> Iterator[Any]:
    for place in list(value) if type(value) is dict else range(len(value)):
        new = copied(value)
        new[place] = other
        yield new


def test_equal_leaves_of_another_type_or_with_other_bits_differ() -> None:
    zone = timezone(timedelta(hours=1))
    pairs: list[tuple[Any, Any]] = [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (Decimal(1), Decimal("1.0")),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=zone)),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1, "b": 1}, {"b": 1, "a": 1}),
        ([[1], [2, 3]], [[1, 2], [3]]),
        ([{"a": 1}, {"b": 2, "c": 3}], [{"a": 1, "b": 2}, {"c": 3}]),
    ]
    for one, other in pairs:
        for old, new in ((one, other), (other, one)):
            assert not are_same(old, new)
            assert original([old]).changes([new], ("v",))[0] != []
            assert are_same(old, copy.deepcopy(old))


def test_what_cannot_be_stored_raises_or_is_left_to_the_texts() -> None:
    with pytest.raises(UnstorableValue):
        original(["a"]).changes([10**2_000], ("v",))
    deep: list[Any] = []
    for _ in range(98):
        deep = [deep]
    with pytest.raises(NotPlain):
        original([1]).changes([deep], ("v",))
    around: list[Any] = []
    around.append(around)
    with pytest.raises(NotPlain):
        original([1]).changes([around], ("v",))
    many: list[Any] = ["x"]
    for _ in range(60):
        many = [many, many]
    with pytest.raises(NotPlain):
        original([1]).changes([many], ("v",))


def test_small_values_and_many_numbers_have_no_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for value in ([1] * 100, list(range(1_000_000)), "a" * 10_000, ("a" * 10_000,), [{1: "a" * 10_000}]):
        data = codec.encode(value)
        assert original_of(codec.decode(data), data) is None
    assert original(["a" * 10_000])


def test_an_original_stays_as_it_is_whatever_is_made_of_it() -> None:
    posts = numbered(30)
    data = codec.encode(posts)
    first = original(posts)
    chosen = random.Random(4)
    for _ in range(200):
        live = first.copy()
        chosen.choice(CHANGES)(live)
        _, following = first.changes(live, ("v",))
        following.copy().clear()
        live.clear()
        assert codec.encode(first.copy()) == data


@settings(max_examples=30)
@given(roots)
def test_copies_share_nothing_that_can_change(value: Any) -> None:
    one, other = original(value).copy(), copied(value)
    assert codec.encode(one) == codec.encode(other) == codec.encode(value)
    assert {id(item) for item in containers(one)}.isdisjoint(map(id, containers(other)))
