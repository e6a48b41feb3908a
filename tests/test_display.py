"""What the command line shows of encoded values, without the classes they were made of."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue import CATALOGUE, TYPES, Colour, Hostile, Loose, Permission, Point, Version, hostile_id
from holdfast import codec
from holdfast.display import display_name
from holdfast.errors import MalformedData


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([1, "a", None, {"b": [True]}], [1, "a", None, {"b": [True]}]),
        (10**30, str(10**30)),
        (float("nan"), "nan"),
        ("a\ud800", "a\\ud800"),
        (b"hi", "b'hi'"),
        (b"x" * 1000, "<1,000 bytes>"),
        ((), "()"),
        ((1,), "(1,)"),
        ((1, "a", [None], {"k": 2.5}), "(1, 'a', [None], {'k': 2.5})"),
        (set(), "set()"),
        ({"b", "a"}, "{'a', 'b'}"),
        (frozenset(), "frozenset()"),
        (frozenset({1}), "frozenset({1})"),
        (dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC), "2026-01-31T12:00:00+00:00"),
        (dt.datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), "2026-01-31T12:00:00 Europe/Berlin"),
        (dt.time(1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")), "01:00:00+01:00 CET"),
        (dt.date(2026, 1, 31), "2026-01-31"),
        (dt.timedelta(1, 2), "1 day, 0:00:02"),
        (Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "Colour.RED"),
        (Permission(3), "Permission(3)"),
        (Version(1, ("x",)), "Version(major=1, tags=('x',))"),
        (Point(1, {1: (2,)}), "Point(x=1, y={1: (2,)})"),
        (Loose(name="n", more=1), "Loose(name='n', more=1)"),
        ({1: "a", (1, "b"): {"x": (1,)}}, {"1": "a", "(1, 'b')": {"x": "(1,)"}}),
        ((float("inf"), b"x" * 100), "(inf, <100 bytes>)"),
    ],
)
def test_tags_become_readable_text(value: Any, shown: Any) -> None:
    assert codec.display(codec.encode(value, TYPES)) == shown


@pytest.mark.parametrize("entry", [entry for entry in CATALOGUE if entry.verdict == "R"], ids=hostile_id)
def test_every_hostile_value_can_be_shown(entry: Hostile) -> None:
    shown = codec.display(codec.encode(entry.make(), TYPES))
    json.dumps(shown, allow_nan=False).encode()


TAGS = st.recursive(
    st.none() | st.integers() | st.text("aé\"'", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$hf:1", "$hf:{", "$hfx", "$hf"]), inner, max_size=2)
        | st.builds(
            lambda kind, parts: {"$hf": [kind, *parts]},
            st.sampled_from(["set", "model", "datetime", "bytes", "int", "str", "tuple", "enum", "zone", "timedelta"]),
            st.lists(inner, max_size=3),
        )
    ),
    max_leaves=6,
)


@given(TAGS)
def test_nothing_that_is_json_fails_to_be_shown(tree: Any) -> None:
    json.dumps(codec.display(json.dumps(tree).encode()))


def test_a_tag_of_another_form_is_shown_as_it_is() -> None:
    data = b'{"a":{"$hf":["nonsense",1]},"b":{"$hf":5},"c":{"$hf":["set",1]}}'
    assert codec.display(data) == {"a": '{"$hf":["nonsense",1]}', "b": '{"$hf":5}', "c": '{"$hf":["set",1]}'}
    assert display_name("$hf:{") == "'$hf:{'"


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(MalformedData):
        codec.display(b"{")
